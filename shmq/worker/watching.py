"""The place where somebody may look at a worker's memory; it costs nothing until they do.

    SHMQ_WATCH=FOLDER    from the first job: what the jobs of each task leave behind (`shmq soak`)
    SIGUSR2              an order in STATE_DIR/watch: trace with memray for a while (`shmq leaks attach`)

    Loop.watching is None ──signal──▶ this object ──next batch or sleep: tick()──▶ Watch begins, goes on, ends

The watch itself belongs to memcheck, a layer beside this one: it is imported by its name, when it is wanted.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Protocol

from shmq.clock import now_ns
from shmq.memory.blocks import PRODUCER_PIN, WORKER_PIN
from shmq.memory.layout import PRODUCER, WORKER
from shmq.memory.segment import Segment
from shmq.tasks.task import Task
from shmq.worker.accounting import Accounts
from shmq.worker.seat import Seat

_log = logging.getLogger("shmq.worker")
FOLDER_VARIABLE = "SHMQ_WATCH"
ORDERS = "watch"  # folder in the state directory; memcheck.soak.orders writes it
_HOME = "shmq.memcheck.soak.watch"
_KEY = struct.Struct("<Q")  # first word of a job's header
_FAILED = WORKER["failed"]


def blocks_held(segment: Segment, worker: int) -> Callable[[], int]:
    """A function that counts the units which views of this worker keep: of arguments, and of its tasks' own client."""
    import numpy as np

    from shmq.memory.columns import column

    pins, pids, own = column(segment, "pins"), column(segment, "producer_rows")[:, PRODUCER["pid"]], os.getpid()

    def held() -> int:
        clients = (int(np.count_nonzero(pins[:, PRODUCER_PIN] == row + 1)) for row in np.flatnonzero(pids == own))
        return int(np.count_nonzero(pins[:, WORKER_PIN] == worker + 1)) + sum(clients)

    return held


class Watched(Protocol):
    """A loop of either kind."""

    watching: Watching | None


class Watch(Protocol):
    """What memcheck offers. No method raises: looking must not end the worker."""

    measures_jobs: bool
    unmeasured: int  # jobs that may go by before the next one that `begin` would measure

    def pass_by(self, jobs: int) -> None:
        """So many of those went by, without `begin` and `end`."""

    def begin(self, task: str) -> None:
        """A job is about to start."""

    def end(self, *, failed: bool) -> None:
        """It has ended and its outcome is handed over."""

    def obey(self) -> None:
        """An order may have come, or been withdrawn."""

    def tick(self) -> bool:
        """Between jobs; False once there is nothing more to watch."""

    def close(self) -> None:
        """The worker ends."""


class Watching:
    """Stands between a loop and the watch.

    Caller must: make it in the main thread before the worker's row says LIVE, since SIGUSR2 ends a process that
    has no handler; `close` it when the loop has ended.
    """

    def __init__(self, loop: Watched, accounts: Accounts, seat: Seat, tasks: Mapping[int, Task[..., Any]]) -> None:
        self._loop = loop
        self._accounts = accounts
        self._seat = seat
        self._tasks = tasks
        self._watch: Watch | None = None
        self._is_asked = False
        signal.signal(signal.SIGUSR2, self._on_signal)
        has_orders = os.path.isdir(f"{seat.segment.state_dir}/{ORDERS}")
        if has_orders or os.environ.get(FOLDER_VARIABLE):
            self._ask()
            self.tick()

    def around(self, run: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """The function that runs a job, with the watch told before and after; for one batch."""
        self.tick()
        watch = self._watch
        if watch is None or not watch.measures_jobs:
            return run
        payload, stride, names = self._seat.segment.view("payload"), self._seat.segment.shape.slot_bytes, self._names()
        gettrace, settrace = sys.gettrace, sys.settrace
        row, begin, end, seat, accounts = self._seat.row, watch.begin, watch.end, self._seat, self._accounts
        # Sums over a batch go from 0, which takes no memory, to a number, which does: not what the job left behind.
        booked = array("q", (0,))

        def watched(slot: int, leased: int) -> None:
            (key,) = _KEY.unpack_from(payload, slot * stride)
            failed = row[_FAILED]
            booked[0] = accounts.recorded_ns
            accounts.recorded_ns = 0
            seat.started_ns = now_ns()  # the loop keeps the batch's first one: its successor is not the job's
            before = gettrace()
            begin(names.get(key, "unknown task"))
            seat.started_ns = now_ns()  # measuring is not the job's time
            run(slot, leased)
            if gettrace() is not before:
                settrace(before)  # lines are watched: frames entered from here on are not the job's
            booked[0] += accounts.recorded_ns
            accounts.recorded_ns = 0
            end(failed=row[_FAILED] != failed)
            accounts.recorded_ns = booked[0]

        return watched

    @property
    def unmeasured(self) -> int:
        """Jobs of the batch that need not go through what `around` returned."""
        return self._watch.unmeasured if self._watch is not None else sys.maxsize

    def pass_by(self, jobs: int) -> None:
        """So many of those have run."""
        if self._watch is not None:
            self._watch.pass_by(jobs)

    def tick(self) -> None:
        """Between jobs, and before each sleep."""
        if self._is_asked:
            self._is_asked = False
            self._obey()
        if self._watch is None or not self._watch.tick():
            self._watch = self._loop.watching = None

    def close(self) -> None:
        """Write down what was seen."""
        if self._watch is not None:
            self._watch.close()

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._ask()

    def _ask(self) -> None:
        self._is_asked = True
        self._loop.watching = self

    def _obey(self) -> None:
        if self._watch is None:
            seat = self._seat
            functions = {task.name: task.function for task in self._tasks.values()}
            try:
                home = importlib.import_module(_HOME)
                process = f"worker {seat.group_name} {seat.index}"
                self._watch = home.watch_of(
                    process, seat.group_name, seat.segment.state_dir, functions,
                    os.environ.get(FOLDER_VARIABLE) if seat.settings.concurrency == 1 else None,
                    {"blocks": blocks_held(seat.segment, seat.index)}, seat.settings.gc,
                )  # fmt: skip
            except Exception:
                _log.exception("memory of this worker cannot be watched; it goes on without")
                return
        assert self._watch is not None
        self._watch.obey()

    def _names(self) -> Mapping[int, str]:
        return self._seat.names
