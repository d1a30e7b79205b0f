"""A producer's side of its row: reserve a slot, publish a job, cancel it, read its end.

    reserve → payload → ring cell → word QUEUED → tail → fence → wake one sleeper, unless the group is attended

Everything here belongs to whoever holds the row's byte; nobody else is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from shmq.clock import now_ns
from shmq.memory.fence import new_fence, new_order_fence
from shmq.memory.lanes import row_lanes
from shmq.memory.layout import PRODUCER, PRODUCER_WORDS
from shmq.memory.segment import Segment
from shmq.transport.bells import Bells
from shmq.transport.promises import Promises
from shmq.transport.states import HAS_ENDED, IS_FREE, slots_where
from shmq.transport.table import (
    CANCELLED,
    DONE,
    FAILED,
    FREE,
    GENERATION_SHIFT,
    GROUP_SHIFT,
    QUEUED,
    REQUEUED,
    RUNNING,
    SCHEDULED,
    STATE,
    group_of,
    next_free,
    owner_of,
)
from shmq.wire.header import HEADER, HEADER_BYTES, PLAIN, VARIADIC


class Route(NamedTuple):
    """What is the same for every job of one task with one set of options."""

    group: int
    lane: int  # index into heads and tails
    ring: int  # index of the lane's first ring entry
    key: int
    flags: int
    retries: int
    timeout_ns: int
    parent: int


class Publisher:
    """One row of the job table, written by this process.

    Concurrency: all calls are serialized by the client's lock.
    """

    def __init__(self, segment: Segment, row: int) -> None:
        shape = segment.shape
        self.segment = segment
        self.row = row
        self.first = row * shape.slots_per_producer
        self.last = self.first + shape.slots_per_producer
        self.inline_bytes = shape.slot_bytes - HEADER_BYTES
        self.free: list[int] = []
        self.reserved: set[int] = set()
        # by slot: the hot path's `call` (by identity) whose constant words its header holds; None: write them all
        self.written: list[object] = [None] * shape.slots_per_producer
        self.bells = Bells(segment, row)
        self.promises = Promises(segment, row, self.bells)
        self._words = segment.view("words")
        self._heads, self._tails, self._rings = (segment.view(n) for n in ("heads", "tails", "rings"))
        self._cancels, self._kills, self._dues = (segment.view(n) for n in ("cancels", "kills", "dues"))
        self._scheduled_at = row * PRODUCER_WORDS + PRODUCER["scheduled"]
        self._rows = segment.view("producer_rows")
        self._fence = new_fence()
        self.publish = self._make_publish()

    def _make_publish(self) -> Callable[[int, Route, int, int, int, int, int, Any], int]:
        """One closure: every name a cell, nothing looked up on an object per job."""
        words, heads, tails, rings = self._words, self._heads, self._tails, self._rings
        payload, stride = self.segment.view("payload"), self.segment.shape.slot_bytes
        capacity = self.segment.shape.slots_per_producer
        mask = capacity - 1
        order = new_order_fence()
        pack_into, fence = HEADER.pack_into, self._fence
        wake_one, believe, written, first = self.bells.wake_one, self.promises.believe, self.written, self.first

        def publish(
            slot: int, route: Route, length: int, block: int, nargs: int, kind: int, expires_ns: int, message: Any
        ) -> int:
            """Publish one job into a reserved slot; its word, or 0 when the lane is full."""
            group, lane, ring, key, flags, retries, timeout_ns, parent = route
            tail = tails[lane]
            if tail - heads[lane] >= capacity:
                return 0
            at = slot * stride
            written[slot - first] = None
            if not (block or kind or expires_ns or timeout_ns) and nargs != VARIADIC:
                flags |= PLAIN
            pack_into(
                payload, at, key, length, nargs, kind, flags, retries, now_ns(), block, timeout_ns, expires_ns, parent
            )
            if not block:
                at += HEADER_BYTES
                payload[at : at + length] = message
            word = (words[slot] >> GENERATION_SHIFT << GENERATION_SHIFT) | group << GROUP_SHIFT | QUEUED
            rings[ring + (tail & mask)] = slot
            if order is not None:
                order()  # SYNC POINT: slot-visible — payload and ring cell before the word says QUEUED
            words[slot] = word
            if order is not None:
                order()  # SYNC POINT: lane-visible — the word is QUEUED before the tail offers the entry
            tails[lane] = tail + 1
            fence()  # SYNC POINT: doorbell — tail visible before we look for sleepers
            if not believe(group):
                wake_one(group)
            return word

        return publish

    def schedule(
        self, slot: int, route: Route, length: int, block: int, nargs: int, kind: int,
        expires_ns: int, message: Any, due_ns: int,
    ) -> int:  # fmt: skip
        """Publish a job that is due later: straight to SCHEDULED, no lane; recovery takes it."""
        payload, at = self.segment.view("payload"), slot * self.segment.shape.slot_bytes
        self.written[slot - self.first] = None
        HEADER.pack_into(
            payload, at, route.key, length, nargs, kind, route.flags, route.retries, now_ns(), block,
            route.timeout_ns, expires_ns, route.parent,
        )  # fmt: skip
        if not block:
            payload[at + HEADER_BYTES : at + HEADER_BYTES + length] = message
        self._dues[slot] = due_ns
        word = (self._words[slot] >> GENERATION_SHIFT << GENERATION_SHIFT) | route.group << GROUP_SHIFT | SCHEDULED
        # SYNC POINT: slot-visible
        self._words[slot] = word
        self._rows[self._scheduled_at] += 1
        self.bells.notify_recovery()
        return word

    def has_room(self, lane: int) -> bool:
        """May the lane take another entry? Stale and doubled ones count until a claim has passed them."""
        return self._tails[lane] - self._heads[lane] < self.segment.shape.slots_per_producer

    def refill(self) -> bool:
        """Find FREE slots of the row again; True when there are any. The table is the truth."""
        found = slots_where(self.segment, IS_FREE, self.first, self.last)
        self.free.extend(slot for slot in reversed(found) if slot not in self.reserved)
        return bool(self.free)

    def ended(self) -> list[int]:
        """Slots of the row whose job is DONE, FAILED or CANCELLED."""
        return slots_where(self.segment, HAS_ENDED, self.first, self.last)

    def release(self, slot: int) -> None:
        """Free an ended or merely reserved slot: generation moves on, its blocks are free too."""
        word = self._words[slot]
        if word & STATE not in (FREE, DONE, FAILED, CANCELLED):
            return
        self._words[slot] = next_free(word)
        self.free.append(slot)

    def cancel(self, slot: int, generation: int) -> bool:
        """Ask that the job does not run; True when it certainly will not.

        A claimer writes LEASED, fences, reads `cancel`; we write `cancel`, fence, read the word:
        one of the two sees the other.
        """
        self._cancels[slot] = generation
        self._fence()  # SYNC POINT: cancel
        word = self._words[slot]
        if word >> GENERATION_SHIFT != generation:
            return False
        if word & STATE == SCHEDULED:
            self.bells.notify_recovery()
        return word & STATE in (QUEUED, REQUEUED, SCHEDULED, CANCELLED)

    def kill(self, slot: int, generation: int) -> None:
        """Ask the supervisor to kill the worker that runs the job; one that runs many at once sees to it itself."""
        self._kills[slot] = generation
        self._fence()  # SYNC POINT: doorbell
        word = self._words[slot]
        if word & STATE == RUNNING and owner_of(word) < self.segment.shape.workers:
            self.bells.worker(owner_of(word)).notify()
        self.bells.notify_supervisor()

    def finish_half_done_publishes(self) -> None:
        """Complete a publish that was cut short between word and tail (exception, death).

        A job whose word is QUEUED must be in its lane; a doubled entry is legal.
        """
        shape = self.segment.shape
        for group, lane in row_lanes(shape, self.row):
            tail = self._tails[lane.word]
            if tail - self._heads[lane.word] >= shape.slots_per_producer:
                continue
            slot = self._rings[lane.ring + (tail & shape.slots_per_producer - 1)]
            if not self.first <= slot < self.last:
                continue
            word = self._words[slot]
            if word & STATE == QUEUED and group_of(word) == group:
                self._tails[lane.word] = tail + 1
                self._fence()
                self.bells.wake_one(group)
