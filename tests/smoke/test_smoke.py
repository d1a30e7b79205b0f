"""A quick walk through everything that may differ between interpreters; needs pytest and shmq, nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import shmq
from tests.live import LiveSupervisor

TASKS = """
import shmq
import numpy as np

@shmq.task
def square(n: int) -> int:
    return n * n

@shmq.task
def doubled(array: np.ndarray) -> np.ndarray:
    return array * 2

@shmq.task
def boom(text: str) -> None:
    raise KeyError(text)

@shmq.task(timeout=0.1)
def spin() -> None:
    while True:
        pass

@shmq.task
async def echo(value):
    return value
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSupervisor]:
    with LiveSupervisor(
        tmp_path_factory.mktemp("smoke"), TASKS, "[groups.computation]\nmin_workers = 2\nmax_workers = 2\n"
    ) as live:
        yield live


def test_jobs_run_and_come_back(live):
    client = live.client()
    jobs = [client.submit("jobs.square", i) for i in range(1_000)]
    assert [job.result(30) for job in jobs] == [i * i for i in range(1_000)]
    assert list(client.map("jobs.square", range(1_000))) == [i * i for i in range(1_000)]
    client.close()


def test_arrays_travel_through_blocks(live):
    array = np.arange(100_000.0)
    result = live.submit("doubled", array).result(30)
    assert np.array_equal(result, array * 2)
    assert not result.flags.writeable


def test_failures_and_time_limits_come_back(live):
    with pytest.raises(KeyError) as caught:
        live.submit("boom", "x").result(30)
    assert "boom" in str(caught.value.__cause__)
    with pytest.raises(shmq.TaskTimeout):
        live.submit("spin").result(30)


def test_event_loops_and_callbacks_work(live):
    async def main() -> object:
        return await live.submit("echo", "hello")

    assert asyncio.run(main()) == "hello"


def test_a_forked_child_gets_its_own_row(live):
    live.submit("square", 2).result(30)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(live.submit("square", 3).result(30))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert live.submit("square", 4).result(30) == 16


def test_importing_shmq_stays_light():
    assert Path(shmq.__file__).with_name("py.typed").exists()
