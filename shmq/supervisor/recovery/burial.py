"""After a worker's proven death: what becomes of each job it held, then its row is free again.

LEASED ─▶ REQUEUED                          RUNNING ─▶ by the row's reason:
    not to blame (drained, stopped, another job is the culprit)  ─▶ REQUEUED, crash given back
    time limit ─▶ retried or FAILED         cancelled ─▶ CANCELLED
    a part of its stream was read ─▶ FAILED: it is not made a second time
    out of memory ─▶ REQUEUED in the group named by `escalate_to`; no such group: dead letter
    else ─▶ REQUEUED, past max_attempts dead letter
"""

from __future__ import annotations

import logging
import random
import time
from typing import NamedTuple

from shmq.clock import NS, now_ns, to_ns
from shmq.config.model import Config
from shmq.memory import doorbell
from shmq.memory.columns import column
from shmq.memory.fence import new_fence
from shmq.memory.layout import GROUP_CLAIM, WORKER, WORKER_FREE
from shmq.memory.segment import Segment
from shmq.supervisor.pools.endings import describe
from shmq.supervisor.pools.worker import CANCELLED, INTERRUPTIONS, MEMORY, OUT_OF_MEMORY, REASONS, TIME_LIMIT
from shmq.supervisor.recovery.failures import Failures, job_name
from shmq.transport.promises import LONGEST_PROMISE_NS
from shmq.transport.redeliver import Redeliverer
from shmq.transport.table import (
    CRASH,
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
    with_state,
)
from shmq.wire.failure import Failure
from shmq.wire.header import INHERIT_RETRIES

_log = logging.getLogger("shmq.recovery")


class Death(NamedTuple):
    """What the supervisor wrote about a worker's end; `running`: jobs that ran in it."""

    reason: int
    culprit: int
    status: int
    peak_bytes: int
    running: int

    @property
    def how(self) -> str:
        """In words, for people and dead letters."""
        if self.reason in {MEMORY, OUT_OF_MEMORY}:
            return REASONS[self.reason]
        return describe(self.status & 0xFFFF)


class Burial:
    """Resolves the jobs of dead workers."""

    def __init__(self, segment: Segment, config: Config) -> None:
        self._config = config
        self._segment = segment
        self._words = segment.view("words")
        self._rows = segment.rows("worker_rows")
        self._reads = segment.view("reads")
        self._groups = list(config.groups)
        self._failures = Failures(segment, config)
        self._fence = new_fence()

    def bury(self, redeliverer: Redeliverer, index: int) -> None:
        """Redeliver what a dead worker held, then free its row as the last step.

        INVARIANT: the row is DEAD until nothing of the worker is left, so a recovery that is
        killed half-way is repeated in full by the next one.
        """
        row = self._rows[index]
        held = redeliverer.owned_by(index)
        running = sum(self._words[slot] & STATE == RUNNING for slot in held)
        reason, culprit, status, peak = (
            int(row[WORKER[word]]) for word in ("reason", "culprit", "exit_status", "peak_bytes")
        )
        death = Death(reason, culprit, status, peak, running)
        pins = column(self._segment, "pins")
        pins[:, 1][pins[:, 1] == index + 1] = 0
        for slot in held:
            self._resolve(redeliverer, slot, self._words[slot], death)
        self._clear_seat(index)
        self._outwait_promise(int(row[WORKER["group"]]))
        self._fence()  # SYNC POINT: doorbell — the dead one's byte is down before we look who sleeps
        for group in range(self._segment.shape.groups):
            redeliverer.bells.wake_all(group)
        for producer in range(self._segment.shape.producers):
            redeliverer.bells.notify_producer(producer)
        row[WORKER["pid"]] = 0
        row[WORKER["state"]] = WORKER_FREE
        redeliverer.bells.notify_supervisor()

    def _outwait_promise(self, group: int) -> None:
        """Until the moment at which the dead worker may have promised to look again: no ring is left out after it."""
        if group < len(self._groups):
            promised_ns = self._segment.rows("group_claim")[group][GROUP_CLAIM["attended_until_ns"]]
            left_ns = promised_ns - now_ns()
            if 0 < left_ns <= LONGEST_PROMISE_NS:
                time.sleep(left_ns / NS)

    def _clear_seat(self, index: int) -> None:
        """Its doorbell's name and sleeping bytes: after a supervisor's death nobody else does.

        A byte left at 1 would be the first that `wake_one` finds, and every ring would go to the dead.
        """
        layout, sleeping = self._segment.layout, self._segment.view("sleeping")
        for group in range(self._segment.shape.groups):
            sleeping[group * layout.sleepers + 1 + index] = 0
        name = self._segment.text("worker_bells", index)
        if doorbell.is_semaphore(name):  # whatever else stands there could be any file
            doorbell.unlink(name)
        self._segment.set_text("worker_bells", "", index)

    def _resolve(self, redeliverer: Redeliverer, slot: int, word: int, death: Death) -> None:
        """Decide one job of the dead worker: one store ends or redelivers it."""
        job = (word >> GENERATION_SHIFT) << 32 | slot
        is_culprit = death.culprit == job
        if group_of(word) >= len(self._groups):
            self._quarantine(redeliverer, slot, word)
        elif word & STATE != RUNNING:
            redeliverer.requeue(slot, word)
        elif self._was_read(slot, word) and not (is_culprit and death.reason in {TIME_LIMIT, CANCELLED}):
            self._break_off(redeliverer, slot, word, death)
        elif death.reason in INTERRUPTIONS or (death.culprit and not is_culprit):
            redeliverer.requeue(slot, _uncharged(word))  # an interruption, not its fault
        elif is_culprit and death.reason == TIME_LIMIT:
            self._timed_out(redeliverer, slot, _uncharged(word))
        elif is_culprit and death.reason == CANCELLED:
            redeliverer.end_cancelled(slot)
        elif death.reason in {MEMORY, OUT_OF_MEMORY} and self._escalate(redeliverer, slot, word, death):
            return
        elif self._is_hopeless(word, death, is_culprit=is_culprit):
            self._give_up(redeliverer, slot, word, death)
        else:
            redeliverer.requeue(slot, word)

    def _was_read(self, slot: int, word: int) -> bool:
        """Has the job's producer taken a part of its stream? (The next attempt's worker asks again.)"""
        return bool(self._reads[slot] == word >> GENERATION_SHIFT)

    def _break_off(self, redeliverer: Redeliverer, slot: int, word: int, death: Death) -> None:
        """No redelivery, and no dead letter: its reader is there, and is told."""
        name = self._failures.task_name(self._failures.head(slot).key)
        text = (
            f"{name} lost its worker ({death.how}) after parts of its stream had been read; they are not made a second "
            "time.\nSubmit the job again, and drop the parts you have."
        )
        self._failures.fail(redeliverer, slot, word, Failure("WorkerLost", text))

    def _quarantine(self, redeliverer: Redeliverer, slot: int, word: int) -> None:
        """No version of shmq writes such a group: nobody could ever claim the job."""
        _log.error(
            "slot %d: job word %#x names group %d of %d: failed",
            slot,
            word,
            group_of(word),
            len(self._groups),
        )
        text = f"the job's word was overwritten ({word:#x}): some process damaged the segment.\nSubmit it again."
        self._failures.fail(redeliverer, slot, word & ~GROUP, Failure("ShmqError", text))

    def _is_hopeless(self, word: int, death: Death, *, is_culprit: bool) -> bool:
        """Is there no sense in another attempt? A job that alone is over the hard limit would be again."""
        return (is_culprit and death.reason == MEMORY) or crashes_of(word) >= self._segment.header("max_attempts")

    def _timed_out(self, redeliverer: Redeliverer, slot: int, word: int) -> None:
        """The task did not end although TaskTimeout was raised in it."""
        head = self._failures.head(slot)
        retries = head.retries if head.retries != INHERIT_RETRIES else self._retries_of(head.key, word)
        if failures_of(word) < retries and not self._was_read(slot, word):
            pause_s = random.uniform(0.0, min(2.0 ** failures_of(word), 60.0))
            column(self._segment, "dues")[slot] = now_ns() + to_ns(pause_s)
            self._words[slot] = with_state(word + FAILURE, SCHEDULED)
            return
        limit = f" of {head.timeout_ns / NS:g} s" if head.timeout_ns else ""
        name = self._failures.task_name(head.key)
        text = f"{name} ran past its time limit{limit} and its grace; its worker was killed.\nRaise `timeout`."
        self._failures.fail(redeliverer, slot, word, Failure("TaskTimeout", text))

    def _retries_of(self, key: int, word: int) -> int:
        info = self._failures.task_info(key)
        retries = info.options.get("retries") if info else None
        group = self._config.groups[self._groups[group_of(word)]]
        return int(retries if retries is not None else group.retries or 0)

    def _escalate(self, redeliverer: Redeliverer, slot: int, word: int, death: Death) -> bool:
        """Out of memory: on to the group that has more, once. False when there is none."""
        name = self._groups[group_of(word)]
        target = self._config.groups[name].escalate_to
        if target is None:
            target = "memory"
        if target not in self._groups or target == name:
            return False
        moved = (word & ~GROUP) | self._groups.index(target) << GROUP_SHIFT
        _log.warning(
            "job %s: its worker was %s in group %s (peak %d MiB): goes on in %s",
            job_name(word, slot), death.how, name, death.peak_bytes >> 20, target,
        )  # fmt: skip
        redeliverer.requeue(slot, moved)
        return True

    def _give_up(self, redeliverer: Redeliverer, slot: int, word: int, death: Death) -> None:
        """Dead-letter, then FAILED: the letter is written first, its key is the job id."""
        times = f"{crashes_of(word)} time{'' if crashes_of(word) == 1 else 's'}"
        name = self._failures.task_name(self._failures.head(slot).key)
        text = f"{name} lost its worker {times}, last by {death.how}"
        if death.peak_bytes and death.reason in {MEMORY, OUT_OF_MEMORY}:
            text += f" (peak {death.peak_bytes >> 20} MiB)"
        text += "; it is in the dead letters.\n"
        if death.running > 1 and not death.culprit:  # in a group with `concurrency` nobody can tell whose fault it was
            text += f"Or one that ran beside it ({death.running - 1} did) is to blame: concurrency = 1 would tell. "
        text += "Find the cause (memory? native code?), then `shmq dead retry`."
        self._failures.fail(
            redeliverer, slot, word, Failure("WorkerLost", text), how=death.how, peak_bytes=death.peak_bytes
        )


def _uncharged(word: int) -> int:
    """The word with the attempt given back that starting the job had cost."""
    return word - CRASH if crashes_of(word) else word
