"""What the control socket's requests do. Each returns facts; a refusal is raised as ShmqError."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmq.errors import ShmqError, UnknownGroup
from shmq.supervisor.pools.worker import Pool

if TYPE_CHECKING:
    from shmq.supervisor.main import Supervisor

Answer = dict[str, Any]
_LONGEST_TEXT = 8192
_BREAKER = ("breaker_failure_share", "breaker_window", "breaker_open_s", "breaker_mode")


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
        """Run what was accepted, accept nothing more, then end."""
        return {"pid": os.getpid(), "jobs": self._supervisor.stopping.drain()}

    def reload(self) -> Answer:
        """Import the task modules anew."""
        if self._supervisor.stopping.has_begun or not self._supervisor.servers.reload():
            raise ShmqError("a reload is under way, or the supervisor is stopping: nothing was changed")
        return {"modules": list(self._supervisor.config.tasks)}

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

    def limit(self, group: str | None = None, task: str | None = None, *, off: bool = False, **changes: Any) -> Answer:
        """Change the group's rate limit; what is not named stays as it is."""
        if group is None or task is not None:
            raise ShmqError(f"limits of single tasks are set in the configuration: [limits.{task!r}]")
        pool, pools = self._pool(group), self._supervisor.pools
        unknown = set(changes) - {"rate_per_s", "burst", *_BREAKER}
        if unknown:
            raise ShmqError(
                f"unknown limit {', '.join(sorted(unknown))}; known: rate_per_s, burst, {', '.join(_BREAKER)}"
            )
        if off:
            pools.set_rate(pool, None, None)
            pools.rows.set_control(pool.index, "breaker_share_milli", 0)
        self._set_rate(pool, changes)
        self._set_breaker(pool, changes)
        pools.wake(pool)
        rows = pools.rows
        return {
            "group": group,
            "rate_per_s": rows.control(pool.index, "rate_per_s_milli") / 1000 or None,
            "burst": rows.control(pool.index, "burst"),
        }

    def _set_rate(self, pool: Pool, changes: dict[str, Any]) -> None:
        if not {"rate_per_s", "burst"} & set(changes):
            return
        rows = self._supervisor.pools.rows
        rate = changes.get("rate_per_s", rows.control(pool.index, "rate_per_s_milli") / 1000 or None)
        if rate is None:
            raise ShmqError(f"group {pool.name!r} has no rate limit, so a burst means nothing; give rate_per_s too")
        burst = changes.get("burst")
        if burst is None and "rate_per_s" not in changes:
            burst = rows.control(pool.index, "burst")
        if not _is_number(rate) or not rate > 0:
            raise ShmqError(f"rate_per_s must be a positive number of jobs per second, got {rate!r}")
        if burst is not None and not (_is_whole(burst) and burst >= 1):
            raise ShmqError(f"burst must be 1 or more jobs, got {burst!r}")
        self._supervisor.pools.set_rate(pool, float(rate), burst)

    def _set_breaker(self, pool: Pool, changes: dict[str, Any]) -> None:
        """The words that workers' breakers obey."""
        for name, word, factor in (
            ("breaker_failure_share", "breaker_share_milli", 1000),
            ("breaker_window", "breaker_window", 1),
            ("breaker_open_s", "breaker_open_ns", 1_000_000_000),
        ):
            value = changes.get(name)
            if value is None:
                continue
            if not _is_number(value) or not value > 0:
                raise ShmqError(f"{name} must be a positive number, got {value!r}")
            self._supervisor.pools.rows.set_control(pool.index, word, int(min(value, 1e9) * factor))
        mode = changes.get("breaker_mode")
        if mode not in {None, "wait", "fail"}:
            raise ShmqError(f"breaker_mode must be wait or fail, got {mode!r}")
        if mode is not None:
            self._supervisor.pools.rows.set_control(pool.index, "breaker_fail_fast", int(mode == "fail"))

    def _pool(self, group: str) -> Pool:
        pools = self._supervisor.pools.pools
        pool = next((p for p in pools if p.name == group), None)
        if pool is None:
            raise UnknownGroup(f"no group {group!r}; this supervisor runs {', '.join(p.name for p in pools)}")
        return pool


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
