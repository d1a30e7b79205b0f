"""Running one leased job: decode, call, encode, ack. The hot path of every worker.

    word as leased? → RUNNING, crash paid in advance → decode → task → encode → result → word

Built as one closure so that nothing is looked up on an object per job. The slow cases
(chunks, keywords, failures, blocks) are functions of their own.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import msgspec

from shmq.clock import now_ns, to_ns
from shmq.errors import BadArguments, JobExpired, QueueFull, UnknownTask
from shmq.memory.blocks import BlockPool
from shmq.memory.layout import HISTOGRAM_BUCKETS, WORKER
from shmq.tasks.task import Task
from shmq.transport.table import (
    CRASH,
    DONE,
    FAILED,
    GENERATION_SHIFT,
    LEASED,
    RUNNING,
    next_free,
    with_state,
)
from shmq.wire.codec import Decoder, Encoder, PoolFull
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
    VARIADIC,
    result_room,
    result_word,
)
from shmq.worker import outcome
from shmq.worker.seat import Seat

_START = RUNNING - LEASED + CRASH
_END = DONE - RUNNING
_BLOCK_PATIENCE_S = 5.0
_LAST_BUCKET = HISTOGRAM_BUCKETS - 1
INHERIT_RETRIES = 255


class NeedsBlocks(Exception):  # noqa: N818 - control flow: encode again with the job's blocks at hand
    """A value needs the pool."""


def _needs_blocks(_value: Any) -> Any:
    raise NeedsBlocks


class Runnable:
    """A task as this worker runs it: function, decoders by argument count, limits."""

    def __init__(self, task: Task[..., Any], decoder: Decoder, seat: Seat) -> None:
        self.task = task
        self.name = task.name
        self._decoder = decoder
        self.is_async = inspect.iscoroutinefunction(task.function)
        self.is_generator = inspect.isgeneratorfunction(task.function)
        self.call: Callable[..., Any] = task.function
        self.decoders: dict[int, Callable[[bytes], Any]] = {}
        limit = task.settings.timeout if task.settings.timeout is not None else seat.settings.timeout_s
        self.timeout_ns = to_ns(limit) if limit else 0
        retries = task.settings.retries
        self.retries = retries if retries is not None else (seat.settings.retries or 0)

    def decoder(self, count: int) -> Callable[[bytes], Any]:
        """Decodes a message of `count` arguments. Raises BadArguments when the task takes others."""
        signature = self.task.signature
        if not signature.quick_least <= count <= signature.most:
            signature.bind((None,) * count, {})
        self.decoders[count] = self._decoder.typed(signature.argument_types(count)).decode
        return self.decoders[count]

    def decode_keywords(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Decode [args, kwargs], each converted to its annotation."""
        args, kwargs = self._decoder.decode(data)
        signature = self.task.signature
        signature.bind(tuple(args), kwargs)
        kinds, names = signature.keyword_types(), [p.name for p in signature.positional]
        args = [self._convert(value, kinds, names[i] if i < len(names) else "") for i, value in enumerate(args)]
        return args, {name: self._convert(value, kinds, name) for name, value in kwargs.items()}

    @staticmethod
    def _convert(value: Any, kinds: dict[str, Any], name: str) -> Any:
        kind = kinds.get(name, Any)
        if kind is Any or (isinstance(kind, type) and isinstance(value, kind)):
            return value
        return msgspec.convert(value, kind, str_keys=False)


class Executor:
    """Runs leased jobs for one seat."""

    def __init__(self, seat: Seat, tasks: dict[int, Task[..., Any]], blocks: BlockPool, arm_timer: Callable[[], None]) -> None:
        self.seat = seat
        self.blocks = blocks
        self.encoder = Encoder(blocks)
        self.decoder = Decoder(blocks)
        self.encode = msgspec.msgpack.Encoder(enc_hook=_needs_blocks).encode
        self.runnables = {key: Runnable(task, self.decoder, seat) for key, task in tasks.items()}
        for runnable in self.runnables.values():
            if runnable.is_async:
                runnable.call = self._on_own_loop(runnable.task.function)
            elif runnable.is_generator:
                runnable.call = _collecting(runnable.task.function)
        self._arm_timer = arm_timer
        self._loop: asyncio.AbstractEventLoop | None = None
        self.segment = seat.segment
        self.stride = self.segment.shape.slot_bytes
        self.payload = self.segment.view("payload")
        self.results = self.segment.view("results")
        self._row_shift = self.segment.shape.slots_per_producer.bit_length() - 1
        self.end_ns = now_ns()
        self.run = self._make_run()

    def _make_run(self) -> Callable[[int, int], None]:
        seat, words, results, stride = self.seat, self.seat.words, self.results, self.stride
        runnables, payload, whole = self.runnables, self.payload, self.segment.map
        payload_at = self.segment.layout.offsets["payload"]
        unpack_from, encode, views = HEADER.unpack_from, self.encode, self.decoder.views
        row, width = seat.row, HISTOGRAM_BUCKETS
        services = self.segment.view("service_times")[seat.index * width : (seat.index + 1) * width]
        waits = self.segment.view("wait_times")[seat.index * width : (seat.index + 1) * width]
        shift, to_notify = self._row_shift, seat.to_notify
        run_slowly, fail, place_large = self._run_slowly, self._fail, self._place_large
        done_at, busy_at, wait_at = WORKER["done"], WORKER["busy_ns"], WORKER["wait_sum_ns"]
        job_at, task_at = WORKER["job"], WORKER["task"]

        def run(slot: int, leased: int) -> None:
            if words[slot] != leased:  # given back, or no longer ours
                return
            running = leased + _START
            # SYNC POINT: started — RUNNING (crash counted) before any of the task's code
            words[slot] = running
            at = slot * stride
            head = unpack_from(payload, at)
            key, length, block, nargs, kind, flags, _, timeout_ns, expires_ns, submitted_ns, _ = head
            started = seat.started_ns = self.end_ns
            seat.slot = slot
            seat.word = running
            row[job_at] = (running >> GENERATION_SHIFT) << 32 | slot
            row[task_at] = key
            try:
                runnable = runnables.get(key)
                if runnable is None or kind or block or nargs == VARIADIC or expires_ns:
                    value = run_slowly(runnable, head, at, running)
                else:
                    seat.task_name = runnable.name
                    from_ = payload_at + at + HEADER_BYTES
                    args = (runnable.decoders.get(nargs) or runnable.decoder(nargs))(whole[from_ : from_ + length])
                    limit = timeout_ns or runnable.timeout_ns
                    if limit:
                        self._set_limit(limit)
                    seat.in_user = True
                    value = runnable.call(*args)
                    seat.in_user = False
                    if views:
                        del args
                data = encode(value)
                room_at = HEADER_BYTES + (0 if block else length + 7 & ~7)
                if len(data) <= stride - room_at:
                    from_ = payload_at + at + room_at
                    whole[from_ : from_ + len(data)] = data
                    results[slot] = len(data) << 32 | room_at << 8
                else:
                    place_large(slot, running, value)
            except NeedsBlocks:
                seat.in_user = False
                ended = self._finish_large(slot, running, value, head)
                if not ended:
                    return
            except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
                seat.in_user = False
                ended = fail(slot, running, error, head)
                if not ended:
                    self.end_ns = now_ns()
                    return
            else:
                ended = running + _END
            if views:
                value = None
                self.decoder.pin_living_views()
            # SYNC POINT: result-visible — result bytes and result word before the job word says DONE
            if words[slot] == running:
                words[slot] = ended if not flags & FORGET else next_free(running)
            to_notify.add(slot >> shift)
            seat.slot = -1
            now = now_ns()
            row[done_at] += 1
            spent = now - started
            row[busy_at] += spent
            bits = spent.bit_length()
            services[(bits << 2) + ((spent >> (bits - 3)) & 3) if bits > 2 else spent] += 1
            waited = started - submitted_ns
            if waited > 7:
                bits = waited.bit_length()
                bucket = (bits << 2) + ((waited >> (bits - 3)) & 3)
                waits[bucket if bucket < width else _LAST_BUCKET] += 1
                row[wait_at] += waited
            else:
                waits[0] += 1
            self.end_ns = now
            if seat.deadline_ns:
                self._clear_limit()

        return run

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

    def _run_slowly(self, runnable: Runnable | None, head: tuple[int, ...], at: int, running: int) -> Any:
        """Chunks, keywords, messages in blocks, expiry, unknown tasks."""
        key, length, block, nargs, kind, _, _, timeout_ns, expires_ns, _, _ = head
        if runnable is None:
            raise UnknownTask(
                f"no task with key {key:#018x} is registered in this worker; was its module removed? `shmq tasks`"
            )
        self.seat.task_name = runnable.name
        if expires_ns and now_ns() > expires_ns:
            raise JobExpired(f"{runnable.name} was not started before it expired")
        data = self.message(at, length, block)
        limit = timeout_ns or runnable.timeout_ns
        if kind == MANY:
            return self._run_chunk(runnable, data, nargs, limit, running)
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

    def _run_chunk(self, runnable: Runnable, data: bytes, nargs: int, limit: int, running: int) -> Any:
        """Run the calls of a chunk: (run ns, values, {index: failure}). Failures stay with their call."""
        seat = self.seat
        decode = runnable.decoders.get(~nargs)
        if decode is None:
            if not runnable.task.signature.quick_least <= nargs <= runnable.task.signature.most:
                runnable.task.signature.bind((None,) * nargs, {})
            kind = runnable.task.signature.argument_types(nargs)
            decode = runnable.decoders[~nargs] = self.decoder.typed(list[kind]).decode  # type: ignore[valid-type]
        calls, call = decode(data), runnable.call
        values: list[Any] = []
        failures: dict[int, Failure] = {}
        started = now_ns()
        for i, args in enumerate(calls):
            try:
                if limit:
                    self._set_limit(limit)
                seat.in_user = True
                value = call(*args)
                seat.in_user = False
            except Exception as error:  # noqa: BLE001 - a call's failure is that call's answer
                seat.in_user = False
                failures[i] = describe(outcome.as_job_error(error, runnable.name))
                value = None
            values.append(value)
        return now_ns() - started, values, failures

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
                    f"no free block for the result of {self.seat.task_name}: {self.blocks.used_bytes()} bytes are in "
                    "use.\nRead or drop results sooner, or raise [memory] block_budget_bytes."
                ) from None
            return

    def _finish_large(self, slot: int, running: int, value: Any, head: tuple[int, ...]) -> int:
        try:
            self._place_large(slot, running, value)
        except Exception as error:  # noqa: BLE001 - a result that cannot travel is the job's failure
            return self._fail(slot, running, error, head)
        return running + _END

    def _fail(self, slot: int, running: int, error: BaseException, head: tuple[int, ...]) -> int:
        """Decide and record what a failed attempt means: the job word to store, 0 when it is stored."""
        seat = self.seat
        runnable = self.runnables.get(head[0])
        seat.row[WORKER["failed"]] += 1
        if isinstance(error, msgspec.ValidationError):
            error = BadArguments(f"{seat.task_name}: {error}.\nCompare the arguments with the task's annotations.")
        retries = runnable.retries if runnable and head[6] == INHERIT_RETRIES else head[6]
        due = outcome.retry_due(error, running, runnable.task.settings if runnable else None, retries)
        if due is not None and head[4] == CALL and seat.words[slot] == running:
            seat.row[WORKER["retried"]] += 1
            seat.slot = -1
            self._clear_limit()
            self.decoder.pin_living_views()
            seat.reschedule(slot, with_state(outcome.retried_word(running), 0), due)
            seat.bells.notify_recovery()
            return 0
        name = runnable.name if runnable else "a task"
        failure = describe(outcome.as_job_error(error, name))
        data = msgspec.msgpack.encode(failure)
        try:
            self._store_failure(slot, running, data, failure, head)
        finally:
            error.__traceback__ = None  # its frames hold the arguments
        return running - RUNNING + FAILED

    def _store_failure(self, slot: int, running: int, data: bytes, failure: Failure, head: tuple[int, ...]) -> None:
        at, room = result_room(self.stride, 0 if head[2] else head[1])
        if len(data) > room:
            self.encoder.slot, self.encoder.generation = slot, running >> GENERATION_SHIFT
            try:
                self.results[slot] = result_word(len(data), self.encoder.place_message(data), BLOCK)
                return
            except Exception:  # noqa: BLE001 - no block: a shortened failure in the slot is better than none
                kept = max(room - len(failure.type_name) - 16, 0)
                short = Failure(failure.type_name[:64], failure.message.encode()[:kept].decode("utf-8", "ignore"))
                data = msgspec.msgpack.encode(short)[: max(room, 0)]
        from_ = slot * self.stride + at
        self.payload[from_ : from_ + len(data)] = data
        self.results[slot] = result_word(len(data), at, INLINE)

    def _on_own_loop(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Run coroutine functions to their end on this worker's loop."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self._loop)
            return self._loop.run_until_complete(function(*args, **kwargs))

        return call


def _collecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A generator task read with `result()` gives the list of its parts."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return list(function(*args, **kwargs))

    return call


