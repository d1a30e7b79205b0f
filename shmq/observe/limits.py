"""The part of a snapshot about limits: rates and circuit breakers, of groups and of tasks."""

from __future__ import annotations

from shmq.clock import NS
from shmq.errors import ShmqError
from shmq.memory.layout import MOST_TASK_LIMITS, TASK_LIMIT, TASK_LIMIT_STATE
from shmq.memory.segment import Segment
from shmq.observe.model import Limits
from shmq.observe.reading import checked, left_s
from shmq.tasks.registry import read
from shmq.transport.limits import CLOSED, OPEN


def read_task_limits(segment: Segment, now_ns: int) -> dict[str, Limits]:
    """By pattern, each `[limits."pattern"]` of the configuration that limits a task."""
    try:
        infos = read(segment.state_dir).values()
    except ShmqError:  # damaged: whoever submits is told
        return {}
    found = sorted({info.limit for info in infos if info.limit is not None and info.limit[0] < MOST_TASK_LIMITS})
    words, states = checked(segment, "task_limits"), checked(segment, "task_limit_states")
    return {
        pattern: limits_of(
            {word: int(words[number, i]) for word, i in TASK_LIMIT.items()},
            {word: int(states[number, i]) for word, i in TASK_LIMIT_STATE.items()},
            now_ns,
        )
        for number, pattern in found
    }


def limits_of(control: dict[str, int], claim: dict[str, int], now_ns: int) -> Limits:
    """Of one group, or of one table of the configuration: its words, and those of its state."""
    rate_milli, burst = control["rate_per_s_milli"], max(control["burst"], 1)
    next_ns = claim["rate_ns"] - (burst - 1) * (1000 * NS // rate_milli) if rate_milli else 0
    circuit = "closed"
    if control["breaker_share_milli"] and claim["breaker"] != CLOSED:
        is_open = claim["breaker"] == OPEN and now_ns < claim["breaker_until_ns"]
        circuit = "open" if is_open else "probing"  # past its time, the next job is the probe
    return Limits(
        rate_per_s=rate_milli / 1000 or None,
        burst=burst if rate_milli else None,
        held_s=left_s(next_ns, now_ns),
        breaker_failure_share=control["breaker_share_milli"] / 1000 or None,
        breaker_window=control["breaker_window"],
        breaker_open_s=control["breaker_open_ns"] / NS,
        breaker_mode="fail" if control["breaker_fail_fast"] else "wait",
        circuit=circuit,
        circuit_s=left_s(claim["breaker_until_ns"], now_ns) if circuit == "open" else 0.0,
    )
