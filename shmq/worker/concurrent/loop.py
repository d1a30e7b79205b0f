"""The worker of a group with `concurrency` > 1: coroutines on one event loop, plain functions in threads.

    claim up to the free places → start each → job ends: ack, notify → claim again
    nothing to claim and a place free: sleep on the FIFO bell (at most RESCUE_S, or IDLE_S at rest)

All shared words are written from the loop's thread. A time limit cancels a coroutine and raises
TaskTimeout in a thread; what does not end within its grace is killed with the worker, and the other
jobs of that worker are redelivered without a crash counted.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from shmq.clock import NS, now_ns
from shmq.errors import JobCancelled, ShmqError, TaskTimeout
from shmq.heap import Trim
from shmq.memory import doorbell
from shmq.memory.doorbell import IDLE_S, RESCUE_S, FifoBell
from shmq.memory.layout import AT_ONCE_NS, AUTO_FIRST, AUTO_MOST, GROUP_CONTROL, GROUP_PLAN, WORKER
from shmq.transport.bells import concurrent_bell_path
from shmq.transport.claim import Claimer
from shmq.transport.table import CANCELLED, GENERATION_SHIFT, next_free, with_state
from shmq.wire.codec import PoolFull
from shmq.wire.header import FORGET
from shmq.worker.concurrent.calling import ConcurrentCalling
from shmq.worker.concurrent.running import Running
from shmq.worker.execution import Executor
from shmq.worker.limiting import TaskLimits
from shmq.worker.seat import START, Seat

if TYPE_CHECKING:
    from shmq.worker.watching import Watching


def concurrent_bell(seat: Seat) -> FifoBell:
    """An event loop cannot wait for a semaphore: name a FIFO in the row instead.

    Caller must: be the worker in its STARTING row.
    """
    path = concurrent_bell_path(seat.segment.state_dir, seat.index)
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
        self._is_at_rest = False  # has it slept in vain, with nothing running, since its last job?
        self._to_notify: set[int] = set()
        self._shift = segment.shape.slots_per_producer.bit_length() - 1
        most = AUTO_MOST if seat.settings.concurrency == "auto" else self._most()
        seat.places = self._most
        self._calling = ConcurrentCalling(seat, executor, most, self._show_next)

    def _most(self) -> int:
        """Places: as configured, or what the planner found."""
        configured = self._seat.settings.concurrency
        if configured != "auto":
            return int(configured)
        return min(int(self._plan[GROUP_PLAN["concurrency"]]) or AUTO_FIRST, AUTO_MOST)

    def run(self) -> None:
        """Serve until told to drain."""
        asyncio.run(self._main())
        self._calling.shutdown()

    async def _main(self) -> None:
        loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._wake = asyncio.Event()
        loop.add_reader(self._bell.fileno(), self._rung)
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        seat, claimer = self._seat, self._claimer
        while not seat.is_draining and seat.segment.header("epoch") == self._epoch:
            seat.row[WORKER["heartbeat_ns"]] = now_ns()
            if self.watching is not None:
                self.watching.tick()
            if seat.is_waiting:
                seat.tell_blocked()  # the planner may have changed the number of places
            free = self._most() - len(self._running)
            lanes = claimer.lanes_with_work() if free > 0 and not claimer.is_paused() else []
            if lanes and self._start_some(lanes, free):
                await asyncio.sleep(0)
                continue
            await self._sleep(is_free=free > 0)
            self._enforce_kills()
        self._leave()
        while self._running:
            await asyncio.wait({r.future for r in self._running if r.future is not None}, timeout=RESCUE_S)
            self._enforce_kills()

    def _leave(self) -> None:
        """Drained: whatever it was rung for is somebody else's now, however long the jobs that run still take."""
        self._fence()  # SYNC POINT: doorbell
        if self._claimer.has_work():
            self._seat.bells.wake_one(self._seat.group)

    def _rung(self) -> None:
        self._bell.clear()
        self._wake.set()
        self._calling.room.set()
        for job in self._running:
            if job.outlet is not None and job.outlet.is_holding:  # somebody may have asked for its parts
                job.outlet.look()

    def _drain(self) -> None:
        self._seat.is_draining = True
        self._wake.set()
        self._calling.room.set()

    async def _sleep(self, *, is_free: bool) -> None:
        """Until rung, a job ends, or RESCUE_S (at rest IDLE_S); asleep only while a place is free."""
        self._wake.clear()
        longest_s = IDLE_S if self._is_at_rest and self.watching is None else RESCUE_S
        if is_free:
            self._seat.row[WORKER["naps"]] += 1
            self._sleeping[self._sleeping_at] = 1
            self._fence()  # SYNC POINT: doorbell
            left_ns = self._claimer.held_until_ns - now_ns() if self._claimer.held_until_ns else 0
            if left_ns > 0:
                longest_s = min(left_ns / NS, RESCUE_S)
            elif self._claimer.lanes_with_work() and not self._claimer.is_paused():
                self._sleeping[self._sleeping_at] = 0
                return
        try:
            await asyncio.wait_for(self._wake.wait(), longest_s)
        except TimeoutError:
            if not self._running:
                self._is_at_rest = True
                self._trim.when_idle(self._seat.row[WORKER["done"]])
        finally:
            self._sleeping[self._sleeping_at] = 0

    # -- starting --------------------------------------------------------------------------

    def _start_some(self, lanes: list[int], free: int) -> int:
        workers = max(int(self._control[GROUP_CONTROL["workers"]]), 1)
        fair = max(-(-self._claimer.backlog // workers), 1)
        slots, words = self._claimer.claim(lanes, min(free, fair))
        self._claimer.tell_producers(self._seat.bells)
        refused = list(zip(slots, words, strict=True)) if self._claimer.is_circuit_open else []
        if not refused and self._limits:
            refused = self._limits.hold_back(slots, words)
        elif refused:
            slots, words = [], []
        for slot, word in refused:
            self._executor.refuse(slot, word)
            self._notify_later(slot)
        if slots and self._is_at_rest:
            self._is_at_rest = False
            self._seat.bells.notify_supervisor()  # at rest as well, perhaps: it sees to limits of what runs now
        for slot, word in zip(slots, words, strict=True):
            self._start(slot, word)
        if self._claimer.backlog > len(slots):
            self._seat.bells.wake_one(self._seat.group)
        return len(slots)

    def _start(self, slot: int, leased: int) -> None:
        running = leased + START
        # SYNC POINT: started — RUNNING (crash counted) before any of the task's code
        self._seat.words[slot] = running
        head = self._executor.slots.header(slot)
        job = Running(slot, running, head, self._executor.runnables.get(head.key), now_ns())
        self._running.add(job)
        if len(self._running) == 1:
            self._show_next()
        job.future = asyncio.get_running_loop().create_task(self._run(job))

    async def _run(self, job: Running) -> None:
        """One job from decoding to its ack."""
        value: Any = None
        error: BaseException | None = None
        try:
            value = await self._calling.call(job)
        except asyncio.CancelledError:
            if self._is_broken():
                raise
            error = job.why_cancelled()
        except BaseException as raised:
            error = job.why_cancelled() if isinstance(raised, TaskTimeout) and job.has_timed_out else raised
        finally:
            if self._seat.is_forked:
                self._seat.end_child(error)
            if job.deadline_ns:
                job.deadline_ns = 0
                self._show_next()
        ended = 0
        if error is None:
            try:
                ended = await self._store_when_room(job, value)
            except asyncio.CancelledError:
                if self._is_broken():
                    raise
                error = job.why_cancelled()
            except ShmqError as raised:
                error = raised
        value = None
        self._end(job, ended, error)

    def _is_broken(self) -> bool:
        """Is the loop torn down under its jobs, by `loop.stop()` in one of them, say? Then the next worker has them."""
        return self._task is None or self._task.done() or self._task.cancelling() > 0

    # -- limits and kills ------------------------------------------------------------------

    def _show_next(self) -> None:
        """The next deadline and its job, for the supervisor's kill after the grace; without one any job that runs."""
        job = min(self._running, key=lambda running: running.deadline_ns or inf, default=None)
        row = self._seat.row
        row[WORKER["deadline_ns"]] = 0
        # SYNC POINT: deadline — none is taken for another job's
        row[WORKER["job"]] = job.job if job is not None else 0
        row[WORKER["deadline_ns"]] = job.deadline_ns if job is not None else 0

    def _enforce_kills(self) -> None:
        """Coroutines asked to be killed are cancelled here; for a thread the supervisor kills the worker, at once."""
        for job in self._running:
            if self._kills[job.slot] != job.word >> GENERATION_SHIFT or job.was_killed:
                continue
            job.was_killed = True
            if job.runs_on_loop and job.future is not None:
                job.future.cancel()
            else:
                job.deadline_ns = AT_ONCE_NS
                self._show_next()
                self._seat.bells.notify_supervisor()

    # -- ending ----------------------------------------------------------------------------

    async def _store_when_room(self, job: Running, value: Any) -> int:
        """Store the result, once there is a block for it; the other jobs go on."""
        storing, wait = self._executor.storing, None
        try:
            while True:
                try:
                    return storing.finish(job.slot, job.word, value, job.head)
                except PoolFull:
                    deadline_ns = job.started_ns + job.limit_ns if job.limit_ns else 0
                    wait = wait or storing.wait_for_room(job.slot, job.word, deadline_ns)
                    await asyncio.sleep(wait.pause_s())
        finally:
            if wait is not None:
                wait.end()

    def _end(self, job: Running, ended: int, error: BaseException | None) -> None:
        """Store the outcome; the job word is the last store: `ended`, once a result is stored."""
        executor, seat = self._executor, self._seat
        if job.was_killed and isinstance(error, JobCancelled):
            ended = with_state(job.word, CANCELLED)
        elif error is not None:
            ended = executor.failing.fail(job.slot, job.word, error)
        self._running.discard(job)
        if seat.is_waiting:
            seat.end_waits(job.job)
        executor.decoder.views += job.views
        executor.decoder.pin_living_views()
        if ended and seat.words[job.slot] == job.word:
            # SYNC POINT: result-visible
            seat.words[job.slot] = ended if not job.head.flags & FORGET else next_free(job.word)
        self._show_next()
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

    def _notify(self) -> None:
        self._fence()  # SYNC POINT: doorbell
        rows, self._to_notify = self._to_notify, set()
        for row in rows:
            self._seat.bells.notify_producer(row)
