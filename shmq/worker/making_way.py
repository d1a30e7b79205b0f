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
from contextlib import suppress

from shmq.clock import now_ns
from shmq.cores import UNKNOWN, core
from shmq.transport.bells import Bells

_EVERY_NS = 5_000_000
"""To move takes about fifty microseconds: a hundredth of the time, where each core has a producer."""
_EVERY_CORE = range(1024)


class MakingWay:
    """Of one worker that runs one job at a time. Concurrency: one thread."""

    def __init__(self, bells: Bells) -> None:
        self._bells = bells
        self._next_ns = 0

    def leave_core_of(self, row: int) -> None:
        """The producer of that row goes on (`transport.going_on`): move, if it would do so here."""
        own = core()
        if own != UNKNOWN and own == self._bells.core_of(row) and now_ns() >= self._next_ns:
            _leave(own)
            self._next_ns = now_ns() + _EVERY_NS


def _leave(own: int) -> None:
    """Move the calling thread to another of its cores, if there is one and it may."""
    allowed = os.sched_getaffinity(0)
    others = allowed - {own - 1}
    with suppress(OSError):  # no other core, no such right, or the cores were just taken away: as the kernel has it
        os.sched_setaffinity(0, others)
        if os.sched_getaffinity(0) != others:  # somebody has pinned this worker meanwhile
            return
        # Since Linux 6.2 the kernel remembers what was asked for: cores that the cpuset gains later are to be allowed.
        os.sched_setaffinity(0, _EVERY_CORE)
        if os.sched_getaffinity(0) != allowed:  # it had been pinned before
            os.sched_setaffinity(0, allowed)
