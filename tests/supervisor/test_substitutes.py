from __future__ import annotations

import pytest

from shmq.errors import WouldDeadlock
from shmq.memory.layout import WORKER
from shmq.transport.states import IS_UNDER_WAY, count_where
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import time, shmq

@shmq.task
def leaf(x):
    return x

@shmq.task
def nested(depth: int) -> int:
    if depth == 0:
        return 0
    return 1 + nested.submit(depth - 1).result(60)

@shmq.task
def mapped(n: int) -> list:
    return list(shmq.map(leaf, range(n), chunk_size=1))

@shmq.task
async def awaiting(x):
    return await leaf.submit(x)

@shmq.task
async def reading(n: int) -> list:
    return [part async for part in parts.submit(n).stream()]

@shmq.task
def parts(n: int):
    yield from range(n)

@shmq.task
def with_future(x):
    return shmq.Executor().submit(leaf, x).result(60)

@shmq.task
def wait_for(s: float):
    shmq.submit("jobs.sleep_elsewhere", s).result(60)

@shmq.task(group="network")
def sleep_elsewhere(s: float):
    time.sleep(s)
"""

CONFIG = """
[groups.computation]
min_workers = 1
max_workers = 1
max_substitutes = 3
[groups.network]
min_workers = 1
max_workers = 1
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, CONFIG) as live:
        yield live


def test_a_worker_that_waits_in_a_task_for_its_own_group_is_substituted(live):
    assert live.submit("nested", 3).result(GUARD_S) == 3


@pytest.mark.parametrize(
    ("task", "given", "result"),
    [("mapped", 3, [0, 1, 2]), ("awaiting", 7, 7), ("reading", 3, [0, 1, 2]), ("with_future", 7, 7)],
)
def test_every_wait_inside_a_task_lets_a_substitute_run_what_it_waits_for(live, task, given, result):
    assert live.submit(task, given).result(GUARD_S) == result
    until(lambda: not any(row[WORKER["blocked"]] for row in live.segment.rows("worker_rows")), "nobody waits")


@pytest.mark.parametrize("task", ["nested", "awaiting"])
def test_a_worker_that_runs_many_is_blocked_when_all_of_them_wait(tmp_path, task):
    config = CONFIG.replace("max_substitutes = 3", "max_substitutes = 0\nconcurrency = 2")
    with LiveSupervisor(tmp_path, TASKS, config) as live:
        assert live.submit(task, 1).result(GUARD_S) == 1  # the other place runs what it waits for
        live.control("pause", group="computation")
        jobs = [live.submit(task, 1) for _ in range(2)]  # both places
        live.control("resume", group="computation")
        ends = []
        for job in jobs:
            try:
                ends.append(job.result(GUARD_S))
            except WouldDeadlock:
                ends.append(None)
        assert ends in ([1, None], [None, 1], [1, 1])  # the first may be through before the second begins
        slots = live.segment.shape.slots
        until(lambda: not count_where(live.segment, IS_UNDER_WAY, 0, slots), "what was not waited for has run")


def test_substitutes_leave_when_they_are_no_longer_needed(live):
    assert live.submit("nested", 2).result(GUARD_S) == 2
    until(lambda: len(live.workers("computation")) == 1, "one worker is left")


def test_a_wait_that_nobody_suffers_from_forks_nobody(live):
    until(lambda: len(live.workers("computation")) == 1, "one worker is left")
    spawned = live.controls()[0]["spawned"]
    live.submit("wait_for", 0.3).result(GUARD_S)
    assert live.controls()[0]["spawned"] == spawned
