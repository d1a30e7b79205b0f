"""Rate limits and circuit breakers, of groups and of tasks: written into the segment for the workers to obey."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shmq.clock import NS
from shmq.config.model import Config, Limit
from shmq.errors import ConfigError, ShmqError
from shmq.memory.layout import GROUP_CONTROL, LIMIT_WORDS, MOST_TASK_LIMITS, TASK_LIMIT, WORD
from shmq.memory.segment import Segment

_MOST_WORD = (1 << 63) - 1
_WORDS = {
    "rate_per_s": ("burst", "rate_per_s_milli"),  # the burst first: a worker sees no rate without its burst
    "burst": ("burst",),
    "breaker_failure_share": ("breaker_share_milli",),
    "breaker_window": ("breaker_window",),
    "breaker_open_s": ("breaker_open_ns",),
    "breaker_mode": ("breaker_fail_fast",),
}
"""By key of the configuration: the words that say it."""


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
        self._put(_words_of(limit), _WORDS)

    def remove(self) -> None:
        """No rate limit, no breaker."""
        self._put(_words_of(Limit()), ("rate_per_s", "breaker_failure_share"))

    def change(self, changes: Mapping[str, Any]) -> None:
        """Change what is named, with the keys and bounds of the configuration; the rest stays. Raises ShmqError."""
        try:
            limit = msgspec.convert(changes, Limit)
        except msgspec.ValidationError as error:
            raise ShmqError(f"this is no limit: {error}; known are {', '.join(_WORDS)}") from None
        if limit.burst and limit.rate_per_s is None and not self._get("rate_per_s_milli"):
            raise ShmqError(f"{self._what} has no rate limit, so a burst means nothing; give rate_per_s too")
        self._put(_words_of(limit), changes)

    @property
    def rate(self) -> dict[str, Any]:
        """The rate limit in force."""
        return {"rate_per_s": self._get("rate_per_s_milli") / 1000 or None, "burst": self._get("burst")}

    def _get(self, word: str) -> int:
        return int(self._row[self._places[word]])

    def _put(self, words: Mapping[str, int], keys: Iterable[str]) -> None:
        for word in (word for key in keys for word in _WORDS[key]):
            self._row[self._places[word]] = min(words[word], _MOST_WORD)


def write(segment: Segment, config: Config) -> None:
    """One row per `[limits."pattern"]`, in the order of the configuration. Caller must: know that no worker lives.

    Raises:
        ConfigError: more limits than rows.
    """
    if len(config.limits) > MOST_TASK_LIMITS:
        raise ConfigError(f"[limits]: {len(config.limits)} task limits; at most {MOST_TASK_LIMITS} are possible")
    # under a former supervisor a number may have meant another pattern
    for field in ("task_limits", "task_limit_states"):
        segment.view(field)[:] = memoryview(bytes(8 * MOST_TASK_LIMITS * LIMIT_WORDS)).cast(WORD)
    for number, (pattern, limit) in enumerate(config.limits.items()):
        of_tasks(segment, number, pattern).write(limit)


def of_group(segment: Segment, index: int, name: str) -> LimitWords:
    """The words of a group's limit."""
    return LimitWords(f"group {name!r}", segment.rows("group_control")[index], GROUP_CONTROL)


def of_tasks(segment: Segment, number: int, pattern: str) -> LimitWords:
    """The words of `[limits."pattern"]`, the `number`-th of the configuration."""
    return LimitWords(f"[limits.{pattern!r}]", segment.rows("task_limits")[number], TASK_LIMIT)


def _words_of(limit: Limit) -> dict[str, int]:
    rate = limit.rate_per_s
    return {
        "burst": limit.burst or max(int(rate or 0), 1),
        "rate_per_s_milli": max(round(rate * 1000), 1) if rate else 0,
        "breaker_share_milli": max(round(limit.breaker_failure_share * 1000), 1) if limit.breaker_failure_share else 0,
        "breaker_window": limit.breaker_window,
        "breaker_open_ns": int(limit.breaker_open_s * NS),
        "breaker_fail_fast": int(limit.breaker_mode == "fail"),
    }
