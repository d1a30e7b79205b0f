"""A producer's connection: one row of the job table, shared by the process's threads."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from shmq.client import hot, mapping, parts, resolve, streaming
from shmq.client.handle import ERROR, PENDING, RAW, RAW_ERROR, VALUE, ForgottenJob, Job, Origin
from shmq.client.waiting import Waiter
from shmq.clock import now_ns, to_ns
from shmq.errors import ClientClosed, JobCancelled, QueueFull, ReentrantSubmit, ShmqError
from shmq.memory import locks
from shmq.memory.blocks import PRODUCER_PIN, BlockPool
from shmq.memory.columns import column
from shmq.memory.doorbell import deadline as deadline_after
from shmq.memory.layout import WORKER
from shmq.memory.segment import Segment, attach, segment_name
from shmq.tasks import current
from shmq.tasks.registry import TaskInfo
from shmq.tasks.task import Task
from shmq.transport.membership import ProducerRow, register
from shmq.transport.publish import Publisher
from shmq.transport.table import CANCELLED, CRASHES, DONE, GENERATION_SHIFT, STATE, STATE_NAMES
from shmq.wire.codec import ENCODING_ERRORS, Decoder, Encoder, PoolFull, explain, needs_blocks
from shmq.wire.failure import Failure, rebuild
from shmq.wire.header import BLOCK, CALL, FORGET, MANY, REFERENCES, STREAMED, VARIADIC

DEFAULT_BLOCK_S = 30.0
_BLOCK_PAUSE_S = 0.003
_MOST_ORPHANS = 16  # cancelled jobs whose slots nobody has fetched back
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """Submits jobs to one namespace and reads their results.

    Concurrency: thread-safe. A forked child uses the same object and gets a row of its own on
    first use; handles made before the fork stay with the parent.
    """

    def __init__(self, namespace: str, *, is_default: bool = False) -> None:
        self.namespace = namespace
        self.is_default = is_default
        self._lock = threading.RLock()
        self._is_busy = self._lock._is_owned  # type: ignore[attr-defined]
        self._open()
        _clients.add(self)

    # -- connection ------------------------------------------------------------------

    def _open(self) -> None:
        self._segment: Segment = attach(segment_name(self.namespace))
        self._lock_file = locks.open_once(self._segment.state_dir / "lock")
        self._join()

    def _join(self) -> None:
        """Take a row and build everything that depends on it."""
        segment = self._segment
        self._row: ProducerRow = register(segment, self._lock_file)
        self._publisher = Publisher(segment, self._row.index)
        self._blocks = BlockPool(segment, self._lock_file, PRODUCER_PIN, self._row.index)
        self._encoder, self._decoder = Encoder(self._blocks), Decoder(self._blocks)
        self._encode = msgspec.msgpack.Encoder(enc_hook=needs_blocks).encode
        self._wanted_blocks = column(segment, "worker_rows")[:, WORKER["wants_bytes"]]
        self._waiter = Waiter(self._row, self.make_room_for_results)
        self._jobs: list[Job[Any] | None] = [None] * segment.shape.slots_per_producer
        self._first = self._publisher.first
        self._free = self._publisher.free
        self._words = segment.view("words")
        self._results = segment.view("results")
        self._map = segment.map
        self._payload_at = segment.layout.offsets["payload"]
        self._stride = segment.shape.slot_bytes
        self._inline_bytes = self._publisher.inline_bytes
        self._publish = self._publisher.publish
        self._registry = resolve.Registry(segment)
        self._poller: Any = None
        self._with_callbacks: set[Job[Any]] = set()
        self._orphans = 0
        self._closed_streams: list[Job[Any]] = []  # whose jobs have not ended, or hold their slot and blocks still
        self._part_wakers: set[tuple[Callable[[], bool], Callable[[], None]]] = set()
        self.collect, self._peek = hot.make_collect(self), hot.make_peek(self)
        self._pid = os.getpid()
        self._is_closed = False

    def _forget_row(self) -> None:
        """No closure may touch the row any more: without free slots each submit comes to `_try_submit`.

        Handles that wait for their end never learn it; they say so instead of reading others' slots.
        """
        for job in self._jobs:
            if job is not None and job._state == PENDING:
                job._outcome = _foreign(job)
                job._state = ERROR
                if hasattr(job, "_parts"):
                    job._parts.left.clear()
        self._free.clear()
        self._free = []
        self._jobs = []
        self._registry.forget_targets()

    def _after_fork(self) -> None:
        """In a forked child: nothing of the parent's row may be touched; join again on first use."""
        self._lock = threading.RLock()
        self._is_busy = self._lock._is_owned  # type: ignore[attr-defined]
        self._forget_row()
        self._pid = 0
        self._poller = None
        self._with_callbacks = set()

    def close(self) -> None:
        """Give the row back. Unread results are lost; jobs on their way still run; arrays that were read stay."""
        with self._lock:
            if self._is_closed or self._pid != os.getpid():
                return
            self._is_closed = True
            self._free.clear()
            poller, self._poller = self._poller, None
        if poller is not None:
            poller.stop()  # never under the lock: its thread may be waiting for it
        with self._lock:
            for job in self._jobs:
                if job is None:
                    continue
                if hasattr(job, "_parts"):
                    job._parts.close()  # nobody reads on
                if isinstance(job._origin.task, resolve.StreamOf):  # its worker waits for its turn as long as it takes
                    self._publisher.cancel(job._slot, job._generation)
            for slot in self._publisher.ended():
                self._publisher.release(slot)
            self._forget_row()
        self._waiter.close()  # never under the lock: who sleeps looks at its job first
        with self._lock:
            self._row.release(self._lock_file, self._blocks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- submit ----------------------------------------------------------------------

    def submit(self, task: Task[..., Any] | str, *args: Any, **kwargs: Any) -> Job[Any]:
        """Queue one job of a task object or of a task named as `module.function`."""
        task = self._registry.resolved(task)
        return self.submit_task(task, args, kwargs)

    def submit_task(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None,
        block: float | None = None,
    ) -> Job[Any]:  # fmt: skip
        """Queue one job.

        Raises:
            SubmitError: not accepted; nothing of the job exists.
        """
        target = task._target
        if target is None or target.client is not self:
            target = self._target_of(task)
        if kwargs or block is not None or not target.is_plain:
            return self.submit_any(target, task, args, kwargs or {}, block)
        submit: Callable[..., Job[Any]] = target.submit
        return submit(*args)

    def submit_around(
        self, target: resolve.Target, task: Task[..., Any]
    ) -> Callable[[tuple[Any, ...], dict[str, Any]], Job[Any]]:
        """What a task's hot path does with calls that are not plain. It may be older than the client's row."""
        free = self._free

        def submit(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
            if free is self._free:
                return self.submit_any(target, task, args, kwargs)
            if self.is_default:  # forked since, or closed: the default client is another one
                return Task.submit(task, *args, **kwargs)
            return self.submit_task(task, args, kwargs)

        return submit

    def submit_any(
        self, target: resolve.Target, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        block: float | None = None,
    ) -> Job[Any]:  # fmt: skip
        """Queue what the hot path leaves: keywords, blocks, delays, or waiting for room."""
        if self._is_busy():
            raise _reentrant()
        message: Any = args
        nargs = len(args)
        if kwargs or not target.least <= nargs <= target.most:
            args, kwargs = target.bind(args, kwargs)
            message, nargs = ((args, kwargs), VARIADIC) if kwargs else (args, len(args))
        if target.router is not None:
            target = target.router.pick(message)
        return self._submit_slowly(target, task, message, nargs, CALL, block)

    def _submit_slowly(
        self,
        target: resolve.Target,
        task: resolve.Named,
        message: Any,
        nargs: int,
        kind: int,
        block: float | None,
    ) -> Job[Any]:
        """Submit what needs a block, a delay, or room that is not there yet."""
        if block is None:
            block = DEFAULT_BLOCK_S if target.block is None else target.block
        give_up = deadline_after(block)
        while True:
            try:
                with self._lock:
                    job = self._try_submit(target, task, message, nargs, kind)
                if job is not None:
                    return job
                self._run_callbacks()
                if not self._waiter.wait(lambda: self._has_room(target), give_up):
                    raise self._queue_full(task, target)
            except PoolFull:
                if kind == MANY and len(message) > 1:  # `map` has a better answer than waiting
                    raise
                self._wait_for_blocks(task, give_up)

    def _try_submit(
        self, target: resolve.Target, task: resolve.Named, message: Any, nargs: int, kind: int
    ) -> Job[Any] | None:
        """One try under the lock; None when there is no slot or lane entry. Raises PoolFull."""
        self._check_usable()
        if not self._free and not self._make_room():
            return None
        slot = self._free.pop()
        publisher, encoder = self._publisher, self._encoder
        publisher.reserved.add(slot)
        word = 0
        try:
            encoder.begin(slot, self._words[slot] >> GENERATION_SHIFT or 1)
            data = encoder.encode(message)
            if encoder.has_odd_text and nargs != VARIADIC:
                data, nargs = data if kind == MANY else encoder.encode((message, {})), VARIADIC
            unit = encoder.place_message(data) + 1 if len(data) > self._inline_bytes else 0
            expires_ns = now_ns() + to_ns(target.expires_s) if target.expires_s is not None else 0
            if target.delay_s or target.eta is not None:
                due = now_ns() + to_ns(max(target.delay_s or (target.eta or 0) - time.time(), 0.0))
                word = publisher.schedule(slot, target.route, len(data), unit, nargs, kind, expires_ns, data, due)
            else:
                word = self._publish(slot, target.route, len(data), unit, nargs, kind, expires_ns, data)
        except ENCODING_ERRORS as error:
            raise explain(error, task.name) from error
        finally:
            publisher.reserved.discard(slot)
            if not word:
                publisher.finish_half_done_publishes()
                publisher.release(slot)
        if not word:
            return None
        origin = Origin(self, task, self._registry.decoder(self._decoder, task))
        if target.route.flags & FORGET:
            return ForgottenJob(origin, slot, word)
        job: Job[Any] = Job(origin, slot, word)
        self._jobs[slot - self._first] = job
        return job

    def repair(self) -> None:
        """An exception in a signal handler cut a hot path short: finish its publish, give its lock back."""
        if self._is_busy():
            self._lock.release()
        with self._lock:
            self._publisher.finish_half_done_publishes()

    def _target_of(self, task: Task[..., Any]) -> resolve.Target:
        """What submitting the task needs; names lanes of the row, so a forked child must have its own first."""
        with self._lock:
            self._check_usable()
        return self._registry.target(self, task)

    def _check_usable(self) -> None:
        if self._is_closed:
            raise ClientClosed(f"this client of namespace {self.namespace!r} was closed; connect again")
        if self._pid != os.getpid():  # forked: the parent's row is not ours
            self._lock_file.forget()
            self._join()

    def _make_room(self) -> bool:
        """Free slots: found FREE again, or ended jobs whose results move into their handles."""
        if self._publisher.refill():
            return True
        self._sweep()
        return bool(self._free)

    def _wait_for_blocks(self, task: resolve.Named, give_up: float) -> None:
        """Give back blocks of results that nobody waits for, then pause: blocks become free without a ring."""
        with self._lock:
            self._sweep()
        self._run_callbacks()
        if time.monotonic() >= give_up:
            raise QueueFull(
                f"no free block for the arguments of {task.name}: {self._blocks.usage()}.\n"
                "Read or drop results sooner, raise [memory] block_budget_bytes, or wait: options(block=60)."
            )
        time.sleep(_BLOCK_PAUSE_S)

    def _has_room(self, target: resolve.Target) -> bool:
        with self._lock:
            is_delayed = bool(target.delay_s) or target.eta is not None  # goes into no lane
            if not is_delayed and not self._publisher.has_room(target.route.lane):
                return False
            return bool(self._free) or self._make_room()

    def _queue_full(self, task: resolve.Named, target: resolve.Target) -> QueueFull:
        total = len(self._jobs)
        group = self._segment.text("group_names", target.route.group)
        return QueueFull(
            f"group {group!r}: no room for {task.name}: {total - len(self._free)} of {total} slots of this producer "
            "are taken, or its lane is full of entries that no worker has passed yet; workers are slower than "
            "producers, paused, or not running.\n"
            "Look at `shmq status`; raise [memory] slots_per_producer, add workers, or wait: options(block=60)."
        )

    def submit_chunk(self, task: Task[..., Any], calls: list[tuple[Any, ...]]) -> Job[Any]:
        """Queue many calls as one job; its result is (run ns, values, {index: failure}).

        Raises:
            PoolFull: more than one call, and no block for all their arguments at present.
        """
        target = task._target
        if target is None or target.client is not self:
            target = self._target_of(task)
        least, most = target.least, target.most
        if not all(least <= len(call) <= most for call in calls):
            calls = [target.bind(call, {})[0] for call in calls]
        nargs = len(calls[0])
        if any(len(call) != nargs for call in calls):
            nargs = VARIADIC
        if target.router is not None:
            target = target.router.pick(*calls)
        return self._submit_slowly(target, resolve.ChunkOf(task), calls, nargs, MANY, None)

    def stream(
        self, task: Task[..., Any] | str, items: Iterable[Any], chunk_size: int = 1000,
        memory_limit: int | str = "100 MB",
    ) -> Iterator[Any]:  # fmt: skip
        """Results of `task` over the items, in order, in bounded memory. See `shmq.stream`."""
        return streaming.run(self, self._registry.resolved(task), items, chunk_size, memory_limit)

    def map(
        self, task: Task[..., Any] | str, *iterables: Iterable[Any], chunk_size: int | str = "auto"
    ) -> Iterator[Any]:
        """Results of `task` over the items, in order. The first failure is raised in its place.

        Input is consumed lazily, a few chunks ahead of what was read; closing the iterator
        cancels what has not started.
        """
        for _, is_value, value in self.map_calls(task, zip(*iterables, strict=False), chunk_size=chunk_size):
            if not is_value:
                raise value
            yield value

    def map_calls(
        self, task: Task[..., Any] | str, calls: Iterable[tuple[Any, ...]], *,
        ordered: bool = True, chunk_size: int | str = "auto",
    ) -> Iterator[mapping.Answer]:  # fmt: skip
        """(index, ok, value or exception) for each argument tuple; failures do not end it."""
        task = self._registry.resolved(task)
        return mapping.run(self, task, calls, chunk_size, ordered=ordered)

    def wait_any(self, jobs: list[Job[Any]], timeout: float | None = None) -> bool:
        """Wait until one of the jobs has ended."""
        return self._waiter.wait(lambda: any(job.done() for job in jobs), deadline_after(timeout))

    async def asubmit_task(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Job[Any]:
        """As `submit_task`, for event loops: waits for room without blocking the loop."""
        import asyncio  # imported by whoever runs a loop; costs others 50 ms

        block = task.settings.block
        give_up = deadline_after(DEFAULT_BLOCK_S if block is None else block)
        pause_s = 0.0005
        while True:
            try:
                return self.submit_task(task, args, kwargs, block=0.0)
            except QueueFull:
                if time.monotonic() >= give_up:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.02)

    async def asubmit(self, task: Task[..., Any] | str, *args: Any, **kwargs: Any) -> Job[Any]:
        """As `submit`, for event loops."""
        task = self._registry.resolved(task)
        return await self.asubmit_task(task, args, kwargs)

    def empty(self, shape: int | tuple[int, ...], dtype: Any = float) -> NDArray[Any]:
        """An uninitialized array that lies in a block already: submitting it copies nothing.

        Raises:
            QueueFull: no block is free. TooLarge: none could ever hold it.
        """
        kind = np.dtype(dtype)
        dims = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = math.prod(dims) * kind.itemsize
        with self._lock:
            self._check_usable()
            unit = self._blocks.allocate_pinned(nbytes)
            if unit is None:
                self._sweep()
                unit = self._blocks.allocate_pinned(nbytes)
        if unit is None:
            raise QueueFull(
                f"no free block of {nbytes} bytes: {self._blocks.usage()}.\n"
                "Drop arrays and results you no longer need, or raise [memory] block_budget_bytes."
            )
        flat = np.frombuffer(self._blocks.bytes_at(unit, nbytes), kind)
        self._blocks.pin_while_viewed(flat, unit, nbytes)
        return flat.reshape(dims)

    # -- results ---------------------------------------------------------------------

    def _collect_slowly(self, job: Job[Any]) -> bool:
        """What `collect` leaves: blocks, cancelled jobs, foreign handles. Caller must: hold the lock."""
        if job._state != PENDING:
            return True
        slot = job._slot
        self._check_own(job)
        word = self._words[slot]
        if word >> GENERATION_SHIFT != job._generation:
            self._explain_foreign(job)
        if word & STATE < DONE:
            return False
        self._absorb(job, slot, word)
        self._jobs[slot - self._first] = None
        self._publisher.release(slot)
        return True

    def _absorb(self, job: Job[Any], slot: int, word: int) -> None:
        """Move the job's end from its slot into its handle; arrays stay in their pinned blocks."""
        state = word & STATE
        if state == CANCELLED:
            when = "while" if word & CRASHES else "before"  # an attempt is paid when it starts
            job._outcome = JobCancelled(f"job {job.id} of {job.task_name} was cancelled {when} it ran")
            job._state = ERROR
            return
        result = self._results[slot]
        length, place, kind = result >> 32, result >> 8 & 0xFFFFFF, result & 0xFF
        if kind & BLOCK:
            data = bytes(self._blocks.bytes_at(place, length))
        else:
            at = self._payload_at + slot * self._stride + place
            data = self._map[at : at + length]
        if kind & STREAMED and not parts.rescue(self, job, state):
            return
        job._raw = data
        job._state = RAW if state == DONE else RAW_ERROR
        if kind & REFERENCES:  # views must be pinned before the slot is freed
            self.decode(job)
            self._decoder.pin_living_views()

    def decode(self, job: Job[Any]) -> None:
        """Turn the raw result in the handle into a value."""
        with self._lock:
            if job._state != RAW:
                return
            try:
                job._outcome, job._state = self._decoder.decode_as(job._origin.decode, job._raw or b""), VALUE
            except Exception as error:
                job._outcome, job._state = _unreadable(job, error), ERROR

    def error_of(self, job: Job[Any]) -> BaseException:
        """The failure in the handle as an exception."""
        try:
            return rebuild(msgspec.msgpack.decode(job._raw or b"", type=Failure))
        except Exception as error:
            return _unreadable(job, error)

    def _sweep(self) -> list[Job[Any]]:
        """Free every ended slot of the row; results move into their handles."""
        swept = []
        for slot in self._publisher.ended():
            job = self._jobs[slot - self._first]
            self._jobs[slot - self._first] = None
            word = self._words[slot]
            # two references, the local name and the call's: nobody else holds the handle, nobody will read
            if job is not None and sys.getrefcount(job) > 2 and job._state == PENDING:
                self._absorb(job, slot, word)
                swept.append(job)
            self._publisher.release(slot)
        return swept

    def make_room_for_results(self) -> None:
        """If a result waits for a free block: move what has ended here out of the blocks, into the handles."""
        if self._wanted_blocks.any() and not self._is_busy():
            with self._lock:
                if self._pid == os.getpid() and not self._is_closed:
                    self._sweep()

    def has_left(self, job: Job[Any]) -> bool:
        """Has the job left its slot? That is all that is known of a forgotten job."""
        return bool(self._words[job._slot] >> GENERATION_SHIFT != job._generation)

    def _check_own(self, job: Job[Any]) -> None:
        """Refuse a pending job of another row: before a fork, or before a close."""
        if not self._first <= job._slot < self._first + len(self._jobs):
            self._explain_foreign(job)

    def _explain_foreign(self, job: Job[Any]) -> None:
        raise _foreign(job)

    def stream_of(self, job: Job[Any], timeout: float | None) -> parts.PartStream[Any]:
        """See Job.stream."""
        return parts.stream_of(self, job, timeout)

    def wait_for(self, job: Job[Any], timeout: float | None) -> None:
        """Block until the job has ended. Raises TimeoutError."""
        if self._is_busy():
            raise _reentrant()
        self._check_own(job)
        give_up = deadline_after(timeout)
        has_ended = partial(self._peek, job)
        while not self.collect(job):
            if resolve.is_in_task():
                with resolve.waiting_for(job):
                    is_ready = self._waiter.wait(has_ended, give_up)
            else:
                is_ready = self._waiter.wait(has_ended, give_up)
            if not is_ready:
                raise TimeoutError(f"job {job.id} of {job.task_name} is {job.state} after {timeout} s; it goes on")

    def state_of(self, job: Job[Any]) -> str:
        """The job's state in words."""
        if job._state == ERROR and isinstance(job._outcome, JobCancelled):
            return "cancelled"
        if job._state in (VALUE, ERROR):
            return "done" if job._state == VALUE else "failed"
        if job._state in (RAW, RAW_ERROR):
            return "done" if job._state == RAW else "failed"
        word = self._words[job._slot]
        if word >> GENERATION_SHIFT != job._generation:
            return "done"
        return STATE_NAMES[min(word & STATE, CANCELLED)]

    def cancel(self, job: Job[Any], *, kill: bool = False) -> bool:
        """See Job.cancel."""
        with self._lock:
            if job._state != PENDING:
                return False
            self._check_own(job)
            is_certain = self._publisher.cancel(job._slot, job._generation)
            if kill and not is_certain:
                self._publisher.kill(job._slot, job._generation)
            if is_certain and not self.collect(job):
                job._outcome = JobCancelled(f"job {job.id} of {job.task_name} was cancelled before it ran")
                job._state = ERROR
                self._jobs[job._slot - self._first] = None  # its slot comes back when a claim passes the entry
                self._fetch_orphans()
        self._run_callbacks()
        return is_certain

    def _fetch_orphans(self) -> None:
        """Free slots of cancelled jobs now and then: their blocks are missed by others long before slots are here."""
        self._orphans += 1
        if self._orphans >= _MOST_ORPHANS:
            self._orphans = 0
            for slot in self._publisher.ended():
                if self._jobs[slot - self._first] is None:
                    self._publisher.release(slot)

    # -- callbacks -------------------------------------------------------------------

    def add_callback(self, job: Job[Any], function: Callable[[Job[Any]], object]) -> None:
        """Call back once the job has ended: now, or from the poller thread."""
        with self._lock:
            if not job.done():
                self._check_own(job)
                job._callbacks = (*getattr(job, "_callbacks", ()), function)
                self._with_callbacks.add(job)
                self._ensure_poller()
                return
        function(job)

    def _ensure_poller(self) -> None:
        if self._poller is None:
            self._check_usable()
            from shmq.client.poller import Poller

            self._poller = Poller(self._row, self._run_callbacks)

    def _run_callbacks(self) -> None:
        """Run the callbacks of jobs that have ended. Never under the lock."""
        self.make_room_for_results()
        with self._lock:
            ended = [job for job in self._with_callbacks if job.done()]
            self._with_callbacks.difference_update(ended)
        for is_ready, wake in tuple(self._part_wakers):
            if is_ready():
                wake()
        for job in ended:
            functions, job._callbacks = job._callbacks, ()
            for function in functions:
                resolve.run_callback(function, job)

    # -- around it -------------------------------------------------------------------

    def registry(self) -> dict[str, TaskInfo]:
        """The tasks that workers have registered, by name."""
        return self._registry.infos()

    @property
    def placed_bytes(self) -> int:
        """Bytes of arguments that went through blocks so far."""
        return self._encoder.placed_bytes

    @property
    def block_budget_bytes(self) -> int:
        """Size of the pool of blocks, shared with all others."""
        return self._segment.shape.units * self._segment.shape.unit_bytes

    @property
    def segment(self) -> Segment:
        """The attached segment (for snapshots and tools)."""
        return self._segment

    @property
    def state_dir(self) -> Path:
        """The namespace's state directory."""
        return self._segment.state_dir


def _unreadable(job: Job[Any], error: Exception) -> ShmqError:
    return ShmqError(f"job {job.id}: its result cannot be read: {error!r}")


def _foreign(job: Job[Any]) -> ShmqError:
    return ShmqError(
        f"job {job.id} of {job.task_name} cannot be read here: its handle was made before a fork or before the "
        "client was closed.\nRead results in the process that submitted the job."
    )


def _reentrant() -> ReentrantSubmit:
    return ReentrantSubmit(
        "this thread is inside the client already: a signal handler or finalizer submitted or waited "
        "while a submit was under way.\nSet a flag there and submit from the main flow."
    )


def close_all() -> None:
    """Close every client of this process."""
    for client in list(_clients):
        client.close()


def _make_room_in_all() -> None:
    for client in list(_clients):
        client.make_room_for_results()


current.set_make_room(_make_room_in_all)


def _after_fork_in_child() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
