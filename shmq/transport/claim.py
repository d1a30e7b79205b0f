"""A worker's side of the lanes: look for work, lease a batch, give it back.

    look (one numpy comparison) → group byte → entries: word LEASED → head → unlock → fence
    → read `cancel` of each

Weighted priorities: a claim walks a fixed wheel of PRIORITY_WHEEL turns. Priority p of 1..5 gets
16, 8, 4, 2, 1 turns of 31; a turn nobody waits for goes to the highest priority that waits. So 1 is
served first, and while 5 waits, one worker claims at most 30 other jobs before one of 5.

Attended groups: who claims tiny jobs out of a stream, or one short job of a producer that goes on,
promises, in one word of the group, to look again at a moment some microseconds away. Until then
producers need not ring: no system call, no second worker woken for work that the first will have done
before the second is awake. The promise ends by itself, and who gave it looks again after that moment
before it sleeps (`Loop._keep_promise`).
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmq.clock import now_ns
from shmq.memory import locks
from shmq.memory.columns import column
from shmq.memory.fence import new_fence
from shmq.memory.layout import (
    GROUP_CLAIM,
    GROUP_CLAIM_WORDS,
    GROUP_CONTROL,
    GROUP_CONTROL_WORDS,
    LANE_WORDS,
    PRIORITIES,
)
from shmq.memory.segment import Segment
from shmq.transport.bells import Bells
from shmq.transport.limits import Limit
from shmq.transport.promises import LONGEST_PROMISE_NS
from shmq.transport.table import (
    CANCELLED,
    GENERATION_SHIFT,
    GROUP,
    GROUP_SHIFT,
    LEASED,
    OWNER_SHIFT,
    QUEUED,
    REQUEUED,
    STATE,
)

_KEEP = ~(STATE | 0x3FF << OWNER_SHIFT)
_KIND = np.uint64(STATE | GROUP)
_BY_GENERATION = np.uint64(GENERATION_SHIFT)
_WHOLE = (1 << 64) - 1
_KEPT = np.uint64(_KEEP & _WHOLE)
_WORTH_NUMPY = 12  # entries from which a dozen array operations cost less than the loop
_ATTENDED = GROUP_CLAIM["attended_until_ns"]
_CLAIMED = GROUP_CLAIM["claimed"]
_PAUSED, _RATE, _BREAKER = (GROUP_CONTROL[n] for n in ("paused", "rate_per_s_milli", "breaker_share_milli"))
_STREAM = 4  # jobs of one claim from which a stream is assumed, even right after a sleep
_STREAM_LASTS = 2  # the same, right after another batch: whose jobs come one at a time waits for each, or goes on
STRETCH_NS = 200_000
"""Work that one worker does before anybody else is worth waking: about two wake-ups."""
_ALONE_NS = STRETCH_NS // 2  # of fewer jobs, whose producer goes on: a longer one is worth a ring
_RUN_NS = 100_000
"""Work that is taken from one lane before the next has its turn: a producer that waits is rung for so many at least."""
_LINGER_NS = LONGEST_PROMISE_NS - STRETCH_NS  # how long after such a batch the worker still looks by itself


def _wheel() -> tuple[int, ...]:
    """31 turns, each priority spread evenly (smooth weighted round robin, as in nginx)."""
    weights = [16, 8, 4, 2, 1]
    credit = [0] * PRIORITIES
    turns = []
    for _ in range(sum(weights)):
        credit = [c + w for c, w in zip(credit, weights, strict=True)]
        best = credit.index(max(credit))
        credit[best] -= sum(weights)
        turns.append(best)
    return tuple(turns)


PRIORITY_WHEEL = _wheel()


class Claimer:
    """Leases jobs of one group for one worker row.

    Concurrency: one thread. The group's byte is held only inside `claim`.
    """

    def __init__(self, segment: Segment, lock_file: locks.LockFile, group: int, row: int) -> None:
        shape = segment.shape
        self.group = group
        self.backlog = 0
        self.service_ns = 0.0  # mean time of a job, as the loop has measured it; 0: not yet
        self.is_stream = False  # did the worker find work again right after its last batch?
        self.promised_until_ns = 0  # the moment after which this worker must look again before it sleeps
        self._last_lane = 0
        self._recovery_row = shape.recovery_row
        self.held_until_ns, self.is_circuit_open = 0, False
        self.has_made_room = False  # in a lane of recovery's for which jobs may wait
        self.in_silence: set[int] = set()  # rows whose producer may wait for what the last claim did
        self._segment = segment
        self._fd = lock_file.fileno()
        self._byte = locks.group_byte(group)
        self._heads, self._tails, self._rings = (segment.view(n) for n in ("heads", "tails", "rings"))
        self._words, self._cancels = segment.view("words"), segment.view("cancels")
        self._np_heads: NDArray[Any] = column(segment, "heads")[group][:, :PRIORITIES]
        self._np_tails: NDArray[Any] = column(segment, "tails")[group][:, :PRIORITIES]
        self._np_words: NDArray[Any] = column(segment, "words")
        self._np_rings: NDArray[Any] = column(segment, "rings").reshape(-1)
        self._np_cancels: NDArray[Any] = column(segment, "cancels")
        rows = range(group * (shape.producers + 1), (group + 1) * (shape.producers + 1))
        self._word_of = [row * LANE_WORDS + priority for row in rows for priority in range(PRIORITIES)]
        self._ring0 = group * (shape.producers + 1) * PRIORITIES * shape.slots_per_producer
        self._capacity = shape.slots_per_producer
        self._slots = shape.slots
        self._mine = LEASED | row << OWNER_SHIFT
        self._group_bits = group << GROUP_SHIFT
        self._np_mine = np.uint64(self._mine)
        self._np_leased: list[tuple[NDArray[Any], NDArray[Any]]] = []  # runs leased by the present claim
        self._kind_queued = np.uint64(self._group_bits | QUEUED)
        self._claim = segment.view("group_claim")[group * GROUP_CLAIM_WORDS : (group + 1) * GROUP_CLAIM_WORDS]
        self._control = segment.view("group_control")[group * GROUP_CONTROL_WORDS : (group + 1) * GROUP_CONTROL_WORDS]
        self.limit = Limit(self._control, GROUP_CONTROL, self._claim, GROUP_CLAIM)
        self._fence = new_fence()
        self._turn = 0
        self._next_lanes = [0] * PRIORITIES  # whose turn it is, by priority
        self.has_work = self._make_has_work()

    def _make_has_work(self) -> Callable[[], bool]:
        """Does any tail of the group differ from its head? Two copies and one comparison, no numpy."""
        whole, nbytes = self._segment.map, self._np_heads.shape[0] * LANE_WORDS * 8
        heads = self._segment.layout.offsets["heads"] + self.group * nbytes
        tails = self._segment.layout.offsets["tails"] + self.group * nbytes
        heads_end, tails_end = heads + nbytes, tails + nbytes

        def has_work() -> bool:
            return whole[heads:heads_end] != whole[tails:tails_end]  # heads before tails

        return has_work

    def lanes_with_work(self) -> list[int]:
        """Lanes of the group whose tail differs from its head: row * PRIORITIES + priority.

        `backlog` is then how many entries wait in them, stale ones included.
        """
        if not self.has_work():
            self.backlog = 0
            return []
        heads = self._np_heads.copy()  # heads before tails
        waiting = (self._np_tails - heads).ravel()
        lanes: list[int] = waiting.nonzero()[0].tolist()
        self.backlog = int(waiting.sum()) if len(lanes) > 1 else int(waiting[lanes[0]]) if lanes else 0
        return lanes

    def heads_with_work(self) -> dict[int, int]:
        """Head position of each lane that has work."""
        return {lane: int(self._np_heads.flat[lane]) for lane in self.lanes_with_work()}

    def last_lane_with_work(self) -> list[int]:
        """The lane served last, if it has work: the likeliest place after a wake-up, found without numpy."""
        self.backlog = self._waiting_in(self._last_lane)
        return [self._last_lane] if self.backlog > 0 else []

    def is_paused(self) -> bool:
        """Paused groups are not claimed from."""
        return bool(self._control[_PAUSED])

    def claim(self, lanes: list[int], most: int, *, more_come: bool = False) -> tuple[list[int], list[int]]:
        """Lease up to `most` jobs; (slots, their words). Cancelled ones are ended on the way.

        `more_come`: soon, however few these are.

        A limit shortens `most`; then `held_until_ns` says when to look again. With `is_circuit_open`
        the claimed jobs must be failed, not run.
        """
        slots: list[int] = []
        words: list[int] = []
        control, shared = self._control, self._claim
        self.held_until_ns, self.is_circuit_open, self._np_leased = 0, False, []
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._byte)
        try:
            is_limited = control[_RATE] or control[_BREAKER]
            if is_limited:
                now = now_ns()
                allowance = self.limit.allow(most, now)
                most, self.held_until_ns = allowance.jobs, allowance.again_ns
                self.is_circuit_open = allowance.fails_fast
            if most:
                self._take(lanes, most, slots, words)
            shared[_CLAIMED] = shared[_CLAIMED] + len(slots) & _WHOLE  # a damaged one may be at its end
            if is_limited:
                if not self.is_circuit_open:
                    self.limit.spend(len(slots), now)
            elif self._is_stream_of(len(slots), more_come=more_come):
                # never sooner than promised before: a producer believes what it has seen until that is over
                until = max(now_ns() + int(self.service_ns * len(slots)) + _LINGER_NS, self.promised_until_ns)
                # SYNC POINT: attended — whoever finds an entry's ring left out because of this word is looked for later
                shared[_ATTENDED] = self.promised_until_ns = until
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._byte)
        if slots:
            self._fence()  # SYNC POINT: cancel — LEASED visible before we read `cancel`
            self._end_cancelled(slots, words)
        return slots, words

    def _is_stream_of(self, jobs: int, *, more_come: bool) -> bool:
        """Are more such jobs on their way, so soon that a nap costs their producer less than a ring?"""
        is_many = jobs >= (_STREAM_LASTS if self.is_stream else _STREAM)
        return 0.0 < self.service_ns * jobs < (STRETCH_NS if is_many else _ALONE_NS if more_come else 0)

    def _take(self, lanes: list[int], most: int, slots: list[int], words: list[int]) -> None:
        self._last_lane = lanes[0]
        if len(lanes) == 1:
            self._take_lane(lanes[0], most, slots, words)
            return
        waiting: list[list[int]] = [[] for _ in range(PRIORITIES)]
        for lane in lanes:
            waiting[lane % PRIORITIES].append(lane)
        present = [p for p in range(PRIORITIES) if waiting[p]]
        shares = self._shares(present, most) if len(present) > 1 else {present[0]: most}
        for priority, share in shares.items():
            self._take_priority(priority, waiting[priority], share, slots, words)
        for priority in present:  # what a priority could not fill goes to the highest that waits
            if len(slots) >= most:
                break
            self._take_priority(priority, waiting[priority], most - len(slots), slots, words)

    def _shares(self, present: list[int], most: int) -> dict[int, int]:
        """Turns of the wheel for each waiting priority, highest first."""
        shares = dict.fromkeys(present, 0)
        for _ in range(most):
            priority = PRIORITY_WHEEL[self._turn]
            self._turn = (self._turn + 1) % len(PRIORITY_WHEEL)
            shares[priority if priority in shares else present[0]] += 1
        return shares

    def _take_priority(self, priority: int, lanes: list[int], most: int, slots: list[int], words: list[int]) -> None:
        """Up to `most` jobs from lanes of one priority: of each an equal part, or of tiny jobs a run of _RUN_NS.

        Where runs are longer than equal parts the lanes take turns, after those with no more than such a part.
        """
        goal, part = len(slots) + most, most // len(lanes)
        run = min(int(_RUN_NS / self.service_ns), most) if self.service_ns else 0
        at = next((i for i, lane in enumerate(lanes) if lane >= self._next_lanes[priority]), 0)
        lanes = lanes[at:] + lanes[:at]
        self._next_lanes[priority] = lanes[0] + 1
        takes_runs = run > part
        if takes_runs:
            lanes.sort(key=lambda lane: self._waiting_in(lane) > part)
        for i, lane in enumerate(lanes):
            left = goal - len(slots)
            if left <= 0:
                return
            self._take_lane(lane, max(-(-left // (len(lanes) - i)), min(run, left)), slots, words)
            if takes_runs:
                self._next_lanes[priority] = lane + 1

    def _waiting_in(self, lane: int) -> int:
        """Entries of the lane, stale ones included."""
        at = self._word_of[lane]
        head = self._heads[at]  # heads before tails
        return int(self._tails[at] - head)

    def _take_lane(self, lane: int, most: int, slots: list[int], words: list[int]) -> None:
        """Lease from one lane; stale entries are passed, damaged ones too."""
        row, word_at, ring = lane // PRIORITIES, self._word_of[lane], self._ring0 + lane * self._capacity
        mask, table, rings = self._capacity - 1, self._words, self._rings
        mine, bits, count = self._mine, self._group_bits, self._slots
        head = self._heads[word_at]
        tail = self._tails[word_at]
        if not 0 <= tail - head <= self._capacity:  # damaged: believe what the ring can hold
            head = max(tail - self._capacity, 0)
        if row == self._recovery_row and tail - head > self._capacity // 2:  # it may be filled this very moment
            self.has_made_room = True
        end = len(slots) + most
        if min(most, tail - head) >= _WORTH_NUMPY:
            head = self._take_run(ring, head, min(most, tail - head), slots, words)
        while head < tail and len(slots) < end:
            slot = rings[ring + (head & mask)]
            head += 1
            word = table[slot] if slot < count else 0
            if word & STATE not in (QUEUED, REQUEUED) or word & GROUP != bits:
                self.in_silence.add(row)
                continue
            word = word & _KEEP | mine
            table[slot] = word
            slots.append(slot)
            words.append(word)
        # SYNC POINT: lease-visible — words are LEASED before the head passes their entries
        self._heads[word_at] = head

    def _take_run(self, ring: int, head: int, most: int, slots: list[int], words: list[int]) -> int:
        """Lease a run of neighbouring entries at once if all are claimable; the new head."""
        at = head & (self._capacity - 1)
        count = min(most, self._capacity - at)
        entries = self._np_rings[ring + at : ring + at + count]
        try:
            found = self._np_words.take(entries)
        except IndexError:  # damaged entry: the loop passes it
            return head
        kinds = found & _KIND
        if not (kinds == self._kind_queued).all():  # stale or redelivered ones among them: one by one
            return head
        found = found & _KEPT | self._np_mine
        self._np_words[entries] = found
        self._np_leased.append((entries, found))
        slots += entries.tolist()
        words += found.tolist()
        return head + count

    def _end_cancelled(self, slots: list[int], words: list[int]) -> None:
        cancels, ended = self._cancels, []
        runs = self._np_leased
        if runs:
            self._np_leased = []
            if sum(len(entries) for entries, _ in runs) == len(slots) and not any(
                (self._np_cancels.take(entries) == found >> _BY_GENERATION).any() for entries, found in runs
            ):
                return
        for i, slot in enumerate(slots):
            if cancels[slot] == words[i] >> GENERATION_SHIFT:
                self._words[slot] = words[i] & _KEEP & ~STATE | CANCELLED
                ended.append(i)
        for i in reversed(ended):
            self.in_silence.add(slots[i] // self._capacity)
            del slots[i], words[i]

    def tell_producers(self, bells: Bells) -> None:
        """Ring for what the last claim did in silence: jobs ended as cancelled, room that stale entries left, and room
        for recovery, which has pushed what it could.
        """
        if self.has_made_room:
            self.has_made_room = False
            bells.notify_recovery()
        if self.in_silence:
            self._fence()  # SYNC POINT: doorbell — words and heads visible before we look who waits
            for row in self.in_silence - {self._recovery_row}:
                bells.notify_producer(row)
            self.in_silence.clear()

    def report(self, jobs: int, failures: int) -> None:
        """So many claimed jobs ended, so many failed: the group's breaker counts them."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._byte)
        try:
            self.limit.report(jobs, failures, now_ns())
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._byte)
