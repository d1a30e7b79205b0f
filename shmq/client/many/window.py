"""How much of an input may be under way: chunks ahead of the workers; of a stream the window that all must fit."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from shmq.errors import BadArguments, TooLarge
from shmq.memory.layout import GROUP_CONTROL, GROUP_PLAN
from shmq.wire.codec import ENCODING_ERRORS, is_array

if TYPE_CHECKING:
    from shmq.memory.segment import Segment

_PARTS = 8  # of what is planned: as many chunks of full size may be under way
_SPREAD = 16  # a chunk is at most this share of what went before: a short input is spread over the workers
_ITEM_BYTES = 64  # what a value costs in Python beside its content
_LEAST_LIMIT = 1_000_000
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", re.IGNORECASE)
_NO_MORE = object()
Calls = list[tuple[Any, ...]]


def most_ahead(segment: Segment, group: int, least: int, chunk_size: int = 1) -> int:
    """Chunks under way at most: no worker of the group waits for its next one, and slots and blocks have that many.

    A worker with `concurrency` (of "auto": what the planner has found) runs the calls of a chunk at once: of large
    chunks it needs fewer.
    """
    control, plan = segment.rows("group_control")[group], segment.rows("group_plan")[group]
    workers = min(control[GROUP_CONTROL["max_workers"]], 1000)
    concurrency = min(control[GROUP_CONTROL["concurrency"]] or plan[GROUP_PLAN["concurrency"]], 1000)
    wanted = max(least, 2 * workers * max(1, -(-concurrency // chunk_size)))
    return int(max(1, min(wanted, segment.shape.slots_per_producer // 2, segment.shape.units // 4)))


def parse_size(size: int | str) -> int:
    """Bytes of "100 MB", "64 MiB", "1.5GB" or a plain number. Raises BadArguments."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None or found[2].lower() not in _UNITS or not float(found[1]):
        raise BadArguments(f'a size is a number of bytes or text such as "100 MB" or "64 MiB", got {size!r}')
    return int(float(found[1]) * _UNITS[found[2].lower()])


class Window:
    """What may be under way at once, in bytes.

    Half of the limit is planned: per chunk its items (here, and encoded in a block) and the results that its worker
    may keep; the other half is left for the ring, for the chunk whose results are handed out, and for Python.
    """

    def __init__(self, task: str, limit_bytes: int, block_budget_bytes: int, most_chunks: int) -> None:
        self._task = task
        self.limit_bytes = limit_bytes
        self.planned_bytes = limit_bytes // 2
        self._most_chunks = most_chunks
        self.chunk_bytes = min(self.planned_bytes // (3 * _PARTS), block_budget_bytes // (4 * _PARTS))
        self._blocks_bytes = block_budget_bytes // 4
        self._used_bytes = self._item_bytes = 0
        self._chunks = 0

    def has_room(self, item_bytes: int) -> bool:
        """May a chunk with this item be sent?"""
        if not self._chunks:
            return True
        if self._chunks >= self._most_chunks or self._used_bytes + self._cost(item_bytes) > self.planned_bytes:
            return False
        return 2 * (self._item_bytes + item_bytes) <= self._blocks_bytes  # a block may be twice as long as its content

    def add(self, nbytes: int) -> None:
        """A chunk with items of `nbytes` is under way."""
        self._chunks += 1
        self._item_bytes += nbytes
        self._used_bytes += self._cost(nbytes)

    def remove(self, nbytes: int) -> None:
        """It has been read."""
        self._chunks -= 1
        self._item_bytes -= nbytes
        self._used_bytes -= self._cost(nbytes)

    def check_item(self, nbytes: int) -> None:
        """Raise TooLarge for an item that could only be sent by breaking the limit."""
        if 4 * nbytes > self.limit_bytes:
            raise TooLarge(
                f"{self._task}: an item of {nbytes} bytes does not fit memory_limit={self.limit_bytes}: at most a "
                "quarter of it.\nRaise memory_limit, or pass smaller items."
            )

    def _cost(self, nbytes: int) -> int:
        return 2 * nbytes + self.chunk_bytes


class Items:
    """The input, one item looked ahead, with sizes."""

    def __init__(self, items: Iterable[Any], window: Window) -> None:
        self._source = iter(items)
        self._window = window
        self._next: Any = None
        self.next_bytes = 0
        self._taken = 0
        self._measure = msgspec.msgpack.Encoder(enc_hook=self._arrays).encode
        self._array_bytes = 0

    def has_more(self) -> bool:
        """Look at the next item. Takes it from the source, which may take its time or raise."""
        if self._next is None:
            item = next(self._source, _NO_MORE)
            if item is _NO_MORE:
                return False
            self.next_bytes = self._size_of(item) + _ITEM_BYTES
            self._window.check_item(self.next_bytes)
            self._next = (item,)
        return True

    def chunk(self, chunk_size: int) -> tuple[Calls, int]:
        """The calls of the next chunk, and their bytes: at least one, else as many as may be."""
        most = min(chunk_size, 1 + self._taken // _SPREAD)
        calls = [self._next]
        nbytes, self._next = self.next_bytes, None
        while len(calls) < most and self.has_more() and nbytes + self.next_bytes <= self._window.chunk_bytes:
            calls.append(self._next)
            nbytes, self._next = nbytes + self.next_bytes, None
        self._taken += len(calls)
        return calls, nbytes

    def _size_of(self, item: Any) -> int:
        """Bytes it takes on its way."""
        if isinstance(item, bytes | bytearray | str):
            return len(item)
        if is_array(item):
            return item.nbytes
        self._array_bytes = 0
        try:
            return len(self._measure(item)) + self._array_bytes
        except ENCODING_ERRORS:  # explained when it is submitted
            return 0

    def _arrays(self, value: Any) -> None:
        self._array_bytes += getattr(value, "nbytes", 0)


def checked(chunk_size: Any, memory_limit: int | str) -> int:
    """The limit in bytes; both values come from callers."""
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise BadArguments(f"chunk_size must be a number of items from 1, got {chunk_size!r}")
    limit_bytes = parse_size(memory_limit)
    if limit_bytes < _LEAST_LIMIT:
        raise BadArguments(f"memory_limit must be at least {_LEAST_LIMIT} bytes, got {memory_limit!r}")
    return limit_bytes
