"""Limits of single tasks: after a claim, jobs over their task's limit go back or fail at once.

One `[limits."pattern"]` is one limit, shared by all tasks that match the pattern, in all groups.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from shmq.clock import now_ns
from shmq.memory import locks
from shmq.memory.layout import TASK_LIMIT, TASK_LIMIT_STATE
from shmq.tasks.registry import limit_of
from shmq.transport.limits import Limit
from shmq.transport.table import with_state
from shmq.wire.header import KEY_WORD

if TYPE_CHECKING:
    from shmq.tasks.task import Task
    from shmq.worker.seat import Seat


_LONGEST_HOLD_NS = 5_000_000_000
"""Then a job that is held back is asked about again: the limit may have been changed."""


class TaskLimits:
    """The task limits as one worker obeys them. Falsy when no task here is limited."""

    def __init__(
        self, seat: Seat, lock_file: locks.LockFile, patterns: Iterable[str], tasks: dict[int, Task[Any, Any]]
    ) -> None:
        self._seat = seat
        self._lock_file = lock_file
        names = list(patterns)
        self._limits: list[Limit] = []
        if names:  # most often there are none: then their rows are not looked at either
            configs, states = seat.segment.rows("task_limits"), seat.segment.rows("task_limit_states")
            self._limits = [Limit(configs[i], TASK_LIMIT, states[i], TASK_LIMIT_STATE) for i in range(len(names))]
        self._of_key: dict[int, int] = {}
        for key, task in tasks.items():
            found = limit_of(task.name, names)
            if found is not None:
                self._of_key[key] = found[0]
        self._keys = seat.segment.slot_words(KEY_WORD)
        self._jobs: dict[int, int] = {}
        self._failures: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._of_key)

    def hold_back(self, slots: list[int], words: list[int]) -> list[tuple[int, int]]:
        """Take jobs over their limit out of the batch: rescheduled to when they may run.

        Returns:
            (slot, word) of those that must fail because their circuit is open.
        """
        by_limit: dict[int, list[int]] = {}
        for i, slot in enumerate(slots):
            index = self._of_key.get(self._keys[slot])
            if index is not None:
                by_limit.setdefault(index, []).append(i)
        latest_ns = now_ns() + _LONGEST_HOLD_NS
        removed: list[int] = []
        refused: list[tuple[int, int]] = []
        for index, places in by_limit.items():
            allowed, again_ns, fails_fast = self._ask(index, len(places))
            over = places if fails_fast else places[allowed:]
            removed += over
            for n, i in enumerate(over):
                if fails_fast:
                    refused.append((slots[i], words[i]))
                else:  # one after the other, or all would come back at the same moment
                    due = min(again_ns + n * self._interval_ns(index), latest_ns)
                    self._seat.reschedule(slots[i], with_state(words[i], 0), due)
        if removed and len(removed) > len(refused):
            self._seat.bells.notify_recovery()
        for i in sorted(removed, reverse=True):
            del slots[i], words[i]
        return refused

    def _interval_ns(self, index: int) -> int:
        rate = self._seat.segment.rows("task_limits")[index][TASK_LIMIT["rate_per_s_milli"]]
        return int(1e12 / rate) if rate else 0

    def _ask(self, index: int, most: int) -> tuple[int, int, bool]:
        byte, now = locks.limit_byte(index), now_ns()
        self._lock_file.acquire(byte)
        try:
            allowance = self._limits[index].allow(most, now)
            if not allowance.fails_fast:
                self._limits[index].spend(allowance.jobs, now)
        finally:
            self._lock_file.release(byte)
        return allowance.jobs, allowance.again_ns, allowance.fails_fast

    def ended(self, slot: int, *, has_failed: bool) -> None:
        """Note how a job ended, for the breaker."""
        index = self._of_key.get(self._keys[slot])
        if index is not None and self._limits[index].has_breaker:
            self._jobs[index] = self._jobs.get(index, 0) + 1
            self._failures[index] = self._failures.get(index, 0) + has_failed

    def report(self) -> None:
        """Tell the breakers what was noted."""
        for index, jobs in self._jobs.items():
            byte = locks.limit_byte(index)
            self._lock_file.acquire(byte)
            try:
                self._limits[index].report(jobs, self._failures[index], now_ns())
            finally:
                self._lock_file.release(byte)
        self._jobs.clear()
        self._failures.clear()
