"""Rings without which a job, a kill or room would wait for the end of somebody's bounded sleep."""

from __future__ import annotations

import pytest

from shmq.clock import now_ns
from shmq.supervisor.recovery import recovery as recovery_module
from shmq.transport.bells import Bells
from shmq.worker.seat import START
from tests.crash.stage.stage import HELPER, Stage


@pytest.mark.parametrize(("service_ns", "seen"), [(1e3, 1), (1e6, 2)], ids=["tiny jobs", "others"])
def test_who_wakes_looks_at_all_lanes_unless_its_jobs_are_tiny(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, service_ns: float, seen: int
) -> None:
    clients, bench = [stage.client(), stage.client(attached=True)], stage.bench(HELPER)
    found: list[int] = []
    stage.send(clients[0], 0)
    bench.run_all()  # that lane is served last
    bench.claimer.service_ns, bench.claimer.promised_until_ns = service_ns, 0

    def sleep() -> None:
        for number, client in enumerate(clients, 1):
            stage.send(client, number)

    def run_batch(_lanes: list[int]) -> bool:
        found.append(bench.claimer.backlog)
        bench.seat.is_draining = True
        return True

    with monkeypatch.context() as patched:
        patched.setattr(bench.loop, "_sleep", sleep)
        patched.setattr(bench.loop, "_run_batch", run_batch)
        bench.loop.run()
    assert found == [seen]
    bench.seat.is_draining = False
    bench.run_all()
    bench.leave()


def test_a_limit_that_no_longer_holds_is_no_reason_not_to_sleep(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, slept = stage.bench(HELPER), []
    monkeypatch.setattr(bench.bell, "wait", lambda _s: slept.append("held"))
    monkeypatch.setattr(bench.bell, "doze", lambda _s: slept.append("at rest") or True)
    for left_ns in (60 * 10**9, -1):
        bench.claimer.held_until_ns = now_ns() + left_ns
        bench.loop._sleep()
    assert slept == ["held", "at rest"]
    bench.leave()


def test_a_kill_rings_the_worker_that_runs_the_job(stage: Stage) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    job = stage.send(client, 0)
    bench.claim(1)
    bench.bell.clear()
    client.cancel(job, kill=True)
    assert not bench.bell.is_rung()  # leased: its worker looks for cancels before it starts
    bench.seat.words[job._slot] += START
    client.cancel(job, kill=True)
    assert bench.bell.is_rung()
    bench.leave()


def test_recovery_looks_soon_where_its_lane_was_full_and_is_rung_when_there_is_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients, bench = [stage.client(), stage.client(attached=True)], stage.bench(HELPER)
    capacity, rung = stage.segment.shape.slots_per_producer, []
    monkeypatch.setattr(Bells, "notify_recovery", lambda _bells: rung.append(True))
    for number in range(capacity + 1):
        stage.send(clients[number % 2], number, delay=0.0001)
    recovery = stage.fresh_recovery()
    while stage.segment.view("tails")[bench.claimer._word_of[-3]] < capacity:
        longest_s = recovery.step()
    assert longest_s == recovery_module._LONGEST_SLEEP_FULL_S
    rung.clear()
    bench.loop._run_batch(bench.claimer.lanes_with_work())
    assert rung == [True]
    recovery.step()
    bench.run_all()
    bench.leave()


def test_a_wait_begins_with_room_for_results_that_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    begun, begin_wait = [], client._row.begin_wait
    monkeypatch.setattr(client._row, "begin_wait", lambda: begun.append(begin_wait()))
    stage.send(client, 1)
    job, made = stage.send(client, 0), []
    monkeypatch.setattr(
        client._waiter, "_before_sleep", lambda: made.append(bench.run_all() or client._row.bell.notify())
    )
    assert job.result(60) == 0
    assert len(begun) == len(made) == 1  # not after a first sleep in vain
    bench.leave()
