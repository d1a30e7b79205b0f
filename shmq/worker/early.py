"""Ringing the producer of a quick job before the job is claimed: it takes longer to wake up than the job takes.

    look ─▶ ring, early ─▶ claim ─▶ run ─▶ ack ─▶ fence ─▶ ring, unless its wait is still the one that was rung
                  └────────── the producer wakes up ──────────▶ looks, for up to QUICK_NS

Not where the producer sleeps on this very core: nobody wakes there before this worker sleeps. Elsewhere, too, it may
be too early; that depends on the machine, and it shows: who was rung too early has begun another wait by the time of
the second ring. Then the next jobs are not tried, twice as many each time.
"""

from __future__ import annotations

from shmq.cores import UNKNOWN, new_core_reader
from shmq.transport.bells import Bells

_LEAST_PAUSE, _LONGEST_PAUSE = 8, 1024  # jobs


class EarlyRings:
    """Of one worker that runs one job at a time. Concurrency: its main thread."""

    def __init__(self, bells: Bells, recovery_row: int) -> None:
        self._bells = bells
        self._recovery_row = recovery_row
        self._core = new_core_reader()
        self._rung = 0  # the wait that was rung before the present job, 0: none
        self._pause = self._left = 0  # jobs not to be tried: when that came last, of those still to come

    def before(self, row: int) -> None:
        """A single job from a lane of that row is about to be claimed."""
        self._rung = 0
        if self._left:
            self._left -= 1
        elif row != self._recovery_row:  # whose job a lane of recovery holds is not known yet
            core = self._core()
            if core == UNKNOWN or core != self._bells.core_of_waiting(row):
                self._rung = self._bells.ring_waiting(row)

    def after(self, row: int) -> None:
        """It has ended, and its producer was rung if it waited."""
        rung, self._rung = self._rung, 0
        if not rung:
            return
        if self._bells.rung_waits.get(row) == rung:
            self._pause >>= 1
        else:
            self._left = self._pause = min(max(2 * self._pause, _LEAST_PAUSE), _LONGEST_PAUSE)
