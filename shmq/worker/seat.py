"""What one worker knows of itself: its row, its batch, the job on the main thread.

The row's words are written by this worker only while its state is live. The timer's signal handler
(`limits`) reads and changes the seat between two bytecodes of the main thread; `in_user` tells it
whether the task's code or the worker's own is running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmq.memory.layout import WORKER, WORKER_WORDS
from shmq.memory.segment import Segment
from shmq.tasks.current import CurrentJob
from shmq.transport.bells import Bells
from shmq.transport.table import GENERATION_SHIFT, LEASED, SCHEDULED, crashes_of, failures_of, with_state

if TYPE_CHECKING:
    from shmq.config.model import Group

_BLOCKED = WORKER["blocked"]
_SCHEDULED = WORKER["scheduled"]


class Seat:
    """The worker's own state. One per process."""

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
        # the job on the main thread
        self.in_user = False
        self.slot = -1
        self.word = 0
        self.task_name = ""
        self.started_ns = 0
        self.deadline_ns = 0
        self.timeout_s = 0.0
        # the batch it came from
        self.batch_slots: list[int] = []
        self.batch_words: list[int] = []
        self.position = 0
        self.to_notify: set[int] = set()
        self.is_draining = False

    # -- for the client inside a task (tasks.current.WorkerSeat) -----------------------

    def enter_wait(self) -> None:
        """The task waits for another job: nobody must wait behind it, a substitute may be forked."""
        self.give_back_rest()
        self.ring_producers()
        self.row[_BLOCKED] += 1
        self.bells.notify_supervisor()

    def leave_wait(self) -> None:
        """The wait is over."""
        self.row[_BLOCKED] -= 1

    def running_job(self) -> CurrentJob | None:
        """The job on the main thread."""
        if self.slot < 0:
            return None
        attempt = crashes_of(self.word) + failures_of(self.word)
        return CurrentJob(self.slot, self.word >> GENERATION_SHIFT, self.task_name, self.group_name, attempt)

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

    def ring_producers(self) -> None:
        """Ring producers that wait for what was acked since the last time.

        Caller must: have fenced since the last ack (SYNC POINT: doorbell).
        """
        for row in self.to_notify:
            self.bells.notify_producer(row)
        self.to_notify.clear()


