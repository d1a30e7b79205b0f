"""`stream`: an input of any length through a task, in order, in bounded memory.

    items ─▶ chunk (at most chunk_size items, at most _chunk_bytes) ─▶ job ─▶ kept by its worker, at most as many bytes
                        │ as long as all that is under way fits               │ its turn: read as a stream
                        └──────────────── next item is taken ◀────────────────┴▶ results, one by one

As `map`, but what bounds it are bytes: the worker of a chunk that is not read yet waits once its results take up
their share; the one that is read goes through a ring. Nothing depends on how large results turn out to be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from shmq.client.many.window import Calls, Items, Window, checked
from shmq.client.submitting.kinds import StreamOf
from shmq.client.submitting.slow_path import bind_calls, submit_message
from shmq.errors import QueueFull, TaskTimeout, WorkerLost
from shmq.tasks.task import Task
from shmq.wire.failure import Failure
from shmq.wire.header import STREAM

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.client.parts.reader import PartStream

_SWEEP_S = 0.2


@dataclass(slots=True, eq=False)
class Chunk:
    """Calls under way as one job."""

    calls: Calls
    nbytes: int
    job: Job[Any]


def run(
    client: Client, task: Task[..., Any], items: Iterable[Any], chunk_size: int, memory_limit: int | str
) -> Iterator[Any]:
    """The results; of a generator task its parts, item after item. What cannot work is refused at once."""
    window = Window(checked(chunk_size, memory_limit), client.block_budget_bytes)
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
            chunk.job.cancel()


def _submit(client: Client, task: Task[..., Any], calls: Calls, kept_bytes: int, *, block: float | None) -> Job[Any]:
    target, calls, nargs = bind_calls(client, task, calls)
    return submit_message(client, target, StreamOf(task), (kept_bytes, calls), nargs, STREAM, block)


def _results(
    client: Client, task: Task[..., Any], chunk: Chunk, waiting: Iterable[Chunk], kept_bytes: int
) -> Iterator[Any]:
    """Results of one chunk. A call that is to be tried again, or that may have killed the worker, goes on alone."""
    calls, job = chunk.calls, chunk.job
    while True:
        stream: PartStream[Any] = job.stream(timeout=_SWEEP_S)
        try:
            read, error = 0, Exception()
            while True:
                try:
                    value = next(stream)
                except StopIteration:
                    return
                except TaskTimeout as raised:
                    error = raised
                    break
                except TimeoutError as raised:
                    if stream.is_over:  # the task's own
                        error = raised
                        break
                    for other in waiting:  # results of later chunks move here: this one may need their blocks
                        other.job.done()
                    continue
                except Exception as raised:
                    error = raised
                    break
                read += 1
                yield value
        finally:
            stream.close()
        retries = _retries_left(job, error)
        if task.yields or retries is None or read >= len(calls):
            raise error
        again = task if retries < 0 else task.options(retries=retries)
        yield client.submit_task(again, calls[read]).result()
        calls = calls[read + 1 :]
        if not calls:
            return
        job = _submit(client, task, calls, kept_bytes, block=None)


def _retries_left(job: Job[Any], error: Exception) -> int | None:
    """How often the failed call may be tried again by itself; -1: as its task says; None: not at all."""
    if isinstance(error, WorkerLost):
        return -1
    try:
        left = msgspec.msgpack.decode(job._raw or b"", type=Failure).retries_left
    except (AttributeError, msgspec.MsgspecError):  # cancelled, or never read from the table
        return None
    return left - 1 if left else None
