"""Driving a generator in a worker that runs one job at a time: step, hand the part on, wait while there is no room.

    in_user = True, next(), in_user = False ─▶ outlet.offer, or wait and resume ─▶ cancelled? ─▶ again

What ends the job while it waits is thrown into the generator at its yield: TaskTimeout past the time limit,
GeneratorExit when the stream was closed or nobody will ever read it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any

from shmq.clock import NS, now_ns
from shmq.errors import QueueFull, TaskTimeout, TooLarge
from shmq.memory.doorbell import RESCUE_S, SemaphoreBell
from shmq.memory.layout import WORKER
from shmq.worker.results.outcome import StreamGivenBack
from shmq.worker.results.outlet import Outlet, Outlets
from shmq.worker.seat import Seat
from shmq.worker.timer import LONG_S, Timer

_END = object()
_JOB = WORKER["job"]
_SOON_S = 0.001


class Generating:
    """Runs generators on the main thread of a worker."""

    def __init__(self, seat: Seat, outlets: Outlets, timer: Timer, bell: SemaphoreBell) -> None:
        self._seat, self._outlets, self._timer, self._bell = seat, outlets, timer, bell

    def run(self, generator: Generator[Any, None, Any], most_kept: int | None, *, is_single: bool = False) -> Outlet:
        """Run the job's generator to its end; its parts are in, or went through, the outlet."""
        seat = self._seat
        seat.in_user = False
        slot = seat.row[_JOB] & 0xFFFFFFFF
        outlet = seat.outlet = self._outlets.open(slot, seat.words[slot], most_kept, is_single=is_single)
        try:
            while True:
                if not self._timer.is_armed:
                    self._arm(outlet)
                seat.in_user = True
                value = next(generator, _END)
                seat.in_user = False
                if value is _END:
                    break
                if not outlet.offer(value):
                    self._wait(outlet, outlet.resume)
                value = None
                outlet.check_cancelled()
            if not outlet.finish():
                self._wait(outlet, outlet.finish)
        except BaseException as error:
            seat.in_user = False
            self._unwind(generator, error)
            raise
        finally:
            seat.outlet = None
        return outlet

    def _arm(self, outlet: Outlet) -> None:
        """The timer does not re-arm itself when it fires outside of the task's code."""
        if self._seat.deadline_ns or outlet.is_holding:
            self._timer.arm(_SOON_S if self._seat.deadline_ns else LONG_S)

    def _unwind(self, generator: Generator[Any, None, Any], error: BaseException) -> None:
        """End the generator at its yield; what it raises instead of `error` is the job's end."""
        seat = self._seat
        if seat.deadline_ns and not self._timer.is_armed and not isinstance(error, TaskTimeout):
            self._timer.arm(_SOON_S)
        if isinstance(error, TaskTimeout):
            seat.deadline_ns = 0  # raised once: the task may clean up until the grace is over
        try:
            seat.in_user = True
            if isinstance(error, TaskTimeout):
                with contextlib.suppress(StopIteration):
                    generator.throw(error)
            generator.close()
        finally:
            seat.in_user = False

    def _wait(self, outlet: Outlet, is_ready: Callable[[], bool]) -> None:
        """Sleep until there is room. A wait that lasts counts as blocked: a substitute may be forked."""
        seat, started, is_blocked = self._seat, time.monotonic(), False
        try:
            while not is_ready():
                waited_s = time.monotonic() - started
                slice_s = min(self._check(outlet, waited_s), RESCUE_S if is_blocked else LONG_S)
                outlet.want_room(1)
                try:
                    if is_ready():
                        return
                    self._bell.wait(slice_s)
                finally:
                    outlet.want_room(0)
                if not is_blocked and waited_s > LONG_S:
                    is_blocked = True
                    self._outlets.fence()  # SYNC POINT: doorbell
                    seat.enter_wait(outlet)
        finally:
            if is_blocked:
                seat.leave_wait(outlet)

    def _check(self, outlet: Outlet, waited_s: float) -> float:
        """Seconds the wait may go on; raises what ends it."""
        seat = self._seat
        left_s = RESCUE_S
        if seat.deadline_ns:
            left_s = (seat.deadline_ns - now_ns()) / NS
            if left_s <= 0:
                raise TaskTimeout(
                    f"{seat.task_name()} ran past its time limit of {seat.timeout_s:g} s while its stream waited for "
                    "the reader; raise `timeout`, or read sooner"
                )
        check_wait(outlet, waited_s, is_draining=seat.is_draining, name=seat.task_name())
        return left_s


def check_wait(outlet: Outlet, waited_s: float, *, is_draining: bool, name: str) -> None:
    """Raise what ends a wait for room, whoever waits."""
    outlet.check_cancelled()
    if is_draining and not outlet.was_read:
        raise StreamGivenBack
    if waited_s < outlet.patience_s():
        return
    if outlet.is_pool_full:
        raise QueueFull(
            f"no free block for the parts of {name} in {waited_s:.0f} s: {outlet.pool_usage()}.\n"
            "Drop arrays and results you no longer need, or raise [memory] block_budget_bytes."
        )
    raise TooLarge(
        f"{name} has yielded more than a result can hold, and nobody has asked for its stream for {waited_s:.0f} s.\n"
        "Call job.stream() right after submit; or raise [memory] block_budget_bytes to read a list of this length."
    )
