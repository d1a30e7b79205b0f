"""Recovery: the resident process that redelivers, schedules and tidies up after the dead.

It remembers nothing: everything it knows is in the job table, so it may be killed at any step and
the next one goes on. The lock byte keeps it single.

    rung or due ──▶ bury dead workers ──▶ push due jobs ──▶ (each second) tidy rows ──▶ sleep until next due
"""

from __future__ import annotations

import logging
import random
import select
import time
from typing import Any

import msgspec

from shmq.clock import NS, now_ns, to_ns
from shmq.config.model import Config
from shmq.memory import locks
from shmq.memory.columns import column
from shmq.memory.doorbell import FifoBell
from shmq.memory.layout import GROUP_CONTROL, PRODUCER, WORKER, WORKER_DEAD, WORKER_FREE
from shmq.memory.segment import attach
from shmq.supervisor.pools import CANCELLED as KILLED_BY_CANCEL
from shmq.supervisor.pools import DRAINED, MEMORY, STOPPED, TIME_LIMIT
from shmq.tasks.registry import TaskInfo, read
from shmq.transport.dead import DeadLetter, DeadLetters
from shmq.transport.membership import is_holder_alive, take_over
from shmq.transport.redeliver import Redeliverer
from shmq.transport.table import (
    CRASH,
    FAILED,
    FAILURE,
    GENERATION_SHIFT,
    GROUP,
    GROUP_SHIFT,
    RUNNING,
    SCHEDULED,
    STATE,
    crashes_of,
    failures_of,
    group_of,
    next_free,
    with_state,
)
from shmq.wire.failure import Failure
from shmq.wire.header import FORGET, HEADER, HEADER_BYTES, INLINE, result_room, result_word

_log = logging.getLogger("shmq.recovery")
_TIDY_S = 1.0
_LONGEST_SLEEP_S = 0.5
_INHERIT_RETRIES = 255


class Recovery:
    """One namespace's recovery."""

    def __init__(self, segment_name: str, config: Config) -> None:
        self._config = config
        self._segment = attach(segment_name)
        self._lock_file = locks.open_once(self._segment.state_dir / "lock")
        self._lock_file.forget()  # inherited from the supervisor: the bytes stayed there
        self._lock_file.acquire(locks.RECOVERY)
        self._bell = FifoBell(self._segment.state_dir / "recovery.bell", create=True)
        self._redeliverer = Redeliverer(self._segment, self._lock_file)
        self._dead = DeadLetters(self._segment.state_dir, config.dead_letters)
        self._words = self._segment.view("words")
        self._rows = self._segment.rows("worker_rows")
        self._control = self._segment.rows("group_control")
        self._groups = list(config.groups)
        self._next_tidy = 0.0

    def run(self) -> None:
        """Serve until killed."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        while True:
            sleep_s = self.step()
            if poll.poll(sleep_s * 1000):
                self._bell.clear()

    def step(self) -> float:
        """Do all there is to do; seconds until the next look is due without being rung."""
        self._redeliverer.push_waiting()
        for index, row in enumerate(self._rows):
            if row[WORKER["state"]] == WORKER_DEAD:
                self.bury(index)
        delivery = self._redeliverer.deliver_due(now_ns())
        if time.monotonic() >= self._next_tidy:
            self._next_tidy = time.monotonic() + _TIDY_S
            self.tidy()
        until_due = (delivery.next_due_ns - now_ns()) / NS if delivery.next_due_ns else _LONGEST_SLEEP_S
        return min(max(until_due, 0.0), _LONGEST_SLEEP_S)

    # -- after a worker's death ------------------------------------------------------------

    def bury(self, index: int) -> None:
        """Redeliver what a dead worker held, then free its row as the last step.

        INVARIANT: the row is DEAD until nothing of the worker is left, so a recovery that is
        killed half-way is repeated in full by the next one.
        """
        row = self._rows[index]
        reason, culprit = int(row[WORKER["reason"]]), int(row[WORKER["culprit"]])
        pins = column(self._segment, "pins")
        pins[:, 1][pins[:, 1] == index + 1] = 0
        for slot in self._redeliverer.owned_by(index):
            self._resolve(slot, self._words[slot], reason, culprit, int(row[WORKER["exit_status"]]))
        for group in range(self._segment.shape.groups):
            self._redeliverer.bells.wake_all(group)
        for producer in range(self._segment.shape.producers):
            self._redeliverer.bells.notify_producer(producer)
        row[WORKER["pid"]] = 0
        row[WORKER["state"]] = WORKER_FREE
        self._redeliverer.bells.notify_supervisor()

    def _resolve(self, slot: int, word: int, reason: int, culprit: int, status: int) -> None:
        """Decide one job of the dead worker: one store ends or redelivers it."""
        job = (word >> GENERATION_SHIFT) << 32 | slot
        if word & STATE != RUNNING:
            self._redeliverer.requeue(slot, word)
        elif reason in (DRAINED, STOPPED) or (culprit and culprit != job):
            self._redeliverer.requeue(slot, word - CRASH)  # an interruption, not its fault
        elif culprit and reason == TIME_LIMIT:
            self._timed_out(slot, word - CRASH)
        elif culprit and reason == KILLED_BY_CANCEL:
            self._redeliverer.end_cancelled(slot)
        elif reason == MEMORY and self._escalate(slot, word):
            return
        elif crashes_of(word) >= self._segment.header("max_attempts"):
            self._give_up(slot, word, _how(status, reason))
        else:
            self._redeliverer.requeue(slot, word)

    def _timed_out(self, slot: int, word: int) -> None:
        """The task did not end although TaskTimeout was raised in it."""
        head = self._head(slot)
        retries = head[6] if head[6] != _INHERIT_RETRIES else self._retries_of(head[0], word)
        if failures_of(word) < retries:
            column(self._segment, "dues")[slot] = now_ns() + to_ns(random.uniform(0.0, 2.0 ** failures_of(word)))  # noqa: S311
            self._words[slot] = with_state(word + FAILURE, SCHEDULED)
            return
        limit = head[7] / NS if head[7] else 0.0
        text = f"{self._task_name(head[0])} ran past its time limit{f' of {limit:g} s' if limit else ''} and its grace; its worker was killed"
        self._fail(slot, word, Failure("TaskTimeout", text), head)

    def _retries_of(self, key: int, word: int) -> int:
        info = self._task_info(key)
        retries = info.options.get("retries") if info else None
        group = self._config.groups[self._groups[group_of(word)]]
        return int(retries if retries is not None else group.retries or 0)

    def _escalate(self, slot: int, word: int) -> bool:
        """Out of memory: on to the group that has more, once."""
        group = self._config.groups[self._groups[group_of(word)]]
        target = group.escalate_to if group.escalate_to is not None else "memory"
        if target not in self._groups or self._groups.index(target) == group_of(word):
            return False
        moved = (word & ~GROUP) | self._groups.index(target) << GROUP_SHIFT
        _log.warning("job %s ran out of memory in group %s: goes on in %s", _id(word, slot), self._groups[group_of(word)], target)
        self._redeliverer.requeue(slot, moved)
        return True

    def _give_up(self, slot: int, word: int, how: str) -> None:
        """Dead-letter, then FAILED: the letter is written first, its key is the job id."""
        head = self._head(slot)
        name = self._task_name(head[0])
        text = (
            f"{name} lost its worker {crashes_of(word)} times, last by {how}; it is in the dead letters.\n"
            "Find the cause (memory? native code?), then `shmq dead retry`."
        )
        self._fail(slot, word, Failure("WorkerLost", text), head, how=how)

    def _fail(self, slot: int, word: int, failure: Failure, head: tuple[int, ...], how: str = "") -> None:
        if how or head[5] & FORGET:
            self._dead.add(self._letter(slot, word, failure, head, how))
        at, room = result_room(self._segment.shape.slot_bytes, 0 if head[2] else head[1])
        data = msgspec.msgpack.encode(failure)
        if len(data) > room:
            kept = max(room - len(failure.type_name) - 12, 0)
            data = msgspec.msgpack.encode(Failure(failure.type_name, failure.message[:kept]))
        if len(data) <= room:
            from_ = slot * self._segment.shape.slot_bytes + at
            self._segment.view("payload")[from_ : from_ + len(data)] = data
            self._segment.view("results")[slot] = result_word(len(data), at, INLINE)
        else:
            self._segment.view("results")[slot] = result_word(0, at, INLINE)
        # SYNC POINT: result-visible
        self._words[slot] = next_free(word) if head[5] & FORGET else with_state(word, FAILED)
        self._redeliverer.ring_producer_of(slot)

    def _letter(self, slot: int, word: int, failure: Failure, head: tuple[int, ...], how: str) -> DeadLetter:
        length, block = head[1], head[2]
        at = slot * self._segment.shape.slot_bytes + HEADER_BYTES
        args = b"" if block else bytes(self._segment.view("payload")[at : at + length])
        return DeadLetter(
            job=_id(word, slot), epoch=self._segment.header("created_ns"), task=self._task_name(head[0]),
            group=self._groups[group_of(word)], args=args, nargs=head[3], kind=head[4], error=failure.type_name,
            message=failure.message, traceback=failure.traceback, crashes=crashes_of(word),
            failures=failures_of(word), how=how,
        )  # fmt: skip

    def _head(self, slot: int) -> tuple[int, ...]:
        return HEADER.unpack_from(self._segment.view("payload"), slot * self._segment.shape.slot_bytes)

    def _task_info(self, key: int) -> TaskInfo | None:
        return next((info for info in read(self._segment.state_dir).values() if info.key == key), None)

    def _task_name(self, key: int) -> str:
        info = self._task_info(key)
        return info.name if info else f"task {key:#018x}"

    # -- housekeeping ------------------------------------------------------------------------

    def tidy(self) -> None:
        """Rows of dead producers, ended jobs nobody reads, cancelled jobs nobody claims."""
        rows = self._segment.rows("producer_rows")
        for index, row in enumerate(rows):
            if row[PRODUCER["pid"]] or self._redeliverer.used(index):
                self._tidy_row(index, row)
        for group, control in enumerate(self._control):
            if control[GROUP_CONTROL["paused"]] or not control[GROUP_CONTROL["workers"]]:
                self._redeliverer.sweep_cancelled(group)

    def _tidy_row(self, index: int, row: Any) -> None:
        byte = locks.producer_byte(index)
        if not self._lock_file.try_acquire(byte):
            return
        try:
            if is_holder_alive(self._segment, index):
                return
            if row[PRODUCER["pid"]]:
                _log.info("producer row %d: its process (pid %d) is gone, taken over", index, row[PRODUCER["pid"]])
                take_over(self._segment, index)
            self._redeliverer.free_ended(index)
        finally:
            self._lock_file.release(byte)


def _id(word: int, slot: int) -> str:
    return f"{word >> GENERATION_SHIFT:x}-{slot:x}"


def _how(status: int, reason: int) -> str:
    """What ended a worker, in words."""
    import os
    import signal

    if reason == MEMORY:
        return "the memory limit"
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.WEXITSTATUS(status)}"


