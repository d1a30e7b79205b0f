"""The worker's timer: time limits for any Python code, and no job stuck behind a slow one.

One SIGALRM timer is armed while jobs run and re-arms itself only when it fires, so fast jobs pay
one system call per LONG_S. When it fires and the job has run for LONG_S, the rest of the lease goes
back and waiting producers are rung; past the job's limit TaskTimeout is raised inside the task - but
only while `in_user` says that the task's own code is running, and the flag is cleared first.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from shmq.clock import NS, now_ns
from shmq.errors import TaskTimeout
from shmq.worker.seat import Seat

LONG_S = 0.02
_LONG_NS = int(LONG_S * NS)
_SOON_S = 0.001


class Timer:
    """Arms SIGALRM for one seat. Main thread only."""

    def __init__(self, seat: Seat, fence: Callable[[], None]) -> None:
        self._seat = seat
        self._fence = fence
        self.is_armed = False
        signal.signal(signal.SIGALRM, self._fired)

    def arm(self, delay_s: float = LONG_S) -> None:
        """Fire after `delay_s`."""
        self.is_armed = True
        signal.setitimer(signal.ITIMER_REAL, delay_s)

    def _fired(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_armed = False
        seat = self._seat
        if not seat.in_user:  # the worker's own code must not be interrupted; look again soon
            if seat.is_busy():
                self.arm(_SOON_S)
            return
        now = now_ns()
        if now - seat.started_ns >= _LONG_NS:
            seat.give_back_rest()
            seat.count_ended(seat.position - 1)
            self._fence()
            seat.ring_producers(seat.position - 1)
            seat.bells.wake_one(seat.group)  # what came while this worker attended to the group alone
        if seat.outlet is not None:  # somebody may have asked for parts since the last one
            seat.outlet.look()
        if seat.deadline_ns and now >= seat.deadline_ns:
            seat.in_user = False
            raise TaskTimeout(
                f"{seat.task_name()} ran past its time limit of {seat.timeout_s:g} s; "
                "raise `timeout`, or make the task return in time"
            )
        wake = seat.started_ns + _LONG_NS if now - seat.started_ns < _LONG_NS else seat.deadline_ns
        if seat.outlet is not None and seat.outlet.is_holding:
            wake = min(wake or now + _LONG_NS, now + _LONG_NS)
        if wake:
            self.arm(max((wake - now) / NS, _SOON_S))
