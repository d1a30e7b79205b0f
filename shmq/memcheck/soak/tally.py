"""How producers tell the runner what they have done: one row of a file each, rewritten in one piece.

A producer that was killed leaves its last row; rows of those that have ended stay and are counted.
"""

from __future__ import annotations

import os
import struct
from dataclasses import astuple, dataclass
from pathlib import Path

_ROW = struct.Struct("<8Q")


@dataclass
class Counts:
    """Jobs by how they ended; the calls of a chunk are counted one by one."""

    ended: int = 0
    failed: int = 0  # of those that ended, with an exception of the task
    retried: int = 0  # that were to fail once
    timed_out: int = 0
    cancelled: int = 0
    large: int = 0  # through blocks
    wrong: int = 0  # another outcome than the one meant
    chunks: int = 0  # jobs that carried many calls

    def add(self, other: Counts) -> None:
        """Take in another row."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Tally:
    """One row of the file; for the producer."""

    def __init__(self, path: Path, row: int) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._at = row * _ROW.size
        self.counts = Counts()

    def write(self) -> None:
        """Make the counts visible."""
        os.pwrite(self._descriptor, _ROW.pack(*astuple(self.counts)), self._at)


def total(path: Path) -> Counts:
    """The sum of all rows."""
    found = Counts()
    data = path.read_bytes() if path.exists() else b""
    for row in _ROW.iter_unpack(data[: len(data) // _ROW.size * _ROW.size]):
        found.add(Counts(*row))
    return found
