"""The configured limits of tasks, written into the segment for the workers to obey."""

from __future__ import annotations

from shmq.clock import NS
from shmq.config.model import Config
from shmq.errors import ConfigError
from shmq.memory.layout import MOST_TASK_LIMITS, TASK_LIMIT
from shmq.memory.segment import Segment


def write(segment: Segment, config: Config) -> None:
    """One row per `[limits."pattern"]`, in the order of the configuration.

    Raises:
        ConfigError: more limits than rows.
    """
    if len(config.limits) > MOST_TASK_LIMITS:
        raise ConfigError(f"[limits]: {len(config.limits)} task limits; at most {MOST_TASK_LIMITS} are possible")
    for row, limit in zip(segment.rows("task_limits"), config.limits.values(), strict=False):
        for word, value in {
            "rate_per_s_milli": max(int(min(limit.rate_per_s, 1e12) * 1000), 1) if limit.rate_per_s else 0,
            "burst": limit.burst or max(int(limit.rate_per_s or 0), 1),
            "breaker_share_milli": int((limit.breaker_failure_share or 0.0) * 1000),
            "breaker_window": limit.breaker_window,
            "breaker_open_ns": int(limit.breaker_open_s * NS),
            "breaker_fail_fast": int(limit.breaker_mode == "fail"),
        }.items():
            row[TASK_LIMIT[word]] = value
