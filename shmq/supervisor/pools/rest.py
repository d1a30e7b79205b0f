"""Is the whole system at rest? Then the supervisor need not look ten times a second.

At rest: every worker that is wanted is live and asleep, none runs a job (who runs many at once sleeps while it has free
places), no lane has entries, and nobody has claimed anything for a second. What ends the rest rings the supervisor: a
worker that is woken, a kill request, the planner with another target, the first job of a group without workers, a
worker that dies (SIGCHLD), the control socket.
"""

from __future__ import annotations

import time

from shmq.supervisor.pools.pools import Pools
from shmq.supervisor.pools.worker import Pool, Worker

_AFTER_S = 1.0


class Rest:
    """Watches for a while without work."""

    def __init__(self, pools: Pools) -> None:
        self._pools, self._rows = pools, pools.rows
        self._claimed: list[int] = []
        self._since = 0.0

    def has_come(self) -> bool:
        """Called whenever the supervisor is awake."""
        now = time.monotonic()
        claimed = [self._rows.claimed(pool.index) for pool in self._pools.pools]
        if claimed != self._claimed or self._rows.has_work() or not all(map(self._is_calm, self._pools.pools)):
            self._claimed, self._since = claimed, now
        return now - self._since >= _AFTER_S

    def _is_calm(self, pool: Pool) -> bool:
        workers = pool.workers.values()
        return len(workers) == pool.target and all(map(self._is_idle, workers))

    def _is_idle(self, worker: Worker) -> bool:
        if not worker.is_live or worker.is_draining or not self._rows.is_asleep(worker.group, worker.index):
            return False
        return not self._rows.running_job(worker.index)
