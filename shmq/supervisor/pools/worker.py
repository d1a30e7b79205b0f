"""What the supervisor knows of a worker and of a pool. Its own memory: nothing here is shared."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shmq.config.model import Group
from shmq.memory.doorbell import SemaphoreBell

if TYPE_CHECKING:
    from shmq.supervisor.forkserver import ForkServer

CRASHED, DRAINED, TIME_LIMIT, CANCELLED, MEMORY, STOPPED, OUT_OF_MEMORY, STALLED = range(8)
"""Why a worker ended. MEMORY: over the group's hard limit; OUT_OF_MEMORY: the kernel ran out of it."""
REASONS = (
    "crashed", "drained", "past its time limit", "cancelled", "over the memory limit", "stopped",
    "killed by the kernel: out of memory", "stalled",
)  # fmt: skip
INTERRUPTIONS = frozenset({DRAINED, STOPPED, STALLED})
"""Endings that are no job's fault: no attempt is charged."""


@dataclass
class Worker:
    """One worker, from the order to fork it until it is reaped."""

    index: int
    group: int
    bell: SemaphoreBell
    ordered_at: float
    generation: int
    server: ForkServer
    pid: int = 0
    pidfd: int = -1
    is_live: bool = False
    live_at: float = 0.0
    is_draining: bool = False
    recycled_for: str = ""
    # the end that was asked for
    kill_reason: int | None = None
    culprit: int = 0
    # a stop was sent, the kill is decided once it has taken effect
    stopping_for: tuple[int, int] | None = None
    # memory, as sampled
    private_bytes: int = 0
    shared_bytes: int = 0
    peak_bytes: int = 0
    first_bytes: int = 0
    first_done: int = 0
    tasks_seen: Counter[int] = field(default_factory=Counter)

    def send(self, number: signal.Signals) -> None:
        """Signal it by pidfd: never by a number read from shared memory. Nothing before its pid is known."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                return

    def drain(self) -> None:
        """Stop pulling, finish, give the rest back, leave."""
        self.is_draining = True
        self.send(signal.SIGTERM)
        self.bell.notify()  # the signal may come just before it falls asleep, and would wake it only a sleep later

    def kill(self, reason: int, culprit: int = 0) -> None:
        """SIGKILL; `culprit` is the id of the job that is to blame."""
        if self.kill_reason is None:
            self.kill_reason, self.culprit = reason, culprit
        self.is_draining = True
        self.send(signal.SIGKILL)

    def kill_leftovers(self) -> None:
        """Subprocesses of its task share its process group: none outlives it.

        Caller must: not have reaped it yet, so that the pid still is its own.
        """
        if self.pid > 0:  # 0 would be our own group
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return


@dataclass
class Pool:
    """The workers of one group."""

    index: int
    name: str
    settings: Group
    most: int
    workers: dict[int, Worker] = field(default_factory=dict)
    target: int = 0
    fixed_target: int | None = None
    idle_since: float = 0.0
    woken_at_plan_ns: int = 0
    substitutes: int = 0
    substitutes_until: float = 0.0
    failures_in_a_row: int = 0
    wait_until: float = 0.0

    def active(self) -> list[Worker]:
        """Workers that take jobs now or soon."""
        return [w for w in self.workers.values() if not w.is_draining]
