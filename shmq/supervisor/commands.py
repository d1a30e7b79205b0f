"""What the control socket's requests do. Each returns facts; a refusal is raised as ShmqError."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmq.errors import ShmqError, UnknownGroup
from shmq.supervisor import limits
from shmq.supervisor.limits import LimitWords
from shmq.supervisor.pools.worker import Pool
from shmq.tasks.registry import limit_of

if TYPE_CHECKING:
    from shmq.supervisor.main import Supervisor

Answer = dict[str, Any]
_LONGEST_TEXT = 8192


class Commands:
    """The handlers of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def handlers(self) -> dict[str, Callable[..., Answer]]:
        """Handler of each command."""
        return {
            "ping": self.ping, "stop": self.stop, "drain": self.drain, "reload": self.reload,
            "pause": self.pause, "resume": self.resume, "scale": self.scale, "workers": self.workers,
            "limit": self.limit, "reload_state": self.reload_state,
        }  # fmt: skip

    def ping(self) -> Answer:
        """Who serves this namespace."""
        return {"pid": os.getpid(), "namespace": self._supervisor.config.namespace}

    def stop(self, grace_s: float | None = None) -> Answer:
        """End within `grace_s`; queued jobs stay."""
        grace = self._supervisor.config.supervisor.grace_s if grace_s is None else float(grace_s)
        if not grace >= 0:  # NaN too
            raise ShmqError(f"grace_s must be 0 or more seconds, got {grace_s!r}")
        self._supervisor.stopping.stop(grace)
        return {"pid": os.getpid()}

    def drain(self) -> Answer:
        """Run what was submitted and what comes meanwhile, then end."""
        return {"pid": os.getpid(), "jobs": self._supervisor.stopping.drain()}

    def reload(self) -> Answer:
        """Import the task modules anew. `restart`: keys of the configuration that have changed and are not taken."""
        return {"restart": self._supervisor.reload()}

    def reload_state(self) -> Answer:
        """Why the last reload was refused; "" while it is under way, or when it went well."""
        return {"refused": self._supervisor.servers.refused[-_LONGEST_TEXT:]}

    def pause(self, group: str) -> Answer:
        """Start no more jobs of the group."""
        return self._set_paused(group, paused=True)

    def resume(self, group: str) -> Answer:
        """Start jobs of the group again."""
        return self._set_paused(group, paused=False)

    def _set_paused(self, group: str, *, paused: bool) -> Answer:
        pool = self._pool(group)
        self._supervisor.pools.rows.set_control(pool.index, "paused", int(paused))
        if not paused:
            self._supervisor.pools.wake(pool)
        return {"group": group, "paused": paused}

    def scale(self, group: str, workers: int | None) -> Answer:
        """Fix the number of workers; None gives the choice back."""
        pool, most = self._pool(group), self._supervisor.pools.rows.count
        if workers is not None and not (_is_whole(workers) and 0 <= workers <= most):
            raise ShmqError(
                f"workers must be 0 to {most} ([memory] max_workers) or nothing (automatic), got {workers!r}"
            )
        pool.fixed_target = workers
        self._supervisor.staffing.decide()
        return {"group": group, "workers": pool.target, "fixed": workers is not None}

    def workers(self) -> Answer:
        """Every worker process."""
        pools = self._supervisor.pools
        return {
            "workers": [
                {
                    "index": w.index, "pid": w.pid, "group": pools.pools[w.group].name, "live": w.is_live,
                    "draining": w.is_draining, "generation": w.generation, "recycled_for": w.recycled_for,
                    "private_bytes": w.private_bytes, "peak_bytes": w.peak_bytes,
                }
                for w in pools.all_workers()
            ]
        }  # fmt: skip

    def limit(self, target: str, *, off: bool = False, **changes: Any) -> Answer:
        """Change a limit: of a group, or of the `[limits]` table that is named or that a task matches."""
        segment, pools = self._supervisor.segment, self._supervisor.pools
        pool = next((pool for pool in pools.pools if pool.name == target), None)
        name, words = (target, limits.of_group(segment, pool.index, target)) if pool else self._of_tasks(target)
        words.change(changes)
        if off:
            words.remove()
        if pool is not None:  # what the limit of a task holds back is delayed instead
            pools.wake(pool)
        return {"name": name, **words.rate}

    def _of_tasks(self, target: str) -> tuple[str, LimitWords]:
        """The pattern that a task matches, or that was named itself, and its words."""
        patterns = list(self._supervisor.config.limits)
        found = (patterns.index(target), target) if target in patterns else limit_of(target, patterns)
        if found is None:
            groups = ", ".join(pool.name for pool in self._supervisor.pools.pools)
            raise UnknownGroup(
                f"{target!r} is no group ({groups}), and no [limits] table of the configuration matches a task of that "
                f"name; there is {', '.join(map(repr, patterns)) or 'none'}.\n"
                f"Write [limits.{target!r}], then start the supervisor again; or limit its group."
            )
        return found[1], limits.of_tasks(self._supervisor.segment, *found)

    def _pool(self, group: str) -> Pool:
        pools = self._supervisor.pools.pools
        pool = next((p for p in pools if p.name == group), None)
        if pool is None:
            raise UnknownGroup(f"no group {group!r}; this supervisor runs {', '.join(p.name for p in pools)}")
        return pool


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
