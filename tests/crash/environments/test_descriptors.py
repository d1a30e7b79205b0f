"""Few descriptors, for supervisor, producer and worker; no pidfds."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shmq.errors import SystemRefused
from shmq.memory.layout import PRODUCER
from tests.crash.environments.starts import ONE_WORKER, TASKS, refusal, works
from tests.live import GUARD_S, LiveSupervisor, until


def open_files() -> int:
    """Descriptors of this process, without those of objects that are garbage."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process cannot open one file more, nor is one closed meanwhile because an earlier test's garbage goes."""
    gc.disable()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    held = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        gc.enable()


def limited(soft: int, hard: int, open_files: int = 0) -> str:
    """A prelude: what the supervisor inherits from its parent."""
    return (
        f"import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        f"for _ in range({open_files}): os.open('/dev/null', os.O_RDONLY)"
    )


def test_too_low_a_hard_limit_of_descriptors_is_refused_with_the_figures(tmp_path):
    said = refusal(LiveSupervisor(tmp_path, TASKS, prelude=limited(40, 40)))
    assert "this process may open 40 in all" in said
    assert "--ulimit nofile=" in said


def test_a_low_soft_limit_is_raised_as_far_as_needed_beside_files_that_a_parent_left_open(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER, prelude=limited(120, 1000, open_files=100)) as live:
        assert len(os.listdir(f"/proc/{live.pid}/fd")) > 100
        assert 164 <= resource.prlimit(live.pid, resource.RLIMIT_NOFILE)[0] < 300
        assert len(os.listdir(f"/proc/{live.live_workers()[0]['pid']}/fd")) < 50
        assert works(live, tmp_path / "mark")


def test_a_producer_without_descriptors_is_refused_takes_no_row_and_connects_later(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        live.submit("echo", 1).result(GUARD_S)  # the lock file is open
        live.close_clients()
        with no_descriptors_left():
            for _ in range(20):  # more often than there are rows
                with pytest.raises(SystemRefused, match=r"may have 256 files open \(ulimit -n\)"):
                    live.client()
        before = open_files()
        taken = [row for row in live.segment.rows("producer_rows") if row[PRODUCER["pid"]]]
        assert taken == []
        clients = [live.client() for _ in range(live.segment.shape.producers)]
        assert clients[-1].submit("jobs.echo", 2).result(GUARD_S) == 2
        live.close_clients()
        del clients
        assert open_files() == before


def test_a_producer_whose_descriptors_ran_out_after_it_connected_goes_on(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER) as live:
        client = live.client()
        echo = client._registry.task("jobs.echo")
        until(lambda: live.segment.view("sleeping").tobytes().count(1) == 1, "the worker sleeps")
        with no_descriptors_left():
            assert client.submit_task(echo, (1,)).result(GUARD_S) == 1
        bells = client._publisher.bells
        assert not bells._of_worker, "a bell that could not be opened is not taken for one whose owner is gone"
        until(lambda: client.submit_task(echo, (2,)).result(GUARD_S) == 2 and bells._of_worker, "it rings again")


def test_a_task_that_takes_all_descriptors_of_its_worker_ends_no_job_of_others(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE_WORKER, prelude=limited(200, 200)) as live:
        assert live.submit("hold_all_descriptors").result(GUARD_S) > 100
        worker, client = live.live_workers()[0]["pid"], live.client()  # whose bell the worker has not opened yet
        for size in (1, 100_000, 1):
            assert client.submit("jobs.echo", bytes(size)).result(GUARD_S) == bytes(size)
        assert [w["pid"] for w in live.live_workers()] == [worker]
        assert "Traceback" not in live.log()


def test_without_pidfds_the_start_is_refused(tmp_path):
    forbidden = (
        "import os\ndef pidfd_open(*_): raise PermissionError(1, 'Operation not permitted')\nos.pidfd_open = pidfd_open"
    )
    said = refusal(LiveSupervisor(tmp_path, TASKS, prelude=forbidden))
    assert "pidfd_open does not work here (Operation not permitted)" in said
    assert "seccomp" in said
