"""A supervisor is SIGKILLed while jobs run, 100,000 are waiting, and it is started again: how long until work flows?

    python -m tests.crash.restart [--jobs 100000] [--rounds 5]

Clock zero is the start of the new `shmq supervise` (as a service manager would start it). Producers have gone on
submitting meanwhile. Each round says when the segment was taken back, when the task modules were imported, when the
first worker had joined, when the first result was there, and when the job that ran at the kill had ended.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from shmq.memory.layout import WORKER, WORKER_LIVE
from shmq.memory.segment import Segment
from tests.live import LiveSupervisor, until

TASKS = """
import time
import shmq

@shmq.task
def echo(x):
    return x

@shmq.task(retries=0)
def nap(seconds):
    time.sleep(seconds)
    return seconds
"""
CONFIG = """
[groups.computation]
min_workers = 2
max_workers = 2
[memory]
max_producers = 4
slots_per_producer = 65536
slot_bytes = 512
block_budget_bytes = 4194304
max_workers = 16
"""
PHASES = ("segment taken back", "tasks imported", "worker joined", "first result", "cut-off job done")


def one_round(live: LiveSupervisor, jobs: int) -> dict[str, float]:
    """Kill, submit, start again: seconds from the start to each phase."""
    segment = live.segment
    cut_off = live.submit("nap", 0.2)
    until(lambda: cut_off.state == "running", "a job runs")
    live.kill()
    until(lambda: not _has_worker(segment), "the workers end with their supervisor")
    clients = [live.client() for _ in range(2)]
    echo = clients[0]._registry.task("jobs.echo")
    waiting = [clients[number % 2].submit_task(echo, (number,)) for number in range(jobs)]
    registry, epoch = segment.header("registry"), segment.header("epoch")
    seen: dict[str, float] = {}
    started = time.monotonic()
    live.start(wait=False)
    conditions = {
        "segment taken back": lambda: segment.header("epoch") != epoch,
        "tasks imported": lambda: segment.header("registry") != registry,
        "worker joined": lambda: _has_worker(segment),
        "first result": lambda: waiting[0].done() or waiting[1].done(),
        "cut-off job done": cut_off.done,
    }
    for phase in PHASES:
        until(conditions[phase], phase)
        seen[phase] = time.monotonic() - started
    assert [job.result(60) for job in waiting] == list(range(jobs))
    for client in clients:
        client.close()
        live._clients.remove(client)
    return seen


def _has_worker(segment: Segment) -> bool:
    rows = segment.rows("worker_rows")
    return any(row[WORKER["state"]] == WORKER_LIVE and Path(f"/proc/{row[WORKER['pid']]}").exists() for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.restart", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LiveSupervisor(Path(folder), TASKS, CONFIG) as live:
        rounds = []
        for _ in range(options.rounds):
            rounds.append(one_round(live, options.jobs))
            print("  ".join(f"{phase} {1000 * at:.0f} ms" for phase, at in rounds[-1].items()), flush=True)
    flows = [seen["first result"] for seen in rounds]
    print(
        f"supervisor SIGKILLed, {options.jobs} jobs waiting: work flows again {statistics.median(flows):.2f} s after "
        f"the new one was started (median of {len(flows)}, most {max(flows):.2f} s); all results right"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
