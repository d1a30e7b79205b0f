"""Rules of the config and `group = "auto"` under a real supervisor: where jobs go, and what is said of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from shmq.memory.layout import GROUP_CLAIM, TASK_ROUTE
from shmq.planner.routing import LEAST_JOBS
from shmq.tasks.task import key_of
from shmq.transport.table import group_of
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import asyncio, time, shmq

@shmq.task
def size(data):
    return len(data)

@shmq.task
def plain(x):
    return x

@shmq.task(group="auto")
def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

@shmq.task(group="auto")
def nap(seconds):
    time.sleep(seconds)

@shmq.task(group="auto")
async def breath(seconds):
    await asyncio.sleep(seconds)
    return seconds
"""
CONFIG = """
[groups.computation]
max_workers = 2
[groups.network]
kind = "io"
max_workers = 1
concurrency = 4
[groups.memory]
max_workers = 1
[[routes]]
task = "jobs.siz*"
min_payload_bytes = 1000
group = "memory"
[planner]
step_s = 0.05
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("routing"), TASKS, CONFIG) as live:
        until(lambda: live.segment.view("route_version")[0], "the planner has seen the tasks")
        yield live


@pytest.fixture(scope="module")
def client(live):
    return live.client()


def gone_to(live, job):
    """Group of the job; waits for its end."""
    name = live.segment.text("group_names", group_of(live.segment.view("words")[job._slot]))
    job.result(GUARD_S)
    return name


@pytest.mark.parametrize(
    ("args", "kwargs", "group"),
    [
        ((b"x",), {}, "computation"),
        ((b"x" * 2000,), {}, "memory"),
        ((b"x" * 2_000_000,), {}, "memory"),  # larger than a slot
        ((np.zeros(10),), {}, "computation"),
        ((np.zeros(1000),), {}, "memory"),  # counted although it lies in a block of its own
        ((), {"data": b"x" * 2000}, "memory"),
        ((), {"data": b"x"}, "computation"),
    ],
)
def test_a_rule_with_a_payload_takes_the_jobs_that_are_as_large(live, client, args, kwargs, group):
    task = client._registry.task("jobs.size")
    assert gone_to(live, client.submit_task(task, args, kwargs)) == group


def test_the_largest_call_of_a_chunk_decides(live, client):
    task = client._registry.task("jobs.size")
    assert gone_to(live, client.submit_chunk(task, [(b"x",), (b"x" * 2000,)])) == "memory"
    assert gone_to(live, client.submit_chunk(task, [(b"x",), (b"y",)])) == "computation"


def test_chunks_of_a_stream_are_routed_too(live, client):
    memory = live.segment.group_names().index("memory")
    row = live.segment.rows("group_claim")[memory]
    before = row[GROUP_CLAIM["claimed"]]
    assert list(client.stream("jobs.size", [b"x" * 2000] * 3, chunk_size=1)) == [2000] * 3
    assert row[GROUP_CLAIM["claimed"]] == before + 3


def test_a_group_chosen_for_single_jobs_goes_before_rules(live, client):
    task = client._registry.task("jobs.size")
    assert gone_to(live, client.submit_task(task.options(group="network"), (b"x" * 2000,))) == "network"
    assert gone_to(live, client.submit_task(task.options(priority=1), (b"x" * 2000,))) == "memory"


def test_a_task_without_rules_is_submitted_as_ever(live, client):
    task = client._registry.task("jobs.plain")
    client.submit_task(task, (1,)).result(GUARD_S)
    assert task._target.router is None


def row_of(live, name):
    key = key_of(f"jobs.{name}")
    row = next(row for row in live.segment.rows("task_routes") if row[TASK_ROUTE["key"]] == key)
    return {word: int(row[i]) for word, i in TASK_ROUTE.items()}


def run(live, client, name, *args, jobs=LEAST_JOBS + 5):
    """Run jobs until the planner has classified the task; the group of the next one."""
    task = client._registry.task(f"jobs.{name}")
    for job in [client.submit_task(task, args) for _ in range(jobs)]:
        job.result(GUARD_S)
    until(lambda: row_of(live, name)["jobs"] >= LEAST_JOBS, "its jobs are counted")
    return gone_to(live, client.submit_task(task, args))


def test_an_automatic_task_goes_where_its_measured_jobs_belong(live, client):
    task = client._registry.task("jobs.nap")
    assert gone_to(live, client.submit_task(task, (0.0,))) == "computation"  # nothing is known yet
    assert run(live, client, "nap", 0.005) == "network"
    assert run(live, client, "breath", 0.005) == "network"
    assert run(live, client, "spin", 0.005) == "computation"
    assert run(live, client, "breath", 0.001) == "network"  # now measured among others on an event loop


def test_what_was_learned_outlives_the_planner(live, client):
    assert run(live, client, "nap", 0.005) == "network"
    before, version = row_of(live, "nap")["jobs"], live.segment.view("route_version")[0]
    [old] = live.named("shmq: planner")
    os.kill(old, signal.SIGKILL)
    until(lambda: live.named("shmq: planner") not in ([], [old]), "another planner")

    def learns_on():  # what ran while there was no planner counts for nothing
        assert run(live, client, "nap", 0.005, jobs=1) == "network"
        return row_of(live, "nap")["jobs"] > before

    until(learns_on, "it learns on")
    assert live.segment.view("route_version")[0] == version


def test_tasks_explain_tells_the_way_and_the_evidence(live, client):
    run(live, client, "nap", 0.005)

    def shown(*options):
        command = [sys.executable, "-m", "shmq", "tasks", "-n", live.namespace, "--explain", *options]
        return subprocess.run(command, capture_output=True, text=True, env=live.env, check=True).stdout

    ways = msgspec.json.decode(shown("--json"))
    of = {name: [way for way in ways if way["task"] == f"jobs.{name}"] for name in ("size", "plain", "nap")}
    assert [(way["group"], way["min_payload_bytes"]) for way in of["size"]] == [("memory", 1000), ("computation", 0)]
    assert of["size"][0]["why"] == "routes[0]: task 'jobs.siz*'"
    assert of["plain"][0]["why"] == "declared by the task"
    assert of["nap"][0]["group"] == "network"
    assert "waits" in of["nap"][0]["why"]
    text = shown("jobs.size")
    assert "1,000 B" in text
    assert "jobs.nap" not in text
