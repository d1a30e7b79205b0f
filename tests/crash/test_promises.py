"""A promise to look again that a producer has seen holds until it is over: the next claim takes nothing back."""

from __future__ import annotations

from shmq.memory.layout import GROUP_CLAIM, GROUP_CLAIM_WORDS
from tests.crash.stage.stage import HELPER, Stage


def test_a_claim_never_promises_a_sooner_moment_than_one_that_producers_may_still_believe(stage: Stage) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    claimer = bench.claimer
    claimer.is_stream = True
    stage.send(client, 0)
    claimer.service_ns = 150_000.0
    bench.claim()
    first = claimer.promised_until_ns
    stage.send(client, 1)
    claimer.service_ns = 1.0
    bench.claim()

    word = claimer.group * GROUP_CLAIM_WORDS + GROUP_CLAIM["attended_until_ns"]
    assert claimer.promised_until_ns >= first > 0
    assert stage.segment.view("group_claim")[word] == claimer.promised_until_ns
    bench.leave()
