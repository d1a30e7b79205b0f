"""A worker counts as blocked exactly while as many of its jobs wait for others as it runs at once."""

from __future__ import annotations

import pytest

from shmq.client.results import blocking
from shmq.errors import TaskTimeout
from shmq.memory.layout import WORKER
from shmq.tasks import current
from shmq.worker.seat import START
from tests.crash.stage.bench import Bench
from tests.crash.stage.stage import HELPER, Stage


def is_blocked(bench: Bench) -> bool:
    return bool(bench.seat.row[WORKER["blocked"]])


def test_a_worker_that_runs_two_is_blocked_when_both_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, seen = stage.bench(HELPER), []
    bench.seat.places = lambda: 2
    client = stage.client()
    for number in range(3):
        stage.send(client, number)
    slots, words = bench.claim()
    for slot, leased in zip(slots[:2], words, strict=False):
        bench.seat.words[slot] = leased + START
    first, other, ended = (word >> 32 << 32 | slot for slot, word in zip(slots, words, strict=True))
    for job, wait in (
        (first, "one of two"),
        (first, "the other"),
        (ended, "of a coroutine"),
        (other, "of another job"),
    ):
        monkeypatch.setattr(current, "job_id", lambda job=job: job)
        bench.seat.enter_wait(wait)
        seen.append(is_blocked(bench))
    assert seen == [False, False, False, True]
    bench.seat.leave_wait("the other")
    assert is_blocked(bench)
    bench.seat.end_waits(first)
    assert not is_blocked(bench)
    assert bench.seat.is_waiting
    bench.leave()


def test_a_time_limit_that_cuts_off_the_beginning_of_a_wait_leaves_nobody_blocked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    job = stage.send(client, 0)

    def expire() -> None:
        assert is_blocked(bench)
        raise TaskTimeout

    monkeypatch.setattr(current, "_worker", bench.seat)
    monkeypatch.setattr(bench.seat.bells, "notify_supervisor", expire)
    with pytest.raises(TaskTimeout), blocking.waiting_for(job):
        pytest.fail("the wait began")
    assert not is_blocked(bench)
    bench.run_all()
    bench.leave()


def test_what_a_time_limit_cuts_off_on_its_way_out_is_over_with_the_batch(stage: Stage) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    bench.seat.enter_wait("never left")
    assert is_blocked(bench)
    stage.send(client, 0)
    bench.run_all()
    assert not is_blocked(bench)
    bench.leave()


def test_a_child_that_a_task_forked_says_nothing_in_its_parents_row(stage: Stage) -> None:
    bench = stage.bench(HELPER)
    bench.seat.disown()
    bench.seat.enter_wait(1)
    assert not is_blocked(bench)
    bench.seat.row[WORKER["blocked"]] = 1  # the parent waits
    bench.seat.leave_wait(1)
    assert is_blocked(bench)
    bench.leave()
