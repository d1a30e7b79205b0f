"""When a producer may leave a ring out: somebody promised to look again, or sees to tiny jobs and is awake."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shmq.client import hot
from shmq.memory.layout import GROUP_CLAIM, GROUP_CLAIM_WORDS, GROUP_CONTROL, WORKER
from shmq.transport import bells, claim, publish
from shmq.worker import loop
from tests.crash.stage.bench import Bench
from tests.crash.stage.stage import HELPER, Stage


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


@pytest.fixture
def crew(stage: Stage) -> Iterator[tuple[Bench, Bench]]:
    """Two workers of one group on two cores: the first is awake and has claimed a tiny job, the other one sleeps."""
    awake, asleep = stage.bench(0), stage.bench(HELPER)
    stage.segment.rows("group_control")[0][GROUP_CONTROL["workers"]] = 2
    stage.segment.view("sleeping")[1 + HELPER] = 1
    stage.segment.set_header("cores", 2)
    awake.claimer.service_ns = 50_000.0
    yield awake, asleep
    stage.segment.view("sleeping")[1 + HELPER] = 0
    stage.segment.rows("group_control")[0][GROUP_CONTROL["workers"]] = 0
    awake.leave()
    asleep.leave()


def is_rung(bench: Bench) -> bool:
    """Rung since the last look? It has begun another nap after that."""
    bench.seat.row[WORKER["naps"]] += 1
    return bench.bell.wait(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time of producers and workers."""
    moment = [10**9]
    for module in (bells, claim, hot, loop, publish):
        monkeypatch.setattr(module, "now_ns", lambda: moment[0])
    return moment


@pytest.mark.parametrize("block", [None, 1.0])  # the hot path, the slow one
def test_nobody_else_is_rung_while_a_worker_of_tiny_jobs_is_awake_and_no_core_is_free(
    stage: Stage, crew: tuple[Bench, Bench], clock: list[int], block: float | None
) -> None:
    awake, asleep = crew
    client = stage.client()
    sleeping = stage.segment.view("sleeping")

    stage.send(client, 0, block=block)
    assert is_rung(asleep)  # nobody has claimed anything yet
    awake.claim()
    stage.send(client, 1, block=block)
    assert not is_rung(asleep)
    stage.segment.set_header("cores", 3)
    stage.send(client, 2, block=block)
    assert is_rung(asleep)  # a core is free for it
    stage.segment.set_header("cores", 1)
    sleeping[1] = 1
    stage.send(client, 3, block=block)
    assert is_rung(awake)  # it has just said that it sleeps
    stage.segment.set_header("cores", 2)
    sleeping[1] = 0
    clock[0] += 50_000 + 60_000
    stage.send(client, 4, block=block)
    assert is_rung(asleep)  # the job of the one awake is a long one: it should have looked by now


@pytest.mark.parametrize("damaged", [(1 << 64) - 1, 1 << 63, 0])
def test_a_damaged_word_of_who_is_at_work_costs_no_ring(
    stage: Stage, crew: tuple[Bench, Bench], clock: list[int], damaged: int
) -> None:
    awake, asleep = crew
    client, words = stage.client(), stage.segment.view("group_claim")
    stage.send(client, 0)
    awake.claim()
    is_rung(asleep)
    no_such_row = words[GROUP_CLAIM["at_work"]] | bells.AT_WORK_ROW
    for number, word in enumerate((damaged, no_such_row), 1):
        words[GROUP_CLAIM["at_work"]] = word
        stage.send(client, number)
        assert is_rung(asleep), word
    clock[0] += 1


def test_a_worker_that_leaves_lets_the_time_pass_in_which_it_is_relied_on(
    stage: Stage, crew: tuple[Bench, Bench], clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    awake, asleep = crew
    client = stage.client()
    stage.send(client, 0)
    awake.claim()
    is_rung(asleep)

    def nap(_seconds: float) -> bool:
        stage.send(client, 1)
        assert not is_rung(asleep)  # its producer relies on the one that leaves
        clock[0] += 10**6
        return False

    monkeypatch.setattr(awake.bell, "wait", nap)
    awake.loop._leave()
    assert is_rung(asleep)
