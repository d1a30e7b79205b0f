"""Who is served when many wait: turns of producers, and how many workers tiny jobs are worth."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from shmq.client.client import Client
from shmq.memory.layout import GROUP_CONTROL, WORKER
from tests.crash.stage.bench import Bench
from tests.crash.stage.settle import Autopsy, settle
from tests.crash.stage.stage import HELPER, Stage

FEW, MANY = 1, 7
CLAIM = 6


def fill(stage: Stage, *counts: int) -> list[Client]:
    """A producer for each count, with so many jobs waiting."""
    clients = [stage.client() for _ in counts]
    for row, count in enumerate(counts):
        for i in range(count):
            stage.send(clients[row], 8 * row + i)
    return clients


def run_claim(stage: Stage, bench: Bench, most: int = CLAIM) -> Counter[int]:
    """Claim and run a batch: how many jobs of each producer were in it."""
    slots, words = bench.claim(most)
    bench.executor.run_batch(slots, words, 0)
    return Counter(slot // stage.segment.shape.slots_per_producer for slot in slots)


def test_a_claim_takes_an_equal_part_of_each_producers_jobs(stage: Stage) -> None:
    fill(stage, MANY, MANY, FEW)
    bench = stage.bench(0)
    bench.claimer.service_ns = 1e6
    assert run_claim(stage, bench) == {0: 2, 1: 2 + 1, 2: FEW}  # what one does not use, the next in turn gets
    bench.leave()
    settle(stage, Autopsy(stage))


def test_of_tiny_jobs_producers_with_many_take_turns_and_one_with_few_goes_first(stage: Stage) -> None:
    fill(stage, MANY, MANY, FEW)
    bench = stage.bench(0)
    bench.claimer.service_ns = 1e3
    assert run_claim(stage, bench) == {2: FEW, 0: CLAIM - FEW}
    assert run_claim(stage, bench) == {0: MANY - CLAIM + FEW, 1: CLAIM - MANY + CLAIM - FEW}
    assert run_claim(stage, bench) == {1: 2 * MANY - 2 * CLAIM + FEW}
    bench.leave()
    settle(stage, Autopsy(stage))


def test_a_producer_with_many_jobs_is_served_beside_others_that_always_have_a_few(stage: Stage) -> None:
    clients, number = fill(stage, MANY, 2, 2), itertools.count(3 * 8)
    bench, served = stage.bench(0), Counter[int]()
    bench.claimer.service_ns = 1e3
    for _ in range(4):
        claimed = run_claim(stage, bench, 4)
        served += claimed
        for row in (1, 2):
            for _ in range(claimed[row]):
                stage.send(clients[row], next(number))
    assert served[0] >= 4
    bench.run_all()
    bench.leave()
    settle(stage, Autopsy(stage))


def test_producers_with_many_jobs_get_their_runs_one_as_often_as_the_other(stage: Stage) -> None:
    clients = fill(stage, FEW, MANY, MANY)
    bench = stage.bench(0)
    bench.claimer.service_ns = 1e3
    assert run_claim(stage, bench, 4) == {0: FEW, 1: 3}
    stage.send(clients[0], 3 * 8)
    assert run_claim(stage, bench, 4) == {0: 1, 2: 3}
    bench.run_all()
    bench.leave()
    settle(stage, Autopsy(stage))


@pytest.mark.parametrize(
    ("workers", "blocked", "service_ns", "is_rung"),
    [(2, 0, 19e3, True), (4, 0, 19e3, False), (4, 2, 19e3, True), (4, 0, 30e3, True), (4, 0, 0.0, True)],
    ids=["free core", "as many awake as cores", "two of them blocked", "jobs that may wait", "nobody knows the jobs"],
)
def test_who_leaves_much_behind_wakes_another_if_that_brings_anything(
    stage: Stage, workers: int, blocked: int, service_ns: float, is_rung: bool
) -> None:
    fill(stage, MANY, MANY, MANY)
    bench, asleep = stage.bench(0), stage.bench(HELPER)
    bench.loop._cores, bench.loop._max_batch = 2, 4
    stage.segment.view("group_control")[GROUP_CONTROL["workers"]] = workers
    stage.segment.view("sleeping")[1 + HELPER] = 1
    for row in range(1, 1 + blocked):
        stage.segment.rows("worker_rows")[row][WORKER["blocked"]] = 1
    asleep.bell.wait(0)
    bench.claimer.service_ns = service_ns
    assert bench.loop._run_batch(bench.claimer.lanes_with_work())
    assert asleep.bell.wait(0) == is_rung
    stage.segment.view("sleeping")[1 + HELPER] = 0
    bench.leave()
    asleep.leave()
    settle(stage, Autopsy(stage))
