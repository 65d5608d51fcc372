"""Reads the documents of the repository: blocks of code with how each is proven, and the code between backticks."""

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".devstack", ".schemathesis", "__pycache__", "backups", "node_modules", "secrets", "target"}


@dataclass(frozen=True)
class Code:
    """A block, or a span between backticks."""

    document: str
    line: int
    text: str
    # Of a block the word behind its fence, of a span None.
    language: str | None = None
    # What the comment before a block says: <!-- proof: ... -->. Readers do not see it.
    proof: str | None = None

    @property
    def place(self):
        return f"{self.document}:{self.line}"


def tracked(*patterns):
    """Files of the repository; what builds and runs leave in it is none of them."""
    return [path for path in _files() if not patterns or any(fnmatch(path, pattern) for pattern in patterns)]


@cache
def _files():
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        found += [Path(folder, name).relative_to(ROOT).as_posix() for name in names]
    return sorted(found)


def read(path):
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


def documents():
    return tracked("*.md")


def code(document):
    """All code of one document, blocks first."""
    blocks, prose = _blocks(document)
    return blocks + [
        Code(document, prose.count("\n", 0, span.start()) + 1, " ".join(span[1].split()))
        for span in re.finditer(r"`([^`]+)`", prose)
    ]


def _blocks(document):
    """The blocks, and the document with empty lines in their place."""
    blocks, prose, proof, block = [], [], None, None
    for number, line in enumerate(read(document).splitlines(), 1):
        fence = re.match(r" *```(.*)", line)
        comment = re.fullmatch(r" *<!-- proof: (.*) -->", line)
        if fence and block is None:
            block = (number, fence[1].strip(), line.index("`"), [])
        elif fence:
            start, language, _, lines = block
            blocks.append(Code(document, start, "\n".join(lines), language, proof))
            proof = block = None
        elif block is not None:
            block[3].append(line[block[2]:])
        elif comment:
            proof = comment[1]
        elif line.strip():
            proof = None
        prose.append(line if not fence and not comment and block is None else "")
    assert block is None, f"{document}:{block[0]}: the block does not end"
    return blocks, "\n".join(prose)
