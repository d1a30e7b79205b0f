"""Shared words may be damaged: copied once, then checked, they show a wrong figure at worst."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmq import clock
from shmq.clock import NS
from shmq.memory.columns import column
from shmq.memory.segment import Segment
from shmq.transport.table import CANCELLED, FREE, GROUP_SHIFT, STATE

MOST = 1 << 62
"""Durations, times and counts beyond this are damage."""
_STATES = STATE + 1
_GROUPS = 64
DAMAGED = -1
"""Column of `count_jobs` for words in a state or group that does not exist."""


def checked(segment: Segment, name: str) -> NDArray[np.uint64]:
    """A private copy of the field in which absurd words are 0."""
    copy: NDArray[np.uint64] = column(segment, name).copy()
    copy[copy >= MOST] = 0
    return copy


def checked_pid(word: int) -> int:
    """The pid, or 0 when no process can have it."""
    return word if word < 2**31 else 0


def is_running(pid: int, ticks: int = 0) -> bool:
    """Does the process live (a zombie does not), and is it the one that started at `ticks` (0: any)?"""
    if not pid or clock.process_state(pid) in {"", "Z"}:
        return False
    return not ticks or clock.start_ticks(pid) == ticks


def is_stopped(pid: int) -> bool:
    """Is the process stopped by a signal or a debugger?"""
    return bool(pid) and clock.process_state(pid) in {"T", "t"}


def age_s(then_ns: int, now_ns: int) -> float | None:
    """Seconds since a moment; None when it never came."""
    return max(now_ns - then_ns, 0) / NS if then_ns else None


def left_s(then_ns: int, now_ns: int) -> float:
    """Seconds until a moment; 0 when it has passed or was never set."""
    return max(then_ns - now_ns, 0) / NS


def count_jobs(segment: Segment) -> NDArray[np.intp]:
    """Jobs by [group, state]; the last state (DAMAGED) counts words that no version of shmq writes."""
    words = column(segment, "words")
    states = (words & np.uint64(STATE)).astype(np.intp)
    groups = (words >> np.uint64(GROUP_SHIFT) & np.uint64(_GROUPS - 1)).astype(np.intp)
    states[(states > CANCELLED) | ((groups >= segment.shape.groups) & (states != FREE))] = _STATES - 1
    counts: NDArray[Any] = np.bincount(groups * _STATES + states, minlength=_GROUPS * _STATES)
    return counts.reshape(_GROUPS, _STATES)
