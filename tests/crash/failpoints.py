"""Named failpoints without a line of production code.

Labels are the `SYNC POINT: name` comments, and every statement that stores into shared memory, named by its function
and what it stores into: both are read from the source, so new code has its labels by itself. A line tracer stops where
the labelled line is about to run, and kills, stops, raises or waits. Production code is not touched, and pays nothing.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import shmq
from shmq.errors import ClientClosed, TaskFailed
from shmq.memory import locks
from shmq.memory.layout import WORD, WORKER, WORKER_LIVE
from shmq.transport.table import LEASED, RUNNING, STATE, owner_of
from tests.crash.bytecode.run import all_steps, arrange, finish
from tests.crash.bytecode.steps import Step
from tests.crash.stage import board
from tests.crash.stage.stage import HELPER, Stage

ROOT = Path(shmq.__file__).parent
ACTIONS = ("kill", "stop", "raise", "delay")
_LABEL = re.compile(r"SYNC POINT: ([a-z-]+)")
_FOLDERS = ("client", "memory", "supervisor", "transport", "worker")
_SHARED = frozenset((
    "cancels", "control", "dues", "heads", "kills", "map", "payload", "pins", "progress", "results", "rings", "row",
    "rows", "sleeping", "table", "tags", "tails", "whole", "words",
))  # fmt: skip
_DELAY_S = 0.02


class Injected(BaseException):
    """What the `raise` action raises: like KeyboardInterrupt, it may come anywhere."""


@dataclass(frozen=True, order=True)
class Label:
    """One labelled line: a store, or the first code line behind a comment (or the comment's own)."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{Path(self.file).relative_to(ROOT)}:{self.line} {self.name}"


@cache
def labels() -> tuple[Label, ...]:
    """Every SYNC POINT that stands in code (docstrings mention them in parentheses), every store to shared memory."""
    found: dict[tuple[str, int], Label] = {}
    for path in sorted(ROOT.rglob("*.py")):
        source = path.read_text()
        for line, name in [*_sync_points(source), *_stores(source, path)]:
            found.setdefault((str(path), line), Label(str(path), line, name))
    return tuple(sorted(found.values()))


def _sync_points(source: str) -> Iterator[tuple[int, str]]:
    lines = source.splitlines()
    for number, line in enumerate(lines, 1):
        match = _LABEL.search(line.partition("#")[2])
        if match is None:
            continue
        at = number
        while lines[at - 1].strip().startswith("#") or not lines[at - 1].strip():
            at += 1
        yield at, match[1]


def _stores(source: str, path: Path) -> Iterator[tuple[int, str]]:
    if path.relative_to(ROOT).parts[0] not in _FOLDERS:
        return
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Subscript) and _is_shared(target):
                    yield node.lineno, f"{function.name}: {ast.unparse(target)}"


def _is_shared(target: ast.Subscript) -> bool:
    """Is the container one of the segment's fields, by whatever name it has here?"""
    base: ast.expr = target.value
    while isinstance(base, ast.Subscript):
        base = base.value
    if isinstance(base, ast.Call):
        return isinstance(base.func, ast.Attribute) and base.func.attr == "view"
    name = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
    return name.lstrip("_").removeprefix("np_") in _SHARED


@cache
def _by_place() -> tuple[dict[tuple[str, int], Label], frozenset[str]]:
    return {(label.file, label.line): label for label in labels()}, frozenset(label.file for label in labels())


def passed(step: Callable[[], Any], visit: Callable[[Label], None]) -> None:
    """Run the step; `visit` is called before each labelled line."""
    by_place, files = _by_place()

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
        passed(step.prepare(stage), lambda label: board.points.__setitem__(known.index(label), 1))

    board.points[: len(known)] = memoryview(bytes(8 * len(known))).cast(WORD)
    _, status = _wait(_fork(child))
    assert status == 0, f"{step.name} ends with {status:#x}"
    return [label for label, is_passed in zip(known, board.points, strict=False) if is_passed]


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
                with suppress(ClientClosed):  # it was about to leave
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
    try:
        finish(stage, step)
    except TaskFailed as error:  # raised between the task's return and its ack: told to the producer as the job's end
        if action != "raise" or Injected.__name__ not in str(error):
            raise


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


def main() -> int:
    """Every action at every label in every step that comes by; with `--once` in the first such step only."""
    stage = Stage(f"failpoints{os.environ.get('SHMQ_TEST_RUN', '')}-{os.getpid()}")
    done, broken = 0, []
    seen: dict[Label, int] = {}
    try:
        for step in all_steps():
            for label in labels_of(stage, step):
                if "--once" in sys.argv and label in seen:
                    continue
                seen[label] = seen.get(label, 0) + 1
                for action in ACTIONS:
                    done += 1
                    try:
                        attack(stage, step, label, action)
                    except Exception as error:
                        broken.append(f"{step.name}, {label}, {action}: {type(error).__name__}: {error}")
                        print(broken[-1], flush=True)
    finally:
        stage.drop()
        stage.close()
    print(f"{done} attacks on {len(seen)} labels in {len(all_steps())} steps, {len(broken)} broke a promise")
    for label in labels():
        print(f"{seen.get(label, 0):>4} steps  {label}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
