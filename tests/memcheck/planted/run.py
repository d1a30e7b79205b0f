"""`shmq soak` over all plants at once, and what it said of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.memcheck.planted import tasks

ROOT = Path(__file__).resolve().parents[3]
MODULE = tasks.__name__
LEAKING = {  # task: what it is, and the series that must be called a leak
    "grow_list": ("module-level list, 100 bytes per job", "worker list", "rss_anon_bytes"),
    "grow_little": ("module-level list, 50 bytes per job", "worker small", "rss_anon_bytes"),
    "cycle_with_del": ("reference cycle with __del__", "worker cycle", "rss_anon_bytes"),
    "c_malloc": ("malloc through ctypes", "worker ctypes", "rss_anon_bytes"),
    "only_when_failing": ("only jobs that fail, one in ten", "worker failing", "rss_anon_bytes"),
    "descriptors": ("descriptor, one job in twenty", "worker descriptors", "descriptors"),
    "keep_block": ("block never released, one job in twenty", "shared memory", "blocks_in_use"),
}
HARMLESS = {
    "levelling_cache": ("cache that grows, then levels off", "worker cache", "rss_anon_bytes"),
    "clean": ("garbage, also in cycles", "worker clean", "rss_anon_bytes"),
}
ROUNDS = 20  # of the jobs file: numbers that the tasks see
GROUPS = ("list", "small", "cycle", "ctypes", "failing", "descriptors", "blocks", "cache", "clean")


@dataclass(frozen=True)
class Found:
    """What the run said of one plant."""

    task: str
    what: str
    verdict: str
    place: str  # file:line of the greatest leak that was named; "" where none was
    per_job: str

    @property
    def is_right(self) -> bool:
        """A leak is called one and its line named; what is none is not called one."""
        if self.task in HARMLESS:
            return self.verdict != "leak" and not self.place
        return self.verdict == "leak" and self.place == f"tasks.py:{line_of(self.task)}"


def line_of(task: str) -> int:
    """Where the leak of a task is planted."""
    lines = Path(tasks.__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# LEAK: {task}"))


def run(folder: Path, *, minutes: float, per_s: float) -> tuple[list[Found], str]:
    """Run all plants for so long, each with so many jobs per second; what was found, and what the command printed.

    A day's worth of jobs is what the run brings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = "\n".join(f'[groups.{group}]\nmin_workers = 1\nmax_workers = 1\nmode = "fixed"' for group in GROUPS)
    memory = "[memory]\nmax_producers = 8\nmax_workers = 16\nblock_unit_bytes = 4096\nblock_budget_bytes = 67108864\n"
    config, jobs = folder / "config.toml", folder / "jobs"
    config.write_text(f'tasks = ["{MODULE}"]\n{groups}\n{memory}')
    config.chmod(0o600)
    names = [*LEAKING, *HARMLESS]
    jobs.write_text("".join(json.dumps([f"{MODULE}.{name}", n]) + "\n" for n in range(ROUNDS) for name in names))
    rate = per_s * len(names) * minutes * 60 / 86_400
    command = ["soak", str(config), "--jobs", str(jobs), "--hours", "24", "--minutes", f"{minutes:g}"]
    command += ["--rate", f"{rate:g}", "--trace", "none", "--out", str(folder / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "shmq", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    path = folder / "run" / "result.json"
    return (read(json.loads(path.read_text())) if path.exists() else []), done.stdout


def read(result: dict[str, Any]) -> list[Found]:
    """The rows of the table from a run's result.json."""
    verdicts = {(v["kind"], v["quantity"]): v["answer"] for v in result["verdicts"]}
    measured = {row["task"].rpartition(".")[2]: row["lines"] for row in result["tasks"]}
    found = []
    for task, (what, kind, quantity) in {**LEAKING, **HARMLESS}.items():
        top = next(iter(measured.get(task, [])), None)
        place = f"{Path(top['file']).name}:{top['line']}" if top else ""
        per_job = f"{top['per_job']:,.2g} {top['unit']}" if top else ""
        found.append(Found(task, what, verdicts.get((kind, quantity), "no reading"), place, per_job))
    return found


def table(found: list[Found]) -> list[str]:
    """One line per plant."""
    lines = [f"{'plant':<40} {'task':<18} {'verdict':<42} {'named line':<14} {'left per job':<20}"]
    for row in found:
        ok = "right" if row.is_right else "WRONG"
        lines.append(f"{row.what:<40} {row.task:<18} {row.verdict:<42} {row.place:<14} {row.per_job:<20} {ok}")
    return lines
