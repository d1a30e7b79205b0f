from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from perf import floors
from perf.harness import Contestant
from perf.results import quantile


@pytest.mark.parametrize(
    ("floor", "metric"),
    [
        (floors.codec, "per_s"),
        (floors.bare_codec, "per_s"),
        (floors.encode_alone, "call_s"),
        (lambda: floors.ping_pong(apart=True), "p50_s"),
        (lambda: floors.ping_pong(apart=False), "p50_s"),
        (floors.copy_and_sum, "per_s"),
        (floors.serial_spin, "per_s"),
        (lambda: floors.parallel_spin(2), "per_s"),
    ],
)
def test_each_floor_runs_and_shows_its_metric(floor: Callable[[], Contestant], metric: str) -> None:
    contestant = floor()
    with contestant.open() as measure:
        seen = measure(20)
    assert contestant.role == "floor"
    assert seen.metrics[metric] > 0


def test_ping_pong_gives_one_sample_a_trip_and_leaves_nothing_behind() -> None:
    with floors.ping_pong(apart=True).open() as measure:
        seen = measure(30)
    assert len(seen.samples) == 30
    assert seen.metrics["p50_s"] == quantile(seen.samples, 0.5)
    assert not list(Path("/dev/shm").glob("sem.perf-ping*"))
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="two cores can be told apart where there are two")
def test_who_answers_apart_does_so_on_another_core_and_afterwards_all_cores_are_free_again() -> None:
    before = os.sched_getaffinity(0)
    with floors.echoing_process(apart=True) as (ping, pong):
        ping.release()
        pong.acquire()  # it answers: it has chosen its core
        (child,) = multiprocessing.active_children()
        assert child.pid is not None
        mine, its = os.sched_getaffinity(0), os.sched_getaffinity(child.pid)
        assert len(mine) == len(its) == 1
        assert mine != its
    assert os.sched_getaffinity(0) == before
