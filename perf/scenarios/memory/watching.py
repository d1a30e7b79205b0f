"""What it costs to be watched: throughput of echo jobs with each way of looking, by that without any.

producer ──▶ worker × 2      nobody looks
    ▲ reads /proc, twice a second: a process beside        "sampled"         (`shmq soak`, from outside)
    ▲ in the worker, one job in N                          "task deltas"     (`shmq soak`, in the worker)
    ▲ in the worker, every allocation                      "memray"          (`shmq leaks attach`)

What the process beside takes of one core is measured as well (`beside_share`): where rounds of throughput differ by ten
percent, they cannot tell a thousandth.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perf import rig
from perf.harness import Contestant, MissingPeer, Observation, Scenario, Setting, rolling, verify
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Event

_EVERY_S = 0.5


def contestants(setting: Setting) -> list[Contestant]:
    return [
        Contestant(name, "subject" if name != "unwatched" else "floor", partial(_open, name, setting.workers))
        for name in ("unwatched", "sampled", "task deltas", "memray")
    ]


@contextmanager
def _open(name: str, workers: int) -> Iterator[Callable[[int], Observation]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        _variable(folder if name == "task deltas" else ""),
        rig.supervised(workers) as running,
        _looker(name, running, folder) as beside_cpu_s,
    ):
        yield partial(_measure, running, beside_cpu_s)


def _measure(running: rig.Rig, beside_cpu_s: Callable[[], float], jobs: int) -> Observation:
    from perf import tasks

    begun, cpu_begun = time.perf_counter(), beside_cpu_s()
    results = rolling(partial(running.client.submit, tasks.echo), methodcaller("result"), range(jobs), rig.WINDOW)
    took = time.perf_counter() - begun
    verify(results, range(jobs))
    return Observation({"per_s": jobs / took, "beside_share": (beside_cpu_s() - cpu_begun) / took})


@contextmanager
def _looker(name: str, running: rig.Rig, folder: str) -> Iterator[Callable[[], float]]:
    """Look that way inside the block. Yields the CPU seconds so far of whoever looks from beside."""
    if name == "sampled":
        context = multiprocessing.get_context("spawn")
        has_begun, pids = context.Event(), [member.pid for member in running.tree()] + [os.getpid()]
        process = context.Process(target=_sample, args=(pids, has_begun))
        process.start()
        has_begun.wait()  # what it imports before is no looking
        try:
            yield partial(rig.cpu_of, process.pid or 0)
        finally:
            process.terminate()
            process.join()
    elif name == "memray":
        from shmq.errors import TracingError
        from shmq.memcheck.soak import orders
        from shmq.memcheck.tracing import require_memray

        try:
            require_memray()
        except TracingError as error:
            raise MissingPeer(str(error)) from error
        segment = running.client.segment
        orders.give(segment, "computation", orders.Order(folder, time.monotonic() + 600.0))
        running.worker_pids()
        try:
            yield lambda: 0.0
        finally:
            orders.withdraw(segment, "computation")
    else:
        yield lambda: 0.0


def _sample(pids: list[int], has_begun: Event) -> None:
    """As a soak run does, in a process of its own."""
    from shmq.memcheck.sampling import Process, Sampler

    sampler = Sampler()
    processes = [Process.of("tree", str(pid), pid) for pid in pids]
    while True:
        for process in processes:
            sampler.read(process)
        has_begun.set()
        time.sleep(_EVERY_S)


@contextmanager
def _variable(folder: Any) -> Iterator[None]:
    """SHMQ_WATCH for the supervisor that is started inside the block."""
    if folder:
        os.environ["SHMQ_WATCH"] = str(Path(folder))
    try:
        yield
    finally:
        os.environ.pop("SHMQ_WATCH", None)


def _cost(label: str, subject: str, least: float, aim: float) -> Target:
    return Target(label, "per_s", least, aim, subject=subject, against="unwatched")


SCENARIO = Scenario(
    "watching",
    "what it costs to be watched",
    contestants,
    (
        _cost("throughput, sampled from outside", "sampled", 0.99, 1.0),
        _cost("throughput, with task deltas", "task deltas", 0.9, 0.97),
        _cost("throughput, traced by memray", "memray", 0.1, 0.3),
    ),
    needs_quiet=True,
)
