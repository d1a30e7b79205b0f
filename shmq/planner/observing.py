"""What the planner sees of a group: counters of the segment, turned into one step's numbers. Reads only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmq.clock import NS
from shmq.memory.columns import column
from shmq.memory.layout import GROUP_CONTROL, HISTOGRAM_BUCKETS, WORKER, WORKER_LIVE
from shmq.memory.segment import Segment
from shmq.planner.group import Observed
from shmq.transport.table import GROUP, GROUP_SHIFT, LEASED, RUNNING, STATE

_U = np.uint64
FORGET_STEPS = 50.0  # time constant of the measured service times
_READY_S = 0.1  # until the first worker has shown how long it takes
READY_WEIGHT = 0.3  # of the newest order in the time to have a worker ready
_LONGEST_START_NS = 3_600 * NS
PACE_WORKERS = 10  # started together: their pace counts alone


def _bucket_middles() -> NDArray[np.float64]:
    """Seconds in the middle of each histogram bucket: four buckets per octave (worker.accounting.bucket_of)."""
    index = np.arange(HISTOGRAM_BUCKETS)
    bits, quarter = index >> 2, index & 3
    low = np.where(bits >= 3, (4 + quarter) * np.exp2(np.maximum(bits, 3) - 3.0), index)
    return np.asarray((low + np.where(bits >= 3, np.exp2(np.maximum(bits, 3) - 4.0), 0.5)) / NS)


@dataclass
class Known:
    """What is remembered of a group between two steps."""

    arrivals: int = -1
    heads: int = -1
    is_busy: bool = False  # running or leased jobs
    ended_s: float = 0.0  # when one ended last, or none ran
    departures: int = 0
    busy_ns: int = 0
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(HISTOGRAM_BUCKETS))
    jobs: float = 0.0
    busy_s: float = 0.0
    cv2: float = 1.0
    ready_s: float = _READY_S
    pace_s: float = 0.0
    started_ns: int = 0  # of the newest worker that was seen


class Observer:
    """Reads all groups of a segment, once per step."""

    def __init__(self, segment: Segment) -> None:
        self._heads, self._tails = column(segment, "heads"), column(segment, "tails")
        self._words = column(segment, "words")
        self._rows = column(segment, "worker_rows")
        self._control = column(segment, "group_control")
        self._services = column(segment, "service_times")
        self._middles = _bucket_middles()
        self._known = [Known() for _ in range(segment.shape.groups)]

    def observe(self, group: int, now_s: float) -> Observed:
        """One step of a group. The first call sees no arrivals: it only begins to count."""
        known = self._known[group]
        heads = int(self._heads[group].sum())  # heads before tails
        arrivals = int(self._tails[group].sum())
        mine = (self._rows[:, WORKER["group"]] == group) & (self._rows[:, WORKER["state"]] == WORKER_LIVE)
        control = self._control[group]
        departures = int(control[GROUP_CONTROL["past_done"]]) + int(self._rows[mine, WORKER["done"]].sum())
        busy_ns = int(control[GROUP_CONTROL["past_busy_ns"]]) + int(self._rows[mine, WORKER["busy_ns"]].sum())
        if known.arrivals < 0:
            known.arrivals, known.departures, known.busy_ns = arrivals, departures, busy_ns
        done = max(departures - known.departures, 0)
        if done:
            self._learn(known, done, max(busy_ns - known.busy_ns, 0), self._services[mine].sum(axis=0))
        self._learn_ready(known, self._rows[mine])
        running = self._running(known, group, heads)
        if done or not running:
            known.ended_s = now_s
        seen = Observed(
            now_s=now_s,
            arrivals=float(max(arrivals - known.arrivals, 0)),
            departures=float(done),
            waiting=max(arrivals - heads, 0),
            running=running,
            stalled_s=now_s - known.ended_s,
            service_s=known.busy_s / known.jobs if known.jobs > 0 else 0.0,
            service_cv2=known.cv2,
            ready_s=known.ready_s,
            pace_s=known.pace_s,
            workers=int(control[GROUP_CONTROL["workers"]]),
        )
        known.arrivals, known.departures, known.busy_ns = arrivals, departures, busy_ns
        return seen

    def was_idle_until(self, now_s: float) -> None:
        """Nothing ran in a step that ended then, and nobody looked: what runs at the next look has begun since."""
        for known in self._known:
            known.ended_s = now_s

    def is_busy(self) -> bool:
        """Did a job run at the last look, or had a worker claimed one?"""
        return any(known.is_busy for known in self._known)

    def _running(self, known: Known, group: int, heads: int) -> int:
        """Jobs of the group that run."""
        if heads == known.heads and not known.is_busy:
            return 0  # what is claimed moves a head, and at the last look nothing was leased or ran
        kinds = self._words & _U(STATE | GROUP)
        leased, running = (int((kinds == _U(state | group << GROUP_SHIFT)).sum()) for state in (LEASED, RUNNING))
        known.heads, known.is_busy = heads, bool(leased or running)
        return running

    def _learn(self, known: Known, done: int, busy_ns: int, counts: NDArray[Any]) -> None:
        """Service time and its variation, older steps forgotten slowly."""
        keep = 1.0 - 1.0 / FORGET_STEPS
        known.jobs = known.jobs * keep + done
        known.busy_s = known.busy_s * keep + busy_ns / NS
        total = counts.sum()
        if total:
            mean = float((counts * self._middles).sum() / total)
            square = float((counts * self._middles**2).sum() / total)
            known.cv2 = min(max(square / mean**2 - 1.0, 0.0), 100.0) if mean > 0 else 1.0

    @staticmethod
    def _learn_ready(known: Known, rows: NDArray[Any]) -> None:
        """Time to have one worker ready, and how much longer each further one of an order takes.

        Workers are forked one after the other: one that saw k others start since its order took pace_s for each
        of them, and ready_s for itself. A large order tells more of the pace than two workers do.
        """
        started, ordered = (rows[:, WORKER[word]].astype(np.int64) for word in ("started_ns", "fork_ns"))
        new = (started > known.started_ns) & (started - ordered < _LONGEST_START_NS)  # damaged? then not that long
        if not new.any():
            return
        at = np.argsort(started[new])
        begun, asked = started[new][at], ordered[new][at]
        gaps = np.diff(begun)[asked[1:] < begun[:-1]]  # of those that had to wait for the one before
        if gaps.size:
            weight = min(gaps.size / PACE_WORKERS, 1.0) if known.pace_s else 1.0
            known.pace_s += weight * (float(gaps.mean()) / NS - known.pace_s)
        before = (started > ordered[new, None]) & (started < started[new, None])
        own_s = (started - ordered)[new] / NS - before.sum(axis=1) * known.pace_s
        weight = READY_WEIGHT if known.started_ns else 1.0
        known.ready_s += weight * (max(float(own_s.min()), 0.001) - known.ready_s)
        known.started_ns = int(started.max())
