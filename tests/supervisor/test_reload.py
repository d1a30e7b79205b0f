from __future__ import annotations

import os
import signal

import pytest

from shmq.errors import ShmqError
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


@pytest.fixture
def changing(tmp_path):
    """A supervisor whose configuration may change, and what its file says."""
    config = "[groups.computation]\nmin_workers = 1\nmax_workers = 1\n"
    with LiveSupervisor(tmp_path, TASKS, config) as live:
        assert live.submit("version").result(GUARD_S) == 1
        yield live, live.config_path.read_text()


def test_reload_takes_the_modules_that_the_configuration_names_by_now(changing):
    live, text = changing
    live.write_module("more", "import shmq\n@shmq.task\ndef answer():\n    return 42\n")
    live.config_path.write_text(text.replace('"jobs"', '"jobs", "more"'))
    live.control("reload")
    until(lambda: {w["generation"] for w in live.live_workers()} == {2}, "new workers")
    assert live.submit("more.answer").result(GUARD_S) == 42


def test_a_new_task_is_never_unknown_once_reload_is_done(changing):
    """Workers of the old code still claim for a while."""
    live, text = changing
    for number in range(5):
        live.write_module(f"more{number}", f"import shmq\n@shmq.task\ndef answer():\n    return {number}\n")
        names = "".join(f', "more{n}"' for n in range(number + 1))
        live.config_path.write_text(text.replace('"jobs"', f'"jobs"{names}'))
        version = live.segment.header("registry")
        live.control("reload")
        until(lambda version=version: live.segment.header("registry") > version, "the new tasks")
        jobs = [live.submit(f"more{number}.answer") for _ in range(20)]
        assert [job.result(GUARD_S) for job in jobs] == [number] * 20


def test_reload_tells_which_changes_take_a_restart(changing):
    live, text = changing
    text = text.replace("max_workers = 1\n", "max_workers = 3\nretries = 2\n", 1)
    live.config_path.write_text(text + "[groups.third]\n")
    answer = live.control("reload")
    assert answer["restart"] == ["groups.computation.max_workers", "groups.computation.retries", "groups.third"]
    assert "groups.third in " in live.log()
    until(lambda: {w["generation"] for w in live.live_workers()} == {2}, "new workers")


def test_a_configuration_that_cannot_be_used_refuses_the_reload_and_changes_nothing(changing):
    live, text = changing
    live.config_path.write_text(text.replace("max_workers = 1", "max_wrkers = 1"))
    with pytest.raises(ShmqError, match=r"unknown key groups\.computation\.max_wrkers; did you mean max_workers"):
        live.control("reload")
    os.kill(live.pid, signal.SIGHUP)
    until(lambda: "reload refused: " in live.log(), "the refusal")
    assert {w["generation"] for w in live.live_workers()} == {1}
    assert live.submit("version").result(GUARD_S) == 1


def test_a_new_module_that_cannot_be_imported_is_not_named_any_more(changing):
    live, text = changing
    live.config_path.write_text(text.replace('"jobs"', '"jobs", "missing"'))
    live.control("reload")
    until(lambda: "reload refused" in live.log(), "the refusal")
    until(lambda: len(live.named("shmq: fork server")) == 1, "the refused one is gone")
    (old,) = live.named("shmq: fork server")
    os.kill(old, signal.SIGKILL)  # the next one imports what the one in charge had
    until(lambda: live.log().count("1 tasks of jobs are ready") == 2, "it is in charge")
