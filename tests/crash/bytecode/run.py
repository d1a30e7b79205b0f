"""Runs steps point by point and counts."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.crash.bytecode.steps import Step, producer_steps
from tests.crash.bytecode.tracing import find_points, kill_at
from tests.crash.bytecode.worker_steps import recovery_steps, worker_steps
from tests.crash.stage.settle import Autopsy, Broken, settle
from tests.crash.stage.stage import Stage

MOST = 100_000


def all_steps() -> list[Step]:
    """Every step; those that mostly read (attaching, starting) come last, they have the most opcodes."""
    steps = [*producer_steps(), *worker_steps(), *recovery_steps()]
    return sorted(steps, key=lambda step: step.name.split()[-1] in {"registers", "starts"})


@dataclass
class Count:
    """One step's outcome."""

    step: Step
    points: int
    visited: int
    broken: list[str]
    elapsed_s: float


def visit(stage: Stage, step: Step, *, every: int = 1) -> Count:
    """Kill at each opcode (`every` 1), or at those that follow a change of shared memory and each `every`-th."""
    started = time.monotonic()
    arrange(stage, step)
    points, changed = find_points(lambda: step.prepare(stage), stage.segment.map, stage.bells_left)
    wanted = range(1, MOST) if every == 1 else sorted({*changed, *range(1, points + 1, every), points})
    visited, broken = 0, []
    for point in wanted:
        arrange(stage, step)
        pid, was_killed = kill_at(point, lambda: step.prepare(stage))
        try:
            finish(stage, step)
        except Exception as error:
            broken.append(f"{step.name}, opcode {point} (pid {pid}): {type(error).__name__}: {error}")
        if not was_killed:
            points = point - 1 if every == 1 else points
            break
        visited += 1
        if len(broken) > 20:
            break
    return Count(step, points, visited, broken, time.monotonic() - started)


def arrange(stage: Stage, step: Step) -> None:
    """A fresh stage, set for the step."""
    stage.drop()
    stage.reset()
    step.arrange(stage)


def finish(stage: Stage, step: Step) -> None:
    """The victim is dead: the others go on."""
    autopsy = Autopsy(stage)
    step.after(stage)
    if any(w < 1 << 32 for w in stage.words()):
        raise Broken("a job word lost its generation")
    settle(stage, autopsy)


def run(
    names: str, *, every: int, shard: tuple[int, int] = (0, 1), report: Callable[[Count], None] = lambda _: None
) -> list[Count]:
    """Visit the steps whose name begins with `names`; `report` each as it is done."""
    stage = Stage(f"bytecode{os.environ.get('SHMQ_TEST_RUN', '')}-{os.getpid()}")
    gc.collect()
    gc.freeze()
    try:
        wanted = [step for step in all_steps() if step.name.startswith(names)]
        counts = []
        for step in wanted[shard[0] :: shard[1]]:
            counts.append(visit(stage, step, every=every))
            report(counts[-1])
        return counts
    finally:
        stage.drop()
        stage.close()
