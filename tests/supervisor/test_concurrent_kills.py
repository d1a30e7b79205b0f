"""Where a worker runs many jobs at once: who is killed, and who is left alone."""

from __future__ import annotations

import os
import signal
import time

import pytest

from shmq.clock import now_ns
from shmq.errors import JobCancelled, WorkerLost
from shmq.memory.layout import WORKER
from shmq.transport.dead import DeadLetters
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import asyncio, os, time, shmq

@shmq.task(group="network")
async def wait_for(path: str):
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    return os.getpid()

@shmq.task(group="network")
async def wait():
    await asyncio.sleep(1000)

@shmq.task(group="network")
def nap():
    time.sleep(1000)

@shmq.task(group="strict", timeout=0.1)
def short(nbytes: int):
    return bytes(nbytes)

@shmq.task(group="strict", timeout=0.1)
def snap(seconds: float):
    time.sleep(seconds)

def devour(path):
    with open(path, "a") as file:
        file.write(open("/proc/self/cmdline").read().split("worker ")[1].split()[0] + "\\n")
    return bytearray(b"x") * (200 << 20)

@shmq.task(group="small")
def devour_in_thread(path: str):
    kept = devour(path)
    time.sleep(1000)

@shmq.task(group="small")
async def devour_on_loop(path: str):
    kept = devour(path)
    await asyncio.sleep(1000)
"""

CONFIG = """
[groups.network]
min_workers = 1
max_workers = 1
mode = "fixed"
concurrency = 4

[groups.patient]
min_workers = 1
max_workers = 1
mode = "fixed"
concurrency = 4
grace_s = 3600

[groups.strict]
min_workers = 1
max_workers = 1
mode = "fixed"
concurrency = 4
grace_s = 0.5

[groups.small]
min_workers = 1
max_workers = 1
mode = "fixed"
concurrency = 4
hard_worker_memory_bytes = 134217728
escalate_to = "large"

[groups.large]
min_workers = 1
max_workers = 1
hard_worker_memory_bytes = 150994944
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, CONFIG) as live:
        yield live


def begun(live, task, *args, **options):
    """A job of it that runs."""
    job = live.submit(task, *args, **options)
    until(lambda: job.state == "running", f"{task} runs")
    return job


def pid(live):
    (worker,) = until(lambda: live.live_workers("network"), "a worker")
    return worker["pid"]


@pytest.mark.parametrize("options", [{}, {"timeout": 100}], ids=["no limit", "time limit"])
def test_of_a_killed_coroutine_the_worker_and_the_jobs_beside_it_live_on(live, tmp_path, options):
    worker = pid(live)
    beside = begun(live, "wait_for", str(tmp_path / "go"))
    for _ in range(5):
        job = begun(live, "wait", **options)
        job.cancel(kill=True)
        with pytest.raises(JobCancelled):
            job.result(GUARD_S)
    (tmp_path / "go").touch()
    assert beside.result(GUARD_S) == worker


def test_of_a_killed_thread_the_jobs_beside_it_run_again_in_another_worker(live, tmp_path):
    worker = pid(live)
    beside = begun(live, "wait_for", str(tmp_path / "go"))
    job = begun(live, "nap")
    job.cancel(kill=True)
    with pytest.raises(JobCancelled):
        job.result(GUARD_S)
    (tmp_path / "go").touch()
    assert beside.result(GUARD_S) != worker


def test_a_kill_that_the_supervisor_has_not_seen_yet_outlives_the_end_of_another_job(live, tmp_path):
    beside = begun(live, "wait_for", str(tmp_path / "go"))
    job = begun(live, "nap")
    os.kill(live.pid, signal.SIGSTOP)
    try:
        job.cancel(kill=True)
        (tmp_path / "go").touch()
        beside.result(GUARD_S)
    finally:
        os.kill(live.pid, signal.SIGCONT)
    with pytest.raises(JobCancelled):
        job.result(GUARD_S)


@pytest.mark.parametrize("task", ["devour_in_thread", "devour_on_loop"])
def test_a_job_alone_over_the_hard_limit_goes_where_there_is_more(live, tmp_path, task):
    runs = tmp_path / "runs"
    job = live.submit(task, str(runs))
    with pytest.raises(WorkerLost, match="over the memory limit"):
        job.result(GUARD_S)
    assert runs.read_text().split() == ["small", "large"]
    (letter,) = DeadLetters(live.state_dir).list(task=f"jobs.{task}")
    assert (letter.group, letter.how) == ("large", "over the memory limit")


def test_a_kill_does_not_wait_for_another_job_that_is_overdue(live):
    overdue = begun(live, "nap", group="patient", timeout=0.1)
    job = begun(live, "nap", group="patient")
    rows = live.segment.rows("worker_rows")
    until(lambda: any(0 < row[WORKER["deadline_ns"]] < now_ns() for row in rows), "its time is over")
    job.cancel(kill=True)
    with pytest.raises(JobCancelled):
        job.result(GUARD_S)
    assert not overdue.done()  # it runs again, or will: its grace is an hour
    overdue.cancel(kill=True)
    with pytest.raises((JobCancelled, TimeoutError)):
        overdue.result(GUARD_S)


def test_a_slow_reader_is_not_the_time_of_the_call_before(live):
    client = live.client()
    task = client._registry.task("jobs.short")
    seen = []
    for value in client.stream(task, [200_000] * 12, chunk_size=12, memory_limit="1 MB"):
        seen.append(len(value))
        time.sleep(0.7 if len(seen) in {1, 6} else 0.0)  # longer than a call may take, with its grace
    assert seen == [200_000] * 12
    live.close_clients()


def test_a_call_of_a_chunk_that_is_too_long_is_told_and_the_others_count(live):
    client = live.client()
    ends = list(client.map_calls("jobs.snap", [(0.0,), (0.5,), (0.0,)], chunk_size=3))
    assert [ok for _, ok, _ in ends] == [True, False, True]
    assert "jobs.snap ran past its time limit of 0.1 s" in str(ends[1][2])
    live.close_clients()
