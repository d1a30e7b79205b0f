"""Where users run it, whatever is odd there: what must hold in every environment.

Refused at the start means: a message with figures and what to do, no traceback, nothing left behind. Refused later
means: what runs goes on, nothing that was accepted is lost.
"""

from __future__ import annotations

from pathlib import Path

from tests.live import GUARD_S, LiveSupervisor

TASKS = """
import os
import signal
import shmq

@shmq.task
def echo(x):
    return x

@shmq.task(idempotent=True)
def survive(path):
    if not os.path.exists(path):
        open(path, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "ran again"

@shmq.task
def end_worker():
    os.kill(os.getpid(), signal.SIGKILL)

@shmq.task
def fill_memory():
    return len([bytearray(1 << 20) for _ in range(400)])

@shmq.task
def hold_all_descriptors():
    global held
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return len(held)
"""
ONE_WORKER = "[groups.computation]\nmax_workers = 1\n"


def refused_start(live: LiveSupervisor) -> str:
    """Start it; it must refuse. What it said, not what one before it did: a planner may have broken with that one."""
    before = len(live.log())
    live.start(wait=False)
    assert live.process is not None
    try:
        assert live.process.wait(GUARD_S) == 1
    finally:
        live.process.kill()
    said = live.log()[before:]
    assert "Traceback" not in said
    return said


def refusal(live: LiveSupervisor) -> str:
    """As `refused_start`, where nothing else runs in the namespace: nothing may be left."""
    try:
        said = refused_start(live)
        live.assert_nothing_left()
        return said
    finally:
        live.discard()


def works(live: LiveSupervisor, path: Path) -> bool:
    """Jobs run, and one that loses its worker runs again."""
    return (
        live.submit("echo", 1).result(GUARD_S) == 1 and live.submit("survive", str(path)).result(GUARD_S) == "ran again"
    )
