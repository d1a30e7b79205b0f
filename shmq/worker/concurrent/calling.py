"""The calls of jobs that run at once: coroutines on the event loop, plain functions and generators in threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any

from shmq.clock import NS, now_ns
from shmq.errors import TaskTimeout
from shmq.memory.doorbell import RESCUE_S
from shmq.tasks import current
from shmq.transport.table import GENERATION_SHIFT, crashes_of, failures_of
from shmq.wire.header import MANY, STREAM
from shmq.worker.calls.generating import check_wait
from shmq.worker.calls.runnable import Convert, Runnable, startable
from shmq.worker.concurrent.running import Running
from shmq.worker.execution import Executor
from shmq.worker.results.outlet import Outlet
from shmq.worker.seat import Seat

_END = object()


class ConcurrentCalling:
    """Calls tasks for a worker that runs many jobs at once.

    Args:
        show_next: called when a job's deadline begins.
    """

    def __init__(self, seat: Seat, executor: Executor, most_threads: int, show_next: Callable[[], None]) -> None:
        self._seat, self._executor, self._show_next = seat, executor, show_next
        self.room = asyncio.Event()  # set at each ring, for generators that wait for room
        self._threads = concurrent.futures.ThreadPoolExecutor(
            most_threads,  # started as they are needed
            thread_name_prefix="shmq-task",
        )

    def shutdown(self) -> None:
        """No more calls; those in threads are not waited for."""
        self._threads.shutdown(wait=False)

    async def call(self, job: Running) -> Any:
        """Decode and call: the value. Runs in the job's own context, so that `shmq.cancelled()` knows it."""
        head, runnable = job.head, startable(job.runnable, job.head, self._seat, job.slot)
        attempt = crashes_of(job.word) + failures_of(job.word)
        current.set_job(
            current.CurrentJob(job.slot, job.word >> GENERATION_SHIFT, runnable.name, self._seat.group_name, attempt)
        )
        data = self._executor.slots.message(job.slot, head)
        if head.kind == MANY:
            return await self._call_chunk(job, runnable, data)
        if head.kind == STREAM:
            most_kept, calls, convert = runnable.stream_calls(data, head.nargs)
            self._keep_views(job)
            is_single = len(calls) == 1 and not runnable.is_generator
            return await self._send(job, self._each(job, runnable, calls, convert), most_kept, is_single=is_single)
        args, kwargs = runnable.arguments(data, head.nargs)
        self._keep_views(job)
        if runnable.is_generator:
            return await self._stream(job, runnable, args, kwargs)
        return await self._invoke(job, runnable, args, kwargs)

    def _keep_views(self, job: Running) -> None:
        """The arrays among its arguments are this job's, whatever is decoded next."""
        views = self._executor.decoder.views
        job.views += views
        views.clear()

    # -- single calls and chunks -----------------------------------------------------------

    async def _call_chunk(self, job: Running, runnable: Runnable, data: bytes) -> Any:
        """All calls of a chunk, together for coroutines, one after the other in a thread else."""
        started = now_ns()
        calls = runnable.converted_calls(data, job.head.nargs)
        self._keep_views(job)
        if runnable.is_async:
            ends = await asyncio.gather(
                *(self._invoke(job, runnable, args, {}) for args in calls), return_exceptions=True
            )
        else:
            ends = []
            for args in calls:
                try:
                    ends.append(await self._invoke(job, runnable, args, {}))
                except TaskTimeout as error:
                    ends.append(error if error.args else job.timeout())  # the one raised in the thread says nothing
                except Exception as error:
                    ends.append(error)
        return runnable.answer(ends, now_ns() - started)

    async def _invoke(self, job: Running, runnable: Runnable, args: Any, kwargs: dict[str, Any]) -> Any:
        """One call, to its value; all parts of a generator as a list."""
        with self._limited(job):
            if runnable.is_async:
                return await runnable.coroutine(*args, **kwargs)
            if runnable.is_async_generator:
                return [part async for part in runnable.task.function(*args, **kwargs)]
            return await self._in_thread(job, runnable.call_whole, args, kwargs)

    @contextlib.contextmanager
    def _limited(self, job: Running) -> Iterator[None]:
        """Meanwhile the time limit runs. A coroutine that kept the loop from interrupting it was late all the same."""
        if not job.limit_ns:
            yield
            return
        deadline_ns = now_ns() + job.limit_ns
        if not job.was_killed:
            job.deadline_ns = deadline_ns
            self._show_next()
        timer = asyncio.get_running_loop().call_later(job.limit_ns / NS, job.time_out)
        try:
            yield
            if job.runs_on_loop and now_ns() > deadline_ns and not job.has_timed_out:
                raise job.timeout()
        finally:
            timer.cancel()
            if job.deadline_ns == deadline_ns:  # else that of another call of the chunk, or of a kill
                job.deadline_ns = 0
                self._show_next()

    async def _in_thread(self, job: Running, call: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """A plain function in a pool thread, in the job's context."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, context.run, self._guarded, job, call, args, kwargs
        )

    def _guarded(self, job: Running, call: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """In the pool thread; the guard keeps TaskTimeout inside the user's code."""
        with job.guard:
            job.thread = threading.get_ident()
        try:
            return call(*args, **kwargs)
        finally:
            if self._seat.is_forked:
                self._seat.end_child(sys.exception())
            with job.guard:
                job.thread = 0

    # -- generators and chunks of `stream` -------------------------------------------------

    async def _stream(self, job: Running, runnable: Runnable, args: Any, kwargs: Any) -> Outlet:
        """A generator as a job: its parts go out as somebody reads them."""
        with self._limited(job):
            parts = runnable.task.function(*args, **kwargs)
            return await self._send(job, parts if runnable.is_async_generator else self._stepped(job, parts), None)

    async def _send(
        self, job: Running, parts: AsyncGenerator[Any, None], most_kept: int | None, *, is_single: bool = False
    ) -> Outlet:
        """Run a generator to its end; its parts are in, or went through, the outlet."""
        outlet = job.outlet = self._executor.outlets.open(job.slot, job.word, most_kept, is_single=is_single)
        async with contextlib.aclosing(parts):
            async for part in parts:
                if not outlet.offer(part):
                    await self._wait_for_room(job, outlet, outlet.resume)
                outlet.check_cancelled()
            if not outlet.finish():
                await self._wait_for_room(job, outlet, outlet.finish)
        return outlet

    async def _each(
        self, job: Running, runnable: Runnable, calls: list[Any], convert: Convert | None
    ) -> AsyncGenerator[Any, None]:
        """The calls of a chunk of `stream`: coroutines all together, others one after the other."""
        calls = [convert(args) for args in calls] if convert is not None else calls
        if runnable.is_async:
            ends = [asyncio.ensure_future(self._invoke(job, runnable, args, {})) for args in calls]
            try:
                for end in ends:
                    yield await end
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
            return
        for args in calls:
            if not runnable.is_generator:
                yield await self._invoke(job, runnable, args, {})
                continue
            with self._limited(job):
                parts = runnable.task.function(*args)
                async with contextlib.aclosing(
                    parts if runnable.is_async_generator else self._stepped(job, parts)
                ) as stepped:
                    async for part in stepped:
                        yield part

    async def _stepped(self, job: Running, generator: Generator[Any, None, Any]) -> AsyncGenerator[Any, None]:
        """A plain generator, each step of it in a pool thread."""
        try:
            while True:
                part = await self._in_thread(job, next, (generator, _END), {})
                if part is _END:
                    return
                yield part
        finally:
            await self._in_thread(job, generator.close, (), {})

    async def _wait_for_room(self, job: Running, outlet: Outlet, is_ready: Callable[[], bool]) -> None:
        started = time.monotonic()
        name = job.runnable.name if job.runnable is not None else "a task"
        while not is_ready():
            if job.has_timed_out:  # a coroutine is cancelled instead
                raise TaskTimeout
            check_wait(outlet, time.monotonic() - started, is_draining=self._seat.is_draining, name=name)
            self.room.clear()
            outlet.want_room(1)
            try:
                if is_ready():
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.room.wait(), RESCUE_S)
            finally:
                outlet.want_room(0)
