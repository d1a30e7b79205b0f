"""1 ms of pure CPU per job: what is left of two cores after the queue took its share.

producer ──submit──▶ lane ──claim──▶ worker × 2 (1 ms of Python)          floor: the same calls in one process
    ◀────────────── read ───────────── ack
"""

from __future__ import annotations

from perf import floors, functions, rig
from perf.harness import Contestant, Scenario, Setting
from perf.peers import driver
from perf.verdict import Target

PEERS = ("ProcessPoolExecutor", "Pool")


def contestants(setting: Setting) -> list[Contestant]:
    drive = driver.each(functions.spin, range, lambda items: [functions.spin(item) for item in items], 200)
    subject = driver.contestant(rig.NAME, "subject", lambda: rig.open_session(setting.workers), drive, None, 5_000)
    return [
        subject,
        floors.serial_spin(),
        floors.parallel_spin(setting.workers),
        *driver.peers(setting, drive, PEERS),
    ]


SCENARIO = Scenario(
    "cpu",
    "1 ms of pure CPU per job, 2 workers",
    contestants,
    (
        Target("cpu: of 2 × serial", "per_s", 0.95, 0.98, against="serial", scale=2.0),
        Target("cpu: of 2 bare processes", "per_s", 0.95, 0.98, against="2 bare processes"),
    ),
    needs_quiet=True,
)
