"""A bounded window of calls in flight: lines in, answers out, neither waiting for the other.

`Client.map_calls` pulls its input; here the input may have nothing at present while results are due, and a
line that cannot be submitted must fail alone. So the window asks both sides in turn:

    lines at hand → calls → chunks (one job each) → answers, in order or as they come
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from shmq.cli.jobs.lines import Line, Lines
from shmq.cli.jobs.values import Arguments, Malformed
from shmq.client import mapping
from shmq.errors import BadArguments, QueueFull, TooLarge, Unencodable
from shmq.memory.layout import GROUP_CONTROL
from shmq.memory.segment import Segment

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.tasks.task import Task

_CHUNK_BYTES = 48 * 1024  # of lines; with its header a chunk then fits the smallest block
_MOST_BYTES = 8 << 20  # of lines in flight: with the lines read ahead all that grows with the input
_POLL_S = 0.01  # how often the input is looked at while results are waited for
_PATIENCE_S = 1.0  # how often a wait that lasts is explained
_BAD_LINE = (BadArguments, TooLarge, Unencodable)  # errors of one line, not of the whole


class Answer(NamedTuple):
    """What became of one line: its result, or the exception it failed with."""

    line: Line
    ok: bool
    value: Any


@dataclass(slots=True, eq=False)
class _Chunk:
    """Lines that travel as one job, or that failed before they could (`job` is None)."""

    lines: list[Line]
    job: Job[Any] | None = None
    is_single: bool = False
    failure: Exception | None = None
    bytes: int = 0

    def is_done(self) -> bool:
        return self.job is None or self.job.done()


class Window:
    """Runs a task for each line.

    Args:
        task: with the options for its jobs.
        parse: makes arguments of a line, None to skip it. Raises Malformed.
        chunk_size: lines per job, or "auto".
        explain: called about once a second while nothing moves.
    """

    def __init__(
        self,
        client: Client,
        task: Task[..., Any],
        lines: Lines,
        parse: Callable[[bytes], Arguments | None],
        *,
        ordered: bool,
        chunk_size: int | str,
        explain: Callable[[], None],
    ) -> None:
        self._client = client
        self._task = task.options(block=_PATIENCE_S)
        self._lines = lines
        self._parse = parse
        self._ordered = ordered
        self._explain = explain
        self._sizes = mapping.ChunkSize(chunk_size)
        self._most_chunks = _chunks_in_flight(client.segment, task.settings.group)
        self._chunks: deque[_Chunk] = deque()
        self._bytes = 0

    def answers(self) -> Generator[Answer, None, None]:
        """One answer per line. Closing the iterator cancels what has not started."""
        try:
            while True:
                self._fill()
                if not self._chunks:
                    if self._lines.is_at_end:
                        return
                    self._lines.wait(None)
                elif (chunk := self._next_done()) is not None:
                    self._bytes -= chunk.bytes
                    yield from self._take_apart(chunk)
                else:
                    self._wait()
        finally:
            for chunk in self._chunks:
                if chunk.job is not None:
                    chunk.job.cancel()

    def _has_room(self) -> bool:
        return len(self._chunks) < self._most_chunks and self._bytes < _MOST_BYTES

    # -- lines to jobs -----------------------------------------------------------------

    def _fill(self) -> None:
        """Submit the lines at hand, as many as there is room for."""
        calls: list[tuple[Line, tuple[Any, ...]]] = []
        size = 0
        while self._has_room() and (line := self._lines.take()) is not None:
            try:
                arguments = self._parse(line.text)
            except Malformed as error:
                self._flush(calls)
                self._chunks.append(_Chunk([line], failure=error))
                continue
            if arguments is None:
                continue
            args, kwargs = arguments
            if kwargs or (calls and (len(args) != len(calls[0][1]) or size + len(line.text) > _CHUNK_BYTES)):
                self._flush(calls)
                size = 0
            if kwargs:
                self._submit_single(line, args, kwargs)
                continue
            calls.append((line, args))
            size += len(line.text)
            if len(calls) >= self._sizes.size:
                self._flush(calls)
                size = 0
        self._flush(calls)

    def _flush(self, calls: list[tuple[Line, tuple[Any, ...]]]) -> None:
        """Submit the calls as one job, or in halves when one of them cannot travel."""
        if not calls:
            return
        lines = [line for line, _ in calls]
        try:
            job = self._patiently(lambda: self._client.submit_chunk(self._task, [args for _, args in calls]))
        except _BAD_LINE as error:
            if len(calls) == 1:
                self._chunks.append(_Chunk(lines, failure=error))
            else:
                half = len(calls) // 2
                self._flush(calls[:half])
                self._flush(calls[half:])
        else:
            self._add(_Chunk(lines, job))
        calls.clear()

    def _submit_single(self, line: Line, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keyword arguments do not travel in chunks."""
        try:
            job = self._patiently(lambda: self._client.submit_task(self._task, args, kwargs))
        except _BAD_LINE as error:
            self._chunks.append(_Chunk([line], failure=error))
        else:
            self._add(_Chunk([line], job, is_single=True))

    def _patiently(self, submit: Callable[[], Job[Any]]) -> Job[Any]:
        """Submit, however long the queue is full."""
        while True:
            try:
                return submit()
            except QueueFull:
                self._explain()

    def _add(self, chunk: _Chunk) -> None:
        chunk.bytes = sum(len(line.text) for line in chunk.lines)
        self._bytes += chunk.bytes
        self._chunks.append(chunk)

    # -- jobs to answers ---------------------------------------------------------------

    def _next_done(self) -> _Chunk | None:
        if self._ordered:
            return self._chunks.popleft() if self._chunks[0].is_done() else None
        for chunk in self._chunks:
            if chunk.is_done():
                self._chunks.remove(chunk)
                return chunk
        return None

    def _wait(self) -> None:
        """Until a result comes, or perhaps a line."""
        waited_for = [self._chunks[0]] if self._ordered else list(self._chunks)
        jobs = [chunk.job for chunk in waited_for if chunk.job is not None]
        may_read = self._has_room() and not self._lines.is_at_end
        if not self._client.wait_any(jobs, _POLL_S if may_read else _PATIENCE_S) and not may_read:
            self._explain()

    def _take_apart(self, chunk: _Chunk) -> Iterator[Answer]:
        if chunk.job is None:
            yield Answer(chunk.lines[0], False, chunk.failure)
        elif chunk.is_single:
            try:
                yield Answer(chunk.lines[0], True, chunk.job.result())
            except Exception as error:
                yield Answer(chunk.lines[0], False, error)
        else:
            answers = mapping._answers(self._client, chunk.job, 0, len(chunk.lines), self._sizes)
            for line, (_, ok, value) in zip(chunk.lines, answers, strict=True):
                yield Answer(line, ok, value)


def _chunks_in_flight(segment: Segment, group: str) -> int:
    """Enough that no worker of the group waits for its next chunk; never more than slots and blocks allow."""
    names = segment.group_names()
    control = segment.rows("group_control")[names.index(group) if group in names else 0]
    workers, concurrency = control[GROUP_CONTROL["max_workers"]], control[GROUP_CONTROL["concurrency"]]
    wanted = max(24, 2 * min(workers, 1000) * max(1, min(concurrency, 1000)))
    return max(1, min(wanted, segment.shape.slots_per_producer // 2, segment.shape.units // 4))
