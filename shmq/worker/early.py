"""Ringing the producer of a quick job before the job is claimed: it takes longer to wake up than the job takes.

    look ─▶ ring, early ─▶ claim ─▶ run ─▶ ack ─▶ fence ─▶ ring, unless its wait is still the one that was rung
                  └────────── the producer wakes up ──────────▶ looks, for up to QUICK_NS

Not where the producer sleeps on this very core: as a rule it does not wake there before this worker sleeps. Elsewhere,
too, it may be too early; that depends on the machine, and it shows: who was rung too early has begun another wait by
the time of the second ring.
"""

from __future__ import annotations

from shmq.cores import UNKNOWN, core
from shmq.transport.bells import Bells
from shmq.transport.tries import Tries


class EarlyRings:
    """Of one worker that runs one job at a time. Concurrency: one thread."""

    def __init__(self, bells: Bells, recovery_row: int) -> None:
        self._bells = bells
        self._recovery_row = recovery_row
        self._rung = 0  # the wait that was rung before the present job, 0: none
        self._tries = Tries(8, 1024)

    def before(self, row: int) -> None:
        """A single job from a lane of that row is about to be claimed."""
        self._rung = 0
        if row == self._recovery_row or not self._tries.is_due():  # whose job a lane of recovery holds is not known yet
            return
        own = core()
        if own == UNKNOWN or own != self._bells.core_of(row):
            self._rung = self._bells.ring_waiting(row)

    def after(self, row: int) -> None:
        """It has ended, and its producer was rung if it waited."""
        if self._rung:
            if self._bells.rung_waits.get(row) == self._rung:
                self._tries.worked()
            else:
                self._tries.was_in_vain()
