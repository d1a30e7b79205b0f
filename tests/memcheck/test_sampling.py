"""Readings come from the process that was meant, cost what they may, and do not care about the wall clock."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time

import pytest

from shmq import clock
from shmq.errors import TracingError
from shmq.memcheck.sampling import Process, Sampler, open_descriptors, shared_memory


@pytest.fixture
def child():
    """A process that waits until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.stdin.close()
    process.wait()


def me() -> Process:
    return Process.of("test", "test 1", os.getpid())


def test_reading_has_all_quantities_of_a_process():
    reading = Sampler().read(me(), jobs=7)
    assert reading.jobs == 7
    assert set(reading.values) == {"rss_anon_bytes", "pss_anon_bytes", "descriptors", "threads"}
    assert reading.values["rss_anon_bytes"] > 2**20
    assert 0 < reading.values["pss_anon_bytes"] <= reading.values["rss_anon_bytes"] * 1.5
    assert reading.values["threads"] == len(os.listdir("/proc/self/task"))


def test_private_memory_is_seen_and_shared_memory_is_not():
    sampler, process = Sampler(), me()
    before = sampler.read(process).values["rss_anon_bytes"]
    held = bytearray(os.urandom(1 << 20)) * 80  # more than malloc may have at hand from earlier tests
    after = sampler.read(process).values["rss_anon_bytes"]
    assert after - before > 15 * 2**20
    del held


def test_opened_descriptor_is_counted():
    gc.collect()  # what earlier tests left in cycles is not this one's
    before = open_descriptors()
    with open("/dev/null"):
        assert open_descriptors() == before + 1
    assert open_descriptors() == before


def test_ended_process_gives_no_reading(child):
    process = Process.of("child", "child 1", child.pid)
    assert Sampler().read(process) is not None
    child.kill()
    child.wait()
    assert Sampler().read(process) is None


def test_zombie_gives_no_reading(child):
    process = Process.of("child", "child 1", child.pid)
    child.kill()
    until = time.monotonic() + 10
    while clock.process_state(child.pid) != "Z" and time.monotonic() < until:
        os.sched_yield()
    assert clock.process_state(child.pid) == "Z"
    assert Sampler().read(process) is None


def test_another_process_with_the_same_pid_gives_no_reading():
    stranger = Process("test", "test 1", os.getpid(), me().start_ticks + 1)
    assert Sampler().read(stranger) is None


def test_no_process_at_all_is_an_error_that_names_the_pid():
    with pytest.raises(TracingError, match="4194999"):
        Process.of("test", "test 1", 4194999)  # above the kernel's largest pid


def test_pss_is_read_as_rarely_as_its_cost_demands():
    now = [100.0]
    sampler, process = Sampler(pss_share=1e-9, now=lambda: now[0]), me()
    assert "pss_anon_bytes" in sampler.read(process).values
    now[0] += 1
    assert "pss_anon_bytes" not in sampler.read(process).values
    now[0] += 1e12
    assert "pss_anon_bytes" in sampler.read(process).values


def test_a_step_of_the_wall_clock_changes_nothing(monkeypatch):
    sampler, process = Sampler(), me()
    first = sampler.read(process)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    second = sampler.read(process)
    assert 0 < second.t_s - first.t_s < 60


def test_shared_memory_counts_entries_bytes_and_semaphores_of_the_prefix_only(tmp_path):
    (tmp_path / "shmq-a").write_bytes(b"x" * 8192)
    (tmp_path / "shmq-b").write_bytes(b"x" * 8192)
    (tmp_path / "sem.shmq-1").write_bytes(b"x" * 32)
    (tmp_path / "psm_other").write_bytes(b"x" * 8192)
    found = shared_memory(["shmq-"], tmp_path)
    assert (found["shm_entries"], found["semaphores"]) == (2, 1)
    assert 16384 <= found["shm_bytes"] <= 32768
    assert shared_memory(["nobody-"], tmp_path) == {"shm_entries": 0, "shm_bytes": 0, "semaphores": 0}
