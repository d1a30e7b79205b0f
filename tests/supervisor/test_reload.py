from __future__ import annotations

import os
import signal

import pytest

from shmq.transport.dead import DeadLetters
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import os, time, shmq

@shmq.task
def version(s: float = 0.0):
    time.sleep(s)
    return VERSION

VERSION = 1
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    config = "[groups.computation]\nmin_workers = 2\nmax_workers = 2\n"
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, config) as live:
        yield live


def test_reload_under_load_loses_no_job_and_refuses_no_submit(live):
    live.write_module("jobs", TASKS.replace("VERSION = 1", "VERSION = 22"))
    jobs = [live.submit("version", 0.002) for _ in range(50)]
    live.control("reload")
    seen = 0
    while seen != 22:
        jobs += [live.submit("version", 0.002) for _ in range(10)]
        seen = jobs[-1].result(GUARD_S)
    results = [job.result(GUARD_S) for job in jobs]
    assert set(results) == {1, 22}
    until(
        lambda: {w["generation"] for w in live.workers()} == {2} and len(live.live_workers()) == 2,
        "two new workers",
    )
    assert "crashed" not in live.log()


def test_a_module_that_cannot_be_imported_leaves_the_old_code_in_place(live):
    before = live.submit("version").result(GUARD_S)
    for bad, why in (
        ("\nraise RuntimeError('no good')\n", "RuntimeError: no good"),
        ("\nlen = shmq.task(group='gpu')(len)\n", "'gpu', which the configuration lacks"),
    ):
        refused = live.log().count("reload refused")
        live.write_module("jobs", TASKS + bad)
        live.control("reload")
        until(lambda refused=refused: live.log().count("reload refused") > refused, "the refusal")
        assert why in live.log()
    assert live.submit("version").result(GUARD_S) == before


def test_sighup_reloads_again_and_again_without_leaving_fork_servers(live):
    for version in (3, 4, 5):
        live.write_module("jobs", TASKS.replace("VERSION = 1", f"VERSION = {version}"))
        os.kill(live.pid, signal.SIGHUP)
        until(lambda version=version: live.submit("version").result(GUARD_S) == version, "new code")

    until(lambda: len(live.named("shmq: fork server")) == 1, "one fork server is left")


def test_the_fork_server_dies_while_the_module_on_disk_is_broken_and_comes_back_with_it(live):
    before = live.submit("version").result(GUARD_S)
    live.write_module("jobs", "raise RuntimeError('half written')\n")
    (old,) = live.named("shmq: fork server")
    os.kill(old, signal.SIGKILL)
    until(lambda: "no new workers for now" in live.log(), "the complaint")
    assert live.submit("version").result(GUARD_S) == before
    live.write_module("jobs", TASKS.replace("VERSION = 1", "VERSION = 6"))
    until(lambda: live.submit("version").result(GUARD_S) == 6, "new code")


def test_a_job_whose_task_was_renamed_is_put_aside_under_its_name(live):
    live.control("pause", group="computation")
    live.submit("version", forget=True)
    reload_with(live, TASKS.replace("def version", "def renamed"))
    live.control("resume", group="computation")
    letters = DeadLetters(live.state_dir)
    until(letters.list, "the dead letter")
    (letter,) = letters.list()
    assert letter.task == "jobs.version"
    assert letter.message.startswith("jobs.version (key 0x")
    reload_with(live, TASKS)
    assert live.submit("version").result(GUARD_S) == 1


def reload_with(live, tasks):
    """New task code, and no worker any more that has the old one."""
    old = {worker["pid"] for worker in live.workers()}
    live.write_module("jobs", tasks)
    live.control("reload")
    until(lambda: live.live_workers() and not old & {worker["pid"] for worker in live.workers()}, "new workers")
