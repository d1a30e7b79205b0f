from __future__ import annotations

import numpy as np
import pytest

from shmq.clock import NS
from shmq.memory.layout import WORKER, WORKER_WORDS
from shmq.planner.observing import Known, Observer
from shmq.transport.table import FREE, RUNNING, STATE
from tests.crash.stage.stage import HELPER, Stage


@pytest.fixture
def stage(namespace):
    stage = Stage(namespace)
    yield stage
    stage.drop()
    stage.close()


def rows(*orders):
    """Worker rows of (ordered at, started at) in seconds."""
    rows = np.zeros((len(orders), WORKER_WORDS), np.uint64)
    for row, (ordered, started) in zip(rows, orders, strict=True):
        row[WORKER["fork_ns"]], row[WORKER["started_ns"]] = int(ordered * NS), int(started * NS)
    return rows


def test_the_time_of_one_worker_and_the_pace_of_many_are_told_apart():
    known = Known()
    burst = [(10.0, 10.02 + 0.01 * k) for k in range(20)]
    Observer._learn_ready(known, rows((1.0, 1.02)))
    Observer._learn_ready(known, rows((1.0, 1.02), *burst))
    assert known.pace_s == pytest.approx(0.01, rel=0.05)
    assert known.ready_s == pytest.approx(0.02, rel=0.05)


def test_the_second_half_of_a_large_order_does_not_look_like_slow_workers():
    known = Known()
    burst = [(10.0, 10.02 + 0.01 * k) for k in range(20)]
    Observer._learn_ready(known, rows(*burst[:10]))
    Observer._learn_ready(known, rows(*burst))
    assert known.ready_s == pytest.approx(0.02, rel=0.2)


def test_without_new_workers_nothing_changes():
    known = Known()
    Observer._learn_ready(known, rows((1.0, 1.5)))
    assert known.ready_s == 0.5
    Observer._learn_ready(known, rows((1.0, 1.5)))
    Observer._learn_ready(known, rows())
    assert (known.ready_s, known.pace_s) == (0.5, 0.0)


@pytest.mark.parametrize("garbage", [(1 << 63) + 5, 1 << 62, (1 << 64) - 1])
@pytest.mark.parametrize("word", ["started_ns", "fork_ns"])
def test_a_damaged_row_does_not_make_workers_slow_for_ever(garbage, word):
    known = Known()
    Observer._learn_ready(known, rows((1.0, 1.02)))
    damaged = rows((1.0, 1.02), (2.0, 2.02))
    damaged[1, WORKER[word]] = garbage
    Observer._learn_ready(known, damaged)
    assert 0.0 < known.ready_s < 1.0
    Observer._learn_ready(known, rows((1.0, 1.02), (3.0, 3.04)))
    assert 0.0 < known.ready_s < 1.0


def test_orders_of_different_times_say_nothing_of_the_pace():
    known = Known()
    Observer._learn_ready(known, rows((1.0, 1.02), (1.0, 1.03)))
    Observer._learn_ready(known, rows((1.0, 1.02), (1.0, 1.03), (2.0, 2.02), (2.5, 2.52)))
    assert known.pace_s == pytest.approx(0.01)


def test_a_leased_job_that_begins_to_run_is_seen_without_another_claim(stage):
    observer, client, bench = Observer(stage.segment), stage.client(), stage.bench(HELPER)
    words = stage.segment.view("words")

    def becomes(slot, state):
        words[slot] = words[slot] & ~STATE | state
        return observer.observe(0, 0.0).running

    assert observer.observe(0, 0.0).running == 0
    for number in range(2):
        stage.send(client, number)
    first, second = bench.claim(2)[0]
    assert not observer.is_busy()
    assert observer.observe(0, 0.0).running == 0
    assert observer.is_busy()
    assert becomes(first, RUNNING) == 1
    assert becomes(second, RUNNING) == 2
    assert becomes(first, FREE) == 1
    assert becomes(second, FREE) == 0
    assert not observer.is_busy()
    assert becomes(second, RUNNING) == 0  # in a table where nothing was claimed nobody looks
    stage.send(client, 2)
    bench.claim(1)
    assert observer.observe(0, 0.0).running == 1
    bench.leave()


def test_what_runs_after_steps_in_which_nobody_looked_has_not_run_in_them(stage):
    observer, client, bench = Observer(stage.segment), stage.client(), stage.bench(HELPER)
    words = stage.segment.view("words")
    observer.observe(0, 1.0)
    observer.was_idle_until(7.0)
    stage.send(client, 0)
    (slot,) = bench.claim(1)[0]
    words[slot] = words[slot] & ~STATE | RUNNING
    seen = observer.observe(0, 8.0)
    assert (seen.running, seen.stalled_s) == (1, 1.0)
