"""The worker's timer: it goes on while a job of the batch is under way, also where the worker's own code runs."""

from __future__ import annotations

from shmq.memory.fence import new_fence
from shmq.worker.seat import START
from shmq.worker.timer import Timer
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
