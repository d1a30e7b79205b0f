"""Fenced blocks and tables of a Markdown file, for tests that hold documents against the code."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.(?:py|toml))$")
_LINK = re.compile(r"\]\(([^)#:\s]+)\)")
_FUNCTION = re.compile(r"([\w/]+\.py):(\w+)")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the line of the document where the text begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The file that the block is to be written to: named by its first line, if that is a comment."""
        match = _FILE.match(self.text.partition("\n")[0])
        return match[1] if match else ""


def blocks(text: str) -> list[Block]:
    """All fenced blocks in order."""
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in _FENCE.finditer(text)]


def between(text: str, begin: str, end: str) -> str:
    """The part between two marks, with the lines before it blanked so that line numbers stay."""
    first, last = text.index(begin), text.index(end)
    return "\n" * text.count("\n", 0, first) + text[first:last]


def section(text: str, title: str) -> str:
    """The text below a heading, up to the next one of any level."""
    match = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"there is no section {title!r}"
    return match[1]


def table(text: str) -> list[list[str]]:
    """Cells of the first table in the text, its head left out; `code` marks of whole cells are dropped."""
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines))
    return [[_bare(cell.strip()) for cell in row.strip("|").split("|")] for row in rows[2:]]


def _bare(cell: str) -> str:
    return cell[1:-1] if re.fullmatch(r"`[^`]*`", cell) else cell


def links(text: str) -> list[str]:
    """Targets of links into the repository."""
    return _LINK.findall(text)


def functions(text: str) -> list[tuple[str, str]]:
    """(module, function) of every mention of the form `folder/module.py:function`."""
    return _FUNCTION.findall(text)


def source(module: str) -> str:
    """Source of a module named relative to the package."""
    return (ROOT / "shmq" / module).read_text()
