"""Recovery's hands: what may be done to jobs whose worker is proven dead, or that are due.

Only recovery calls these, one process at a time (lock byte). Every step is idempotent and reads its
state from the table, so it may be killed anywhere and started again.
"""

from __future__ import annotations

import fcntl
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmq.memory import locks
from shmq.memory.columns import column
from shmq.memory.fence import new_fence
from shmq.memory.lanes import Lane, lane
from shmq.memory.layout import PRIORITIES
from shmq.memory.segment import Segment
from shmq.transport.bells import Bells
from shmq.transport.states import IS_FREE, IS_SCHEDULED, count_where
from shmq.transport.table import (
    CANCELLED,
    DONE,
    GENERATION_SHIFT,
    GROUP,
    GROUP_SHIFT,
    LEASED,
    OWNER_SHIFT,
    QUEUED,
    REQUEUED,
    RUNNING,
    SCHEDULED,
    STATE,
    group_of,
    next_free,
    with_state,
)
from shmq.wire.header import FLAGS_OFFSET, LANE_SHIFT

_log = logging.getLogger("shmq.recovery")
_U = np.uint64
_ENDLESS = 1 << 63
"""A position that no lane reaches by counting."""


class Redeliverer:
    """Writes REQUEUED words and recovery's own lanes."""

    def __init__(self, segment: Segment, lock_file: locks.LockFile) -> None:
        self.segment = segment
        self.bells = Bells(segment)
        self._fd = lock_file.fileno()
        self._shape = segment.shape
        self._words = segment.view("words")
        self._heads, self._tails, self._rings = (segment.view(n) for n in ("heads", "tails", "rings"))
        self._payload = segment.view("payload")
        self._np_words: NDArray[Any] = column(segment, "words")
        self._np_dues: NDArray[Any] = column(segment, "dues")
        self._np_cancels: NDArray[Any] = column(segment, "cancels")
        self._fence = new_fence()
        self._unpushed: list[int] = self.slots_in(REQUEUED)
        self._has_scheduled = (
            True  # were there any at the last look? Else a look without numpy, whose code is cold then
        )

    def slots_in(self, *states: int) -> list[int]:
        """Slots whose job word is in one of the states."""
        found = np.isin(self._np_words & _U(STATE), np.array(states, _U))
        slots: list[int] = found.nonzero()[0].tolist()
        return slots

    def owned_by(self, worker: int) -> list[int]:
        """Slots leased to or run by the worker row.

        INVARIANT: each word is loaded once. State and owner of two moments make a lease that never was: a living
        worker's job that ends in between has no owner any more, and would be given to row 0's heirs.
        """
        words = self._np_words.copy()
        states = words & _U(STATE)
        owners = (words >> _U(OWNER_SHIFT)) & _U(0x3FF)
        mine = (owners == worker) & ((states == LEASED) | (states == RUNNING))
        slots: list[int] = mine.nonzero()[0].tolist()
        return slots

    # -- pushing -------------------------------------------------------------------------

    def requeue(self, slot: int, word: int) -> None:
        """One store makes the job REQUEUED; its lane entry follows, now or when there is room."""
        # SYNC POINT: requeued — the word is REQUEUED before a lane offers the slot
        self._words[slot] = with_state(word, REQUEUED)
        if not self._push(slot):
            self._unpushed.append(slot)

    @property
    def has_unpushed(self) -> bool:
        """Are there REQUEUED jobs for which a lane was full?"""
        return bool(self._unpushed)

    def push_waiting(self) -> None:
        """Push REQUEUED jobs for which a lane was full, as far as there is room now."""
        waiting, self._unpushed = self._unpushed, []
        for slot in waiting:
            if self._words[slot] & STATE == REQUEUED and not self._push(slot):
                self._unpushed.append(slot)

    def _push(self, slot: int) -> bool:
        word = self._words[slot]
        group = group_of(word)
        if group >= self._shape.groups:
            return True  # damaged: no lane can ever offer it
        flags = self._payload[slot * self._shape.slot_bytes + FLAGS_OFFSET]
        place = lane(self._shape, group, self._shape.recovery_row, min(flags >> LANE_SHIFT, PRIORITIES - 1))
        head, tail = self._heads[place.word], self._tails[place.word]
        if not 0 <= tail - head <= self._shape.slots_per_producer or tail >= _ENDLESS:
            self._start_anew(group, place)
            head = tail = 0
        if tail - head == self._shape.slots_per_producer:
            return False
        self._rings[place.ring + (tail & self._shape.slots_per_producer - 1)] = slot
        self._tails[place.word] = tail + 1
        self._fence()  # SYNC POINT: doorbell
        self.bells.wake_one(group)
        return True

    def _start_anew(self, group: int, place: Lane) -> None:
        """Positions that nobody of us wrote: empty the lane, then offer every REQUEUED job once more."""
        _log.error(
            "recovery's lane of group %d (index %d) was overwritten (head %d, tail %d): started anew",
            group, place.word, self._heads[place.word], self._tails[place.word],
        )  # fmt: skip
        byte = locks.group_byte(group)
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, byte)
        try:
            self._heads[place.word] = self._tails[place.word] = 0
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)
        self._unpushed.extend(self.slots_in(REQUEUED))

    def deliver_due(self, now_ns: int) -> int:
        """Push every SCHEDULED job that is due, end those that were cancelled meanwhile; when the next is due, or 0."""
        if not self._has_scheduled and not count_where(self.segment, IS_SCHEDULED, 0, self._shape.slots):
            return 0
        waiting = (self._np_words & _U(STATE) == SCHEDULED).nonzero()[0]
        self._has_scheduled = len(waiting) > 0
        if not self._has_scheduled:
            return 0
        cancelled = self._np_cancels[waiting] == (self._np_words[waiting] >> _U(GENERATION_SHIFT))
        for slot in waiting[cancelled].tolist():
            self.end_cancelled(slot)
        waiting = waiting[~cancelled]
        dues = self._np_dues[waiting]
        is_due = dues <= _U(now_ns)
        due = waiting[is_due]
        for slot in due[np.argsort(dues[is_due], kind="stable")].tolist():
            self.requeue(slot, self._words[slot])
        later = dues[~is_due]
        return int(later.min()) if len(later) else 0

    # -- ends ----------------------------------------------------------------------------

    def end_cancelled(self, slot: int) -> None:
        """CANCELLED; its producer is told. Caller must: own the word (SCHEDULED, or group byte held)."""
        self._words[slot] = with_state(self._words[slot], CANCELLED)
        self.ring_producer_of(slot)

    def ring_producer_of(self, slot: int) -> None:
        """Its job has ended: wake whoever waits for it."""
        self._fence()  # SYNC POINT: doorbell
        self.bells.notify_producer(slot // self._shape.slots_per_producer)

    def sweep_cancelled(self, group: int) -> int:
        """In a group nobody claims from: end cancelled jobs and pass stale entries. How many ended."""
        states = self._np_words & _U(STATE)
        groups = (self._np_words & _U(GROUP)) >> _U(GROUP_SHIFT)
        asked = self._np_cancels == (self._np_words >> _U(GENERATION_SHIFT))
        asked &= ((states == QUEUED) | (states == REQUEUED)) & (groups == group)
        if not asked.any():
            return 0
        byte, ended = locks.group_byte(group), 0
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, byte)
        try:
            for slot in asked.nonzero()[0].tolist():
                word = self._words[slot]
                if word & STATE in (QUEUED, REQUEUED) and self._np_cancels[slot] == word >> GENERATION_SHIFT:
                    self._words[slot] = with_state(word, CANCELLED)
                    ended += 1
            self._pass_stale(group)
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)
        self._fence()  # SYNC POINT: doorbell
        for row in range(self._shape.producers):
            self.bells.notify_producer(row)
        return ended

    def _pass_stale(self, group: int) -> None:
        """Caller must: hold the group's byte."""
        mask = self._shape.slots_per_producer - 1
        for row in range(self._shape.producers + 1):
            for priority in range(PRIORITIES):
                place = lane(self._shape, group, row, priority)
                head, tail = self._heads[place.word], self._tails[place.word]
                if not 0 <= tail - head <= mask + 1:  # damaged: believe what the ring can hold
                    head = max(tail - mask - 1, 0)
                while head < tail and not self._is_claimable(self._rings[place.ring + (head & mask)], group):
                    head += 1
                self._heads[place.word] = head

    def _is_claimable(self, slot: int, group: int) -> bool:
        if slot >= self._shape.slots:
            return False
        word = self._words[slot]
        return word & STATE in (QUEUED, REQUEUED) and group_of(word) == group

    def free_ended(self, row: int) -> int:
        """Free ended jobs of a row that nobody holds. Caller must: hold the row's byte."""
        first = row * self._shape.slots_per_producer
        words = self._np_words[first : first + self._shape.slots_per_producer]
        ended = ((words & _U(STATE)) >= _U(DONE)).nonzero()[0].tolist()
        for i in ended:
            self._words[first + i] = next_free(self._words[first + i])
        return len(ended)

    def is_used(self, row: int) -> bool:
        """Is there a slot of the row that is not FREE?"""
        first, count = row * self._shape.slots_per_producer, self._shape.slots_per_producer
        return count_where(self.segment, IS_FREE, first, first + count) < count
