"""A task whose last jobs ran for long: what would wait behind its next one goes to others before that begins."""

from __future__ import annotations

import pytest

from shmq.clock import NS, now_ns
from shmq.transport.table import DONE, SCHEDULED, STATE
from shmq.worker import execution
from tests.crash.stage import tasks
from tests.crash.stage.stage import HELPER, Stage


def test_the_rest_of_its_batch_goes_back_at_once_and_what_has_ended_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    told: list[int] = []
    monkeypatch.setattr(bench.seat, "ring_producers", told.append)
    for number in range(3):
        stage.send(client, number, tasks.called if number == 0 else tasks.note)
    long = bench.executor.runnables[tasks.note.key]
    long.long_share = 0.75
    slots, words = bench.claim(3)
    bench.seat.started_ns = now_ns() + 60 * NS  # no other reason to tell anybody, however slow this machine is
    bench.executor.run_batch(slots, words, 0)
    assert [bench.seat.words[stage.sent[number].slot] & STATE for number in range(3)] == [DONE, DONE, SCHEDULED]
    assert told == [1]  # of the first one, before the second began
    assert long.long_share < 0.5  # this one was not
    bench.leave()


@pytest.mark.parametrize("is_alone", [False, True])
def test_another_worker_is_woken_for_what_lies_in_another_lane(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, is_alone: bool
) -> None:
    clients, bench = [stage.client(), stage.client(attached=True)], stage.bench(HELPER)
    woken: list[int] = []
    monkeypatch.setattr(bench.seat.bells, "wake_one", woken.append)
    stage.send(clients[0], 0)
    bench.executor.runnables[tasks.note.key].long_share = 0.75
    slots, words = bench.claim(1)
    if not is_alone:
        stage.send(clients[1], 1)
    bench.executor.run_batch(slots, words, 0)
    assert woken == ([] if is_alone else [bench.seat.group])
    bench.leave()


def test_it_is_known_by_two_jobs_that_ran_for_longer_than_one_may_keep_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    begun: list[int] = []
    monkeypatch.setattr(bench.seat, "give_back_rest", lambda: begun.append(number))
    monkeypatch.setattr(execution, "SLOW_NS", -1)  # each job is measured by itself
    short, long = 1 << 60, -1
    for number, most_ns in enumerate([long, short, short, long, short, long, long, long, short, short, short, short]):
        monkeypatch.setattr(execution, "KEPT_NS", most_ns)
        job = stage.send(client, number)
        bench.executor.run_batch(*bench.claim(1), 0)
        job.result(0)
    assert begun == [6, 7, 8]
    bench.leave()
