"""What a document names must be there: files, options, paths of the REST door, configuration keys, metrics, codes."""

import json
import re
import shlex
from functools import cache

from documents import documents, read, tracked

# Names of other programs, which our tree need not have.
OTHERS = set(
    """
    pg_stat_wal_receiver pg_stat_activity pg_replication_slots safe_wal_size wal_status slot_name replay_lag pg_rewind
    archive_command pg_isready max_connections default_lua_flags NOT_SERVING
    transparent_hugepage publishNotReadyAddresses
    """.split()
)
FILES = r"[\w@*./{},<>$-]*\.(?:sh|conf|toml|yml|yaml|md|rs|ini|py|mjs|js|proto|ps1|csv|sql|target|service|go)"
FOLDERS = r"(?:scripts|deploy|tests|crates|proto)/[\w@*./{},<>$-]*"
# Made while it runs, or the reader's own.
NOT_OURS = re.compile(r"[$<>]|^/|^secrets/|^dist/|^\.\./")
IDENTIFIER = r"\b(?:[A-Za-z]\w*_\w+|[a-z]+[A-Z]\w{2,})\b"
# Where the options of a program are read, for programs that hand them on.
OPTIONS_OF = {
    "scripts/smoke_tests.sh": "tests/checks/arguments.rs",
    "scripts/observability_checks.sh": "tests/checks/arguments.rs",
    "scripts/run_all_checks.sh": "tests/checks/arguments.rs",
    "scripts/mint-token": "crates/mainstay-devstack/src/main.rs",
    "mainstay-devstack": "crates/mainstay-devstack/src/main.rs",
    **dict.fromkeys(
        ["cache-service", "ws-gateway", "replica-service", "monitor-service", "edge-gateway", "<service>"],
        "crates/mainstay-runtime/src/args.rs",
    ),
}


def unknown(item):
    """Tells what the code names that is nowhere: (kind, name)."""
    if item.language not in ("rust", "no_run", "toml"):
        yield from (("no such file", name) for name in files(item) if not is_file(name))
        yield from (("no such option", name) for name in unknown_options(item))
    if item.language is None:
        yield from (("no such path", item.text) for name in paths(item.text) if not is_path(*name))
        yield from (("no such key", item.text) for _ in [0] if not is_key(item.text))
    if item.language in (None, "sh", "sql", "text"):
        # What a shell takes from a variable is the reader's; the run of the block tells whether it is there.
        text = re.sub(r"\$\w+", "", item.text) if item.language == "sh" else item.text
        yield from (("nowhere else", name) for name in re.findall(IDENTIFIER, text) if not is_word(name))


def broken_links(document):
    text = re.sub(r"(?ms)^ *```.*?^ *```", "", read(document))
    folder = document.rpartition("/")[0]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            path = _joined(folder, path) if path else document
            if path not in _all_files() or anchor and anchor not in _anchors(path):
                yield target


# --- files and options


def files(item):
    for match in re.finditer(rf"(?<![\w/.:$}}@-])(?:{FOLDERS}|{FILES})(?![\w/])", item.text):
        name = match[0].rstrip(".,")
        if not NOT_OURS.search(name) and match.end() < len(item.text) + 1:
            yield name


def is_file(name):
    """Whether a file or folder has this path or ends in it; `*` and `{a,b}` are understood."""
    for one in _spread(name.rstrip("/")):
        pattern = re.compile(r"(?:^|/)" + re.escape(one).replace(r"\*", "[^/]*") + r"(?:/|$)")
        if not any(pattern.search(path) for path in _all_files()):
            return False
    return True


def unknown_options(item):
    for line in re.sub(r"\\\n", " ", item.text).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        if words and re.match("--[a-z]", words[0]) and not is_option(words[0]):
            yield words[0]
        programs = [word for word in words if word in OPTIONS_OF or re.match(r"scripts/[\w.-]+$", word)]
        if not programs or not is_file(OPTIONS_OF.get(programs[0], programs[0])):
            continue
        source = read(OPTIONS_OF.get(programs[0], programs[0]))
        for option in words[words.index(programs[0]) + 1:]:
            if re.match("--[a-z]", option) and not is_option(option, source):
                yield f"{programs[0]} {option}"


def is_option(option, source=None):
    """Whether a source, or any of ours, takes it: as a word of a script, or a field of clap's."""
    option = option.partition("=")[0]
    if option.lstrip("-") in OTHERS:
        return True
    field = re.compile(rf"{re.escape(option)}\b|\b{option.lstrip('-').replace('-', '_')}:")
    sources = [source] if source else [_sources(), *map(read, tracked("scripts/*"))]
    return any(map(field.search, sources))


@cache
def _all_files():
    return frozenset(tracked())


def _spread(name):
    choice = re.search(r"\{([^{}]*)\}", name)
    if not choice:
        return [name]
    return [one for word in choice[1].split(",") for one in _spread(name[:choice.start()] + word + name[choice.end():])]


def _joined(folder, path):
    parts = folder.split("/") if folder else []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _anchors(path):
    titles = re.findall(r"(?m)^#+ (.*)$", read(path))
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


# --- REST


def paths(text):
    """The paths of a span as (method or None, path, parameters): `GET /health/components[/{service}]?verbose`."""
    match = re.fullmatch(r"(?:(GET|POST|PUT|DELETE) )?(/[\w/{}*.-]*(?:\[[^]]*\])?)(?:\?([\w.=&]*))?(?: \{.*)?", text)
    if match and not re.match(r"/(?:etc|var|run|usr|root|tmp|lib)\b", match[2]):
        asked = {part.partition("=")[0] for part in (match[3] or "").split("&")} - {""}
        without = re.sub(r"\[.*\]", "", match[2])
        whole = match[2].replace("[", "").replace("]", "")
        for path in {without, whole.partition("?")[0]}:
            yield match[1], path.rstrip("/"), frozenset(asked)


def is_path(method, path, asked):
    """Whether the edge, or a service itself, has it. Without a method it may be the end of a path that was named before it."""
    # `{name}` in a document stands for one segment, in the contract too; `*` for whatever is below.
    wanted = "/".join(r"[^/]+" if part.startswith("{") else re.escape(part) for part in path.split("/"))
    wanted = wanted.replace(r"\*", ".*")
    for template, operations in openapi()["paths"].items():
        for candidate in (template, re.sub(r"\{[^}]*\}", "_", template)):
            found = re.fullmatch(wanted, candidate) if method else re.search(f"{wanted}$", candidate)
            if found and (not method or method.lower() in operations) and asked <= _parameters(operations, method):
                return True
    if method:
        one = re.sub(r"\{[^}]*\}", "[^/]+", path)
        for template, operations in openapi()["paths"].items():
            if method.lower() in operations and re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), one):
                return asked <= _parameters(operations, method)
    return f'"{path}' in _sources()


def _parameters(operations, method):
    chosen = [operations[method.lower()]] if method else operations.values()
    return {parameter["name"] for operation in chosen for parameter in operation.get("parameters", [])}


@cache
def openapi():
    (snapshot,) = tracked("crates/edge-gateway/src/snapshots/*openapi.snap")
    return json.loads(read(snapshot).split("\n---\n", 1)[1])


# --- configuration, metrics, codes


def is_key(text):
    """Whether `section.key` is in the reference, if it begins with a section of it and is not the name of something else."""
    match = re.fullmatch(r"([a-z_0-9]+)((?:\.(?:[a-z_0-9]+|<\w+>))+)(?: = .*)?", text)
    if not match or match[1] not in _sections() or match[2] == ".rs":
        return True
    name = match[1] + match[2]
    fields = all(f'"{part}": {{' in _contract() for part in name.split("."))
    return re.sub(r"<\w+>", "*", name) in _keys() or fields or f'"{name}"' in _sources() or is_file(name.replace(".", "/") + ".rs")


@cache
def _keys():
    """Every section and key of the services; a name that its reader chooses is also there as `*`."""
    keys = set()
    for path in tracked("deploy/config/*-*.toml", "deploy/config/*/*.toml"):
        section = ""
        for line in read(path).splitlines():
            if header := re.match(r"(?:# )?\[([\w.<>\"/-]+)\]", line):
                section = header[1]
                keys.add(section)
            elif key := re.match(r"(?:# )?([a-z_0-9]+) = ", line):
                keys.add(f"{section}.{key[1]}".lstrip("."))
    # The two sections have the same keys; the file says so, and names one of them.
    keys |= {key.replace("redis.tls.", "redis.sentinel_tls.") for key in keys}
    parts = [key.split(".")[:length] for key in keys for length in range(1, key.count(".") + 2)]
    chosen = [[*key[:at], "*", *key[at + 1:]] for key in parts for at in range(1, len(key))]
    return frozenset(map(".".join, parts + chosen))


@cache
def _sections():
    return frozenset(key.partition(".")[0] for key in _keys())


def is_word(name):
    """Whether the tree has the name outside of its documents. On the wire a metric is longer by its registry and its kind."""
    if name == "MAINSTAY__SECTION__KEY":
        return True
    if name.startswith("MAINSTAY__"):
        key = name.lower().removesuffix("_file").split("__")[1:]
        return not key[-1] or ".".join(key) in _keys()
    if name.isupper() and re.search(rf"\b\w*_{name}\b", _contracts()):
        return True
    if name.endswith("_"):
        registries = (f"{prefix}_" for prefix in _registries())
        return any(one.startswith(name) or name.startswith(one) for one in registries) or any(
            word.startswith(name) for word in _words()
        )
    names = {name} | {re.sub("_(?:total|bucket|sum|count|seconds)$", "", name)}
    names |= {re.sub("_seconds$", "", one) for one in names}
    names |= {one.removeprefix(f"{prefix}_") for prefix in _registries() for one in names}
    return name in OTHERS or not names.isdisjoint(_words())


@cache
def _registries():
    """What the names of metrics begin with, and the second halves of it, by which documents call them."""
    prefixes = set(re.findall(r'sub_registry_with_prefix\("(\w+)"', _sources()))
    prefixes |= {f"{one}_{other}" for one in prefixes for other in prefixes if not other.startswith("mainstay")}
    return frozenset(prefixes | {re.sub("^mainstay_[a-z]+_", "", prefix) for prefix in prefixes})


@cache
def _words():
    ignored = set(documents()) | {path for path in tracked() if path.startswith("tests/docs/")}
    words = set()
    for path in tracked():
        if path not in ignored and not path.endswith((".lock", ".sum")):
            words.update(re.findall(r"\w+", read(path)))
    return frozenset(words)


@cache
def _contracts():
    return "\n".join(read(path) for path in tracked("*.proto"))


@cache
def _contract():
    return json.dumps(openapi())


@cache
def _sources():
    return "\n".join(read(path) for path in tracked("crates/*.rs"))
