"""Steps of a worker (row 0) and of recovery."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from shmq.memory import locks
from shmq.memory.layout import WORKER, WORKER_FREE, WORKER_STARTING
from shmq.supervisor import namespace
from shmq.supervisor.pools.rows import Rows
from shmq.supervisor.recovery import Recovery
from shmq.worker import execution
from shmq.worker.boot import _join
from shmq.worker.seat import Seat
from tests.crash.bytecode.steps import Step, dead_producer
from tests.crash.bytecode.tracing import forked
from tests.crash.stage import board
from tests.crash.stage.stage import GROUPS, Stage
from tests.crash.stage.tasks import doubled, failing, flaky, large, note

VICTIM = 0


def worker_steps() -> list[Step]:
    """Join, claim, run and acknowledge each kind of job, a whole batch, give back, sleep."""

    def step(name: str, arrange: Callable[[Stage], Any], prepare: Callable[[Stage], Callable[[], Any]]) -> Step:
        return Step(f"worker {name}", arrange, prepare, lambda stage: stage.bury_row(VICTIM))

    return [
        step("joins", _starting_row, _joins),
        Step("worker joins as its supervisor dies", _starting_row, _joins, take_back),
        step("claims", _mixed_priorities, lambda stage: _claims(stage, 4)),
        *(step(f"runs {name}", arrange, _runs) for name, arrange in _kinds().items()),
        step("runs a batch", _batch, _runs_batch),
        step("gives back", _five, _gives_back),
        step("drains", _five, _drains),
        step("goes to sleep", _five, _goes_to_sleep),
    ]


def recovery_steps() -> list[Step]:
    """Each part of recovery after another's death, all of it at once, and a supervisor that starts again."""

    def step(name: str, arrange: Callable[[Stage], Any], part: Callable[[Recovery], Any]) -> Step:
        def prepare(stage: Stage) -> Callable[[], Any]:
            stage.lock_file.acquire(locks.RECOVERY)  # the one recovery: while it lives there is no other
            recovery = stage.fresh_recovery()
            return lambda: part(recovery)

        return Step(f"recovery {name}", arrange, prepare, _nothing)

    return [
        Step("recovery starts", dead_worker, _starts, _nothing),
        step("buries a worker", dead_worker, lambda recovery: recovery.bury(VICTIM)),
        step("delivers what is due", _due, lambda recovery: recovery._redeliverer.deliver_due(1 << 62)),
        step("takes over a producer's row", dead_producer, lambda recovery: recovery.tidy()),
        step("ends what was cancelled", _cancelled, lambda recovery: recovery.tidy()),
        step("does all after a worker's death", dead_worker, lambda recovery: recovery.step()),
        step("does all after a producer's death", dead_producer, lambda recovery: recovery.step()),
    ]


def supervisor_steps() -> list[Step]:
    """A row made for a worker, a dead one's handed to recovery, the segment of a former supervisor taken back."""
    return [
        Step("supervisor prepares a worker's row", _five, _prepares, take_back),
        Step("supervisor hands a row to recovery", _all_dead, _hands_over, take_back),
        Step("supervisor takes the segment back", _all_dead, _takes_back, take_back),
    ]


def _nothing(_stage: Stage) -> None:
    pass


# -- a worker ----------------------------------------------------------------------------------


def _five(stage: Stage) -> None:
    client = stage.client()
    for number in range(5):
        stage.send(client, number)


def _starting_row(stage: Stage) -> None:
    _five(stage)
    row = stage.segment.rows("worker_rows")[VICTIM]
    row[WORKER["bell_serial"]], row[WORKER["state"]] = 7, WORKER_STARTING


def _joins(stage: Stage) -> Callable[[], Any]:
    seat = Seat(stage.segment, VICTIM, 0, *next(iter(GROUPS.items())))
    return lambda: _join(seat, stage.lock_file, 7)


def _mixed_priorities(stage: Stage) -> None:
    client, other = stage.client(), stage.client()
    for number, priority in enumerate((3, 1, 5, 3)):
        stage.send(client, number, priority=priority)
    stage.send(other, 4)
    cancelled = stage.send(client, 5, priority=1)
    board.cancelled[5] = board.PROMISED if cancelled.cancel() else board.ASKED


def _claims(stage: Stage, most: int) -> Callable[[], Any]:
    bench = stage.bench(VICTIM)
    return lambda: bench.claim(most)


def _kinds() -> dict[str, Callable[[Stage], Any]]:
    return {
        "a job": lambda stage: stage.send(stage.client(), 0),
        "a job to be forgotten": lambda stage: stage.send(stage.client(), 0, forget=True),
        "a job that is retried": lambda stage: stage.send(stage.client(), 0, flaky),
        "a job that fails": lambda stage: stage.send(stage.client(), 0, failing),
        "a job with a large argument": lambda stage: stage.send(stage.client(), 0, size=3000),
        "a job with a large result": lambda stage: stage.send(stage.client(), 0, large),
        "a job on an array": lambda stage: stage.send(stage.client(), 0, doubled),
        "a chunk": lambda stage: stage.send_chunk(stage.client(), range(3)),
    }


def _runs(stage: Stage) -> Callable[[], Any]:
    bench = stage.bench(VICTIM)
    slots, words = bench.claim()
    bench.seat.position = 1
    return lambda: bench.executor.run(slots[0], words[0])


def _batch(stage: Stage) -> None:
    client = stage.client()
    for number, task in enumerate((note, flaky, large, doubled)):
        stage.send(client, number, task)
    stage.send(client, 5, forget=True)


def _runs_batch(stage: Stage) -> Callable[[], Any]:
    _without_clock()
    bench = stage.bench(VICTIM)
    bench.claimer.service_ns = 1.0  # so that it takes all at once
    return lambda: bench.loop._run_batch(bench.claimer.lanes_with_work())


def _gives_back(stage: Stage) -> Callable[[], Any]:
    bench = stage.bench(VICTIM)
    slots, words = bench.claim()
    bench.executor.run(slots[0], words[0])
    bench.seat.position = 1
    return bench.seat.give_back_rest


def _without_clock() -> None:
    """In this child every job counts as slow and none as very slow: else how many do is for the clock to say."""
    execution.SLOW_NS, execution._NOTIFY_NS = -1, 1 << 62


def _drains(stage: Stage) -> Callable[[], Any]:
    """SIGTERM in the first of five jobs: it ends, the others go back, the loop is left."""
    _without_clock()
    bench = stage.bench(VICTIM)
    bench.claimer.service_ns = 1.0
    run = bench.executor.run

    def told() -> None:
        bench.seat.is_draining = True

    def run_first(slot: int, word: int) -> None:
        run(slot, word)
        told()

    bench.executor.run, bench.loop._sleep = run_first, told  # it sleeps if others were quicker
    return bench.loop.run


def _prepares(stage: Stage) -> Callable[[], Any]:
    return partial(Rows(stage.segment).prepare, VICTIM, 0)


def _hands_over(stage: Stage) -> Callable[[], Any]:
    rows = Rows(stage.segment)
    return partial(rows.bury, VICTIM, status=9, reason=0, culprit=0, peak_bytes=0)


def _goes_to_sleep(stage: Stage) -> Callable[[], Any]:
    return stage.bench(VICTIM).loop._sleep


# -- recovery ----------------------------------------------------------------------------------


def dead_worker(stage: Stage) -> None:
    """It ran one job, was killed inside the second (whose last attempt it was), had leased the rest."""
    client = stage.client()
    for number in range(6):
        stage.send(client, number)
    stage.send(client, 6, flaky)
    stage.wear_out(1)
    _killed_in_a_batch(stage)
    stage.bury_row(VICTIM)


def _killed_in_a_batch(stage: Stage) -> None:
    def worker() -> None:
        bench = stage.bench(VICTIM)
        bench.claimer.service_ns = 1.0
        slots, words = bench.claim(5)
        bench.executor.run(slots[0], words[0])
        bench.executor.run(slots[1], words[1])

    _, status = forked(worker)
    assert status == 9, status


def _starts(stage: Stage) -> Callable[[], Any]:
    return lambda: Recovery(stage.name, stage.config)


def _takes_back(stage: Stage) -> Callable[[], Any]:
    return lambda: take_back(stage)


def _due(stage: Stage) -> None:
    client = stage.client()
    for number in range(4):
        stage.send(client, number, delay=0.0005)
    job = stage.send(client, 4, delay=0.0005)
    board.cancelled[4] = board.PROMISED if job.cancel() else board.ASKED


def _cancelled(stage: Stage) -> None:
    """In a group without workers, so that no claim passes them."""
    client = stage.client()
    for number in range(4):
        job = stage.send(client, number, group="other")
        if number % 2:
            board.cancelled[number] = board.PROMISED if job.cancel() else board.ASKED


def _all_dead(stage: Stage) -> None:
    client = stage.client()
    for number in range(4):
        stage.send(client, number)
    board.fatal[1] = 1
    _killed_in_a_batch(stage)
    stage.segment.view("sleeping")[1 + VICTIM] = 1  # nobody reaped it: the byte stays as it was
    assert stage.segment.rows("worker_rows")[VICTIM][WORKER["state"]] != WORKER_FREE


def take_back(stage: Stage) -> None:
    """What a supervisor does that finds the segment of one before it."""
    namespace._take_back(stage.segment, stage.folder, stage.config, stage.lock_file)
