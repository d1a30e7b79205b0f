"""What `scripts/replay` runs: recorded loads against a live supervisor, one step in a fraction of a second.

    trace ── earlier part ──▶ Forecaster, offline ──▶ pattern file ─┐
          └─ later part ──▶ jobs at their times ──▶ supervisor, planner, up to 32 workers
                                └─ waits of the jobs, worker rows sampled ──▶ share late, worker-seconds

A job sleeps for an exponential time, so that 32 workers fit on few cores. Counts are scaled, so that the busiest
steps but one in a hundred keep three quarters of the workers busy. Everything that is a time in the planner's rules
shrinks with the step: the day, the hold time. All ways of scaling get the same jobs at the same times, one after the
other; each further window begins with another way, so that what else the machine does is no way's advantage.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shmq.client.client import Client  # noqa: E402 - the path comes first
from shmq.config.load import load  # noqa: E402
from shmq.errors import ShmqError  # noqa: E402
from shmq.memory.columns import column  # noqa: E402
from shmq.memory.layout import WORKER, WORKER_LIVE, WORKER_STARTING  # noqa: E402
from shmq.planner.backtest import BUSY_QUANTILE, BUSY_SHARE, Series, read_series  # noqa: E402
from shmq.planner.forecast import Forecaster  # noqa: E402
from shmq.planner.patterns import next_boundary, seconds_of_load  # noqa: E402
from shmq.supervisor.namespace import state_dir  # noqa: E402

WORKERS = 32
HOLD_S = 30.0  # as configured by default; compressed with the rest
SAMPLE_S = 0.01
START_S = 20.0
TASKS = """
import time
import shmq

@shmq.task(group="network")
def nap(submitted_ns: int, seconds: float) -> int:
    waited_ns = time.monotonic_ns() - submitted_ns
    time.sleep(seconds)
    return waited_ns
"""
CONFIG = """
namespace = "{namespace}"
tasks = ["replay_tasks"]
[groups.network]
kind = "io"
min_workers = 1
max_workers = {workers}
max_batch = 1
mode = "{mode}"
target_wait_s = {target_wait_s!r}
miss_ratio = {miss_ratio!r}
hold_s = {hold_s!r}
[planner]
step_s = {step_s!r}
day_s = {day_s!r}
save_s = 1e6
[supervisor]
tick_s = 0.01
[memory]
max_producers = 2
slots_per_producer = 16384
slot_bytes = 256
block_budget_bytes = 1048576
max_workers = {rows}
"""


@dataclass(frozen=True)
class Plan:
    """One trace, ready to be replayed: scaled counts; jobs of the scored steps and of the run-up before them."""

    series: Series
    counts: np.ndarray[Any, np.dtype[np.float64]]
    first: int
    steps: int
    runup: int
    due_s: np.ndarray[Any, np.dtype[np.float64]]  # from the start of the run-up
    sleep_s: np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Outcome:
    """What one way of scaling did to one trace."""

    mode: str
    late_share: float = 0.0
    worker_seconds: float = 0.0
    jobs: int = 0
    p95_s: float = 0.0
    workers: list[float] = field(default_factory=list)  # mean per scored step


def plan_of(series: Series, start: float, options: argparse.Namespace) -> Plan:
    """Scale the counts and draw the jobs of the window that begins at such a share of the trace."""
    busiest = max(float(np.quantile(series.counts, BUSY_QUANTILE)), 1e-9)
    per_step = BUSY_SHARE * WORKERS * options.step / options.service
    exact = series.counts * (per_step / busiest)
    counts = np.diff(np.floor(np.cumsum(exact) + 0.5), prepend=0.0)  # whole jobs, none lost by rounding
    runup = int(np.ceil(options.runup / options.step))
    steps = min(options.steps, len(counts) // 2)
    first = max(int(len(counts) * start), 2 * runup)
    first = min(first, len(counts) - steps)
    random = np.random.default_rng(options.seed)
    due = [
        (i + np.sort(random.random(int(count)))) * options.step
        for i, count in enumerate(counts[first - runup : first + steps])
    ]
    due_s = np.concatenate(due)
    sleeps = random.exponential(options.service, len(due_s))
    return Plan(series, counts, first, steps, runup, due_s, sleeps)


@contextlib.contextmanager
def supervisor(folder: Path, text: str, pattern: tuple[Forecaster, float] | None) -> Iterator[Client]:
    """A supervisor with the learned pattern in place."""
    path = folder / "config.toml"
    path.write_text(text)
    path.chmod(0o600)
    (folder / "replay_tasks.py").write_text(TASKS)
    config = load(path)
    if pattern is not None:
        state = state_dir(config)
        (state / "patterns").mkdir(mode=0o700, parents=True)
        state.chmod(0o700)
        pattern[0].save(state / "patterns" / "network.npz", pattern[1])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shmq", "supervise", str(path)],
            stdout=log, stderr=log, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        client = _connect(process, config.namespace, folder / "log")
        with client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _connect(process: subprocess.Popen[bytes], namespace: str, log: Path) -> Client:
    give_up = time.monotonic() + START_S
    while True:
        client = None
        try:
            client = Client(namespace)
            client.submit("replay_tasks.nap", time.monotonic_ns(), 0.0).result(START_S)
        except (ShmqError, OSError) as error:
            if client is not None:
                client.close()
            if process.poll() is not None or time.monotonic() > give_up:
                sys.exit(f"scripts/replay: the supervisor does not start: {error}\n{log.read_text()}")
            time.sleep(0.02)
        else:
            return client


def replay(plan: Plan, mode: str, options: argparse.Namespace) -> Outcome:
    """One trace, one way of scaling."""
    step_s = options.step
    compressed = step_s / plan.series.step_s
    text = CONFIG.format(
        namespace=f"replay-{secrets.token_hex(4)}",
        workers=WORKERS, rows=2 * WORKERS + 16, mode=mode, target_wait_s=options.target, miss_ratio=options.miss,
        hold_s=HOLD_S * compressed, step_s=step_s, day_s=86400 * compressed,
    )  # fmt: skip
    forecaster = Forecaster(seconds_of_load(step_s, 86400 * compressed))
    for count in plan.counts[: plan.first - plan.runup].tolist():
        forecaster.update(count)
    folder = Path(tempfile.mkdtemp(prefix="shmq-replay-"))
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    begin = next_boundary(time.time(), step_s)  # the first step of the run-up begins here
    try:
        with supervisor(folder, text, (forecaster, begin)) as client:
            return _feed(client, plan, begin - time.time() + time.monotonic(), mode, options)
    finally:
        if options.keep_logs:
            shutil.copy(folder / "log", f"{options.keep_logs}.{plan.series.name}.{plan.first}.{mode}")
        shutil.rmtree(folder, ignore_errors=True)


def _feed(client: Client, plan: Plan, begin: float, mode: str, options: argparse.Namespace) -> Outcome:
    """Submit each job at its time, read results as they come, sample the worker rows."""
    task = client._registry.task("replay_tasks.nap")
    rows = column(client._segment, "worker_rows")
    scored_from, scored_to = plan.runup * options.step, (plan.runup + plan.steps) * options.step
    open_jobs: deque[tuple[bool, Any]] = deque()
    waits: list[float] = []
    counted, watched = np.zeros(plan.steps), np.zeros(plan.steps)
    last = max(time.monotonic() - begin, 0.0)
    if last >= scored_from:
        sys.exit(f"scripts/replay: the start took {last:.1f} s, longer than the run-up; give a longer --runup")
    at = int(np.searchsorted(plan.due_s, last))  # what was due while the supervisor started did not come
    due, sleeps = plan.due_s.tolist(), plan.sleep_s.tolist()
    while last < scored_to or open_jobs:
        now = time.monotonic() - begin
        while at < len(due) and due[at] <= now:
            job = client.submit_task(task, (time.monotonic_ns(), sleeps[at]))
            open_jobs.append((due[at] >= scored_from, job))
            at += 1
        for _ in range(len(open_jobs)):
            is_scored, job = open_jobs.popleft()
            if not job.done():
                open_jobs.append((is_scored, job))
            elif is_scored:
                waits.append(job.result() / 1e9)
        states = rows[:, WORKER["state"]]
        present = int(((states == WORKER_LIVE) | (states == WORKER_STARTING)).sum())
        if scored_from <= now < scored_to:
            at_step = int((now - scored_from) / options.step)
            counted[at_step] += present * (now - last)
            watched[at_step] += now - last
        last = now
        ahead = min(due[at] - now if at < len(due) else SAMPLE_S, SAMPLE_S) - (time.monotonic() - begin - now)
        time.sleep(max(ahead, 0.0005))
    late = np.array(waits) > options.target
    return Outcome(
        mode, float(late.mean()), float(counted.sum()), len(waits), float(np.quantile(waits, 0.95)),
        (counted / np.maximum(watched, 1e-9)).tolist(),
    )  # fmt: skip


def draw(path: Path, results: list[tuple[Plan, list[Outcome]]], options: argparse.Namespace) -> None:
    """Arrivals and workers of each trace, one above the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.8 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    colours = {"predictive": "tab:blue", "reactive": "tab:orange", "fixed": "tab:grey"}
    for (plan, outcomes), axes in zip(results, np.atleast_1d(figure.subplots(len(results), 1)), strict=True):
        seconds = np.arange(plan.steps) * options.step
        scored = plan.counts[plan.first : plan.first + plan.steps]
        load = scored / options.step * options.service
        axes.fill_between(seconds, load, step="post", color="0.85", label="load (jobs at once)")
        for outcome in outcomes:
            label = f"{outcome.mode}: {outcome.late_share:.1%} late, {outcome.worker_seconds:.0f} worker-seconds"
            axes.plot(seconds, outcome.workers, color=colours[outcome.mode], linewidth=1, label=label)
        title = f"{plan.series.name}, step {plan.first} to {plan.first + plan.steps}"
        axes.set_title(title, fontsize="medium", loc="left", pad=20)
        axes.set_ylabel("workers")
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize="small", frameon=False)
    axes.set_xlabel("seconds")
    figure.savefig(path, dpi=100, format="png")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/replay", description=__doc__.split("\n\n")[0])
    parser.add_argument("--traces", type=Path, metavar="DIR", help="folder with recorded counts as CSV")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="files that begin with one of these")
    parser.add_argument("--modes", nargs="+", default=["predictive", "reactive", "fixed"])
    parser.add_argument("--step", type=float, default=0.15, help="seconds that a step takes (0.05 to 0.2)")
    parser.add_argument("--steps", type=int, default=400, help="steps that are scored")
    parser.add_argument("--runup", type=float, default=8.0, help="seconds of load before them")
    parser.add_argument(
        "--start", type=float, nargs="+", default=[0.5], metavar="SHARE",
        help="share of the trace that is learned from, then the scored window begins; several: one window each",
    )  # fmt: skip
    parser.add_argument("--service", type=float, default=0.1, help="mean seconds that a job sleeps")
    parser.add_argument("--target", type=float, default=0.05, help="a job that waits longer is late")
    parser.add_argument("--miss", type=float, default=0.05, help="share of late jobs that is allowed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw load and workers")
    parser.add_argument("--keep-logs", metavar="PREFIX", help="keep the supervisors' logs")
    options = parser.parse_args()
    if options.traces is None or not list(options.traces.glob("*.csv")):
        parser.error(
            f"no recorded loads in {options.traces}: the repository ships none. Give a folder of CSV files, one count "
            "per line, '# step_seconds: 60' above: --traces DIR"
        )
    return options


def replay_all(plan: Plan, turn: int, options: argparse.Namespace) -> list[Outcome]:
    """One window in all ways of scaling; `turn`: which of them is first."""
    turn %= len(options.modes)
    outcomes = []
    for mode in options.modes[turn:] + options.modes[:turn]:
        outcomes.append(replay(plan, mode, options))
        report(f"{plan.series.name} {plan.first}", outcomes[-1])
    return outcomes


def pooled(outcomes: list[Outcome]) -> Outcome:
    """The windows of one way as one."""
    jobs = sum(outcome.jobs for outcome in outcomes)
    late = sum(outcome.late_share * outcome.jobs for outcome in outcomes)
    seconds = sum(outcome.worker_seconds for outcome in outcomes)
    return Outcome(outcomes[0].mode, late / max(jobs, 1), seconds, jobs, max(outcome.p95_s for outcome in outcomes))


def compare(name: str, outcomes: list[Outcome], options: argparse.Namespace) -> None:
    """All windows of a trace together, and what the forecast is worth."""
    whole = {mode: pooled([o for o in outcomes if o.mode == mode]) for mode in options.modes}
    if len(options.start) > 1:
        for outcome in whole.values():
            report(f"{name} all", outcome)
    if {"predictive", "reactive"} <= set(whole):
        ahead, behind = whole["predictive"], whole["reactive"]
        late = ahead.late_share / behind.late_share if behind.late_share else float("nan")
        seconds = ahead.worker_seconds / behind.worker_seconds
        print(f"{name}: predictive to reactive: late {late:.2f}, worker-seconds {seconds:.3f}", flush=True)


def report(name: str, outcome: Outcome) -> None:
    """A line of the table."""
    print(
        f"{name:28} {outcome.mode:10} {outcome.jobs:6} {outcome.late_share:7.4f} "
        f"{outcome.p95_s:8.3f}s {outcome.worker_seconds:14.1f}",
        flush=True,
    )


def main() -> None:
    """Replay and report."""
    options = parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the supervisor is stopped as well
    paths = sorted(options.traces.glob("*.csv"))
    if options.only:
        paths = [path for path in paths if path.name.startswith(tuple(options.only))]
    results = []
    print(f"{'trace, first step':28} {'mode':10} {'jobs':>6} {'late':>7} {'p95 wait':>9} {'worker-seconds':>14}")
    for path in paths:
        series = read_series(path)
        plans = [plan_of(Series(path.stem, series.step_s, series.counts), start, options) for start in options.start]
        windows = [(plan, replay_all(plan, turn, options)) for turn, plan in enumerate(plans)]
        compare(path.stem, [outcome for _, outcomes in windows for outcome in outcomes], options)
        results += windows
        if options.plot:
            draw(options.plot, results, options)


if __name__ == "__main__":
    main()
