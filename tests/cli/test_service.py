from __future__ import annotations

import json
import subprocess
import sys

import pytest

from shmq.cli import exits
from tests.cli.conftest import CONFIG, TASKS, Commands
from tests.live import GUARD_S, LiveSupervisor, until


@pytest.fixture
def shmq(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        yield Commands(live)


def test_stop_returns_when_the_supervisor_has_ended(shmq):
    done = shmq.run("stop")
    assert (done.returncode, done.stdout) == (exits.OK, b"stopped\n")
    assert shmq.live.process.wait(GUARD_S) == 0
    again = shmq.run("stop")
    assert again.returncode == exits.NOT_RUNNING
    assert b"shmq supervise" in again.stderr


def test_drain_runs_all_that_was_accepted_first(shmq, tmp_path):
    ran = tmp_path / "ran"
    ran.mkdir()
    for i in range(8):
        assert shmq("submit", "--no-wait", "--json", "jobs.note", json.dumps(str(ran / str(i))), "0.1").exit_code == 0
    done = shmq.run("drain")
    assert (done.returncode, done.stdout) == (exits.OK, b"stopped\n")
    assert len(list(ran.iterdir())) == 8


def test_jobs_that_a_stop_leaves_are_counted_and_run_by_the_next_supervisor(shmq, tmp_path):
    shmq("pause", "computation")
    for i in range(3):
        shmq("submit", "--no-wait", "jobs.note", str(tmp_path / f"ran-{i}"))
    done = shmq.run("stop", "--now")
    assert done.stdout == b"stopped; 3 unfinished jobs wait for the next supervisor\n"
    shmq.live.process.wait(GUARD_S)
    assert "NOT RUNNING" in shmq("status").output
    assert shmq("status", "--health").exit_code == exits.FAILED
    assert shmq("stop").exit_code == exits.NOT_RUNNING

    shmq.live.start()
    shmq("resume", "computation")
    until(lambda: len(list(tmp_path.glob("ran-*"))) == 3, "the jobs run")


def test_reload_takes_new_code_and_refuses_broken_code(shmq):
    assert shmq("submit", "jobs.echo", "x").output == '"x"\n'
    shmq.live.write_module("jobs", TASKS.replace("return x\n", "return [x]\n", 1))
    done = shmq("reload")
    assert (done.exit_code, done.output) == (exits.OK, "reloaded: new workers run the new code\n")
    until(lambda: shmq("submit", "jobs.echo", "x").output == '["x"]\n', "the new code runs")

    shmq.live.write_module("jobs", "import no_such_module")
    done = shmq("reload", "--timeout", "2")
    assert done.exit_code == exits.FAILED
    assert "the old code goes on" in done.output
    until(lambda: "no_such_module" in shmq.live.log(), "the reason is logged")
    assert shmq("submit", "jobs.echo", "x").output == '["x"]\n'


def test_supervise_serves_until_it_is_stopped(tmp_path):
    live = LiveSupervisor(tmp_path, TASKS, CONFIG)
    shmq = Commands(live)
    command = shmq.command("supervise", str(live.config_path), "--log-format", "json", "--grace-s", "5")
    try:
        with live.log_path.open("wb") as log:
            live.process = subprocess.Popen(command, env=shmq.env, stdout=log, stderr=log)
        until(live._is_ready, "it serves")
        assert shmq("submit", "jobs.echo", "x").output == '"x"\n'

        second = subprocess.run(command, env=shmq.env, capture_output=True, text=True, timeout=60)
        assert second.returncode == exits.REFUSED
        assert f"pid {live.pid}" in second.stderr

        assert shmq("stop").exit_code == exits.OK
        assert live.process.wait(GUARD_S) == 0
        live.assert_nothing_left()
        assert all(json.loads(line) for line in live.log().splitlines())
    finally:
        live.discard()


@pytest.mark.parametrize("is_option", [True, False], ids=["option", "environment"])
def test_another_namespace_than_the_configuration_s_wins_and_the_log_says_so_unless_it_is_an_option(
    tmp_path, is_option
):
    live = LiveSupervisor(tmp_path, TASKS, CONFIG)
    namespace = f"{live.namespace}-other"
    env = {**live.env, "SHMQ_NAMESPACE": "not-this-one" if is_option else namespace}
    command, chosen = [sys.executable, "-m", "shmq"], ["-n", namespace] if is_option else []
    with live.log_path.open("wb") as log:
        process = subprocess.Popen([*command, "supervise", str(live.config_path), *chosen], env=env, stderr=log)
    try:
        ping = [*command, "stop", "-n", namespace]
        until(lambda: subprocess.run(ping, env=env, capture_output=True).returncode == exits.OK, "it is stopped")
        assert process.wait(GUARD_S) == 0
    finally:
        process.kill()
        process.wait()
    told = f"warning supervisor: SHMQ_NAMESPACE wins: the namespace is {namespace!r}, not {live.namespace!r} as in"
    assert (told in live.log()) is not is_option


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("tasks = 3", "expected tasks"),
        ("[groups.g]\nmin_worker = 1", "did you mean min_workers"),
        ("not toml", "is not TOML"),
        ('tasks = ["no_such_module_here"]', "no_such_module_here"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_used_is_told(tmp_path, config, told):
    live = LiveSupervisor(tmp_path, "")
    live.config_path.write_text(config)
    done = subprocess.run(
        [sys.executable, "-m", "shmq", "supervise", str(live.config_path), "-n", live.namespace],
        env=live.env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    live.discard()
    assert done.returncode == exits.BAD_CONFIG
    assert told in done.stderr
    assert "this is a bug" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_caller_may_have_closed_the_standard_streams(tmp_path, closed):
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        live.stop()
        command = f"exec {sys.executable} -m shmq"
        live.process = subprocess.Popen(["sh", "-c", f"{command} supervise {live.config_path} {closed}"], env=live.env)
        until(live._is_ready, "it serves")
        ran = tmp_path / "ran"
        asked = subprocess.run(["sh", "-c", f"{command} submit jobs.note {ran} {closed}"], env=Commands(live).env)
        assert asked.returncode == exits.OK
        assert ran.exists()
        assert Commands(live).run("stop").returncode == exits.OK
        assert live.process.wait(GUARD_S) == 0
