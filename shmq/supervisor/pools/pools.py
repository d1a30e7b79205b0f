"""The pools: workers are ordered, joined, replaced and drained towards each pool's target."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING

from shmq.config.model import Config
from shmq.errors import SystemRefused
from shmq.memory import locks
from shmq.memory.doorbell import FifoBell
from shmq.supervisor import limits
from shmq.supervisor.pools.rows import Rows
from shmq.supervisor.pools.worker import CRASHED, Pool, Worker
from shmq.transport.bells import concurrent_bell_path

if TYPE_CHECKING:
    from shmq.supervisor.forkserver import ForkServer

_log = logging.getLogger("shmq.supervisor")
_KEEP_SUBSTITUTE_S = 1.0
_LONGEST_PAUSE_S = 5.0


class Pools:
    """All pools of one supervisor, and the fork server that feeds them."""

    def __init__(self, config: Config, rows: Rows, lock_file: locks.LockFile) -> None:
        self.rows = rows
        self._lock_file = lock_file
        self._by_pid: dict[int, Worker] = {}
        self.fork_server: ForkServer | None = None
        self.generation = 0
        cores = len(os.sched_getaffinity(0))
        self.pools = [
            Pool(g, name, settings, cores if settings.max_workers == "auto" else int(settings.max_workers))
            for g, (name, settings) in enumerate(config.groups.items())
        ]
        for pool in self.pools:
            settings = pool.settings
            pool.target = pool.most if settings.mode == "fixed" else min(settings.min_workers, pool.most)
            for word, value in (
                ("min_workers", settings.min_workers), ("max_workers", pool.most), ("workers", 0),
                ("concurrency", 0 if settings.concurrency == "auto" else settings.concurrency),
            ):  # fmt: skip
                rows.set_control(pool.index, word, value)
            limits.of_group(rows.segment, pool.index, pool.name).write(settings)

    def wake(self, pool: Pool) -> None:
        """Ring every sleeper of the pool: what it waits for may have changed.

        By our own handles: a bell's name in the segment could name anything.
        """
        for worker in pool.workers.values():
            if not self.rows.is_asleep(pool.index, worker.index):
                continue
            if pool.settings.concurrency == 1:
                worker.bell.notify()
                continue
            with contextlib.suppress(OSError):  # no descriptor is left: its bounded sleep finds what there is
                bell = FifoBell(concurrent_bell_path(self.rows.segment.state_dir, worker.index))
                bell.notify()
                bell.close()

    def all_workers(self) -> list[Worker]:
        """Every worker of every pool."""
        return [w for p in self.pools for w in p.workers.values()]

    def with_pid(self, pid: int) -> Worker | None:
        """The worker that is this child."""
        return self._by_pid.get(pid)

    # -- towards the target --------------------------------------------------------------

    def settle(self) -> None:
        """Spawn and drain towards each pool's target; replace workers that are to be recycled."""
        for pool in self.pools:
            self._settle(pool)
        for pool in self.pools:
            self.publish(pool)

    def _settle(self, pool: Pool) -> None:
        active = pool.active()
        self._grant_substitutes(pool, active)
        wanted = pool.target + pool.substitutes
        stale = [w for w in active if w.recycled_for or w.generation != self.generation]
        fresh = [w for w in active if not w.recycled_for and w.generation == self.generation]
        for _ in range(wanted - len(fresh)):
            if not self._spawn(pool):
                break
        if stale:
            self._drain_stale(pool, [w for w in stale if w.is_live], sum(w.is_live for w in fresh), wanted)
        elif len(fresh) > wanted:
            self._drain_surplus(pool, fresh, len(fresh) - wanted)

    def _grant_substitutes(self, pool: Pool, active: list[Worker]) -> None:
        """Workers that wait inside a task do not count; others run what they wait for, up to a bound.

        Granted when jobs wait and nobody is idle; kept a while, so that short waits do not fork and
        drain a worker each.
        """
        live = [w for w in active if w.is_live]
        blocked = sum(1 for w in live if self.rows.word(w.index, "blocked"))
        entitled, now = min(blocked, pool.settings.max_substitutes), time.monotonic()
        if entitled >= pool.substitutes:
            pool.substitutes_until = now + _KEEP_SUBSTITUTE_S
        elif now > pool.substitutes_until:
            pool.substitutes = entitled
        if entitled > pool.substitutes:
            is_anyone_idle = any(self.rows.is_asleep(pool.index, w.index) for w in live)
            if not is_anyone_idle and self.rows.backlog(pool.index):
                pool.substitutes = entitled

    def _drain_stale(self, pool: Pool, stale: list[Worker], fresh_live: int, wanted: int) -> None:
        """Old workers finish what they run and leave, as many as have a live replacement.

        Without a row for a replacement one leaves first: better fewer workers for a moment than old
        code for ever.
        """
        may_leave = fresh_live + len(stale) - wanted
        if may_leave <= 0 and self._free_row() is None:
            may_leave = 1
        for worker in stale[: max(may_leave, 0)]:
            self.rows.add(pool.index, "recycled", 1)
            worker.drain()

    def _drain_surplus(self, pool: Pool, fresh: list[Worker], count: int) -> None:
        """Last in, first out, idle ones before busy ones; never in the middle of a job."""
        order = sorted(
            (w for w in fresh if w.is_live),
            key=lambda w: (self.rows.is_asleep(pool.index, w.index), w.ordered_at),
            reverse=True,
        )
        for worker in order[:count]:
            _log.info("group %s: worker %d is drained: %d wanted", pool.name, worker.index, pool.target)
            worker.drain()

    def publish(self, pool: Pool) -> None:
        """Tell the segment how many workers there are."""
        rows, active = self.rows, pool.active()
        rows.set_control(pool.index, "workers", sum(w.is_live for w in active))
        rows.set_control(pool.index, "scaled_to", pool.target)
        if pool.settings.max_workers == "auto":  # the planner may have found that more than the cores help
            rows.set_control(pool.index, "max_workers", max(pool.most, pool.target))
        rows.ring_supervisor(pool.index, is_wanted=not active)

    # -- births --------------------------------------------------------------------------

    def _free_row(self) -> int | None:
        known = {w.index for w in self.all_workers()}
        for index in range(self.rows.count):
            # a held byte: somebody lives there, whatever the row's state says
            if index not in known and self.rows.is_free(index) and not self._lock_file.holder(locks.worker_byte(index)):
                return index
        return None

    def _spawn(self, pool: Pool) -> bool:
        """Order one worker; False when that is not possible now."""
        server = self.fork_server
        if server is None or time.monotonic() < pool.wait_until:
            return False
        index = self._free_row()
        if index is None:
            return False
        try:
            bell, serial = self.rows.prepare(index, pool.index)
        except SystemRefused as error:
            _log.error("group %s: %s", pool.name, error)
            self._back_off(pool)
            return False
        pool.workers[index] = worker = Worker(index, pool.index, bell, time.monotonic(), self.generation, server)
        if not server.order(index, pool.index, serial):
            self._forget(worker, "")
            return False
        self.rows.add(pool.index, "spawned", 1)
        return True

    def forked(self, server: ForkServer, index: int, pid: int) -> None:
        """The fork server reports a worker's pid."""
        worker = self._ordered(server, index)
        if worker is None:
            return
        worker.pid = pid
        self._by_pid[pid] = worker
        try:
            worker.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # cannot be: it is our unreaped child. Its end will be seen by waitpid
            return
        if worker.kill_reason is not None:
            worker.send(signal.SIGKILL)
        elif worker.is_draining:
            worker.send(signal.SIGTERM)

    def unborn(self, server: ForkServer, index: int, why: str) -> None:
        """The fork server could not fork a worker."""
        worker = self._ordered(server, index)
        if worker is not None:
            self._forget(worker, why)

    def abandon(self, server: ForkServer) -> None:
        """The fork server has hung up: what it has not reported will never come."""
        for worker in self.all_workers():
            if worker.server is server and not worker.pid:
                self._forget(worker, "the fork server ended")

    def _ordered(self, server: ForkServer, index: int) -> Worker | None:
        """The worker that this server was ordered to fork and has not reported yet."""
        worker = next((p.workers[index] for p in self.pools if index in p.workers), None)
        return worker if worker is not None and worker.server is server and not worker.pid else None

    def _forget(self, worker: Worker, why: str) -> None:
        """Drop an order. The row goes to recovery: whoever may still join it finds it is not STARTING."""
        pool = self.pools[worker.group]
        del pool.workers[worker.index]
        worker.bell.remove()
        self.rows.bury(worker.index, status=0, reason=CRASHED, culprit=0, peak_bytes=0)
        if why:
            _log.warning("group %s: worker %d was not forked: %s", pool.name, worker.index, why)
            self._back_off(pool)

    def notice_live(self) -> None:
        """See which starting workers have joined."""
        for worker in self.all_workers():
            if not worker.is_live and worker.pid and self.rows.is_live(worker.index):
                worker.is_live, worker.live_at = True, time.monotonic()
                self.pools[worker.group].failures_in_a_row = 0

    # -- deaths --------------------------------------------------------------------------

    def buried(self, worker: Worker) -> None:
        """It was reaped and its row handed to recovery."""
        pool = self.pools[worker.group]
        self._by_pid.pop(worker.pid, None)
        pool.workers.pop(worker.index, None)
        if worker.pidfd >= 0:
            os.close(worker.pidfd)
        worker.bell.remove()
        if not worker.is_live and not worker.is_draining:
            self._back_off(pool)
        self.publish(pool)

    def _back_off(self, pool: Pool) -> None:
        """It died before it could work: do not fork the next ones in a tight loop."""
        pool.failures_in_a_row = min(pool.failures_in_a_row + 1, 10)
        pool.wait_until = time.monotonic() + min(0.05 * 2**pool.failures_in_a_row, _LONGEST_PAUSE_S)
