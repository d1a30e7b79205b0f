"""Rate limit and circuit breaker: a few shared words per limited thing, decided under its lock byte.

The rate is a token bucket kept as one word, the theoretical arrival time (GCRA, ITU-T I.371): shared
by all workers, not one bucket each. The breaker (M. Nygard, "Release It!", 2007) opens when the share of
failures among the last `window` jobs is reached, lets one probe through after `open_ns`, and closes
when it succeeds.

    CLOSED ── failures ≥ share of window ──▶ OPEN ── open_ns later, one probe ──▶ HALF_OPEN
       ▲───────────── probe succeeded ───────────────────────────────────────────────┤
                                        OPEN ◀───────── probe failed ────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shmq.clock import NS

CLOSED, OPEN, HALF_OPEN = range(3)


@dataclass
class Allowance:
    """How many jobs may start now, when to look again, and whether the rest fails at once."""

    jobs: int
    again_ns: int = 0
    fails_fast: bool = False


class Limit:
    """One limited thing: a group, or the tasks of one `[limits."pattern"]`.

    Args:
        config: words the supervisor writes, by `words`.
        state: words the holder of the lock byte writes, by `state_words`.
    Caller must: hold the lock byte.
    """

    def __init__(
        self, config: memoryview, words: Mapping[str, int], state: memoryview, state_words: Mapping[str, int]
    ) -> None:
        self._config, self._words = config, words
        self._state, self._state_words = state, state_words

    def _get(self, word: str) -> int:
        return int(self._config[self._words[word]])

    def _read(self, word: str) -> int:
        return int(self._state[self._state_words[word]])

    def _write(self, word: str, value: int) -> None:
        self._state[self._state_words[word]] = value

    @property
    def has_breaker(self) -> bool:
        """Must ends of jobs be reported?"""
        return bool(self._get("breaker_share_milli"))

    def allow(self, most: int, now_ns: int) -> Allowance:
        """How many of `most` jobs may start; their tokens are spent by `spend`."""
        gate = self._gate(most, now_ns) if self.has_breaker else Allowance(most)
        if gate.fails_fast or not gate.jobs or not self._get("rate_per_s_milli"):
            return gate
        return self._tokens(gate.jobs, now_ns)

    def _gate(self, most: int, now_ns: int) -> Allowance:
        state, until = self._read("breaker"), self._read("breaker_until_ns")
        if state == CLOSED:
            return Allowance(most)
        if now_ns < until:
            fails_fast = bool(self._get("breaker_fail_fast"))
            return Allowance(most if fails_fast else 0, until, fails_fast)
        self._write("breaker_until_ns", now_ns + max(self._get("breaker_open_ns"), 1))  # a lost probe is repeated
        self._write("breaker", HALF_OPEN)
        return Allowance(1)

    def _tokens(self, most: int, now_ns: int) -> Allowance:
        interval = max(1000 * NS // self._get("rate_per_s_milli"), 1)
        burst = max(self._get("burst"), 1)
        theoretical = max(self._read("rate_ns"), now_ns)
        allowed = max((now_ns + burst * interval - theoretical) // interval, 0)
        if allowed >= most:
            return Allowance(most)
        return Allowance(allowed, theoretical - (burst - 1) * interval if not allowed else now_ns + interval)

    def spend(self, jobs: int, now_ns: int) -> None:
        """`jobs` start now."""
        rate = self._get("rate_per_s_milli")
        if rate and jobs:
            self._write("rate_ns", max(self._read("rate_ns"), now_ns) + jobs * max(1000 * NS // rate, 1))

    def report(self, jobs: int, failures: int, now_ns: int) -> None:
        """So many jobs ended, so many of them failed."""
        if not self.has_breaker or not jobs:
            return
        if self._read("breaker") == HALF_OPEN:
            self._open(now_ns) if failures else self._close()
            return
        if self._read("breaker") == OPEN:
            return  # jobs that were under way when it opened
        calls, failed = self._read("breaker_calls") + jobs, self._read("breaker_failures") + failures
        window = max(self._get("breaker_window"), 1)
        if failed * 1000 >= self._get("breaker_share_milli") * window:
            self._open(now_ns)
            return
        if calls >= window:  # older ends count half, and half again
            calls, failed = calls // 2, failed // 2
        self._write("breaker_calls", calls)
        self._write("breaker_failures", failed)

    def _open(self, now_ns: int) -> None:
        self._write("breaker_until_ns", now_ns + self._get("breaker_open_ns"))
        self._write("breaker", OPEN)

    def _close(self) -> None:
        self._write("breaker_calls", 0)
        self._write("breaker_failures", 0)
        self._write("breaker", CLOSED)
