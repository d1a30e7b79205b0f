"""Where the microseconds of a job go: `python -m perf.budget`.

    (1) producer ──submit──▶ lane ──claim──▶ run ──▶ ack ──▶ collect     real code, all of it in this process:
                                                                         nobody sleeps, nobody wakes
    (2) producer ──submit──▶ lane ──▶ worker × 2 ──▶ read                real workers: everybody's CPU per job

The stages of (1) are timed. Their parts are timed alone; what those leave is the stage's own bytecode, whose
number is counted. (2) minus (1) is what only a system of processes pays: waking, sleeping, cold caches. So
the lines add up to what is measured. Each time is the lowest tenth of many short windows: what a busy host
adds is left out.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.table import Table

from perf import machine, rig
from perf.harness import rolling, verify
from perf.results import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from shmq.client.client import Client

LOWEST = 0.1
BATCH = 64  # jobs per claim: what the adaptive batch reaches with tiny jobs
WINDOW_JOBS = 512
README, BEGIN, END = rig.ROOT / "perf" / "README.md", "<!-- budget: begin -->\n", "<!-- budget: end -->"


class Line(NamedTuple):
    """One line of the budget: a stage of (1) with its parts, or a line of its own. Seconds per job."""

    stage: str
    part: str
    seconds: float


class Budget(NamedTuple):
    """All lines, the total that they add up to, and how many bytecodes a job takes in each stage."""

    lines: list[Line]
    total_s: float
    rate_per_s: float
    bytecodes: dict[str, float]

    def stage(self, name: str) -> float:
        return sum(line.seconds for line in self.lines if line.stage == name)


def measure(windows: int = 200) -> Budget:
    """Both measurements against one rig; about ten seconds with the default number of windows."""
    with rig.supervised(2) as running:
        cpu_s, rate = _whole(running, windows // 4)
        running.command("pause", "computation")
        with _stopped({pid for pid, _ in running.live_workers()}):
            stages, parts, bytecodes = _alone(running.client, windows)
    lines = [Line(stage, part, seconds) for stage, named in parts.items() for part, seconds in named.items()]
    for stage, seconds in stages.items():
        lines.append(Line(stage, "own bytecode", seconds - sum(parts.get(stage, {}).values())))
    lines.append(Line("processes", "wake, sleep, cold caches", cpu_s - sum(stages.values())))
    return Budget(lines, cpu_s, rate, bytecodes)


@contextmanager
def _stopped(workers: set[int]) -> Iterator[None]:
    """The real workers stand still: a paused worker that is rung would wake up beside the measurement."""
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def _whole(running: rig.Rig, windows: int) -> tuple[float, float]:
    """CPU seconds of tree and producer per echo job, and jobs per second, with real workers."""
    from perf import tasks

    submit, jobs = tasks.echo.submit, 4_000
    costs, rates = [], []
    for _ in range(windows):
        cpu, own, begin = running.cpu_s(), time.process_time(), time.perf_counter()
        results = rolling(submit, methodcaller("result"), range(jobs), rig.WINDOW)
        rates.append(jobs / (time.perf_counter() - begin))
        costs.append((time.process_time() - own + running.cpu_s() - cpu) / jobs)
        verify(results, range(jobs))
    return quantile(costs, LOWEST), quantile(rates, 1 - LOWEST)


def _alone(client: Client, windows: int) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, float]]:
    """Seconds per job of each stage, the worker's too, all run by this process; of their parts; bytecodes."""
    from perf import tasks
    from shmq.config.model import Group
    from shmq.memory.blocks import WORKER_PIN, BlockPool
    from shmq.transport.claim import Claimer
    from shmq.worker.execution import Executor
    from shmq.worker.seat import Seat

    segment, index = (
        client.segment,
        client.segment.shape.workers - 1,
    )  # the last row: no real worker sits there
    seat = Seat(segment, index, 0, "computation", Group())
    claimer = Claimer(segment, client._lock_file, 0, index)
    blocks = BlockPool(segment, client._lock_file, WORKER_PIN, index)
    executor = Executor(seat, {tasks.echo.key: tasks.echo}, blocks, lambda: None, claimer.has_work)
    seen: dict[str, list[float]] = {"submit": [], "claim": [], "run + ack": [], "collect": []}
    for _ in range(windows):
        for stage, seconds in _window(claimer, executor).items():
            seen[stage].append(seconds / WINDOW_JOBS)
    stages = {stage: quantile(values, LOWEST) for stage, values in seen.items()}
    return stages, _parts(client), _bytecodes(claimer, executor)


def _window(claimer: Any, executor: Any, clock: Callable[[], float] | None = None) -> dict[str, float]:
    """What each stage takes for one window of jobs, by the given clock (seconds without one)."""
    from perf import tasks

    submit, run_batch = tasks.echo.submit, executor.run_batch
    clock = clock or time.perf_counter
    begin = clock()
    jobs = [submit(item) for item in range(WINDOW_JOBS)]
    submitted = clock()
    batches = []
    while lanes := claimer.lanes_with_work():
        batches.append(claimer.claim(lanes, BATCH))
    claimed = clock()
    for slots, words in batches:
        executor.seat.batch_slots, executor.seat.batch_words, executor.seat.rung = slots, words, 0
        run_batch(slots, words, 0)
    ran = clock()
    results = [job.result() for job in jobs]
    collected = clock()
    verify(results, range(WINDOW_JOBS))
    return {
        "submit": submitted - begin,
        "claim": claimed - submitted,
        "run + ack": ran - claimed,
        "collect": collected - ran,
    }


def _bytecodes(claimer: Any, executor: Any) -> dict[str, float]:
    """Bytecodes per job of each stage: the same on every host, however busy."""
    from shmq.worker import execution

    executed = 0

    def count(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal executed
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        executed += event == "opcode"
        return count

    known, execution.SLOW_NS = execution.SLOW_NS, 1 << 62  # while traced, every job looks slow
    sys.settrace(count)
    try:
        seen = _window(claimer, executor, lambda: executed)
    finally:
        sys.settrace(None)
        execution.SLOW_NS = known
    return {stage: number / WINDOW_JOBS for stage, number in seen.items()}


def _parts(client: Client) -> dict[str, dict[str, float]]:
    """The named parts of the stages, each alone on memory of its own; seconds per job."""
    from perf import tasks
    from shmq.client.handle import Job, Origin
    from shmq.client.hot import AT_ONCE
    from shmq.memory.fence import new_fence
    from shmq.memory.layout import WORD
    from shmq.transport.bells import Bells

    spare = memoryview(bytearray(client.segment.shape.slot_bytes))
    words, halves, key, now = spare.cast(WORD), spare.cast("I"), tasks.echo.key, time.monotonic_ns()
    words[0] = key
    encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple[int]).decode
    message, place = encode((1,)), slice(128, 128 + len(encode((1,))))
    spare[place] = message
    origin = Origin(client, None, decode)
    fence, lock, sleepers = new_fence(), threading.RLock(), Bells(client.segment).sleepers(0)

    def locked() -> None:
        lock._is_owned()  # type: ignore[attr-defined]
        lock.acquire()
        lock.release()

    def write_header() -> None:
        words[2] = now
        halves[2] = 5

    def read_header() -> tuple[int, int, int]:
        return words[0], halves[2], halves[3]

    def three_words() -> None:
        halves[20] = 1
        halves[22] = 2
        words[12] = 3

    with tempfile.TemporaryFile() as file:

        def group_byte() -> None:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
            fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)

        record_lock = _time(group_byte)
    return {
        "submit": {
            "encode": _time(lambda: encode((1,))),
            "header": _time(write_header),
            "clock, twice": 2 * _time(time.monotonic_ns),
            "payload": _time(lambda: spare.__setitem__(place, message)),
            "ring, word, tail": _time(three_words),
            "look for sleepers": _time(partial(client.segment.map.find, b"\1", *sleepers)),
            "client lock": _time(locked),
            "handle": _time(lambda: Job().of_slot(origin, 1, 2)),
        },
        "claim": {"group byte": record_lock / BATCH, "fence": _time(fence) / BATCH},
        "run + ack": {
            "header": _time(read_header),
            "decode": _time(lambda: decode(spare[place])),
            "call": _time(partial(tasks.echo.function, 1)),
            "encode": _time(lambda: encode(1)),
            "result and words": _time(three_words),
            "clock": _time(time.monotonic_ns),
        },
        "collect": {
            "word": _time(lambda: words[0]),
            "copy out": _time(lambda: bytes(spare[place])),
            "decode": _time(lambda: decode(message)),
            "client lock": _time(locked) / AT_ONCE,
        },
    }


def _time(call: Callable[[], object], calls: int = 2_000, rounds: int = 30) -> float:
    """Seconds of one call without the loop around it."""
    clock, repeat = time.perf_counter, range(calls)
    taken, empty = [], []
    for _ in range(rounds):
        begin = clock()
        for _ in repeat:
            call()
        middle = clock()
        for _ in repeat:
            _nothing()
        taken.append(middle - begin)
        empty.append(clock() - middle)
    return max(quantile(taken, LOWEST) - quantile(empty, LOWEST), 0.0) / calls


def _nothing() -> None:
    pass


def table(budget: Budget) -> Table:
    """The budget as README shows it."""
    shown = Table(title=f"µs per echo job, {budget.rate_per_s:,.0f} jobs/s", title_justify="left")
    for column in ("stage", "part", "µs", "share", "bytecodes"):
        shown.add_column(column, justify="left" if column in {"stage", "part"} else "right")
    for stage in dict.fromkeys(line.stage for line in budget.lines):
        whole, executed = budget.stage(stage), budget.bytecodes.get(stage)
        counted = "" if executed is None else f"{executed:.0f}"
        shown.add_row(stage, "", f"{whole * 1e6:.2f}", f"{whole / budget.total_s:.0%}", counted, style="bold")
        for line in budget.lines:
            if line.stage == stage:
                shown.add_row("", line.part, f"{line.seconds * 1e6:.2f}")
        shown.add_section()
    shown.add_row("CPU per job, all processes", "", f"{budget.total_s * 1e6:.2f}", "100%", style="bold")
    return shown


def markdown(budget: Budget) -> str:
    """The same for README."""
    rows = ["| stage | part | µs | bytecodes |", "|---|---|---:|---:|"]
    for stage in dict.fromkeys(line.stage for line in budget.lines):
        executed = f"{budget.bytecodes[stage]:.0f}" if stage in budget.bytecodes else ""
        rows.append(f"| **{stage}** | | **{budget.stage(stage) * 1e6:.2f}** | {executed} |")
        rows += [f"| | {line.part} | {line.seconds * 1e6:.2f} | |" for line in budget.lines if line.stage == stage]
    rows.append(f"| **CPU per job, all processes** | | **{budget.total_s * 1e6:.2f}** | |")
    on = machine.describe()
    return "\n".join([*rows, "", f"{on.cores} × {on.cpu}, {on.python}, load before {on.load_before}.", ""])


def write(text: str, readme: Path = README) -> None:
    """Puts the budget between README's markers. Raises ValueError when they are gone."""
    whole = readme.read_text(encoding="utf-8")
    head, begin, rest = whole.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme}: no {BEGIN.strip()} … {END}; put the markers back where the budget belongs")
    readme.write_text(head + begin + text + end + tail, encoding="utf-8")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--windows", default=200, show_default=True, help="Short windows per figure; the lowest tenth counts.")
@click.option("--write", "into_readme", is_flag=True, help="Put the budget into perf/README.md.")
def main(windows: int, into_readme: bool) -> None:
    """Prints the budget of one echo job."""
    found = measure(windows)
    Console().print(table(found))
    if into_readme:
        write(markdown(found))


if __name__ == "__main__":
    main()
