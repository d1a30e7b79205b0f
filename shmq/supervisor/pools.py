"""The pools: which worker rows are in use, who is spawned, drained, killed, and why.

The supervisor writes a worker row while its state is STARTING or DEAD; the live worker writes it in
between. A DEAD row goes to recovery, which frees it when nothing of the worker is left.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass, field

from shmq.clock import now_ns
from shmq.config.model import Config, Group
from shmq.memory import doorbell
from shmq.memory.doorbell import SemaphoreBell
from shmq.memory.layout import (
    GROUP_CONTROL,
    GROUP_CONTROL_WORDS,
    HISTOGRAM_BUCKETS,
    WORKER,
    WORKER_DEAD,
    WORKER_FREE,
    WORKER_LIVE,
    WORKER_STARTING,
    WORKER_WORDS,
)
from shmq.memory.segment import Segment
from shmq.supervisor.forkserver import ForkServer
from shmq.transport.bells import Bells

_log = logging.getLogger("shmq.supervisor")

CRASHED, DRAINED, TIME_LIMIT, CANCELLED, MEMORY, STOPPED = range(6)
REASONS = ("crashed", "drained", "time limit", "cancelled", "memory", "stopped")


@dataclass
class Worker:
    """The supervisor's knowledge of one worker."""

    index: int
    group: int
    bell: SemaphoreBell
    ordered_at: float
    generation: int
    pid: int = 0
    pidfd: int = -1
    is_live: bool = False
    is_draining: bool = False
    kill_at: float = float("inf")
    reason: int = CRASHED
    culprit: int = 0
    recycled_for: str = ""


@dataclass
class Pool:
    """The workers of one group."""

    index: int
    name: str
    settings: Group
    most: int
    workers: dict[int, Worker] = field(default_factory=dict)
    target: int = 0
    fixed_target: int | None = None
    idle_since: float = 0.0
    failures_in_a_row: int = 0
    wait_until: float = 0.0

    def active(self) -> list[Worker]:
        """Workers that take jobs now or soon."""
        return [w for w in self.workers.values() if not w.is_draining]


class Pools:
    """All pools of one supervisor, and the fork server that feeds them."""

    def __init__(self, config: Config, segment: Segment) -> None:
        self._segment = segment
        self._rows = segment.rows("worker_rows")
        self._control = segment.rows("group_control")
        self._services = segment.rows("service_times")
        self._waits = segment.rows("wait_times")
        self._sleeping = segment.view("sleeping")
        self._bells = Bells(segment)
        self._by_pid: dict[int, Worker] = {}
        self._early_deaths: dict[int, int] = {}
        self.fork_server: ForkServer | None = None
        self.generation = 0
        cores = len(os.sched_getaffinity(0))
        self.pools = [
            Pool(g, name, settings, cores if settings.max_workers == "auto" else int(settings.max_workers))
            for g, (name, settings) in enumerate(config.groups.items())
        ]
        for pool in self.pools:
            pool.target = pool.most if pool.settings.mode == "fixed" else min(pool.settings.min_workers, pool.most)
            self._set(pool, "min_workers", pool.settings.min_workers)
            self._set(pool, "max_workers", pool.most)
            self.set_limit(pool, pool.settings.rate_per_s, pool.settings.burst)

    def set_control(self, pool: Pool, word: str, value: int) -> None:
        """Write a word of the group's control row."""
        self._set(pool, word, value)

    def set_limit(self, pool: Pool, rate_per_s: float | None, burst: int | None) -> None:
        """Limit the jobs that the group starts per second; None: no limit."""
        self._set(pool, "burst", burst if burst is not None else max(int(rate_per_s or 0), 1))
        self._set(pool, "rate_per_s_milli", max(int(rate_per_s * 1000), 1) if rate_per_s else 0)
        self.wake(pool)

    def wake(self, pool: Pool) -> None:
        """Ring every sleeper of the pool: what it waits for may have changed."""
        self._bells.wake_all(pool.index)

    def abandon_orders(self) -> None:
        """The fork server died: workers that were ordered and not reported will never come."""
        for pool in self.pools:
            for worker in [w for w in pool.workers.values() if not w.pid]:
                del pool.workers[worker.index]
                row = self._rows[worker.index]
                if row[WORKER["state"]] == WORKER_STARTING and not row[WORKER["pid"]]:
                    row[WORKER["state"]] = WORKER_FREE
                worker.bell.unlink()
                worker.bell.close()

    def has_dead_rows(self) -> bool:
        """Is recovery still busy with workers that ended?"""
        return any(row[WORKER["state"]] == WORKER_DEAD for row in self._rows)

    def _set(self, pool: Pool, word: str, value: int) -> None:
        self._control[pool.index][GROUP_CONTROL[word]] = value

    def _add(self, pool: Pool, word: str, value: int) -> None:
        self._control[pool.index][GROUP_CONTROL[word]] += value

    def row(self, index: int) -> memoryview:
        """Words of a worker row."""
        return self._rows[index]

    # -- towards the target --------------------------------------------------------------

    def settle(self) -> None:
        """Spawn and drain towards each pool's target; replace workers that are to be recycled."""
        if self.fork_server is None or not self.fork_server.is_ready:
            return
        for pool in self.pools:
            active = pool.active()
            substitutes = min(sum(1 for w in active if self._is_blocked(w)), pool.settings.max_substitutes)
            wanted = pool.target + substitutes
            stale = [w for w in active if w.recycled_for or w.generation != self.generation]
            fresh = [w for w in active if w not in stale]
            for _ in range(wanted - len(fresh)):
                if not self._spawn(pool):
                    break
            if stale and sum(1 for w in fresh if w.is_live) >= min(wanted, len(fresh) or 1):
                self._drain_stale(pool, stale)
            elif len(fresh) > wanted:
                self._drain_surplus(pool, fresh, len(fresh) - wanted)
            self._publish(pool)

    def _is_blocked(self, worker: Worker) -> bool:
        return worker.is_live and self._rows[worker.index][WORKER["blocked"]] > 0

    def _drain_stale(self, pool: Pool, stale: list[Worker]) -> None:
        """Their replacements are live: let the old ones finish what they run."""
        for worker in stale:
            if worker.is_live:
                self._add(pool, "recycled", 1)
                self.drain(worker)

    def _drain_surplus(self, pool: Pool, fresh: list[Worker], count: int) -> None:
        """Last in, first out, idle ones before busy ones; never in the middle of a job."""
        order = sorted(fresh, key=lambda w: (self._sleeping[self._sleeping_at(w)], w.ordered_at), reverse=True)
        for worker in [w for w in order if w.is_live][:count]:
            _log.info("group %s: worker %d is drained: %d wanted", pool.name, worker.index, pool.target)
            self.drain(worker)

    def _sleeping_at(self, worker: Worker) -> int:
        return worker.group * self._segment.layout.sleepers + 1 + worker.index

    def _publish(self, pool: Pool) -> None:
        live = sum(1 for w in pool.workers.values() if w.is_live and not w.is_draining)
        self._set(pool, "workers", live)
        self._set(pool, "scaled_to", pool.target)
        # entry 0: while no worker can be rung, producers ring the supervisor
        self._sleeping[pool.index * self._segment.layout.sleepers] = 0 if pool.workers else 1

    def _spawn(self, pool: Pool) -> bool:
        """Order one worker; False when no row is free or the pool backs off."""
        if time.monotonic() < pool.wait_until or self.fork_server is None:
            return False
        index = next((i for i, row in enumerate(self._rows) if row[WORKER["state"]] == WORKER_FREE), None)
        if index is None:
            return False
        row, bell = self._rows[index], SemaphoreBell.new()
        serial = row[WORKER["bell_serial"]] + 1
        row[:] = memoryview(bytes(8 * WORKER_WORDS)).cast("Q")
        empty = memoryview(bytes(8 * HISTOGRAM_BUCKETS)).cast("Q")
        self._services[index][:] = empty
        self._waits[index][:] = empty
        self._segment.set_text("worker_bells", bell.name, index)
        row[WORKER["bell_serial"]] = serial
        row[WORKER["group"]] = pool.index
        row[WORKER["fork_ns"]] = now_ns()
        row[WORKER["state"]] = WORKER_STARTING
        pool.workers[index] = Worker(index, pool.index, bell, time.monotonic(), self.generation)
        self._add(pool, "spawned", 1)
        self.fork_server.order(index, pool.index, serial)
        return True

    def forked(self, index: int, pid: int) -> int | None:
        """The fork server reports a worker's pid; its pidfd, unless it has died already."""
        worker = next((p.workers[index] for p in self.pools if index in p.workers), None)
        if worker is None:
            return None
        worker.pid = pid
        self._by_pid[pid] = worker
        status = self._early_deaths.pop(pid, None)
        if status is not None:
            self.died(pid, status)
            return None
        worker.pidfd = os.pidfd_open(pid)
        return worker.pidfd

    def notice_live(self) -> None:
        """See which starting workers have joined."""
        for pool in self.pools:
            for worker in pool.workers.values():
                if not worker.is_live and self._rows[worker.index][WORKER["state"]] == WORKER_LIVE:
                    worker.is_live = True
                    pool.failures_in_a_row = 0

    # -- endings -------------------------------------------------------------------------

    def drain(self, worker: Worker) -> None:
        """Stop pulling, finish, give the rest back, leave."""
        worker.is_draining = True
        if worker.reason == CRASHED:
            worker.reason = DRAINED
        self.send(worker, signal.SIGTERM)

    def send(self, worker: Worker, number: signal.Signals) -> None:
        """Signal a worker of ours, by pidfd: never a number read from shared memory."""
        if worker.pidfd >= 0:
            try:
                signal.pidfd_send_signal(worker.pidfd, number)
            except ProcessLookupError:
                return

    def kill(self, worker: Worker, reason: int, culprit: int = 0) -> None:
        """SIGKILL a worker and what it started; `culprit` is the job word id that caused it."""
        worker.reason, worker.culprit, worker.is_draining = reason, culprit, True
        self.send(worker, signal.SIGKILL)
        try:
            os.killpg(worker.pid, signal.SIGKILL)  # the group's leader is our own, unreaped child
        except (ProcessLookupError, PermissionError):
            return

    def died(self, pid: int, status: int) -> bool:
        """A child was reaped. True when it was a worker."""
        worker = self._by_pid.pop(pid, None)
        if worker is None:
            self._early_deaths[pid] = status
            return False
        pool = self.pools[worker.group]
        del pool.workers[worker.index]
        if worker.pidfd >= 0:
            os.close(worker.pidfd)
        self._kill_leftovers(worker)
        row = self._rows[worker.index]
        was_clean = status == 0 and worker.reason in (DRAINED, STOPPED)
        self._account(pool, row, was_clean=was_clean or worker.reason in (TIME_LIMIT, CANCELLED))
        if not was_clean:
            self._report(pool, worker, status)
        if not worker.is_live:
            self._back_off(pool)
        # SYNC POINT: death-visible — status and culprit before the state says DEAD
        row[WORKER["exit_status"]] = status & 0xFFFF
        row[WORKER["culprit"]] = worker.culprit
        row[WORKER["reason"]] = worker.reason
        row[WORKER["state"]] = WORKER_DEAD
        self._sleeping[self._sleeping_at(worker)] = 0
        doorbell.unlink(worker.bell.name)
        worker.bell.close()
        self._publish(pool)
        self._bells.notify_recovery()
        return True

    def _kill_leftovers(self, worker: Worker) -> None:
        """Subprocesses of a task share its worker's process group: none outlives the worker."""
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

    def _account(self, pool: Pool, row: memoryview, *, was_clean: bool) -> None:
        for word in ("done", "failed", "retried", "busy_ns"):
            self._add(pool, f"past_{word}", row[WORKER[word]])
            row[WORKER[word]] = 0
        self._add(pool, "reaped", 1)
        if not was_clean:
            self._add(pool, "past_crashed", 1)

    def _report(self, pool: Pool, worker: Worker, status: int) -> None:
        how = f"signal {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else (
            f"exit status {os.WEXITSTATUS(status)}"
        )
        level = logging.INFO if worker.reason in (DRAINED, STOPPED) else logging.WARNING
        _log.log(
            level, "group %s: worker %d (pid %d) ended: %s (%s)",
            pool.name, worker.index, worker.pid, how, REASONS[worker.reason],
        )  # fmt: skip

    def _back_off(self, pool: Pool) -> None:
        """It died before it could work: do not fork the next ones in a tight loop."""
        pool.failures_in_a_row += 1
        pause = min(0.05 * 2**pool.failures_in_a_row, 5.0)
        pool.wait_until = time.monotonic() + pause

    def all_workers(self) -> list[Worker]:
        """Every worker of every pool."""
        return [w for p in self.pools for w in p.workers.values()]
