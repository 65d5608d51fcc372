"""Checks every document without starting anything: each block says how it is proven, is well formed, and what it names is there."""

import re
import subprocess
import sys
import tomllib

from documents import Code, code, documents, read, tracked
from names import broken_links, unknown

# rustdoc compiles and runs them, in a README that is the documentation of its crate.
RUST = ("rust", "no_run")
# Drawings and listings: nothing to run.
DRAWN = ("text",)


def main():
    wrong, n_blocks, n_spans = [], 0, 0
    for document in documents():
        wrong += [f"{document}: no such link: {target}" for target in broken_links(document)]
        for item in code(document):
            n_blocks += item.language is not None
            n_spans += item.language is None
            wrong += [f"{item.place}: {kind}: {name}" for kind, name in unknown(item)]
            if item.language is not None:
                wrong += [f"{item.place}: {told}" for told in faults(item)]
    print("\n".join(dict.fromkeys(wrong)), end="\n" if wrong else "")
    print(f"{len(documents())} documents, {n_blocks} blocks, {n_spans} words of code: {len(set(wrong)) or 'nothing'} wrong")
    sys.exit(1 if wrong else 0)


def faults(block: Code):
    """Tells what is wrong with the form of a block, or with its proof."""
    if block.language in RUST:
        manual = re.sub(r"README\.md$", "src/lib.rs", block.document)
        if 'include_str!("../README.md")' not in read(manual):
            yield "rustdoc does not see this block"
    elif block.language == "toml":
        try:
            tomllib.loads(re.sub(r"<\w+>", "name", block.text))
        except tomllib.TOMLDecodeError as error:
            yield f"not TOML: {error}"
    elif block.language in DRAWN:
        return
    elif block.proof is None:
        yield "no proof: say <!-- proof: ... --> in the line before it (tests/docs/README.md)"
    else:
        yield from proof_faults(block)
        if block.language == "sh":
            yield from shell_faults(block)


def proof_faults(block):
    """`run ...`; or `not here: WHY`; or files that run it, each with a word that is in it: `FILE (WORD), FILE`."""
    if re.match(r"run\b|not here: \w", block.proof):
        return
    for proof in block.proof.split(", "):
        match = re.fullmatch(r"([\w./-]+)(?: \((.*)\))?", proof)
        if not match or match[1] not in tracked(match[1]):
            yield f"no such proof: {proof}"
        elif match[2] and match[2] not in read(match[1]):
            yield f"{match[1]} does not say {match[2]}"


def shell_faults(block):
    # SC2034, SC2154: variables that the reader sets, or uses. SC2016: dollars that are for SQL.
    command = ["shellcheck", "--shell=bash", "--format=gcc", "--exclude=SC2034,SC2154,SC2016,SC2148", "-"]
    checked = subprocess.run(command, input=block.text, capture_output=True, text=True)
    yield from (line.removeprefix("-:") for line in checked.stdout.splitlines())


if __name__ == "__main__":
    main()
