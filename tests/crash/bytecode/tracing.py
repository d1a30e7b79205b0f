"""A child that ends itself by SIGKILL before its k-th opcode inside shmq."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import shmq
from shmq.memory import locks
from tests.crash.stage import board

_PACKAGE = str(Path(shmq.__file__).parent) + os.sep
_PATIENCE_S = 20
Step = Callable[[], Any]


def run_traced(step: Step, each: Callable[[], None]) -> None:
    """Call `each` before every opcode of shmq's own code that `step` runs."""

    def opened(frame: FrameType, event: str, _argument: object) -> Any:
        if event != "call" or not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return inside

    def inside(_frame: FrameType, event: str, _argument: object) -> Any:
        if event == "opcode":
            each()
        return inside

    sys.settrace(opened)
    try:
        step()
    finally:
        sys.settrace(None)


def kill_at(point: int, prepare: Callable[[], Step]) -> tuple[int, bool]:
    """Fork; the child prepares untraced, then runs the step up to its k-th opcode: (pid, was it killed)."""

    def child() -> None:
        step, count = prepare(), 0
        pid, kill, killed = os.getpid(), os.kill, signal.SIGKILL

        def each() -> None:
            nonlocal count
            count += 1
            if count == point:
                board.point[0] = count
                kill(pid, killed)

        run_traced(step, each)
        board.point[0] = count

    pid, status = forked(child)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and board.point[0] == point:
        return pid, True
    if status == 0 and board.point[0] < point:
        return pid, False
    raise AssertionError(f"the child ended with status {status:#x} after {board.point[0]} of {point} opcodes")


def find_points(prepare: Callable[[], Step], memory: Any, names: Callable[[], list[str]]) -> tuple[int, list[int]]:
    """(how many opcodes the step has, those before which shared memory or the names in /dev/shm have just changed)."""

    def child() -> None:
        step, count, changes = prepare(), 0, 0
        last, last_names, at = memory[:], names(), 0

        def each() -> None:
            nonlocal count, changes, last, last_names, at
            count += 1
            now, now_names = memory[:], last_names
            if (at_now := os.stat("/dev/shm").st_mtime_ns) != at:  # somebody made or removed a name: was it us?
                at, now_names = at_now, names()
            if now != last or now_names != last_names:
                last, last_names = now, now_names
                changes += 1
                board.points[changes + 1] = count

        run_traced(step, each)
        board.points[0], board.points[1] = count, changes

    _, status = forked(child)
    if status:
        raise AssertionError(f"the step ends with status {status:#x} although nobody kills it")
    return board.points[0], list(board.points[2 : 2 + board.points[1]])


def forked(child: Callable[[], None]) -> tuple[int, int]:
    """Run in a child that holds none of its parent's locks: (pid, wait status)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(_PATIENCE_S)  # a hang ends with SIGALRM, which no caller takes for a kill
            for lock_file in locks._open_files.values():
                lock_file.forget()
            child()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)
