"""/dev/shm is small, read-only, full, or touched by others."""

from __future__ import annotations

import os

import pytest

from shmq.errors import IncompatibleSegment, SystemRefused
from shmq.memory.segment import SHM
from tests.crash.environments.namespaces import MOUNT, inside, make_read_only
from tests.crash.environments.starts import ONE_WORKER, TASKS, refusal, refused_start, works
from tests.live import GUARD_S, LiveSupervisor, until


def test_in_one_mebibyte_the_start_is_refused_with_the_missing_bytes(tmp_path):
    def body() -> None:
        said = refusal(LiveSupervisor(tmp_path, TASKS))
        assert "/dev/shm has 1048576 free" in said
        assert "--shm-size" in said
        assert os.listdir(SHM) == []

    inside(body, MOUNT, {"/dev/shm": "size=1m"})


def test_the_defaults_fit_and_work_in_the_64_mebibytes_of_docker(tmp_path):
    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER + "[memory]\n") as live:
            assert works(live, tmp_path / "mark")
            assert live.submit("echo", bytes(8 << 20)).result(GUARD_S) == bytes(8 << 20)

    inside(body, MOUNT, {"/dev/shm": "size=64m"})


def test_a_read_only_dev_shm_is_told_to_the_supervisor(tmp_path):
    def body() -> None:
        said = refusal(LiveSupervisor(tmp_path, TASKS))
        assert "/dev/shm: Read-only file system" in said
        assert "docker run" in said

    inside(body, MOUNT, {"/dev/shm": "ro,size=64m"})


def test_a_read_only_dev_shm_is_told_to_a_producer_and_disturbs_nobody(tmp_path):
    def body() -> None:
        make_read_only("/dev/shm")
        with pytest.raises(SystemRefused, match="mounted read-only"):
            live.client()

    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        inside(body, MOUNT)
        assert works(live, tmp_path / "mark")


def test_a_full_dev_shm_delays_new_workers_and_producers_and_loses_nothing(tmp_path):
    def body() -> None:
        with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
            client = live.client()
            filler = SHM / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(65536))
            job = client.submit("jobs.survive", str(tmp_path / "mark"))
            until(lambda: "no doorbell for a worker can be made in /dev/shm: No space left" in live.log(), "it is told")
            for _ in range(20):  # more often than there are rows
                with pytest.raises(SystemRefused, match="No space left"):
                    live.client()
            filler.unlink()
            assert job.result(GUARD_S) == "ran again"
            assert live.submit("echo", 2).result(GUARD_S) == 2
            assert "Traceback" not in live.log()

    inside(body, MOUNT, {"/dev/shm": "size=32m"})


def test_a_segment_whose_maker_was_killed_before_it_was_whole_is_removed(tmp_path):
    live = LiveSupervisor(tmp_path, TASKS, ONE_WORKER)
    left = SHM / f"shmq-{os.geteuid()}-{live.namespace}.0123abcd"
    left.write_bytes(bytes(4096))
    with live:
        assert not left.exists()


def test_a_segment_that_was_put_aside_for_a_moment_comes_back_with_its_jobs(tmp_path):
    live = LiveSupervisor(tmp_path, TASKS, ONE_WORKER)
    with live:
        live.control("pause", group="computation")
        client = live.client()
        job = client.submit("jobs.echo", 7)
        live.kill()
        until(lambda: not live.processes(), "the workers end with their supervisor")
        path = live.segment.path
        path.rename(path.with_name(path.name + ".old"))  # as a supervisor that was killed while it counted the jobs
        live.start()
        live.control("resume", group="computation")
        assert job.result(GUARD_S) == 7


def test_a_segment_cut_by_a_peer_ends_all_and_is_refused_until_it_is_removed(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        live.submit("echo", 1).result(GUARD_S)
        path = live.segment.path
        live.close_clients()
        os.truncate(path, 8192)
        assert live.process.wait(GUARD_S)  # most often SIGBUS; not 0 in any case
        until(lambda: not live.processes(), "all are gone")
        with pytest.raises(IncompatibleSegment, match="cut or damaged"):
            live.client()
        assert f"rm {path}" in refused_start(live)
        path.unlink()
        live.start()
        assert works(live, tmp_path / "mark")
