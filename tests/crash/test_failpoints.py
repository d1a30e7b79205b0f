"""Kill, stop, raise and delay at every SYNC POINT and every store to shared memory that a job's life comes by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash import failpoints

ROOT = Path(__file__).resolve().parents[2]
FEWEST = 40  # labelled places that the steps come by, each visited with every action


def test_labels_are_found_in_the_source() -> None:
    names = {label.name for label in failpoints.labels()}
    assert names >= {"slot-visible", "lane-visible", "doorbell", "cancel", "lease-visible", "started", "requeued"}


@pytest.mark.crash
def test_no_action_at_any_label_breaks_a_promise() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.crash.failpoints", "--once"], cwd=ROOT, capture_output=True, text=True
    )
    print(outcome.stdout)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert int(outcome.stdout.split()[0]) >= FEWEST * len(failpoints.ACTIONS)
