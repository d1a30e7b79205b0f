"""One job of 1 s among 10,000 of 1 ms: nobody may wait behind it while another worker idles.

    producer ──10,000 × 1 ms, evenly over 12.5 s──▶ lane ──▶ worker 1 ▓▓▓▓▓▓▓▓▓▓ 1 s ▓▓▓▓▓▓▓▓▓▓
             └─ in their midst: 1 × 1 s ─▶                   worker 2 ▪▪▪▪ ▪▪▪ ▪▪▪▪ ▪▪▪ ▪▪▪▪

Every job tells when it began, ended, and where. A wait counts as wrong only as far as a worker idled in it:
sleeping jobs at 80 % of what one worker can do, so that the host's noise is not measured instead.
"""

from __future__ import annotations

import bisect
import itertools
import time
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, NamedTuple

from perf import floors, functions, rig
from perf.harness import Contestant, Observation, Scenario, Setting, WrongResult
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from perf.peers import Peer

LONG_S, SHORT_S = 1.0, 0.001
RATE_PER_S = 800.0
IDLE_COUNTS_FROM_S = 0.003  # shorter gaps between two jobs are waking up, not idling
PEERS = ("ProcessPoolExecutor", "Pool")


class Ran(NamedTuple):
    """One job: due, and where and when it ran; seconds of the monotonic clock."""

    due: float
    worker: int
    began: float
    ended: float


def idle_while_waiting(jobs: Sequence[Ran], workers: int) -> list[float]:
    """Per job: how long a worker idled between its due time and its start."""
    first, last = min(job.due for job in jobs), max(job.ended for job in jobs)
    seen = {job.worker for job in jobs}
    gaps = [gap for worker in seen for gap in _gaps(jobs, worker, first, last)]
    if len(seen) < workers:
        gaps = [(first, last)]  # one worker never worked
    merged = _merged(sorted(gaps))
    ends = [end for _, end in merged]
    return [_overlap(merged, ends, job.due, job.began) for job in jobs]


def contestants(setting: Setting) -> list[Contestant]:
    jobs = 2_000 if setting.short else 10_000
    subject = Contestant(rig.NAME, "subject", lambda: _open_subject(setting.workers), jobs)
    beside = [peer for peer in setting.peers if peer.name in PEERS]
    return [
        subject,
        *(Contestant(p.label, "peer", partial(_open_peer, p, setting.workers), jobs) for p in beside),
    ]


@contextmanager
def _open_subject(workers: int) -> Iterator[Callable[[int], Observation]]:
    from perf import tasks

    with rig.supervised(workers):
        yield lambda jobs: _drive(tasks.nap.submit, methodcaller("result"), jobs, workers)


@contextmanager
def _open_peer(peer: Peer, workers: int) -> Iterator[Callable[[int], Observation]]:
    with peer.open(workers) as session:
        yield lambda jobs: _drive(session.bind(functions.nap), session.read, jobs, workers)


def _drive(submit: Callable[[float], object], read: Callable[[object], object], jobs: int, workers: int) -> Observation:
    for handle in [submit(SHORT_S) for _ in range(200)]:
        read(handle)  # warm-up: what a job takes is known before it matters
    begin = time.monotonic()
    handles = []
    for number in range(jobs + 1):
        due = begin + number / RATE_PER_S
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        handles.append((due, submit(LONG_S if number == jobs // 3 else SHORT_S)))
    ran = [Ran(due, *read(handle)) for due, handle in handles]  # type: ignore[misc]
    _check(ran, jobs // 3)
    waits = [job.began - job.due for i, job in enumerate(ran) if i != jobs // 3]
    idle = idle_while_waiting(ran, workers)
    return floors.latencies(waits, idle_wait_s=max(idle), held_up=float(sum(wait > LONG_S / 10 for wait in idle)))


def _check(ran: Sequence[Ran], long: int) -> None:
    for number, job in enumerate(ran):
        wanted = LONG_S if number == long else SHORT_S
        if job.ended - job.began < wanted or job.began < job.due - 0.001:
            raise WrongResult(f"job {number}: {wanted} s from {job.due:.4f} on, ran {job.began:.4f} to {job.ended:.4f}")


def _gaps(jobs: Sequence[Ran], worker: int, first: float, last: float) -> Iterator[tuple[float, float]]:
    busy = sorted((job.began, job.ended) for job in jobs if job.worker == worker)
    for (_, ended), (began, _) in itertools.pairwise([(first, first), *busy, (last, last)]):
        if began - ended >= IDLE_COUNTS_FROM_S:
            yield ended, began


def _merged(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in spans:
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _overlap(spans: Sequence[tuple[float, float]], ends: Sequence[float], begin: float, end: float) -> float:
    total = 0.0
    for start, stop in spans[bisect.bisect_right(ends, begin) :]:
        if start >= end:
            break
        total += min(stop, end) - max(start, begin)
    return total


SCENARIO = Scenario(
    "head-of-line",
    f"one job of {LONG_S:.0f} s among 10,000 of 1 ms: wait of the others",
    contestants,
    (
        Target("longest wait while a worker idled", "idle_wait_s", 0.1, 0.03, "lower", unit="s"),
        Target("jobs held up by the long one", "held_up", 0, 0, "lower", unit="jobs"),
    ),
    most_rounds=3,
    needs_quiet=True,
)
