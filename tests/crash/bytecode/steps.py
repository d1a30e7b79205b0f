"""What is cut off: every step that touches shared memory, each on a stage of its own making.

`arrange` runs in the process that goes on afterwards and plays the surviving producer; `prepare` runs in
the child, untraced, and returns the step that is traced and killed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.crash.stage import board
from tests.crash.stage.stage import Stage


@dataclass(frozen=True)
class Step:
    """One step. `after` plays the supervisor once the child is dead."""

    name: str
    arrange: Callable[[Stage], Any]
    prepare: Callable[[Stage], Callable[[], Any]]
    after: Callable[[Stage], None]


def producer_steps() -> list[Step]:
    """Register, submit, collect, cancel, close."""

    def step(
        name: str, prepare: Callable[[Stage], Callable[[], Any]], arrange: Callable[[Stage], Any] = _nothing
    ) -> Step:
        return Step(f"producer {name}", arrange, prepare, _nothing)

    return [
        step("attaches and registers", lambda stage: lambda: stage.client(attached=True)),
        step("registers", lambda stage: stage.client),
        step("registers over a dead one", lambda stage: stage.client, dead_producer),
        step("submits", _submits()),
        step("submits the slow way", _submits(block=0.0)),
        step("submits with a block", _submits(size=3000)),
        step("submits for later", _submits(delay=0.001)),
        step("submits to be forgotten", _submits(forget=True)),
        step("submits into a full row", _submits_when_full),
        step("submits a chunk", _submits_chunk),
        step("collects", _collects),
        step("cancels", _cancels),
        step("leaves", _leaves),
    ]


def _nothing(_stage: Stage) -> None:
    pass


def dead_producer(stage: Stage) -> None:
    """Every row is held; row 0's process died in the middle of a publish, with pins, results and tagged slots."""
    clients = [stage.client() for _ in range(stage.segment.shape.producers)]
    victim = next(c for c in clients if c._row.index == 0)
    bench = stage.bench(0)
    stage.send(victim, 0)
    bench.run_all()
    bench.leave()
    for number in range(1, 4):
        stage.send(victim, number)
    stage.send(victim, 4, delay=0.0005)
    slot = victim._free[-1]
    victim._blocks.allocate_pinned(5000)
    victim._blocks.allocate(100, slot, stage.segment.view("words")[slot] >> 32)
    stage.segment.view("tails")[
        stage.sent[3].job._origin.client._registry.target(victim, stage.sent[3].task).route.lane
    ] -= 1  # type: ignore[union-attr]
    for client in clients:
        if client is not victim:
            stage.send(client, 10 + client._row.index)
    stage.abandon(victim)


def _submits(**options: Any) -> Callable[[Stage], Callable[[], Any]]:
    def prepare(stage: Stage) -> Callable[[], Any]:
        client = stage.client()
        stage.send(client, 0)

        def step() -> None:
            stage.send(client, 1, **options)
            stage.send(client, 2, **options)

        return step

    return prepare


def _submits_when_full(stage: Stage) -> Callable[[], Any]:
    client, bench = stage.client(), stage.bench(0)
    for number in range(stage.segment.shape.slots_per_producer):
        stage.send(client, number)
    bench.run_all()
    bench.leave()
    return lambda: stage.send(client, 20)


def _submits_chunk(stage: Stage) -> Callable[[], Any]:
    client = stage.client()
    return lambda: stage.send_chunk(client, range(4))


def _collects(stage: Stage) -> Callable[[], Any]:
    from tests.crash.stage.tasks import doubled, failing, large, note

    client, bench = stage.client(), stage.bench(0)
    jobs = [stage.send(client, n, task) for n, task in enumerate((note, failing, large, doubled))]
    bench.run_all()
    bench.leave()
    return lambda: [job.exception(0) for job in jobs]


def _cancels(stage: Stage) -> Callable[[], Any]:
    client = stage.client()
    jobs = [stage.send(client, 0), stage.send(client, 1, delay=0.001), stage.send(client, 2)]

    def step() -> None:
        for number, job in enumerate(jobs[:2]):
            board.cancelled[number] = board.ASKED
            if job.cancel():
                board.cancelled[number] = board.PROMISED

    return step


def _leaves(stage: Stage) -> Callable[[], Any]:
    client, bench = stage.client(), stage.bench(0)
    stage.send(client, 0)
    bench.run_all()
    bench.leave()
    stage.send(client, 1)
    return client.close
