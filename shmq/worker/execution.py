"""Running one leased job: decode, call, encode, ack. The hot path of every worker.

    word as leased? → RUNNING, crash paid in advance → decode → task → encode → result → word

Built as one closure so that nothing is looked up on an object per job. The slow cases
(chunks, keywords, failures, blocks) are functions of their own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import msgspec

from shmq.clock import now_ns
from shmq.errors import BadArguments, CircuitOpen, JobExpired, Reject, ShmqError, TooLarge, UnknownTask
from shmq.memory.blocks import BlockPool
from shmq.memory.fence import new_fence, new_order_fence
from shmq.memory.layout import HISTOGRAM_BUCKETS, WORKER
from shmq.tasks.task import AUTO, Task
from shmq.transport.dead import DeadLetter, DeadLetters
from shmq.transport.table import (
    CANCELLED,
    CRASH,
    DONE,
    FAILED,
    GENERATION_SHIFT,
    LEASED,
    RUNNING,
    crashes_of,
    failures_of,
    next_free,
    with_state,
)
from shmq.wire.codec import ENCODING_ERRORS, Decoder, Encoder, NeedsBlocks, PoolFull, explain, needs_blocks
from shmq.wire.failure import Failure, describe
from shmq.wire.header import (
    BLOCK,
    BLOCK_WORD,
    CALL,
    CALL_WORD,
    FLAGS_SHIFT,
    FORGET,
    HEADER,
    HEADER_BYTES,
    INLINE,
    MANY,
    PLAIN,
    REFERENCES,
    STREAM,
    STREAMED,
    SUBMITTED_WORD,
    VARIADIC,
    Header,
    result_room,
    result_word,
)
from shmq.worker import outcome
from shmq.worker.generating import Generating, OwnLoop, driven
from shmq.worker.measuring import measure
from shmq.worker.outcome import StreamClosed, StreamGivenBack
from shmq.worker.outlet import Outlet, Outlets
from shmq.worker.room import WaitForRoom
from shmq.worker.runnable import Runnable, collecting
from shmq.worker.seat import Seat

START = RUNNING - LEASED + CRASH
END = DONE - RUNNING
_DONE, _BUSY, _WAIT_SUM = WORKER["done"], WORKER["busy_ns"], WORKER["wait_sum_ns"]
_GENERATION = 0xFFFFFFFF << GENERATION_SHIFT
SLOW_NS = 50_000
"""Jobs that take longer are measured one by one."""
_NOTIFY_NS = 200_000  # results wait at most this long for the end of their batch
INHERIT_RETRIES = 255
_POSITION = re.compile(r" - at `\$\[(\d+)\](.*)`$")


def bucket_of(ns: int) -> int:
    """Histogram bucket: four per octave (`shmq.observe.histogram` reads them)."""
    if ns < 8:
        return max(ns, 0)
    bits = ns.bit_length()
    return min((bits << 2) + ((ns >> (bits - 3)) & 3), HISTOGRAM_BUCKETS - 1)


Convert = Callable[[list[Any]], list[Any]]


class Executor:
    """Runs leased jobs for one seat."""

    def __init__(
        self, seat: Seat, tasks: dict[int, Task[..., Any]], blocks: BlockPool, arm_timer: Callable[[], None]
    ) -> None:
        self.seat = seat
        self.blocks = blocks
        self.encoder = Encoder(blocks)
        self.dead_letters = DeadLetters(seat.segment.state_dir)
        self.decoder = Decoder(blocks)
        self.outlets = Outlets(seat, blocks)
        self._own_loop = OwnLoop()
        self.encode = msgspec.msgpack.Encoder(enc_hook=needs_blocks).encode
        self.runnables = {key: Runnable(task, self.decoder, seat) for key, task in tasks.items()}
        for runnable in self.runnables.values():
            if runnable.is_async:
                runnable.call = runnable.call_whole = self._on_own_loop(runnable.task.function)
            elif runnable.is_generator:
                if runnable.is_async_generator:
                    runnable.generate = driven(runnable.task.function, self._own_loop.run)
                runnable.call = self._streamed(runnable)
                runnable.call_whole = collecting(runnable.generate)
        measure([runnable for runnable in self.runnables.values() if runnable.task.settings.group == AUTO], seat)
        self._arm_timer = arm_timer
        self.generating: Generating | None = None  # in a worker that runs one job at a time
        self.segment = seat.segment
        self.stride = self.segment.shape.slot_bytes
        self.payload = self.segment.view("payload")
        self.results = self.segment.view("results")
        self._row_words, self._submitted = self.stride // 8, self.payload.cast("Q")[SUBMITTED_WORD:]
        rows = slice(seat.index * HISTOGRAM_BUCKETS, (seat.index + 1) * HISTOGRAM_BUCKETS)
        self._services = self.segment.view("service_times")[rows]
        self._waits = self.segment.view("wait_times")[rows]
        self.recorded = self.recorded_ns = 0
        self._fence = new_fence()
        self.run_batch = self._make_run()

    def _make_run(self) -> Callable[[Sequence[int], Sequence[int], int], None]:
        seat, words, results, stride = self.seat, self.seat.words, self.results, self.stride
        runnables, cells, whole, row_words = self.runnables, self.payload.cast("Q"), self.segment.map, self.stride // 8
        payload_at = self.segment.layout.offsets["payload"]
        message_at = payload_at + HEADER_BYTES
        encode, views, order, notify = self.encode, self.decoder.views, new_order_fence(), self.notify
        run_slowly, fail, finish_large, record = self._run_slowly, self.fail, self._finish_when_room, self._record
        row, job_at, room_from = seat.row, WORKER["job"], HEADER_BYTES + 7
        plain, forget = PLAIN << FLAGS_SHIFT, FORGET << FLAGS_SHIFT

        def run_batch(slots: Sequence[int], leases: Sequence[int], position: int) -> None:
            """Run leased jobs one after the other; `position` is that of the first in the seat's batch.

            The lists may become shorter meanwhile: what is given back is not run.
            """
            started = notified = seat.started_ns
            for slot, leased in zip(slots, leases, strict=False):
                position += 1
                seat.position = position
                if words[slot] != leased:  # given back, or no longer ours
                    continue
                running = leased + START
                # SYNC POINT: started — RUNNING (crash counted) before any of the task's code
                words[slot] = running
                row[job_at] = running & _GENERATION | slot
                at = slot * row_words
                call = cells[at + CALL_WORD]
                limit = 0
                try:
                    runnable = runnables.get(cells[at])
                    at = slot * stride
                    length = call & 0xFFFFFFFF
                    if call & plain and runnable is not None:
                        from_ = message_at + at
                        decode = runnable.decoders.get(call >> 32 & 0xFF) or runnable.decoder(call >> 32 & 0xFF)
                        args = decode(whole[from_ : from_ + length])
                        limit = runnable.timeout_ns
                        if limit:
                            self._set_limit(limit)
                        function = runnable.call
                        seat.in_user = True
                        value = function(*args)
                        seat.in_user = False
                        if views:
                            del args
                    else:
                        limit = 1
                        value = run_slowly(runnable, slot)
                        if cells[at // 8 + BLOCK_WORD]:
                            length = 0
                    try:
                        data = encode(value)
                    except ENCODING_ERRORS:
                        raise NeedsBlocks from None  # the way through blocks explains it, call by call
                    room_at = room_from + length & ~7
                    end = room_at + len(data)
                    if end > stride:
                        raise NeedsBlocks  # noqa: TRY301 - the same way as an array does
                    at += payload_at
                    whole[at + room_at : at + end] = data
                    results[slot] = len(data) << 32 | room_at << 8
                    ended = running + END
                except NeedsBlocks:
                    seat.in_user = False
                    ended = finish_large(slot, running, value)
                except BaseException as error:
                    seat.in_user = False
                    ended = fail(slot, running, error)
                if limit:
                    self._clear_limit()
                if views:
                    value = None
                    self.decoder.pin_living_views()
                if order is not None:
                    order()  # SYNC POINT: result-visible — result bytes and word before the job word says DONE
                if ended and words[slot] == running:
                    words[slot] = ended if not call & forget else next_free(running)
                now = seat.started_ns = now_ns()  # the next job starts where this one ended
                if now - started > SLOW_NS:
                    record(now - started, started - cells[slot * row_words + SUBMITTED_WORD])
                if now - notified > _NOTIFY_NS:
                    notify(position)
                    notified = now
                started = now
                if seat.is_draining:
                    seat.give_back_rest()

        return run_batch

    def run(self, slot: int, leased: int) -> None:
        """Run one job of the seat's batch, whose position counts it already."""
        self.run_batch((slot,), (leased,), self.seat.position - 1)

    def notify(self, ended: int) -> None:
        """Ring producers that wait for one of the batch's first `ended` jobs."""
        self._fence()  # SYNC POINT: doorbell — job words visible before we look who waits
        self.seat.ring_producers(ended)

    def refuse(self, slot: int, leased: int) -> None:
        """End a leased job whose circuit is open, without running it."""
        running = leased + START
        self.seat.words[slot] = running
        head = self.header(slot)
        runnable = self.runnables.get(head.key)
        name = runnable.name if runnable else "a task"
        error = CircuitOpen(f"{name}: the circuit is open after too many failures; jobs fail until a probe succeeds")
        ended = self.fail(slot, running, error)
        self.seat.words[slot] = ended if not head.flags & FORGET else next_free(running)

    def header(self, slot: int) -> Header:
        """The header of the job in a slot."""
        return Header._make(HEADER.unpack_from(self.payload, slot * self.stride))

    # -- measuring ---------------------------------------------------------------------

    def _record(self, spent_ns: int, waited_ns: int, jobs: int = 1) -> None:
        """Add to the worker's histograms."""
        self._services[bucket_of(spent_ns)] += jobs
        self._waits[bucket_of(waited_ns)] += jobs
        self.seat.row[_WAIT_SUM] += max(waited_ns, 0) * jobs
        self.recorded += jobs
        self.recorded_ns += spent_ns * jobs

    def account(self, slots: list[int], count: int, spent_ns: int) -> None:
        """Book a batch. Jobs up to SLOW_NS are booked together: each as their mean, waited as the first did."""
        row = self.seat.row
        row[_DONE] += count
        row[_BUSY] += spent_ns
        left = count - self.recorded
        if left > 0 and slots:
            submitted = self._submitted[slots[0] * self._row_words]
            mean = max(spent_ns - self.recorded_ns, 0) // left
            self._record(mean, now_ns() - spent_ns - submitted, left)
        self.recorded = self.recorded_ns = 0

    # -- limits ------------------------------------------------------------------------

    def _set_limit(self, limit_ns: int) -> None:
        seat = self.seat
        seat.started_ns = now_ns()
        seat.deadline_ns = seat.started_ns + limit_ns
        seat.timeout_s = limit_ns / 1e9
        seat.row[WORKER["deadline_ns"]] = seat.deadline_ns
        if limit_ns < 50_000_000:
            self._arm_timer()

    def _clear_limit(self) -> None:
        self.seat.deadline_ns = 0
        self.seat.row[WORKER["deadline_ns"]] = 0

    # -- slow cases --------------------------------------------------------------------

    def _run_slowly(self, runnable: Runnable | None, slot: int) -> Any:
        """Chunks, keywords, messages in blocks, limits of single jobs, expiry, unknown tasks."""
        head = self.header(slot)
        if runnable is None:
            raise UnknownTask(
                f"no task with key {head.key:#018x} is registered in this worker; was its module removed? `shmq tasks`"
            )
        if head.expires_ns and now_ns() > head.expires_ns:
            raise JobExpired(f"{runnable.name} was not started before it expired")
        data = self.message(slot, head)
        limit = head.timeout_ns or runnable.timeout_ns
        if head.kind == MANY:
            return self._run_chunk(runnable, data, head.nargs, limit)
        if head.kind == STREAM:
            most_kept, calls, convert = self.stream_calls(runnable, data, head.nargs)
            assert self.generating is not None
            return self.generating.run(self._each(runnable, calls, convert, limit), most_kept)
        if head.nargs == VARIADIC:
            args, kwargs = runnable.decode_keywords(data)
        else:
            args, kwargs = (runnable.decoders.get(head.nargs) or runnable.decoder(head.nargs))(data), {}
        if limit:
            self._set_limit(limit)
        self.seat.in_user = True
        value = runnable.call(*args, **kwargs)
        self.seat.in_user = False
        return value

    def message(self, slot: int, head: Header) -> bytes:
        """A private copy of the job's message."""
        if head.block:
            return bytes(self.blocks.bytes_at(head.block - 1, head.length))
        at = slot * self.stride + HEADER_BYTES
        return bytes(self.payload[at : at + head.length])

    def _run_chunk(self, runnable: Runnable, data: bytes, nargs: int, limit: int) -> Any:
        """Run the calls of a chunk: (run ns, values, {index: failure}). Failures stay with their call."""
        seat = self.seat
        calls, convert = self._calls(runnable, data, nargs)
        call = runnable.call_whole
        values: list[Any] = []
        failures: dict[int, Failure] = {}
        started = now_ns()
        for i, args in enumerate(calls):
            try:
                if convert is not None:
                    args = convert(args)  # noqa: PLW2901 - the call as the task wants it
                if limit:
                    self._set_limit(limit)
                seat.in_user = True
                value = call(*args)
                seat.in_user = False
            except BaseException as error:
                seat.in_user = False
                failures[i] = runnable.failure_of_call(_named(error, runnable.name))
            else:
                values.append(value)
        return now_ns() - started, values, failures

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

    def stream_calls(self, runnable: Runnable, data: bytes, nargs: int) -> tuple[int, list[Any], Convert | None]:
        """Of a chunk of `stream`: bytes of results to keep, the calls, what must still convert each."""
        if nargs != VARIADIC:
            try:
                most_kept, calls = runnable.stream_decoder(nargs)(data)
            except msgspec.ValidationError:
                pass
            else:
                return most_kept, calls, None
        most_kept, calls = self.decoder.decode(data)
        return most_kept, calls, runnable.convert

    def chunk_calls(self, runnable: Runnable, data: bytes, nargs: int) -> list[Any]:
        """A chunk's calls, each as the arguments the task wants; a wrong one fails the chunk."""
        calls, convert = self._calls(runnable, data, nargs)
        return calls if convert is None else [convert(args) for args in calls]

    @staticmethod
    def chunk_answer(runnable: Runnable, ends: list[Any], run_ns: int) -> tuple[int, list[Any], dict[int, Failure]]:
        """(run ns, values, {index: failure}) from each call's value or exception."""
        failures = {i: runnable.failure_of_call(end) for i, end in enumerate(ends) if isinstance(end, BaseException)}
        return run_ns, [end for end in ends if not isinstance(end, BaseException)], failures

    def _calls(self, runnable: Runnable, data: bytes, nargs: int) -> tuple[list[Any], Convert | None]:
        """A chunk's calls, and what must still convert each: calls of different length or one of a wrong type."""
        if nargs != VARIADIC:
            try:
                return runnable.chunk_decoder(nargs)(data), None
            except msgspec.ValidationError:
                pass
        return self.decoder.decode(data), runnable.convert

    def _place_large(self, slot: int, running: int, value: Any) -> None:
        """Store a result that needs the pool. Raises PoolFull when there is no room at present."""
        encoder = self.encoder
        encoder.begin(slot, running >> GENERATION_SHIFT)
        try:
            data = encoder.encode(value)
            has_references = REFERENCES if encoder.used_blocks else 0
            at, room = self._result_room(self.header(slot))
            if len(data) <= room:
                from_ = slot * self.stride + at
                self.payload[from_ : from_ + len(data)] = data
                self.results[slot] = result_word(len(data), at, INLINE | has_references)
            else:
                unit = encoder.place_message(data)
                self.results[slot] = result_word(len(data), unit, BLOCK | has_references)
        except PoolFull:
            encoder.give_back()
            if encoder.wanted_bytes > self.blocks.budget_bytes:
                raise TooLarge(
                    f"the result of {self.seat.task_name()} takes more than {encoder.wanted_bytes} bytes of blocks, "
                    f"all together are {self.blocks.budget_bytes}.\n"
                    "Return less (a smaller chunk_size, a path), or raise [memory] block_budget_bytes."
                ) from None
            raise
        except ENCODING_ERRORS:
            encoder.give_back()
            raise

    def _result_room(self, head: Header) -> tuple[int, int]:
        return result_room(self.stride, 0 if head.block else head.length)

    def store_inline(self, slot: int, data: bytes, head: Header) -> bool:
        """Store an encoded result behind the arguments; False when it does not fit there."""
        at, room = self._result_room(head)
        if len(data) > room:
            return False
        from_ = slot * self.stride + at
        self.payload[from_ : from_ + len(data)] = data
        self.results[slot] = result_word(len(data), at, INLINE)
        return True

    def _finish_when_room(self, slot: int, running: int, value: Any) -> int:
        """Store a result that needs the pool, once it has room; the job word to store."""
        wait: WaitForRoom | None = None
        try:
            while True:
                try:
                    return self.finish_large(slot, running, value)
                except PoolFull:
                    wait = wait or self.wait_for_room(slot, running, self.seat.deadline_ns)
                    time.sleep(wait.pause_s())
        except ShmqError as error:
            return self.fail(slot, running, error)
        finally:
            if wait is not None:
                wait.end()

    def wait_for_room(self, slot: int, running: int, deadline_ns: int) -> WaitForRoom:
        """What to do between two tries of `finish_large`, the last of which just found no room."""
        task = self.seat.name_in(slot)
        return WaitForRoom(self.seat, self.blocks, slot, running, task, self.encoder.wanted_bytes, deadline_ns)

    def finish_large(self, slot: int, running: int, value: Any) -> int:
        """Store a result that needs the pool, or that a generator yielded; the job word to store.

        Raises:
            PoolFull: there is no room at present. Nothing is stored.
        """
        if isinstance(value, Outlet):
            stored, value = value.result, value.whole()
            if stored is None and value is None:  # the parts went through the ring
                stored = result_word(0, 0, STREAMED)
            if stored is not None:
                self.outlets.end(slot)
                self.results[slot] = stored
                return running + END
        try:
            try:
                self._place_large(slot, running, value)
            except ENCODING_ERRORS:
                if self.header(slot).kind != MANY:
                    raise
                self._place_large(slot, running, self._what_can_travel(value))
        except PoolFull:
            if not self.header(slot).flags & FORGET:  # else nobody will read it
                raise
        except ENCODING_ERRORS as error:
            return self.fail(slot, running, explain(error, f"the result of {self.seat.task_name()}"))
        except Exception as error:
            return self.fail(slot, running, error)
        self.outlets.end(slot)
        return running + END

    def _what_can_travel(self, answer: Any) -> Any:
        """A chunk's answer in which only those calls fail whose values cannot travel."""
        run_ns, values, failures = answer
        indices = [i for i in range(len(values) + len(failures)) if i not in failures]
        kept = []
        for i, value in zip(indices, values, strict=True):
            try:
                self.encoder.encode(value)
            except PoolFull:
                kept.append(value)
            except ENCODING_ERRORS as error:
                failures[i] = describe(explain(error, f"the result of {self.seat.task_name()}"))
            else:
                kept.append(value)
            finally:
                self.encoder.give_back()  # this was but a try
        return run_ns, kept, failures

    def fail(self, slot: int, running: int, error: BaseException) -> int:
        """Decide and record what a failed attempt means: the job word to store, 0 when it is stored."""
        seat, head = self.seat, self.header(slot)
        if isinstance(error, StreamClosed):
            self.outlets.end(slot)
            return with_state(running, CANCELLED)
        if isinstance(error, StreamGivenBack):
            return self._again(slot, with_state(running - CRASH, 0), 0)
        runnable = self.runnables.get(head.key)
        seat.row[WORKER["failed"]] += 1
        error = _named(error, seat.task_name(), runnable)
        retries = runnable.retries if runnable and head.retries == INHERIT_RETRIES else head.retries
        due = outcome.retry_due(error, running, runnable.task.settings if runnable else None, retries)
        can_retry = head.kind == CALL and seat.words[slot] == running and not self.outlets.was_read(slot, running)
        if due is not None and can_retry:
            seat.row[WORKER["retried"]] += 1
            return self._again(slot, with_state(outcome.retried_word(running), 0), due)
        name = runnable.name if runnable else "a task"
        failure = describe(outcome.as_job_error(error, name))
        if head.kind == STREAM and runnable is not None:  # its reader tries the call again, as a job of its own
            failure = runnable.failure_of_call(error)
            retries = 0
        if isinstance(error, Reject) or retries or head.flags & FORGET:
            self._bury(slot, running, head, name, failure)
        data = msgspec.msgpack.encode(failure)
        outlet = self.outlets.end(slot)
        if outlet is not None:
            outlet.surrender()
        try:
            self._store_failure(slot, running, data, failure, head)
        finally:
            error.__traceback__ = None  # its frames hold the arguments
        return running - RUNNING + FAILED

    def _again(self, slot: int, word: int, due_ns: int) -> int:
        """Send a job back to run again at its due time. Returns 0: its word is stored."""
        self._clear_limit()
        self.decoder.pin_living_views()
        self.outlets.drop(slot)
        self.seat.reschedule(slot, word, due_ns)
        self.seat.bells.notify_recovery()
        return 0

    def _bury(self, slot: int, running: int, head: Header, name: str, failure: Failure) -> None:
        """Dead-letter a job that will not be tried again and whose end nobody may ever read."""
        try:
            args = self.message(slot, head)
        except ValueError:  # the record is damaged: the letter tells what is known
            args = b""
        self.dead_letters.keep(
            DeadLetter(
                job=f"{running >> GENERATION_SHIFT:x}-{slot:x}", epoch=self.segment.header("created_ns"), task=name,
                group=self.seat.group_name, args=args, nargs=head.nargs,
                kind=head.kind, error=failure.type_name, message=failure.message, traceback=failure.traceback,
                crashes=crashes_of(running) - 1, failures=failures_of(running) + 1,
            )
        )  # fmt: skip

    def _store_failure(self, slot: int, running: int, data: bytes, failure: Failure, head: Header) -> None:
        at, room = self._result_room(head)
        streamed = STREAMED if self.outlets.is_streamed(slot, running) else 0
        if len(data) > room:
            self.encoder.begin(slot, running >> GENERATION_SHIFT)
            try:
                self.results[slot] = result_word(len(data), self.encoder.place_message(data), BLOCK | streamed)
                return
            except Exception:
                kept = max(room - len(failure.type_name) - 16, 0)
                short = Failure(failure.type_name[:64], failure.message.encode()[:kept].decode("utf-8", "ignore"))
                data = msgspec.msgpack.encode(short)[: max(room, 0)]
        from_ = slot * self.stride + at
        self.payload[from_ : from_ + len(data)] = data
        self.results[slot] = result_word(len(data), at, INLINE | streamed)

    def _streamed(self, runnable: Runnable) -> Callable[..., Any]:
        """A generator as a job: it is driven step by step, and its parts go out as somebody reads them."""

        def call(*args: Any, **kwargs: Any) -> Outlet:
            assert self.generating is not None
            return self.generating.run(runnable.generate(*args, **kwargs), None)

        return call

    def _on_own_loop(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Run coroutine functions to their end on this worker's loop."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._own_loop.run(function(*args, **kwargs))

        return call


def _named(error: BaseException, name: str, runnable: Runnable | None = None) -> BaseException:
    """What decoding found wrong with the arguments, as an error that names the task and the argument."""
    if not isinstance(error, msgspec.ValidationError) or not _is_own(error):
        return error
    what = str(error)
    found = _POSITION.search(what)
    if found is not None and runnable is not None and not what.startswith("argument "):
        names = [parameter.name for parameter in runnable.task.signature.positional]
        at, rest = int(found[1]), found[2]
        if at < len(names):
            what = f"argument {names[at]!r}: {what[: found.start()]}" + (f" - at `{rest}`" if rest else "")
    return BadArguments(f"{name}: {what}.\nCompare the arguments with the task's annotations.")


def _is_own(error: BaseException) -> bool:
    """Was it raised by shmq's decoding, and not by a task that decodes something itself?"""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or str(trace.tb_frame.f_globals.get("__name__", "")).startswith("shmq.")
