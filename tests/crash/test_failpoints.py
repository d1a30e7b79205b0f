"""Kill, stop, raise and delay at every SYNC POINT that the steps of a job's life come by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash import failpoints
from tests.crash.bytecode.run import all_steps
from tests.crash.stage.stage import Stage

ROOT = Path(__file__).resolve().parents[2]
FEWEST = 20  # labelled places that the steps come by, each visited with every action


def test_labels_are_found_in_the_source() -> None:
    names = {label.name for label in failpoints.labels()}
    assert names >= {"slot-visible", "lane-visible", "doorbell", "cancel", "lease-visible", "started", "requeued"}


@pytest.mark.crash
def test_no_action_at_any_label_breaks_a_promise() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.crash.test_failpoints"], cwd=ROOT, capture_output=True, text=True
    )
    print(outcome.stdout)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert int(outcome.stdout.split()[0]) >= FEWEST * len(failpoints.ACTIONS)


def main() -> int:
    """Every (step, label) pair once with each action; the count, and what broke."""
    stage = Stage(f"failpoints{os.environ.get('SHMQ_TEST_RUN', '')}-{os.getpid()}")
    done, broken, seen = 0, [], set()
    try:
        for step in all_steps():
            for label in failpoints.labels_of(stage, step):
                for action in failpoints.ACTIONS:
                    seen.add(label)
                    done += 1
                    try:
                        failpoints.attack(stage, step, label, action)
                    except Exception as error:
                        broken.append(f"{step.name}, {label}, {action}: {type(error).__name__}: {error}")
    finally:
        stage.drop()
        stage.close()
    print(f"{done} attacks on {len(seen)} labels in {len(all_steps())} steps, {len(broken)} broke a promise")
    print("\n".join(broken))
    missing = [str(label) for label in failpoints.labels() if label not in seen]
    print(f"{len(missing)} labels that no step comes by: {', '.join(missing)}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
