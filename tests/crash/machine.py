"""Any order of everything, deaths included: a hypothesis state machine over the stage of `tests.crash.stage`.

    python -m tests.crash.machine [--examples 2000] [--steps 100]

Whoever is killed dies before an opcode that hypothesis chooses. At the end of each example recovery and a worker finish
what is left, and every promise is checked (`stage.settle`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from shmq.client.client import Client
from shmq.errors import QueueFull, TooManyProducers
from shmq.memory import locks
from shmq.memory.layout import WORKER, WORKER_FREE
from tests.crash.bytecode.tracing import kill_at
from tests.crash.bytecode.worker_steps import take_back
from tests.crash.stage import board
from tests.crash.stage.settle import Autopsy, settle
from tests.crash.stage.stage import HELPER, Stage
from tests.crash.stage.tasks import doubled, failing, flaky, large, note

_FOREVER = 1 << 62
_OPCODES = st.integers(1, 6000)
_KINDS = st.sampled_from((note, note, note, flaky, failing, large, doubled))
_OPTIONS = st.sampled_from(({}, {}, {"priority": 1}, {"priority": 5}, {"delay": 0.0001}, {"forget": True}))
_SIZES = st.sampled_from((0, 24, 3000))


class Life(RuleBasedStateMachine):
    """Clients, a worker, recovery and a supervisor on one segment."""

    stage: Stage  # made once: a process has one lock file

    def __init__(self) -> None:
        super().__init__()
        stage = self.stage
        stage.drop()
        stage.reset()
        stage.segment.set_header("max_attempts", 15)  # whoever dies often is no dead letter here
        self.numbers = iter(range(board.JOBS))
        self.autopsy = Autopsy(stage)

    # -- who lives -----------------------------------------------------------------------------

    @rule()
    def register(self) -> None:
        """Another producer, if there is a row."""
        try:
            self.stage.client()
        except TooManyProducers:
            assert len(self.stage.clients) == self.stage.segment.shape.producers

    @precondition(lambda self: self.stage.clients)
    @rule(which=st.integers(0, 2), kind=_KINDS, options=_OPTIONS, size=_SIZES)
    def submit(self, which: int, kind: Any, options: dict[str, Any], size: int) -> None:
        """One job; a full row or lane says so at once."""
        number = next(self.numbers, None)
        if number is None:
            return
        clients = self.stage.clients
        try:
            self.stage.send(clients[which % len(clients)], number, kind, size, **{**options, "block": 0.0})
        except QueueFull:
            assert not board.accepted[number]

    @precondition(lambda self: self.stage.sent)
    @rule(which=st.integers(0, board.JOBS))
    def cancel(self, which: int) -> None:
        """Of a job that has not begun."""
        number, sent = list(self.stage.sent.items())[which % len(self.stage.sent)]
        if sent.job is None or board.executions[number] or board.cancelled[number] or sent.job.done():
            return
        board.cancelled[number] = board.ASKED
        if sent.job.cancel():
            board.cancelled[number] = board.PROMISED

    @rule()
    def read(self) -> None:
        """Results that are there: their slots are used again."""
        for sent in self.stage.sent.values():
            if sent.job is not None:
                sent.job.done()

    @rule(most=st.integers(1, 8))
    def work(self, most: int) -> None:
        """A worker claims a few jobs and runs them, gives back the rest of what it holds, leaves."""
        bench = self.stage.bench(HELPER)
        slots, words = bench.claim(most) if bench.claimer.lanes_with_work() else ([], [])
        for slot, word in list(zip(slots, words, strict=True))[: most // 2 + 1]:
            bench.seat.position += 1
            bench.executor.run(slot, word)
        bench.seat.give_back_rest()
        bench.leave()

    @rule()
    def recover(self) -> None:
        """Recovery, restarted, once through."""
        self.stage.fresh_recovery().step()

    @rule()
    def deliver(self) -> None:
        """Whatever is delayed is due now."""
        redeliverer = self.stage.fresh_recovery()._redeliverer
        redeliverer.push_waiting()
        redeliverer.deliver_due(_FOREVER)

    # -- who dies ------------------------------------------------------------------------------

    @rule(point=_OPCODES)
    def kill_worker(self, point: int) -> None:
        """Somewhere between its claim and the end of its batch."""
        rows = self.stage.segment.rows("worker_rows")
        free = [index for index in range(HELPER) if rows[index][WORKER["state"]] == WORKER_FREE]
        if not free:
            return

        def prepare() -> Callable[[], Any]:
            bench = self.stage.bench(free[0])
            bench.claimer.service_ns = 1.0
            return bench.run_all

        self._kill(point, prepare)
        self.stage.bury_row(free[0])

    @rule(point=_OPCODES)
    def kill_registering(self, point: int) -> None:
        """Somewhere while a producer takes a row."""

        def step() -> None:
            with suppress(TooManyProducers):
                self.stage.client()

        self._kill(point, lambda: step)

    @rule(point=st.integers(1, 300))
    def kill_submitting(self, point: int) -> None:
        """Somewhere in its second submit, which goes the quick way."""
        first, second = next(self.numbers, None), next(self.numbers, None)
        if first is None or second is None or len(self.stage.clients) == self.stage.segment.shape.producers:
            return
        task = note.options(block=0.0)

        def send(client: Client, number: int) -> None:
            with suppress(QueueFull):
                self.stage.send(client, number, task)

        def prepare() -> Callable[[], Any]:
            client = self.stage.client()
            send(client, first)
            return lambda: send(client, second)

        self._kill(point, prepare)

    @rule(point=_OPCODES)
    def kill_recovery(self, point: int) -> None:
        """Somewhere in its work."""

        def prepare() -> Callable[[], Any]:
            self.stage.lock_file.acquire(locks.RECOVERY)  # the one recovery: while it lives there is no other
            return self.stage.fresh_recovery().step

        self._kill(point, prepare)

    @rule()
    def restart_supervisor(self) -> None:
        """The next one takes the segment back."""
        take_back(self.stage)

    @precondition(lambda self: self.stage.clients)
    @rule(which=st.integers(0, 2))
    def expire_producer(self, which: int) -> None:
        """It dies between two calls; nobody reads its results."""
        self.stage.abandon(self.stage.clients[which % len(self.stage.clients)])

    def _kill(self, point: int, prepare: Callable[[], Callable[[], Any]]) -> None:
        if any(word >> 4 & 0xF >= 14 for word in self.stage.words()):
            return
        kill_at(point, prepare)
        self.autopsy.look()

    def teardown(self) -> None:
        """Everybody goes on; all promises are checked."""
        final = Autopsy(self.stage)
        final.was_running = self.autopsy.was_running
        settle(self.stage, final)


def play(examples: int, steps: int) -> None:
    """Raises what hypothesis found, with the shortest way there."""
    Life.stage = Stage(f"machine{os.environ.get('SHMQ_TEST_RUN', '')}-{os.getpid()}")
    try:
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
    finally:
        Life.stage.drop()
        Life.stage.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.machine", description=__doc__)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    play(options.examples, options.steps)
    print(f"{options.examples} examples of up to {options.steps} steps: every promise kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
