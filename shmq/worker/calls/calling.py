"""The worker's tasks, and those calls of them that are not plain: all but some positional arguments in the slot.

chunk of `map`        ─▶ each call, a failure stays with its call ─▶ one answer
chunk of `stream`     ─▶ each call, or each of its parts          ─▶ outlet
generator as a job    ─▶ each part                                ─▶ outlet
keywords, a message in a block, a time limit of the job's own ... ─▶ value
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from shmq.clock import now_ns
from shmq.tasks.task import AUTO, Task
from shmq.wire.codec import Decoder
from shmq.wire.failure import Failure
from shmq.wire.header import MANY, STREAM
from shmq.worker.calls.coroutines import OwnLoop
from shmq.worker.calls.generating import Generating
from shmq.worker.calls.measuring import measure
from shmq.worker.calls.runnable import Convert, Runnable, collecting, startable
from shmq.worker.results.outcome import named
from shmq.worker.results.outlet import Outlet
from shmq.worker.seat import Seat
from shmq.worker.slots import Slots


class Calling:
    """Has the tasks of one worker ready, and calls them where one job runs at a time."""

    def __init__(
        self,
        seat: Seat,
        tasks: dict[int, Task[..., Any]],
        slots: Slots,
        decoder: Decoder,
        set_limit: Callable[[int], None],
        clear_limit: Callable[[], None],
    ) -> None:
        self._seat, self._slots = seat, slots
        self._set_limit, self._clear_limit = set_limit, clear_limit
        self._own_loop = OwnLoop()
        self.generating: Generating | None = None  # in a worker that runs one job at a time
        self.runnables = {key: self._runnable(task, decoder) for key, task in tasks.items()}
        measure([runnable for runnable in self.runnables.values() if runnable.task.settings.group == AUTO], seat)

    def _runnable(self, task: Task[..., Any], decoder: Decoder) -> Runnable:
        runnable = Runnable(task, decoder, self._seat)
        if runnable.is_async:
            runnable.call = runnable.call_whole = self._own_loop.plain(task.function)
        elif runnable.is_generator:
            if runnable.is_async_generator:
                runnable.generate = self._own_loop.plain_generator(task.function)
            runnable.call = self._streamed(runnable)
            runnable.call_whole = collecting(runnable.generate)
        return runnable

    def call(self, runnable: Runnable | None, slot: int) -> Any:
        """Decode the job's message and call its task: the value."""
        head = self._slots.header(slot)
        runnable = startable(runnable, head, self._seat, slot)
        data = self._slots.message(slot, head)
        limit = head.timeout_ns or runnable.timeout_ns
        if head.kind == MANY:
            return self._call_chunk(runnable, data, head.nargs, limit)
        if head.kind == STREAM:
            most_kept, calls, convert = runnable.stream_calls(data, head.nargs)
            assert self.generating is not None
            is_single = len(calls) == 1 and not runnable.is_generator
            return self.generating.run(self._each(runnable, calls, convert, limit), most_kept, is_single=is_single)
        args, kwargs = runnable.arguments(data, head.nargs)
        if limit:
            self._set_limit(limit)
        self._seat.in_user = True
        value = runnable.call(*args, **kwargs)
        self._seat.in_user = False
        return value

    def _call_chunk(self, runnable: Runnable, data: bytes, nargs: int, limit: int) -> Any:
        """Run the calls of a chunk: (run ns, values, {index: failure}). Failures stay with their call."""
        seat = self._seat
        calls, convert = runnable.calls(data, nargs)
        seat.calls, left = calls, iter(calls if convert is None else map(convert, calls))
        call = runnable.call_whole
        values: list[Any] = []
        failures: dict[int, Failure] = {}
        started = now_ns()
        while True:
            try:
                if limit:
                    self._call_limited(call, left, limit, values)
                else:
                    seat.in_user = True
                    for args in left:
                        values.append(call(*args))
                    seat.in_user = False
                seat.calls = []  # they hold views of blocks, which the next chunk may be long in replacing
                return now_ns() - started, values, failures
            except BaseException as error:
                seat.in_user = False
                failures[len(values) + len(failures)] = runnable.failure_of_call(named(error, runnable.name))

    def _call_limited(self, call: Callable[..., Any], left: Iterator[Any], limit: int, values: list[Any]) -> None:
        """The calls, each within its limit: between two of them nothing may be raised."""
        seat = self._seat
        for args in left:
            self._set_limit(limit)
            seat.in_user = True
            value = call(*args)
            seat.in_user = False
            values.append(value)

    def _each(
        self, runnable: Runnable, calls: list[Any], convert: Convert | None, limit: int
    ) -> Generator[Any, None, None]:
        """The calls of a chunk of `stream`, one after the other; the limit is each one's own."""
        for args in calls:
            if convert is not None:
                args = convert(args)  # noqa: PLW2901 - the call as the task wants it
            if limit:
                self._set_limit(limit)
            if runnable.is_generator:
                yield from runnable.generate(*args)
                continue
            value = runnable.call(*args)
            if limit:
                self._clear_limit()  # waiting for the reader is not the call's time
            yield value

    def _streamed(self, runnable: Runnable) -> Callable[..., Outlet]:
        """A generator as a job: it is driven step by step, and its parts go out as somebody reads them."""

        def call(*args: Any, **kwargs: Any) -> Outlet:
            assert self.generating is not None
            return self.generating.run(runnable.generate(*args, **kwargs), None)

        return call
