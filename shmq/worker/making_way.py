"""Leaving the core of a producer that goes on submitting.

    producer, core A ──ring──▶ worker wakes on A, since cores look busy ──▶ the producer waits for its core, mid-submit
                                       └─ this: to another core ──▶ the producer goes on

Where cores are busy on average the kernel looks for no idle one (SIS_UTIL, since Linux 6.0): it wakes a thread where it
slept last, and who wakes up there comes before who computes. A worker of tiny jobs then costs its producer two switches
for each, ten times as much as the submit, and does so for long: it is never awake long enough to be moved.

Not where the producer reads each result before it submits again: nothing is quicker than taking turns on one core.
The core is left, not forbidden: a moment later the kernel may place this worker as it likes.
"""

from __future__ import annotations

import os

from shmq.clock import now_ns
from shmq.cores import UNKNOWN, core
from shmq.transport.bells import Bells

_EVERY_NS = 5_000_000
"""To move takes some ten microseconds: a hundredth of the time at most, where each core has a producer."""


class MakingWay:
    """Of one worker that runs one job at a time. Concurrency: one thread."""

    def __init__(self, bells: Bells) -> None:
        self._bells = bells
        self._next_ns = 0

    def of(self, row: int) -> None:
        """The producer of that row goes on (`Claimer.goes_on`): move, if it would do so here."""
        own = core()
        if own == UNKNOWN or own != self._bells.core_of(row):
            return
        now = now_ns()
        if now >= self._next_ns:
            self._next_ns = now + _EVERY_NS if _leave(own) else 1 << 63


def _leave(own: int) -> bool:
    """Move the calling thread to another of its cores; False when that is forbidden, or there is none."""
    allowed = os.sched_getaffinity(0)
    others = allowed - {own - 1}
    if not others:
        return False
    try:
        os.sched_setaffinity(0, others)
        if os.sched_getaffinity(0) == others:  # else somebody has pinned this worker meanwhile
            os.sched_setaffinity(0, allowed)
    except OSError:  # no such right, or the cores were just taken away: as the kernel has it
        return False
    return True
