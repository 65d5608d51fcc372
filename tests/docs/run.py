"""Runs what the documents tell to run, as it stands: blocks that say `proof: run`, and single commands between backticks."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import places
from documents import Code, code, documents

# The longest block is all checks of a stack, which fire an alert and wait for its end.
WITHIN_S = 300
# What curl and redis-cli print, and call a success.
REFUSED = re.compile(r"urn:mainstay:problem|(?m:^(?:\(error\) )?(?:ERR|NOAUTH|WRONGPASS|NOPERM|AUTH failed)\b)")


def main(arguments):
    chosen = [argument for argument in arguments if argument.endswith(".md")] or documents()
    everything = [item for document in chosen for item in code(document)]
    failed = 0
    # A signal must not leave servers behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    for place in (places.Stack(debug="--debug" in arguments), places.Postgres(), places.Redis(), places.Kubernetes()):
        blocks = [item for item in everything if is_run_at(item, place.name)]
        spans = {item.text: item for item in everything if item.language is None and place.command(item.text)}
        if not blocks and not spans:
            continue
        print(f"\n== {place.name}", flush=True)
        with place:
            for block in blocks:
                failed += not told(block, *run(block, place))
            for line in place.screen:
                failed += not told(Code("its screen", 0, line), *shell(place, line))
            for span in spans.values():
                failed += not told(span, *shell(place, place.command(span.text)))
    print(f"\n{failed or 'no'} command{'' if failed == 1 else 's'} of the documents failed")
    sys.exit(1 if failed else 0)


def is_run_at(item, place):
    """`run`, then the place if it is not the stack."""
    words = (item.proof or "").split()
    return words[:1] == ["run"] and (words[1:2] == [place] or place == "stack" and words[1:2] in ([], ["with"], ["then"]))


def run(block, place):
    """Runs a block: `run [PLACE] [with PROGRAM...] [then COMMAND]`. What comes `then` asks for the effect."""
    proof, _, then = block.proof.partition(" then ")
    missing = [program for program in proof.partition(" with ")[2].split() if not shutil.which(program)]
    if missing:
        return None, 0, f"left out: {' '.join(missing)} is not here"
    text = f"psql -v ON_ERROR_STOP=1 <<'SQL'\n{block.text}\nSQL" if block.language == "sql" else block.text
    return shell(place, f"{text}\n{then}")


def shell(place, text):
    began = time.monotonic()
    command = ["timeout", str(WITHIN_S), "bash", "-euo", "pipefail", "-c", place.before + text]
    ended = subprocess.run(
        command, cwd=place.folder, env={**os.environ, **place.variables}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    return ended.returncode == 0 and not REFUSED.search(ended.stdout), time.monotonic() - began, ended.stdout


def told(item, good, seconds, output):
    verdict = {True: "ok", False: "FAIL", None: "-"}[good]
    first = item.text.partition("\n")[0][:80]
    print(f"{verdict:4} {seconds:5.1f} s  {item.place}  {first}", flush=True)
    if not good or os.environ.get("VERBOSE"):
        print(re.sub(r"(?m)^", "        ", output.rstrip()[-20000:]), flush=True)
    return good is not False


if __name__ == "__main__":
    main(sys.argv[1:])
