"""One submit per job, every result read.

producer ──submit──▶ lane ──claim──▶ worker × 2 (return value)
    ◀────────────── read ───────────── ack
"""

from __future__ import annotations

from perf import floors, functions, rig
from perf.harness import Contestant, Scenario, Setting
from perf.peers import driver
from perf.verdict import Target


def contestants(setting: Setting) -> list[Contestant]:
    subject = driver.contestant(
        rig.NAME,
        "subject",
        lambda: rig.open_session(setting.workers),
        driver.each(functions.echo, range, window=rig.WINDOW),
    )
    beside = driver.peers(setting, driver.each(functions.echo, range))
    return [subject, floors.codec(), floors.bare_codec(), *beside]


SCENARIO = Scenario(
    "echo",
    "echo: one submit per job, every result read",
    contestants,
    (
        Target("echo", "per_s", 35, 90, against="ProcessPoolExecutor.submit"),
        Target("echo", "per_s", 10, 25, against="Pool.apply_async"),
        Target("echo", "per_s", 0.22, 0.5, against=floors.CODEC),
    ),
)
