"""All jobs by one call, in chunks.

producer ──map(chunk_size="auto")──▶ lane ──claim──▶ worker × 2 (return value)
    ◀──────────── results in order ───────────
"""

from __future__ import annotations

from perf import functions, rig
from perf.harness import Contestant, Scenario, Setting
from perf.peers import driver
from perf.verdict import Target


def contestants(setting: Setting) -> list[Contestant]:
    drive = driver.bulk(functions.echo)
    subject = driver.contestant(rig.NAME, "subject", lambda: rig.open_session(setting.workers), drive, None, 3_000_000)
    return [subject, *driver.peers(setting, drive, bulk=True)]


SCENARIO = Scenario(
    "map",
    'map, chunk_size="auto", echo',
    contestants,
    (Target("map", "per_s", 1.2, 2.0, against="Pool.map(chunksize=50)"),),
)
