"""`map`: many calls of one task, in chunks, with bounded memory on both sides.

A chunk is one job whose message is a list of argument arrays; the worker answers with
[values, {index: failure}]. "auto" starts small and aims at CHUNK_S of work per chunk, measured by
how fast results come back.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from shmq.client.handle import Job
from shmq.errors import BadArguments
from shmq.tasks.task import Task
from shmq.wire.failure import Failure, rebuild

if TYPE_CHECKING:
    from shmq.client.client import Client

CHUNK_S = 0.004
_FIRST_CHUNK, _LARGEST_CHUNK = 1, 512
_CHUNKS_AHEAD = 24

Calls = Iterable[tuple[Any, ...]]
Answer = tuple[int, bool, Any]


class ChunkSize:
    """How many calls go into the next chunk."""

    def __init__(self, chunk_size: int | str) -> None:
        if chunk_size != "auto" and not (isinstance(chunk_size, int) and chunk_size >= 1):
            raise BadArguments(f'chunk_size must be "auto" or a number from 1, got {chunk_size!r}')
        self._is_auto = chunk_size == "auto"
        self.size = _FIRST_CHUNK if self._is_auto else int(chunk_size)

    def learn(self, calls: int, run_s: float) -> None:
        """A chunk of `calls` ran for `run_s` seconds in its worker."""
        if self._is_auto:
            fitting = int(calls * CHUNK_S / max(run_s, 1e-7))
            self.size = max(1, min(fitting, 4 * calls, _LARGEST_CHUNK))


def run(
    client: Client, task: Task[..., Any], calls: Calls, chunk_size: int | str, *, ordered: bool = True
) -> Iterator[Answer]:
    """(index, ok, value or exception) of each call; `ordered` or as chunks end."""
    sizes = ChunkSize(chunk_size)
    source = iter(calls)
    waiting: deque[tuple[int, int, Job[Any]]] = deque()
    first = 0
    try:
        while True:
            while len(waiting) < _CHUNKS_AHEAD:
                chunk = list(itertools.islice(source, sizes.size))
                if not chunk:
                    break
                waiting.append((first, len(chunk), client.submit_chunk(task, chunk)))
                first += len(chunk)
            if not waiting:
                return
            at, count, job = _next(client, waiting, ordered=ordered)
            yield from _answers(client, job, at, count, sizes)
    finally:
        for _, _, job in waiting:
            job.cancel()


def _next(
    client: Client, waiting: deque[tuple[int, int, Job[Any]]], *, ordered: bool
) -> tuple[int, int, Job[Any]]:
    if ordered or len(waiting) == 1:
        return waiting.popleft()
    client.wait_any([job for _, _, job in waiting])
    for entry in waiting:
        if entry[2].done():
            waiting.remove(entry)
            return entry
    return waiting.popleft()


def _answers(client: Client, job: Job[Any], first: int, count: int, sizes: ChunkSize) -> Iterator[Answer]:
    """Take one chunk apart. A chunk that failed as a whole fails each of its calls."""
    try:
        run_ns, values, failures = job.result()
    except Exception as error:  # noqa: BLE001 - the chunk's failure is each call's answer
        for i in range(count):
            yield first + i, False, error
        return
    sizes.learn(count, run_ns / 1e9)
    if not failures:
        for i, value in enumerate(values, first):
            yield i, True, value
        return
    for i, value in enumerate(values):
        if i in failures:
            yield first + i, False, rebuild(msgspec.convert(failures[i], Failure))
        else:
            yield first + i, True, value
