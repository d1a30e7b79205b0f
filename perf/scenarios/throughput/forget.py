"""Fire and forget: what one submit costs the producer while the workers take the jobs away.

producer ──submit(forget)──▶ lane ──claim──▶ worker × 2 (counts)          nothing comes back
    └── afterwards: asks the workers what they counted

Between two chunks the lane runs empty. The workers are asked at the end only: a job that asks takes milliseconds, and
what follows would be claimed one by one until they have learned again how short the others are.

Two figures of the same calls: `call_s` by the clock on the wall, in which the producer also waits while workers, or
anybody else, have its core; `call_cpu_s` by the producer's own CPU time.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from perf import floors, rig
from perf.harness import Contestant, Observation, Scenario, Setting, WrongResult
from perf.results import quantile
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shmq.client.handle import Job

CHUNK = 2_000


def contestants(setting: Setting) -> list[Contestant]:
    @contextmanager
    def open_() -> Iterator[Callable[[int], Observation]]:
        from perf import tasks

        tally = tasks.tally.options(forget=True)  # one for all rounds: its first submit prepares the others
        with rig.supervised(setting.workers, memory={"slots_per_producer": 4096}) as running:
            yield lambda jobs: _measure(running, tally.submit, jobs)

    # jobs are fixed: the median over chunks needs many, the lane must never be full
    return [Contestant(rig.NAME, "subject", open_, 50 * CHUNK), floors.encode_alone()]


def _measure(running: rig.Rig, submit: Callable[[int], Job[None]], jobs: int) -> Observation:
    before = _counted(running)
    wall, cpu = [], []
    for start in range(0, jobs, CHUNK):
        begin, cpu_begin = time.perf_counter(), time.thread_time()
        for item in range(start, start + CHUNK):
            job = submit(item)
        cpu.append((time.thread_time() - cpu_begin) / CHUNK)
        wall.append((time.perf_counter() - begin) / CHUNK)
        rig.wait_until(job.done, "the last job of a chunk to be run", 20.0)
    _wait_for_count(running, before + jobs)
    return Observation({"call_s": quantile(wall, 0.5), "call_cpu_s": quantile(cpu, 0.5)})


def _counted(running: rig.Rig) -> int:
    """Jobs counted by all workers together; asks until every worker has answered."""
    from perf import tasks

    counts: dict[int, int] = {}

    def all_answered() -> bool:
        for job in [running.client.submit(tasks.tallied) for _ in range(4)]:
            pid, count = job.result(timeout=10.0)
            counts[pid] = count
        return len(counts) == running.workers

    rig.wait_until(all_answered, "every worker to tell its count")
    return sum(counts.values())


def _wait_for_count(running: rig.Rig, expected: int) -> None:
    rig.wait_until(lambda: _counted(running) >= expected, f"{expected} forgotten jobs to be run", 20.0)
    if (found := _counted(running)) != expected:
        raise WrongResult(f"{found} jobs ran, {expected} were submitted")


SCENARIO = Scenario(
    "forget",
    "fire-and-forget submit, cost per call",
    contestants,
    (
        Target("forget", "call_s", 25, 15, "lower", against=floors.ENCODE),
        Target("forget: the producer's own CPU", "call_cpu_s", 25, 15, "lower", against=floors.ENCODE),
    ),
)
