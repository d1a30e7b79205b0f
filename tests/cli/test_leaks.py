"""`shmq leaks`: a running worker is looked at without restart; a run is judged again from its folder."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from shmq.cli.leaks import leaks
from shmq.memcheck import traces, tracing
from shmq.memcheck.recording import Recorder
from shmq.memcheck.soak import orders, watch
from shmq.worker import watching
from tests.cli.conftest import Commands
from tests.live import LiveSupervisor

TASKS = """
import os, shmq

kept = []

@shmq.task
def grow(n: int) -> int:
    kept.append(bytearray(2000))
    return os.getpid()

@shmq.task(group="network")
async def afar(n: int) -> int:
    kept.append(bytearray(2000))
    return os.getpid()
"""
CONFIG = """
[groups.computation]
min_workers = 1
max_workers = 1
[groups.network]
min_workers = 1
max_workers = 1
concurrency = 10
"""
GROW_LINE = TASKS.splitlines().index("    kept.append(bytearray(2000))") + 1


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, CONFIG) as live:
        yield Commands(live)


@pytest.mark.slow
@pytest.mark.parametrize(("group", "task"), [("computation", "grow"), ("network", "afar")])
def test_attach_names_the_line_in_the_running_worker(leaky, tmp_path, group, task):
    pytest.importorskip("memray")
    live, is_over, pids = leaky.live, threading.Event(), set()
    pid = live.submit(task, 0).result(30)

    def work() -> None:
        client = live.client()
        while not is_over.is_set():
            pids.update(job.result(60) for job in [client.submit(f"jobs.{task}", n) for n in range(20)])
            is_over.wait(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        done = leaky.run("leaks", "attach", group, "--seconds", "4", "--out", str(tmp_path / "traces"))
    finally:
        is_over.set()
        thread.join()
    assert done.returncode == 0, done.stderr.decode()
    out = done.stdout.decode()
    assert f"in {task}, task jobs.{task}" in out, out
    assert "jobs.py:" in out
    assert pids == {pid}  # the same worker before, during and after
    assert list((tmp_path / "traces").glob("*.html"))
    assert orders.read(live.state_dir, group) is None


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_is_traced_still_names_its_line(leaky, tmp_path):
    """As the kernel kills for lack of memory: no exit handler runs, the file stays as it is."""
    pytest.importorskip("memray")
    live, is_over, folder = leaky.live, threading.Event(), tmp_path / "traces"
    victim = live.submit("grow", 0).result(30)

    def work() -> None:
        client = live.client()
        while not is_over.is_set():
            for job in [client.submit("jobs.grow", n) for n in range(20)]:
                job.result(60)
            if not killed and sum(path.stat().st_size for path in folder.glob(f"*.{victim}.*.memray")) > 100_000:
                killed.append(victim)
                os.kill(victim, signal.SIGKILL)

    killed: list[int] = []
    thread = threading.Thread(target=work)
    thread.start()
    try:
        done = leaky.run("leaks", "attach", "computation", "--seconds", "3", "--out", str(folder))
    finally:
        is_over.set()
        thread.join()
    assert done.returncode == 0, done.stderr.decode()
    of_victim = done.stdout.decode().partition(f"({victim})")[2]
    assert killed
    assert f"jobs.py:{GROW_LINE} in grow, task jobs.grow" in of_victim


def test_a_worker_that_nobody_looks_at_survives_the_signal(leaky):
    live = leaky.live
    pid = live.submit("grow", 0).result(30)
    orders.withdraw(live.segment, "computation")
    assert live.submit("grow", 0).result(30) == pid


def test_an_unknown_group_is_refused(leaky):
    done = leaky("leaks", "attach", "computing")
    assert done.exit_code == 3
    assert "no group 'computing'" in done.output


def test_a_folder_that_cannot_be_written_to_is_refused_before_a_worker_is_told(leaky, tmp_path):
    pytest.importorskip("memray")
    (tmp_path / "file").write_text("")
    done = leaky("leaks", "attach", "computation", "--out", str(tmp_path / "file" / "traces"))
    assert done.exit_code == 3, done.output
    assert "cannot be written to" in done.output
    assert orders.read(leaky.live.state_dir, "computation") is None


def test_a_full_disk_is_told_to_whoever_asks(leaky, tmp_path, monkeypatch):
    pytest.importorskip("memray")
    monkeypatch.setattr(tracing, "RESERVE_BYTES", 2**62)
    done = leaky("leaks", "attach", "computation", "--out", str(tmp_path))
    assert done.exit_code == 3, done.output
    assert "MiB left on the disk" in done.output


def test_traces_of_another_time_are_not_taken_for_new_ones(leaky, tmp_path):
    pytest.importorskip("memray")
    (tmp_path / "worker-1.5.0001.memray").touch()
    done = leaky("leaks", "attach", "computation", "--out", str(tmp_path))
    assert done.exit_code == 3, done.output
    assert "already holds traces" in done.output


def test_a_group_is_traced_by_one_at_a_time(leaky, tmp_path):
    """A second order would find no trace, and its end would end the first one's."""
    pytest.importorskip("memray")
    live, first = leaky.live, orders.Order(str(tmp_path / "first"), time.monotonic() + 60)
    orders.give(live.segment, "computation", first)
    try:
        done = leaky("leaks", "attach", "computation", "--seconds", "1", "--out", str(tmp_path / "second"))
        assert done.exit_code == 3, done.output
        assert "traced already, into" in done.output
        assert orders.read(live.state_dir, "computation") == first
    finally:
        orders.withdraw(live.segment, "computation")


def test_a_worker_that_slept_through_the_end_of_an_order_obeys_the_next(tmp_path, monkeypatch):
    began: list[Path] = []

    class Trace:
        def __init__(self, folder, *_, **__):
            began.append(folder)

        def start(self):
            pass

        def stop(self):
            began.append(None)

    monkeypatch.setattr(watch, "WorkerTrace", Trace)
    (tmp_path / orders.ORDERS).mkdir()
    worker = watch.watch_of("worker 1", "computation", tmp_path, {}, None, {}, "auto")
    for folder in ("one", "one", "two"):
        order = orders.Order(folder, time.monotonic() + 60)
        (tmp_path / orders.ORDERS / "computation.json").write_text(json.dumps(asdict(order)))
        worker.obey()
    assert began == [Path("one"), None, Path("two")]


def test_what_the_worker_itself_keeps_is_no_growth():
    own = traces.Site("watch.py", 1, "tick", None, 2_000, 10, ())
    assert not leaks._is_growth(own)
    assert leaks._is_growth(replace(own, task="jobs.grow"))
    assert leaks._is_growth(replace(own, grown_bytes=20_000))


def test_the_end_of_an_order_is_its_own_affair(tmp_path):
    (tmp_path / orders.ORDERS).mkdir()
    path = tmp_path / orders.ORDERS / "computation.json"
    for text in ('{"folder": "x", "until_s": 0}', "damaged", '{"folder": 1}'):
        path.write_text(text)
        assert orders.read(tmp_path, "computation") is None


def test_worker_and_command_mean_the_same_folder():
    assert orders.ORDERS == watching.ORDERS


def test_report_judges_a_folder_again(tmp_path):
    recorder = Recorder(tmp_path / "run", {"title": "t", "acceleration": 1.0})
    recorder.facts("shared memory", "shared memory", {"semaphores": 3}, jobs=1)
    recorder.finish()
    from click.testing import CliRunner

    from shmq.cli.main import cli

    done = CliRunner().invoke(cli, ["leaks", "report", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert "too short to tell" in done.output
    assert (tmp_path / "run" / "report.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    from click.testing import CliRunner

    from shmq.cli.main import cli

    done = CliRunner().invoke(cli, ["leaks", "report", str(tmp_path)])
    assert done.exit_code == 3
    assert "holds no run" in done.output
