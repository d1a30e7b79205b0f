"""A system with nothing to do wakes seldom, and nothing takes longer for it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from shmq.memory.layout import WORKER
from shmq.supervisor.pools.worker import Worker
from shmq.transport.bells import Bells
from tests.crash.edges import rescued
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import signal, time, shmq

@shmq.task
def echo(x):
    return x

@shmq.task(timeout=0.2)
def deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(1000)

@shmq.task(group="network")
def echo_in_network(x):
    return x

@shmq.task(group="network", timeout=0.2)
def deaf_in_network():
    time.sleep(1000)

@shmq.task(group="network", timeout=2)
def deaf_for_long_in_network():
    time.sleep(1000)
"""
GROUP = '[groups.computation]\nmin_workers = 1\nmax_workers = 1\nmode = "fixed"\ngrace_s = 0.1\n'
CONFIG = GROUP + GROUP.replace("computation", "network") + "concurrency = 4\n"
# what is at rest does not look by itself again while the test runs
SUPERVISOR_RESTS = "from shmq.supervisor import main; main._REST_TICKS, main._LONGEST_REST_S = 3000, 300.0\n"
WORKERS_REST = "from shmq.memory import doorbell; doorbell.IDLE_S = 300.0\n"


def wakes(pids: list[int], seconds: float = 1.0) -> int:
    """How often the processes go to sleep in that time."""

    def count() -> int:
        lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    before = count()
    time.sleep(seconds)
    return count() - before


def rest(live: LiveSupervisor) -> None:
    """Wait until the supervisor and all workers sleep long."""
    pids = [live.pid, *(worker["pid"] for worker in live.live_workers())]
    until(lambda: wakes(pids) <= 14 + len(pids), "the system comes to rest")
    wakes(pids)  # so long the supervisor waits for a claim before it rests as well


def test_a_system_at_rest_wakes_seldom(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        live.submit("echo", 1).result(GUARD_S)
        live.close_clients()
        tree = [live.pid, *(pid for pid in live.processes() if pid != live.pid)]
        # supervisor 10, recovery 1, planner 1, workers 1 each; a ring or a page from disk now and then
        until(lambda: wakes(tree, 2.0) <= 36, "fourteen a second")


@pytest.mark.parametrize("task", ["deaf", "deaf_in_network", "deaf_for_long_in_network"])
def test_work_ends_the_supervisors_rest(tmp_path, task):
    """Only the supervisor can end these jobs, and by itself it would look in five minutes.

    Of the last one the worker still has free places, so it sleeps meanwhile, for more than a second.
    """
    with LiveSupervisor(tmp_path, TASKS, CONFIG, prelude=SUPERVISOR_RESTS) as live:
        rest(live)
        with pytest.raises(TimeoutError, match="past its time limit"):
            live.submit(task).result(GUARD_S)


def test_a_worker_that_dies_at_rest_is_replaced(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG, prelude=SUPERVISOR_RESTS + WORKERS_REST) as live:
        rest(live)
        (before,) = live.live_workers("computation")
        os.kill(before["pid"], signal.SIGKILL)
        until(lambda: [w for w in live.live_workers("computation") if w["pid"] != before["pid"]], "another one is live")
        assert live.submit("echo", 1).result(GUARD_S) == 1


def test_a_new_worker_is_rung_in_its_first_nap_although_the_one_before_it_was_too(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        client, before = live.client(), 0
        for number in range(8):
            until(lambda before=before: sleeper(live) not in {0, before}, "a new worker sleeps")
            before = sleeper(live)
            assert client.submit_task(client._registry.task("jobs.echo"), (number,)).result(GUARD_S) == number
            assert rescued(live) == 0
            os.kill(before, signal.SIGKILL)


def sleeper(live: LiveSupervisor) -> int:
    """Pid of the worker of the first group that sleeps; 0: none does."""
    rows, asleep = live.segment.rows("worker_rows"), live.segment.view("sleeping")
    return next((row[WORKER["pid"]] for at, row in enumerate(rows, 1) if asleep[at]), 0)


@pytest.mark.parametrize("task", ["echo", "echo_in_network"])
def test_a_resumed_group_at_rest_is_rung(tmp_path, task):
    with LiveSupervisor(tmp_path, TASKS, CONFIG, prelude=WORKERS_REST + SUPERVISOR_RESTS) as live:
        group = "network" if task == "echo_in_network" else "computation"
        live.control("pause", group=group)
        job = live.submit(task, 1)
        rest(live)
        live.control("resume", group=group)
        assert job.result(GUARD_S) == 1


def test_the_supervisor_rings_for_work_that_nobody_was_rung_for(tmp_path, monkeypatch):
    with LiveSupervisor(tmp_path, TASKS, CONFIG, prelude=WORKERS_REST) as live:
        client = live.client()
        rest(live)
        monkeypatch.setattr(Bells, "wake_one", lambda _bells, _group: None)
        monkeypatch.setattr(Bells, "ring", lambda _bells, _row: None)
        assert client.submit_task(client._registry.task("jobs.echo"), (1,)).result(GUARD_S) == 1
        assert sum(group["rescues"] for group in live.controls()) == 1


def test_workers_of_a_limited_group_are_rung_as_well_but_none_is_counted_as_forgotten(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG.replace("grace_s", "rate_per_s = 4\nburst = 1\ngrace_s")) as live:
        jobs = [live.submit("echo", i) for i in range(4)]
        assert [job.result(GUARD_S) for job in jobs] == [0, 1, 2, 3]
        assert sum(group["rescues"] for group in live.controls()) == 0


def test_who_drains_a_worker_rings_it_too():
    rung = []

    class Bell:
        def notify(self):
            rung.append(True)

    Worker(0, 0, Bell(), 0.0, 1, None).drain()
    assert rung
