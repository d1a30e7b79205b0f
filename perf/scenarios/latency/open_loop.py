"""2,000 jobs a second for ten seconds, each at its due time whatever became of the others.

    clock ──due──▶ producer ──submit──▶ lane ──claim──▶ worker × 2 (return value)
                       ◀──────────── read ──────────── ack
             due ├──────────── latency ────────────┤ result seen

Counted from the due time: a job that could not be submitted in time, because the producer waited for another,
is late, not left out. One thread: it waits for the oldest result until the next job is due.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from perf import floors, rig
from perf.harness import Contestant, Observation, Scenario, Setting, verify
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RATE_PER_S = 2_000
_PR_SET_TIMERSLACK = 29  # linux/prctl.h


def contestants(setting: Setting) -> list[Contestant]:
    @contextmanager
    def open_() -> Iterator[Callable[[int], Observation]]:
        with rig.supervised(setting.workers) as running, _punctual_timers():
            _drive(running, RATE_PER_S // 2)  # warm-up
            yield lambda jobs: _drive(running, jobs)

    @contextmanager
    def open_bare() -> Iterator[Callable[[int], Observation]]:
        with _punctual_timers():
            yield _drive_bare

    jobs = RATE_PER_S * (2 if setting.short else 10)
    return [
        Contestant(rig.NAME, "subject", open_, jobs),
        Contestant("two semaphores at the same due times", "floor", open_bare, jobs),
        floors.ping_pong(apart=True),
        floors.ping_pong(apart=False),
    ]


def _drive_bare(jobs: int) -> Observation:
    """What the machine itself takes from a timer by way of another process and back, both asleep in between."""
    samples = []
    with floors.echoing_process(apart=False) as (ping, pong):
        begin = time.perf_counter()
        for number in range(jobs):
            due = begin + number / RATE_PER_S
            while (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            ping.release()
            pong.acquire()
            samples.append(time.perf_counter() - due)
    return floors.latencies(samples)


def _drive(running: rig.Rig, jobs: int) -> Observation:
    from perf import tasks

    submit = tasks.echo.submit
    waiting: deque[tuple[Any, float]] = deque()
    results: list[int] = []
    samples: list[float] = []
    cpu_begin, own_begin, begin = running.cpu_s(), time.process_time(), time.perf_counter()
    for number in range(jobs):
        due = begin + number / RATE_PER_S
        while (left := due - time.perf_counter()) > 0:
            if waiting:
                _read_oldest(waiting, results, samples, left)
            else:
                time.sleep(left)
        waiting.append((submit(number), due))
    while waiting:
        _read_oldest(waiting, results, samples, 10.0)
    took = time.perf_counter() - begin
    own, tree = time.process_time() - own_begin, running.cpu_s() - cpu_begin
    verify(results, range(jobs))
    return floors.latencies(samples, cpu_share=(own + tree) / took, tree_cpu_share=tree / took)


def _read_oldest(waiting: deque[tuple[Any, float]], results: list[int], samples: list[float], limit_s: float) -> None:
    job, due = waiting[0]
    try:
        result = job.result(timeout=limit_s)
    except TimeoutError:
        return
    samples.append(time.perf_counter() - due)
    results.append(result)
    waiting.popleft()


@contextmanager
def _punctual_timers() -> Iterator[None]:
    """Sleeps of this thread end when asked, not up to 50 µs later: that lateness is not the queue's."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_TIMERSLACK, 0, 0, 0, 0)  # 0: back to the default


SCENARIO = Scenario(
    "open-loop",
    f"open loop, {RATE_PER_S:,} jobs/s: due time to result seen",
    contestants,
    (
        Target("open loop p95", "p95_s", 3, 2, "lower", against=floors.PING_PONG, against_metric="p50_s"),
        Target("open loop p99", "p99_s", 6, 3, "lower", against=floors.PING_PONG, against_metric="p50_s"),
        Target("open loop: CPU of tree and producer", "cpu_share", 0.30, 0.15, "lower", unit="core"),
    ),
    most_rounds=3,
    needs_quiet=True,
)
