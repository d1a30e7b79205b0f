"""Of a worker that is watched, what lies between two measured jobs runs all at once; nothing else changes."""

from __future__ import annotations

import json

from shmq.memory.layout import WORKER
from shmq.worker.watching import FOLDER_VARIABLE
from tests.live import LiveSupervisor, until

TASKS = """
import time
import shmq

@shmq.task
def echo(x):
    return x

@shmq.task
def slow(x):
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass
    return x

@shmq.task
def fail(x):
    raise ValueError(x)
"""
CONFIG = "[groups.computation]\nmin_workers = 2\nmax_workers = 2\n"


def counted(live: LiveSupervisor, name: str) -> int:
    return sum(row[WORKER[name]] for row in live.segment.rows("worker_rows"))


def test_results_and_counts_are_right_whatever_is_measured(tmp_path):
    """Slow jobs among tiny ones: the timer gives back what waits behind them, also out of such a run."""
    (tmp_path / "growth").mkdir()
    with LiveSupervisor(tmp_path, TASKS, CONFIG, env={FOLDER_VARIABLE: str(tmp_path / "growth")}) as live:
        for _ in range(200):  # so many that several are measured, however seldom
            assert [job.result(30) for job in [live.submit("echo", i) for i in range(200)]] == list(range(200))
        for _ in range(10):
            names = ["slow" if i in {50, 120} else "fail" if i % 40 == 7 else "echo" for i in range(200)]
            jobs = [(name, live.submit(name, i)) for i, name in enumerate(names)]
            assert [type(job.exception(30)) if name == "fail" else job.result(30) for name, job in jobs] == [
                ValueError if name == "fail" else i for i, name in enumerate(names)
            ]
        until(lambda: counted(live, "done") == 42_000, "each job to be counted once")
        assert counted(live, "failed") == 50
        assert counted(live, "retried") == 0
        assert counted(live, "scheduled") > 0, "the timer gave back what waited behind a slow job"
    saved = [json.loads(path.read_text()) for path in (tmp_path / "growth").glob("growth-*.json")]
    measured = sum(row["jobs"] for rows in saved for row in rows if row["task"] == "jobs.echo")
    assert 0 < measured < 41_930, "some of them, not all"
