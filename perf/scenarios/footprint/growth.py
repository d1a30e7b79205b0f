"""Cost per job as the system grows: producers, workers, backlog; each against its own smallest size.

    producer × 1…16 ──▶ lanes ──▶ worker × 2                      echo, rolling window
    producer × 1    ──▶ lane  ──▶ worker × 1…32
    producer × 1    ──▶ lane  ──▶ worker × 2                      10 … 30,000 jobs unread

Cost is CPU time of the whole tree and its producers per job: what the machine pays, however it is spread.
Seconds of wall clock per job are measured beside it.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from perf import rig
from perf.harness import Contestant, Observation, Scenario, Setting, WrongResult, rolling, verify
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PRODUCERS, WORKERS, BACKLOGS = (1, 4, 16), (1, 2, 8, 32), (10, 100, 1_000, 10_000, 30_000)


def contestants(setting: Setting) -> list[Contestant]:
    def ends(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return (sizes[0], sizes[-1]) if setting.short else sizes

    jobs = 32_000 if setting.short else 96_000
    sizes = [(f"{count} producers", partial(_many_producers, count)) for count in ends(PRODUCERS)]
    sizes += [(f"{count} workers", partial(_one_producer, count, rig.WINDOW)) for count in ends(WORKERS)]
    sizes += [(f"backlog {backlog:,}", partial(_one_producer, setting.workers, backlog)) for backlog in ends(BACKLOGS)]
    return [Contestant(name, "subject", open_, jobs) for name, open_ in sizes]


@contextmanager
def _one_producer(workers: int, window: int) -> Iterator[Callable[[int], Observation]]:
    slots = 1 << max(window, 1023).bit_length()
    with rig.supervised(workers, memory={"slots_per_producer": slots, "max_producers": 8}) as running:

        def measure(jobs: int) -> Observation:
            cpu, own, begin = running.cpu_s(), time.process_time(), time.perf_counter()
            _echo_all(running.client, jobs, window)
            took = time.perf_counter() - begin
            return _observation(jobs, took, running.cpu_s() - cpu + time.process_time() - own)

        measure(2_000)  # warm-up
        yield measure


@contextmanager
def _many_producers(producers: int) -> Iterator[Callable[[int], Observation]]:
    with rig.supervised(2, memory={"max_producers": producers + 8}) as running:

        def measure(jobs: int) -> Observation:
            context = get_context("fork")
            start, told = context.Barrier(producers + 1), context.SimpleQueue()
            each = jobs // producers
            children = [
                context.Process(target=_produce, args=(running.namespace, each, start, told), daemon=True)
                for _ in range(producers)
            ]
            for child in children:
                child.start()
            start.wait(30.0)
            cpu, begin = running.cpu_s(), time.perf_counter()
            answers = [told.get() for _ in children]
            took = time.perf_counter() - begin
            tree = running.cpu_s() - cpu
            for child in children:
                child.join()
            if failed := [answer for answer in answers if isinstance(answer, str)]:
                raise WrongResult(f"{len(failed)} of {producers} producers failed: {failed[0]}")
            return _observation(each * producers, took, tree + sum(answers))

        yield measure


def _produce(namespace: str, jobs: int, start: Any, told: Any) -> None:
    """One producer process: joins, waits for the others, tells its CPU seconds or what went wrong."""
    import shmq

    try:
        with shmq.connect(namespace=namespace) as client:
            _echo_all(client, 500, rig.WINDOW)  # warm-up
            start.wait(30.0)
            own = time.process_time()
            _echo_all(client, jobs, rig.WINDOW)
            told.put(time.process_time() - own)
    except Exception as error:
        told.put(repr(error))


def _echo_all(client: Any, jobs: int, window: int) -> None:
    from perf import tasks

    results = rolling(partial(client.submit, tasks.echo), methodcaller("result"), range(jobs), window)
    verify(results, range(jobs))


def _observation(jobs: int, took: float, cpu: float) -> Observation:
    return Observation({"cpu_s": cpu / jobs, "wall_s": took / jobs, "per_s": jobs / took})


def _growth(label: str, grown: str, first: str) -> Target:
    return Target(label, "cpu_s", 1.5, 1.15, "lower", subject=grown, against=first)


SCENARIO = Scenario(
    "growth",
    "cost per job as the system grows",
    contestants,
    (
        _growth("1 → 16 producers", "16 producers", "1 producers"),
        _growth("1 → 32 workers", "32 workers", "1 workers"),
        _growth("backlog 10 → 30,000", "backlog 30,000", "backlog 10"),
    ),
    most_rounds=3,
)
