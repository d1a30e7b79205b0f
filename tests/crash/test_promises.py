"""A promise to look again that a producer has seen holds until it is over: the next claim takes nothing back."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shmq.client import hot
from shmq.client.results import poller
from shmq.client.submitting import room
from shmq.clock import NS, now_ns
from shmq.errors import QueueFull
from shmq.memory.layout import GROUP_CLAIM, GROUP_CLAIM_WORDS, PRIORITIES
from shmq.transport import going_on, promises
from tests.crash.stage.stage import HELPER, Stage
from tests.live import until


def test_a_claim_never_promises_a_sooner_moment_than_one_that_producers_may_still_believe(stage: Stage) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    claimer = bench.claimer
    claimer.is_stream = True
    for job in (0, 1):
        stage.send(client, job)
    claimer.service_ns = 75_000.0
    bench.claim(2)
    first = claimer.promised_until_ns
    for job in (2, 3):
        stage.send(client, job)
    claimer.service_ns = 1.0
    bench.claim(2)

    word = claimer.group * GROUP_CLAIM_WORDS + GROUP_CLAIM["attended_until_ns"]
    assert claimer.promised_until_ns >= first > 0
    assert stage.segment.view("group_claim")[word] == claimer.promised_until_ns
    bench.leave()


def test_nothing_is_promised_to_who_gets_one_job_at_a_time_and_waits_for_it(stage: Stage) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    claimer = bench.claimer
    claimer.is_stream, claimer.service_ns = True, 1e3
    stage.send(client, 0)
    bench.claim(2)
    assert claimer.promised_until_ns == 0
    for job in (1, 2):
        stage.send(client, job)
    bench.claim(2)
    assert claimer.promised_until_ns > 0
    bench.leave()


def test_one_job_is_enough_where_its_producer_goes_on_without_reading_the_last_two(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(going_on, "_SOON_NS", 60 * NS)  # however slow this machine is
    monkeypatch.setattr(hot, "AT_ONCE", 1)  # what is read is read alone
    client, bench = stage.client(), stage.bench(HELPER)
    claimer, row = bench.claimer, client._row

    left: list[int] = []
    monkeypatch.setattr(bench.loop._making_way, "leave_core_of", left.append)

    def is_promised_to(number: int, service_ns: float = 1e3) -> bool:
        """For the only job of a claim."""
        stage.send(client, number)
        claimer.service_ns, claimer.promised_until_ns = service_ns, 0
        bench.loop._run_batch(claimer.lanes_with_work())
        return claimer.promised_until_ns > 0

    def read(number: int) -> None:
        job = stage.sent[number].job
        assert job is not None
        job.result(0)

    assert not is_promised_to(0)  # the first ones may be all there are
    assert not is_promised_to(1)  # one more may be what it waits for next
    assert is_promised_to(2)
    for number, word in ((3, "waiting"), (4, "polling")):
        row.set(word, 1)
        assert not is_promised_to(number)
        row.set(word, 0)
    assert is_promised_to(5)
    for number in (0, 1, 2, 3, 5):
        read(number)
    assert not is_promised_to(6)  # in the slot of the last one, which was read
    assert not is_promised_to(7)
    assert is_promised_to(8)
    read(8)
    client._free.insert(0, client._free.pop())  # the next job takes another slot than that of the last one
    assert not is_promised_to(9)
    assert not is_promised_to(10)
    assert is_promised_to(11)
    for number in (4, 6, 7, 9):
        read(number)
    assert is_promised_to(12)
    assert not is_promised_to(13, service_ns=150e3)  # worth a ring
    assert left == [row.index] * 6  # way was made for each that goes on
    row.begin_wait()
    row.end_wait()
    assert not is_promised_to(14)  # it has waited since
    assert is_promised_to(15)
    monkeypatch.setattr(going_on, "_SOON_NS", 0)
    assert not is_promised_to(16)  # what comes so seldom is no stream
    bench.leave()


def test_who_submits_what_nobody_reads_goes_on_although_the_last_two_are_gone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(going_on, "_SOON_NS", 60 * NS)
    client, bench = stage.client(), stage.bench(HELPER)

    def goes_on(number: int, *, forget: bool = True) -> bool:
        stage.send(client, number, forget=forget)
        (lane,) = bench.claimer.lanes_with_work()
        seen = bench.loop._going_on.sees(lane)
        bench.run_all()
        return seen

    assert [goes_on(number) for number in range(4)] == [False, False, True, True]
    assert not goes_on(4, forget=False)  # it may be waited for
    client._row.begin_wait()
    client._row.end_wait()
    assert not goes_on(5)
    assert goes_on(6)
    bench.leave()


def test_who_goes_on_is_not_told_from_a_lane_of_recovery(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(going_on, "_SOON_NS", 60 * NS)
    client, bench = stage.client(), stage.bench(HELPER)
    for number in range(3):
        stage.send(client, number)
    bench.claim(2)
    (lane,) = bench.claimer.lanes_with_work()
    seen = bench.loop._going_on
    assert seen.sees(lane)
    seen._recovery_row = lane // PRIORITIES
    assert not seen.sees(lane)
    bench.leave()


@pytest.mark.parametrize("block", [None, 1.0], ids=["hot path", "slow path"])
def test_who_waits_rings_for_what_still_waits_well_after_the_moment_that_was_promised(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, block: float | None
) -> None:
    monkeypatch.setattr(promises, "LONGEST_PROMISE_NS", 3600 * NS)  # however long this process is held up
    client, bench = stage.client(), stage.bench(HELPER)
    claimer, made = bench.claimer, client._publisher.promises
    rung: list[int] = []
    monkeypatch.setattr(client._publisher.bells, "wake_one", rung.append)

    def settle_at(moment_ns: int) -> float:
        with monkeypatch.context() as clock:
            clock.setattr(promises, "now_ns", lambda: moment_ns)
            return made.settle()

    until = now_ns() + 3600 * NS
    stage.segment.view("group_claim")[GROUP_CLAIM["attended_until_ns"]] = until
    stage.send(client, 0, block=block)
    assert made.believed == {claimer.group: until}
    assert settle_at(until) == pytest.approx(promises._GRACE_NS / NS)
    assert rung == []  # its worker may be waking up
    assert settle_at(until + promises._GRACE_NS) == float("inf")
    assert rung == [claimer.group]
    assert made.believed == {}

    made.believe(claimer.group)
    bench.claim(8)
    assert settle_at(until + promises._GRACE_NS) == float("inf")
    assert rung == [claimer.group]  # somebody has taken it
    bench.leave()


def test_a_damaged_promise_is_believed_for_no_longer_than_one_can_be(stage: Stage) -> None:
    client = stage.client()
    stage.segment.view("group_claim")[GROUP_CLAIM["attended_until_ns"]] = (1 << 64) - 1
    before = now_ns()
    until = client._publisher.promises.believe(0)
    assert before < until <= now_ns() + promises.LONGEST_PROMISE_NS


def test_a_promise_that_is_over_at_the_second_look_is_none(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client, rung = stage.client(), []
    monkeypatch.setattr(client._publisher.bells, "ring", rung.append)
    stage.send(client, 0)  # the first one goes the slow way
    monkeypatch.setattr(promises, "now_ns", lambda: now_ns() + 3600 * NS)
    stage.segment.view("group_claim")[GROUP_CLAIM["attended_until_ns"]] = now_ns() + 60 * NS
    stage.segment.view("sleeping")[HELPER + 1] = 1
    stage.send(client, 1)
    assert rung == [HELPER]


def test_the_thread_that_runs_callbacks_sees_to_it_as_well(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client, rung = stage.client(), threading.Event()
    job = stage.send(client, 0)
    monkeypatch.setattr(client._publisher.bells, "wake_one", lambda _group: rung.set())
    client._publisher.promises.believed[0] = 1  # a moment long past
    job.add_done_callback(print)
    assert rung.wait(60)
    client._callbacks.stop()


def test_a_thread_that_waits_for_callbacks_already_is_told_of_another_job_without_a_ring(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller, "RESCUE_S", 600.0)
    client, rung = stage.client(), threading.Event()
    monkeypatch.setattr(client._publisher.bells, "wake_one", lambda _group: rung.set())
    stage.send(client, 0).add_done_callback(print)
    until(lambda: client._callbacks._poller._sleeps_long, "it sleeps")
    job = stage.send(client, 1)
    client._publisher.promises.believed[0] = 1
    job.add_done_callback(print)
    assert rung.wait(60)
    client._callbacks.stop()


def test_who_waits_for_blocks_or_awaits_room_sees_to_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client, rung = stage.client(), []
    task = stage.send(client, 0)._origin.task
    monkeypatch.setattr(client._publisher.bells, "wake_one", rung.append)
    client._publisher.promises.believed[0] = 1
    with pytest.raises(QueueFull):
        room.wait_for_blocks(client, task, 0.0)
    assert rung == [0]

    answers = iter([QueueFull("no room"), None])

    def submit_task(*_: object, **__: object) -> None:
        if (error := next(answers)) is not None:
            raise error

    monkeypatch.setattr(client, "submit_task", submit_task)
    client._publisher.promises.believed[0] = 1
    asyncio.run(client.asubmit_task(task, ()))
    assert rung == [0, 0]


def test_a_job_that_is_alone_in_its_batch_may_keep_another_producers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []
    clients, bench = [stage.client(), stage.client(attached=True)], stage.bench(HELPER)
    monkeypatch.setattr(bench.loop._timer, "begin", lambda _began, keeps_others: begun.append(keeps_others))
    for number, client in enumerate(clients):
        stage.send(client, number)
    while lanes := bench.claimer.lanes_with_work():
        bench.claimer._last_lane = lanes[0]
        bench.loop._run_batch(bench.claimer.last_lane_with_work())  # as after a sleep: the other one is not looked at
    assert begun == [True, False]
    bench.leave()
