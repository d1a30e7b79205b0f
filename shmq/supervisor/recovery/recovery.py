"""The resident process that redelivers, schedules and tidies up after the dead.

It remembers nothing: everything it knows is in the job table, so it may be killed at any step and
the next one goes on. The lock byte keeps it single.

    rung or due ──▶ bury dead workers ──▶ push due jobs ──▶ (each second) tidy rows ──▶ sleep until next due
"""

from __future__ import annotations

import select
import time

from shmq.clock import NS, now_ns
from shmq.config.model import Config
from shmq.memory import locks
from shmq.memory.doorbell import FifoBell
from shmq.memory.layout import WORKER, WORKER_DEAD, WORKER_WORDS
from shmq.memory.segment import attach
from shmq.supervisor.recovery import housekeeping
from shmq.supervisor.recovery.burial import Burial
from shmq.transport.redeliver import Redeliverer

_TIDY_S = 1.0
_LONGEST_SLEEP_S, _LONGEST_SLEEP_FULL_S = 1.0, 0.1  # the latter while a lane has no room for a job


class Recovery:
    """One namespace's recovery."""

    def __init__(self, segment_name: str, config: Config) -> None:
        self._segment = attach(segment_name)
        self._lock_file = locks.open_once(self._segment.state_dir / "lock")
        self._lock_file.forget()  # inherited from the supervisor: the bytes stayed there
        self._lock_file.acquire(locks.RECOVERY)
        self._bell = FifoBell(self._segment.state_dir / "recovery.bell", create=True)
        self._redeliverer = Redeliverer(self._segment, self._lock_file)
        self._burial = Burial(self._segment, config)
        self._states = self._segment.view("worker_rows")[WORKER["state"] :: WORKER_WORDS]
        self._next_tidy = 0.0

    def run(self) -> None:
        """Serve until killed."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        while True:
            sleep_s = self.step()
            if poll.poll(sleep_s * 1000):
                self._bell.clear()

    def step(self) -> float:
        """Do all there is to do; seconds until the next look is due without being rung."""
        self._redeliverer.push_waiting()
        for index, state in enumerate(self._states.tolist()):
            if state == WORKER_DEAD:
                self.bury(index)
        next_due_ns = self._redeliverer.deliver_due(now_ns())
        if time.monotonic() >= self._next_tidy:
            self._next_tidy = time.monotonic() + _TIDY_S
            self.tidy()
        longest_s = _LONGEST_SLEEP_FULL_S if self._redeliverer.has_unpushed else _LONGEST_SLEEP_S
        until_due = (next_due_ns - now_ns()) / NS if next_due_ns else longest_s
        return min(max(until_due, 0.0), longest_s)

    def bury(self, index: int) -> None:
        """Redeliver what a dead worker held, then free its row."""
        self._burial.bury(self._redeliverer, index)

    def tidy(self) -> None:
        """Rows of dead producers, ended jobs nobody reads, cancelled jobs nobody claims."""
        housekeeping.tidy(self._segment, self._lock_file, self._redeliverer)
