"""1 ms of pure CPU per job: what is left of two cores after the queue took its share.

producer ──submit──▶ lane ──claim──▶ worker × 2 (1 ms of Python)          floor: the same calls in one process
    ◀────────────── read ───────────── ack
producer ───map────▶ lane ──claim──▶ worker × 2 (chunks of them)          "shmq.map"
    ◀────────────── read ───────────── ack

Read one by one, each job wakes the producer, which then takes a core from a worker; a chunk of `map` does so once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perf import floors, functions, rig
from perf.harness import Contestant, Scenario, Setting
from perf.peers import driver
from perf.verdict import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

PEERS = ("ProcessPoolExecutor", "Pool")
MAP = "shmq.map"


def spun(items: Sequence[int]) -> list[int]:
    return [functions.spin(item) for item in items]


def contestants(setting: Setting) -> list[Contestant]:
    drive = driver.each(functions.spin, range, spun, 200)
    jobs = 1_000 if setting.short else 5_000  # of fewer, beginning and end are a hundredth
    subjects = [
        driver.contestant(name, "subject", lambda: rig.open_session(setting.workers), how, jobs)
        for name, how in ((rig.NAME, drive), (MAP, driver.bulk(functions.spin, spun)))
    ]
    return [
        *subjects,
        floors.serial_spin(),
        floors.parallel_spin(setting.workers),
        *driver.peers(setting, drive, PEERS),
    ]


SCENARIO = Scenario(
    "cpu",
    "1 ms of pure CPU per job, 2 workers",
    contestants,
    (
        Target("cpu, one by one: of 2 × serial", "per_s", 0.95, 0.98, against="serial", scale=2.0),
        Target("cpu, map: of 2 × serial", "per_s", 0.95, 0.98, subject=MAP, against="serial", scale=2.0),
        Target("cpu, one by one: of 2 bare processes", "per_s", 0.95, 0.98, against="2 bare processes"),
    ),
    needs_quiet=True,
)
