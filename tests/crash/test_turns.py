"""Who is served when many wait: turns of producers, and how many workers tiny jobs are worth."""

from __future__ import annotations

from collections import Counter

import pytest

from shmq.memory.layout import GROUP_CONTROL
from tests.crash.stage.bench import Bench
from tests.crash.stage.settle import Autopsy, settle
from tests.crash.stage.stage import HELPER, Stage

FEW, MANY = 1, 7
CLAIM = 6


def fill(stage: Stage, *counts: int) -> None:
    """A producer for each count, with so many jobs waiting."""
    for row, count in enumerate(counts):
        client = stage.client()
        for i in range(count):
            stage.send(client, 8 * row + i)


def run_claim(stage: Stage, bench: Bench) -> Counter[int]:
    """Claim and run a batch: how many jobs of each producer were in it."""
    slots, words = bench.claim(CLAIM)
    bench.executor.run_batch(slots, words, 0)
    return Counter(slot // stage.segment.shape.slots_per_producer for slot in slots)


def test_a_claim_takes_an_equal_part_of_each_producers_jobs(stage: Stage) -> None:
    fill(stage, MANY, MANY, FEW)
    bench = stage.bench(0)
    bench.claimer.service_ns = 1e6
    assert run_claim(stage, bench) == {0: 2 + 1, 1: 2, 2: FEW}  # what one does not use, the first gets
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


@pytest.mark.parametrize(
    ("workers", "service_ns", "is_rung"),
    [(2, 19e3, True), (4, 19e3, False), (4, 30e3, True), (4, 0.0, True)],
    ids=["a core is free", "as many are awake as cores", "jobs that may wait", "nobody knows the jobs"],
)
def test_who_leaves_much_behind_wakes_another_if_that_brings_anything(
    stage: Stage, workers: int, service_ns: float, is_rung: bool
) -> None:
    fill(stage, MANY, MANY, MANY)
    bench, asleep = stage.bench(0), stage.bench(HELPER)
    bench.loop._cores, bench.loop._max_batch = 2, 4
    stage.segment.view("group_control")[GROUP_CONTROL["workers"]] = workers
    stage.segment.view("sleeping")[1 + HELPER] = 1
    asleep.bell.wait(0)
    bench.claimer.service_ns = service_ns
    assert bench.loop._run_batch(bench.claimer.lanes_with_work())
    assert asleep.bell.wait(0) == is_rung
    stage.segment.view("sleeping")[1 + HELPER] = 0
    bench.leave()
    asleep.leave()
    settle(stage, Autopsy(stage))
