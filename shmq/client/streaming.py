"""`stream`: an input of any length through a task, in order, in bounded memory.

    items ─▶ chunk (at most chunk_size items, at most _chunk_bytes) ─▶ job ─▶ kept by its worker, at most as many bytes
                        │ as long as all that is under way fits               │ its turn: read as a stream
                        └──────────────── next item is taken ◀────────────────┴▶ results, one by one

As `map`, but what bounds it are bytes: the worker of a chunk that is not read yet waits once its results take up
their share; the one that is read goes through a ring. Nothing depends on how large results turn out to be.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shmq.client.resolve import StreamOf
from shmq.errors import BadArguments, QueueFull, TaskTimeout, TooLarge, WorkerLost
from shmq.tasks.task import Task
from shmq.wire.codec import ENCODING_ERRORS
from shmq.wire.failure import Failure
from shmq.wire.header import STREAM, VARIADIC

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.client.parts import PartStream

_AHEAD = 8  # chunks under way
_SPREAD = 16  # a chunk is at most this share of what went before: a short input is spread over the workers
_ITEM_BYTES = 64  # what a value costs in Python beside its content
_SWEEP_S = 0.2
_MOST_EARLY = 100_000  # results of one chunk read before its turn; only a generator task has more
_LEAST_LIMIT = 1_000_000
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", re.IGNORECASE)
_NO_MORE = object()
Calls = list[tuple[Any, ...]]


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

    def __init__(self, limit_bytes: int, block_budget_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.planned_bytes = limit_bytes // 2
        self.chunk_bytes = min(self.planned_bytes // (3 * _AHEAD), block_budget_bytes // (4 * _AHEAD))
        self._blocks_bytes = block_budget_bytes // 4
        self._used_bytes = self._item_bytes = 0
        self._chunks = 0

    def has_room(self, item_bytes: int) -> bool:
        """May a chunk with this item be sent?"""
        if not self._chunks:
            return True
        if self._chunks >= _AHEAD or self._used_bytes + self._cost(item_bytes) > self.planned_bytes:
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
                f"an item of {nbytes} bytes does not fit memory_limit={self.limit_bytes}: at most a quarter of it.\n"
                "Raise memory_limit, or pass smaller items."
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
        if isinstance(item, np.ndarray):
            return item.nbytes
        self._array_bytes = 0
        try:
            return len(self._measure(item)) + self._array_bytes
        except ENCODING_ERRORS:  # explained when it is submitted
            return 0

    def _arrays(self, value: Any) -> None:
        self._array_bytes += getattr(value, "nbytes", 0)


@dataclass(slots=True, eq=False)
class Chunk:
    """Calls under way as one job, and what was read of it before its turn."""

    calls: Calls
    nbytes: int
    job: Job[Any]
    stream: PartStream[Any] | None = None
    early: deque[Any] = field(default_factory=deque)
    ended_early: Exception | None = None  # how its stream ended then

    def next(self) -> Any:
        """The next result. Raises StopIteration, TimeoutError for none in _SWEEP_S, and what the job raised."""
        if self.early:
            return self.early.popleft()
        if self.ended_early is not None:
            raise self.ended_early
        return next(self._opened())

    def read_early(self) -> None:
        """Take what there is of it, so that its worker ends and is free for others."""
        try:
            self.early.append(next(self._opened()))
        except (StopIteration, Exception) as error:
            if self._opened().is_over:
                self.ended_early = error

    def is_holding(self) -> bool:
        """Does it keep a worker that could be freed by reading?"""
        return self.ended_early is None and len(self.early) < _MOST_EARLY and self.job.state == "running"

    @property
    def is_over(self) -> bool:
        """Has its stream ended?"""
        return self.ended_early is not None or (self.stream is not None and self.stream.is_over)

    def restart(self, calls: Calls, job: Job[Any]) -> None:
        """Go on with the calls that are left."""
        self.calls, self.job, self.stream = calls, job, None
        self.early, self.ended_early = deque(), None

    def close(self) -> None:
        """Read no more of its job."""
        if self.stream is not None:
            self.stream.close()

    def _opened(self) -> PartStream[Any]:
        if self.stream is None:
            self.stream = self.job.stream(timeout=_SWEEP_S)
        return self.stream


def run(
    client: Client, task: Task[..., Any], items: Iterable[Any], chunk_size: int, memory_limit: int | str
) -> Iterator[Any]:
    """The results; of a generator task its parts, item after item. What cannot work is refused at once."""
    window = Window(_checked(chunk_size, memory_limit), client.block_budget_bytes)
    return _run(client, task, Items(items, window), window, chunk_size)


def _run(client: Client, task: Task[..., Any], source: Items, window: Window, chunk_size: int) -> Iterator[Any]:
    waiting: deque[Chunk] = deque()
    held: tuple[Calls, int] | None = None  # taken from the input, no room for it yet
    try:
        while True:
            while held is not None or (source.has_more() and window.has_room(source.next_bytes)):
                if held is None:
                    held = source.chunk(chunk_size)
                calls, nbytes = held
                try:
                    job = _submit(client, task, calls, window.chunk_bytes, block=0.0 if waiting else None)
                except QueueFull:
                    if not waiting:
                        raise
                    break  # reading makes room
                held = None
                window.add(nbytes)
                waiting.append(Chunk(calls, nbytes, job))
            if not waiting:
                return
            chunk = waiting[0]
            yield from _results(client, task, chunk, waiting, window.chunk_bytes)
            waiting.popleft()
            window.remove(chunk.nbytes)
    finally:
        for chunk in waiting:
            chunk.close()
            chunk.job.cancel()


def _submit(client: Client, task: Task[..., Any], calls: Calls, kept_bytes: int, *, block: float | None) -> Job[Any]:
    target = task._target
    if target is None or target.client is not client:
        target = client._target_of(task)
    if not all(target.least <= len(call) <= target.most for call in calls):
        calls = [target.bind(call, {})[0] for call in calls]
    nargs = len(calls[0])
    if any(len(call) != nargs for call in calls):
        nargs = VARIADIC
    return client._submit_slowly(target, StreamOf(task), (kept_bytes, calls), nargs, STREAM, block)


def _checked(chunk_size: Any, memory_limit: int | str) -> int:
    """The limit in bytes; both values come from callers."""
    if not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise BadArguments(f"chunk_size must be a number of items from 1, got {chunk_size!r}")
    limit_bytes = parse_size(memory_limit)
    if limit_bytes < _LEAST_LIMIT:
        raise BadArguments(f"memory_limit must be at least {_LEAST_LIMIT} bytes, got {memory_limit!r}")
    return limit_bytes


def _results(
    client: Client, task: Task[..., Any], chunk: Chunk, waiting: Sequence[Chunk], kept_bytes: int
) -> Iterator[Any]:
    """Results of one chunk. A call that is to be tried again, or that may have killed the worker, goes on alone."""
    while True:
        read, error = 0, Exception()
        try:
            while True:
                try:
                    value = chunk.next()
                except StopIteration:
                    return
                except TimeoutError as raised:
                    if isinstance(raised, TaskTimeout) or chunk.is_over:  # the task's own
                        error = raised
                        break
                    _make_way(chunk.job, waiting)
                    continue
                except Exception as raised:
                    error = raised
                    break
                read += 1
                yield value
        finally:
            chunk.close()
        retries = _retries_left(chunk.job, error)
        if task.yields or retries is None or read >= len(chunk.calls):
            raise error
        again = task if retries < 0 else task.options(retries=retries)
        yield _result(client.submit_task(again, chunk.calls[read]), waiting)
        calls = chunk.calls[read + 1 :]
        if not calls:
            return
        chunk.restart(calls, _submit(client, task, calls, kept_bytes, block=None))


def _result(job: Job[Any], waiting: Sequence[Chunk]) -> Any:
    while not job.done():
        try:
            return job.result(_SWEEP_S)
        except TimeoutError:
            _make_way(job, waiting)
    return job.result()


def _make_way(awaited: Job[Any], waiting: Sequence[Chunk]) -> None:
    """A job that is read now has to wait: for blocks, or for a worker while all hold chunks that are read later.

    The latter can be when its worker was lost, or its call is tried again. What a later chunk has is then read before
    its turn, until its worker is free.
    """
    for chunk in waiting:
        chunk.job.done()  # results of ended ones move here: the awaited one may need their blocks
    while awaited.state in ("queued", "leased"):
        holding = next((chunk for chunk in waiting if chunk.job is not awaited and chunk.is_holding()), None)
        if holding is None:
            return
        holding.read_early()


def _retries_left(job: Job[Any], error: Exception) -> int | None:
    """How often the failed call may be tried again by itself; -1: as its task says; None: not at all."""
    if isinstance(error, WorkerLost):
        return -1
    try:
        left = msgspec.msgpack.decode(job._raw or b"", type=Failure).retries_left
    except (AttributeError, msgspec.MsgspecError):  # cancelled, or never read from the table
        return None
    return left - 1 if left else None
