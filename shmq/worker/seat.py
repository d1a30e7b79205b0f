"""What one worker knows of itself: its row, its batch, the job on the main thread.

The row's words are written by this worker only while its state is live. The timer's signal handler
(`timer`) reads and changes the seat between two bytecodes of the main thread; `in_user` tells it
whether the task's code or the worker's own is running.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmq.memory.layout import GROUP_CONTROL, WORKER, WORKER_LIVE, WORKER_WORDS
from shmq.memory.segment import Segment
from shmq.tasks import current
from shmq.tasks.current import CurrentJob
from shmq.transport.bells import Bells
from shmq.transport.table import (
    CRASH,
    DONE,
    GENERATION_SHIFT,
    LEASED,
    RUNNING,
    SCHEDULED,
    STATE,
    crashes_of,
    failures_of,
    group_of,
    with_state,
)
from shmq.wire.header import KEY_WORD

if TYPE_CHECKING:
    from shmq.config.model import Group
    from shmq.worker.results.outlet import Outlet

_BLOCKED = WORKER["blocked"]
_DONE = WORKER["done"]
_JOB = WORKER["job"]
_STATE = WORKER["state"]
_SCHEDULED = WORKER["scheduled"]
START = RUNNING - LEASED + CRASH
"""Added to the word of a leased job: it runs, its crash paid in advance."""
END = DONE - RUNNING
"""Added to the word of a running job: it has ended well."""


class Seat:
    """The worker's own state. One per process."""

    is_forked = False

    def __init__(self, segment: Segment, index: int, group: int, name: str, settings: Group) -> None:
        self.segment = segment
        self.index = index
        self.group = group
        self.group_name = name
        self.settings = settings
        self.bells = Bells(segment)
        self.row = segment.view("worker_rows")[index * WORKER_WORDS : (index + 1) * WORKER_WORDS]
        self.words = segment.view("words")
        self._cancels = segment.view("cancels")
        self._dues = segment.view("dues")
        self.row_shift = segment.shape.slots_per_producer.bit_length() - 1
        self._keys = segment.slot_words(KEY_WORD)
        # the job on the main thread
        self.in_user = False  # the task's own code runs; its job is the row's `job`
        self.names: dict[int, str] = {}
        self.registry = 0  # version of the tasks that it knows
        self.started_ns = 0  # of the running job: when the one before it ended
        self.deadline_ns = 0
        self.timeout_s = 0.0
        self.outlet: Outlet | None = None  # of the generator on the main thread
        self.calls: list[Any] = []  # of the chunk on the main thread
        # the batch it came from
        self.batch_slots: list[int] = []
        self.batch_words: list[int] = []
        self.position = 0
        self.rung = 0  # jobs of the batch whose producers were rung
        self.counted = 0  # jobs of the batch that the row's `done` has already
        self.is_draining = False
        self.places: Callable[[], int] = lambda: 1  # jobs that it runs at once
        self._waits: dict[object, int] = {}  # each wait for another job, and which job waits
        self._waits_lock = threading.RLock()

    # -- for the client inside a task (tasks.current.WorkerSeat) -----------------------

    def enter_wait(self, wait: object) -> None:
        """The task waits for another job: nobody must wait behind it, a substitute may be forked."""
        self.give_back_rest()
        if self.position:
            self.ring_producers(self.position - 1)
        self._waits[wait] = current.job_id()
        self.tell_blocked()
        self.bells.wake_one(self.group)  # this worker may have promised to look again: it will not, soon
        self.bells.notify_supervisor()

    def leave_wait(self, wait: object) -> None:
        """The wait is over, also one whose beginning a time limit has cut off."""
        self._waits.pop(wait, None)
        self.tell_blocked()

    @property
    def is_waiting(self) -> bool:
        """Does a job of this worker wait for another one?"""
        return bool(self._waits)

    def end_waits(self, job: int | None = None) -> None:
        """The job has ended, or all have: whatever a time limit has cut off on its way out of a wait is over."""
        for wait in list(self._waits):
            if job in {None, self._waits.get(wait)}:
                self.leave_wait(wait)

    def tell_blocked(self) -> None:
        """The worker is blocked while as many of its jobs wait as it runs at once. Called from any of its threads."""
        places = self.places()
        with self._waits_lock:  # reentrant: a signal handler of the task may wait as well
            waiting = sum(map(self._is_under_way, set(self._waits.values())))
            self.row[_BLOCKED] = int(waiting >= places)

    def _is_under_way(self, job: int) -> bool:
        """Not one that has ended, and left a coroutine that still waits. 0: the job cannot be told."""
        word = self.words[job & 0xFFFFFFFF]
        return not job or (word >> GENERATION_SHIFT == job >> 32 and word & STATE == RUNNING)

    def deadlock(self, slot: int, generation: int) -> str:
        """The chain when every worker that could run the job waits itself and no more may be forked."""
        if (
            (word := self.words[slot]) >> GENERATION_SHIFT != generation  # it has left its slot
            or group_of(word) != self.group
            or word & STATE in (LEASED, RUNNING)
            or word & STATE >= DONE
        ):
            return ""
        blocked = [
            row for row in self.segment.rows("worker_rows")
            if row[_STATE] == WORKER_LIVE and row[WORKER["group"]] == self.group and row[_BLOCKED]
        ]  # fmt: skip
        control = self.segment.rows("group_control")[self.group]
        most = max(control[GROUP_CONTROL["max_workers"]], control[GROUP_CONTROL["min_workers"]])
        if len(blocked) < most + self.settings.max_substitutes:
            return ""
        return f"{len(blocked)} workers of group {self.group_name} wait: " + " → ".join(
            self.name_in(row[_JOB] & 0xFFFFFFFF) if row[_JOB] else "a task" for row in blocked
        )

    def is_busy(self) -> bool:
        """Does a job of the batch run, be it in the worker's own code, or is one to come? Streams see to themselves."""
        at = self.position
        if at < len(self.batch_slots):
            return True
        if not at or self.outlet is not None:
            return False
        leased = self.batch_words[-1]
        return self.words[self.batch_slots[-1]] in {leased, leased + START}  # leased: it is measured, and not begun

    @property
    def is_outdated(self) -> bool:
        """Has a reload published other tasks than this worker knows?"""
        return bool(self.segment.header("registry") > self.registry)

    def running_job(self) -> CurrentJob | None:
        """The job on the main thread."""
        if not self.in_user:
            return None
        slot, generation = self.row[_JOB] & 0xFFFFFFFF, self.row[_JOB] >> 32
        word = self.words[slot]
        attempt = crashes_of(word) + failures_of(word)
        return CurrentJob(slot, generation, self.task_name(), self.group_name, attempt)

    def task_name(self) -> str:
        """Name of the task that runs, or ran last."""
        return self.name_in(self.row[_JOB] & 0xFFFFFFFF)

    def name_in(self, slot: int) -> str:
        """Name of the task that the slot's job calls."""
        return self.names.get(self._keys[slot], "a task") if slot < len(self._keys) else "a task"

    def is_cancelled(self, slot: int, generation: int) -> bool:
        """Was the job asked to stop?"""
        return bool(self._cancels[slot] == generation)

    # -- leases -----------------------------------------------------------------------

    def give_back_rest(self) -> int:
        """Return the jobs of the batch that have not started: SCHEDULED, due now. How many."""
        given = 0
        while self.position < len(self.batch_slots):
            slot, word = self.batch_slots.pop(), self.batch_words.pop()
            if self.words[slot] == word and word & 0xF == LEASED:
                self.reschedule(slot, with_state(word, 0), 0)
                given += 1
        if given:
            self.bells.notify_recovery()
        return given

    def reschedule(self, slot: int, word: int, due_ns: int) -> None:
        """LEASED or RUNNING to SCHEDULED. Caller must: own the word, and ring recovery after."""
        self._dues[slot] = due_ns
        self.words[slot] = word | SCHEDULED
        self.row[_SCHEDULED] += 1

    def ring_producers(self, ended: int) -> None:
        """Ring producers that wait for one of the batch's first `ended` jobs, and were not rung yet.

        Caller must: have fenced since the last ack (SYNC POINT: doorbell).
        """
        rung = self.rung
        if ended - rung == 1:
            self.bells.notify_producer(self.batch_slots[rung] >> self.row_shift)
        else:
            for row in {slot >> self.row_shift for slot in self.batch_slots[rung:ended]}:
                self.bells.notify_producer(row)
        self.rung = ended  # after the rings: a time limit that comes while a task waits must not lose them

    def count_ended(self, ended: int) -> None:
        """Have the row's `done` count the batch's first `ended` jobs, each of them once."""
        counted, self.counted = self.counted, ended
        self.row[_DONE] += ended - counted

    # -- a child that the task forked ----------------------------------------------------

    def disown(self) -> None:
        """Called in a forked child: row, job and locks are its parent's, and so are the other calls of its chunk."""
        self.calls.clear()
        self.__class__ = _ForkedSeat

    def end_child(self, error: BaseException | None) -> None:
        """End a forked child that came back from the task's code, before it acts as a second worker. Never returns."""
        status = 0
        if isinstance(error, SystemExit):
            code = error.code
            status = code if isinstance(code, int) else int(code is not None)
        else:
            sys.stderr.write(
                f"shmq: {self.task_name()} forked process {os.getpid()}, which came back from the task; it ends here.\n"
                "Its parent goes on with the job. End such a child with os._exit, or use subprocess.\n"
            )
            if error is not None:
                traceback.print_exception(error)
                status = 1
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status & 0xFF)


class _ForkedSeat(Seat):
    """The seat in a forked child: leaving the task's code ends the process.

    REJECTED: a check behind each call in the hot path - the class is swapped instead.
    """

    is_forked = True

    def enter_wait(self, wait: object) -> None:
        """Nothing: the pool counts the parent."""

    def leave_wait(self, wait: object) -> None:
        """Nothing."""

    @property
    def in_user(self) -> bool:
        return True

    @in_user.setter
    def in_user(self, value: bool) -> None:
        if not value:
            self.end_child(sys.exception())
