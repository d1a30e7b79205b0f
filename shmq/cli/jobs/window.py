"""A bounded window of calls in flight: lines in, answers out, neither waiting for the other.

`Client.map_calls` pulls its input; here the input may have nothing at present while results are due, and a
line that cannot be submitted must fail alone. So the window asks both sides in turn:

    lines at hand → chunks (one job each) → answers, in order or as they come
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from shmq.cli.jobs.lines import Line, Lines
from shmq.cli.jobs.values import Arguments, Malformed
from shmq.client.many import mapping
from shmq.client.many.window import most_ahead
from shmq.client.submitting.slow_path import most_calls, target_of
from shmq.errors import BadArguments, QueueFull, TooLarge, Unencodable
from shmq.wire.codec import PoolFull

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.tasks.task import Task

_CHUNK_BYTES = 48 * 1024  # of lines; with its header such a chunk fits the smallest block
_MOST_BYTES = 8 << 20  # of lines in flight: with the lines read ahead all that grows with the input
_POLL_S = 0.01  # how often the input is looked at while results are waited for
_PATIENCE_S = 1.0  # how often a wait that lasts is explained
_BAD_CALL = (BadArguments, TooLarge, Unencodable)  # errors of one line, not of the whole


class Answer(NamedTuple):
    """What became of one line: its result, or the exception it failed with."""

    line: Line
    ok: bool
    value: Any


@dataclass(slots=True, eq=False)
class _Chunk:
    """Lines that travel as one job, or one line that failed before it could."""

    lines: list[Line] = field(default_factory=list)
    calls: list[Arguments] = field(default_factory=list)
    failure: Exception | None = None
    job: Job[Any] | None = None
    placed_bytes: int = 0

    @property
    def text_bytes(self) -> int:
        return sum(len(line.text) for line in self.lines)

    def is_done(self) -> bool:
        return self.job is None or self.job.done()

    def halves(self) -> tuple[_Chunk, _Chunk]:
        at = len(self.lines) // 2
        return _Chunk(self.lines[:at], self.calls[:at]), _Chunk(self.lines[at:], self.calls[at:])


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
        self._task = task.options(block=0.0)  # a full queue is no reason to leave results unread
        self._lines = lines
        self._parse = parse
        self._ordered = ordered
        self._explain = explain
        most = most_ahead(client.segment, target_of(client, self._task).route.group, mapping.CHUNKS)
        self._pace = mapping.Pace(chunk_size, client.block_budget_bytes, most)
        self._unsent: deque[_Chunk] = deque()
        self._chunks: deque[_Chunk] = deque()
        self._bytes = 0
        self._is_full = False

    def answers(self) -> Generator[Answer, None, None]:
        """One answer per line. Closing the iterator cancels what has not started."""
        try:
            while True:
                self._fill()
                if self._chunks:
                    chunk = self._next_done()
                    if chunk is None:
                        self._wait_for_results()
                    else:
                        self._bytes -= chunk.text_bytes
                        yield from self._take_apart(chunk)
                elif self._unsent:  # no room although nothing of ours is under way: others have it
                    self._explain()
                    time.sleep(_POLL_S)
                elif self._lines.is_at_end:
                    return
                else:
                    self._lines.wait(None)
        finally:
            for chunk in self._chunks:
                if chunk.job is not None:
                    chunk.job.cancel()

    # -- lines to jobs -----------------------------------------------------------------

    def _fill(self) -> None:
        """Submit the lines at hand, as long as there is room for them."""
        self._is_full = False
        while self._has_room():
            if not self._unsent:
                self._gather()
            if not self._unsent:
                return
            if not self._send(self._unsent.popleft()):
                self._is_full = True
                return

    def _has_room(self) -> bool:
        return len(self._chunks) < self._pace.ahead and self._bytes < _MOST_BYTES

    def _gather(self) -> None:
        """Make the next chunk of the lines at hand: few if there are few, so that none is kept waiting."""
        chunk, size = _Chunk(), 0
        most = most_calls(self._client, self._task, self._pace.size)
        while len(chunk.lines) < most and size < _CHUNK_BYTES:
            line = self._lines.take()
            if line is None:
                break
            try:
                arguments = self._parse(line.text)
            except Malformed as error:
                self._queue(chunk)
                self._queue(_Chunk([line], failure=error))
                return
            if arguments is None:
                continue
            if arguments[1]:  # keywords do not travel in chunks
                self._queue(chunk)
                self._queue(_Chunk([line], [arguments]))
                return
            chunk.lines.append(line)
            chunk.calls.append(arguments)
            size += len(line.text)
        self._queue(chunk)

    def _queue(self, chunk: _Chunk) -> None:
        if chunk.lines:
            self._unsent.append(chunk)

    def _send(self, chunk: _Chunk) -> bool:
        """Submit the chunk, or what of it can travel; False (and it stays the next) when there is no room."""
        if chunk.failure is None:
            before = self._client.placed_bytes
            try:
                chunk.job = self._submit(chunk)
            except _BAD_CALL as error:
                if len(chunk.lines) > 1:
                    self._unsent.extendleft(reversed(chunk.halves()))
                    return True
                chunk.failure = error
            except (PoolFull, QueueFull):
                self._unsent.appendleft(chunk)
                return False
            chunk.placed_bytes = self._client.placed_bytes - before
        self._bytes += chunk.text_bytes
        self._chunks.append(chunk)
        return True

    def _submit(self, chunk: _Chunk) -> Job[Any]:
        args, kwargs = chunk.calls[0]
        if kwargs:
            return self._client.submit_task(self._task, args, kwargs)
        return self._client.submit_chunk(self._task, [args for args, _ in chunk.calls])

    # -- jobs to answers ---------------------------------------------------------------

    def _next_done(self) -> _Chunk | None:
        if self._ordered:
            return self._chunks.popleft() if self._chunks[0].is_done() else None
        for chunk in self._chunks:
            if chunk.is_done():
                self._chunks.remove(chunk)
                return chunk
        return None

    def _wait_for_results(self) -> None:
        """Until a result comes, or there may be a line to submit."""
        wanted = [self._chunks[0]] if self._ordered else list(self._chunks)
        jobs = [chunk.job for chunk in wanted if chunk.job is not None]
        may_submit = self._has_room() and (self._is_full or not self._lines.is_at_end)
        if not self._client.wait_any(jobs, _POLL_S if may_submit else _PATIENCE_S):
            self._explain()

    def _take_apart(self, chunk: _Chunk) -> Iterator[Answer]:
        if chunk.job is None:
            yield Answer(chunk.lines[0], False, chunk.failure)
        elif chunk.calls[0][1]:
            try:
                yield Answer(chunk.lines[0], True, chunk.job.result())
            except Exception as error:
                yield Answer(chunk.lines[0], False, error)
        else:
            as_sent = mapping.Chunk(0, [args for args, _ in chunk.calls], chunk.job, chunk.placed_bytes)
            answers = mapping.answers(self._client, self._task, as_sent, self._pace)
            for line, (_, ok, value) in zip(chunk.lines, answers, strict=True):
                yield Answer(line, ok, value)
