"""Rate limits and circuit breakers, of groups and of tasks: written into the segment for the workers to obey."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from shmq.clock import NS
from shmq.config.model import Config, Limit
from shmq.errors import ConfigError, ShmqError
from shmq.memory.layout import GROUP_CONTROL, MOST_TASK_LIMITS, TASK_LIMIT
from shmq.memory.segment import Segment

_MOST_PER_S, _LONGEST_S, _MOST_WORD = 1e12, 1e9, (1 << 63) - 1
_KNOWN = ("rate_per_s", "burst", "breaker_failure_share", "breaker_window", "breaker_open_s", "breaker_mode")


class LimitWords:
    """The words of one limit: of a group, or of the tasks of one `[limits."pattern"]`.

    Args:
        what: its name in messages.
        places: index of each word in the row.
    """

    def __init__(self, what: str, row: memoryview, places: Mapping[str, int]) -> None:
        self._what, self._row, self._places = what, row, places

    def write(self, limit: Limit) -> None:
        """As configured."""
        self._put_rate(limit.rate_per_s, limit.burst)
        self._put("breaker_share_milli", int((limit.breaker_failure_share or 0.0) * 1000))
        self._put("breaker_window", limit.breaker_window)
        self._put("breaker_open_ns", int(limit.breaker_open_s * NS))
        self._put("breaker_fail_fast", int(limit.breaker_mode == "fail"))

    def remove(self) -> None:
        """No rate limit, no breaker."""
        self._put_rate(None, None)
        self._put("breaker_share_milli", 0)

    def change(self, changes: Mapping[str, Any]) -> None:
        """Change what is named, as the configuration's keys are; the rest stays as it is. Raises ShmqError."""
        if unknown := sorted(set(changes) - set(_KNOWN)):
            raise ShmqError(f"unknown limit {', '.join(unknown)}; known: {', '.join(_KNOWN)}")
        words = self._rate_words(changes) | self._breaker_words(changes)  # all are checked before one is written
        for word, value in words.items():
            self._put(word, value)

    @property
    def rate(self) -> dict[str, Any]:
        """The rate limit in force."""
        return {"rate_per_s": self._get("rate_per_s_milli") / 1000 or None, "burst": self._get("burst")}

    def _rate_words(self, changes: Mapping[str, Any]) -> dict[str, int]:
        if not {"rate_per_s", "burst"} & set(changes):
            return {}
        rate, burst = changes.get("rate_per_s", self.rate["rate_per_s"]), changes.get("burst")
        if rate is None:
            raise ShmqError(f"{self._what} has no rate limit, so a burst means nothing; give rate_per_s too")
        if burst is None and "rate_per_s" not in changes:
            burst = self._get("burst")
        if not _is_number(rate) or not rate > 0:
            raise ShmqError(f"rate_per_s must be a positive number of jobs per second, got {rate!r}")
        if burst is not None and not (isinstance(burst, int) and not isinstance(burst, bool) and burst >= 1):
            raise ShmqError(f"burst must be 1 or more jobs, got {burst!r}")
        return _rate(float(rate), burst)

    @staticmethod
    def _breaker_words(changes: Mapping[str, Any]) -> dict[str, int]:
        found = {}
        for name, word, factor in (
            ("breaker_failure_share", "breaker_share_milli", 1000),
            ("breaker_window", "breaker_window", 1),
            ("breaker_open_s", "breaker_open_ns", NS),
        ):
            value = changes.get(name)
            if value is None:
                continue
            if not _is_number(value) or not value > 0:
                raise ShmqError(f"{name} must be a positive number, got {value!r}")
            found[word] = int(min(value, _LONGEST_S) * factor)
        mode = changes.get("breaker_mode")
        if mode not in {None, "wait", "fail"}:
            raise ShmqError(f"breaker_mode must be wait or fail, got {mode!r}")
        return found | ({"breaker_fail_fast": int(mode == "fail")} if mode is not None else {})

    def _put_rate(self, rate_per_s: float | None, burst: int | None) -> None:
        for word, value in _rate(rate_per_s, burst).items():
            self._put(word, value)

    def _get(self, word: str) -> int:
        return int(self._row[self._places[word]])

    def _put(self, word: str, value: int) -> None:
        self._row[self._places[word]] = max(0, min(value, _MOST_WORD))


def write(segment: Segment, config: Config) -> None:
    """One row per `[limits."pattern"]`, in the order of the configuration.

    Raises:
        ConfigError: more limits than rows.
    """
    if len(config.limits) > MOST_TASK_LIMITS:
        raise ConfigError(f"[limits]: {len(config.limits)} task limits; at most {MOST_TASK_LIMITS} are possible")
    for number, (pattern, limit) in enumerate(config.limits.items()):
        of_tasks(segment, number, pattern).write(limit)


def of_group(segment: Segment, index: int, name: str) -> LimitWords:
    """The words of a group's limit."""
    return LimitWords(f"group {name!r}", segment.rows("group_control")[index], GROUP_CONTROL)


def of_tasks(segment: Segment, number: int, pattern: str) -> LimitWords:
    """The words of `[limits."pattern"]`, the `number`-th of the configuration."""
    return LimitWords(f"[limits.{pattern!r}]", segment.rows("task_limits")[number], TASK_LIMIT)


def _rate(rate_per_s: float | None, burst: int | None) -> dict[str, int]:
    """The words of a rate limit, the burst first: a worker sees none without its burst."""
    milli = max(int(min(rate_per_s, _MOST_PER_S) * 1000), 1) if rate_per_s else 0
    return {"burst": burst if burst is not None else max(int(rate_per_s or 0), 1), "rate_per_s_milli": milli}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
