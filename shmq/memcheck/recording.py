"""A run's readings on disk, written as they come, so that a crash loses nothing but the last line.

    DIR/run.json       what was run: title, acceleration, conversion, versions; `finish` adds how it ended
    DIR/samples.csv    one line per reading of a process
    DIR/facts.jsonl    {"t_s", "kind", "name", "jobs", "values"} per line, of whatever else is counted
    DIR/traces/        memray files and task growth, written by the workers (tracing.py, attribution.py)

`load_run` reads a folder back, also one whose run was killed or whose disk became full.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from shmq.errors import TracingError
from shmq.memcheck.sampling import Reading
from shmq.memcheck.windows import Series

LOG = logging.getLogger("shmq.memcheck")
RUN, SAMPLES, FACTS, TRACES = "run.json", "samples.csv", "facts.jsonl", "traces"
QUANTITIES = ("rss_anon_bytes", "pss_anon_bytes", "descriptors", "threads")
COLUMNS = ("t_s", "kind", "name", "pid", "start_ticks", "jobs", *QUANTITIES)


class Recorder:
    """Appends readings to the files of one run. A disk that becomes full ends the recording, never the run.

    `problem` is None while it records, else the sentence that was logged.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Begin a run in `folder`, which is made; it must not hold another run.

        Args:
            folder: where to.
            about: what to say of the run: "title", "acceleration", "conversion" are shown in the report.

        Raises:
            TracingError: it cannot be written to, or holds a run already.
        """
        self.folder = folder
        self.problem: str | None = None
        self._about = {
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "started_t_s": time.monotonic(),
            "python": sys.version.split()[0],
            "kernel": platform.release(),
            "cpus": len(os.sched_getaffinity(0)),
            **about,
        }
        try:
            (folder / TRACES).mkdir(parents=True, exist_ok=True)
            self._samples = _create(folder / SAMPLES)
            self._facts = _create(folder / FACTS)
            _write_whole(self._samples, ",".join(COLUMNS) + "\n")
            self._write_about()
        except FileExistsError as error:
            raise TracingError(f"{folder} already holds the readings of a run. Choose another folder.") from error
        except OSError as error:
            raise TracingError(
                f"{folder}: cannot be written to ({error}). Choose a folder that you may write to, with space left."
            ) from error

    def sample(self, reading: Reading) -> bool:
        """Append one reading; False once recording has stopped."""
        process, values = reading.process, reading.values
        who = (_plain(process.kind), _plain(process.name), process.pid, process.start_ticks)
        jobs = "" if reading.jobs is None else reading.jobs
        row = (f"{reading.t_s:.3f}", *who, jobs, *(values.get(quantity, "") for quantity in QUANTITIES))
        return self._append(self._samples, ",".join(map(str, row)) + "\n")

    def facts(
        self, kind: str, name: str, values: Mapping[str, float], jobs: int | None = None, t_s: float | None = None
    ) -> bool:
        """Append whatever else is counted: shared memory, semaphores, blocks in use, throughput, a worker's own heap.

        `t_s`: monotonic, now if not given.
        """
        when_s = time.monotonic() if t_s is None else t_s
        line = {"t_s": round(when_s, 3), "kind": kind, "name": name, "jobs": jobs, "values": dict(values)}
        return self._append(self._facts, json.dumps(line) + "\n")

    def finish(self, **facts: Any) -> None:
        """Say how the run ended (jobs done, interrupted or not) and close the files. May be called twice."""
        self._about.update(facts, seconds=time.monotonic() - self._about["started_t_s"], recording_problem=self.problem)
        try:
            self._write_about()
        except OSError as error:
            self._stop(error)
        for descriptor in (self._samples, self._facts):
            if descriptor >= 0:
                os.close(descriptor)
        self._samples = self._facts = -1

    def _append(self, descriptor: int, line: str) -> bool:
        if self.problem is not None or descriptor < 0:
            return False
        try:
            _write_whole(descriptor, line)
        except OSError as error:
            self._stop(error)
            return False
        return True

    def _stop(self, error: OSError) -> None:
        self.problem = f"recording stopped: {self.folder}: {error.strerror or error}; the run goes on without"
        LOG.warning("%s", self.problem)

    def _write_about(self) -> None:
        """A reader sees the old file or the new one, never half of it."""
        path = self.folder / RUN
        new = path.with_suffix(".new")
        new.write_text(json.dumps(self._about, indent=1, default=str))
        new.replace(path)


@dataclass
class Run:
    """A folder read back. `series` in the order of first appearance; `damaged_lines` were left out."""

    folder: Path
    about: dict[str, Any]
    series: list[Series] = field(default_factory=list)
    damaged_lines: int = 0

    @property
    def acceleration(self) -> float:
        """Hours of load per hour of clock."""
        return float(self.about.get("acceleration", 1.0))


def load_run(folder: Path) -> Run:
    """Read what `Recorder` wrote, as far as it came.

    Raises:
        TracingError: no run in `folder`.
    """
    try:
        about = json.loads((folder / RUN).read_text())
    except (OSError, ValueError) as error:
        message = f"{folder} holds no run ({error}). Give the folder that `shmq soak` printed; it contains {RUN}."
        raise TracingError(message) from error
    run = Run(folder, about)
    columns: dict[_Key, array[float]] = {}
    for key, values in chain(_samples(run), _facts(run)):
        columns.setdefault(key, array("d")).extend(values)
    for (kind, name, _, _, quantity), flat in columns.items():
        rows = np.frombuffer(flat).reshape(-1, 3)
        t_s, value, jobs = rows[np.argsort(rows[:, 0], kind="stable")].T
        run.series.append(Series(kind, name, quantity, t_s, value, None if np.isnan(jobs).any() else jobs))
    return run


_Key: TypeAlias = tuple[str, str, int, int, str]  # kind, name, pid, start ticks, quantity
_Keyed: TypeAlias = tuple[_Key, tuple[float, float, float]]  # seconds, value, jobs (NaN: not counted)


def _samples(run: Run) -> Iterator[_Keyed]:
    path = run.folder / SAMPLES
    for row in csv.DictReader(_whole_lines(run, path)):
        try:
            who = (row["kind"], row["name"], int(row["pid"]), int(row["start_ticks"]))
            t_s, jobs = float(row["t_s"]), float(row["jobs"] or "nan")
            values = [(q, float(row[q])) for q in QUANTITIES if row[q]]
        except (TypeError, ValueError, KeyError):
            run.damaged_lines += 1
            continue
        yield from (((*who, quantity), (t_s, value, jobs)) for quantity, value in values)


def _facts(run: Run) -> Iterator[_Keyed]:
    path = run.folder / FACTS
    for line in _whole_lines(run, path):
        try:
            fact = json.loads(line)
            who = (str(fact["kind"]), str(fact["name"]), 0, 0)
            t_s = float(fact["t_s"])
            jobs = float("nan") if fact["jobs"] is None else float(fact["jobs"])
            values = [(str(q), float(v)) for q, v in fact["values"].items()]
        except (TypeError, ValueError, KeyError, AttributeError):
            run.damaged_lines += 1
            continue
        yield from (((*who, quantity), (t_s, value, jobs)) for quantity, value in values)


def _whole_lines(run: Run, path: Path) -> Iterator[str]:
    """Lines up to the last newline: what follows it was cut off, its last number may be half of one."""
    if not path.exists():
        return
    with path.open(newline="", errors="replace") as file:
        for line in file:
            if line.endswith("\n") and "\0" not in line:
                yield line
            else:
                run.damaged_lines += 1


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _write_whole(descriptor: int, line: str) -> None:
    """One system call per line; a short write is a full disk, which the second call reports."""
    data = line.encode()
    written = os.write(descriptor, data)
    if written < len(data):
        os.write(descriptor, data[written:])


def _plain(text: str) -> str:
    """Names as one CSV field without quoting."""
    return "".join(c if c.isprintable() and c not in ',"' else " " for c in text)
