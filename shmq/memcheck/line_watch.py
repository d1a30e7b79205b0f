"""Which line of a job leaves something behind? Looks at a count after every line of the user's code, for one
job at a time.

    line event ──▶ what changed since the last event is the work of the line that was run in between
    bytes: freed ones are taken off lines that got as many; descriptors: each remembers the line that opened
    it

memray knows more and costs more; it does not see what ctypes allocates, nor descriptors. This sees both, and
needs nothing.
"""

from __future__ import annotations

import ctypes
import os
import site
import sys
import sysconfig
import time
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any, TypeAlias

from shmq.memcheck.sampling import open_descriptors

BLOCK_BYTES = 96  # mean size of a Python block with its share of the pool; a guess, good enough for an order
LONGEST_S = 0.5  # of watching one job: a long one goes on unwatched
_SMALL_BYTES = 512  # above it the Python allocator asks malloc
_GC_HEAD_BYTES = 16
_OWN_FOLDER = os.path.dirname(__file__) + os.sep
Place: TypeAlias = tuple[str, int, str]  # file, line, function


class _MallInfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def _find_malloc_use() -> Callable[[], int]:
    """Bytes that malloc has handed out; constant 0 where the C library does not tell (glibc before 2.33,
    musl).
    """
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return lambda: 0
    mallinfo2.argtypes, mallinfo2.restype = (), _MallInfo2

    def malloc_use() -> int:
        info = mallinfo2()
        return int(info.uordblks + info.hblkhd)

    return malloc_use


malloc_use = _find_malloc_use()


def heap_use() -> int:
    """Bytes in use: malloc's exactly, the blocks of the Python allocator by their number."""
    return malloc_use() + BLOCK_BYTES * sys.getallocatedblocks()


@cache
def library_folders() -> tuple[str, ...]:
    """Where the standard library and installed packages stand: what they allocate is the work of who called
    them.
    """
    paths = sysconfig.get_paths()
    folders = {paths["stdlib"], paths["platstdlib"], *site.getsitepackages(), site.getusersitepackages()}
    return tuple(sorted(os.path.realpath(folder) + os.sep for folder in folders))


def _frame_bytes(frame: FrameType) -> int:
    """How `heap_use` counts a frame object: a small one is a block, a larger one is malloc's."""
    size = sys.getsizeof(frame) + _GC_HEAD_BYTES
    return BLOCK_BYTES if size <= _SMALL_BYTES else (size + 8 + 15) // 16 * 16


class LineWatch:
    """Watch the frames of this thread that begin between `start` and `stop`; then `left` and `opened` say
    what remained.

    Uses `sys.settrace`, so it must not start where a debugger or coverage tool does.
    """

    def __init__(self, *, longest_s: float = LONGEST_S, libraries: tuple[str, ...] | None = None) -> None:
        self.left: dict[Place, int] = {}  # bytes
        self.opened: dict[int, Place] = {}  # descriptors still open
        self.gave_up = False
        self._libraries = library_folders() if libraries is None else libraries
        self._longest_s = longest_s
        self._got: dict[tuple[str, int], int] = {}  # bytes held by line, the latest to get some last
        self._functions: dict[tuple[str, int], str] = {}
        self._place: Place | None = None
        self._bytes = 0
        self._descriptors: set[int] = set()
        self._count = 0
        self._until_s = 0.0
        self._frame_bytes = 0  # frame objects that tracing makes: neither their coming nor their going is counted
        self._on_step = self._step  # one object; a bound method made at each event would be counted

    def start(self) -> None:
        """Begin to watch."""
        self._until_s = time.monotonic() + self._longest_s
        self._descriptors = _descriptors()
        self._count = len(self._descriptors)
        self._bytes = heap_use()
        sys.settrace(self._enter)

    def stop(self) -> None:
        """Ends the watch; what was open or held at the end is left behind."""
        sys.settrace(None)
        self._account()
        for (file, line), size in self._got.items():
            self.left[file, line, self._functions[file, line]] = size

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Callable[..., Any] | None:
        """A new frame: follow it if it is not a library's. Its caller's line stays responsible until its own
        first line.
        """
        file = frame.f_code.co_filename
        if file.startswith((*self._libraries, "<")):
            return None
        self._frame_bytes -= _frame_bytes(frame)
        self._account()
        if file.startswith(_OWN_FOLDER):  # the job is over: somebody is about to stop the watch
            self._place = None
            return None
        return self._on_step

    def _step(self, frame: FrameType, event: str, _arg: Any) -> Callable[..., Any] | None:
        self._account()
        if time.monotonic() > self._until_s:
            self.gave_up = True
            sys.settrace(None)
            return None
        if event == "return":
            self._frame_bytes += _frame_bytes(frame)
            caller = frame.f_back
            if caller is not None and caller.f_trace is not None:
                self._place = (caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name)
        else:
            self._place = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        self._bytes = heap_use()  # what watching itself allocates counts for nobody
        return self._on_step

    def _account(self) -> None:
        """Whatever changed since the last event is the work of the line that is left now."""
        grown = heap_use() - self._bytes + self._frame_bytes
        self._frame_bytes = 0
        place = self._place
        if place is not None:
            if grown > 0:
                key = place[:2]
                self._got[key] = self._got.pop(key, 0) + grown
                self._functions.setdefault(key, place[2])
            elif grown < 0:
                self._free(-grown)
            if open_descriptors() != self._count:
                self._compare_descriptors(place)
        self._bytes = heap_use()

    def _free(self, size: int) -> None:
        """Take freed bytes off the line that holds as many, else off that with the least more, else off the
        latest.
        """
        while size > 0 and self._got:
            fits = {key: held for key, held in self._got.items() if held >= size}
            key = min(fits, key=fits.__getitem__) if fits else next(reversed(self._got))
            left = self._got[key] - size
            if left > 0:
                self._got[key] = left
            else:
                del self._got[key]
            size = max(-left, 0)

    def _compare_descriptors(self, place: Place) -> None:
        now = _descriptors()
        self._count = len(now)
        for descriptor in self._descriptors - now:
            self.opened.pop(descriptor, None)
        for descriptor in now - self._descriptors:
            self.opened[descriptor] = place
        self._descriptors = now


def _descriptors() -> set[int]:
    """Numbers of the open descriptors, without that which listing them takes."""
    names = os.listdir("/proc/self/fd")
    return {int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")}
