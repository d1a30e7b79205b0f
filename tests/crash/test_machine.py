"""A short run of the state machine; the long one: `python -m tests.crash.machine`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.crash
def test_no_order_of_events_and_deaths_breaks_a_promise() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.crash.machine", "--examples", "15", "--steps", "30"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "every promise kept" in outcome.stdout
