"""Other pid and time namespaces, pids that strangers have, processes that nobody may look into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from shmq.errors import IncompatibleSegment, TooManyProducers
from shmq.memory import locks
from shmq.memory.layout import PRODUCER, Shape
from shmq.memory.segment import SHM, create, segment_name
from shmq.transport.membership import register
from tests.crash.environments.namespaces import MOUNT, PID, TIME, be_opaque, inside
from tests.crash.environments.starts import ONE_WORKER, TASKS, refused_start, works
from tests.live import GUARD_S, LiveSupervisor, until

SHAPE = Shape(
    groups=1, producers=1, slots_per_producer=16, slot_bytes=256, workers=1, units=4, unit_bytes=4096, arenas=1
)


def test_in_another_pid_namespace_supervisor_and_producer_are_refused_and_told_the_way_out(tmp_path):
    live = LiveSupervisor(tmp_path, TASKS, ONE_WORKER)

    def body() -> None:
        second = LiveSupervisor(tmp_path, TASKS, ONE_WORKER, namespace=live.namespace)
        second.log_path, second.state_dir = tmp_path / "second", tmp_path / "elsewhere"
        second.env["XDG_STATE_HOME"] = str(second.state_dir)
        said = refused_start(second)
        assert "another pid namespace" in said
        assert f"rm {SHM}/shmq-" in said
        with pytest.raises(IncompatibleSegment, match="another pid namespace"):
            second.client()

    with live:
        inside(body, MOUNT | PID)
        assert works(live, tmp_path / "mark")


def test_in_another_time_namespace_a_producer_is_refused(tmp_path):
    def body() -> None:
        with pytest.raises(IncompatibleSegment, match="another time namespace"):
            live.client()

    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        inside(body, TIME)
        assert works(live, tmp_path / "mark")


def test_in_a_time_namespace_of_its_own_the_whole_tree_works(tmp_path):
    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
            assert works(live, tmp_path / "mark")
            assert live.submit("echo", 3, delay=0.01).result(GUARD_S) == 3

    inside(body, TIME)


def test_after_a_supervisors_death_a_stranger_with_a_workers_pid_is_left_alone(tmp_path):
    last = Path("/proc/sys/kernel/ns_last_pid")
    if not last.exists():
        pytest.skip("this kernel cannot be told the next pid (CONFIG_CHECKPOINT_RESTORE)")

    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
            live.control("pause", group="computation")
            job = live.submit("echo", 5)
            worker = live.live_workers()[0]["pid"]
            live.kill()
            reap(worker)
            stranger = process_with_pid(worker, last)
            producer = live.segment.rows("producer_rows")[0]
            assert producer[PRODUCER["pid"]] == os.getpid()
            live.start()
            assert stranger.poll() is None, "it was taken for the worker"
            live.control("resume", group="computation")
            assert job.result(GUARD_S) == 5
            stranger.kill()
            stranger.wait()

    inside(body, MOUNT | PID)


def test_a_dead_producers_row_is_reused_although_its_pid_is(tmp_path):
    last = Path("/proc/sys/kernel/ns_last_pid")
    if not last.exists():
        pytest.skip("this kernel cannot be told the next pid (CONFIG_CHECKPOINT_RESTORE)")

    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
            script = (
                f"import os; from shmq.client.client import Client; Client({live.namespace!r}); os.kill(os.getpid(), 9)"
            )
            producer = subprocess.Popen([sys.executable, "-c", script], env=live.env)
            producer.wait()
            stranger = process_with_pid(producer.pid, last)
            rows = live.segment.rows("producer_rows")
            until(lambda: not any(row[PRODUCER["pid"]] for row in rows), "recovery takes the row over")
            assert stranger.poll() is None
            stranger.kill()
            stranger.wait()

    inside(body, MOUNT | PID)


def reap(pid: int) -> None:
    """As the first process of a pid namespace must."""
    until(lambda: os.waitpid(-1, os.WNOHANG)[0] == pid, f"{pid} ends")


def process_with_pid(pid: int, last: Path) -> subprocess.Popen[bytes]:
    """A process that has nothing to do with shmq."""
    for _ in range(100):
        last.write_text(str(pid - 1))
        made = subprocess.Popen(["sleep", "600"])
        if made.pid == pid:
            return made
        made.kill()
        made.wait()
    raise AssertionError(f"no process got pid {pid}")


def test_a_living_process_that_nobody_may_look_into_keeps_its_row(namespace):
    def body() -> None:
        be_opaque()
        folder, me = Path(tempfile.mkdtemp()), os.getpid()
        segment = create(segment_name(namespace), SHAPE, groups=["g"], state_dir=folder, max_attempts=3)
        lock_file = locks.open_once(folder / "lock", create=True)
        row = register(segment, lock_file)
        lock_file.release(locks.producer_byte(row.index))  # as if its code had closed the file

        def look() -> None:
            lock_file.forget()
            with pytest.raises(PermissionError):
                Path(f"/proc/{me}/maps").read_bytes()
            with pytest.raises(TooManyProducers):
                register(segment, lock_file)

        try:
            inside(look)
        finally:
            row.bell.remove()
            segment.path.unlink()
            shutil.rmtree(folder)

    inside(body)
