"""A supervisor is killed with jobs waiting and started again. The time it takes: `python -m tests.crash.restart`."""

from __future__ import annotations

from pathlib import Path

from tests.crash.restart import CONFIG, PHASES, TASKS, one_round
from tests.live import LiveSupervisor


def test_every_job_that_waited_runs_under_the_next_supervisor(tmp_path: Path) -> None:
    with LiveSupervisor(tmp_path, TASKS, CONFIG) as live:
        assert set(one_round(live, 2000)) == set(PHASES)
