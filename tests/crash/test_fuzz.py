"""Garbage in any shared byte ends no worker and no recovery, makes nobody spin or hang, and never crashes Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.crash
def test_random_damage_stops_nobody() -> None:
    # each round is made from its number alone: a finding names the one to run again
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.crash.fuzzing", "0", "150"], cwd=ROOT, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "150 rounds, 0 findings" in outcome.stdout
