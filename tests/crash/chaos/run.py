"""The driver: starts the crew, kills at random, lets everything end, asks for the verdict."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.crash.chaos import crew as kinds
from tests.crash.chaos.crew import Crew
from tests.crash.chaos.records import FOLDER

if TYPE_CHECKING:
    from tests.crash.chaos.verdict import Verdict

_LOOK_AHEAD = 64


@dataclass(frozen=True)
class Plan:
    """How much of everything. The kills are spread over `seconds`, the load is what the producers can do meanwhile."""

    workers: int = 100
    producers: int = 100
    supervisors: int = 10
    seconds: float = 15.0
    seed: int = 1
    alive_producers: int = 3

    def order(self) -> list[str]:
        """The kills in random order; recovery: a tenth of the workers' share, fork server and planner: a fiftieth."""
        tenth = max(self.workers // 10, 1)
        fiftieth = max(tenth // 5, 1)
        counts = {
            kinds.WORKER_KILL: self.workers, kinds.PRODUCER_KILL: self.producers,
            kinds.SUPERVISOR_KILL: self.supervisors, kinds.RECOVERY_KILL: tenth, kinds.SERVER_KILL: fiftieth,
            kinds.PLANNER_KILL: fiftieth,
        }  # fmt: skip
        order = [kind for kind, count in counts.items() for _ in range(count)]
        random.Random(self.seed).shuffle(order)
        return order


@dataclass
class Outcome:
    """What one run did and what became of its jobs."""

    kills: Counter[str]
    verdict: Verdict
    producers: int
    producer_errors: str
    left: list[str]
    elapsed_s: float
    judged_s: float
    exit_status: int

    def is_clean(self) -> bool:
        """Nothing lost, altered, made up, unexplained or left behind."""
        return self.verdict.is_clean() and not self.producer_errors and not self.left and not self.exit_status


def run(plan: Plan, report: Callable[[str], None] = lambda _: None) -> Outcome:
    """One run in a namespace and folder of its own."""
    namespace = f"chaos{os.environ.get('SHMQ_TEST_RUN', '')}-{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix="shmq-chaos-"))
    (folder / "ledger").mkdir()
    os.environ[FOLDER] = str(folder / "ledger")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    started = time.monotonic()
    crew = Crew(folder, namespace, plan.seed, plan.alive_producers)
    is_clean = False
    try:
        crew.start_supervisor()
        outcome = _attack(crew, plan, report, started)
        is_clean = outcome.is_clean()
        return outcome
    finally:
        crew.abandon()
        _clean_up(namespace)
        if is_clean and not os.environ.get("SHMQ_CHAOS_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            report(f"ledgers and log are kept in {folder}")


def _attack(crew: Crew, plan: Plan, report: Callable[[str], None], started: float) -> Outcome:
    segment = crew.segment()
    give_up = time.monotonic() + 30.0
    while not segment.header("registry") and time.monotonic() < give_up:
        time.sleep(0.005)
    crew.start_producers()
    order = plan.order()
    pause_s = plan.seconds / len(order)
    next_at, waiting = time.monotonic() + 0.5, order
    while waiting:
        crew.reap()
        if time.monotonic() < next_at:
            time.sleep(min(0.002, pause_s))
            continue
        # whatever comes next and is there: while a supervisor starts, there are only producers to kill
        done = next((kind for kind in dict.fromkeys(waiting[:_LOOK_AHEAD]) if crew.kill(kind, segment)), None)
        if done is None:
            time.sleep(0.002)
            continue
        waiting.remove(done)
        next_at = max(next_at + pause_s * crew._chance.uniform(0.2, 1.8), time.monotonic() - 1.0)
        if len(crew.kills) % 500 == 0:
            all_kills, elapsed_s = len(crew.kills) + len(waiting), time.monotonic() - started
            report(f"{len(crew.kills)} of {all_kills} kills after {elapsed_s:.0f} s")
    born, _ = crew.finish_producers()
    give_up = time.monotonic() + 60.0
    while _open_jobs(segment) and time.monotonic() < give_up:
        crew.reap()
        time.sleep(0.02)
    stuck = _open_jobs(segment)
    status = crew.stop_supervisor()
    crew.reap()
    from tests.crash.chaos.verdict import judge  # numpy: only now, when nothing is forked any more

    ended = time.monotonic()
    verdict = judge(crew.folder / "ledger", crew.kills, crew.folder / "state" / crew.namespace / "dead.sqlite")
    errors = crew.folder / "ledger" / "errors"
    left = _left(crew.namespace) + ([f"{stuck} jobs that never end"] if stuck else [])
    return Outcome(
        Counter(kill.kind for kill in crew.kills), verdict, born, errors.read_text() if errors.exists() else "",
        left, ended - started, time.monotonic() - ended, status,
    )  # fmt: skip


def _open_jobs(segment: object) -> int:
    from shmq.supervisor.namespace import jobs_left

    return jobs_left(segment)  # type: ignore[arg-type]


def _left(namespace: str) -> list[str]:
    return sorted(name for name in os.listdir("/dev/shm") if f"{namespace}" in name)


def _clean_up(namespace: str) -> None:
    for name in _left(namespace):
        Path("/dev/shm", name).unlink(missing_ok=True)


def describe(plan: Plan, outcome: Outcome) -> str:
    """The figures, as they go into the README."""
    verdict = outcome.verdict
    kills = ", ".join(f"{count} {kind}" for kind, count in sorted(outcome.kills.items()))
    total = sum(outcome.kills.values())
    lines = [
        f"seed {plan.seed}: {total} kills in {outcome.elapsed_s:.0f} s (judged in {outcome.judged_s:.0f} s): {kills}",
        f"producers {outcome.producers}, accepted {verdict.accepted}, executed {verdict.executed}, "  # noqa: ISC004
        f"answered otherwise {verdict.answered} (cancelled, or told that the worker was lost), "
        f"dead letters {verdict.dead_letters}",
        f"lost {len(verdict.lost)}, phantom {len(verdict.phantom)}, altered {len(verdict.altered)}, "  # noqa: ISC004
        f"run although cancelled {len(verdict.cancelled_but_ran)}",
        f"duplicates {verdict.duplicates}: {verdict.explained} were the last act of a killed worker, "  # noqa: ISC004
        f"{len(verdict.unexplained)} unexplained",
    ]
    for whose, latencies in (("worker", verdict.redelivery), ("supervisor", verdict.restart)):
        lines += [
            f"{whose}'s death to the next start of what it cut off: {_spread(latencies.all_s)}",
            f"    where nothing else was killed meanwhile: {_spread(latencies.undisturbed_s)}",
        ]
    if not verdict.lost:
        lines.append(f"0 lost in {total} kills: fewer than {3 / max(total, 1):.1e} per kill (95 %)")
    wrong = {
        "LOST": verdict.lost, "PHANTOM": verdict.phantom, "ALTERED": verdict.altered[:8],
        "UNEXPLAINED": verdict.unexplained[:8], "RAN ALTHOUGH CANCELLED": verdict.cancelled_but_ran,
        "LEFT BEHIND": outcome.left, "PRODUCERS": [outcome.producer_errors] if outcome.producer_errors else [],
        "EXIT STATUS": [f"{outcome.exit_status:#x}"] if outcome.exit_status else [],
    }  # fmt: skip
    return "\n".join(lines + [f"{what}: {', '.join(which)}" for what, which in wrong.items() if which])


def _spread(values: list[float]) -> str:
    import numpy as np

    if not values:
        return "none seen"
    p50, p99, most = (1000 * float(np.quantile(values, q)) for q in (0.5, 0.99, 1.0))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {most:.1f} ms ({len(values)} jobs)"
