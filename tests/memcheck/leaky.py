"""A worker with one planted leak, as a program of its own: the line that leaks is marked `# LEAK: <task>`.

python leaky.py TASK FOLDER [--jobs N] [--per-second N] [--trace] [--deltas] [--kill]

Jobs done are counted in FOLDER/TASK.jobs (8 bytes); without --jobs it works until its input ends.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import select
import signal
import sys
import time
from pathlib import Path

from shmq.memcheck.attribution import Source, TaskDeltas
from shmq.memcheck.tracing import WorkerTrace

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype, LIBC.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
KEPT: list[object] = []
CACHE: dict[int, str] = {}


def grow_list(_number: int) -> None:
    digits = [str(n) for n in range(20)]
    digits.sort()
    KEPT.append(bytes(100))  # LEAK: grow_list


class Phoenix:
    """A cycle whose finalizer saves it."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        KEPT.append(self)


def cycle_with_del(_number: int) -> None:
    Phoenix()  # LEAK: cycle_with_del


def c_malloc(_number: int) -> None:
    address = LIBC.malloc(200)  # LEAK: c_malloc
    ctypes.memset(address, 1, 200)


def only_when_failing(number: int) -> None:
    if number % 10 == 0:
        KEPT.append(bytes(1000))  # LEAK: only_when_failing
        raise ValueError(number)


def descriptors(_number: int) -> None:
    closed = os.open("/dev/null", os.O_RDONLY)
    os.open("/dev/null", os.O_RDONLY)  # LEAK: descriptors
    os.close(closed)


def levelling_cache(number: int) -> None:
    CACHE[number % 20_000] = str(number) * 40


def clean(number: int) -> None:
    text = [str(number + i) for i in range(50)]
    loop: dict[str, object] = {"text": text}
    loop["self"] = loop


TASKS = {
    task.__name__: task
    for task in (grow_list, cycle_with_del, c_malloc, only_when_failing, descriptors, levelling_cache, clean)
}


def line_of(task: str) -> int:
    """Where the leak of a task is planted."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# LEAK: {task}"))


def work(options: argparse.Namespace) -> None:
    folder, task = Path(options.folder), TASKS[options.task]
    sources = [source for source in (Source.of(name, f) for name, f in TASKS.items()) if source]
    trace = WorkerTrace(folder / "traces", f"leaky {options.task}", sources=sources, max_file_bytes=2 * 2**20)
    deltas = TaskDeltas(cost_share=1.0) if options.deltas else None
    if options.trace and not trace.start():
        sys.exit(trace.problem)
    with open(folder / f"{options.task}.jobs", "w+b") as file:
        file.truncate(8)
        counter = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
    begun, done = time.monotonic(), 0
    while done < options.jobs if options.jobs else not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(50):
            done += 1
            run(task, done, deltas)
        counter[0] = done
        trace.tick()
        ahead = done / options.per_second - (time.monotonic() - begun) if options.per_second else 0
        if ahead > 0:
            time.sleep(ahead)
    if options.kill:
        os.kill(os.getpid(), signal.SIGKILL)
    trace.stop()
    if deltas is not None:
        deltas.save(folder / "traces")


def run(task, number, deltas) -> None:
    before = sys.gettrace()
    if deltas is not None:
        deltas.begin(task.__name__)
    failed = False
    try:
        task(number)
    except ValueError:
        failed = True
    if sys.gettrace() is not before:  # as the worker does
        sys.settrace(before)
    if deltas is not None:
        deltas.end(failed=failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--per-second", type=int, default=0)
    for flag in ("--trace", "--deltas", "--kill"):
        parser.add_argument(flag, action="store_true")
    work(parser.parse_args())
