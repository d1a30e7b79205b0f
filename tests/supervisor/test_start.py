from __future__ import annotations

import subprocess
import sys

import pytest

from shmq.errors import ConfigError
from shmq.supervisor.namespace import prepare
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import os, random, sys, time, shmq

@shmq.task
def echo(x):
    return x

@shmq.task
def draw():
    time.sleep(0.01)
    return os.getpid(), random.random(), sys.modules["numpy"].random.random()

@shmq.task
def pid():
    return os.getpid()
"""

THREADED = """
import threading, time, shmq

threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()

@shmq.task
def threads():
    return threading.active_count()
"""

BROKEN_IN_WORKERS = """
import threading, time

threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
if "shmq: worker" in open("/proc/self/cmdline").read():
    1 / 0
"""


def ends(live: LiveSupervisor) -> int:
    live.start(wait=False)
    return live.process.wait(GUARD_S)


def test_the_supervisor_is_free_of_numpy_and_measuring_libraries():
    heavy = "{'numpy', 'psutil', 'memray', 'matplotlib'} & set(sys.modules)"
    code = f"import shmq.supervisor.main, sys; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_jobs_run_in_named_workers_and_a_second_supervisor_is_refused_by_name_of_the_holder(tmp_path):
    with LiveSupervisor(tmp_path, TASKS) as live:
        assert live.submit("echo", 5).result(GUARD_S) == 5
        pid = live.submit("pid").result(GUARD_S)
        assert pid in [worker["pid"] for worker in live.workers()]
        with open(f"/proc/{pid}/cmdline") as name:
            assert name.read().startswith("shmq: worker computation ")

        held, first = f"served by the supervisor with pid {live.pid}", live.process
        assert ends(live) == 1
        assert held in live.log()
        live.process = first
        assert live.submit("echo", 6).result(GUARD_S) == 6  # the first one has not noticed
        assert live.stop() == 0
        assert {p.name for p in live.state_dir.iterdir()} <= {"former_tasks.json", "lock", "registry.json", "patterns"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import shmq\n1 / 0\n", "line 2, in <module>\n    1 / 0\n    ~~^~~\nZeroDivisionError"),
        ("import shmq\nf = shmq.task(group='computatoin')(len)\n", "'computatoin', which the configuration lacks; did"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("import os\nos._exit(0)\n", "ended while it imported"),
        ("import os\nos.kill(os.getpid(), 11)\n", "SIGSEGV"),
    ],
)
def test_a_module_that_cannot_be_imported_refuses_the_start(tmp_path, source, text):
    live = LiveSupervisor(tmp_path, source)
    try:
        assert ends(live) == 1
        assert text in live.log()
        assert "Nothing was started" in live.log()
        live.assert_nothing_left()
    finally:
        live.discard()


def test_a_state_directory_that_cannot_be_made_refuses_the_start(tmp_path):
    live = LiveSupervisor(tmp_path, TASKS)
    live.state_home.write_text("in the way")
    try:
        assert ends(live)
        assert f"the state directory {live.state_dir} cannot be made" in live.log()
        assert "Not a directory" in live.log()
        live.assert_nothing_left()
    finally:
        live.discard()


def test_a_state_directory_that_cannot_be_written_refuses_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # as on a read-only filesystem
    with pytest.raises(ConfigError, match="cannot be written"):
        prepare(tmp_path / "state")


def test_a_module_that_starts_threads_is_imported_in_each_worker(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, modules={"threaded": THREADED}) as live:
        assert live.submit("threaded.threads").result(GUARD_S) == 2
        assert live.submit("echo", 1).result(GUARD_S) == 1
        assert "threaded start threads when imported" in live.log()


def test_a_worker_that_dies_before_it_can_work_is_not_forked_in_a_tight_loop(tmp_path):
    live = LiveSupervisor(
        tmp_path, TASKS, "[groups.computation]\nmax_workers = 1\n", modules={"broken": BROKEN_IN_WORKERS}
    )
    try:
        live.start(wait=False)
        until(lambda: live.log().count("ended: exit status 70") >= 3, "three workers have failed")
        assert live.control("ping")["pid"] == live.pid
        assert live.controls()[0]["spawned"] < 30
        live.stop()
        live.assert_nothing_left()
    finally:
        live.discard()


def test_siblings_draw_different_random_numbers(tmp_path):
    config = '[groups.computation]\nmax_workers = 2\nmode = "fixed"\n'
    with LiveSupervisor(tmp_path, "import numpy.random\n" + TASKS, config) as live:
        drawn: dict[int, list[float]] = {}
        while len(drawn) < 2:
            for pid, *numbers in [job.result(GUARD_S) for job in [live.submit("draw") for _ in range(4)]]:
                drawn.setdefault(pid, numbers)  # the first of each worker
        first, second = drawn.values()
        assert first[0] != second[0]
        assert first[1] != second[1]
