"""Running one leased job: decode, call, encode, ack. The hot path of every worker.

    word as leased? → RUNNING, crash paid in advance → decode → task → encode → result → word

Built as one closure so that nothing is looked up on an object per job. The slow cases
(chunks, keywords, failures, blocks) are functions of their own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from shmq.clock import now_ns
from shmq.errors import BadArguments, CircuitOpen, JobExpired, QueueFull, Reject, UnknownTask
from shmq.memory.blocks import BlockPool
from shmq.memory.fence import new_order_fence
from shmq.memory.layout import HISTOGRAM_BUCKETS, WORKER
from shmq.tasks.task import Task
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
    CALL,
    FORGET,
    HEADER,
    HEADER_BYTES,
    INLINE,
    MANY,
    REFERENCES,
    STREAM,
    STREAMED,
    VARIADIC,
    result_room,
    result_word,
)
from shmq.worker import outcome
from shmq.worker.generating import Generating, OwnLoop, driven
from shmq.worker.outcome import StreamClosed, StreamGivenBack
from shmq.worker.outlet import Outlet, Outlets
from shmq.worker.runnable import Runnable, collecting
from shmq.worker.seat import Seat

START = RUNNING - LEASED + CRASH
END = DONE - RUNNING
_GENERATION = 0xFFFFFFFF << GENERATION_SHIFT
SLOW_NS = 50_000
"""Jobs that take longer are measured one by one."""
_BLOCK_PATIENCE_S = 5.0
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
        self._arm_timer = arm_timer
        self.generating: Generating | None = None  # in a worker that runs one job at a time
        self.segment = seat.segment
        self.stride = self.segment.shape.slot_bytes
        self.payload = self.segment.view("payload")
        self.results = self.segment.view("results")
        rows = slice(seat.index * HISTOGRAM_BUCKETS, (seat.index + 1) * HISTOGRAM_BUCKETS)
        self._services = self.segment.view("service_times")[rows]
        self._waits = self.segment.view("wait_times")[rows]
        self.recorded = self.recorded_ns = 0
        self.run = self._make_run()

    def _make_run(self) -> Callable[[int, int], None]:
        seat, words, results, stride = self.seat, self.seat.words, self.results, self.stride
        runnables, payload, whole = self.runnables, self.payload, self.segment.map
        payload_at = self.segment.layout.offsets["payload"]
        message_at = payload_at + HEADER_BYTES
        unpack_from, encode, views = HEADER.unpack_from, self.encode, self.decoder.views
        run_slowly, fail, finish_large, record = self._run_slowly, self.fail, self.finish_large, self._record
        order = new_order_fence()
        row, job_at, room_from = seat.row, WORKER["job"], HEADER_BYTES + 7

        def run(slot: int, leased: int) -> None:
            if words[slot] != leased:  # given back, or no longer ours
                return
            running = leased + START
            # SYNC POINT: started — RUNNING (crash counted) before any of the task's code
            words[slot] = running
            row[job_at] = running & _GENERATION | slot
            at = slot * stride
            head = unpack_from(payload, at)
            key, length, block, nargs, kind, flags, _, timeout_ns, expires_ns, submitted_ns, _ = head
            limit = 0
            try:
                runnable = runnables.get(key)
                if runnable is None or kind or block or nargs == VARIADIC or expires_ns:
                    limit = 1
                    value = run_slowly(runnable, head, at)
                else:
                    from_ = message_at + at
                    args = (runnable.decoders.get(nargs) or runnable.decoder(nargs))(whole[from_ : from_ + length])
                    limit = timeout_ns or runnable.timeout_ns
                    if limit:
                        self._set_limit(limit)
                    call = runnable.call
                    seat.in_user = True
                    value = call(*args)
                    seat.in_user = False
                    if views:
                        del args
                try:
                    data = encode(value)
                except ENCODING_ERRORS:
                    raise NeedsBlocks from None  # the way through blocks explains it, call by call
                room_at = room_from + (0 if block else length) & ~7
                if len(data) > stride - room_at:
                    raise NeedsBlocks  # noqa: TRY301 - the same way as an array does
                from_ = payload_at + at + room_at
                whole[from_ : from_ + len(data)] = data
                results[slot] = len(data) << 32 | room_at << 8
                ended = running + END
            except NeedsBlocks:
                seat.in_user = False
                ended = finish_large(slot, running, value, head)
            except BaseException as error:
                seat.in_user = False
                ended = fail(slot, running, error, head)
            if limit:
                self._clear_limit()
            if views:
                value = None
                self.decoder.pin_living_views()
            if order is not None:
                order()  # SYNC POINT: result-visible — result bytes and word before the job word says DONE
            if ended and words[slot] == running:
                words[slot] = ended if not flags & FORGET else next_free(running)
            started = seat.started_ns
            now = seat.started_ns = now_ns()  # the next job starts where this one ended
            if now - started > SLOW_NS:
                record(now - started, started - submitted_ns)

        return run

    def refuse(self, slot: int, leased: int) -> None:
        """End a leased job whose circuit is open, without running it."""
        running = leased + START
        self.seat.words[slot] = running
        head = HEADER.unpack_from(self.payload, slot * self.stride)
        runnable = self.runnables.get(head[0])
        name = runnable.name if runnable else "a task"
        error = CircuitOpen(f"{name}: the circuit is open after too many failures; jobs fail until a probe succeeds")
        ended = self.fail(slot, running, error, head)
        self.seat.words[slot] = ended if not head[5] & FORGET else next_free(running)

    # -- measuring ---------------------------------------------------------------------

    def _record(self, spent_ns: int, waited_ns: int, jobs: int = 1) -> None:
        """Add to the worker's histograms."""
        self._services[bucket_of(spent_ns)] += jobs
        self._waits[bucket_of(waited_ns)] += jobs
        row = self.seat.row
        row[WORKER["wait_sum_ns"]] += max(waited_ns, 0) * jobs
        self.recorded += jobs
        self.recorded_ns += spent_ns * jobs

    def account(self, slots: list[int], count: int, spent_ns: int) -> None:
        """Book a batch. Jobs up to SLOW_NS are booked together: each as their mean, waited as the first did."""
        row = self.seat.row
        row[WORKER["done"]] += count
        row[WORKER["busy_ns"]] += spent_ns
        left = count - self.recorded
        if left > 0 and slots:
            submitted = HEADER.unpack_from(self.payload, slots[0] * self.stride)[9]
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

    def _run_slowly(self, runnable: Runnable | None, head: tuple[int, ...], at: int) -> Any:
        """Chunks, keywords, messages in blocks, expiry, unknown tasks."""
        key, length, block, nargs, kind, _, _, timeout_ns, expires_ns, _, _ = head
        if runnable is None:
            raise UnknownTask(
                f"no task with key {key:#018x} is registered in this worker; was its module removed? `shmq tasks`"
            )
        if expires_ns and now_ns() > expires_ns:
            raise JobExpired(f"{runnable.name} was not started before it expired")
        data = self.message(at, length, block)
        limit = timeout_ns or runnable.timeout_ns
        if kind == MANY:
            return self._run_chunk(runnable, data, nargs, limit)
        if kind == STREAM:
            most_kept, calls, convert = self.stream_calls(runnable, data, nargs)
            assert self.generating is not None
            return self.generating.run(self._each(runnable, calls, convert, limit), most_kept)
        if nargs == VARIADIC:
            args, kwargs = runnable.decode_keywords(data)
        else:
            args, kwargs = (runnable.decoders.get(nargs) or runnable.decoder(nargs))(data), {}
        if limit:
            self._set_limit(limit)
        self.seat.in_user = True
        value = runnable.call(*args, **kwargs)
        self.seat.in_user = False
        return value

    def message(self, at: int, length: int, block: int) -> bytes:
        """A private copy of the job's message."""
        if block:
            return bytes(self.blocks.bytes_at(block - 1, length))
        return bytes(self.payload[at + HEADER_BYTES : at + HEADER_BYTES + length])

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

    def _calls(
        self, runnable: Runnable, data: bytes, nargs: int
    ) -> tuple[list[Any], Convert | None]:
        """A chunk's calls, and what must still convert each: calls of different length or one of a wrong type."""
        if nargs != VARIADIC:
            try:
                return runnable.chunk_decoder(nargs)(data), None
            except msgspec.ValidationError:
                pass
        return self.decoder.decode(data), runnable.convert

    def _place_large(self, slot: int, running: int, value: Any) -> None:
        """Store a result that needs the pool; waits a while for room."""
        encoder = self.encoder
        give_up = time.monotonic() + _BLOCK_PATIENCE_S
        while True:
            encoder.slot, encoder.generation, encoder.used_blocks = slot, running >> GENERATION_SHIFT, False
            try:
                data = encoder.encode(value)
                has_references = REFERENCES if encoder.used_blocks else 0
                head = HEADER.unpack_from(self.payload, slot * self.stride)
                at, room = result_room(self.stride, 0 if head[2] else head[1])
                if len(data) <= room:
                    from_ = slot * self.stride + at
                    self.payload[from_ : from_ + len(data)] = data
                    self.results[slot] = result_word(len(data), at, INLINE | has_references)
                else:
                    unit = encoder.place_message(data)
                    self.results[slot] = result_word(len(data), unit, BLOCK | has_references)
            except PoolFull:
                if time.monotonic() < give_up:
                    time.sleep(0.001)
                    continue
                raise QueueFull(
                    f"no free block for the result of {self.seat.task_name()}: {self.blocks.used_bytes()} bytes are in "
                    "use.\nRead or drop results sooner, or raise [memory] block_budget_bytes."
                ) from None
            return

    def store_inline(self, slot: int, data: bytes, head: tuple[int, ...]) -> bool:
        """Store an encoded result behind the arguments; False when it does not fit there."""
        at, room = result_room(self.stride, 0 if head[2] else head[1])
        if len(data) > room:
            return False
        from_ = slot * self.stride + at
        self.payload[from_ : from_ + len(data)] = data
        self.results[slot] = result_word(len(data), at, INLINE)
        return True

    def finish_large(self, slot: int, running: int, value: Any, head: tuple[int, ...]) -> int:
        """Store a result that needs the pool, or that a generator yielded; the job word to store."""
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
                if head[4] != MANY:
                    raise
                self._place_large(slot, running, self._what_can_travel(value))
        except ENCODING_ERRORS as error:
            return self.fail(slot, running, explain(error, f"the result of {self.seat.task_name()}"), head)
        except Exception as error:
            return self.fail(slot, running, error, head)
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
        return run_ns, kept, failures

    def fail(self, slot: int, running: int, error: BaseException, head: tuple[int, ...]) -> int:
        """Decide and record what a failed attempt means: the job word to store, 0 when it is stored."""
        seat = self.seat
        if isinstance(error, StreamClosed):
            self.outlets.end(slot)
            return with_state(running, CANCELLED)
        if isinstance(error, StreamGivenBack):
            return self._again(slot, with_state(running - CRASH, 0), 0)
        runnable = self.runnables.get(head[0])
        seat.row[WORKER["failed"]] += 1
        error = _named(error, seat.task_name(), runnable)
        retries = runnable.retries if runnable and head[6] == INHERIT_RETRIES else head[6]
        due = outcome.retry_due(error, running, runnable.task.settings if runnable else None, retries)
        can_retry = head[4] == CALL and seat.words[slot] == running and not self.outlets.was_read(slot, running)
        if due is not None and can_retry:
            seat.row[WORKER["retried"]] += 1
            return self._again(slot, with_state(outcome.retried_word(running), 0), due)
        name = runnable.name if runnable else "a task"
        failure = describe(outcome.as_job_error(error, name))
        if head[4] == STREAM and runnable is not None:  # its reader tries the call again, as a job of its own
            failure = runnable.failure_of_call(error)
            retries = 0
        if isinstance(error, Reject) or retries or head[5] & FORGET:
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

    def _bury(self, slot: int, running: int, head: tuple[int, ...], name: str, failure: Failure) -> None:
        """Dead-letter a job that will not be tried again and whose end nobody may ever read."""
        try:
            args = self.message(slot * self.stride, head[1], head[2])
        except ValueError:  # the record is damaged: the letter tells what is known
            args = b""
        self.dead_letters.keep(
            DeadLetter(
                job=f"{running >> GENERATION_SHIFT:x}-{slot:x}", epoch=self.segment.header("created_ns"), task=name,
                group=self.seat.group_name, args=args, nargs=head[3],
                kind=head[4], error=failure.type_name, message=failure.message, traceback=failure.traceback,
                crashes=crashes_of(running) - 1, failures=failures_of(running) + 1,
            )
        )  # fmt: skip

    def _store_failure(self, slot: int, running: int, data: bytes, failure: Failure, head: tuple[int, ...]) -> None:
        at, room = result_room(self.stride, 0 if head[2] else head[1])
        streamed = STREAMED if self.outlets.is_streamed(slot, running) else 0
        if len(data) > room:
            self.encoder.slot, self.encoder.generation = slot, running >> GENERATION_SHIFT
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
