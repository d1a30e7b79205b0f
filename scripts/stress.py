"""What `scripts/stress` runs: producers x groups x a backlog queued at once, verified to the last job.

    main ── pause groups ── producers submit everything ── resume ── producers read and verify ── report
      └── supervisor with its own configuration, namespace and state directory, in a temporary folder

Two rounds with the same jobs. In the second the only worker of the first group is held up by one job; the other
groups must not be slower for it.

Checked:
  results   each job returns a checksum of its own arguments
  order     within one worker, jobs of one producer and priority start in the order of their submits. Jobs that a
            worker gave back (a neighbour ran for more than 20 ms) start later: each explains one job out of order
  groups    the groups that are not held up end no later than --slower times their first round
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import multiprocessing
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
START_S, GUARD_S = 60.0, 1800.0
PRIORITIES = (1, 2, 3, 4, 5)
TASKS = """
import itertools, os, time, zlib
import shmq

_turn = itertools.count()

@shmq.task
def work(producer: int, number: int) -> tuple[int, int, int]:
    return os.getpid(), next(_turn), zlib.crc32(b"%d %d" % (producer, number))

@shmq.task
def hold(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)
"""


@dataclass
class Report:
    """What one producer saw in one round."""

    wrong: list[str] = field(default_factory=list)
    misplaced: int = 0
    ended_s: dict[int, float] = field(default_factory=dict)  # by group, since the start of the round


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/stress", description=__doc__.splitlines()[0])
    parser.add_argument("--producers", type=int, default=16)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=200_000, help="in all, queued at once (default: %(default)s)")
    parser.add_argument("--slower", type=float, default=1.5, help="bound for the groups beside a blocked one")
    options = parser.parse_args()
    if options.groups < 2 or options.jobs < options.producers * options.groups:
        parser.error("at least 2 groups, and a job for each producer and group")
    folder = Path(tempfile.mkdtemp(prefix="shmq-stress-"))
    try:
        with supervisor(folder, options) as control:
            return run(folder, options, control)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, options: argparse.Namespace, control: Any) -> int:
    """Both rounds; the exit code."""
    context = multiprocessing.get_context("fork")
    ends: list[Connection] = []
    processes = []
    for number in range(options.producers):
        ours, theirs = context.Pipe()
        process = context.Process(target=produce, args=(theirs, ours, number, folder, options))
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    faults: list[str] = []
    walls: list[float] = []
    for hold in ("", str(folder / "release")):
        faults += round_of(ends, options, control, hold, walls)
    for end in ends:
        end.send(None)
    for process in processes:
        process.join(GUARD_S)
        if process.exitcode != 0:
            faults.append(f"a producer ended with {process.exitcode}")
    ratio = walls[1] / walls[0]
    if ratio > options.slower:
        faults.append(f"the other groups took {ratio:.2f} times as long beside a blocked one")
    print(f"groups beside a blocked one: {walls[1]:.2f} s against {walls[0]:.2f} s, ratio {ratio:.2f}")
    for fault in faults[:20]:
        print(f"WRONG: {fault}")
    print("stress: " + (f"{len(faults)} faults" if faults else "all results right, order kept, groups independent"))
    return 1 if faults else 0


def round_of(
    ends: list[Connection], options: argparse.Namespace, control: Any, hold: str, walls: list[float]
) -> list[str]:
    """One round: its faults. Appends the time in which all groups but the first ended."""
    groups = [f"g{n}" for n in range(options.groups)]
    before = control.given_back()
    for group in groups:
        control.ask("pause", group=group)
    started = time.monotonic()
    for end in ends:
        end.send(hold)
    for end in ends:
        expect(end, "submitted")
    submitted_s = time.monotonic() - started
    started = time.monotonic()
    for group in groups:
        control.ask("resume", group=group)
    for end in ends:
        end.send(started)
    others = [expect(end, "others") for end in ends]
    if hold:
        Path(hold).touch()
    reports: list[Report] = [expect(end, "report") for end in ends]
    total_s = time.monotonic() - started
    walls.append(max(max(seen.values()) for seen in others))
    given_back = control.given_back() - before
    misplaced = sum(report.misplaced for report in reports)
    faults = [wrong for report in reports for wrong in report.wrong]
    if misplaced > given_back:
        faults.append(f"{misplaced} jobs out of order, {given_back} explained by jobs given back")
    print(
        f"{'one group held up' if hold else 'all groups free':18} {options.jobs:,} jobs queued in {submitted_s:.2f} s, "
        f"done in {total_s:.2f} s ({options.jobs / total_s:,.0f}/s); out of order {misplaced}, given back {given_back}"
    )
    return faults


def expect(end: Connection, what: str) -> Any:
    """The producer's next message, which must be of that kind."""
    if not end.poll(GUARD_S):
        raise SystemExit(f"scripts/stress: no {what} from a producer within {GUARD_S:.0f} s")
    kind, value = end.recv()
    if kind != what:
        raise SystemExit(f"scripts/stress: {kind} from a producer: {value}")
    return value


# -- producers ----------------------------------------------------------------------------


def produce(end: Connection, other_end: Connection, number: int, folder: Path, options: argparse.Namespace) -> None:
    """One producer process: rounds until told to stop."""
    other_end.close()
    try:
        import shmq

        sys.path.insert(0, str(folder))
        with shmq.connect() as client:
            while (hold := end.recv()) is not None:
                one_round(client, end, number, hold, options)
    except Exception as error:
        end.send(("error", f"{type(error).__name__}: {error}"))
        raise


def one_round(client: Any, end: Connection, number: int, hold: str, options: argparse.Namespace) -> None:
    import stress_tasks

    lanes = [
        (group, priority, stress_tasks.work.options(group=f"g{group}", priority=priority))
        for priority in PRIORITIES
        for group in range(options.groups)
    ]
    if hold and number == 0:
        client.submit(stress_tasks.hold.options(group="g0", priority=1), hold)
    count = options.jobs // options.producers
    jobs: dict[tuple[int, int], list[tuple[int, Any]]] = {(group, priority): [] for group, priority, _ in lanes}
    for i in range(count):
        group, priority, task = lanes[i % len(lanes)]
        jobs[group, priority].append((i, client.submit(task, number, i)))
    end.send(("submitted", count))
    started = end.recv()
    report = Report()
    for group in [*range(1, options.groups), 0]:
        if group == 0:
            end.send(("others", dict(report.ended_s)))
        for priority in PRIORITIES:
            verify(report, number, jobs.pop((group, priority)))
        report.ended_s[group] = time.monotonic() - started
    end.send(("report", report))


def verify(report: Report, number: int, jobs: list[tuple[int, Any]]) -> None:
    """Read the results of one lane and compare; count starts out of order per worker."""
    turns: dict[int, list[int]] = {}
    for i, job in jobs:
        pid, turn, checksum = job.result(GUARD_S)
        if checksum != zlib.crc32(b"%d %d" % (number, i)):
            report.wrong.append(f"producer {number} job {i}: checksum {checksum}")
        turns.setdefault(pid, []).append(turn)
    for seen in turns.values():
        report.misplaced += len(seen) - longest_rise(seen)


def longest_rise(values: list[int]) -> int:
    """Length of the longest increasing subsequence (patience sorting): all others are out of place."""
    tails: list[int] = []
    for value in values:
        at = bisect.bisect_left(tails, value)
        tails[at : at + 1] = [value]
    return len(tails)


# -- the supervisor -------------------------------------------------------------------------


class Control:
    """The supervisor's control socket and counters."""

    def __init__(self, namespace: str, state_dir: Path) -> None:
        self._namespace, self._state_dir = namespace, state_dir

    def ask(self, command: str, **values: Any) -> Any:
        from shmq.supervisor.control import request

        return request(self._state_dir, command, **values)

    def is_ready(self, groups: int) -> bool:
        from shmq.errors import ShmqError

        try:
            workers = self.ask("workers")["workers"]
        except (ShmqError, OSError):
            return False
        return len({worker["group"] for worker in workers if worker["live"]}) == groups

    def given_back(self) -> int:
        """Jobs that workers gave back since the start."""
        from shmq.memory.layout import WORKER
        from shmq.memory.segment import attach, segment_name

        segment = attach(segment_name(self._namespace))
        try:
            return sum(row[WORKER["scheduled"]] for row in segment.rows("worker_rows"))
        finally:
            segment.close()


@contextlib.contextmanager
def supervisor(folder: Path, options: argparse.Namespace) -> Iterator[Control]:
    """A supervisor with a segment that holds all jobs at once."""
    namespace = f"stress-{os.environ.get('SHMQ_TEST_RUN', '')}{secrets.token_hex(3)}"
    os.environ.update(SHMQ_NAMESPACE=namespace, XDG_STATE_HOME=str(folder / "state"))
    slots = 16
    while slots < options.jobs // options.producers + 16:
        slots *= 2
    groups = "".join(f"[groups.g{n}]\nmin_workers = 1\nmax_workers = 1\n" for n in range(options.groups))
    (folder / "stress_tasks.py").write_text(TASKS)
    config = folder / "config.toml"
    config.write_text(
        f'namespace = "{namespace}"\ntasks = ["stress_tasks"]\n{groups}'
        "[groups.computation]\nmin_workers = 1\nmax_workers = 1\n"
        f"[memory]\nmax_producers = {options.producers + 2}\nslots_per_producer = {slots}\nslot_bytes = 256\n"
        f"block_budget_bytes = 1048576\narenas = 1\nmax_workers = {2 * options.groups + 4}\n"
    )
    config.chmod(0o600)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shmq", "supervise", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    control = Control(namespace, folder / "state" / "shmq" / namespace)
    try:
        give_up = time.monotonic() + START_S
        while not control.is_ready(options.groups + 1):
            if process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"scripts/stress: the supervisor does not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.02)
        yield control
    finally:
        process.terminate()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
