"""Random SIGKILLs under mixed load. SHMQ_CHAOS=ci: 500 workers, 500 producers, 50 supervisors; without it a fifth."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"ci": (500, 500, 50, 75), "": (100, 100, 10, 15)}


@pytest.mark.crash
@pytest.mark.slow
def test_no_random_kill_loses_alters_or_invents_a_job() -> None:
    workers, producers, supervisors, seconds = SIZES[os.environ.get("SHMQ_CHAOS", "")]
    outcome = subprocess.run(
        [
            sys.executable, "scripts/chaos.py", "--worker-kills", str(workers), "--producer-kills", str(producers),
            "--supervisor-kills", str(supervisors), "--seconds", str(seconds),
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    print(outcome.stdout)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "lost 0, phantom 0, altered 0" in outcome.stdout
    assert "0 unexplained" in outcome.stdout
