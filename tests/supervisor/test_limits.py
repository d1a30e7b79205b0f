"""Limits count calls, however these were submitted; those of tasks are changed while the supervisor runs as well."""

from __future__ import annotations

import time

import pytest

from shmq.client.submitting.slow_path import most_calls
from shmq.clock import now_ns
from shmq.config.model import Config
from shmq.errors import ShmqError
from shmq.observe.limits import read_task_limits
from shmq.observe.snapshot import take
from shmq.supervisor import limits
from tests.live import GUARD_S, LiveSupervisor

TASKS = """
import shmq

@shmq.task
def free(x):
    return x

@shmq.task
def limited(x):
    return x

@shmq.task
async def limited_on_loop(x):
    return x
"""
CONFIG = """
[groups.computation]
min_workers = 2
max_workers = 2
mode = "fixed"

[groups.network]
min_workers = 1
max_workers = 1
mode = "fixed"

[limits."jobs.limited*"]
rate_per_s = 40
burst = 1
"""
CALLS, RATE = 12, 40
LEAST_S = 0.9 * (CALLS - 1) / RATE  # twelve starts are eleven intervals apart


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, CONFIG) as live:
        yield live


def one_by_one(client, task):
    jobs = [client.submit_task(task, (i,)) for i in range(CALLS)]
    return [job.result(GUARD_S) for job in jobs]


WAYS = {
    "submit": one_by_one,
    "map": lambda client, task: list(client.map(task, range(CALLS))),
    "map in chunks": lambda client, task: list(client.map(task, range(CALLS), chunk_size=CALLS)),
    "stream": lambda client, task: list(client.stream(task, range(CALLS))),
}


def takes(live, way, name, **options):
    """Seconds that CALLS calls take."""
    client = live.client()
    task = client._registry.task(f"jobs.{name}")
    task = task.options(**options) if options else task
    WAYS[way](client, task)  # it is known how long a call takes, and what was saved up is used
    began = time.monotonic()
    assert WAYS[way](client, task) == list(range(CALLS))
    live.close_clients()
    return time.monotonic() - began


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("task", ["limited", "limited_on_loop"])
def test_the_limit_of_a_task_counts_calls(live, way, task):
    assert takes(live, way, task) > LEAST_S


@pytest.mark.parametrize("way", WAYS)
def test_the_limit_of_a_group_counts_calls(live, way):
    live.control("limit", target="network", rate_per_s=RATE, burst=1)
    try:
        assert takes(live, way, "free", group="network") > LEAST_S
    finally:
        live.control("limit", target="network", off=True)


def test_without_a_limit_many_calls_are_one_job(live):
    client = live.client()
    before = sum(group.done for group in take(live.segment).groups)
    assert list(client.map("jobs.free", range(CALLS), chunk_size=CALLS)) == list(range(CALLS))
    assert sum(group.done for group in take(live.segment).groups) - before <= 2
    live.close_clients()


def test_the_limit_of_a_task_is_changed_and_removed_while_running(live):
    pattern = "jobs.limited*"
    assert read_task_limits(live.segment, now_ns())[pattern].rate_per_s == RATE
    assert live.control("limit", target="jobs.limited", burst=CALLS) == {
        "name": pattern,
        "rate_per_s": RATE,
        "burst": CALLS,
    }
    live.control("limit", target=pattern, breaker_failure_share=0.5, breaker_mode="fail")
    limits = read_task_limits(live.segment, now_ns())[pattern]
    assert (limits.burst, limits.breaker_failure_share, limits.breaker_mode) == (CALLS, 0.5, "fail")
    assert live.control("limit", target=pattern, off=True)["rate_per_s"] is None
    assert read_task_limits(live.segment, now_ns())[pattern].rate_per_s is None
    live.control("limit", target=pattern, rate_per_s=RATE, burst=1)


def test_a_task_without_a_limit_is_told_how_to_get_one(live):
    with pytest.raises(ShmqError, match=r"'jobs.free' is no group .* there is 'jobs.limited\*'"):
        live.control("limit", target="jobs.free", rate_per_s=3)


def test_what_is_wrong_in_one_value_changes_none(live):
    with pytest.raises(ShmqError, match="breaker_mode"):
        live.control("limit", target="jobs.limited", rate_per_s=3, breaker_mode="perhaps")
    assert read_task_limits(live.segment, now_ns())["jobs.limited*"].rate_per_s == RATE


@pytest.mark.parametrize(
    "changes",
    [
        {"breaker_failure_share": 1.5},
        {"breaker_window": 0.5},
        {"burst": 0},
        {"rate_per_s": 0},
        {"colour": 3},
    ],
)
def test_values_have_the_bounds_of_the_configuration(live, changes):
    with pytest.raises(ShmqError, match=r"this is no limit: .* known are rate_per_s"):
        live.control("limit", target="network", **changes)


def test_of_a_routed_task_the_limit_of_any_group_that_may_get_its_jobs_counts(tmp_path):
    config = CONFIG + '[[routes]]\ntask = "jobs.free"\ngroup = "network"\nmin_payload_bytes = 5\n'
    with LiveSupervisor(tmp_path, TASKS, config) as live:
        client = live.client()
        task = client._registry.task("jobs.free")
        assert most_calls(client, task, 50) == 50
        live.control("limit", target="network", rate_per_s=RATE)
        assert most_calls(client, task, 50) == 1
        assert most_calls(client, task.options(group="computation"), 50) == 50


def test_a_supervisor_with_other_limits_begins_with_none_of_the_former_ones(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        segment = live.segment
        segment.rows("task_limits")[5][0] = segment.rows("task_limit_states")[0][0] = 1 << 40
        limits.write(segment, Config())
        assert not any(segment.view("task_limits"))
        assert not any(segment.view("task_limit_states"))
