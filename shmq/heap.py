"""What malloc of this process holds, and giving back what it holds for nothing. glibc only; elsewhere all is 0."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "top")


class _MallInfo2(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in _FIELDS)


def _find_mallinfo() -> Callable[[], _MallInfo2]:
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2  # glibc from 2.33
    except (AttributeError, OSError):
        return _MallInfo2
    mallinfo2.argtypes, mallinfo2.restype = (), _MallInfo2
    return mallinfo2


_mallinfo = _find_mallinfo()
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def malloc_use() -> int:
    """Bytes that malloc has handed out."""
    info = _mallinfo()
    return int(info.uordblks + info.hblkhd)


def malloc_slack() -> int:
    """Bytes that were freed and are kept by malloc."""
    return int(_mallinfo().fordblks)


class Trim:
    """Gives freed memory back when a worker has become idle: one look per idle spell, nothing while it works."""

    ABOVE_BYTES = 16 << 20
    """Less is not worth the page faults of taking it again."""

    def __init__(self) -> None:
        self._looked_at = 0
        self._trim = _malloc_trim

    def when_idle(self, jobs: int) -> bool:
        """Called after a sleep without a ring; `jobs`: ended so far. True when memory was given back."""
        if jobs == self._looked_at or self._trim is None:
            return False
        self._looked_at = jobs
        return malloc_slack() > self.ABOVE_BYTES and bool(self._trim(0))
