"""A promise to look again that a producer has seen holds until it is over: the next claim takes nothing back."""

from __future__ import annotations

from shmq.memory.layout import GROUP_CLAIM, GROUP_CLAIM_WORDS
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
