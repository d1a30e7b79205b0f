"""Ending a job without a worker: dead letter if it is lost, failure for its producer, then the word."""

from __future__ import annotations

import logging
import sqlite3

import msgspec

from shmq.config.model import Config
from shmq.errors import ShmqError
from shmq.memory.segment import Segment
from shmq.tasks.registry import TaskInfo, read
from shmq.transport.dead import DeadLetter, DeadLetters
from shmq.transport.redeliver import Redeliverer
from shmq.transport.table import (
    FAILED,
    GENERATION_SHIFT,
    crashes_of,
    failures_of,
    group_of,
    next_free,
    with_state,
)
from shmq.wire.failure import Failure
from shmq.wire.header import FORGET, HEADER, HEADER_BYTES, INLINE, STREAMED, Header, result_room, result_word

_log = logging.getLogger("shmq.recovery")
_MOST = (1 << 63) - 1


def job_name(word: int, slot: int) -> str:
    """The job's id as handles and logs show it."""
    return f"{word >> GENERATION_SHIFT:x}-{slot:x}"


class Failures:
    """Writes failures and dead letters for jobs that no worker holds any more."""

    def __init__(self, segment: Segment, config: Config) -> None:
        self._segment = segment
        self._dead = DeadLetters(segment.state_dir, config.dead_letters)
        self._groups = list(config.groups)
        self._slot_bytes = segment.shape.slot_bytes
        self._payload = segment.view("payload")
        self._results = segment.view("results")
        self._words = segment.view("words")
        self._streams = segment.view("streams")

    def fail(
        self,
        redeliverer: Redeliverer,
        slot: int,
        word: int,
        failure: Failure,
        *,
        how: str = "",
        peak_bytes: int = 0,
    ) -> None:
        """End the job FAILED (or FREE, if nobody reads it). `how` makes it a dead letter.

        Caller must: own the word.
        """
        head = self.head(slot)
        if how or head.flags & FORGET:
            self._keep(self._letter(slot, word, failure, head, how, peak_bytes))
        at, room = result_room(self._slot_bytes, 0 if head.block else min(head.length, self._slot_bytes))
        data = msgspec.msgpack.encode(failure)
        if len(data) > room:
            kept = max(room - len(failure.type_name) - 12, 0)
            short = failure.message.encode()[:kept].decode("utf-8", "ignore")
            data = msgspec.msgpack.encode(Failure(failure.type_name, short))
        if len(data) > room:
            data = b""
        from_ = slot * self._slot_bytes + at
        self._payload[from_ : from_ + len(data)] = data
        is_streamed = self._streams[slot] >> 32 == word >> GENERATION_SHIFT  # parts in the ring are still to be read
        self._results[slot] = result_word(len(data), at, INLINE | (STREAMED if is_streamed else 0))
        # SYNC POINT: result-visible
        self._words[slot] = next_free(word) if head.flags & FORGET else with_state(word, FAILED)
        redeliverer.ring_producer_of(slot)

    def head(self, slot: int) -> Header:
        """The job's header. Its words may hold anything: only `length` is used as one, and is cut."""
        return Header._make(HEADER.unpack_from(self._payload, slot * self._slot_bytes))

    def task_info(self, key: int) -> TaskInfo | None:
        """The published facts of a task."""
        try:
            infos = read(self._segment.state_dir)
        except ShmqError:
            return None
        return next((info for info in infos.values() if info.key == key), None)

    def task_name(self, key: int) -> str:
        """The task's name, or its key when no module has it any more."""
        info = self.task_info(key)
        return info.name if info else f"task {key:#018x}"

    def _keep(self, letter: DeadLetter) -> None:
        try:
            self._dead.add(letter)
        except sqlite3.Error as error:  # disk full, file damaged: the other jobs must not wait for that
            _log.error("the dead letter of job %s (%s) cannot be kept: %s", letter.job, letter.task, error)

    def _letter(self, slot: int, word: int, failure: Failure, head: Header, how: str, peak_bytes: int) -> DeadLetter:
        group = group_of(word)
        return DeadLetter(
            job=job_name(word, slot), epoch=min(self._segment.header("created_ns"), _MOST),
            task=self.task_name(head.key), group=self._groups[group] if group < len(self._groups) else "",
            args=self._arguments(slot, head), nargs=head.nargs, kind=head.kind, error=failure.type_name,
            message=failure.message, traceback=failure.traceback, crashes=crashes_of(word),
            failures=failures_of(word), how=how, peak_bytes=min(peak_bytes, _MOST),
        )  # fmt: skip

    def _arguments(self, slot: int, head: Header) -> bytes:
        """The job's message, from its slot or its block."""
        if not head.block:
            at = slot * self._slot_bytes + HEADER_BYTES
            return bytes(self._payload[at : at + min(head.length, self._slot_bytes - HEADER_BYTES)])
        blocks, at = self._segment.view("blocks"), (head.block - 1) * self._segment.shape.unit_bytes
        return bytes(blocks[at : at + head.length]) if at + head.length <= len(blocks) else b""
