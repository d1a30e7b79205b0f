"""Killing a worker for one job: stop it, look again, kill or let it go on.

A job's word may change between the decision and the signal; a stopped worker changes nothing. Only
if it is still that job, the worker is killed and this slot is the culprit.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from shmq.clock import NS, now_ns
from shmq.memory.layout import WORKER
from shmq.supervisor.pools import CANCELLED, TIME_LIMIT, Pools, Worker
from shmq.transport.table import GENERATION_SHIFT, RUNNING, STATE, owner_of

if TYPE_CHECKING:
    from shmq.memory.segment import Segment

_log = logging.getLogger("shmq.supervisor")
_STOP_S = 1.0


class Killer:
    """Enforces time limits and kill requests on live workers."""

    def __init__(self, segment: Segment, pools: Pools) -> None:
        self._pools = pools
        self._words = segment.view("words")
        self._kills = segment.view("kills")

    def enforce(self) -> None:
        """Look at every live worker once."""
        now = now_ns()
        for worker in self._pools.all_workers():
            if not worker.is_live or worker.pidfd < 0:
                continue
            row = self._pools.row(worker.index)
            deadline = row[WORKER["deadline_ns"]]
            grace_ns = int(self._pools.pools[worker.group].settings.grace_s * NS)
            job = row[WORKER["job"]]
            if deadline and now > deadline + grace_ns:
                self._kill_for(worker, job, TIME_LIMIT)
            elif self._is_kill_requested(job):
                self._kill_for(worker, job, CANCELLED)

    def _is_kill_requested(self, job: int) -> bool:
        slot, generation = job & 0xFFFFFFFF, job >> 32
        return bool(job) and slot < len(self._kills) and self._kills[slot] == generation

    def is_running(self, worker: Worker, job: int) -> bool:
        """Does the job word say that this worker runs the job now?"""
        slot = job & 0xFFFFFFFF
        if not job or slot >= len(self._words):
            return False
        word = self._words[slot]
        return bool(
            word >> GENERATION_SHIFT == job >> 32 and word & STATE == RUNNING and owner_of(word) == worker.index
        )

    def _kill_for(self, worker: Worker, job: int, reason: int) -> None:
        if not self.is_running(worker, job):
            return
        self._pools.send(worker, signal.SIGSTOP)
        if self._wait_stopped(worker) and self.is_running(worker, job):
            self._pools.kill(worker, reason, job)
        else:
            self._pools.send(worker, signal.SIGCONT)

    @staticmethod
    def _wait_stopped(worker: Worker) -> bool:
        """True once the kernel says the worker is stopped (all its threads)."""
        give_up = time.monotonic() + _STOP_S
        while time.monotonic() < give_up:
            try:
                found = os.waitid(os.P_PIDFD, worker.pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if found is not None:
                return True
            time.sleep(0.0002)
        return False
