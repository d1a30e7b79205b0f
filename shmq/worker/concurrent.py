"""The worker of a group with `concurrency` > 1: coroutines on one event loop, plain functions in threads.

    claim up to the free places → start each → job ends: ack, notify → claim again
    nothing to claim and a place free: sleep on the FIFO bell (at most RESCUE_S)

All shared words are written from the loop's thread. A time limit cancels a coroutine and raises
TaskTimeout in a thread; what does not end within its grace is killed with the worker, and the other
jobs of that worker are redelivered without a crash counted.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import ctypes
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shmq.clock import NS, now_ns
from shmq.errors import JobCancelled, JobExpired, ShmqError, TaskTimeout, UnknownTask
from shmq.heap import Trim
from shmq.memory import doorbell
from shmq.memory.doorbell import RESCUE_S, FifoBell
from shmq.memory.layout import GROUP_CONTROL, GROUP_PLAN, WORKER
from shmq.tasks import current
from shmq.transport.claim import Claimer
from shmq.transport.table import CANCELLED, GENERATION_SHIFT, crashes_of, failures_of, next_free, with_state
from shmq.wire.codec import ENCODING_ERRORS, NeedsBlocks, PoolFull
from shmq.wire.header import FORGET, MANY, STREAM, VARIADIC, Header
from shmq.worker.execution import END, START, Convert, Executor
from shmq.worker.generating import check_wait
from shmq.worker.limiting import TaskLimits
from shmq.worker.outlet import Outlet
from shmq.worker.room import WaitForRoom
from shmq.worker.runnable import Runnable
from shmq.worker.seat import Seat

if TYPE_CHECKING:
    from shmq.worker.watching import Watching

_END = object()
_AUTO_START, _AUTO_MOST = 8, 256  # as in shmq.planner.sizing


@dataclass(eq=False)
class Running:
    """One job that runs at present."""

    slot: int
    word: int
    head: Header
    runnable: Runnable | None
    started_ns: int
    deadline_ns: int = 0
    views: list[Any] = field(default_factory=list)
    future: asyncio.Task[Any] | None = None
    thread: int = 0  # ident of the thread that is inside the task's function
    guard: threading.Lock = field(default_factory=threading.Lock)
    has_timed_out: bool = False
    was_killed: bool = False
    outlet: Outlet | None = None  # of a generator

    @property
    def runs_on_loop(self) -> bool:
        """Is it a coroutine or an async generator, which can be cancelled?"""
        return self.runnable is not None and (self.runnable.is_async or self.runnable.is_async_generator)

    @property
    def job(self) -> int:
        """Id word: generation and slot."""
        return (self.word >> GENERATION_SHIFT) << 32 | self.slot


def concurrent_bell(seat: Seat) -> FifoBell:
    """An event loop cannot wait for a semaphore: name a FIFO in the row instead.

    Caller must: be the worker in its STARTING row.
    """
    path = Path(seat.segment.state_dir) / f"worker-{seat.index}.bell"
    bell = FifoBell(path, create=True)
    doorbell.unlink(seat.segment.text("worker_bells", seat.index))  # nobody else would know its name any more
    seat.segment.set_text("worker_bells", str(path), seat.index)
    seat.row[WORKER["bell_serial"]] += 1
    return bell


class ConcurrentLoop:
    """Runs up to `concurrency` jobs of one group at once."""

    def __init__(
        self,
        seat: Seat,
        claimer: Claimer,
        executor: Executor,
        bell: FifoBell,
        fence: Callable[[], None],
        limits: TaskLimits,
    ) -> None:
        self._seat, self._claimer, self._executor = seat, claimer, executor
        self._bell, self._fence, self._limits = bell, fence, limits
        self.watching: Watching | None = None
        segment = seat.segment
        self._sleeping = segment.view("sleeping")
        self._sleeping_at = seat.group * segment.layout.sleepers + 1 + seat.index
        self._control = segment.rows("group_control")[seat.group]
        self._plan = segment.rows("group_plan")[seat.group]
        self._kills = segment.view("kills")
        self._epoch = segment.header("epoch")
        self._running: set[Running] = set()
        self._trim = Trim()
        self._to_notify: set[int] = set()
        self._shift = segment.shape.slots_per_producer.bit_length() - 1
        self._threads = concurrent.futures.ThreadPoolExecutor(
            _AUTO_MOST if seat.settings.concurrency == "auto" else self._most(),  # started as they are needed
            thread_name_prefix="shmq-task",
        )

    def _most(self) -> int:
        """Places: as configured, or what the planner found."""
        configured = self._seat.settings.concurrency
        if configured != "auto":
            return int(configured)
        return min(int(self._plan[GROUP_PLAN["concurrency"]]) or _AUTO_START, _AUTO_MOST)

    def run(self) -> None:
        """Serve until told to drain."""
        asyncio.run(self._main())
        self._threads.shutdown(wait=False)

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()  # set at each ring, for generators that wait for room
        loop.add_reader(self._bell.fileno(), self._rung)
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        seat, claimer = self._seat, self._claimer
        while not seat.is_draining and seat.segment.header("epoch") == self._epoch:
            seat.row[WORKER["heartbeat_ns"]] = now_ns()
            if self.watching is not None:
                self.watching.tick()
            free = self._most() - len(self._running)
            lanes = claimer.lanes_with_work() if free > 0 and not claimer.is_paused() else []
            if lanes and self._start_some(lanes, free):
                await asyncio.sleep(0)
                continue
            await self._sleep(is_free=free > 0)
            self._enforce_kills()
        while self._running:
            await asyncio.wait({r.future for r in self._running if r.future is not None}, timeout=RESCUE_S)
            self._enforce_kills()

    def _rung(self) -> None:
        self._bell.clear()
        self._wake.set()
        self._room.set()
        for job in self._running:
            if job.outlet is not None and job.outlet.is_holding:  # somebody may have asked for its parts
                job.outlet.look()

    def _drain(self) -> None:
        self._seat.is_draining = True
        self._wake.set()
        self._room.set()

    async def _sleep(self, *, is_free: bool) -> None:
        """Until rung, a job ends, or RESCUE_S; asleep only while a place is free."""
        self._wake.clear()
        held = 0.0
        if is_free:
            self._seat.row[WORKER["naps"]] += 1
            self._sleeping[self._sleeping_at] = 1
            self._fence()  # SYNC POINT: doorbell
            if self._claimer.held_until_ns:
                held = max((self._claimer.held_until_ns - now_ns()) / NS, 0.0005)
            elif self._claimer.lanes_with_work() and not self._claimer.is_paused():
                self._sleeping[self._sleeping_at] = 0
                return
        try:
            await asyncio.wait_for(self._wake.wait(), min(held or RESCUE_S, RESCUE_S))
        except TimeoutError:
            if not self._running:
                self._trim.when_idle(self._seat.row[WORKER["done"]])
        finally:
            self._sleeping[self._sleeping_at] = 0

    # -- starting --------------------------------------------------------------------------

    def _start_some(self, lanes: list[int], free: int) -> int:
        workers = max(int(self._control[GROUP_CONTROL["workers"]]), 1)
        fair = max(-(-self._claimer.backlog // workers), 1)
        slots, words = self._claimer.claim(lanes, min(free, fair))
        refused = list(zip(slots, words, strict=True)) if self._claimer.is_circuit_open else []
        if not refused and self._limits:
            refused = self._limits.hold_back(slots, words)
        elif refused:
            slots, words = [], []
        for slot, word in refused:
            self._executor.refuse(slot, word)
            self._notify_later(slot)
        row = self._seat.row
        row[WORKER["claims"]] += bool(slots)
        row[WORKER["claimed"]] += len(slots)
        for slot, word in zip(slots, words, strict=True):
            self._start(slot, word)
        if self._claimer.backlog > len(slots):
            self._seat.bells.wake_one(self._seat.group)
        return len(slots)

    def _start(self, slot: int, leased: int) -> None:
        running = leased + START
        # SYNC POINT: started — RUNNING (crash counted) before any of the task's code
        self._seat.words[slot] = running
        head = self._executor.header(slot)
        job = Running(slot, running, head, self._executor.runnables.get(head.key), now_ns())
        self._running.add(job)
        job.future = asyncio.get_running_loop().create_task(self._run(job))

    async def _run(self, job: Running) -> None:
        """One job from decoding to its ack."""
        value: Any = None
        error: BaseException | None = None
        timer = None
        try:
            value, timer = await self._call(job)
        except asyncio.CancelledError:
            error = self._why_cancelled(job)
        except BaseException as raised:
            error = self._why_cancelled(job) if isinstance(raised, TaskTimeout) and job.has_timed_out else raised
        finally:
            if self._seat.is_forked:
                self._seat.end_child(error)
            if job.deadline_ns:
                job.deadline_ns = 0
                self._show_deadline()
            del timer
        ended = 0
        if error is None:
            try:
                ended = await self._store_when_room(job, value)
            except asyncio.CancelledError:
                error = self._why_cancelled(job)
            except ShmqError as raised:
                error = raised
        value = None
        self._end(job, ended, error)

    def _why_cancelled(self, job: Running) -> BaseException:
        if job.has_timed_out and job.runnable is not None:
            limit_s = (job.head.timeout_ns or job.runnable.timeout_ns) / NS
            return TaskTimeout(f"{job.runnable.name} ran past its time limit of {limit_s:g} s; raise `timeout`")
        if job.was_killed:
            return JobCancelled("killed on request")
        return asyncio.CancelledError("the task cancelled itself")

    async def _call(self, job: Running) -> tuple[Any, None]:
        """Decode and call. Runs in the job's own context, so that `shmq.cancelled()` knows it."""
        head, runnable = job.head, job.runnable
        if runnable is None:
            raise UnknownTask(
                f"no task with key {head.key:#018x} is registered in this worker; was its module removed?"
            )
        if head.expires_ns and now_ns() > head.expires_ns:
            raise JobExpired(f"{runnable.name} was not started before it expired")
        attempt = crashes_of(job.word) + failures_of(job.word)
        current.set_job(
            current.CurrentJob(job.slot, job.word >> GENERATION_SHIFT, runnable.name, self._seat.group_name, attempt)
        )
        executor = self._executor
        data = executor.message(job.slot, head)
        limit = head.timeout_ns or runnable.timeout_ns
        if head.kind == MANY:
            return await self._call_chunk(job, runnable, data, head.nargs, limit), None
        if head.kind == STREAM:
            most_kept, calls, convert = executor.stream_calls(runnable, data, head.nargs)
            self._keep_views(job)
            return await self._send(job, self._each(job, runnable, calls, convert, limit), most_kept), None
        if head.nargs == VARIADIC:
            args, kwargs = runnable.decode_keywords(data)
        else:
            args, kwargs = (runnable.decoders.get(head.nargs) or runnable.decoder(head.nargs))(data), {}
        self._keep_views(job)
        if runnable.is_generator:
            return await self._stream(job, runnable, args, kwargs, limit), None
        return await self._invoke(job, runnable, args, kwargs, limit), None

    async def _call_chunk(self, job: Running, runnable: Runnable, data: bytes, nargs: int, limit: int) -> Any:
        """All calls of a chunk, together for coroutines, one after the other in a thread else."""
        started = now_ns()
        calls = self._executor.chunk_calls(runnable, data, nargs)
        self._keep_views(job)
        if runnable.is_async:
            ends = await asyncio.gather(
                *(self._invoke(job, runnable, args, {}, limit) for args in calls), return_exceptions=True
            )
        else:
            ends = []
            for args in calls:
                try:
                    ends.append(await self._invoke(job, runnable, args, {}, limit))
                except Exception as error:
                    ends.append(error)
        return self._executor.chunk_answer(runnable, ends, now_ns() - started)

    async def _invoke(self, job: Running, runnable: Runnable, args: Any, kwargs: dict[str, Any], limit_ns: int) -> Any:
        """One call, to its value; all parts of a generator as a list."""
        with self._limited(job, limit_ns):
            if runnable.is_async:
                return await runnable.coroutine(*args, **kwargs)
            if runnable.is_async_generator:
                return [part async for part in runnable.task.function(*args, **kwargs)]
            return await self._in_thread(job, runnable.call_whole, args, kwargs)

    @contextlib.contextmanager
    def _limited(self, job: Running, limit_ns: int) -> Iterator[None]:
        """Meanwhile the time limit runs."""
        timer = None
        if limit_ns:
            job.deadline_ns = now_ns() + limit_ns
            self._show_deadline()
            timer = asyncio.get_running_loop().call_later(limit_ns / NS, self._time_out, job)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    async def _stream(self, job: Running, runnable: Runnable, args: Any, kwargs: Any, limit_ns: int) -> Outlet:
        """A generator as a job: its parts go out as somebody reads them."""
        with self._limited(job, limit_ns):
            parts = runnable.task.function(*args, **kwargs)
            return await self._send(job, parts if runnable.is_async_generator else self._stepped(job, parts), None)

    async def _send(self, job: Running, parts: AsyncGenerator[Any, None], most_kept: int | None) -> Outlet:
        """Run a generator to its end; its parts are in, or went through, the outlet."""
        outlet = job.outlet = self._executor.outlets.open(job.slot, job.word, most_kept)
        async with contextlib.aclosing(parts):
            async for part in parts:
                if not outlet.offer(part):
                    await self._wait_for_room(job, outlet, outlet.resume)
                outlet.check_cancelled()
            if not outlet.finish():
                await self._wait_for_room(job, outlet, outlet.finish)
        return outlet

    async def _each(
        self, job: Running, runnable: Runnable, calls: list[Any], convert: Convert | None, limit: int
    ) -> AsyncGenerator[Any, None]:
        """The calls of a chunk of `stream`: coroutines all together, others one after the other."""
        calls = [convert(args) for args in calls] if convert is not None else calls
        if runnable.is_async:
            ends = [asyncio.ensure_future(self._invoke(job, runnable, args, {}, limit)) for args in calls]
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
                yield await self._invoke(job, runnable, args, {}, limit)
                continue
            with self._limited(job, limit):
                parts = runnable.task.function(*args)
                async with contextlib.aclosing(
                    parts if runnable.is_async_generator else self._stepped(job, parts)
                ) as stepped:
                    async for part in stepped:
                        yield part

    async def _wait_for_room(self, job: Running, outlet: Outlet, is_ready: Callable[[], bool]) -> None:
        started = time.monotonic()
        name = job.runnable.name if job.runnable is not None else "a task"
        while not is_ready():
            if job.has_timed_out:  # a coroutine is cancelled instead
                raise TaskTimeout
            check_wait(outlet, time.monotonic() - started, is_draining=self._seat.is_draining, name=name)
            self._room.clear()
            outlet.want_room(1)
            try:
                if is_ready():
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), RESCUE_S)
            finally:
                outlet.want_room(0)

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

    # -- limits and kills -------------------------------------------------------------------

    def _time_out(self, job: Running) -> None:
        job.has_timed_out = True
        self._interrupt(job)

    def _interrupt(self, job: Running) -> None:
        """Cancel the coroutine, or raise TaskTimeout in the thread that runs the function."""
        if job.runs_on_loop and job.future is not None:
            job.future.cancel()
            return
        with job.guard:
            if job.thread:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(job.thread), ctypes.py_object(TaskTimeout))

    def _show_deadline(self) -> None:
        """The next deadline and its job, for the supervisor's kill after the grace."""
        first = min((r for r in self._running if r.deadline_ns), key=lambda r: r.deadline_ns, default=None)
        row = self._seat.row
        row[WORKER["job"]] = first.job if first is not None else 0
        row[WORKER["deadline_ns"]] = first.deadline_ns if first is not None else 0

    def _enforce_kills(self) -> None:
        """Coroutines asked to be killed are cancelled here; for a thread the supervisor kills the worker."""
        for job in self._running:
            if self._kills[job.slot] != job.word >> GENERATION_SHIFT or job.was_killed:
                continue
            job.was_killed = True
            if job.runs_on_loop and job.future is not None:
                job.future.cancel()
            else:
                self._seat.row[WORKER["job"]] = job.job
                self._seat.bells.notify_supervisor()

    # -- ending -----------------------------------------------------------------------------

    def _keep_views(self, job: Running) -> None:
        job.views += self._executor.decoder.views
        self._executor.decoder.views.clear()

    def _end(self, job: Running, ended: int, error: BaseException | None) -> None:
        """Store the outcome; the job word is the last store: `ended`, once a result is stored."""
        executor, seat = self._executor, self._seat
        seat.row[WORKER["job"]] = job.job
        if job.was_killed and isinstance(error, JobCancelled):
            ended = with_state(job.word, CANCELLED)
        elif error is not None:
            ended = executor.fail(job.slot, job.word, error)
        self._running.discard(job)
        executor.decoder.views += job.views
        executor.decoder.pin_living_views()
        if ended and seat.words[job.slot] == job.word:
            # SYNC POINT: result-visible
            seat.words[job.slot] = ended if not job.head.flags & FORGET else next_free(job.word)
        self._show_deadline()
        executor.account([job.slot], 1, now_ns() - job.started_ns)
        if self._claimer.limit.has_breaker:
            self._claimer.report(1, int(error is not None))
        if self._limits:
            self._limits.ended(job.slot, has_failed=error is not None)
            self._limits.report()
        self._notify_later(job.slot)
        self._wake.set()

    def _notify_later(self, slot: int) -> None:
        """Ring the producers of all jobs that end in one turn of the loop together."""
        if not self._to_notify:
            asyncio.get_running_loop().call_soon(self._notify)
        self._to_notify.add(slot >> self._shift)

    async def _store_when_room(self, job: Running, value: Any) -> int:
        """Store the result, once there is a block for it; the other jobs go on."""
        wait: WaitForRoom | None = None
        try:
            while True:
                try:
                    return self._store(job, value)
                except PoolFull:
                    limit_ns = job.head.timeout_ns or (job.runnable.timeout_ns if job.runnable is not None else 0)
                    deadline_ns = job.started_ns + limit_ns if limit_ns else 0
                    wait = wait or self._executor.wait_for_room(job.slot, job.word, deadline_ns)
                    await asyncio.sleep(wait.pause_s())
        finally:
            if wait is not None:
                wait.end()

    def _store(self, job: Running, value: Any) -> int:
        executor = self._executor
        try:
            data = executor.encode(value)
            if executor.store_inline(job.slot, data, job.head):
                return job.word + END
        except (NeedsBlocks, *ENCODING_ERRORS):
            pass  # arrays, or an explanation: the way through blocks, below
        return executor.finish_large(job.slot, job.word, value)

    def _notify(self) -> None:
        self._fence()  # SYNC POINT: doorbell
        rows, self._to_notify = self._to_notify, set()
        for row in rows:
            self._seat.bells.notify_producer(row)
