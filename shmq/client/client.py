"""A producer's connection: one row of the job table, shared by the process's threads."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from shmq.client import hot
from shmq.client.handle import LOST, PENDING, Job
from shmq.client.many import mapping, streaming
from shmq.client.parts import reader
from shmq.client.results import blocking, cancelling, collecting
from shmq.client.results.callbacks import Callbacks
from shmq.client.submitting import room, slow_path
from shmq.client.submitting.kinds import StreamOf
from shmq.client.submitting.targets import Registry, Target
from shmq.client.waiting import Waiter
from shmq.errors import BadArguments, ClientClosed, QueueFull, ReentrantSubmit
from shmq.memory import locks
from shmq.memory.blocks import PRODUCER_PIN, BlockPool
from shmq.memory.doorbell import deadline as deadline_after
from shmq.memory.layout import WORKER, WORKER_WORDS
from shmq.memory.segment import Segment, attach, segment_name
from shmq.refusal import told
from shmq.tasks import current
from shmq.tasks.registry import TaskInfo
from shmq.tasks.task import Task
from shmq.transport.membership import ProducerRow, register
from shmq.transport.publish import Publisher
from shmq.wire.codec import Decoder, Encoder, needs_blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        lock_path = self._segment.state_dir / "lock"
        with told(f"the state directory of {self._segment.path} cannot be used: {lock_path}"):
            self._lock_file = locks.open_once(lock_path)
        self._join()

    def _join(self) -> None:
        """Take a row and build everything that depends on it."""
        segment = self._segment
        self._row: ProducerRow = register(segment, self._lock_file)
        self._publisher = Publisher(segment, self._row.index)
        self._blocks = BlockPool(segment, self._lock_file, PRODUCER_PIN, self._row.index)
        self._encoder, self._decoder = Encoder(self._blocks), Decoder(self._blocks)
        self._encode = msgspec.msgpack.Encoder(enc_hook=needs_blocks).encode
        self._wanted_blocks = segment.view("worker_rows")[WORKER["wants_bytes"] :: WORKER_WORDS]
        self._waiter = Waiter(
            self._row, self._publisher.promises, self.make_room_for_results, self.make_room_before_sleep
        )
        self._jobs: list[Job[Any] | None] = [None] * segment.shape.slots_per_producer
        self._successors = [0] * segment.shape.slots_per_producer  # by place in the row: that of its task's next job
        self._first = self._publisher.first
        self._free = self._publisher.free
        self._words = segment.view("words")
        self._results = segment.view("results")
        self._map, self._payload_at = segment.map, segment.layout.offsets["payload"]
        self._stride = segment.shape.slot_bytes
        self._inline_bytes = self._publisher.inline_bytes
        self._registry = Registry(segment)
        self._callbacks = Callbacks(self)
        self._orphans = 0
        self._closed_streams: list[Job[Any]] = []  # whose jobs have not ended, or hold their slot and blocks still
        self.collect, self._peek = hot.make_collect(self), hot.make_peek(self)
        self._pid = os.getpid()
        self._is_closed = False

    def _check_usable(self) -> None:
        if self._is_closed:
            raise ClientClosed(f"this client of namespace {self.namespace!r} was closed; connect again")
        if self._pid != os.getpid():  # forked: the parent's row is not ours
            self._lock_file.forget()
            self._join()

    def _forget_row(self) -> None:
        """No closure may touch the row any more: without free slots each submit takes the slow path.

        Handles that wait for their end never learn it; they say so instead of reading others' slots.
        """
        for job in self._jobs:
            if job is not None and job._state == PENDING:
                job._outcome = collecting.foreign(job)
                job._state = LOST
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
        self._callbacks = Callbacks(self)

    def close(self) -> None:
        """Give the row back. Unread results are lost; jobs on their way still run; arrays that were read stay."""
        with self._lock:
            if self._is_closed or self._pid != os.getpid():
                return
            self._is_closed = True
            self._free.clear()
        self._callbacks.stop()  # never under the lock: its thread may be waiting for it
        with self._lock:
            for job in self._jobs:
                if job is None:
                    continue
                if hasattr(job, "_parts"):
                    job._parts.close()  # nobody reads on
                if isinstance(job._origin.task, StreamOf):  # its worker waits for its turn as long as it takes
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

    def repair(self) -> None:
        """An exception in a signal handler cut a hot path short: finish its publish, give its lock back."""
        if self._is_busy():
            self._lock.release()
        with self._lock:
            self._publisher.finish_half_done_publishes()

    def _refuse_reentry(self) -> None:
        if self._is_busy():
            raise ReentrantSubmit(
                "this thread is inside the client already: a signal handler or finalizer submitted or waited "
                "while a submit was under way.\nSet a flag there and submit from the main flow."
            )

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
            return slow_path.submit_any(self, target, task, args, kwargs or {}, block)
        submit: Callable[..., Job[Any]] = target.submit
        return submit(*args)

    def _target_of(self, task: Task[..., Any]) -> Target:
        """What submitting the task needs; names lanes of the row, so a forked child must have its own first."""
        with self._lock:
            self._check_usable()
        return self._registry.target(self, task)

    async def asubmit_task(
        self, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> Job[Any]:
        """As `submit_task`, for event loops: waits for room without blocking the loop."""
        import asyncio  # imported by whoever runs a loop; costs others 50 ms

        block = task.settings.block
        give_up = deadline_after(slow_path.DEFAULT_BLOCK_S if block is None else block)
        pause_s = 0.0005
        while True:
            try:
                return self.submit_task(task, args, kwargs, block=0.0)
            except QueueFull:
                if time.monotonic() >= give_up:
                    raise
            self._publisher.promises.settle()
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
        return room.empty(self, shape, dtype)

    # -- many calls -----------------------------------------------------------------

    def map(
        self, task: Task[..., Any] | str, *iterables: Iterable[Any], chunk_size: int | str = "auto"
    ) -> Iterator[Any]:
        """Results of `task` over the items, in order. The first failure is raised in its place.

        Input is consumed lazily, a few chunks ahead of what was read; closing the iterator
        cancels what has not started.
        """
        if not iterables:
            raise BadArguments("map needs an iterable: one for each argument of the task")
        task = self._registry.resolved(task)
        total = mapping.length_of(chunk_size, *iterables)
        return mapping.values(self, task, zip(*iterables, strict=False), chunk_size, total)

    def map_calls(
        self, task: Task[..., Any] | str, calls: Iterable[tuple[Any, ...]], *,
        ordered: bool = True, chunk_size: int | str = "auto",
    ) -> Iterator[mapping.Answer]:  # fmt: skip
        """(index, ok, value or exception) for each argument tuple; failures do not end it."""
        task = self._registry.resolved(task)
        return mapping.run(self, task, calls, chunk_size, ordered=ordered)

    def stream(
        self, task: Task[..., Any] | str, items: Iterable[Any], chunk_size: int = 1000,
        memory_limit: int | str = "100 MB",
    ) -> Iterator[Any]:  # fmt: skip
        """Results of `task` over the items, in order, in bounded memory. See `shmq.stream`."""
        return streaming.run(self, self._registry.resolved(task), items, chunk_size, memory_limit)

    def wait_any(self, jobs: list[Job[Any]], timeout: float | None = None) -> bool:
        """Wait until one of the jobs has ended."""
        if not jobs or any(job.done() for job in jobs):
            return bool(jobs)
        with blocking.waiting_for(*jobs):
            return self._waiter.wait(lambda: any(job.done() for job in jobs), deadline_after(timeout))

    # -- for handles and hot paths: methods whose subject has a module of its own -----

    submit_chunk = mapping.submit_chunk
    submit_around = slow_path.submit_around
    _collect_slowly = collecting.collect_slowly
    make_room_for_results = collecting.make_room_for_results
    make_room_before_sleep = collecting.make_room_before_sleep
    decode = collecting.decode
    error_of = staticmethod(collecting.error_of)
    state_of = collecting.state_of
    has_left = collecting.has_left
    wait_for = blocking.wait_for
    waiting_for = staticmethod(blocking.waiting_for)
    cancel = cancelling.cancel
    stream_of = reader.stream_of

    def add_callback(self, job: Job[Any], function: Callable[[Job[Any]], object]) -> None:
        """See Job.add_done_callback."""
        self._callbacks.add(job, function)

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
