"""A failed attempt: the job goes back, or ends as FAILED with what the task raised, and perhaps a dead letter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from shmq.clock import now_ns
from shmq.errors import Reject
from shmq.memory.layout import WORKER
from shmq.transport.dead import DeadLetter, DeadLetters
from shmq.transport.table import (
    CANCELLED,
    CRASH,
    FAILED,
    GENERATION_SHIFT,
    RUNNING,
    crashes_of,
    failures_of,
    with_state,
)
from shmq.wire.codec import Decoder, Encoder
from shmq.wire.failure import Failure, describe
from shmq.wire.header import BLOCK, CALL, FORGET, INHERIT_RETRIES, INLINE, STREAM, STREAMED, Header, result_word
from shmq.worker.results import outcome
from shmq.worker.results.outcome import Outdated, StreamClosed, StreamGivenBack
from shmq.worker.results.outlet import Outlets
from shmq.worker.seat import Seat
from shmq.worker.slots import Slots

if TYPE_CHECKING:
    from shmq.worker.calls.runnable import Runnable

_UNTIL_REPLACED_NS = 20_000_000
"""Until a job is offered again that an outdated worker has met: others of its age are still there."""


class Failing:
    """Records for one worker how attempts failed."""

    def __init__(
        self,
        seat: Seat,
        slots: Slots,
        encoder: Encoder,
        decoder: Decoder,
        outlets: Outlets,
        runnables: Mapping[int, Runnable],
        clear_limit: Callable[[], None],
    ) -> None:
        self._seat, self._slots, self._outlets, self._runnables = seat, slots, outlets, runnables
        self._encoder, self._decoder = encoder, decoder
        self._clear_limit = clear_limit
        self._dead_letters = DeadLetters(seat.segment.state_dir)

    def fail(self, slot: int, running: int, error: BaseException) -> int:
        """Decide and record what a failed attempt means: the job word to store, 0 when it is stored."""
        seat, head = self._seat, self._slots.header(slot)
        if isinstance(error, StreamClosed):
            self._outlets.end(slot)
            return with_state(running, CANCELLED)
        if isinstance(error, StreamGivenBack):
            return self._again(slot, with_state(running - CRASH, 0), 0)
        if isinstance(error, Outdated):
            return self._again(slot, with_state(running - CRASH, 0), now_ns() + _UNTIL_REPLACED_NS)
        runnable = self._runnables.get(head.key)
        seat.row[WORKER["failed"]] += 1
        error = outcome.named(error, seat.name_in(slot), runnable.task.signature if runnable else None)
        retries = runnable.retries if runnable and head.retries == INHERIT_RETRIES else head.retries
        due = outcome.retry_due(error, running, runnable.task.settings if runnable else None, retries)
        can_retry = head.kind == CALL and seat.words[slot] == running and not self._outlets.was_read(slot, running)
        if due is not None and can_retry:
            seat.row[WORKER["retried"]] += 1
            return self._again(slot, with_state(outcome.retried_word(running), 0), due)
        name = runnable.name if runnable else seat.name_in(slot)
        failure = describe(outcome.as_job_error(error, name))
        if head.kind == STREAM and runnable is not None:  # its reader tries the call again, as a job of its own
            failure = runnable.failure_of_call(error)
            retries = 0
        if isinstance(error, Reject) or retries or head.flags & FORGET:
            self._bury(slot, running, head, name, failure)
        outlet = self._outlets.end(slot)
        if outlet is not None:
            outlet.surrender()
        try:
            self._store(slot, running, failure, head)
        finally:
            error.__traceback__ = None  # its frames hold the arguments
        return running - RUNNING + FAILED

    def _again(self, slot: int, word: int, due_ns: int) -> int:
        """Send a job back to run again at its due time. Returns 0: its word is stored."""
        self._clear_limit()
        self._decoder.pin_living_views()
        self._outlets.drop(slot)
        self._seat.reschedule(slot, word, due_ns)
        self._seat.bells.notify_recovery()
        return 0

    def _bury(self, slot: int, running: int, head: Header, name: str, failure: Failure) -> None:
        """Dead-letter a job that will not be tried again and whose end nobody may ever read."""
        try:
            args = self._slots.message(slot, head)
        except ValueError:  # the record is damaged: the letter tells what is known
            args = b""
        self._dead_letters.keep(
            DeadLetter(
                job=f"{running >> GENERATION_SHIFT:x}-{slot:x}", epoch=self._seat.segment.header("created_ns"),
                task=name, group=self._seat.group_name, args=args, nargs=head.nargs,
                kind=head.kind, error=failure.type_name, message=failure.message, traceback=failure.traceback,
                crashes=crashes_of(running) - 1, failures=failures_of(running) + 1,
            )
        )  # fmt: skip

    def _store(self, slot: int, running: int, failure: Failure, head: Header) -> None:
        """Behind the arguments, else in a block, else as much of it as there is room for."""
        streamed = STREAMED if self._outlets.is_streamed(slot, running) else 0
        data = msgspec.msgpack.encode(failure)
        if self._slots.put(slot, head, data, INLINE | streamed):
            return
        self._encoder.begin(slot, running >> GENERATION_SHIFT)
        try:
            self._slots.results[slot] = result_word(len(data), self._encoder.place_message(data), BLOCK | streamed)
        except Exception:
            _, room = self._slots.room(head)
            kept = max(room - len(failure.type_name) - 16, 0)
            short = Failure(failure.type_name[:64], failure.message.encode()[:kept].decode("utf-8", "ignore"))
            self._slots.put(slot, head, msgspec.msgpack.encode(short)[:room], INLINE | streamed)
