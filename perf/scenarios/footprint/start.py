"""How long until something happens.

shmq supervise ──▶ supervisor ─ fork server ─ worker ──▶ first result seen by a producer
python ──▶ import shmq, client loaded
shmq scale ──▶ supervisor ─▶ fork server ─▶ worker × 4 more, one by one
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perf import rig
from perf.harness import Contestant, Observation, Scenario, Setting, verify
from perf.results import quantile
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MORE_WORKERS = 4
_IMPORT = """
import sys, time
before = set(sys.modules)
{first}
begin, cpu = time.perf_counter(), time.process_time()
import shmq
bare = time.perf_counter()
shmq.connect, shmq.task
ready, cpu = time.perf_counter(), time.process_time() - cpu
print(bare - begin, ready - begin, cpu, *sorted(set(sys.modules) - before))
"""
_NEVER_IN_A_PRODUCER = ("psutil", "memray", "shmq.supervisor", "matplotlib", "rich")


def contestants(setting: Setting) -> list[Contestant]:
    return [
        Contestant("supervise", "subject", lambda: _alone(lambda _jobs: _first_result(setting.workers)), 1),
        Contestant("import shmq", "subject", lambda: _alone(lambda _jobs: _import("")), 1),
        Contestant("import shmq after numpy", "subject", lambda: _alone(lambda _jobs: _import("import numpy")), 1),
        Contestant("worker", "subject", _open_scaling, 1),
    ]


def _first_result(workers: int) -> Observation:
    from perf import tasks

    begin = time.perf_counter()
    with rig.started(workers) as (namespace, process, folder):
        client = rig.connect(namespace, process, folder)
        connected = time.perf_counter() - begin
        result = client.submit(tasks.echo, 7).result(timeout=rig.START_LIMIT_S)
        took = time.perf_counter() - begin
        client.close()
    verify([result], [7])
    return Observation({"first_result_s": took, "connect_s": connected})


def _import(first: str) -> Observation:
    with tempfile.TemporaryDirectory(prefix="perf-import-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT.format(first=first)],
            env=rig.environment("perf-import", Path(folder)),
            cwd=rig.ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=30.0,
        )
    bare, ready, cpu, *modules = done.stdout.split()
    unwanted = _NEVER_IN_A_PRODUCER if first else (*_NEVER_IN_A_PRODUCER, "numpy")
    verify([name for name in unwanted if name in modules], [])
    return Observation({"import_s": float(ready), "import_cpu_s": float(cpu), "bare_import_s": float(bare)})


@contextmanager
def _open_scaling() -> Iterator[Callable[[int], Observation]]:
    with rig.supervised(1, group={"max_workers": 1 + MORE_WORKERS, "mode": "predictive"}) as running:
        yield lambda _jobs: _scale(running)


def _scale(running: rig.Rig) -> Observation:
    """One worker more at a time: from the supervisor's order to the first step of the worker's own code."""
    for wanted in range(2, 2 + MORE_WORKERS):
        running.command("scale", "computation", str(wanted))
        rig.wait_until(lambda: len(running.live_workers()) >= wanted, f"{wanted} live workers")  # noqa: B023
    forks = [seconds for _, seconds in running.live_workers()[1:]]
    return Observation({"fork_s": quantile(forks, 0.5), "slowest_fork_s": max(forks)})


@contextmanager
def _alone(measure: Callable[[int], Observation]) -> Iterator[Callable[[int], Observation]]:
    yield measure


SCENARIO = Scenario(
    "start",
    "start, import, fork",
    contestants,
    (
        Target("supervise → first result", "first_result_s", 1.0, 0.4, "lower", subject="supervise", unit="s"),
        Target("import shmq", "import_s", 0.15, 0.06, "lower", subject="import shmq", unit="s"),
        Target("fork of one worker", "fork_s", 0.015, 0.005, "lower", subject="worker", unit="s"),
    ),
    most_rounds=5,
)
