"""Runs steps point by point and counts. Each point is killed twice: once alone, once with recovery killed after it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

from shmq.memory import locks
from tests.crash.bytecode.steps import Step, producer_steps
from tests.crash.bytecode.tracing import find_points, kill_at
from tests.crash.bytecode.worker_steps import recovery_steps, supervisor_steps, worker_steps
from tests.crash.stage import board
from tests.crash.stage.settle import Autopsy, Broken, settle
from tests.crash.stage.stage import Stage

_ENOUGH = 20  # broken promises of one step
_TRIES = 10  # at an opcode that a run did not reach: how often a wait goes round is for the clock to say
_NEVER = 1 << 62


def all_steps() -> list[Step]:
    """Every step; those that mostly read (attaching, starting) come last, they have the most opcodes."""
    steps = [*producer_steps(), *worker_steps(), *recovery_steps(), *supervisor_steps()]
    return sorted(steps, key=lambda step: step.name.split()[-1] in {"registers", "starts"})


@dataclass
class Count:
    """One step's outcome: its opcodes, its kills alone, and those with a second kill in the recovery that follows."""

    name: str
    points: int = 0
    alone: int = 0
    again: int = 0
    broken: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0

    def add(self, other: Count) -> None:
        """Another part of the same step."""
        self.points = max(self.points, other.points)
        self.alone += other.alone
        self.again += other.again
        self.broken += other.broken
        self.elapsed_s += other.elapsed_s


class Visits:
    """Visits steps on one stage. With `part` (i, n) only each n-th point, from the i-th on."""

    def __init__(self, stage: Stage, *, every: int = 1, part: tuple[int, int] = (0, 1)) -> None:
        self._stage, self._every, self._part = stage, every, part
        self._next_in_recovery = 1 + part[0]

    def visit(self, step: Step) -> Count:
        """Kill at each opcode (`every` 1), or at those that follow a change of shared memory and each `every`-th."""
        stage, started, done = self._stage, time.monotonic(), Count(step.name)
        for kill, point in ((self._alone, _NEVER), (self._again, 1), (self._alone, _NEVER)):
            kill(step, point)  # what is made on first use, by the victim or by those who go on, shall not count
        done.points = int(board.point[0])  # where every opcode is looked at, as below, waits take other turns
        points = range(1, done.points + 1, self._every)
        if self._every > 1:
            arrange(stage, step)
            last, changed = find_points(lambda: step.prepare(stage), stage.segment.map, stage.bells_left)
            done.points, points = last, sorted({*changed, *range(1, last + 1, self._every), last})
        self._visit(step, done, points)
        if self._every == 1 and self._part[0] == 0:  # the count was one run's: others may take longer
            self._visit(step, done, count(done.points + 1))
        done.elapsed_s = time.monotonic() - started
        return done

    def _visit(self, step: Step, done: Count, points: Iterable[int]) -> None:
        first, parts = self._part
        for point in points:
            if point <= done.points and point % parts != first:
                continue
            for kill in (self._alone, self._again):
                try:
                    was_killed = any(kill(step, point) for _ in range(_TRIES if point <= done.points else 1))
                except Exception as error:
                    done.broken.append(f"{step.name}, opcode {point}, {kill.__name__}: {type(error).__name__}: {error}")
                    was_killed = True
                if not was_killed:
                    return
                done.alone += kill == self._alone
                done.again += kill == self._again
            done.points = max(done.points, point)
            if len(done.broken) > _ENOUGH:
                return

    def _alone(self, step: Step, point: int) -> bool:
        """Kill, then all others go on. False when the step survives."""
        arrange(self._stage, step)
        _, was_killed = kill_at(point, lambda: step.prepare(self._stage))
        finish(self._stage, step)
        return was_killed

    def _again(self, step: Step, point: int) -> bool:
        """Kill, then kill recovery at its next opcode in turn, then all others go on."""
        for _ in range(2):
            arrange(self._stage, step)
            _, was_killed = kill_at(point, lambda: step.prepare(self._stage))
            autopsy = Autopsy(self._stage)
            step.after(self._stage)
            _, was_recovery_killed = kill_at(self._next_in_recovery, self._recovery)
            settle(self._stage, autopsy)
            self._next_in_recovery = self._next_in_recovery + 1 if was_recovery_killed else 1
            if was_recovery_killed or not was_killed:
                return was_killed
        raise Broken("recovery has no opcode")

    def _recovery(self) -> Callable[[], object]:
        self._stage.lock_file.acquire(locks.RECOVERY)  # the one recovery: while it lives there is no other
        return self._stage.fresh_recovery().step


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


def run(names: str, *, every: int, part: tuple[int, int], report: Callable[[Count], None]) -> None:
    """Visit the steps whose name begins with `names`; `report` each as it is done."""
    stage = Stage(f"bytecode{os.environ.get('SHMQ_TEST_RUN', '')}-{os.getpid()}")
    gc.collect()
    gc.freeze()
    try:
        visits = Visits(stage, every=every, part=part)
        for step in all_steps():
            if step.name.startswith(names):
                report(visits.visit(step))
    finally:
        stage.drop()
        stage.close()
