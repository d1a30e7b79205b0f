"""What each piece of memory care brings, with and without it.

producer ──▶ worker × 2 with a large heap, garbage in every job        gc = "auto" | "batch" | "off": p99 of a job
parent with a large heap ─▶ gc.freeze or not ─▶ fork ─▶ child collects     private memory of the child
producer ──▶ worker × 2: large pieces, a few kept, then nothing        private memory at once, and after it was trimmed

Pauses are measured in the task: a collection inside a job is what a caller waits for.
"""

from __future__ import annotations

import gc
import os
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from perf import rig
from perf.harness import Contestant, Observation, Scenario, Setting
from perf.scenarios.footprint.idle import private_bytes
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OBJECTS = 400_000
_GIVE_UP_S = 30.0


def contestants(setting: Setting) -> list[Contestant]:
    jobs = 1_500 if setting.short else 6_000
    modes = [Contestant(f"gc {mode}", "subject", partial(_with_gc, mode), jobs) for mode in ("auto", "batch", "off")]
    forks = [
        Contestant(name, "subject", partial(_fork, is_frozen), 1)
        for name, is_frozen in (("fork, frozen", True), ("fork, not frozen", False))
    ]
    return [*modes, *forks, Contestant("trim", "subject", _trimmed, 1)]


@contextmanager
def _with_gc(mode: str) -> Iterator[Callable[[int], Observation]]:
    with rig.supervised(2, group={"gc": mode}) as running:
        from perf import tasks

        for job in [running.client.submit(tasks.churn, _OBJECTS) for _ in range(40)]:  # each worker fills its heap
            job.result(_GIVE_UP_S)

        def measure(jobs: int) -> Observation:
            found: list[float] = []
            begun = time.perf_counter()
            while len(found) < jobs:
                batch = [running.client.submit(tasks.churn, _OBJECTS) for _ in range(min(jobs - len(found), 200))]
                found += [job.result(_GIVE_UP_S) for job in batch]
            took = time.perf_counter() - begun
            found.sort()
            held = [_private(pid) for pid in running.worker_pids()]
            return Observation(
                {"p99_s": found[int(0.99 * jobs)], "worst_s": found[-1], "per_s": jobs / took,
                 "worker_bytes": sum(held) / len(held)}, found,
            )  # fmt: skip

        yield measure


@contextmanager
def _fork(is_frozen: bool) -> Iterator[Callable[[int], Observation]]:
    def measure(_jobs: int) -> Observation:
        heap = [{"n": n} for n in range(_OBJECTS)]
        gc.collect()
        if is_frozen:
            gc.freeze()
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            gc.collect()
            os.write(tell, str(_private(os.getpid())).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        held = int(os.read(told, 64))
        os.close(told)
        os.close(tell)
        gc.unfreeze()
        del heap
        return Observation({"child_bytes": held})

    yield measure


@contextmanager
def _trimmed() -> Iterator[Callable[[int], Observation]]:
    with rig.supervised(2) as running:
        from perf import tasks

        def measure(_jobs: int) -> Observation:
            answers = {}
            while len(answers) < 2:
                jobs = [running.client.submit(tasks.in_pieces, 60) for _ in range(4)]
                answers.update(job.result(_GIVE_UP_S) for job in jobs)
            held, begun = sum(answers.values()) / len(answers), time.monotonic()
            after = held
            while after > held / 2 and time.monotonic() - begun < 2.0:  # given back within some sleeps, or never
                time.sleep(0.05)
                after = sum(_private(pid) for pid in answers) / len(answers)
            return Observation({"held_bytes": held, "after_bytes": after})

        yield measure


def _private(pid: int) -> int:
    return private_bytes(Path(f"/proc/{pid}/smaps").read_text().splitlines())


SCENARIO = Scenario(
    "memory",
    "what memory care brings",
    contestants,
    (
        Target("p99 of a job, gc batch by auto", "p99_s", 1.0, 0.5, "lower", subject="gc batch", against="gc auto"),
        Target("p99 of a job, gc off by auto", "p99_s", 1.0, 0.5, "lower", subject="gc off", against="gc auto"),
        Target(
            "private memory of a forked child, frozen by not", "child_bytes", 0.8, 0.3, "lower",
            subject="fork, frozen", against="fork, not frozen",
        ),
        Target(
            "private memory of an idle worker, trimmed by not", "after_bytes", 0.8, 0.3, "lower",
            subject="trim", against="trim", against_metric="held_bytes",
        ),
    ),
    most_rounds=3,
)  # fmt: skip
