"""`map`: many calls of one task, in chunks, with bounded memory on both sides.

A chunk is one job whose message is a list of argument arrays; the worker answers with
(run ns, values of the calls that succeeded, {index: failure}). "auto" starts small, aims at CHUNK_S of work per chunk,
as the workers measured it, and ends small where the length of the input is known: what is left is shared, so that no
worker has the last chunk for itself (guided self-scheduling: Polychronopoulos and Kuck, IEEE Trans. Computers, 1987).
Whatever the chunk size, what is under way at once fits a part of the block budget: results wait in blocks until their
turn. Where a rate limit counts, a chunk holds one call. An answer that is there does not wait for a slow input.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import length_hint
from typing import TYPE_CHECKING, Any

from shmq.client.handle import RAW, Job
from shmq.client.many.window import INPUT_S, most_ahead
from shmq.client.submitting.kinds import ChunkOf
from shmq.client.submitting.slow_path import bind_calls, most_calls, submit_message, target_of
from shmq.errors import BadArguments, TooLarge, WorkerLost
from shmq.memory.layout import GROUP_CONTROL
from shmq.tasks.task import Task
from shmq.wire.codec import PoolFull
from shmq.wire.failure import Failure, rebuild
from shmq.wire.header import MANY

if TYPE_CHECKING:
    from shmq.client.client import Client

_WORKERS = GROUP_CONTROL["workers"]
CHUNK_S = 0.008
CHUNK_BYTES = 256 * 1024
_FIRST_CHUNK, _LARGEST_CHUNK = 1, 2048
_SHORTEST_PART = 32  # of CHUNK_S: at the end a chunk lasts that long at least
CHUNKS = 24  # as many may be under way however few workers there are
_FIRST_AHEAD, _LEAST_AHEAD = 4, 2
_MOST_AT_ONCE = 32  # items of the input
_SHARE_OF_BLOCKS = 4  # a quarter of the budget for all chunks under way, arguments and results

Calls = Iterable[tuple[Any, ...]]
Answer = tuple[int, bool, Any]


class Pace:
    """How many calls go into the next chunk, and how many chunks may be under way."""

    def __init__(self, chunk_size: int | str, budget_bytes: int, most_chunks: int) -> None:
        is_number = isinstance(chunk_size, int) and not isinstance(chunk_size, bool) and chunk_size >= 1
        if chunk_size != "auto" and not is_number:
            raise BadArguments(f'chunk_size must be "auto" or a number from 1, got {chunk_size!r}')
        self._is_auto = chunk_size == "auto"
        self.size = _FIRST_CHUNK if self._is_auto else min(int(chunk_size), sys.maxsize)
        self._smallest = 1
        self.ahead, self._most_chunks = _FIRST_AHEAD, most_chunks
        self.share_bytes = budget_bytes // _SHARE_OF_BLOCKS
        self._call_bytes = 0.0

    def learn(self, calls: int, run_s: float, nbytes: int) -> None:
        """A chunk of `calls` ran for `run_s` seconds; its arguments and results took `nbytes` of blocks."""
        self._call_bytes = max(nbytes / calls, 0.9 * self._call_bytes)  # large ones are remembered for a while
        if self._is_auto:
            in_time = int(calls * CHUNK_S / max(run_s, 1e-7))
            self.size = max(1, min(in_time, int(CHUNK_BYTES / max(self._call_bytes, 1.0)), 4 * calls, _LARGEST_CHUNK))
            self._smallest = max(in_time // _SHORTEST_PART, 1)
        fitting = int(self.share_bytes / max(self.size * self._call_bytes, 1.0))
        self.ahead = max(_LEAST_AHEAD, min(fitting, self._most_chunks))

    def share(self, left: int, workers: int) -> int:
        """Calls of the next chunk: of what is `left` of the input, if known, half of each worker's part at most."""
        if not self._is_auto or left <= 0:
            return self.size
        return min(self.size, max(-(-left // (2 * workers)), self._smallest))

    def shrink(self, calls: int) -> None:
        """A chunk of `calls` was too large for the blocks."""
        self.size = max(1, calls // 2)


@dataclass(slots=True, eq=False)
class Chunk:
    """Calls of the input under way as one job."""

    first: int
    calls: list[tuple[Any, ...]]
    job: Job[Any]
    nbytes: int

    @property
    def count(self) -> int:
        """How many calls."""
        return len(self.calls)


def submit_chunk(client: Client, task: Task[..., Any], calls: list[tuple[Any, ...]]) -> Job[Any]:
    """Queue many calls as one job; its result is (run ns, values, {index: failure}).

    Raises:
        PoolFull: more than one call, and no block for all their arguments at present.
    """
    target, calls, nargs = bind_calls(client, task, calls)
    return submit_message(client, target, ChunkOf(task), calls, nargs, MANY, None)


def values(client: Client, task: Task[..., Any], calls: Calls, chunk_size: int | str, total: int) -> Iterator[Any]:
    """The value of each call, in order; the first failure is raised in its place. `total`: as `length_of` the input."""
    for _, found, rest in _chunks(client, task, calls, chunk_size, total, ordered=True):
        yield from found
        for _, is_value, value in rest:
            if not is_value:
                raise value
            yield value


def run(
    client: Client, task: Task[..., Any], calls: Calls, chunk_size: int | str, *, ordered: bool = True
) -> Iterator[Answer]:
    """(index, ok, value or exception) of each call; `ordered` or as chunks end."""
    total = length_of(chunk_size, calls)
    for chunk, found, rest in _chunks(client, task, calls, chunk_size, total, ordered=ordered):
        for i, value in enumerate(found, chunk.first):
            yield i, True, value
        yield from rest


def length_of(chunk_size: int | str, *inputs: Iterable[Any]) -> int:
    """Of the shortest that says how long it is; 0: none does, it is longer than any list, or nobody wants to know.

    To say it may cost an input a lot, so it is asked only where chunks are sized by it.
    """
    if chunk_size != "auto":
        return 0
    return min((length for each in inputs if (length := _hint_of(each))), default=0)


def _hint_of(items: Iterable[Any]) -> int:
    try:
        return length_hint(items)
    except Exception:  # only a hint: what is wrong with the input, if anything, shows where its items are taken
        return 0


def _chunks(
    client: Client, task: Task[..., Any], calls: Calls, chunk_size: int | str, total: int, *, ordered: bool
) -> Iterator[tuple[Chunk, list[Any], Iterator[Answer]]]:
    """Each chunk with what `_end` says of it. `total`: how many calls there will be, 0 if nobody knows."""
    group = target_of(client, task).route.group
    pace = Pace(chunk_size, client.block_budget_bytes, most_ahead(client.segment, group, CHUNKS))
    control = client.segment.rows("group_control")[group]
    source = iter(calls)
    held: list[tuple[Any, ...]] = []  # taken from the input, not submitted yet
    waiting: deque[Chunk] = deque()
    first = nbytes = 0  # calls before the next chunk; arguments under way in blocks
    waited_s = 0.0  # for the input, since no answer was there
    try:
        while True:
            while len(waiting) < _LEAST_AHEAD or (
                len(waiting) < pace.ahead and nbytes + waiting[-1].nbytes <= pace.share_bytes
            ):
                if waited_s > INPUT_S:
                    if _has_answer(waiting, ordered=ordered):
                        break
                    waited_s = 0.0
                size = most_calls(client, task, pace.share(total - first, max(control[_WORKERS], 1)))
                at_once = size if total else 1  # what has a length has its items, most often
                waited_s += _take(source, held, size, at_once)
                if not held:
                    break
                calls_now = held[:size]
                before = client.placed_bytes
                try:
                    job = submit_chunk(client, task, calls_now)
                except (PoolFull, TooLarge):
                    if len(calls_now) == 1:
                        raise
                    pace.shrink(len(calls_now))
                    continue
                waiting.append(Chunk(first, calls_now, job, client.placed_bytes - before))
                nbytes += waiting[-1].nbytes
                first += len(calls_now)
                del held[: len(calls_now)]
            if not waiting:
                return
            chunk = _next(client, waiting, ordered=ordered)
            nbytes -= chunk.nbytes
            yield chunk, *_end(client, task, chunk, pace)
    finally:
        for chunk in waiting:
            chunk.job.cancel()
            chunk.job.done()  # one that has ended keeps a slot and blocks no longer


def _take(source: Iterator[tuple[Any, ...]], held: list[tuple[Any, ...]], size: int, at_once: int) -> float:
    """Fill `held` up to `size` calls, or with what the input gives in INPUT_S; how many seconds that took.

    A look at the clock costs as much as some items: `at_once` are taken before the first, then more and more.
    """
    began, took_s = time.perf_counter(), 0.0
    while took_s < INPUT_S and (missing := min(size - len(held), at_once)) > 0:
        before = len(held)
        held += itertools.islice(source, missing)
        took_s = time.perf_counter() - began
        if len(held) == before:
            break
        at_once = min(2 * at_once, _MOST_AT_ONCE)
    return took_s


def _has_answer(waiting: deque[Chunk], *, ordered: bool) -> bool:
    """Is there one to hand out?"""
    return bool(waiting) and (waiting[0].job.done() if ordered else any(chunk.job.done() for chunk in waiting))


def _next(client: Client, waiting: deque[Chunk], *, ordered: bool) -> Chunk:
    if ordered or len(waiting) == 1:
        return waiting.popleft()
    client.wait_any([chunk.job for chunk in waiting])
    for chunk in waiting:
        if chunk.job.done():
            waiting.remove(chunk)
            return chunk
    return waiting.popleft()


def answers(client: Client, task: Task[..., Any], chunk: Chunk, pace: Pace) -> Iterator[Answer]:
    """Take one chunk apart: (index, ok, value or exception) of each of its calls."""
    found, rest = _end(client, task, chunk, pace)
    for i, value in enumerate(found, chunk.first):
        yield i, True, value
    yield from rest


def _end(client: Client, task: Task[..., Any], chunk: Chunk, pace: Pace) -> tuple[list[Any], Iterator[Answer]]:
    """Wait for one chunk: the values of all its calls, or (none, the answers to each) if not all went well.

    Calls that are to be tried again, and all calls of a chunk that kept losing its worker, go on as
    jobs of their own: a crash or a retry is charged to that call only.
    """
    job, first, count = chunk.job, chunk.first, chunk.count
    try:
        if not job.done():
            client.wait_for(job, None)
        raw = job._raw if job._state == RAW else b""
        result_bytes = len(raw or b"")
        run_ns, found, failures = job.result()
    except WorkerLost as error:
        if count == 1:
            return [], iter([(first, False, error)])
        alone = [client.submit_task(task, call) for call in chunk.calls]
        return [], (_answer_alone(first + i, single) for i, single in enumerate(alone))
    except Exception as error:
        ends: list[Answer] = [(first + i, False, error) for i in range(count)]
        return [], iter(ends)
    if not result_bytes:  # arrays in blocks of their own
        result_bytes = sum(getattr(value, "nbytes", 0) for value in found)
    pace.learn(count, run_ns / 1e9, chunk.nbytes + result_bytes)
    return ([], _mixed(client, task, chunk, found, failures)) if failures else (found, iter(()))


def _mixed(
    client: Client, task: Task[..., Any], chunk: Chunk, found: list[Any], failures: dict[int, Failure]
) -> Iterator[Answer]:
    """Answers of a chunk with failures; what is to be tried again goes on at once, and ends in its place."""
    first = chunk.first
    again = {
        i: client.submit_task(task.options(retries=failure.retries_left - 1), chunk.calls[i])
        for i, failure in failures.items()
        if failure.retries_left
    }
    succeeded = iter(found)

    def each() -> Iterator[Answer]:
        for i in range(chunk.count):
            if i in again:
                yield _answer_alone(first + i, again[i])
            elif i in failures:
                yield first + i, False, rebuild(failures[i])
            else:
                yield first + i, True, next(succeeded)

    return each()


def _answer_alone(index: int, job: Job[Any]) -> Answer:
    try:
        return index, True, job.result()
    except Exception as error:
        return index, False, error
