"""Ringing the producer of a quick job before the job runs: it takes longer to wake up than the job takes.

    claim ─▶ ring, early ─▶ run ─▶ ack ─▶ fence ─▶ ring, unless its wait is still the one that was rung
                  └───────── the producer wakes up ─────────▶ looks

Whether that is too early depends on the machine, and on who shares a core with whom. It shows: who was rung too early
has begun another wait by the time of the second ring. Then the next jobs are not tried, twice as many each time.
"""

from __future__ import annotations

from shmq.transport.bells import Bells

QUICK_NS = 20_000
"""No job that takes longer is worth a try."""
_LEAST_PAUSE, _LONGEST_PAUSE = 8, 1024  # jobs


class EarlyRings:
    """Of one worker that runs one job at a time."""

    def __init__(self, bells: Bells) -> None:
        self._bells = bells
        self._rung = 0  # the wait that was rung before the present job, 0: none
        self._pause = self._left = 0  # jobs not to be tried: when that came last, of those still to come

    def before(self, producer: int) -> None:
        """A single job of that producer row is about to run."""
        if self._left:
            self._left -= 1
        else:
            self._rung = self._bells.ring_waiting(producer)

    def after(self, producer: int) -> None:
        """It has ended, and its producer was rung if it waited."""
        rung, self._rung = self._rung, 0
        if not rung:
            return
        if self._bells.rung_waits.get(producer) == rung:
            self._pause >>= 1
        else:
            self._left = self._pause = min(max(2 * self._pause, _LEAST_PAUSE), _LONGEST_PAUSE)
