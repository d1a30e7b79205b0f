"""The state directory cannot be made, is full, is another one, or was removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.environments.namespaces import MOUNT, inside
from tests.crash.environments.starts import ONE_WORKER, TASKS, refusal, refused_start, works
from tests.live import GUARD_S, LiveSupervisor


def test_a_state_directory_that_cannot_be_made_is_refused(tmp_path):
    def body() -> None:
        said = refusal(LiveSupervisor(tmp_path, TASKS, env={"XDG_STATE_HOME": "/mnt"}))
        assert "the state directory /mnt/shmq/" in said
        assert "Read-only file system" in said
        assert "set state_dir or XDG_STATE_HOME" in said

    inside(body, MOUNT, {"/mnt": "ro,size=1m"})


def test_a_full_disk_below_the_state_directory_loses_no_job(tmp_path):
    def body() -> None:
        live = LiveSupervisor(tmp_path, TASKS, ONE_WORKER, env={"XDG_STATE_HOME": "/mnt"})
        live.state_dir = Path("/mnt/shmq", live.namespace)
        with live:
            filler = Path("/mnt/filler")
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(512))
            with pytest.raises(Exception, match="lost its worker 3 times"):
                live.submit("end_worker").result(GUARD_S)
            assert "cannot be kept" in live.log()
            assert works(live, tmp_path / "mark")
            assert "recovery broke" not in live.log()

    inside(body, MOUNT, {"/mnt": "size=1m"})


def test_a_second_supervisor_with_another_state_directory_disturbs_nobody(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        (tmp_path / "other").mkdir()
        other = LiveSupervisor(tmp_path / "other", TASKS, ONE_WORKER, namespace=live.namespace)
        worker = live.live_workers()[0]["pid"]
        said = refused_start(other)
        assert f"served by the supervisor with pid {live.pid}" in said
        assert str(live.state_dir) in said
        assert [w["pid"] for w in live.live_workers()] == [worker]
        assert live.submit("echo", 1).result(GUARD_S) == 1


def test_when_the_state_directory_was_removed_no_second_lock_file_is_made(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        client = live.client()
        (live.state_dir / "lock").unlink()
        script = f"from shmq.client.client import Client\nClient({live.namespace!r})"
        late = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=live.env)
        assert "SystemRefused" in late.stderr
        assert str(live.state_dir / "lock") in late.stderr
        assert not (live.state_dir / "lock").exists()
        second = LiveSupervisor(tmp_path, TASKS, ONE_WORKER, namespace=live.namespace)
        second.log_path = tmp_path / "second"
        assert f"stop it with `kill {live.pid}`" in refused_start(second)
        assert client.submit("jobs.echo", 1).result(GUARD_S) == 1
