"""The worker's timer: time limits for any Python code, and no job stuck behind a slow one.

One SIGALRM timer is armed while jobs run and re-arms itself only when it fires, so fast jobs pay
one system call per KEPT_S, single ones per LONG_S. When it fires and a job has run for so long, the
rest of its batch goes back, producers that wait for what has ended are rung, and another worker for
what has come meanwhile; past the job's limit TaskTimeout is raised inside the task - but only while
`in_user` says that the task's own code is running, and the flag is cleared first.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from shmq.clock import NS, now_ns
from shmq.errors import TaskTimeout
from shmq.worker.seat import Seat

KEPT_S = 0.005
"""So long a job may keep others: more than twice what a batch should take in all (`target_batch_s`)."""
LONG_S = 0.02
"""The same for a job that is alone, in a group that is not promised anything: few signals for who idles between two."""
KEPT_NS, _LONG_NS = int(KEPT_S * NS), int(LONG_S * NS)
_SOON_S = 0.001


class Timer:
    """Arms SIGALRM for one seat. Main thread only."""

    def __init__(self, seat: Seat, fence: Callable[[], None]) -> None:
        self._seat = seat
        self._fence = fence
        self._due_ns = 0  # when it fires; 0: it is not armed
        self._patience_ns = _LONG_NS  # with a job of the present batch
        signal.signal(signal.SIGALRM, self._fired)

    @property
    def is_armed(self) -> bool:
        """Will it fire?"""
        return self._due_ns > 0

    def arm(self, delay_s: float = LONG_S) -> None:
        """Fire after `delay_s`."""
        self._due_ns = now_ns() + int(delay_s * NS)
        signal.setitimer(signal.ITIMER_REAL, delay_s)

    def begin(self, began_ns: int, *, keeps_others: bool) -> None:
        """A batch begins; each of its jobs may keep others waiting, or none can."""
        self._patience_ns = KEPT_NS if keeps_others else _LONG_NS
        if not 0 < self._due_ns <= began_ns + self._patience_ns:
            self.arm(self._patience_ns / NS)

    def _fired(self, _signal: int, _frame: FrameType | None) -> None:
        self._due_ns = 0
        seat = self._seat
        if not seat.in_user:  # the worker's own code must not be interrupted; look again soon
            if seat.is_busy():
                self.arm(_SOON_S)
            return
        now = now_ns()
        is_long = now - seat.started_ns >= self._patience_ns
        if is_long:
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
        wake = seat.deadline_ns if is_long else seat.started_ns + self._patience_ns
        if seat.outlet is not None and seat.outlet.is_holding:
            wake = min(wake or now + _LONG_NS, now + _LONG_NS)
        if wake:
            self.arm(max((wake - now) / NS, _SOON_S))
