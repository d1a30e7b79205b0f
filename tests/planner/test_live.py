"""The planner process under a real supervisor."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import pytest

import shmq
from shmq.clock import NS, now_ns
from shmq.memory.layout import GROUP_PLAN
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import time, shmq

@shmq.task(group="network")
def nap(seconds):
    time.sleep(seconds)

@shmq.task(group="network")
async def breath(seconds):
    import asyncio
    await asyncio.sleep(seconds)
"""
CONFIG = """
[groups.network]
kind = "io"
min_workers = 0
max_workers = 6
max_batch = 1
hold_s = 0.3
[planner]
step_s = 0.05
save_s = 0.2
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("planner"), TASKS, CONFIG) as live:
        until(lambda: plan(live)["updated_ns"], "the planner plans")
        yield live


def plan(live, group=0):
    row = live.segment.rows("group_plan")[group]
    return {word: int(row[i]) for word, i in GROUP_PLAN.items()}


def planner_pid(live):
    return next(iter(live.named("shmq: planner")), 0)


def test_a_group_at_rest_has_no_worker_and_its_first_job_starts_one(live):
    until(lambda: not live.workers("network"), "nobody is left")
    live.submit("nap", 0.0).result(GUARD_S)
    assert live.controls()[0]["spawned"] > 0


def test_a_group_at_rest_keeps_who_was_woken_until_the_planner_has_seen_the_job(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG.replace("0.05", "2").replace("hold_s = 0.3", "hold_s = 60")) as live:
        until(lambda: plan(live)["updated_ns"], "the first plan")
        pid = planner_pid(live)
        os.kill(pid, signal.SIGSTOP)  # its plan says: nobody
        try:
            live.submit("nap", 0.0).result(GUARD_S)
            for _ in range(5):
                live.control("ping")  # each lets the supervisor look what is wanted
            assert len(live.live_workers("network")) == 1
        finally:
            os.kill(pid, signal.SIGCONT)
        seen = plan(live)["updated_ns"]
        until(lambda: plan(live)["updated_ns"] > seen, "the planner has seen it")
        live.control("ping")
        assert len(live.live_workers("network")) == 1
        assert live.controls()[0]["spawned"] == 1


def test_the_plan_is_written_every_step(live):
    before = plan(live)["updated_ns"]
    until(lambda: plan(live)["updated_ns"] > before, "a newer plan")
    seen = plan(live)
    assert seen["step"] == int(0.05 * NS)
    assert 0 <= now_ns() - seen["updated_ns"] < GUARD_S * NS
    assert live.segment.text("group_reason", 0)


def test_what_came_and_what_takes_how_long_is_seen(live):
    jobs = [live.submit("nap", 0.02) for _ in range(20)]
    for job in jobs:
        job.result(GUARD_S)
    until(lambda: 0.01 < plan(live)["service_ns"] / NS < 1, "the service time is known")
    assert shmq.optimize_batch_size("network", live.namespace) == 1


def test_killing_the_planner_at_random_never_stops_the_scaling(live):
    chance = random.Random(5)
    for _ in range(2):
        jobs = [live.submit("nap", 0.05) for _ in range(40)]
        for _ in range(chance.randrange(1, 4)):
            old = until(lambda: planner_pid(live), "a planner runs")
            os.kill(old, signal.SIGKILL)
            until(lambda: planner_pid(live) not in {0, old}, "another planner")  # noqa: B023 - called at once
        until(lambda: len(live.live_workers("network")) > 1 or all(job.done() for job in jobs), "it scales up")  # noqa: B023
        for job in jobs:
            job.result(GUARD_S)
    until(lambda: len(live.live_workers("network")) < 6, "and down")


def test_a_planner_that_hangs_leaves_the_scaling_to_the_supervisor(live):
    pid = until(lambda: planner_pid(live), "a planner runs")
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: now_ns() - plan(live)["updated_ns"] > 1.5 * NS, "the plan is old")
        jobs = [live.submit("nap", 0.1) for _ in range(30)]
        until(lambda: len(live.live_workers("network")) > 1, "the reactive rule scales")
        for job in jobs:
            job.result(GUARD_S)
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: now_ns() - plan(live)["updated_ns"] < 0.5 * NS, "it plans again")


def test_the_pattern_is_saved_and_a_damaged_one_set_aside(live):
    path = live.state_dir / "patterns" / "network.npz"
    until(path.exists, "the pattern is saved")
    old = until(lambda: planner_pid(live), "a planner runs")
    os.kill(old, signal.SIGSTOP)  # it must not save over the damage
    path.write_bytes(b"no archive")
    os.kill(old, signal.SIGKILL)
    until((path.parent / "network.npz.damaged").exists, "it is set aside")
    until(lambda: "cannot be used" in live.log(), "the log says so")
    until(path.exists, "learning goes on")


def test_show_tells_the_forecast_and_the_reason(live):
    def shown(*options):
        command = [sys.executable, "-m", "shmq", "forecast", "show", "-n", live.namespace, *options]
        return subprocess.run(command, capture_output=True, text=True, env=live.env)

    until(lambda: now_ns() - plan(live)["updated_ns"] < 0.1 * NS, "it plans")
    row = json.loads(shown("network", "--json").stdout)
    assert row["group"] == "network"
    assert {"came", "expected", "accuracy", "reason", "need", "target_workers"} <= set(row)
    text = shown("network", "--steps", "3").stdout
    assert "reactive need" in text
    assert "accuracy" in text
    wrong = shown("netwrk")
    assert wrong.returncode
    assert "did you mean network" in wrong.stderr.lower()


AUTO = """
[groups.network]
kind = "io"
max_workers = 1
concurrency = "auto"
hold_s = 0.3
[planner]
step_s = 0.05
[memory]
max_producers = 4
slots_per_producer = 4096
block_budget_bytes = 4194304
max_workers = 16
"""


def test_automatic_concurrency_is_raised_while_that_brings_throughput(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, AUTO) as live:
        jobs = []

        def is_raised():
            jobs[:] = [job for job in jobs if not job.done()]
            jobs.extend(live.submit("breath", 0.1) for _ in range(400 - len(jobs)))
            return plan(live)["concurrency"] > 12

        until(is_raised, "the concurrency rises")
        for job in jobs:
            job.result(GUARD_S)


def test_automatic_workers_grow_past_the_cores_and_status_tells_the_bound(tmp_path):
    config = AUTO.replace("max_workers = 1\n", 'max_workers = "auto"\n').replace(
        '"auto"\nhold_s = 0.3', "1\nhold_s = 60"
    )
    with LiveSupervisor(tmp_path, TASKS, config) as live:
        jobs, cores = [], len(os.sched_getaffinity(0))

        def has_grown():
            jobs[:] = [job for job in jobs if not job.done()]
            jobs.extend(live.submit("nap", 0.05) for _ in range(100 - len(jobs)))
            return live.controls()[0]["workers"] > cores

        until(has_grown, "more workers than cores")
        seen = live.controls()[0]
        assert seen["max_workers"] >= seen["workers"] > cores
        before, lowest = seen["scaled_to"], [seen["scaled_to"]]
        pid = planner_pid(live)

        def while_busy(condition):
            def look():
                has_grown()
                lowest.append(live.controls()[0]["scaled_to"])
                return condition()

            until(look, "the planner is dead, old or back")

        os.kill(pid, signal.SIGSTOP)
        while_busy(lambda: now_ns() - plan(live)["updated_ns"] > 1.5 * NS)
        os.kill(pid, signal.SIGKILL)
        while_busy(lambda: planner_pid(live) not in {0, pid} and now_ns() - plan(live)["updated_ns"] < 0.5 * NS)
        for _ in range(2):
            live.control("ping")  # the supervisor has followed by the second
        lowest.append(live.controls()[0]["scaled_to"])
        assert min(lowest) >= before  # neither the supervisor alone nor the next planner begins at the cores
        for job in jobs:
            job.result(GUARD_S)
