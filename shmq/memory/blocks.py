"""Pooled blocks for what does not fit a slot: large arguments, large results, numpy arrays.

The pool is `units` of `unit_bytes`, split into arenas with a lock byte each. A block is an aligned
power-of-two run of units. Freeing takes no action at all: a unit is free when the generation in its
tag is no longer its slot's and nobody pins it, so no crash can leak a block or free one twice.
Low runs are taken first, so pages that were faulted in once are used again.

The last arena (of one: its upper half) is for results only, and readers copy out of it instead of pinning:
it empties by reading alone, so arguments and kept views never keep a job that has run from ending.
"""

from __future__ import annotations

import math
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from ctypes import addressof, c_char
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from shmq.errors import TooLarge
from shmq.memory import late, locks
from shmq.memory.segment import Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shmq.memory.columns import BlockColumns

SLOT_OF_TAG = 0x7FFFFFFF
PART = 1 << 31
"""Added to the slot in tags of blocks that hold parts of a running attempt: the next attempt frees them."""

_BUSY_S = 0.02
_REMEMBERED = 32  # blocks of one size in one arena that may be taken again without a search
_OLDEST = 4  # of them are tried: some may be kept for long
_QUICK_BYTES = 1 << 18  # saves numpy's view of the block, 1 us; while more is copied other threads had better run
PRODUCER_PIN, WORKER_PIN = 0, 1
_VIEWED = {PRODUCER_PIN: 2, WORKER_PIN: 4}  # kept views of a side fill one half, one quarter of what arguments have


def pinned_units(segment: Segment, side: int, mark: int) -> Iterator[int]:
    """Units whose pin word of that side is `mark`. Found as bytes: who leaves, or comes, may have no numpy."""
    first, last = segment.layout.offsets["pins"], segment.layout.offsets["pins"] + 8 * segment.shape.units
    word = mark.to_bytes(4, sys.byteorder)
    at = segment.map.find(word, first, last)
    while at >= 0:
        unit, place = divmod(at - first, 8)
        if place == 4 * side:
            yield unit
        at = segment.map.find(word, at + 1, last)


def _address_of(array: NDArray[Any]) -> int:
    """Where the data of a writeable, contiguous array lies: in a quarter of the time that numpy takes to tell."""
    try:
        return addressof(c_char.from_buffer(cast("bytearray", array)))
    except ValueError:  # of times and dates there is no buffer
        return int(array.__array_interface__["data"][0])


class BlockPool:
    """Allocates blocks and reads them, for one process.

    Args:
        side: PRODUCER_PIN or WORKER_PIN, the pin word this process writes.
        row: its producer or worker row.
    Concurrency: allocation must be serialized by the caller (client lock, worker main thread).
    """

    def __init__(self, segment: Segment, lock_file: locks.LockFile, side: int, row: int) -> None:
        shape = segment.shape
        self.unit_bytes = shape.unit_bytes
        self._lock_file = lock_file
        self._data = segment.view("blocks")
        self._readable = self._data.toreadonly()
        self._segment = segment
        self._made_columns: BlockColumns | None = None
        self._map, self._job_words = segment.map, segment.view("words")
        self._tags, self._pins = segment.view("tags"), segment.view("pins")  # single words; whole columns: `_columns`
        self._tags_at, self._pins_at, self._data_at = (segment.layout.offsets[n] for n in ("tags", "pins", "blocks"))
        self._side = side
        self._mark = row + 1
        self._pid = os.getpid()
        self._viewed: set[int] = set()  # first units of blocks of which this process keeps a view
        self.on_last_view: Callable[[], None] | None = None
        per_arena = shape.units // shape.arenas
        self._per_arena = per_arena
        self._arenas = [(a * per_arena, (a + 1) * per_arena) for a in range(shape.arenas)]
        self._for_results = (shape.arenas - 1) * per_arena if shape.arenas > 1 else per_arena - per_arena // 2
        self._taken: dict[tuple[int, int], dict[int, int]] = {}  # by arena and units: first unit → tag, oldest first
        self._mine = self._arenas
        if side == PRODUCER_PIN:
            self._mine = self._arenas[:-1] if shape.arenas > 1 else [(0, self._for_results)]
        longest = max(last - first for first, last in self._mine)
        self.largest_bytes = (1 << (longest.bit_length() - 1)) * self.unit_bytes if longest else 0
        self.budget_bytes = shape.units * self.unit_bytes

    @property
    def _columns(self) -> BlockColumns:
        """Whole columns, for numpy, which is imported the first time."""
        made = self._made_columns
        if made is None:
            late.load()
            from shmq.memory.columns import BlockColumns

            made = self._made_columns = BlockColumns.of(self._segment)
        return made

    def units_for(self, nbytes: int) -> int:
        """Units of the run that holds `nbytes`: the next power of two."""
        return 1 << ((max(nbytes, 1) - 1) // self.unit_bytes).bit_length()

    def allocate(self, nbytes: int, slot: int, generation: int) -> int | None:
        """First unit of a block tagged with the job, or None while the pool is too full.

        Raises:
            TooLarge: no arena could ever hold it.
        """
        return self._take(nbytes, (generation << 32) | slot, pin=False)

    def allocate_pinned(self, nbytes: int) -> int | None:
        """A block that belongs to no job yet; it lives while this process pins it."""
        return self._take(nbytes, 0, pin=True)

    def _take(self, nbytes: int, tag: int, *, pin: bool) -> int | None:
        count = self.units_for(nbytes)
        if nbytes > self.largest_bytes:
            raise TooLarge(
                f"{nbytes} bytes do not fit a block: the largest is {self.largest_bytes} bytes "
                f"(block_budget_bytes / arenas, rounded down to a power of two).\n"
                "Raise [memory] block_budget_bytes, or pass a path or smaller pieces."
            )
        late.load()  # before, not while others wait for an arena's byte
        arenas, give_up = deque(range(len(self._mine))), math.inf
        while arenas:
            arena = arenas.popleft()
            if self._lock_file.try_acquire(locks.arena_byte(arena)):
                unit = self._take_locked(arena, count, tag, pin=pin)
                if unit is not None:
                    return unit
                continue
            now = time.monotonic()
            give_up = min(give_up, now + _BUSY_S)
            if now < give_up:  # taken at this moment: look again rather than say "full"
                arenas.append(arena)
                time.sleep(0)
        return None  # full, or its holder is stopped: nobody waits for that one

    def _take_locked(self, arena: int, count: int, tag: int, *, pin: bool) -> int | None:
        """Caller must: hold the arena's byte; it is released here."""
        try:
            mine = self._taken.setdefault((arena, count), {})
            unit = self._take_again(mine, count)
            if unit is None:
                unit = self._find(arena, count)
            if unit is None:
                return None
            if pin:
                self._columns.pins[unit : unit + count, self._side] = self._mark
            self._columns.tags[unit : unit + count] = tag
            mine.pop(unit, None)
            mine[unit] = tag
            if len(mine) > _REMEMBERED:
                del mine[next(iter(mine))]
            return unit
        finally:
            self._lock_file.release(locks.arena_byte(arena))

    def _take_again(self, mine: dict[int, int], count: int) -> int | None:
        """The block that this process took last, or one of long ago, if it is free and nobody else has taken it since.

        A few microseconds, where a search takes twenty. The oldest of a rolling window is the next that is free.
        """
        for unit in (*islice(reversed(mine), 1), *islice(mine, _OLDEST)):
            tag = mine.get(unit, 0)
            # SYNC POINT: block-pin — generation before pin, as in a search
            if self._job_words[tag & SLOT_OF_TAG] >> 32 == tag >> 32:
                continue
            tags, pins = self._tags_at + 8 * unit, self._pins_at + 8 * unit
            if self._map[tags : tags + 8 * count] != tag.to_bytes(8, "little") * count:
                mine.pop(unit, None)  # another's now
            elif not self._map[pins : pins + 8 * count].strip(b"\0"):
                return unit
        return None

    def _find(self, arena: int, count: int) -> int | None:
        """The lowest run of free units."""
        import numpy as np

        first, last = self._mine[arena]
        tags, words, pins = self._columns.tags[first:last], self._columns.words, self._columns.pins
        # SYNC POINT: block-pin — generation before pin: a reader pins before it frees the slot
        slots = np.minimum(tags & np.uint64(SLOT_OF_TAG), np.uint64(len(words) - 1))
        free = (words[slots] >> np.uint64(32)) != (tags >> np.uint64(32))
        free &= ~pins[first:last].any(axis=1)
        runs = free[: len(free) // count * count].reshape(-1, count).all(axis=1)
        at = int(runs.argmax()) if len(runs) else 0
        return first + at * count if len(runs) and runs[at] else None

    def bytes_at(self, unit: int, nbytes: int) -> memoryview:
        """The block's bytes. Bounds are checked: `unit` may come from a shared word."""
        return self._piece(self._data, unit, nbytes)

    def readable_bytes_at(self, unit: int, nbytes: int) -> memoryview:
        """The same for who must not write to them."""
        return self._piece(self._readable, unit, nbytes)

    def _piece(self, data: memoryview, unit: int, nbytes: int) -> memoryview:
        start = unit * self.unit_bytes
        if not 0 <= start <= len(data) - nbytes:
            raise ValueError(f"block reference {unit}+{nbytes} bytes is outside the pool: damaged record")
        return data[start : start + nbytes]

    def copy_in(self, unit: int, array: NDArray[Any]) -> None:
        """Copy an array of plain numbers into a block that was allocated for it."""
        start, nbytes = unit * self.unit_bytes, array.nbytes
        if nbytes <= _QUICK_BYTES and array.flags.c_contiguous:
            at = self._data_at + start
            self._map[at : at + nbytes] = cast("bytes", array)
        else:  # other threads run meanwhile
            block = self._columns.data[start : start + nbytes]
            block.view(array.dtype).reshape(array.shape)[...] = array

    def pin(self, unit: int, nbytes: int) -> None:
        """Keep the block although its job ends: a view of it lives in this process."""
        self._columns.pins[unit : unit + self.units_for(nbytes), self._side] = self._mark

    def must_be_copied(self, unit: int, nbytes: int, viewed_bytes: int) -> bool:
        """May no view of the block be kept? It is in the way of results, or any of it is pinned on this side: for views
        of a former attempt, or of a former job with a part of the same array, whose end is not this one's. Or, with
        `viewed_bytes` that are not pinned yet, views would fill too much of what arguments have: more than half by
        producers, who submit again while they collect results, or a quarter by workers whose tasks keep arrays.
        """
        if any(self._pins[2 * unit + self._side : 2 * (unit + self.units_for(nbytes)) : 2]):
            return True
        if self._side == PRODUCER_PIN and unit >= self._for_results:
            return True
        if self._side == WORKER_PIN and not self._viewed:
            return False  # what is only looked at lasts as long as its job
        import numpy as np

        pinned = int(np.count_nonzero(self._columns.pins[: self._for_results, self._side])) * self.unit_bytes
        return pinned + viewed_bytes > self._for_results * self.unit_bytes // _VIEWED[self._side]

    def give_back(self, units: list[tuple[int, int]]) -> None:
        """Take the tags off blocks (unit, bytes) that were allocated for a job whose word still lives."""
        for unit, nbytes in units:
            give_up = time.monotonic() + _BUSY_S
            while not self.free(unit, nbytes):
                if time.monotonic() > give_up:  # its holder is stopped: these units come back with the slot
                    return
                time.sleep(0)

    def unpin(self, unit: int, nbytes: int) -> None:
        """Let the block go with its job. Plain stores: safe in finalizers."""
        if self._pid != os.getpid():  # a view that a fork has copied: the pin is the parent's
            return
        self._viewed.discard(unit)
        self._columns.pins[unit : unit + self.units_for(nbytes), self._side] = 0
        if self.on_last_view is not None and not self.has_views():
            self.on_last_view()

    def has_views(self) -> bool:
        """Does a view of any block live in this process?"""
        return next(pinned_units(self._segment, self._side, self._mark), None) is not None

    def pin_while_alive(self, bottom: object, unit: int, nbytes: int) -> None:
        """Keep the block, although its job ends, while `bottom` lives: the buffer under all views of it."""
        watch = weakref.finalize(bottom, self.unpin, unit, nbytes)
        watch.atexit = False
        self._viewed.add(unit)
        self.pin(unit, nbytes)  # in this order: what is cut off between the two is not pinned for ever

    def free(self, unit: int, nbytes: int) -> bool:
        """Take a block from its job before that ends; False when the arena is busy: try again later.

        A view of it goes on living by its pin.
        """
        arena = self._arena_of(unit)
        if not self._lock_file.try_acquire(locks.arena_byte(arena)):
            return False
        try:
            self._columns.tags[unit : unit + self.units_for(nbytes)] = 0
            return True
        finally:
            self._lock_file.release(locks.arena_byte(arena))

    def free_parts(self, slot: int, generation: int) -> None:
        """Free what a former attempt of the job has left of its stream; a busy arena's go with the slot."""
        import numpy as np

        tag = np.uint64((generation << 32) | PART | slot)
        if not (self._columns.tags == tag).any():
            return
        for arena, (first, last) in enumerate(self._arenas):
            if self._lock_file.try_acquire(locks.arena_byte(arena)):
                tags = self._columns.tags[first:last]
                tags[tags == tag] = 0
                self._lock_file.release(locks.arena_byte(arena))

    def adopt(self, array: NDArray[Any], slot: int, generation: int) -> int | None:
        """Tag the block that the array lies in (`shmq.empty`) with a job: its first unit.

        Of a part of the block only the run is tagged that a block of that size would have, so it never reaches beyond.

        None when the array lies elsewhere, begins where no such run does, or must not be written to, and when a live
        job has any of it already: the caller copies instead.
        """
        if array.base is None or not array.flags.carray:  # it owns its memory, or is no whole piece of other memory
            return None
        unit, beside = divmod(_address_of(array) - self._columns.address, self.unit_bytes)
        count = self.units_for(array.nbytes)
        if beside or not 0 <= unit < len(self._tags) or unit % self._per_arena % count:
            return None
        byte = locks.arena_byte(self._arena_of(unit))
        if not self._lock_file.try_acquire(byte):
            return None  # busy at this moment
        try:
            if self._has_live_tag(unit, count):
                return None
            self._columns.tags[unit : unit + count] = (generation << 32) | slot
            return unit
        finally:
            self._lock_file.release(byte)

    def _has_live_tag(self, unit: int, count: int) -> bool:
        """Does a live job have one of the units?"""
        words, last = self._job_words, len(self._job_words) - 1
        tags = set(self._tags[unit : unit + count])
        return any(tag and words[min(tag & SLOT_OF_TAG, last)] >> 32 == tag >> 32 for tag in tags)

    def _arena_of(self, unit: int) -> int:
        return unit // self._per_arena

    def used_bytes(self) -> int:
        """Bytes of units that a live job or a pin holds, at this moment."""
        of_jobs, of_views = self._holders()
        return int((of_jobs | of_views).sum()) * self.unit_bytes

    def usage(self) -> str:
        """Who holds the pool at this moment, in words."""
        of_jobs, of_views = self._holders()
        used = int((of_jobs | of_views).sum()) * self.unit_bytes
        jobs, views = int(of_jobs.sum()) * self.unit_bytes, int(of_views.sum()) * self.unit_bytes
        kept = self.budget_bytes - self._for_results * self.unit_bytes if self._side == PRODUCER_PIN else 0
        return (
            f"{used} of {self.budget_bytes} bytes are in use ({jobs} by jobs and unread results, {views} by living "
            f"views of arrays), {self._longest_free_bytes(of_jobs | of_views)} are free in one piece"
            + (f"; {kept} take results only" if kept else "")
        )

    def _longest_free_bytes(self, is_used: NDArray[np.bool_]) -> int:
        """The largest block that this process could be given."""
        count = self.largest_bytes // self.unit_bytes
        while count:
            for first, last in self._mine:
                if not is_used[first : first + (last - first) // count * count].reshape(-1, count).any(axis=1).all():
                    return count * self.unit_bytes
            count //= 2
        return 0

    def _holders(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """By unit: does a live job hold it, does a view?"""
        tags, words, pins = self._columns.tags, self._columns.words, self._columns.pins
        import numpy as np

        slots = np.minimum(tags & np.uint64(SLOT_OF_TAG), np.uint64(len(words) - 1))
        of_jobs: NDArray[np.bool_] = (words[slots] >> np.uint64(32)) == (tags >> np.uint64(32))
        return of_jobs, np.asarray(pins.any(axis=1))
