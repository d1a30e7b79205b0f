"""Killing a worker for one job: stop it, look again, kill or let it go on.

A job's word may change between the decision and the signal; a stopped worker changes nothing. Only
if it is still that job, the worker is killed and this slot is the culprit.

    over a limit ── SIGSTOP ──▶ (SIGCHLD: stopped) ── still that job? ──▶ SIGKILL, culprit named
                                                    └── no ──▶ SIGCONT
"""

from __future__ import annotations

import os
import signal

from shmq.clock import now_ns, to_ns
from shmq.memory.layout import AT_ONCE_NS
from shmq.supervisor.pools.pools import Pools
from shmq.supervisor.pools.worker import CANCELLED, TIME_LIMIT, Worker


class Killer:
    """Enforces time limits and kill requests on live workers; kills for others on request. Never waits."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        self._rows = pools.rows

    def enforce(self) -> None:
        """Look at every live worker once."""
        now = now_ns()
        for worker in self._pools.all_workers():
            if not worker.is_live or worker.pidfd < 0 or worker.kill_reason is not None:
                continue
            if worker.stopping_for is not None:
                self._decide(worker, *worker.stopping_for)
                continue
            settings = self._pools.pools[worker.group].settings
            # SYNC POINT: deadline — the job before its deadline: a worker clears the one before it names the next job
            job = self._rows.word(worker.index, "job")
            deadline = self._rows.word(worker.index, "deadline_ns")
            is_asked = self._rows.is_kill_requested(job)
            is_over = deadline == AT_ONCE_NS or (deadline and now > deadline + to_ns(settings.grace_s))
            # who runs many at once cancels those that it can, and says of another that it is to be killed at once
            if is_over or (is_asked and settings.concurrency == 1):
                self.kill_for(worker, job, CANCELLED if is_asked else TIME_LIMIT)

    def kill_for(self, worker: Worker, job: int, reason: int) -> bool:
        """Begin to kill the worker if it runs the job; False when it does not."""
        if worker.stopping_for is not None or not self._rows.is_running(worker.index, job):
            return False
        worker.stopping_for = (job, reason)
        worker.send(signal.SIGSTOP)
        self._decide(worker, job, reason)  # often it has stopped already; else SIGCHLD brings us back
        return True

    def _decide(self, worker: Worker, job: int, reason: int) -> None:
        if not _is_stopped(worker):
            return
        worker.stopping_for = None
        if self._rows.is_running(worker.index, job):
            worker.kill(reason, job)
        else:
            worker.send(signal.SIGCONT)


def _is_stopped(worker: Worker) -> bool:
    """Does the kernel say that the worker, with all its threads, is stopped?"""
    try:
        found = os.waitid(os.P_PIDFD, worker.pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return found is not None
