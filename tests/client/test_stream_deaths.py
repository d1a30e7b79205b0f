"""Streams when somebody dies: worker, producer, supervisor; when a worker drains; when blocks are scarce."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmq.errors import JobCancelled, WorkerLost
from tests.live import LiveSupervisor, until

TASKS = """
import os
import shmq

@shmq.task
def endless(folder):
    with open(folder + "/starts", "a") as file:
        file.write(f"{os.getpid()}\\n")
    number = -1
    try:
        while True:
            number += 1
            with open(folder + "/at", "w") as told:
                told.write(str(number))
            yield number, bytes(5000)
    except BaseException as error:
        with open(folder + "/end", "w") as told:
            told.write(type(error).__name__)
        raise

@shmq.task
def parts(count):
    yield from range(count)

@shmq.task
def echo(value):
    return value
"""
CONFIG = """
[groups.computation]
min_workers = 1
max_workers = 1
max_substitutes = 0
"""
READER = """
import sys, time
import shmq
stream = shmq.submit("jobs.endless", sys.argv[1]).stream()
next(stream)
print("read", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveSupervisor]:
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        yield live


def starts(folder: Path) -> list[int]:
    path = folder / "starts"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def is_waiting(live: LiveSupervisor) -> bool:
    """Does the worker wait for room? It counts as blocked then."""
    from shmq.memory.layout import WORKER

    return any(row[WORKER["blocked"]] for row in live.segment.rows("worker_rows"))


def test_a_worker_killed_before_any_part_was_read_is_replaced_and_all_parts_come(live, tmp_path):
    stream = live.submit("endless", str(tmp_path)).stream()
    until(lambda: is_waiting(live))
    os.kill(starts(tmp_path)[0], signal.SIGKILL)
    until(lambda: len(starts(tmp_path)) == 2)
    until(lambda: is_waiting(live))
    assert [next(stream)[0] for _ in range(100)] == list(range(100))
    stream.close()
    assert len(starts(tmp_path)) == 2


def test_a_worker_killed_after_a_part_was_read_is_an_error_behind_what_it_had_made(live, tmp_path):
    stream = live.submit("endless", str(tmp_path)).stream()
    assert next(stream)[0] == 0
    until(lambda: is_waiting(live))
    os.kill(starts(tmp_path)[0], signal.SIGKILL)
    got = [0]
    with pytest.raises(WorkerLost, match="SIGKILL"):
        for number, _ in stream:
            got.append(number)
    assert got == list(range(len(got)))
    assert len(got) > 5
    assert live.submit("echo", 1).result(60) == 1
    assert len(starts(tmp_path)) == 1


def test_a_producer_killed_while_the_worker_waits_for_it_frees_the_worker(live, tmp_path):
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path)], stdout=subprocess.PIPE,
        env={**live.env, "SHMQ_NAMESPACE": live.namespace},
    )  # fmt: skip
    assert reader.stdout is not None
    assert reader.stdout.readline() == b"read\n"
    until(lambda: is_waiting(live))
    reader.kill()
    reader.wait()
    reader.stdout.close()
    assert until(lambda: (tmp_path / "end").exists() and (tmp_path / "end").read_text()) == "GeneratorExit"
    assert live.submit("echo", 1).result(60) == 1
    assert len(starts(tmp_path)) == 1


def test_after_the_supervisors_death_an_unread_stream_starts_again(live, tmp_path):
    stream = live.submit("endless", str(tmp_path)).stream()
    until(lambda: is_waiting(live))
    live.kill()
    live.start()
    until(lambda: len(starts(tmp_path)) == 2)
    assert [next(stream)[0] for _ in range(50)] == list(range(50))
    assert len(starts(tmp_path)) == 2
    stream.close()


def test_after_the_supervisors_death_a_stream_that_was_read_is_lost(live, tmp_path):
    stream = live.submit("endless", str(tmp_path)).stream()
    assert next(stream)[0] == 0
    live.kill()
    live.start()
    with pytest.raises(WorkerLost):
        list(stream)
    assert live.submit("echo", 1).result(60) == 1
    assert len(starts(tmp_path)) == 1


def test_a_draining_worker_gives_a_stream_back_that_nobody_has_read(live, tmp_path):
    stream = live.submit("endless", str(tmp_path)).stream()
    until(lambda: is_waiting(live))
    live.control("reload")
    until(lambda: len(starts(tmp_path)) == 2)
    assert (tmp_path / "end").read_text() == "GeneratorExit"
    assert [next(stream)[0] for _ in range(50)] == list(range(50))
    stream.close()


def test_a_draining_worker_lets_a_stream_that_is_read_come_to_its_end(live):
    stream = live.submit("parts", 60_000).stream()
    got = [next(stream)]
    until(lambda: is_waiting(live))
    live.control("reload")
    assert got + list(stream) == list(range(60_000))


def test_a_worker_that_waits_is_killed_on_request(live, tmp_path):
    job = live.submit("endless", str(tmp_path))
    stream = job.stream()
    next(stream)
    until(lambda: is_waiting(live))
    job.cancel(kill=True)
    with pytest.raises(JobCancelled):
        list(stream)


@pytest.mark.parametrize("budget", [4096, 8192, 65536])
def test_the_smallest_blocks_are_enough_for_a_stream(tmp_path, budget):
    memory = f"[memory]\nblock_budget_bytes = {budget}\nblock_unit_bytes = 4096\narenas = 1\nmax_workers = 16\n"
    with LiveSupervisor(tmp_path, TASKS, CONFIG + memory) as live:
        assert list(live.submit("parts", 3_000).stream()) == list(range(3_000))
        assert live.submit("parts", 20).result(60) == list(range(20))
