"""Which task, and which of its lines, leaves memory or descriptors behind? Measured in the worker, on a few jobs.

    begin(task) ── the job runs ── end(failed)    one job in about N is measured; N grows with what that costs
        before both, young garbage is collected; the difference is what the job left: Python blocks, malloc bytes,
        descriptors, and whatever else the worker can count
    a task that leaves something behind has some of its next jobs watched line by line (line_watch.py)

Jobs that overlap (event loop) are not measured: what each of them left cannot be told apart.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shmq.heap import malloc_use
from shmq.memcheck.line_watch import BLOCK_BYTES, Counter, LineWatch, Place
from shmq.memcheck.sampling import open_descriptors

COST_SHARE = 0.003  # of the worker's time, for all measuring together
LEAST_STRIDE, MOST_STRIDE = 4.0, 100_000.0
WARM_UP_JOBS = 3  # measured jobs of each task that do not count: they fill caches and import modules
SUSPECT_AFTER_JOBS, FAILED_JOBS = 20, 5  # measured ones
SUSPECT_BYTES, SUSPECT_COUNT = 16.0, 0.01  # left behind per job
WATCHED_JOBS, MOST_WATCHED_JOBS = 60, 1_000  # per task, the latter while no line has shown: 17 µs per line


@dataclass(frozen=True)
class Source:
    """Where the code of a task stands: frames within these lines belong to it."""

    task: str
    file: str
    first_line: int
    last_line: int

    @classmethod
    def of(cls, task: str, function: Callable[..., Any]) -> Source | None:
        """The source of a task's function, unwrapped; None for what is not written in Python."""
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        if code is None:
            return None
        last = max((line for _, _, line in code.co_lines() if line is not None), default=code.co_firstlineno)
        return cls(task, code.co_filename, code.co_firstlineno, last)

    def holds(self, file: str, line: int) -> bool:
        """Does this line belong to the task's function?"""
        return file == self.file and self.first_line <= line <= self.last_line


@dataclass
class Growth:
    """What the measured jobs of one task left behind, summed; failed jobs also apart, since some leak only there.

    `counts`: by unit, of "descriptors" and whatever else the worker counts. `left`: by unit ("bytes" as well) and
    line, of the watched jobs, which are not among `jobs`. `late`: the same sums over the later part of the jobs, at
    least half of them: what filled a cache before is no longer in it.
    """

    task: str
    jobs: int = 0
    bytes: int = 0
    failed_jobs: int = 0
    failed_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    watched_jobs: int = 0
    left: dict[str, dict[Place, int]] = field(default_factory=dict)
    late: Growth | None = None

    @property
    def bytes_per_1000_jobs(self) -> float:
        """What 1,000 jobs leave behind, failed ones among them as they came."""
        return 1000 * self.bytes / max(self.jobs, 1)

    @property
    def bytes_per_1000_failed_jobs(self) -> float:
        """What 1,000 failed jobs leave behind; 0 if none failed."""
        return 1000 * self.failed_bytes / max(self.failed_jobs, 1)

    def count_per_1000_jobs(self, unit: str) -> float:
        """What 1,000 jobs leave behind of a counted unit, e.g. "descriptors"."""
        return 1000 * self.counts.get(unit, 0) / max(self.jobs, 1)

    @property
    def suspect_units(self) -> list[str]:
        """Of what the task still leaves more behind than measuring errs by; empty before enough jobs were measured."""
        if self.jobs < SUSPECT_AFTER_JOBS:
            return []
        if self.late is not None:
            return self.late.suspect_units
        fails = self.failed_jobs >= FAILED_JOBS and self.bytes_per_1000_failed_jobs > 1000 * SUSPECT_BYTES
        leaves = self.bytes_per_1000_jobs > 1000 * SUSPECT_BYTES
        counted = [unit for unit in self.counts if self.count_per_1000_jobs(unit) > 1000 * SUSPECT_COUNT]
        return [*counted, *(["bytes"] if leaves or fails else [])]

    def lines(self, least_share: float = 0.2) -> list[tuple[Place, str, float]]:
        """(place, unit, left per watched job) of what is suspected, by unit, greatest first.

        Lines with less than `least_share` of the greatest are left out.
        """
        found: list[tuple[Place, str, float]] = []
        for unit in self.suspect_units:
            left = self.left.get(unit, {})
            least = least_share * max(left.values(), default=0)
            heavy = [(place, unit, n / self.watched_jobs) for place, n in left.items() if n >= least and n > 0]
            found += sorted(heavy, key=lambda row: -row[2])
        return found

    def count(self, left: int, counts: Mapping[str, int], *, failed: bool) -> None:
        """Take in one measured job: the bytes it left, and what else by unit."""
        self.jobs += 1
        self.bytes += left
        for unit, count in counts.items():
            self.counts[unit] = self.counts.get(unit, 0) + count
        if failed:
            self.failed_jobs += 1
            self.failed_bytes += left

    def add(self, other: Growth) -> None:
        """Take in what another worker measured of the same task."""
        if other.late is not None:
            self.late = self.late or Growth(self.task)
            self.late.add(other.late)
        for name in ("jobs", "bytes", "failed_jobs", "failed_bytes", "watched_jobs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for unit, n in other.counts.items():
            self.counts[unit] = self.counts.get(unit, 0) + n
        self.add_left(other.left)

    def add_left(self, left: Mapping[str, Mapping[Place, int]]) -> None:
        """Take in what watched jobs left behind."""
        for unit, by_place in left.items():
            mine = self.left.setdefault(unit, {})
            for place, n in by_place.items():
                mine[place] = mine.get(place, 0) + n


class TaskDeltas:
    """Call `begin` before and `end` after each job of a worker; both return at once for jobs that are not
    measured. Or ask how many jobs are `unmeasured`, run them, and tell `pass_by` how many ran.

    Caller must: call both from the thread that runs the task; let go of arguments and result before `end`.
    """

    def __init__(
        self,
        *,
        cost_share: float = COST_SHARE,
        watch_lines: bool = True,
        counters: Mapping[str, Counter] | None = None,
    ) -> None:
        """Nothing is measured before the first `begin`.

        Args:
            cost_share: bound on the share of the worker's time that measuring takes.
            watch_lines: whether jobs of suspected tasks may be run under `sys.settrace`.
            counters: what else a job could leave behind, by unit, e.g. {"blocks": blocks_held}.
        """
        self._cost_share = cost_share
        self._watch_lines = watch_lines
        self._counters = dict(counters or {})
        self._growth: dict[str, Growth] = {}
        self._newer: dict[str, Growth] = {}  # becomes `late` when the number of jobs has doubled
        self._begun_at: dict[str, int] = {}  # jobs of the worker by then
        self._passed = 0  # jobs of the worker, measured or not
        self._seen: dict[str, int] = {}
        self._watched: set[str] = set()
        self._open = 0  # jobs begun and not ended
        self._skip = self._skipped = 1  # jobs until the next measured one: still, and at first
        self._stride = LEAST_STRIDE
        self._task: str | None = None  # of the job that is being measured
        self._is_spoiled = False  # another job began meanwhile
        self._watch: LineWatch | None = None
        self._random = random.Random(os.getpid())
        # Written in place: a new tuple of numbers would itself be what the job seems to leave behind.
        self._measures = (sys.getallocatedblocks, malloc_use, open_descriptors, *self._counters.values())
        self._before, self._after = (array("q", [0] * len(self._measures)) for _ in range(2))
        self._cost_s = array("d", (0.0,))  # CPU time: a measurement that had to wait for a core was not dear
        self._planned_s = time.perf_counter()

    @property
    def unmeasured(self) -> int:
        """Jobs before the next one that is measured."""
        return max(self._skip - 1, 0)

    def pass_by(self, jobs: int) -> None:
        """At most so many as `unmeasured` says ran one after the other, without `begin` and `end`."""
        self._skip -= jobs

    def begin(self, task: str) -> None:
        """Before the job's arguments are decoded."""
        self._open += 1
        if self._task is not None:
            self._is_spoiled = True
            return
        self._skip -= 1
        if self._skip > 0 or self._open > 1:
            return
        self._task = task
        if self._watch_lines and self._is_to_be_watched(task):
            self._watch = LineWatch(self._counters)
        begun_s = time.thread_time()
        self._measure(self._before)
        self._cost_s[0] = time.thread_time() - begun_s
        del begun_s  # or its end would seem to be a gift of the job
        if self._watch is not None:
            self._watch.start()

    def end(self, *, failed: bool = False) -> None:
        """After the result was handed over, or the failure was."""
        self._open -= 1
        if self._task is None:
            return
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        if self._is_spoiled:
            self._watch = None
            if self._open == 0:
                self._task, self._is_spoiled, self._skip = None, False, 1
            return
        begun_s = time.thread_time()
        self._measure(self._after)
        if watch is None:
            self._count(self._task, failed=failed)
        else:
            self._count_watched(self._task, watch)
        self._task = None
        _collect_older()
        self._plan_next(begun_s)

    def snapshot(self) -> list[Growth]:
        """Per task, greatest growth first. Small Python objects are counted in blocks of `BLOCK_BYTES`."""
        return sorted(self._growth.values(), key=lambda growth: -growth.bytes_per_1000_jobs)

    def save(self, folder: Path) -> None:
        """Write the snapshot beside the memray files of this worker, for `load_growth`. Never raises: a full
        disk costs this table, not the worker.
        """
        rows = [
            {**asdict(g), "left": {unit: [*by_place.items()] for unit, by_place in g.left.items()}}
            for g in self.snapshot()
        ]  # `late` has no lines of its own
        path = folder / f"growth-{os.getpid()}.json"
        try:
            path.with_suffix(".new").write_text(json.dumps(rows))
            path.with_suffix(".new").replace(path)
        except OSError:
            path.with_suffix(".new").unlink(missing_ok=True)

    def _count(self, task: str, *, failed: bool) -> None:
        seen = self._seen[task] = self._seen.get(task, 0) + 1
        growth = self._growth.setdefault(task, Growth(task))
        if seen <= WARM_UP_JOBS:
            return
        blocks, malloced, *counts = (after - before for before, after in zip(self._before, self._after, strict=True))
        left = malloced + BLOCK_BYTES * blocks
        by_unit = dict(zip(("descriptors", *self._counters), counts, strict=True))
        newer = self._newer.get(task)
        if newer is None or (newer.jobs >= SUSPECT_AFTER_JOBS and self._passed >= 2 * self._begun_at[task]):
            growth.late, self._newer[task] = newer or Growth(task), Growth(task)
            self._begun_at[task] = self._passed
        assert growth.late is not None
        for sums in (growth, growth.late, self._newer[task]):
            sums.count(left, by_unit, failed=failed)

    def _count_watched(self, task: str, watch: LineWatch) -> None:
        """The first one of a task does not count: what tracing itself sets up shows in it."""
        growth = self._growth[task]
        if task in self._watched:
            growth.watched_jobs += 1
            growth.add_left(watch.left)
        self._watched.add(task)

    def _is_to_be_watched(self, task: str) -> bool:
        growth = self._growth.get(task)
        if growth is None or not growth.suspect_units or sys.gettrace() is not None:
            return False
        is_named = all(any(n > 0 for n in growth.left.get(unit, {}).values()) for unit in growth.suspect_units)
        # Every other one, so that the numbers of the task go on.
        return growth.watched_jobs < (WATCHED_JOBS if is_named else MOST_WATCHED_JOBS) and self._random.random() < 0.5

    def _measure(self, into: array[int]) -> None:
        gc.collect(0)  # the garbage of young cycles is not left behind
        for index, measure in enumerate(self._measures):
            into[index] = measure()

    def _plan_next(self, begun_s: float) -> None:
        """Choose the stride from what measuring cost and how long jobs take; a random step, so that no rhythm
        of tasks fools it.
        """
        cost_s = self._cost_s[0] + time.thread_time() - begun_s
        now_s = time.perf_counter()
        per_job_s = (now_s - self._planned_s) / self._skipped
        self._planned_s = now_s
        ideal = min(cost_s / (self._cost_share * max(per_job_s, 1e-9)), MOST_STRIDE)
        self._passed += self._skipped
        # At most twofold: the first measurements, in cold code, are ten times as dear as those to come.
        self._stride = max(min(0.8 * self._stride + 0.2 * ideal, 2 * self._stride), LEAST_STRIDE)
        self._skip = self._skipped = 1 + int(self._random.random() * 2 * self._stride)


def _collect_older() -> None:
    """The older generations, when they are due: collecting the youngest by hand, as measuring does, keeps the automatic
    collections from ever coming, and a watched worker would pile up what another one gives back. Not just before a
    job is measured: it would fill the interpreter's free lists again, and seem to keep that.
    """
    _, young, old = gc.get_count()
    _, most_young, most_old = gc.get_threshold()
    if gc.isenabled() and young > most_young:
        gc.collect(2 if old > most_old else 1)


def load_growth(folder: Path) -> list[Growth]:
    """What all workers of a run saved, added per task; damaged files are left out."""
    found: dict[str, Growth] = {}
    for path in sorted(folder.glob("growth-*.json")):
        try:
            rows = [_row(row) for row in json.loads(path.read_text())]
        except (OSError, ValueError, TypeError, KeyError):
            continue
        for row in rows:
            found.setdefault(row.task, Growth(row.task)).add(row)
    return sorted(found.values(), key=lambda growth: -growth.bytes_per_1000_jobs)


def task_of(sources: Iterable[Source], frames: Iterable[tuple[str, int]]) -> str | None:
    """The task whose function is among the frames (file, line), innermost first; the outermost such function
    counts.
    """
    found: str | None = None
    known = list(sources)
    for file, line in frames:
        found = next((source.task for source in known if source.holds(file, line)), found)
    return found


def _row(row: dict[str, Any]) -> Growth:
    if row.get("late"):
        row["late"] = _row(row["late"])
    row["left"] = {
        str(unit): {(str(file), int(line), str(function)): int(n) for (file, line, function), n in places}
        for unit, places in row["left"].items()
    }
    return Growth(**row)
