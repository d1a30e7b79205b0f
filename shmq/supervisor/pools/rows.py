"""The supervisor's view of worker rows and group words: bounds-checked reads, writes that cannot overflow.

Any shared word may hold garbage. A read never decides more than whom to look at; a number that goes
into a sum is cut to 63 bits; an index is compared with its bound before it is used.

The supervisor writes a worker row while its state is STARTING or DEAD, the live worker in between; a
DEAD row goes to recovery, which frees it when nothing of the worker is left.
"""

from __future__ import annotations

from shmq.clock import now_ns
from shmq.memory import doorbell
from shmq.memory.doorbell import SemaphoreBell
from shmq.memory.layout import (
    GROUP_CLAIM,
    GROUP_CONTROL,
    GROUP_PLAN,
    HISTOGRAM_BUCKETS,
    LANE_WORDS,
    WORD,
    WORKER,
    WORKER_DEAD,
    WORKER_FREE,
    WORKER_LIVE,
    WORKER_STARTING,
    WORKER_WORDS,
)
from shmq.memory.segment import SHM, Segment
from shmq.refusal import told
from shmq.transport.bells import Bells
from shmq.transport.table import GENERATION_SHIFT, LEASED, OWNER, OWNER_SHIFT, RUNNING, STATE, owner_of
from shmq.wire.header import KEY_WORD

_MOST = (1 << 63) - 1
_EMPTY_ROW = bytes(8 * WORKER_WORDS)
_EMPTY_HISTOGRAM = bytes(8 * HISTOGRAM_BUCKETS)
_PAST = ("done", "failed", "retried", "busy_ns")


class Rows:
    """Worker rows, group words, sleeping bytes and lanes of one segment."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.count = segment.shape.workers
        self._workers = segment.rows("worker_rows")
        self._control = segment.rows("group_control")
        self._claim = segment.rows("group_claim")
        self._plans = segment.rows("group_plan")
        self._services, self._waits = segment.rows("service_times"), segment.rows("wait_times")
        self._sleeping, self._sleepers = segment.view("sleeping"), segment.layout.sleepers
        self._heads, self._tails = segment.view("heads"), segment.view("tails")
        self._lane_words = (segment.shape.producers + 1) * LANE_WORDS
        self._words = segment.view("words")
        self._kills = segment.view("kills")
        self._keys = segment.slot_words(KEY_WORD)
        self._bells = Bells(segment)

    # -- worker rows ---------------------------------------------------------------------

    def word(self, index: int, name: str) -> int:
        """A word of a worker row, whatever it holds."""
        return int(self._workers[index][WORKER[name]])

    def is_live(self, index: int) -> bool:
        """Has the worker joined?"""
        return self.word(index, "state") == WORKER_LIVE

    def is_free(self, index: int) -> bool:
        """May the row be given to a new worker?"""
        return self.word(index, "state") == WORKER_FREE

    def is_dead(self, index: int) -> bool:
        """Is the row waiting for recovery?"""
        return self.word(index, "state") == WORKER_DEAD

    def prepare(self, index: int, group: int) -> tuple[SemaphoreBell, int]:
        """A clean STARTING row with a doorbell of its own; (doorbell, serial of the order).

        Raises SystemRefused when no semaphore can be made (/dev/shm full).
        """
        row = self._workers[index]
        serial = (row[WORKER["bell_serial"]] + 1) & _MOST
        naps = row[WORKER["naps"]] & _MOST
        row[:] = memoryview(_EMPTY_ROW).cast(WORD)
        row[WORKER["naps"]] = naps  # counts on: producers remember in which nap of the row they have rung
        for histogram in (self._services[index], self._waits[index]):
            histogram[:] = memoryview(_EMPTY_HISTOGRAM).cast(WORD)
        name = doorbell.new_name(self.segment.path.name)
        self.segment.set_text("worker_bells", name, index)
        with told(f"no doorbell for a worker can be made in {SHM}"):
            bell = SemaphoreBell(name, create=True)
        row[WORKER["bell_serial"]] = serial
        row[WORKER["group"]] = group
        row[WORKER["fork_ns"]] = now_ns()
        row[WORKER["state"]] = WORKER_STARTING
        return bell, serial

    def bury(self, index: int, *, status: int, reason: int, culprit: int, peak_bytes: int) -> None:
        """The worker is proven dead: hand its row to recovery."""
        row = self._workers[index]
        row[WORKER["exit_status"]] = status & 0xFFFF
        row[WORKER["wants_bytes"]] = 0
        row[WORKER["culprit"]] = culprit
        row[WORKER["reason"]] = reason
        row[WORKER["peak_bytes"]] = min(peak_bytes, _MOST)
        # SYNC POINT: death-visible — status, reason and culprit before the state says DEAD
        row[WORKER["state"]] = WORKER_DEAD
        for group in range(self.segment.shape.groups):
            self._sleeping[group * self._sleepers + 1 + index] = 0
        self._bells.notify_recovery()

    def keep_counters(self, index: int) -> None:
        """Add the counters of a worker that is proven dead to its group's; 0 afterwards, so none is added twice."""
        row = self._workers[index]
        group = row[WORKER["group"]]
        for name in _PAST:
            value, row[WORKER[name]] = min(row[WORKER[name]], _MOST), 0
            if group < len(self._control):
                self.add(group, f"past_{name}", value)

    def ended(self, index: int) -> int:
        """Jobs that the worker has run, retried attempts included."""
        return min(self.word(index, "done") + self.word(index, "retried"), _MOST)

    def is_asleep(self, group: int, index: int) -> bool:
        """Does the worker wait for work?"""
        return bool(self._sleeping[group * self._sleepers + 1 + index])

    def running_job(self, index: int) -> int:
        """Id of a job that the worker runs at this moment, as the job word confirms; 0 for none."""
        job = self.word(index, "job")
        return job if self.is_running(index, job) else 0

    def task_key(self, index: int) -> int:
        """Key of the task of the worker's latest job, from the job's header; 0 if it had none."""
        slot = self.word(index, "job") & 0xFFFFFFFF
        return int(self._keys[slot]) if slot < len(self._keys) else 0

    def is_running(self, index: int, job: int) -> bool:
        """Does the job word say that this worker runs this job?"""
        slot = job & 0xFFFFFFFF
        if not job or slot >= len(self._words):
            return False
        word = self._words[slot]
        return bool(word >> GENERATION_SHIFT == job >> 32 and word & STATE == RUNNING and owner_of(word) == index)

    def is_in_job(self, index: int) -> bool:
        """Does any job word say that this worker runs it? Looks at all: an async worker runs many."""
        return bool(self.running_job(index)) or self._owned(index, RUNNING) > 0

    def running_jobs(self, index: int) -> int:
        """How many jobs the worker runs. Looks at all job words."""
        return self._owned(index, RUNNING)

    def is_leasing(self, index: int) -> bool:
        """Does the worker hold jobs that it has not started?"""
        return self._owned(index, LEASED) > 0

    def _owned(self, index: int, state: int) -> int:
        wanted = index << OWNER_SHIFT | state
        return sum(word & (OWNER | STATE) == wanted for word in self._words.tolist())

    def is_kill_requested(self, job: int) -> bool:
        """Did its producer ask that the job be killed?"""
        slot, generation = job & 0xFFFFFFFF, job >> 32
        return bool(job) and slot < len(self._kills) and self._kills[slot] == generation

    # -- groups --------------------------------------------------------------------------

    def control(self, group: int, name: str) -> int:
        """A word of the group's control row."""
        return int(self._control[group][GROUP_CONTROL[name]])

    def set_control(self, group: int, name: str, value: int) -> None:
        """Write a word of the group's control row."""
        self._control[group][GROUP_CONTROL[name]] = max(0, min(value, _MOST))

    def add(self, group: int, name: str, value: int) -> None:
        """Count up a word of the group's control row."""
        row, at = self._control[group], GROUP_CONTROL[name]
        row[at] = (row[at] + value) & _MOST

    def claimed(self, group: int) -> int:
        """Jobs claimed from the group so far."""
        return int(self._claim[group][GROUP_CLAIM["claimed"]])

    def plan(self, group: int, name: str) -> int:
        """A word that the planner wrote."""
        return int(self._plans[group][GROUP_PLAN[name]])

    def ring_supervisor(self, group: int, *, is_wanted: bool) -> None:
        """Entry 0 of the sleepers: while no worker can be rung, producers ring the supervisor."""
        self._sleeping[group * self._sleepers] = 1 if is_wanted else 0

    def has_work(self) -> bool:
        """Does any lane of any group have entries? One comparison in C, each head before its tail."""
        return self._heads != self._tails

    def heads_with_work(self, group: int) -> dict[int, int]:
        """Head position of each lane of the group whose tail differs."""
        at = group * self._lane_words
        heads = self._heads[at : at + self._lane_words].tolist()  # heads before tails
        tails = self._tails[at : at + self._lane_words].tolist()
        return {lane: head for lane, (head, tail) in enumerate(zip(heads, tails, strict=True)) if head != tail}

    def is_limited(self, group: int) -> bool:
        """May its workers have to wait although jobs do: for their rate, or a breaker?"""
        return bool(self.control(group, "rate_per_s_milli") or self.control(group, "breaker_share_milli"))

    def backlog(self, group: int) -> int:
        """Entries waiting in the group's lanes; a damaged lane counts as full."""
        at, most = group * self._lane_words, self.segment.shape.slots_per_producer
        heads = self._heads[at : at + self._lane_words].tolist()  # heads before tails
        tails = self._tails[at : at + self._lane_words].tolist()
        return sum(min(tail - head, most) for head, tail in zip(heads, tails, strict=True) if tail > head)
