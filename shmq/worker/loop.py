"""The main loop of a worker that runs one job at a time.

look → claim → run each → notify → look again → sleep (bell, at most RESCUE_S, then IDLE_S)
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from shmq.clock import NS, now_ns
from shmq.heap import Trim
from shmq.memory.columns import column
from shmq.memory.doorbell import IDLE_S, RESCUE_S, SemaphoreBell
from shmq.memory.layout import GROUP_CONTROL, GROUP_CONTROL_WORDS, HEADER, PRIORITIES, WORKER
from shmq.transport.bells import QUICK_NS
from shmq.transport.claim import STRETCH_NS, Claimer
from shmq.transport.going_on import GoingOn
from shmq.worker.early import EarlyRings
from shmq.worker.execution import Executor
from shmq.worker.limiting import TaskLimits
from shmq.worker.making_way import MakingWay
from shmq.worker.seat import Seat
from shmq.worker.timer import LONG_S, Timer

if TYPE_CHECKING:
    from shmq.worker.watching import Watching

_FAILED, _HEARTBEAT, _NAPS = WORKER["failed"], WORKER["heartbeat_ns"], WORKER["naps"]
_WORKERS = GROUP_CONTROL["workers"]
_EPOCH = HEADER["epoch"]


class Loop:
    """Claims and runs batches until the seat drains."""

    def __init__(
        self,
        seat: Seat,
        claimer: Claimer,
        executor: Executor,
        timer: Timer,
        bell: SemaphoreBell,
        fence: Callable[[], None],
        limits: TaskLimits,
    ) -> None:
        self._seat = seat
        self._claimer = claimer
        self._executor = executor
        self._timer = timer
        self._bell = bell
        self._fence = fence
        self._limits = limits
        self.watching: Watching | None = None  # set while somebody wants to know what jobs leave behind
        segment = seat.segment
        self._sleeping = segment.view("sleeping")
        self._sleeping_at = seat.group * segment.layout.sleepers + 1 + seat.index
        self._control = segment.view("group_control")[
            seat.group * GROUP_CONTROL_WORDS : (seat.group + 1) * GROUP_CONTROL_WORDS
        ]
        self._target_batch_ns, self._max_batch = seat.settings.target_batch_s * NS, seat.settings.max_batch
        self._epoch = segment.header("epoch")
        self._cores, self._rows = len(os.sched_getaffinity(0)), column(segment, "worker_rows")
        self._early = EarlyRings(seat.bells, segment.shape.recovery_row)
        self._going_on, self._making_way = GoingOn(segment, seat.group), MakingWay(seat.bells)
        self._trim = Trim()
        self._is_at_rest = False  # has it slept in vain since its last job?
        self._collects_between, self._collect_all_at_ns = seat.settings.gc == "batch", 0
        if seat.settings.gc != "auto":
            gc.disable()

    def run(self) -> None:
        """Serve until told to drain, or until another supervisor's epoch begins."""
        seat, claimer, epoch = self._seat, self._claimer, self._epoch
        header, row, run_batch, sleep = seat.segment.view("header"), seat.row, self._run_batch, self._sleep
        look, look_quickly, is_paused = claimer.lanes_with_work, claimer.last_lane_with_work, claimer.is_paused
        was_idle = False
        while not seat.is_draining and header[_EPOCH] == epoch:
            row[_HEARTBEAT] = now_ns()
            # all lanes were empty before the sleep: whoever rang has most likely filled the one served last
            lanes = (was_idle and claimer.service_ns < STRETCH_NS and look_quickly()) or look()
            was_idle = not lanes
            if lanes and not is_paused() and run_batch(lanes):
                claimer.is_stream = True
            elif not (claimer.promised_until_ns and self._keep_promise()):
                claimer.is_stream = False
                sleep()
        self._leave()

    def _run_batch(self, lanes: list[int]) -> bool:
        """Claim once and run what was claimed; False when there was nothing to run after all."""
        seat, claimer = self._seat, self._claimer
        row = lanes[0] // PRIORITIES
        goes_on = 0.0 < claimer.service_ns < STRETCH_NS and self._going_on.sees(lanes[0])
        is_quick = not goes_on and claimer.backlog == 1 and 0.0 < claimer.service_ns < QUICK_NS
        if goes_on:
            self._making_way.leave_core_of(row)
        elif is_quick:
            self._early.before(row)
        slots, words = claimer.claim(lanes, self._batch_size(), more_come=goes_on)
        claimer.tell_producers(seat.bells)
        if not slots:
            return not claimer.held_until_ns and self._has_fresh_work()
        if self._is_at_rest:
            self._is_at_rest = False
            seat.bells.notify_supervisor()  # at rest as well, perhaps: it sees to limits of what runs now
        if claimer.is_circuit_open or self._limits:
            self._obey_limits(slots, words)
        seat.batch_slots, seat.batch_words, seat.position, seat.rung = slots, words, 0, 0
        left = claimer.backlog - len(slots)  # what came after our look rings for itself
        if left > 0 and (left * claimer.service_ns > STRETCH_NS or not claimer.service_ns) and self._has_free_core():
            seat.bells.wake_one(seat.group)
        failed = seat.row[_FAILED]
        started = seat.started_ns = now_ns()
        # `has_work`: another lane's, whose producer takes this worker for the one that it has rung
        keeps_others = len(slots) > 1 or left > 0 or claimer.promised_until_ns > 0 or claimer.has_work()
        self._timer.begin(started, keeps_others=keeps_others)
        if self._limits:
            self._run_singly(slots, words)
        elif self.watching is not None:
            self._run_watched(self.watching, slots, words)
        else:
            self._executor.run_batch(slots, words, 0)
        if seat.is_waiting:
            seat.end_waits()
        if seat.rung < seat.position:
            self._executor.notify(seat.position)
        if is_quick:
            self._early.after(row)
        if claimer.limit.has_breaker and seat.position:
            claimer.report(seat.position, seat.row[_FAILED] - failed)
        self._learn(seat.started_ns - started, slots)
        return True

    def _run_singly(self, slots: list[int], words: list[int]) -> None:
        """Run the batch while each job is counted by its task's breaker."""
        run: Callable[[int, int], None] = self._run_limited
        if self.watching is not None:
            run = self.watching.around(run)
        while self._seat.position < len(slots):  # the timer shortens the list when it gives back the rest
            self._run_next(run, slots, words)

    def _run_watched(self, watching: Watching, slots: list[int], words: list[int]) -> None:
        """Run the batch while somebody measures some of its jobs: those before the next such job all at once."""
        seat, executor = self._seat, self._executor
        run = watching.around(executor.run)
        while (at := seat.position) < len(slots):
            end = min(at + watching.unmeasured, len(slots))
            if end == at:
                self._run_next(run, slots, words)
                continue
            seat.started_ns = now_ns()  # measuring is not a job's time
            # no copies: the timer shortens both lists when it gives back the rest
            executor.run_batch(islice(slots, at, end), islice(words, at, end), at)
            watching.pass_by(seat.position - at)

    def _run_next(self, run: Callable[[int, int], None], slots: list[int], words: list[int]) -> None:
        at = self._seat.position
        self._seat.position = at + 1
        run(slots[at], words[at])

    def _obey_limits(self, slots: list[int], words: list[int]) -> None:
        """Fail what an open circuit refuses; give back what a task's limit holds."""
        refused = list(zip(slots, words, strict=True)) if self._claimer.is_circuit_open else []
        if refused:
            slots.clear()
            words.clear()
        elif self._limits:
            refused = self._limits.hold_back(slots, words)
        for slot, word in refused:
            self._executor.refuse(slot, word)
        if refused:
            self._fence()  # SYNC POINT: doorbell
            for row in {slot // self._seat.segment.shape.slots_per_producer for slot, _ in refused}:
                self._seat.bells.notify_producer(row)

    def _run_limited(self, slot: int, word: int) -> None:
        """Run a job and tell its task's breaker how it ended."""
        failed = self._seat.row[_FAILED]
        self._executor.run(slot, word)
        self._limits.ended(slot, has_failed=self._seat.row[_FAILED] != failed)
        if self._seat.position == len(self._seat.batch_slots):
            self._limits.report()

    def _has_fresh_work(self) -> bool:
        """Were the entries just passed stale? Then there may be others behind them."""
        return bool(self._claimer.lanes_with_work())

    def _batch_size(self) -> int:
        """Jobs to claim: a fair part of the backlog that should run for about target_batch_s."""
        backlog, service_ns = self._claimer.backlog, self._claimer.service_ns
        if backlog <= 1 or not service_ns:
            return 1
        if backlog * service_ns < STRETCH_NS:  # not worth anybody else's waking up
            return min(backlog, self._max_batch)
        sharers = max(int(self._control[_WORKERS]), 1)
        if service_ns < QUICK_NS:
            sharers = min(sharers, self._cores)
        fair = -(-backlog // sharers)
        return max(1, min(fair, int(self._target_batch_ns / service_ns), self._max_batch))

    def _has_free_core(self) -> bool:
        """Would one more worker run beside those that are awake? Jobs that are not tiny may wait, not compute: yes.

        After a "no" who is awake looks again before it sleeps, and wakes another from a job that turns out to be long.
        """
        if not 0.0 < self._claimer.service_ns < QUICK_NS:
            return True
        first, last = self._seat.bells.sleepers(self._seat.group)
        asleep = self._seat.segment.map[first + 1 : last].count(1)
        awake = int(self._control[_WORKERS]) - asleep
        return awake < self._cores or awake - self._blocked_workers() < self._cores

    def _blocked_workers(self) -> int:
        """Workers of the group that wait for jobs of their own: awake, but no core is theirs."""
        groups, blocked = self._rows[:, WORKER["group"]], self._rows[:, WORKER["blocked"]]
        return int(((groups == self._seat.group) & (blocked > 0)).sum())

    def _learn(self, spent_ns: int, slots: list[int]) -> None:
        """Exponential mean of a job's time, a quarter of the weight on the newest batch."""
        count = self._seat.position
        if not count:
            return
        each, known = spent_ns / count, self._claimer.service_ns
        self._claimer.service_ns = each if not known else 0.75 * known + 0.25 * each
        self._executor.account(slots, count, spent_ns)
        if self._collects_between:
            self._collect()

    def _collect(self) -> None:
        """Between two batches the youngest generation; now and then all of them, for a hundredth of the time at most.

        What a batch leaves alive moves on to the older ones: never looked at, it would stay for good.
        """
        began = self._seat.started_ns
        if began < self._collect_all_at_ns:
            gc.collect(0)
            return
        gc.collect()
        ended = now_ns()
        self._collect_all_at_ns = ended + max(NS, 100 * (ended - began))

    # -- waiting -----------------------------------------------------------------------

    def _keep_promise(self) -> bool:
        """Producers were told that this worker looks again: nap until that moment; True when work came.

        One nap gathers what a stream of tiny jobs brings meanwhile into one batch. Only after it, with the
        promise fulfilled, may the worker say that it sleeps.
        """
        until, self._claimer.promised_until_ns = self._claimer.promised_until_ns, 0
        while (left := until - now_ns()) > 0:
            self._bell.wait(left / NS)
        return bool(self._claimer.lanes_with_work())

    def _leave(self) -> None:
        """Drained: what lies in the lanes, or came while producers relied on this worker, is somebody else's now."""
        if self._claimer.promised_until_ns:
            self._keep_promise()
        self._fence()  # SYNC POINT: doorbell
        if self._claimer.has_work():
            self._seat.bells.wake_one(self._seat.group)

    def _sleep(self) -> None:
        """Sleep until rung, at most RESCUE_S, or IDLE_S after one without a ring; look once more after saying so."""
        seat, claimer = self._seat, self._claimer
        if self.watching is not None:
            self.watching.tick()
        if seat.settings.spin_s and self._spin(seat.settings.spin_s):
            return
        seat.row[_NAPS] += 1
        self._sleeping[self._sleeping_at] = 1
        self._fence()  # SYNC POINT: doorbell — "I sleep" is visible before the second look
        try:
            left_ns = claimer.held_until_ns - now_ns() if claimer.held_until_ns else 0
            if left_ns > 0:
                self._bell.wait(min(left_ns / NS, RESCUE_S))
            elif claimer.lanes_with_work() and not claimer.is_paused():
                return
            elif not self._bell.doze(self._longest_sleep_s()) and not seat.is_draining:
                self._is_at_rest = True
                self._count_rescue()
                self._trim.when_idle(seat.row[WORKER["done"]])
        finally:
            self._sleeping[self._sleeping_at] = 0

    def _longest_sleep_s(self) -> float:
        return IDLE_S if self._is_at_rest and self.watching is None else RESCUE_S

    def _count_rescue(self) -> None:
        """A time-out that finds work: was a ring lost? Not if one is under way, or somebody else was rung.

        Lost is only a ring after which the same head still offers its entry a good while later.
        """
        claimer = self._claimer
        if claimer.held_until_ns > now_ns() or claimer.is_paused():
            return
        before = claimer.heads_with_work()
        if before and not self._bell.wait(LONG_S) and before.items() & claimer.heads_with_work().items():
            self._seat.row[WORKER["rescues"]] += 1

    def _spin(self, spin_s: float) -> bool:
        """Look for work without sleeping for a while: latency for CPU time, off by default."""
        give_up = time.monotonic() + spin_s
        while time.monotonic() < give_up:
            if self._claimer.lanes_with_work():
                return True
        return False
