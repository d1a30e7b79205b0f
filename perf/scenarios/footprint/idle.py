"""A system with nothing to do: what it takes from the others.

supervisor ─ fork server ─ worker × 2 ─ planner ─ recovery …          60 s without a job
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perf import rig
from perf.harness import Contestant, Observation, Scenario, Setting
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(?P<path>.*)$")
_PRIVATE = re.compile(r"^Private_(?:Clean|Dirty):\s+(?P<kib>\d+) kB$")


def private_bytes(smaps: Iterable[str]) -> int:
    """Memory that only this process holds, without the shared segment.

    The kernel calls pages of the segment that nobody else has touched private; they are not the worker's.
    """
    total, is_shared_memory = 0, False
    for line in smaps:
        if mapping := _MAPPING.match(line):
            is_shared_memory = mapping["path"].startswith("/dev/shm/")
        elif (private := _PRIVATE.match(line)) and not is_shared_memory:
            total += int(private["kib"]) * 1024
    return total


def contestants(setting: Setting) -> list[Contestant]:
    seconds = 5.0 if setting.short else 60.0

    @contextmanager
    def open_() -> Iterator[Callable[[int], Observation]]:
        with rig.supervised(setting.workers) as running:
            workers = running.worker_pids()
            yield lambda _jobs: _watch(running, workers, seconds)

    return [Contestant(rig.NAME, "subject", open_, 1)]


def _watch(running: rig.Rig, workers: set[int], seconds: float) -> Observation:
    time.sleep(1.0)  # what follows a start is over
    before, begin = {member.pid: rig.cpu_of(member.pid) for member in running.tree()}, time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - begin
    shares: dict[str, float] = {}
    for member in running.tree():
        used = rig.cpu_of(member.pid) - before.get(member.pid, 0.0)
        title = " ".join(member.cmdline())
        name = "cpu " + ("supervisor" if " supervise " in title else title.removeprefix("shmq: ").split()[0])
        shares[name] = shares.get(name, 0.0) + used / took
    private = [private_bytes(Path(f"/proc/{pid}/smaps").read_text().splitlines()) for pid in workers]
    total = sum(shares.values())
    return Observation({"cpu_share": total, "worker_bytes": sum(private) / len(private)} | shares)


SCENARIO = Scenario(
    "idle",
    "idle system",
    contestants,
    (
        Target("idle: CPU of the tree", "cpu_share", 0.005, 0.001, "lower", unit="core"),
        Target("idle: private memory per worker", "worker_bytes", 4 << 20, 2 << 20, "lower", unit="bytes"),
    ),
    most_rounds=1,
    needs_quiet=True,
)
