"""Random SIGKILLs under mixed load. SHMQ_CHAOS=ci: 500 workers, 500 producers, 50 supervisors; without it a fifth."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.chaos.crew import Kill
from tests.crash.chaos.records import ACCEPTED, CANCELLED, DONE, RECORD, STARTED, checksum, payload
from tests.crash.chaos.verdict import judge

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


PLANTED = {
    "nothing": ([], ""),
    "a loss": ([("producer-1", ACCEPTED, 5)], "lost"),
    "a stranger": ([("worker-2", DONE, 9)], "phantom"),
    "other bytes": ([("worker-2", DONE, -1)], "altered"),
    "a repeat by a living worker": ([("worker-3", DONE, 1)], "unexplained"),
    "a run after a promised cancel": ([("producer-1", CANCELLED, 2), ("worker-3", STARTED, 2)], "cancelled_but_ran"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_the_verdict_sees_what_was_planted(tmp_path: Path, what: str) -> None:
    planted, expected = PLANTED[what]
    sound = [("producer-1", ACCEPTED, n) for n in (1, 2, 3)]
    sound += [("worker-2", kind, n) for n in (1, 2, 3) for kind in (STARTED, DONE)]
    for at, (name, kind, sequence) in enumerate([*sound, *planted], 1):
        number = abs(sequence)
        total = checksum(payload(1, number)) ^ (sequence < 0)
        with (tmp_path / f"{name}-0").open("ab") as file:
            file.write(RECORD.pack(kind, 1, 0, 1, number, total, at))
    verdict = judge(tmp_path, [], tmp_path / "dead.sqlite")
    faults = ("lost", "phantom", "altered", "unexplained", "cancelled_but_ran")
    found = {fault for fault in faults if getattr(verdict, fault)}
    assert found - {"unexplained"} == ({expected} - {"", "unexplained"})
    assert verdict.is_clean() == (not expected)


def test_a_repeat_is_explained_by_the_last_act_of_a_killed_worker(tmp_path: Path) -> None:
    for at, (name, kind) in enumerate((("producer-1", ACCEPTED), ("worker-2", DONE), ("worker-3", DONE)), 1):
        (tmp_path / f"{name}-0").write_bytes(RECORD.pack(kind, 1, 0, 1, 1, checksum(payload(1, 1)), at))
    killed, alive = Kill("worker", 2, (2,)), Kill("worker", 2, (3,))
    assert judge(tmp_path, [killed], tmp_path / "dead.sqlite").explained == 1
    assert judge(tmp_path, [alive], tmp_path / "dead.sqlite").unexplained
