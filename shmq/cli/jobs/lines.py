"""Lines of a descriptor, without waiting for the next one while there is something else to do."""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from typing import NamedTuple

_READ_BYTES = 1 << 18


class Line(NamedTuple):
    """One line of the input without its end; numbers begin at 1."""

    number: int
    text: bytes


class Lines:
    """Reads lines as they come. Holds at most one read and one unfinished line in memory."""

    def __init__(self, fd: int, end: bytes = b"\n") -> None:
        self._fd = fd
        self._end = end
        self._ready: deque[bytes] = deque()
        self._unfinished: list[bytes] = []
        self._taken = 0
        self._read_bytes = 0
        self._is_at_eof = False
        status = os.fstat(fd)
        self._size = status.st_size - os.lseek(fd, 0, os.SEEK_CUR) if stat.S_ISREG(status.st_mode) else None

    @property
    def is_at_end(self) -> bool:
        """Has the last line been taken?"""
        return self._is_at_eof and not self._ready

    def take(self) -> Line | None:
        """The next line, or None if there is none at hand now (or ever)."""
        if not self._ready and not self._is_at_eof and self.wait(0):
            self._read()
        if not self._ready:
            return None
        self._taken += 1
        return Line(self._taken, self._ready.popleft())

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until `take` has something to look at; False when the time is over."""
        if self._ready or self._is_at_eof:
            return True
        return bool(select.select([self._fd], [], [], timeout_s)[0])

    def expected(self) -> int | None:
        """How many lines there will be in all, exact at the end of the input; None when nobody can tell."""
        known = self._taken + len(self._ready)
        if self._is_at_eof:
            return known
        if self._size is None or not self._read_bytes:
            return None
        return max(known, known * self._size // self._read_bytes)

    def _read(self) -> None:
        data = os.read(self._fd, _READ_BYTES)
        self._read_bytes += len(data)
        if not data:
            self._is_at_eof = True
            if last := b"".join(self._unfinished):
                self._ready.append(last)
            return
        if self._end not in data:
            self._unfinished.append(data)
            return
        first, *lines = data.split(self._end)
        self._ready.append(b"".join([*self._unfinished, first]))
        self._unfinished = [lines.pop()]
        self._ready.extend(lines)
