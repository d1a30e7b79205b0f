"""Kill at every bytecode. Here: wherever shared memory has just changed, and each 400th opcode; one step in full.

`python -m tests.crash.bytecode` visits every opcode of every step (see README.md).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.bytecode.run import all_steps

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.crash
@pytest.mark.parametrize("actor", ["producer", "worker", "recovery", "supervisor"])
def test_whoever_is_killed_after_a_change_of_shared_memory_costs_nobody_anything(actor: str) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.crash.bytecode", "--only", actor, "--every", "400"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    print(outcome.stdout)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.crash
@pytest.mark.parametrize("name", ["worker goes to sleep"])
def test_each_opcode_of_a_step_is_visited(name: str) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.crash.bytecode", "--only", name], cwd=ROOT, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "100.0 % of all opcodes" in outcome.stdout


def test_every_actor_has_steps() -> None:
    assert {step.name.split()[0] for step in all_steps()} == {"producer", "worker", "recovery", "supervisor"}
