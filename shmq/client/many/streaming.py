"""`stream`: an input of any length through a task, in order, in bounded memory.

    items ─▶ chunk (at most chunk_size items, at most chunk_bytes) ─▶ job ─▶ kept by its worker, at most as many bytes
                        │ as long as all that is under way fits               │ its turn: read as a stream
                        └──────────────── next item is taken ◀────────────────┴▶ results, one by one

As `map`, but what bounds it are bytes: the worker of a chunk that is not read yet waits once its results take up
their share; the one that is read goes through a ring. So memory does not depend on how large results turn out to be;
speed does, and chunks get smaller where results are large. Where a rate limit counts, a chunk is one call.
A result that is there does not wait for a slow input.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from shmq.client.many.window import INPUT_S, Calls, Items, Window, checked, most_ahead
from shmq.client.submitting.kinds import StreamOf
from shmq.client.submitting.slow_path import bind_calls, most_calls, submit_message, target_of
from shmq.errors import QueueFull, WorkerLost
from shmq.tasks.task import Task
from shmq.wire.failure import Failure
from shmq.wire.header import STREAM

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.client.parts.reader import PartStream

_CHUNKS = 8  # as many may be under way however few workers there are
_SWEEP_S = 0.02
_MOST_EARLY = 100_000  # results of one chunk read before its turn; only a generator task has more


@dataclass(slots=True, eq=False)
class Chunk:
    """Calls under way as one job, and what was read of it before its turn."""

    calls: Calls
    nbytes: int
    kept_bytes: int  # results that its worker may keep
    job: Job[Any]
    stream: PartStream[Any] | None = None
    early: deque[Any] = field(default_factory=deque)
    ended_early: Exception | None = None  # how its stream ended then

    def next(self) -> list[Any] | None:
        """The next result alone, nothing at the end; None: none in _SWEEP_S. Raises what the job raised."""
        if self.early:
            return [self.early.popleft()]
        if self.ended_early is not None:
            raise self.ended_early
        return self.opened().within(_SWEEP_S)

    def is_ready(self) -> bool:
        """Is there a result, or the end?"""
        return bool(self.early) or self.ended_early is not None or self.opened().is_ready()

    def read_early(self) -> bool:
        """Take a result, so that its worker ends and is free for others; False when there is none yet."""
        try:
            found = self.opened().within(_SWEEP_S)
        except Exception as error:
            if not self.opened().is_over:  # a signal handler's
                raise
            self.ended_early = error
        else:
            if found is None:
                return False
            self.early += found  # nothing at the end: so it is when asked again
        return True

    def is_holding(self) -> bool:
        """Does it keep a worker that could be freed by reading?"""
        return self.ended_early is None and len(self.early) < _MOST_EARLY and self.job.state == "running"

    def restart(self, calls: Calls, job: Job[Any]) -> None:
        """Go on with the calls that are left."""
        self.calls, self.job, self.stream = calls, job, None
        self.early, self.ended_early = deque(), None

    def close(self) -> None:
        """Read no more of its job."""
        if self.stream is not None:
            self.stream.close()

    def opened(self) -> PartStream[Any]:
        """Its results, asked for."""
        if self.stream is None:
            self.stream = self.job.stream(timeout=_SWEEP_S)
        return self.stream


def run(
    client: Client, task: Task[..., Any], items: Iterable[Any], chunk_size: int, memory_limit: int | str
) -> Iterator[Any]:
    """The results; of a generator task its parts, item after item. What cannot work is refused at once."""
    limit_bytes = checked(chunk_size, memory_limit)
    at_once = chunk_size if task.is_coroutine else 1
    ahead = most_ahead(client.segment, target_of(client, task).route.group, _CHUNKS, at_once)
    result_bytes = 0.0 if task.yields else None  # nobody knows how many parts a call has
    window = Window(task.name, limit_bytes, client.block_budget_bytes, ahead, result_bytes)
    return _run(client, task, Items(items, window), window, chunk_size)


def _run(client: Client, task: Task[..., Any], source: Items, window: Window, chunk_size: int) -> Iterator[Any]:
    waiting: deque[Chunk] = deque()
    held: tuple[Calls, int] | None = None  # taken from the input, no room for it yet
    try:
        while True:
            while held is not None or (source.has_more() and window.has_room(source.next_bytes)):
                if source.waited_s > INPUT_S:
                    if waiting and waiting[0].is_ready():
                        break
                    source.waited_s = 0.0
                if held is None:
                    held = source.chunk(most_calls(client, task, chunk_size))
                calls, nbytes = held
                kept_bytes = window.kept_bytes(nbytes)
                try:
                    job = _submit(client, task, calls, kept_bytes, block=0.0 if waiting else None)
                except QueueFull:
                    if not waiting:
                        raise
                    break  # reading makes room
                held = None
                window.add(nbytes, kept_bytes)
                waiting.append(Chunk(calls, nbytes, kept_bytes, job))
                waiting[0].opened()  # whose turn it is: its results come while the input is waited for
            if not waiting:
                return
            chunk = waiting[0]
            yield from _results(client, task, chunk, waiting, window)
            waiting.popleft()
            window.remove(chunk.nbytes, chunk.kept_bytes)
    finally:
        for chunk in waiting:
            chunk.close()
            chunk.job.cancel()
            chunk.job.done()  # one that has ended keeps a slot and blocks no longer


def _submit(client: Client, task: Task[..., Any], calls: Calls, kept_bytes: int, *, block: float | None) -> Job[Any]:
    target, calls, nargs = bind_calls(client, task, calls)
    return submit_message(client, target, StreamOf(task), (kept_bytes, calls), nargs, STREAM, block)


def _results(
    client: Client, task: Task[..., Any], chunk: Chunk, waiting: Sequence[Chunk], window: Window
) -> Iterator[Any]:
    """Results of one chunk. A call that is to be tried again, or that may have killed the worker, goes on alone."""
    while True:
        read, error = 0, Exception()
        try:
            while True:
                try:
                    found = chunk.next()
                except Exception as raised:
                    error = raised
                    break
                if found is None:
                    _make_way(chunk.job, waiting)
                    continue
                if not found:
                    return
                if not (read or task.yields):
                    window.learn(found[0])
                read += 1
                yield found[0]
        finally:
            chunk.close()
        retries = _retries_left(chunk.job, error)
        is_complete = not task.yields and read == len(chunk.calls)
        if is_complete and isinstance(error, WorkerLost):  # before it could say so
            return
        if task.yields or retries is None or is_complete:
            raise error
        again = task if retries < 0 else task.options(retries=retries)
        yield _result(client, client.submit_task(again, chunk.calls[read]), waiting)
        calls = chunk.calls[read + 1 :]
        if not calls:
            return
        chunk.restart(calls, _submit(client, task, calls, chunk.kept_bytes, block=None))


def _result(client: Client, job: Job[Any], waiting: Sequence[Chunk]) -> Any:
    while not client.wait_any([job], _SWEEP_S):
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
        holding = [chunk for chunk in waiting if chunk.job is not awaited and chunk.is_holding()]
        if not any(chunk.read_early() for chunk in holding):
            return


def _retries_left(job: Job[Any], error: Exception) -> int | None:
    """How often the failed call may be tried again by itself; -1: as its task says; None: not at all."""
    if isinstance(error, WorkerLost):
        return -1
    try:
        left = msgspec.msgpack.decode(job._raw or b"", type=Failure).retries_left
    except (AttributeError, msgspec.MsgspecError):  # cancelled, or never read from the table
        return None
    return left - 1 if left else None
