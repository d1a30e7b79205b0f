from __future__ import annotations

import pytest

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


def test_substitutes_leave_when_they_are_no_longer_needed(live):
    assert live.submit("nested", 2).result(GUARD_S) == 2
    until(lambda: len(live.workers("computation")) == 1, "one worker is left")
    until(lambda: live.controls()[0]["substitutes"] == 3, "three may be forked again")


def test_a_wait_that_nobody_suffers_from_forks_nobody(live):
    until(lambda: len(live.workers("computation")) == 1, "one worker is left")
    spawned = live.controls()[0]["spawned"]
    live.submit("wait_for", 0.3).result(GUARD_S)
    assert live.controls()[0]["spawned"] == spawned


def test_the_segment_says_how_many_more_may_be_forked(live):
    job = live.submit("nested", 3)
    seen = set()

    def watch():
        seen.add(live.controls()[0]["substitutes"])
        return job.done()

    until(watch, "the job ends")
    assert seen <= {0, 1, 2, 3}
    assert 0 in seen
