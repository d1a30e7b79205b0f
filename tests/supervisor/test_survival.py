"""One supervisor through everything that may not end it."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from shmq.errors import ShmqError
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import os, signal, time, shmq

@shmq.task
def echo(x):
    return x

@shmq.task
def pid():
    return os.getpid()

@shmq.task
def pid_once_there(path: str):
    while not os.path.exists(path):
        time.sleep(0.001)
    return os.getpid()

@shmq.task
def die_once(path: str, number: int):
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), number)
    return "survived"

@shmq.task
def leave_an_orphan():
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
        os._exit(0)
    os.wait()
    return True
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    config = "[groups.computation]\nmin_workers = 2\nmax_workers = 4\nmode = 'reactive'\nhold_s = 600.0\n"
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, config) as live:
        yield live


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGRTMIN + 6])
def test_a_worker_killed_by_any_signal_costs_one_attempt(live, tmp_path, number):
    assert live.submit("die_once", str(tmp_path / "mark"), int(number)).result(GUARD_S) == "survived"
    assert live.control("ping")["pid"] == live.pid


def test_orphans_of_tasks_are_reaped(live):
    assert all(live.submit("leave_an_orphan").result(GUARD_S) for _ in range(5))

    def zombies():
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
                if fields[0] == "Z" and int(fields[1]) == live.pid:
                    found.append(entry)
        return found

    until(lambda: not zombies(), "orphans are reaped")


def test_the_fork_server_holds_no_socket_but_its_own(live):
    """A listener or socket end that a child keeps by accident keeps its peer waiting."""
    (pid,) = live.named("shmq: fork server")
    targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert len([target for target in targets if target.startswith("socket:")]) == 1
    assert not [target for target in targets if target.endswith(".bell")]


def test_the_fork_server_is_replaced_when_it_dies_and_workers_go_on(live, tmp_path):
    before = {worker["pid"] for worker in live.live_workers()}
    job = live.submit("pid_once_there", str(tmp_path / "go"))
    until(lambda: job.state == "running", "it runs")
    (old,) = live.named("shmq: fork server")
    os.kill(old, signal.SIGKILL)
    assert live.submit("echo", 1).result(GUARD_S) == 1
    until(lambda: [p for p in live.named("shmq: fork server") if p != old], "another fork server")
    live.control("scale", group="computation", workers=3)
    until(lambda: len(live.live_workers()) == 3, "a third worker")
    (tmp_path / "go").touch()
    assert job.result(GUARD_S) in before
    live.control("scale", group="computation", workers=None)


def test_orders_that_die_with_the_fork_server_are_made_again(live):
    live.control("scale", group="computation", workers=2)
    until(lambda: len(live.workers()) == len(live.live_workers()) == 2, "two workers, no order under way")
    (old,) = live.named("shmq: fork server")
    os.kill(old, signal.SIGSTOP)
    live.control("scale", group="computation", workers=4)
    until(lambda: len(live.workers()) == 4, "two orders")
    os.kill(old, signal.SIGKILL)
    until(lambda: len(live.live_workers()) == 4, "four workers")
    assert live.submit("echo", 2).result(GUARD_S) == 2
    live.control("scale", group="computation", workers=None)


def test_recovery_is_replaced_when_it_dies(live):
    old = live.segment.header("recovery_pid")
    assert old in live.named("shmq: recovery")
    os.kill(old, signal.SIGKILL)
    until(lambda: live.segment.header("recovery_pid") not in {0, old}, "another recovery")
    assert live.submit("echo", 3, delay=0.01).result(GUARD_S) == 3


@pytest.mark.parametrize(
    ("command", "arguments", "part"),
    [
        ("nonsense", {}, "unknown command"),
        ("scale", {"group": "nowhere", "workers": 1}, "no group 'nowhere'"),
        ("scale", {"group": "computation", "workers": -1}, "0 to 16"),
        ("scale", {"group": "computation", "workers": True}, "0 to 16"),
        ("scale", {"group": []}, "workers"),
        ("stop", {"grace_s": -1}, "0 or more"),
        ("stop", {"grace_s": "soon"}, "soon"),
        ("limit", {"target": "computation", "burst": 3}, "rate_per_s too"),
        ("limit", {"target": "computation", "rate_per_s": -3}, "rate_per_s"),
        ("limit", {"target": "computation", "colour": 3}, "colour"),
    ],
)
def test_a_request_that_cannot_be_done_is_refused_and_changes_nothing(live, command, arguments, part):
    with pytest.raises(ShmqError, match=part):
        live.control(command, **arguments)
    assert live.submit("echo", 4).result(GUARD_S) == 4


def test_a_rate_limit_is_set_changed_and_removed_while_running(live):
    assert live.control("limit", target="computation", rate_per_s=2.5)["rate_per_s"] == 2.5
    assert live.control("limit", target="computation", burst=7) == {
        "name": "computation",
        "rate_per_s": 2.5,
        "burst": 7,
    }
    words = live.controls()[0]
    assert (words["rate_per_s_milli"], words["burst"]) == (2500, 7)
    assert live.control("limit", target="computation", off=True)["rate_per_s"] is None
    assert live.submit("echo", 5).result(GUARD_S) == 5


def test_a_rate_limit_holds_for_all_workers_together(live):
    import time

    live.control("limit", target="computation", rate_per_s=20, burst=1)
    started = time.monotonic()
    jobs = [live.submit("echo", i) for i in range(8)]
    assert [job.result(GUARD_S) for job in jobs] == list(range(8))
    assert time.monotonic() - started > 7 / 20 * 0.9  # eight starts are seven intervals apart
    live.control("limit", target="computation", off=True)


def test_a_paused_group_starts_nothing_until_it_is_resumed(live):
    live.control("pause", group="computation")
    job = live.submit("echo", 6)
    with pytest.raises(TimeoutError):
        job.result(0.3)
    live.control("resume", group="computation")
    assert job.result(GUARD_S) == 6
