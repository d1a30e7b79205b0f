"""What both `shmq submit` and `shmq map` do while they wait: say why nothing moves, and end in order."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shmq.cli import exits

if TYPE_CHECKING:
    from shmq.client.client import Client

_EXPLAIN_EVERY_NS = 1_000_000_000


def end_as_by_ctrl_c() -> None:
    """SIGTERM ends the command as Ctrl-C does: what has not started is cancelled on the way out."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # `timeout` sends two: the second must not cut the way out short
    raise exits.Terminated


def explainer(client: Client, command: str, group: str, say: Callable[[str], None]) -> Callable[[], None]:
    """Says why nothing moves, when that is for somebody else to mend: each reason once.

    The function returned is to be called now and then; it looks once a second at most.
    """
    from shmq.observe.health import health
    from shmq.observe.snapshot import take

    told: set[str] = set()
    before = take(client.segment)

    def explain() -> None:
        nonlocal before
        if time.monotonic_ns() - before.taken_ns < _EXPLAIN_EVERY_NS:
            return
        now = take(client.segment)
        for problem in health(now, before, stuck_s=math.inf):  # a long job is no reason to worry here
            if problem.kind not in told and problem.group in {None, group}:
                told.add(problem.kind)
                where = f"group {group}: " if problem.group else ""
                say(f"shmq {command} waits: {where}{problem.reason} ({problem.advice})")
        before = now

    return explain
