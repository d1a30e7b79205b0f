"""A soak run from start to report.

    supervisor up → gauge → producers follow the day's shape, everything is read → gauge → second look → report

The second look: of groups whose workers seem to leak, memray traces are taken after the last reading, while the load
goes on, so that memray's own memory is in no verdict. Ctrl-C ends the run early; what was seen is judged.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shmq.errors import TracingError
from shmq.memcheck.recording import TRACES, Recorder, load_run
from shmq.memcheck.report import Findings, evaluate, write_report
from shmq.memcheck.shape import Load, Plan
from shmq.memcheck.soak import mix, orders
from shmq.memcheck.soak.producer import Spec
from shmq.memcheck.soak.readings import Readings
from shmq.memcheck.soak.rig import Rig
from shmq.memcheck.soak.tally import Counts, total
from shmq.tasks import registry

if TYPE_CHECKING:
    from shmq.memory.segment import Segment
    from shmq.observe.model import Snapshot

LEAN_JOBS_PER_S = 1000.0
LEAN_GUESS_S = 120.0
READINGS = 1200  # of one run, as far as the bounds allow
READ_EVERY_S = (0.2, 5.0)
GUEST_SHARE = 0.2  # two producers stay, a third one is always a new one
GUESTS, LEAST_GUEST_S = 30, 6.0  # starting takes one second: longer than a fifth of the life would be no warm-up
SECOND_LOOK_S = 20.0
LOG = "log"
SPEND_S = 120.0  # for a producer to read its last results


@dataclass(frozen=True)
class Settings:
    """What `shmq soak` was asked for. `minutes` None: real hours; with `lean`: as long as it takes."""

    out: Path
    hours: float = 24.0
    minutes: float | None = 10.0
    lean: bool = False
    config: Path | None = None
    own_jobs: list[list[Any]] = field(default_factory=list)
    jobs_per_s: float | None = None
    trace: str = "suspects"  # or "all" or "none"

    @property
    def plan(self) -> Plan:
        """The load over the run."""
        if self.lean:
            minutes = LEAN_GUESS_S / 60 if self.minutes is None else self.minutes
            return Plan(self.hours, minutes, Load(self.jobs_per_s or LEAN_JOBS_PER_S))
        if self.config is not None:
            return Plan(self.hours, self.minutes, Load(self.jobs_per_s or mix.JOBS_PER_S))
        rate = self.jobs_per_s or mix.JOBS_PER_S
        recycles = rate * 3600 * mix.RECYCLED_SHARE / mix.JOBS_PER_WORKER
        failed = mix.KINDS["fail"].share
        return Plan(self.hours, self.minutes, Load(rate, failed, recycles, mix.SCALE_CHANGES_PER_HOUR))

    @property
    def words(self) -> str:
        """The conversion."""
        if not self.lean:
            return self.plan.words()
        bound = "" if self.minutes is None else f", for {self.minutes:g} minutes at most"
        return (
            f"{self.hours:g} h of {self.plan.load.jobs_per_s:,.0f} small jobs/s are {self.plan.jobs:,} jobs, "
            f"brought in chunks as fast as this machine runs them{bound}. What grows with jobs is projected over "
            "24 h of that load, what grows with the clock over 24 h of clock."
        )


@dataclass
class Outcome:
    """How a run ended."""

    findings: Findings
    report: Path
    counts: Counts
    facts: dict[str, Any]
    problems: list[str]
    log: Path
    is_own: bool  # the user's jobs, not the built-in mix


class Runner:
    """One run.

    Args:
        settings: what was asked for.
        look: takes a snapshot of a segment.
        control: asks the supervisor of a segment (command and arguments), e.g. to scale.
        progress: told the share that is done and how it goes, at each reading.
    """

    def __init__(
        self,
        settings: Settings,
        look: Callable[[Segment], Snapshot],
        control: Callable[..., object],
        progress: Callable[[float, str], None],
    ) -> None:
        self._settings, self._look, self._control, self._progress = settings, look, control, progress
        self._plan = settings.plan
        self._producers: dict[int, tuple[str, str, subprocess.Popen[bytes]]] = {}
        self._rows = 0
        self._scaled = 0
        self._problems: list[str] = []

    def run(self) -> Outcome:
        """All of it.

        Raises:
            TracingError: the folder cannot be used, or the supervisor does not start. ConfigError.
        """
        settings = self._settings
        recorder = Recorder(
            settings.out,
            {"title": "shmq soak" + (" --lean" if settings.lean else ""), "conversion": settings.words,
             "acceleration": self._plan.acceleration, "planned_jobs": self._plan.jobs},
        )  # fmt: skip
        facts: dict[str, Any] = {}
        try:
            with self._rig() as rig:
                facts = self._watched(rig, recorder)
                self._end_producers()  # while there are workers still: they read their last results
                rig.stop()
        finally:
            counts = total(self._tally)
            recorder.finish(jobs=counts.ended, counts=vars(counts), problems=self._problems, **facts)
        report, findings = write_report(settings.out)
        findings.notes += self._problems
        if recorder.problem is not None and "recording_problem" not in findings.run.about:
            findings.notes.append(f"{recorder.problem}.")  # the disk was too full to write even that down
        log = settings.out / LOG
        return Outcome(findings, report, counts, facts, self._problems, log, settings.config is not None)

    @property
    def _tally(self) -> Path:
        return self._settings.out / "tally"

    @contextmanager
    def _rig(self, *, is_judged: bool = True) -> Iterator[Rig]:
        """`is_judged`: what its workers' jobs leave behind belongs to the run."""
        scratch = Path(tempfile.mkdtemp(prefix="shmq-soak-"))
        try:
            config = self._settings.config
            if config is None:
                config = scratch / "config.toml"
                config.write_text(mix.LEAN_CONFIG if self._settings.lean else mix.CONFIG)
                config.chmod(0o600)
            watch = (self._settings.out / TRACES).resolve() if is_judged else Path(tempfile.mkdtemp(dir=scratch))
            namespace = f"soak-{scratch.name.removeprefix('shmq-soak-').replace('_', 'x')}"
            with Rig(config, namespace, scratch, self._settings.out / LOG, watch=watch) as rig:
                self._require_tasks(rig)
                try:
                    yield rig
                finally:
                    self._end_producers()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _require_tasks(self, rig: Rig) -> None:
        """Told now: every producer of the run would end at once, and the run go on to its end without a job."""
        known = registry.read(rig.segment.state_dir)
        unknown = sorted({job[0] for job in self._settings.own_jobs} - known.keys())
        if unknown:
            hints = " ".join(f"no task {name!r} in {self._settings.config}. {registry.nearest(name, list(known))}"
                             for name in unknown)  # fmt: skip
            raise TracingError(f"the jobs cannot be run: {hints}")

    def _watched(self, rig: Rig, recorder: Recorder) -> dict[str, Any]:
        """The part that is read; facts for run.json. Ctrl-C ends it well."""
        facts: dict[str, Any] = {"interrupted": False}
        readings = Readings(rig, recorder, lambda: self._look(rig.segment))
        started_s = time.monotonic()
        try:
            self._day(rig, readings, started_s)
        except KeyboardInterrupt:
            facts["interrupted"] = True
        finally:
            elapsed_s = time.monotonic() - started_s
            readings.close()
            jobs = total(self._tally).ended
            hours = self._hours_covered(jobs)
            groups = readings.snapshot.groups
            facts |= {
                "run_s": elapsed_s,
                "hours_covered": hours,
                "acceleration": max(hours * 3600 / max(elapsed_s, 1e-3), 1e-6),
                "recycled": sum(group.workers_recycled for group in groups),
                "crashed": sum(group.workers_crashed for group in groups),
                "scale_changes": self._scaled,
                "processes_seen": readings.processes_seen,
            }
        if not facts["interrupted"]:
            try:
                facts |= self._afterwards(rig)
            except KeyboardInterrupt:
                facts["interrupted"] = True
        return facts

    def _hours_covered(self, jobs: int) -> float:
        if self._settings.lean:
            return min(jobs / self._plan.jobs, 1.0) * self._settings.hours
        return self._plan.hours_covered(jobs)

    def _day(self, rig: Rig, readings: Readings, started_s: float) -> None:
        spec, settings, plan = self._spec(rig, started_s), self._settings, self._plan
        has_end = not settings.lean or settings.minutes is not None
        end_s = started_s + plan.seconds if has_end else started_s + 1e9
        every_s = min(max(plan.seconds / READINGS, READ_EVERY_S[0]), READ_EVERY_S[1])
        guest_s = max(plan.seconds / GUESTS, LEAST_GUEST_S)
        stays = 2 if settings.config is None else 1
        for _ in range(stays):
            self._start_producer(rig, spec, "producer", (1.0 - GUEST_SHARE) / stays, end_s)
        guest_at = started_s
        while (now_s := time.monotonic()) < end_s:
            self._check(rig)
            if now_s >= guest_at:
                guest_at += guest_s
                self._start_producer(rig, spec, "guest producer", GUEST_SHARE, min(guest_at, end_s))
            counts = total(self._tally)
            readings.take(counts, ((kind, name, p.pid) for kind, name, p in self._producers.values()))
            self._scale(rig, now_s - started_s)
            share = counts.ended / plan.jobs if settings.lean else (now_s - started_s) / plan.seconds
            self._progress(min(share, 1.0), f"{counts.ended:,} jobs")
            if settings.lean and counts.ended >= plan.jobs:
                break
            time.sleep(max(every_s - (time.monotonic() - now_s), 0.0))
        self._end_producers()

    def _afterwards(self, rig: Rig) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if self._settings.config is None:
            self._progress(1.0, "measuring the pace beside that of a fresh system")
            facts["pace"] = self._gauge(rig)
        groups = self._suspects()
        if groups:
            self._progress(1.0, f"second look with memray at {', '.join(groups)}")
            facts["traced"] = groups
            self._second_look(rig, groups)
        return facts

    def _suspects(self) -> list[str]:
        """Groups whose workers' memory seems to leak."""
        if self._settings.trace == "none":
            return []
        found = evaluate(load_run(self._settings.out), traces="none").verdicts
        is_all = self._settings.trace == "all"
        kinds = {v.kind for v in found if is_all or (v.is_leak and v.quantity.endswith("bytes"))}
        return sorted(kind.removeprefix("worker ") for kind in kinds if kind.startswith("worker "))

    def _second_look(self, rig: Rig, groups: list[str]) -> None:
        until_s = time.monotonic() + SECOND_LOOK_S
        folder = str((self._settings.out / TRACES).resolve())
        for group in groups:
            orders.give(rig.segment, group, orders.Order(folder, until_s))
        spec = msgspec.structs.replace(self._spec(rig, time.monotonic()), tally="/dev/null")
        self._start_producer(rig, spec, "producer", 1.0, until_s)
        while time.monotonic() < until_s:
            time.sleep(0.2)
        self._end_producers()
        for group in groups:
            orders.withdraw(rig.segment, group)

    def _gauge(self, aged: Rig) -> list[float]:
        """What `producer.gauge` says of the system after the run and of one just started; [] if it could not."""
        spec = str(self._write(self._spec(aged, time.monotonic())))
        with self._rig(is_judged=False) as fresh:
            process = aged.start(
                "-m", "shmq.memcheck.soak.producer", spec, "gauge", fresh.namespace, stdout=subprocess.PIPE
            )
            try:
                said, _ = process.communicate(timeout=SPEND_S)
            except BaseException:
                process.kill()
                process.wait()
                raise
        if process.returncode:
            self._problems.append(f"the pace could not be measured; see {aged.log}")
            return []
        return list(json.loads(said))

    def _spec(self, rig: Rig, started_s: float) -> Spec:
        plan = self._plan
        return Spec(
            rig.namespace, str(self._tally.resolve()), plan.hours, plan.minutes, plan.load.jobs_per_s, started_s,
            self._settings.lean, self._settings.own_jobs,
        )  # fmt: skip

    def _write(self, spec: Spec) -> Path:
        path = self._settings.out / "producers.json"
        path.write_bytes(msgspec.json.encode(spec))
        return path.resolve()

    def _start_producer(self, rig: Rig, spec: Spec, kind: str, share: float, until_s: float) -> None:
        row, self._rows = self._rows, self._rows + 1
        process = rig.start(
            "-m", "shmq.memcheck.soak.producer", str(self._write(spec)), str(row), str(share), str(until_s)
        )
        self._producers[row] = (kind, f"{kind} {row}", process)

    def _check(self, rig: Rig) -> None:
        """Forget producers that have ended; a broken one is a problem to be told, a dead supervisor the end."""
        for row, (_, name, process) in list(self._producers.items()):
            status = process.poll()
            if status is not None:
                del self._producers[row]
                if status:
                    self._problems.append(f"{name} ended with {status}; see {rig.log}")
        if rig.process.poll() is not None:
            raise TracingError(f"the supervisor of the run ended with {rig.process.returncode}; see {rig.log}")

    def _end_producers(self) -> None:
        for _, _, process in self._producers.values():
            process.terminate()
        for _, name, process in self._producers.values():
            try:
                status = process.wait(SPEND_S)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            except KeyboardInterrupt:  # a second one: nobody waits for the last results
                for _, _, each in self._producers.values():
                    each.kill()
                raise
            if status not in {0, -signal.SIGTERM}:  # told to end before it had begun: well done, too
                self._problems.append(f"{name} ended with {status}")
        self._producers.clear()

    def _scale(self, rig: Rig, elapsed_s: float) -> None:
        """Another number of workers for the network group, as often as the plan says."""
        due = self._plan.due(self._plan.scale_changes, elapsed_s) if self._plan.scale_changes else 0
        if due > self._scaled and not self._settings.lean:
            self._scaled += 1
            self._control(rig.segment, "scale", group="network", workers=1 + self._scaled % 3)
