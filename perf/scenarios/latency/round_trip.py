"""One job at a time on an idle system: everybody sleeps until rung.

producer ──submit, ring──▶ worker (sleeping)
    ◀────ring, read─────── ack                       floor: two semaphores, no payload
"""

from __future__ import annotations

from perf import floors, functions, rig
from perf.harness import Contestant, Scenario, Setting
from perf.peers import driver
from perf.verdict import Target


def contestants(setting: Setting) -> list[Contestant]:
    drive = driver.round_trip(functions.echo)
    subject = driver.contestant(rig.NAME, "subject", lambda: rig.open_session(setting.workers), drive, None, 20_000)
    return [subject, floors.ping_pong(apart=True), floors.ping_pong(apart=False), *driver.peers(setting, drive)]


SCENARIO = Scenario(
    "round-trip",
    "round trip, idle system",
    contestants,
    (Target("round trip p50", "p50_s", 1.4, 1.1, "lower", against=floors.PING_PONG),),
    needs_quiet=True,
)
