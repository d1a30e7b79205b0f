"""A worker's end: what it was, what its row says to recovery, what the log says to people."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING

from shmq.supervisor.pools.worker import (
    CANCELLED,
    CRASHED,
    DRAINED,
    INTERRUPTIONS,
    OUT_OF_MEMORY,
    REASONS,
    TIME_LIMIT,
    Worker,
)

if TYPE_CHECKING:
    from shmq.supervisor.pools.pools import Pools

_log = logging.getLogger("shmq.supervisor")
_ORDERLY = INTERRUPTIONS | {TIME_LIMIT, CANCELLED}


def describe(status: int) -> str:
    """A wait status in words. Any number has some: it may come from a shared word."""
    if not os.WIFSIGNALED(status):
        return f"exit status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


def bury(pools: Pools, worker: Worker, status: int, *, was_out_of_memory: bool) -> None:
    """Account for a worker that was just reaped and hand its row to recovery.

    Caller must: have killed what is left of its process group before reaping it.
    """
    rows, pool = pools.rows, pools.pools[worker.group]
    worker.is_live = worker.is_live or rows.is_live(worker.index)  # it may have joined and died unseen
    reason, culprit = worker.kill_reason, worker.culprit
    if reason is None:
        is_in_job = rows.is_in_job(worker.index)
        reason = _reason(worker, status, is_in_job=is_in_job, was_out_of_memory=was_out_of_memory)
        # the kernel names no job: an async worker's last one is as likely as the others
        if reason == OUT_OF_MEMORY and pool.settings.concurrency == 1:
            culprit = rows.running_job(worker.index)
    rows.keep_counters(worker.index)
    if reason not in _ORDERLY:
        rows.add(pool.index, "past_crashed", 1)
    peak = f", {worker.peak_bytes >> 20} MiB private memory at its peak" if reason == OUT_OF_MEMORY else ""
    _log.log(
        logging.INFO if reason in INTERRUPTIONS else logging.WARNING,
        "group %s: worker %d (pid %d) ended: %s (%s%s)",
        pool.name, worker.index, worker.pid, describe(status), REASONS[reason], peak,
    )  # fmt: skip
    rows.bury(worker.index, status=status, reason=reason, culprit=culprit, peak_bytes=worker.peak_bytes)
    pools.buried(worker)


def _reason(worker: Worker, status: int, *, is_in_job: bool, was_out_of_memory: bool) -> int:
    """Why a worker ended that we did not kill.

    A drained worker that leaves by itself, or is ended by our SIGTERM before it handles it, is drained;
    one that a job takes down (also by `os._exit(0)` or `exec`) has crashed, so that the job is charged.
    """
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) == signal.SIGKILL and was_out_of_memory:
            return OUT_OF_MEMORY
        is_early_drain = worker.is_draining and not worker.is_live and os.WTERMSIG(status) == signal.SIGTERM
        return DRAINED if is_early_drain else CRASHED
    return DRAINED if status == 0 and not is_in_job else CRASHED
