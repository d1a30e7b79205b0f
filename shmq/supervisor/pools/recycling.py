"""Workers that have served enough: by jobs, by age, by memory. And those that took far too much memory.

Private memory is RssAnon: the segment, which every worker maps, does not count. Over the soft limit a
worker is replaced between two jobs; over the hard one it is killed and its job goes where there is
more. The kernel may be quicker than both: its counter of kills tells.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from shmq import probes
from shmq.errors import ShmqError
from shmq.supervisor.pools.killing import Killer
from shmq.supervisor.pools.pools import Pools
from shmq.supervisor.pools.worker import MEMORY, Pool, Worker
from shmq.tasks import registry

_log = logging.getLogger("shmq.supervisor")
_LOOK_S = 1.0
_QUICK_LOOK_S = 0.1
_NEAR = 0.9
_MIB = 1 << 20


class Recycling:
    """Looks at every worker now and then and says which shall be replaced or killed."""

    def __init__(self, pools: Pools, killer: Killer, state_dir: Path) -> None:
        self._pools = pools
        self._rows = pools.rows
        self._killer = killer
        self._state_dir = state_dir
        self._next_look = 0.0
        self._next_quick_look = 0.0
        self._kills_before = self._kills_last = probes.oom_kills()

    def look(self) -> None:
        """Called each tick: workers of groups with a hard limit ten times a second, the others once."""
        now = time.monotonic()
        if now < self._next_quick_look:
            return
        self._next_quick_look = now + _QUICK_LOOK_S
        is_slow_look = now >= self._next_look
        if is_slow_look:
            self._next_look = now + _LOOK_S
            self._kills_before, self._kills_last = self._kills_last, probes.oom_kills()
        for pool in self._pools.pools:
            has_limit = pool.settings.hard_worker_memory_bytes or pool.settings.max_worker_memory_bytes
            for worker in list(pool.workers.values()):
                if worker.is_live and (is_slow_look or (has_limit and self._may_grow(worker))):
                    self._weigh(pool, worker)
                if worker.is_live and not worker.is_draining and not worker.recycled_for:
                    self._judge(pool, worker, now)

    # -- memory --------------------------------------------------------------------------

    def _may_grow(self, worker: Worker) -> bool:
        """A worker that sleeps and runs nothing does not: once a second is enough for it."""
        rows = self._rows
        return not rows.is_asleep(worker.group, worker.index) or bool(rows.running_job(worker.index))

    def _weigh(self, pool: Pool, worker: Worker) -> None:
        private, shared = probes.memory_of(worker.pid)
        if not private:
            return
        worker.private_bytes, worker.shared_bytes = private, shared
        worker.peak_bytes = max(worker.peak_bytes, private)
        if not worker.first_bytes:
            worker.first_bytes, worker.first_done = private, self._rows.ended(worker.index)
        if self._rows.running_job(worker.index):
            worker.tasks_seen[self._rows.task_key(worker.index)] += 1
        hard = pool.settings.hard_worker_memory_bytes
        if hard and private > hard and worker.kill_reason is None:
            self._kill_over_hard_limit(pool, worker, hard)

    def _kill_over_hard_limit(self, pool: Pool, worker: Worker, hard: int) -> None:
        job = self._rows.running_job(worker.index)
        what = f"{worker.private_bytes // _MIB} MiB private memory, hard limit {hard // _MIB} MiB"
        if not job:
            if not worker.recycled_for:
                worker.recycled_for = f"{what}, without a running job"
                self._announce(pool, worker)
        elif self._rows.running_jobs(worker.index) > 1:
            _log.warning("group %s: worker %d is killed: %s", pool.name, worker.index, what)
            worker.kill(MEMORY)  # which of its jobs took the memory is not known
        elif self._killer.kill_for(worker, job, MEMORY):
            name = self._task_name(self._rows.task_key(worker.index))
            _log.warning("group %s: worker %d is killed in %s: %s", pool.name, worker.index, name, what)

    def was_out_of_memory(self, worker: Worker, peak_rss_bytes: int) -> bool:
        """Was a worker that got SIGKILL from elsewhere killed by the kernel's OOM killer?

        The kernel's counter has risen within the last one to two seconds, or the worker was near its hard
        limit when it was last seen alive.
        """
        worker.peak_bytes = max(worker.peak_bytes, peak_rss_bytes - worker.shared_bytes)
        hard = self._pools.pools[worker.group].settings.hard_worker_memory_bytes
        return probes.oom_kills() > self._kills_before or bool(hard and worker.peak_bytes > _NEAR * hard)

    # -- replacement ---------------------------------------------------------------------

    def _judge(self, pool: Pool, worker: Worker, now: float) -> None:
        settings = pool.settings
        ended, age_s = self._rows.ended(worker.index), now - worker.live_at
        if settings.max_jobs_per_worker and ended >= settings.max_jobs_per_worker:
            worker.recycled_for = f"{ended} jobs run, limit {settings.max_jobs_per_worker}"
        elif settings.max_worker_age_s and age_s >= settings.max_worker_age_s:
            worker.recycled_for = f"{age_s:.1f} s old, limit {settings.max_worker_age_s:g} s"
        elif settings.max_worker_memory_bytes and worker.private_bytes > settings.max_worker_memory_bytes:
            worker.recycled_for = self._explain_growth(worker, settings.max_worker_memory_bytes)
        if worker.recycled_for:
            self._announce(pool, worker)

    @staticmethod
    def _announce(pool: Pool, worker: Worker) -> None:
        _log.info("group %s: worker %d is replaced: %s", pool.name, worker.index, worker.recycled_for)

    def _explain_growth(self, worker: Worker, limit: int) -> str:
        text = f"{worker.private_bytes / _MIB:.1f} MiB private memory, limit {limit / _MIB:.1f} MiB"
        ended = self._rows.ended(worker.index) - worker.first_done
        if ended > 0:
            growth = (worker.private_bytes - worker.first_bytes) / ended * 1000 / _MIB
            text += f"; it grew {growth:.1f} MiB per 1,000 jobs"
        if worker.tasks_seen:
            text += f"; busiest task {self._task_name(worker.tasks_seen.most_common(1)[0][0])}"
        return text

    def _task_name(self, key: int) -> str:
        try:
            infos = registry.read(self._state_dir)
        except ShmqError:
            infos = {}
        return next((info.name for info in infos.values() if info.key == key), f"task {key:#018x}")
