"""How much of an input may be under way: chunks ahead of the workers; of a stream the window that all must fit."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from shmq.errors import BadArguments, TooLarge
from shmq.memory.layout import AUTO_FIRST, GROUP_CONTROL, GROUP_PLAN
from shmq.wire.codec import ENCODING_ERRORS, is_array

if TYPE_CHECKING:
    from shmq.memory.segment import Segment

_PARTS = 8  # of what is planned: as many chunks of full size may be under way
_SPREAD = 16  # a chunk is at most this share of what went before: a short input is spread over the workers
_HEAD_BYTES = 5  # of a long value in msgpack
_ITEM_BYTES = 64  # what a value costs in Python beside its content
_LEAST_LIMIT = 1_000_000
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", re.IGNORECASE)
INPUT_S = 0.01
"""For so long items are taken from a slow input before what is ready is handed out."""
_NO_MORE = object()
Calls = list[tuple[Any, ...]]


def most_ahead(segment: Segment, group: int, at_least: int, calls_at_once: int = 1) -> int:
    """Chunks under way at most: no worker of the group waits for its next one, and slots and blocks have that many.

    `calls_at_once`: of a chunk, if its worker has `concurrency`; plain functions run one after the other.
    """
    control, plan = segment.rows("group_control")[group], segment.rows("group_plan")[group]
    workers = min(control[GROUP_CONTROL["max_workers"]], 1000)
    places = min(control[GROUP_CONTROL["concurrency"]] or plan[GROUP_PLAN["concurrency"]] or AUTO_FIRST, 1000)
    wanted = max(at_least, 2 * workers * -(-places // calls_at_once))
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
    may keep; the other half is left for the ring, for the chunk whose results are handed out, and for Python. A chunk
    is no larger than its results may be kept: a worker that had to wait for its turn would be one less.
    """

    def __init__(
        self, task: str, limit_bytes: int, block_budget_bytes: int, most_chunks: int, result_bytes: float | None = None
    ) -> None:
        """`result_bytes`: of one call; None: nobody knows until one was seen."""
        self.sizes = Sizes()
        self._task = task
        self.limit_bytes = limit_bytes
        self.planned_bytes = limit_bytes // 2
        self._most_chunks = most_chunks
        self._blocks_bytes = block_budget_bytes // 4
        self.chunk_bytes = min(self.planned_bytes // (3 * _PARTS), self._blocks_bytes // (2 * _PARTS))
        self._share_bytes = min(self.planned_bytes // (3 * most_chunks), self.chunk_bytes)
        self._result_bytes = result_bytes
        self._used_bytes = self._item_bytes = 0
        self._chunks = 0

    def has_room(self, item_bytes: int) -> bool:
        """May a chunk with this item be sent?"""
        if not self._chunks:
            return True
        used_bytes = self._used_bytes + 2 * item_bytes + self.kept_bytes(item_bytes)
        if self._chunks >= self._most_chunks or used_bytes > self.planned_bytes:
            return False
        return 2 * (self._item_bytes + item_bytes) <= self._blocks_bytes  # a block may be twice as long as its content

    def fits(self, nbytes: int, calls: int) -> bool:
        """May a chunk have so many? More than one only once a result was seen."""
        if self._result_bytes is None or nbytes > self.chunk_bytes:
            return False
        return calls * self._result_bytes <= self.kept_bytes(nbytes)

    def kept_bytes(self, nbytes: int) -> int:
        """Results that the worker of a chunk with items of `nbytes` may keep: as many, or an even share if more."""
        return min(max(nbytes, self._share_bytes, int(self._result_bytes or 0)), self.chunk_bytes)

    def add(self, nbytes: int, kept_bytes: int) -> None:
        """A chunk with items of `nbytes` is under way."""
        self._chunks += 1
        self._item_bytes += nbytes
        self._used_bytes += 2 * nbytes + kept_bytes

    def remove(self, nbytes: int, kept_bytes: int) -> None:
        """It has been read."""
        self._chunks -= 1
        self._item_bytes -= nbytes
        self._used_bytes -= 2 * nbytes + kept_bytes

    def learn(self, result: Any) -> None:
        """This is the first of a chunk. Large ones are remembered for a while."""
        self._result_bytes = max(self.sizes.of(result), 0.9 * (self._result_bytes or 0))

    def check_item(self, nbytes: int) -> None:
        """Raise TooLarge for an item that could only be sent by breaking the limit."""
        if 4 * nbytes > self.limit_bytes:
            raise TooLarge(
                f"{self._task}: an item of {nbytes} bytes does not fit memory_limit={self.limit_bytes}: at most a "
                "quarter of it.\nRaise memory_limit, or pass smaller items."
            )


class Sizes:
    """How many bytes values take on their way."""

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder(enc_hook=self._arrays).encode
        self._array_bytes = 0

    def of(self, value: Any) -> int:
        """About; 0 for what cannot be sent, which is explained when it is."""
        if isinstance(value, bytes | bytearray):
            return _HEAD_BYTES + len(value)
        if is_array(value):
            return value.nbytes
        self._array_bytes = 0
        try:
            return len(self._encode(value)) + self._array_bytes
        except ENCODING_ERRORS:
            return 0

    def _arrays(self, value: Any) -> None:
        self._array_bytes += getattr(value, "nbytes", 0)


class Items:
    """The input, one item looked ahead, with sizes."""

    def __init__(self, items: Iterable[Any], window: Window) -> None:
        self._source = iter(items)
        self._window = window
        self._next: Any = None
        self.next_bytes = 0
        self._taken = 0
        self.waited_s = 0.0  # for the source, since the reader of the results has set it to 0

    def has_more(self) -> bool:
        """Look at the next item. Takes it from the source, which may take its time or raise."""
        if self._next is None:
            began = time.perf_counter()
            item = next(self._source, _NO_MORE)
            self.waited_s += time.perf_counter() - began
            if item is _NO_MORE:
                return False
            self.next_bytes = self._window.sizes.of(item) + _ITEM_BYTES
            self._window.check_item(self.next_bytes)
            self._next = (item,)
        return True

    def chunk(self, chunk_size: int) -> tuple[Calls, int]:
        """The calls of the next chunk, and their bytes: at least one, else as many as may be."""
        most = min(chunk_size, 1 + self._taken // _SPREAD)
        calls = [self._next]
        nbytes, self._next = self.next_bytes, None
        while len(calls) < most and self.waited_s < INPUT_S and self.has_more():
            if not self._window.fits(nbytes + self.next_bytes, len(calls) + 1):
                break
            calls.append(self._next)
            nbytes, self._next = nbytes + self.next_bytes, None
        self._taken += len(calls)
        return calls, nbytes


def checked(chunk_size: Any, memory_limit: int | str) -> int:
    """The limit in bytes; both values come from callers."""
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise BadArguments(f"chunk_size must be a number of items from 1, got {chunk_size!r}")
    limit_bytes = parse_size(memory_limit)
    if limit_bytes < _LEAST_LIMIT:
        raise BadArguments(f"memory_limit must be at least {_LEAST_LIMIT} bytes, got {memory_limit!r}")
    return limit_bytes
