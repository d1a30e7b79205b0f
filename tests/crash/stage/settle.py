"""After a kill: let recovery and a worker finish what is left, then look whether every promise was kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from shmq.errors import JobCancelled, WorkerLost
from shmq.memory.blocks import PRODUCER_PIN, BlockPool
from shmq.memory.columns import column
from shmq.memory.layout import PRODUCER, WORKER, WORKER_FREE
from shmq.transport.table import DONE, FREE, GENERATION_SHIFT, LEASED, RUNNING, STATE, crashes_of, generation_of
from tests.crash.stage import board, tasks
from tests.crash.stage.stage import HELPER, Sent, Stage

_ROUNDS = 30
_FOREVER = 1 << 62


class Broken(AssertionError):
    """A promise was not kept."""


class Autopsy:
    """What the table said when the victim had died. Taken again after each further kill."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.was_running: dict[int, int] = {}
        self._crashes: dict[int, tuple[int, int]] = {}
        self.look()

    def look(self) -> None:
        """Note which jobs were running, and what attempts each had paid."""
        for slot, word in enumerate(self._stage.words()):
            if word & STATE in (LEASED, RUNNING):
                self._crashes[slot] = (generation_of(word), crashes_of(word))
            if word & STATE == RUNNING:
                for number in self._stage.numbers_of(slot, generation_of(word)):
                    self.was_running[number] = self.was_running.get(number, 0) + 1

    def check_paid(self) -> None:
        """Redelivery charges nobody: a start was paid in advance (and is given back after an interruption)."""
        for slot, (generation, crashes) in self._crashes.items():
            word = self._stage.segment.view("words")[slot]
            if generation_of(word) == generation and FREE < word & STATE < DONE and crashes_of(word) > crashes:
                raise Broken(f"slot {slot} had paid {crashes} crashes, redelivery made it {crashes_of(word)}")


def settle(stage: Stage, autopsy: Autopsy) -> None:
    """Bury, take over, push, run, until nothing is left; then check it all."""
    recovery = stage.fresh_recovery()
    recovery.step()
    autopsy.check_paid()
    benches = [stage.bench(HELPER, 0)]
    if any(word >> 16 & 0x3F for word in stage.words()):
        benches.append(stage.bench(HELPER - 1, 1))
    try:
        for _ in range(_ROUNDS):
            for bench in benches:
                bench.run_all()
            recovery._redeliverer.push_waiting()
            recovery._redeliverer.deliver_due(_FOREVER)
            if all(state == FREE or state >= DONE for state in stage.states()):
                break
        else:
            raise Broken(f"jobs are stuck: states {stage.states()}")
    finally:
        for bench in benches:
            bench.leave()
    _check_results(stage, autopsy)
    for client in list(stage.clients):
        client.close()
    recovery._next_tidy = 0.0
    recovery.step()
    _check_left(stage)


def _check_results(stage: Stage, autopsy: Autopsy) -> None:
    for number in range(board.JOBS):
        count, sent = board.executions[number], stage.sent.get(number)
        if board.altered[number]:
            raise Broken(f"job {number} received other arguments than were sent")
        runs = tasks.RUNS.get(sent.task.name, 1) if sent else 1
        most = runs + autopsy.was_running.get(number, 0)
        if board.cancelled[number] == board.PROMISED:
            if count:
                raise Broken(f"job {number} ran although cancel said that it would not")
        elif not board.accepted[number] or board.cancelled[number] or (sent and sent.is_dead_letter):
            if count > most:
                raise Broken(f"job {number} ran {count} times, at most {most} are explained")
        elif not runs <= count <= most:
            raise Broken(f"job {number} ran {count} times, wanted {runs}, at most {most} are explained")
        if sent is not None and sent.job is not None and not board.cancelled[number]:
            _check_result(number, sent)


def _check_result(number: int, sent: Sent) -> None:
    assert sent.job is not None
    if sent.is_dead_letter:
        if not isinstance(sent.job.exception(0), WorkerLost):
            raise Broken(f"job {number} shall be a dead letter")
        return
    if sent.task.name == tasks.failing.name:
        error = sent.job.exception(0)
        if not isinstance(error, ValueError) or str(error) != f"job {number} fails":
            raise Broken(f"job {number} shall fail with its own error, not {error!r}")
        return
    try:
        value: Any = sent.job.result(0)
    except JobCancelled as error:
        raise Broken(f"job {number} counts as cancelled, nobody was told so") from error
    if sent.part is not None:
        value = value[1][sent.part]
    if sent.task.name == tasks.doubled.name:
        is_right = bool(np.array_equal(value, np.full(1500, number * 2.0)))
    else:
        is_right = value == (tasks.text_of(number, tasks.LARGE_BYTES) if sent.task.name == tasks.large.name else number)
    if not is_right:
        raise Broken(f"the result of job {number} is {value!r}")
    if sent.task.name == tasks.doubled.name:
        sent.job._outcome = None  # lets go of the block that the array lies in


def _check_left(stage: Stage) -> None:
    segment = stage.segment
    left = {
        "slots": [slot for slot, state in enumerate(stage.states()) if state != FREE],
        "generations": [slot for slot, word in enumerate(stage.words()) if not word >> GENERATION_SHIFT],
        "block bytes": BlockPool(segment, stage.lock_file, PRODUCER_PIN, 0).used_bytes(),
        "pins": column(segment, "pins").nonzero()[0].tolist(),
        "lanes": (column(segment, "tails") - column(segment, "heads")).nonzero()[0].tolist(),
        "worker rows": [i for i, row in enumerate(segment.rows("worker_rows")) if row[WORKER["state"]] != WORKER_FREE],
        "producer rows": [i for i, row in enumerate(segment.rows("producer_rows")) if row[PRODUCER["pid"]]],
        "sleepers": column(segment, "sleeping").nonzero()[0].tolist(),
        "doorbells": stage.bells_left(),
    }
    leaked = {what: which for what, which in left.items() if which}
    if leaked:
        raise Broken(f"left behind: {leaked}")
