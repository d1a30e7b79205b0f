"""python -m tests.crash.bytecode [--only WORDS] [--every N] [--jobs N]: kills per step.

Exit code 1: a promise was broken, or an opcode left out. Each of `--jobs` processes takes every N-th opcode of every
step, on a stage of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from threading import Lock

from tests.crash.bytecode.run import Count, run


class Table:
    """Adds up the parts of each step; prints a step when its last part is there."""

    def __init__(self, parts: int) -> None:
        self._parts, self._lock = parts, Lock()
        self._arrived: dict[str, int] = {}
        self.counts: dict[str, Count] = {}
        print(f"{'step':<42}{'opcodes':>9}{'alone':>9}{'+recovery':>11}{'broken':>8}{'seconds':>9}")

    def add(self, part: Count) -> None:
        """One part of one step."""
        with self._lock:
            count = self.counts.setdefault(part.name, Count(part.name))
            count.add(part)
            self._arrived[part.name] = self._arrived.get(part.name, 0) + 1
            if self._arrived[part.name] == self._parts:
                print("\n    ".join([_line(count), *count.broken]), flush=True)

    def total(self) -> Count:
        """All steps."""
        total = Count(f"all {len(self.counts)} steps")
        for count in self.counts.values():
            total.points += count.points
            total.alone += count.alone
            total.again += count.again
            total.broken += count.broken
            total.elapsed_s += count.elapsed_s
        print(_line(total))
        print(
            f"{total.alone + total.again} kills: {total.alone} alone, {total.again} followed by a kill of recovery; "
            f"{100 * total.alone / max(total.points, 1):.1f} % and {100 * total.again / max(total.points, 1):.1f} % of "
            "all opcodes"
        )
        return total


def _line(count: Count) -> str:
    numbers = f"{count.points:>9}{count.alone:>9}{count.again:>11}{len(count.broken):>8}{count.elapsed_s:>9.1f}"
    return f"{count.name:<42}{numbers}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.bytecode")
    parser.add_argument("--only", default="", help="steps whose name begins with this")
    parser.add_argument(
        "--every", type=int, default=1, help="1: every opcode; N: each N-th, and all after a change of shared memory"
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--part", help="i/n, for one of the processes: counts as JSON lines")
    options = parser.parse_args()
    if options.part:
        part, parts = (int(number) for number in options.part.split("/"))
        report = lambda count: print(json.dumps(asdict(count)), flush=True)
        run(options.only, every=options.every, part=(part, parts), report=report)
        return 0
    table = Table(options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        statuses = list(pool.map(lambda part: _follow(table, options, part), range(options.jobs)))
    total = table.total()
    is_complete = options.every > 1 or total.alone == total.again == total.points
    return int(any(statuses) or bool(total.broken) or not is_complete)


def _follow(table: Table, options: argparse.Namespace, part: int) -> int:
    """Run one of the processes and take its counts; its exit status."""
    command = [
        sys.executable, "-m", "tests.crash.bytecode", "--only", options.only, "--every", str(options.every),
        "--part", f"{part}/{options.jobs}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            table.add(Count(**json.loads(line)))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
