"""The handle of one job: cheap to make, safe to drop."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from shmq.errors import JobCancelled, ShmqError
from shmq.wire.codec import DECODING_ERRORS

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.parts.reader import PartStream
    from shmq.client.parts.unread import Parts

R = TypeVar("R")

PENDING, RAW, RAW_ERROR, VALUE, ERROR, LOST = range(6)
"""How far a handle knows its job: not ended, ended with undecoded bytes, decoded; never to be known here."""


class Origin:
    """What all handles of one task and client have in common."""

    __slots__ = ("client", "collect", "decode", "task")

    def __init__(self, client: Client, task: Any, decode: Callable[[bytes], Any]) -> None:
        self.client = client
        self.task = task
        self.decode = decode
        self.collect = client.collect


class Job(Generic[R]):
    """One submitted job. Made by `submit`; dropping it leaks nothing, the job still runs.

    Concurrency: may be shared between threads of the process that submitted it.
    """

    # no `__init__`: whoever makes a handle fills it (`of_slot`, `hot`), at half the cost
    # REJECTED: a msgspec.Struct - made in half the time, but each later store costs 40 ns more than a slot's
    __slots__ = ("__weakref__", "_callbacks", "_generation", "_origin", "_outcome", "_parts", "_raw", "_slot", "_state")

    _origin: Origin
    _slot: int
    _generation: int  # of the slot; the two name the job
    _state: int
    _raw: bytes | None  # encoded result, once it has left its slot
    _outcome: Any  # value or exception, once decoded
    _callbacks: tuple[Callable[[Any], object], ...]
    _parts: Parts  # of a generator, once its stream was asked for

    def of_slot(self, origin: Origin, slot: int, generation: int) -> Self:
        """Make it the handle of the job that the slot holds in this generation."""
        self._origin, self._slot, self._generation, self._state = origin, slot, generation, PENDING
        return self

    @property
    def id(self) -> str:
        """Identity of the job as logs and dead letters show it: generation and slot, in hex."""
        return f"{self._generation:x}-{self._slot:x}"

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return str(self._origin.task.name)

    @property
    def state(self) -> str:
        """queued, scheduled, leased, running, done, failed or cancelled - at this moment.

        "unknown": the handle was made before a fork, or before its client was closed.
        """
        return self._origin.client.state_of(self)

    def done(self) -> bool:
        """Has the job ended (with a result, an error, or cancelled)? Never blocks."""
        return self._state != PENDING or self._origin.collect(self)

    def result(self, timeout: float | None = None) -> R:
        """The task's return value.

        Args:
            timeout: seconds to wait; None waits until the job has ended.

        Raises:
            TimeoutError: the job has not ended in time (it goes on).
            Exception: what the task raised, with the remote traceback as `__cause__`.
        """
        if self._state == PENDING and not self._origin.collect(self):
            self._origin.client.wait_for(self, timeout)
        state = self._state
        if state == RAW:
            raw = self._raw
            if raw is not None:  # else another thread has just decoded it
                try:
                    value: R = self._origin.decode(raw)
                except DECODING_ERRORS:  # explained there, and kept as the job's outcome
                    self._origin.client.decode(self)
                else:
                    self._outcome = value
                    self._state = VALUE
                    self._raw = None
                    return value
        if self._state == VALUE:
            return cast("R", self._outcome)
        raise self._error()

    def _error(self) -> BaseException:
        """What ended the job, as an exception made anew.

        REJECTED: one that the handle keeps - raised, its traceback leads to the frame that holds the handle, and
        handles, results and blocks of that frame live until gc comes by.
        """
        if self._state == RAW_ERROR:
            return self._origin.client.error_of(self)
        error: BaseException = self._outcome
        return type(error)(*error.args)

    def stream(self, timeout: float | None = None) -> PartStream[Any]:
        """The parts that a generator task yields, one by one as they come. Call it right after `submit`.

        From this call on the worker keeps at most a small buffer of parts and waits while it is full. Closing the
        iterator, leaving its `with` block or dropping it cancels the job: the task sees GeneratorExit at its yield.
        What the task raises is raised after the parts before it. Afterwards `result()` is None: parts are not kept.

        Args:
            timeout: seconds to wait for each part; None waits as long as it takes.

        Raises (while iterating):
            TimeoutError: the next part did not come in time; the stream goes on, ask again.
            WorkerLost: the worker died after a part had been read; parts are not made a second time.
        """
        return self._origin.client.stream_of(self, timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, or None. Raises TimeoutError, and JobCancelled for a cancelled job."""
        if not self.done():
            self._origin.client.wait_for(self, timeout)
        if self._state == RAW:
            self._origin.client.decode(self)
        if self._state == VALUE:
            return None
        error = self._error()
        if isinstance(error, JobCancelled):
            raise error
        return error

    def cancel(self, *, kill: bool = False) -> bool:
        """Ask that the job does not run; True when it certainly will not.

        A job that runs already is only asked (`shmq.cancelled()` in the task); with `kill` its
        worker is killed. Either way the handle tells the outcome: `state`, `result()`.
        """
        return self._origin.client.cancel(self, kill=kill)

    def cancelled(self) -> bool:
        """Has the job ended as cancelled?"""
        return self.done() and self.state == "cancelled"

    def add_done_callback(self, function: Callable[[Job[R]], object]) -> None:
        """Call `function(job)` once the job has ended, from shmq's poller thread (or now)."""
        self._origin.client.add_callback(self, function)

    def __await__(self) -> Generator[Any, None, R]:
        if not self.done():
            yield from self._arrival().__await__()
        return self.result(0)

    async def _arrival(self) -> None:
        """Return when the job has ended; cancelling the waiter does not cancel the job."""
        import asyncio  # imported by whoever runs a loop; costs others 50 ms

        loop = asyncio.get_running_loop()
        arrived = loop.create_future()

        def resolve() -> None:
            if not arrived.done():
                arrived.set_result(None)

        def wake(_job: Job[R]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(resolve)

        self.add_done_callback(wake)
        with self._origin.client.waiting_for(self):
            await arrived

    def __repr__(self) -> str:
        return f"<shmq.Job {self.id} {self.task_name} {self.state}>"


class ForgottenJob(Job[R]):
    """Handle of a job submitted with `forget`: whether it has ended, not what came of it."""

    __slots__ = ()

    def done(self) -> bool:
        """Has the job left its slot? Never blocks."""
        return self._state != PENDING or self._origin.client.has_left(self)

    def stream(self, timeout: float | None = None) -> PartStream[Any]:
        """Raises ShmqError: there is nothing to read."""
        self.result(timeout)
        raise AssertionError("a forgotten job has no result")

    def result(self, timeout: float | None = None) -> R:  # noqa: ARG002 - the signature of every handle
        """Raises ShmqError: there is nothing to read."""
        raise ShmqError(
            f"job {self.id} of {self.task_name} was submitted with forget=True: its result is not kept.\n"
            "Submit it through options(forget=False) to read it."
        )

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `result`."""
        self.result(timeout)
        return None
