from __future__ import annotations

import pytest

from tests.live import LiveSupervisor

TASKS = """
import os, shmq

@shmq.task
def echo(x):
    return x

@shmq.task
def pid():
    return os.getpid()
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS) as live:
        yield live


def test_a_job_runs_in_a_worker(live):
    assert live.submit("echo", 5).result(30) == 5
    assert live.submit("pid").result(30) in [worker["pid"] for worker in live.workers()]
