"""A worker dies by SIGKILL in the middle of a job: how long until the job runs again elsewhere.

    producer ── 1 job ──▶ worker 1 ▓▓▓▓ SIGKILL
                             │ reaped by the supervisor, buried by recovery, pushed, rung
                             └──────────────────────────▶ worker 2 ▓▓▓▓ result
                          ◀── from the kill to the second start ──▶

The first run says who it is and waits; the second returns when it began. The pool stays at its size, so
each round waits for the replacement before the next kill.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perf import floors, rig
from perf.harness import Contestant, Observation, Scenario, Setting, WrongResult
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def contestants(setting: Setting) -> list[Contestant]:
    return [Contestant(rig.NAME, "subject", lambda: _open(setting.workers), 20 if setting.short else 100)]


@contextmanager
def _open(workers: int) -> Iterator[Callable[[int], Observation]]:
    with rig.supervised(workers) as running:
        yield lambda kills: floors.latencies([_kill_one(running, n) for n in range(kills)])


def _kill_one(running: rig.Rig, number: int) -> float:
    from perf import tasks

    running.worker_pids()  # all are up
    note = Path(running.folder) / f"first-run-{number}"
    job = tasks.begin_twice.submit(str(note))
    give_up = time.monotonic() + 10.0
    while not (note.exists() and note.read_text()):
        if time.monotonic() > give_up:
            raise WrongResult(f"kill {number}: the job never began")
        time.sleep(0.001)
    killed_at = time.monotonic()
    os.kill(int(note.read_text()), signal.SIGKILL)  # a worker of the rig's own supervisor
    pid, began = job.result(timeout=10.0)
    if began < killed_at or pid == int(note.read_text()):
        raise WrongResult(f"kill {number}: the second run began at {began}, the kill was at {killed_at}")
    return began - killed_at


SCENARIO = Scenario(
    "redelivery",
    "death to redelivery",
    contestants,
    (Target("death to redelivery p99", "p99_s", 0.05, 0.02, "lower", unit="s"),),
    most_rounds=3,
)
