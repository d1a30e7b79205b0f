"""The small version of `scripts/stress`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_backlog_of_many_producers_and_groups_is_right_to_the_last_job():
    command = [
        sys.executable,
        "scripts/stress.py",
        "--producers",
        "6",
        "--groups",
        "3",
        "--jobs",
        "18000",
        "--slower",
        "10",
    ]
    run = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all results right, order kept, groups independent" in run.stdout
