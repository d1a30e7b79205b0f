"""Marks of the hot path: what a job may take at most while it is under way, and that it leaves nothing behind.

All parts in one process (tests/crash/stage): submit → claim → run → ack → read. pytest-memray counts every allocation.
"""

from __future__ import annotations

import importlib.util
import secrets

import numpy as np
import pytest

from tests.crash.stage import tasks
from tests.crash.stage.stage import Stage

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytest_memray") is None, reason="pytest-memray is not installed: pip install '.[dev]'"
)
ROUNDS = 800


@pytest.fixture
def stage():
    stage = Stage(f"limits-{secrets.token_hex(4)}")
    try:
        bench = stage.bench(0)
        jobs_through(stage, stage.client(), bench, 1)  # what is imported and cached on first use is no leak
        bench.leave()
        yield stage
    finally:
        stage.drop()
        stage.close()


def jobs_through(stage: Stage, client, bench, rounds: int) -> None:
    """One job of each kind per round, each read before the next."""
    for number in range(1, rounds + 1):
        small = stage.send(client, 1)
        array = client.submit_task(tasks.doubled, (2, np.full(1500, 2.0)))
        failing = client.submit_task(tasks.failing, (3, ""))
        bench.run_all()
        assert small.result(0) == 1
        assert array.result(0)[0] == 4.0
        assert failing.exception(0) is not None, number
        cancelled = client.submit_task(tasks.note, (4, ""))
        assert cancelled.cancel()
        bench.run_all()


@pytest.mark.limit_leaks("64 KB")  # a traceback's source lines are cached once, up to 30 KB of a file
def test_jobs_of_every_kind_leave_nothing_behind(stage):
    """A leak of a hundred bytes per job would be 80 KB at its line."""
    client, bench = stage.client(), stage.bench(0)
    try:
        jobs_through(stage, client, bench, ROUNDS)
    finally:
        bench.leave()


@pytest.mark.limit_memory("4 MB")
def test_jobs_under_way_take_no_more_however_many_there_were(stage):
    """Ten thousand jobs, eight at a time: the peak is that of eight."""
    client, bench = stage.client(), stage.bench(0)
    try:
        for _ in range(1_250):
            jobs = [client.submit_task(tasks.note, (1, tasks.text_of(1))) for _ in range(7)]
            bench.run_all()
            assert [job.result(0) for job in jobs] == [1] * 7
    finally:
        bench.leave()
