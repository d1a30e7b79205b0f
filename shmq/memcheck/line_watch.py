"""Which line of a job leaves something behind? Looks at a few counts after every line of one job of the user's.

    line event ──▶ what changed since the last event is the work of the line that was run in between
        bytes and other counts: what goes is taken off lines that got as many
        descriptors: each remembers the line that opened it

memray knows more and costs more; it sees neither what ctypes allocates nor descriptors. This sees both.
"""

from __future__ import annotations

import gc
import os
import site
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from functools import cache
from types import FrameType
from typing import Any, TypeAlias

from shmq.heap import malloc_use
from shmq.memcheck.sampling import open_descriptors

BLOCK_BYTES = 96  # mean size of a Python block with its share of the pool; a guess, good enough for an order
KEPT_SHARE = 0.2
LONGEST_S = 0.5  # of watching one job: a long one goes on unwatched
_SMALL_BYTES = 512  # above it the Python allocator asks malloc
_GC_HEAD_BYTES = 16
_OWN_FOLDER = os.path.dirname(__file__) + os.sep
_FRAMEWORK = os.path.dirname(os.path.dirname(__file__)) + os.sep  # its own coming and going hides what a task keeps
_BUILT_IN_TASKS = os.path.join(_OWN_FOLDER, "soak", "tasks.py")
Place: TypeAlias = tuple[str, int, str]  # file, line, function
Counter: TypeAlias = Callable[[], int]


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


class _Held:
    """How much of one unit each line holds.

    What the framework takes and gives (arguments, the result's way out) is only balanced: what is missing in the end
    was the task's, given back after its last line.
    """

    def __init__(self) -> None:
        self._by_line: dict[tuple[str, int], int] = {}
        self._functions: dict[tuple[str, int], str] = {}
        self._most: dict[tuple[str, int], int] = {}
        self._outside = 0

    def change(self, place: Place | None, by: int) -> None:
        if place is None:
            self._outside += by
        elif by > 0:
            line = place[:2]
            self._by_line[line] = held = self._by_line.get(line, 0) + by
            self._most[line] = max(held, self._most.get(line, 0))
            self._functions.setdefault(line, place[2])
        elif by < 0:
            self._give_back(-by)

    def by_place(self) -> dict[Place, int]:
        """What is left; nothing may change any more. A line that gave nearly all back is no suspect, but a rounding."""
        self._give_back(-self._outside)
        kept = {line: size for line, size in self._by_line.items() if size >= KEPT_SHARE * self._most[line]}
        return {(*line, self._functions[line]): size for line, size in kept.items()}

    def _give_back(self, size: int) -> None:
        """Take it off the line that holds as much, else off that with the least more, else off the greatest."""
        while size > 0 and self._by_line:
            fits = {line: held for line, held in self._by_line.items() if held >= size}
            line = min(fits, key=fits.__getitem__) if fits else max(self._by_line, key=self._by_line.__getitem__)
            left = self._by_line[line] - size
            if left > 0:
                self._by_line[line] = left
            else:
                del self._by_line[line]
            size = max(-left, 0)


class LineWatch:
    """Watch the frames of this thread that begin between `start` and `stop`; then `left` says what remained, by unit
    ("bytes", "descriptors", those of the counters) and line.

    Uses `sys.settrace`, so it must not start where a debugger or coverage tool does.
    """

    def __init__(self, counters: Mapping[str, Counter] | None = None, *, longest_s: float = LONGEST_S) -> None:
        """Nothing is watched before `start`.

        Args:
            counters: more to look at, by unit, e.g. {"blocks": blocks_held}; each is called after every line.
            longest_s: after so long, the job goes on unwatched.
        """
        self.left: dict[str, dict[Place, int]] = {}  # by unit
        self.gave_up = False
        self._counters = dict(counters or {})
        self._libraries = library_folders()
        self._longest_s = longest_s
        self._held = {unit: _Held() for unit in ("bytes", *self._counters)}
        self._opened: dict[int, Place] = {}
        self._place: Place | None = None
        self._bytes = 0
        self._counts: dict[str, int] = {}
        self._descriptors: set[int] = set()
        self._count = 0
        self._until_s = 0.0
        self._frame_bytes = 0  # of frame objects that tracing made since the last look: no line's work
        self._on_step = self._step  # one object; a bound method made at each event would be counted

    def start(self) -> None:
        """Begin to watch."""
        self._until_s = time.monotonic() + self._longest_s
        self._descriptors = _descriptors()
        self._count = len(self._descriptors)
        self._counts = {unit: count() for unit, count in self._counters.items()}
        self._bytes = heap_use()
        sys.settrace(self._enter)

    def stop(self) -> None:
        """Ends the watch; what was open or held at the end is left behind."""
        sys.settrace(None)
        self._account()
        gc.collect(0)  # what only waits for the collector is not left behind
        self._account()
        self.left = {unit: held.by_place() for unit, held in self._held.items()}
        for place in self._opened.values():
            opened = self.left.setdefault("descriptors", {})
            opened[place] = opened.get(place, 0) + 1

    def _enter(self, frame: FrameType, _event: str, _arg: Any) -> Callable[..., Any] | None:
        """A new frame: follow it if it is not a library's. Its caller's line stays responsible until its own
        first line.
        """
        file = frame.f_code.co_filename
        if file.startswith((*self._libraries, "<")):
            return None
        is_followed = not file.startswith(_FRAMEWORK) or file == _BUILT_IN_TASKS
        if is_followed:
            self._frame_bytes -= _frame_bytes(frame)
        self._account()
        if not is_followed:  # before or after the task, or about to stop
            if file.startswith(_OWN_FOLDER):
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
            caller = frame.f_back
            while caller is not None and caller.f_trace is None:  # a library called back: its caller's line goes on
                caller = caller.f_back
            self._place = None
            if caller is not None:
                self._place = (caller.f_code.co_filename, caller.f_lineno, caller.f_code.co_name)
        else:
            self._place = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        self._bytes = heap_use()  # what watching itself allocates counts for nobody
        return self._on_step

    def _account(self) -> None:
        """Whatever changed since the last event is the work of the line that is left now."""
        self._share_out(heap_use() - self._bytes + self._frame_bytes)
        # here, where no number of ours is alive that would be missed at the next event
        self._bytes = heap_use()

    def _share_out(self, grown: int) -> None:
        self._frame_bytes = 0
        place = self._place
        self._held["bytes"].change(place, grown)
        for unit, count in self._counters.items():
            now = count()
            self._held[unit].change(place, now - self._counts[unit])
            self._counts[unit] = now
        if place is not None and open_descriptors() != self._count:
            self._compare_descriptors(place)

    def _compare_descriptors(self, place: Place) -> None:
        now = _descriptors()
        self._count = len(now)
        for descriptor in self._descriptors - now:
            self._opened.pop(descriptor, None)
        for descriptor in now - self._descriptors:
            self._opened[descriptor] = place
        self._descriptors = now


def _descriptors() -> set[int]:
    """Numbers of the open descriptors, without that which listing them takes."""
    names = os.listdir("/proc/self/fd")
    return {int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")}
