"""The worker's timer: it goes on while a job of the batch is under way, also where the worker's own code runs."""

from __future__ import annotations

import pytest

from shmq.clock import NS, now_ns
from shmq.memory.fence import new_fence
from shmq.worker.seat import START
from shmq.worker.timer import KEPT_S, LONG_S, Timer
from tests.crash.stage.stage import HELPER, Stage


def test_the_last_job_of_a_batch_keeps_its_timer_while_its_message_is_decoded(stage: Stage, monkeypatch) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    monkeypatch.setattr("signal.setitimer", lambda *_: None)  # fired by hand
    monkeypatch.setattr("signal.signal", lambda *_: None)
    timer, seat = Timer(bench.seat, new_fence()), bench.seat
    stage.send(client, 0)
    (slot,), (leased,) = bench.claim()
    seat.position = 1  # begun, and not in the task's code yet: run_batch between its first line and the call
    for word in (leased, leased + START):  # not begun either while somebody measures what it will leave behind
        seat.words[slot] = word
        for _ in range(3):
            timer._fired(0, None)
            assert timer.is_armed
    seat.words[slot] = leased
    bench.executor.run_batch((slot,), (leased,), 0)
    timer._fired(0, None)
    assert not timer.is_armed
    bench.leave()


@pytest.fixture
def armed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the kernel's timer is set to; it never fires by itself."""
    delays: list[float] = []
    monkeypatch.setattr("signal.setitimer", lambda _timer, delay_s: delays.append(delay_s))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return delays


def test_it_fires_sooner_where_a_job_may_keep_others(stage: Stage, armed: list[float]) -> None:
    bench = stage.bench(HELPER)
    timer = Timer(bench.seat, new_fence())
    timer.begin(now_ns(), keeps_others=False)
    timer.begin(now_ns(), keeps_others=False)
    assert armed == [LONG_S]  # no system call for each batch
    timer.begin(now_ns(), keeps_others=True)
    timer.begin(now_ns(), keeps_others=True)
    timer.begin(now_ns(), keeps_others=False)
    assert armed == [LONG_S, KEPT_S]
    bench.leave()


@pytest.mark.parametrize("keeps_others", [False, True])
def test_the_rest_of_a_batch_goes_back_when_a_job_has_kept_it_for_long(
    stage: Stage, armed: list[float], *, keeps_others: bool
) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    timer, seat = Timer(bench.seat, new_fence()), bench.seat
    for number in range(2):
        stage.send(client, number)
    slots, words = bench.claim(2)
    timer.begin(now_ns(), keeps_others=keeps_others)
    seat.position, seat.in_user = 1, True
    seat.started_ns = now_ns() - int(KEPT_S * NS)
    timer._fired(0, None)
    assert (len(seat.batch_slots) == 1) == keeps_others
    assert timer.is_armed != keeps_others
    if not keeps_others:
        assert KEPT_S < armed[-1] <= LONG_S - KEPT_S  # when it will have run for LONG_S
    seat.in_user = False
    bench.executor.run_batch(slots, words, 0)
    bench.leave()
