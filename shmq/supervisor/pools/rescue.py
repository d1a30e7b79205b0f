"""Work that nobody was rung for: workers at rest sleep long, so the supervisor's tick looks for it.

    a lane has work, somebody sleeps ── 20 ms later: the same ──▶ ring all sleepers of the group

Normally there is none: whoever publishes rings. But a ring may go to a worker that is stopped, and whoever
should have rung may have been killed just before.
"""

from __future__ import annotations

from shmq.supervisor.pools.pools import Pools
from shmq.supervisor.pools.worker import Pool

AGAIN_S = 0.02
"""When to look again after a find: a ring under way has long arrived by then."""


class Rescue:
    """Rings for work that waits beside sleepers."""

    def __init__(self, pools: Pools) -> None:
        self._pools, self._rows = pools, pools.rows
        self._seen: dict[int, dict[int, int]] = {}  # by group: heads of its lanes with work, at the last look

    def look(self) -> None:
        """Called each tick."""
        before, self._seen = self._seen, {}
        if self._rows.has_work():
            for pool in self._pools.pools:
                self._look_at(pool, before.get(pool.index, {}))

    @property
    def has_found(self) -> bool:
        """Shall the next look come after AGAIN_S?"""
        return bool(self._seen)

    def _look_at(self, pool: Pool, before: dict[int, int]) -> None:
        rows = self._rows
        sleepers = [worker for worker in pool.workers.values() if rows.is_asleep(pool.index, worker.index)]
        if rows.control(pool.index, "paused") or not sleepers:
            return
        waiting = rows.heads_with_work(pool.index)
        if not waiting.items() & before.items():
            if waiting:
                self._seen[pool.index] = waiting
            return
        # else they may sleep until their limit lets them go on; have been rung, but got no core yet; or do not wait
        # for the bell that we know
        is_lost = not (rows.is_limited(pool.index) or any(worker.bell.is_rung() for worker in sleepers))
        if is_lost and pool.settings.concurrency == 1:
            rows.add(pool.index, "rescues", 1)
        self._pools.wake(pool)
