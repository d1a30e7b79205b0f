"""Running one leased job: decode, call, encode, ack. The hot path of every worker.

    word as leased? → RUNNING, crash paid in advance → decode → task → encode → result → word

Built as one closure so that nothing is looked up on an object per job. What is not plain goes another way:
`calls` has the calls, `results` what becomes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from shmq.clock import now_ns
from shmq.errors import CircuitOpen
from shmq.memory.blocks import BlockPool
from shmq.memory.fence import new_fence, new_order_fence
from shmq.memory.layout import WORKER
from shmq.tasks.task import Task
from shmq.transport.table import GENERATION_SHIFT, next_free
from shmq.wire.codec import ENCODING_ERRORS, Decoder, Encoder, NeedsBlocks
from shmq.wire.header import (
    BLOCK_WORD,
    CALL_WORD,
    FLAGS_SHIFT,
    FORGET,
    HEADER_BYTES,
    KEY_WORD,
    PLAIN,
    SUBMITTED_WORD,
)
from shmq.worker.accounting import Accounts
from shmq.worker.calls.calling import Calling
from shmq.worker.results.failing import Failing
from shmq.worker.results.outlet import Outlets
from shmq.worker.results.storing import Storing
from shmq.worker.seat import END, START, Seat
from shmq.worker.slots import Slots
from shmq.worker.timer import KEPT_NS

_GENERATION = 0xFFFFFFFF << GENERATION_SHIFT
SLOW_NS = 50_000
"""Jobs that take longer are measured one by one."""
_NOTIFY_NS = 200_000  # results wait at most this long for the end of their batch


class Executor:
    """Runs leased jobs for one seat."""

    def __init__(
        self, seat: Seat, tasks: dict[int, Task[..., Any]], blocks: BlockPool, arm_timer: Callable[[], None],
        has_work: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.seat, self.segment = seat, seat.segment
        self._arm_timer, self._has_work = arm_timer, has_work
        self.slots, self.decoder, encoder = Slots(seat.segment, blocks), Decoder(blocks), Encoder(blocks)
        self.outlets = Outlets(seat, blocks)
        self.calling = Calling(seat, tasks, self.slots, self.decoder, self._set_limit, self._clear_limit)
        self.runnables = self.calling.runnables
        self.failing = Failing(seat, self.slots, encoder, self.decoder, self.outlets, self.runnables, self._clear_limit)
        self.storing = Storing(seat, blocks, self.slots, encoder, self.outlets, self.failing)
        self.encode = self.storing.encode
        self.accounts = Accounts(seat)
        self.account = self.accounts.book
        self.stride = self.segment.shape.slot_bytes
        self.payload = self.segment.view("payload")
        self._fence = new_fence()
        self.run_batch = self._make_run()

    def _make_run(self) -> Callable[[Iterable[int], Iterable[int], int], None]:
        seat, words, stride, segment = self.seat, self.seat.words, self.stride, self.segment
        keys, submitted, blocks = (segment.slot_words(n) for n in (KEY_WORD, SUBMITTED_WORD, BLOCK_WORD))
        (lengths, kinds), (places, sizes) = segment.slot_halves(CALL_WORD), segment.halves("results")
        runnables, whole, payload_at = self.runnables, segment.map, segment.layout.offsets["payload"]
        message_at = payload_at + HEADER_BYTES
        encode, views, order, notify = self.encode, self.decoder.views, new_order_fence(), self.notify
        run_slowly, fail, finish_large = self.calling.call, self.failing.fail, self.storing.finish_when_room
        record, let_go = self.accounts.record, self._let_go_of_others
        row, job_at, room_from = seat.row, WORKER["job"], HEADER_BYTES + 7
        plain, forget = PLAIN << FLAGS_SHIFT - 32, FORGET << FLAGS_SHIFT - 32  # in the upper half of the word

        def run_batch(slots: Iterable[int], leases: Iterable[int], position: int) -> None:
            """Run leased jobs one after the other; `position` is that of the first in the seat's batch.

            What they come from may become shorter meanwhile: what is given back is not run.
            """
            started = seat.started_ns
            look_at, notify_at = started + SLOW_NS, started + _NOTIFY_NS
            known_key = known_kind = -1  # of the last plain call: neighbours are most often of one task
            for slot, leased in zip(slots, leases, strict=False):
                position += 1
                seat.position = position
                if words[slot] != leased:  # given back, or no longer ours
                    continue
                running = leased + START
                # SYNC POINT: started — RUNNING (crash counted) before any of the task's code
                words[slot] = running
                row[job_at] = running & _GENERATION | slot
                key, length, kind, limit = keys[slot], lengths[slot], kinds[slot], 0
                try:
                    at = slot * stride
                    if kind != known_kind or key != known_key:
                        known_kind = -1
                        runnable = runnables.get(key)
                        if runnable is not None and runnable.long_share and runnable.is_long():
                            let_go(position - 1)
                        if kind & plain and runnable is not None:
                            decode = runnable.decoders.get(kind & 0xFF) or runnable.decoder(kind & 0xFF)
                            function, task_limit = runnable.call, runnable.timeout_ns
                            known_key, known_kind = key, kind
                    if known_kind == kind:
                        from_ = message_at + at
                        args = decode(whole[from_ : from_ + length])
                        limit = task_limit
                        if limit:
                            self._set_limit(limit)
                        seat.in_user = True
                        value = function(*args)
                        seat.in_user = False
                        if views:
                            del args
                    else:
                        limit = 1
                        value = run_slowly(runnable, slot)
                        if blocks[slot]:
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
                    places[slot], sizes[slot] = room_at << 8, len(data)
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
                    words[slot] = ended if not kind & forget else next_free(running)
                now = seat.started_ns = now_ns()  # the next job starts where this one ended
                if now > look_at:  # a slow job always ends past it: it began after that moment was set
                    look_at = now + SLOW_NS
                    if now - started > SLOW_NS:
                        record(now - started, started - submitted[slot])
                        if now - started > KEPT_NS and runnable is not None:
                            runnable.long_share += 0.5
                    if now > notify_at:
                        notify(position)
                        notify_at = now + _NOTIFY_NS
                started = now
                if seat.is_draining:
                    seat.give_back_rest()

        return run_batch

    def run(self, slot: int, leased: int) -> None:
        """Run one job of the seat's batch, whose position counts it already."""
        self.run_batch((slot,), (leased,), self.seat.position - 1)

    def _let_go_of_others(self, ended: int) -> None:
        """A job begins whose task's last ones ran for long: nothing of its batch or the lanes waits for it."""
        if not self.seat.give_back_rest() and self._has_work():
            self.seat.bells.wake_one(self.seat.group)
        if self.seat.rung < ended:
            self.notify(ended)

    def notify(self, ended: int) -> None:
        """Ring producers that wait for one of the batch's first `ended` jobs."""
        self._fence()  # SYNC POINT: doorbell — job words visible before we look who waits
        self.seat.ring_producers(ended)

    def refuse(self, slot: int, leased: int) -> None:
        """End a leased job whose circuit is open, without running it."""
        running = leased + START
        self.seat.words[slot] = running
        head = self.slots.header(slot)
        runnable = self.runnables.get(head.key)
        name = runnable.name if runnable else "a task"
        error = CircuitOpen(f"{name}: the circuit is open after too many failures; jobs fail until a probe succeeds")
        ended = self.failing.fail(slot, running, error)
        self.seat.words[slot] = ended if not head.flags & FORGET else next_free(running)

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
        # SYNC POINT: deadline — cleared before the next job is named
        self.seat.row[WORKER["deadline_ns"]] = 0
