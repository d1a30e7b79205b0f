"""Named failpoints without a line of production code: `SYNC POINT: name` comments are the labels.

A line tracer stops where the code line behind such a comment is about to run, and kills, stops, raises or waits.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import shmq
from shmq.memory import locks
from shmq.memory.layout import WORKER, WORKER_LIVE
from shmq.transport.table import LEASED, RUNNING, STATE, owner_of
from tests.crash.bytecode.run import arrange, finish
from tests.crash.bytecode.steps import Step
from tests.crash.stage import board
from tests.crash.stage.stage import HELPER, Stage

ROOT = Path(shmq.__file__).parent
ACTIONS = ("kill", "stop", "raise", "delay")
_LABEL = re.compile(r"SYNC POINT: ([a-z-]+)")
_DELAY_S = 0.02


class Injected(BaseException):
    """What the `raise` action raises: like KeyboardInterrupt, it may come anywhere."""


@dataclass(frozen=True, order=True)
class Label:
    """One labelled line. `line` is the first code line behind the comment, or the comment's own."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{Path(self.file).relative_to(ROOT)}:{self.line} {self.name}"


@cache
def labels() -> tuple[Label, ...]:
    """Every SYNC POINT that stands in code (docstrings mention them in parentheses)."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            comment = line.partition("#")[2]
            match = _LABEL.search(comment)
            if match is None:
                continue
            at = number
            while lines[at - 1].strip().startswith("#") or not lines[at - 1].strip():
                at += 1
            found.append(Label(str(path), at, match[1]))
    return tuple(found)


def passed(step: Callable[[], Any], visit: Callable[[Label], None]) -> None:
    """Run the step; `visit` is called before each labelled line."""
    by_place = {(label.file, label.line): label for label in labels()}
    files = {label.file for label in labels()}

    def opened(frame: FrameType, event: str, _argument: object) -> Any:
        return inside if event == "call" and frame.f_code.co_filename in files else None

    def inside(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            label = by_place.get((frame.f_code.co_filename, frame.f_lineno))
            if label is not None:
                visit(label)
        return inside

    sys.settrace(opened)
    try:
        step()
    finally:
        sys.settrace(None)


def labels_of(stage: Stage, step: Step) -> list[Label]:
    """The labels that a step comes by."""
    arrange(stage, step)
    known = labels()

    def child() -> None:
        run, count = step.prepare(stage), 0

        def visit(label: Label) -> None:
            nonlocal count
            count += 1
            board.points[count] = known.index(label)
            board.points[0] = count

        passed(run, visit)

    board.points[0] = 0
    _, status = _wait(_fork(child))
    assert status == 0, f"{step.name} ends with {status:#x}"
    return sorted({known[i] for i in board.points[1 : 1 + board.points[0]]})


def attack(stage: Stage, step: Step, label: Label, action: str) -> None:
    """Do it when the step first comes by the label; then all others go on, and every promise is checked."""
    arrange(stage, step)

    def child() -> None:
        run, is_done = step.prepare(stage), False

        def visit(here: Label) -> None:
            nonlocal is_done
            if here == label and not is_done:
                is_done = True
                _act(action)

        try:
            passed(run, visit)
        except Injected:
            if step.name.startswith("producer") and stage.clients:  # it caught that, and lives on
                stage.send(stage.clients[-1], 40)

    pid = _fork(child)
    if action == "stop":
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            _others_go_on(stage, pid)
            os.kill(pid, signal.SIGCONT)
            _wait(pid)
    else:
        _, status = _wait(pid)
        wanted = signal.SIGKILL if action == "kill" else 0
        assert status == wanted, f"{step.name} at {label}, {action}: wait status {status:#x}"
    finish(stage, step)


def _act(action: str) -> None:
    if action == "raise":
        raise Injected
    if action == "delay":
        time.sleep(_DELAY_S)
    else:
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


def _others_go_on(stage: Stage, pid: int) -> None:
    """The stopped one is alive: nothing of what it holds may be touched. A byte that it holds would stop us too."""
    held = {
        byte
        for byte in (locks.RECOVERY, *map(locks.group_byte, range(stage.segment.shape.groups)))
        if stage.lock_file.holder(byte) == pid
    }
    if held - {locks.RECOVERY}:
        return
    leased = _leases_of_the_living(stage)
    if not held:
        stage.fresh_recovery().step()
    if leased - _leases_of_the_living(stage):
        raise AssertionError("recovery took a lease from a living worker")
    bench = stage.bench(HELPER)
    bench.run_all()
    bench.leave()


def _leases_of_the_living(stage: Stage) -> set[tuple[int, int]]:
    live = {i for i, row in enumerate(stage.segment.rows("worker_rows")) if row[WORKER["state"]] == WORKER_LIVE}
    words = enumerate(stage.words())
    return {(slot, word) for slot, word in words if word & STATE in (LEASED, RUNNING) and owner_of(word) in live}


def _fork(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for lock_file in locks._open_files.values():
            lock_file.forget()
        child()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(pid: int) -> tuple[int, int]:
    return os.waitpid(pid, 0)
