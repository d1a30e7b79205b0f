"""Workers that hold everybody up without being dead: a stopped lock holder, a frozen idle worker, a stray.

Nothing is redelivered beside a living process, so what stands in the way is killed first. A worker
inside a job is left alone, however long it takes: only a time limit may judge that.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial

from shmq.clock import NS, now_ns
from shmq.memory import locks
from shmq.supervisor.namespace import kill_proven
from shmq.supervisor.pools.pools import Pools
from shmq.supervisor.pools.worker import CRASHED, STALLED, Worker

_log = logging.getLogger("shmq.supervisor")
_LOOK_S = 0.1
_SLOW_LOOK_S = 1.0
_HOLD_S = 1.0
"""A claim takes microseconds: who holds a group's byte at every look for this long is stopped."""
_SILENT_S = 6.0
"""An idle worker shows a heartbeat once a second."""


@dataclass
class _Held:
    pid: int
    since: float
    claimed: int


class Stalls:
    """Looks for what keeps a group from moving."""

    def __init__(self, pools: Pools, lock_file: locks.LockFile) -> None:
        self._pools = pools
        self._rows = pools.rows
        self._lock_file = lock_file
        self._held: dict[int, _Held] = {}
        self._next_look = self._next_slow_look = 0.0

    def look(self) -> None:
        """Called each tick."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_S
        for pool in self._pools.pools:
            self._watch_lock(pool.index, pool.name, now)
        if now >= self._next_slow_look:
            self._next_slow_look = now + _SLOW_LOOK_S
            for worker in self._pools.all_workers():
                if worker.is_live and worker.kill_reason is None:
                    self._watch_heartbeat(worker)
            self._look_for_strays()

    # -- a group's byte ------------------------------------------------------------------

    def _watch_lock(self, group: int, name: str, now: float) -> None:
        pid = self._lock_file.holder(locks.group_byte(group))
        claimed = self._rows.claimed(group)
        held = self._held.get(group)
        if pid <= 0:
            self._held.pop(group, None)
        elif held is None or (held.pid, held.claimed) != (pid, claimed):
            self._held[group] = _Held(pid, now, claimed)
        elif now - held.since > _HOLD_S:
            _log.warning(
                "group %s: pid %d has held the claim lock for %.1f s, nobody can claim: killed "
                "(stopped by a signal?)",
                name, pid, now - held.since,
            )  # fmt: skip
            self._kill_holder(pid, locks.group_byte(group))
            del self._held[group]

    def _kill_holder(self, pid: int, byte: int) -> None:
        worker = self._pools.with_pid(pid)
        if worker is not None:
            worker.kill(STALLED)
        else:
            kill_proven(pid, partial(self._is_holder, byte))

    def _is_holder(self, byte: int, pid: int) -> bool:
        return self._lock_file.holder(byte) == pid

    # -- heartbeats ----------------------------------------------------------------------

    def _watch_heartbeat(self, worker: Worker) -> None:
        """An idle worker that shows no sign of life while jobs wait: stopped, or stuck in our own code."""
        silent_ns = now_ns() - self._rows.word(worker.index, "heartbeat_ns")
        if silent_ns < _SILENT_S * NS or self._rows.is_in_job(worker.index):
            return
        pool = self._pools.pools[worker.group]
        if not worker.is_draining and not (self._rows.backlog(pool.index) or self._rows.is_leasing(worker.index)):
            return
        _log.warning(
            "group %s: worker %d (pid %d) has shown no sign of life for %.0f s outside any job: killed",
            pool.name, worker.index, worker.pid, silent_ns / NS,
        )  # fmt: skip
        worker.kill(STALLED)

    # -- rows that are nobody's ----------------------------------------------------------

    def _look_for_strays(self) -> None:
        """Rows that are neither free nor dead and belong to no worker of ours: an order whose fork server
        died in between, or a damaged state. The row's lock byte names its holder, if there is one.
        """
        known = {worker.index for worker in self._pools.all_workers()}
        for index in range(self._rows.count):
            if index in known or self._rows.is_free(index) or self._rows.is_dead(index):
                continue
            byte = locks.worker_byte(index)
            holder = self._lock_file.holder(byte)
            if holder > 0:
                kill_proven(holder, partial(self._is_holder, byte))
                continue  # once it is gone, the next look finds the byte free
            _log.warning(
                "worker row %d is in state %d without a worker: tidied",
                index,
                self._rows.word(index, "state"),
            )
            self._rows.bury(index, status=0, reason=CRASHED, culprit=0, peak_bytes=0)
