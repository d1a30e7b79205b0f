"""Idle to busy, a million times, and nobody dies: is a ring ever lost?

    python -m tests.crash.edges [--edges 1000000]

Two producers, each with a group of one worker: submit one job, read its result, submit the next. An edge is a nap that
a worker began and was rung out of. A nap that timed out and found work nobody had rung for is a rescue: there must be
none.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from shmq.memory.layout import WORKER
from tests.live import LiveSupervisor

TASKS = """
import shmq

@shmq.task(group="left")
def left(x):
    return x

@shmq.task(group="right")
def right(x):
    return x
"""
GROUPS = ("left", "right")
CONFIG = "".join(f'[groups.{name}]\nmin_workers = 1\nmax_workers = 1\nmode = "fixed"\n' for name in GROUPS)
_LOOK_EACH = 500  # jobs


def rescued(live: LiveSupervisor) -> int:
    """Times that forgotten work was found: by a worker's own sleep, or by the supervisor for one at rest."""
    return sum_of(live, "rescues") + sum(row["rescues"] for row in live.controls())


def sum_of(live: LiveSupervisor, word: str) -> int:
    """Of a counter in all worker rows."""
    return sum(int(row[WORKER[word]]) for row in live.segment.rows("worker_rows"))


def play(live: LiveSupervisor, group: str, edges: int) -> int:
    """One producer, until all workers together have begun so many naps; jobs done."""
    client, jobs = live.client(), 0
    task = client._registry.task(f"jobs.{group}")
    while sum_of(live, "naps") < edges:
        for number in range(_LOOK_EACH):
            assert client.submit_task(task, (number,)).result(60) == number
        jobs += _LOOK_EACH
    client.close()
    return jobs


def run(folder: Path, edges: int) -> tuple[int, int, float]:
    """(naps, rescues, seconds)."""
    with LiveSupervisor(folder, TASKS, CONFIG) as live:
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                live._segment = None
                play(live, GROUPS[1], edges)
                status = 0
            finally:
                os._exit(status)
        play(live, GROUPS[0], edges)
        assert os.waitpid(child, 0)[1] == 0, "the other producer failed"
        return sum_of(live, "naps"), rescued(live), time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.edges", description=__doc__)
    parser.add_argument("--edges", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        naps, rescues, seconds = run(Path(folder), options.edges)
    print(f"{naps} idle-to-busy edges in {seconds:.0f} s: the bounded sleep found forgotten work {rescues} times")
    return int(rescues > 0)


if __name__ == "__main__":
    sys.exit(main())
