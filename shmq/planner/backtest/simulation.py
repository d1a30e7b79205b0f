"""What the planner would have done on a recorded load: the code of `GroupPlanner` on counts from a file.

    counts ──▶ predictive | reactive | oracle ──▶ workers per step ──queue──▶ late jobs, worker-seconds
          └──▶ accuracy and band coverage per horizon

The queue is a fluid with Erlang's noise: while a step's workers keep up and nothing waits, the share of
late jobs is that of the stationary queue (`staffing.miss_probability`); a backlog grows and shrinks at the
difference of the rates, and jobs that arrive while it is longer than the target allows are late. That suits
steps longer than a service time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

import numpy as np

from shmq.errors import ConfigError
from shmq.planner.forecast import Forecaster
from shmq.planner.forecast.pending import Floats
from shmq.planner.group import GroupPlanner, Observed
from shmq.planner.policy import Mode, Rules
from shmq.planner.staffing import Goal, Load, miss_probability, workers_needed

HORIZONS = (1, 5, 15)
LEARNING_SHARE = 0.25  # of the series: learned from, not scored
LEAST_STEPS = 100
BUSY_QUANTILE, BUSY_SHARE = (
    0.99,
    0.75,
)  # where no service time is given: such a load keeps such a part of the workers busy


@dataclass(frozen=True)
class Series:
    """Counts per step of `step_s` seconds."""

    name: str
    step_s: float
    counts: Floats


@dataclass(frozen=True)
class Setting:
    """What the simulated group is like."""

    service_s: float
    goal: Goal
    min_workers: int = 1
    max_workers: int = 32
    hold_s: float = 30.0
    concurrency: int = 1
    service_cv2: float = 1.0
    ready_s: float = 0.5


@dataclass(frozen=True)
class Score:
    """Forecasts `horizon` steps ahead: 1 - sum |error| / sum of counts; shares within and above the band."""

    horizon: int
    accuracy: float
    coverage: float
    above: float


@dataclass(frozen=True)
class Run:
    """One way of scaling: workers in each scored step, share of jobs later than the target, cost, changes."""

    name: str
    workers: Floats
    late_share: float
    worker_seconds: float
    spawns: int
    reaps: int


@dataclass(frozen=True)
class Backtest:
    """The outcome; arrays cover the scored steps. mean, low, high: the forecast one step ahead of each."""

    series: Series
    setting: Setting
    first: int
    counts: Floats
    mean: Floats
    low: Floats
    high: Floats
    scores: tuple[Score, ...]
    runs: tuple[Run, ...]


def read_series(path: str | Path, step_s: float | None = None) -> Series:
    """Counts from a CSV: last column, a step per line, `# step_seconds: 60` above. Raises ConfigError."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Give a text file with one count per line.") from error
    meta = dict(line[1:].partition(":")[::2] for line in lines if line.startswith("#"))
    known = {key.strip(): value.strip() for key, value in meta.items()}
    rows = [(i, line.rpartition(",")[2].strip()) for i, line in enumerate(lines, 1) if line[:1] != "#" and line.strip()]
    counts = [_count(path, i, text) for i, text in dropwhile(lambda row: not _is_number(row[1]), rows)]
    step_s = step_s if step_s is not None else _step(path, known.get("step_seconds"))
    if len(counts) < LEAST_STEPS:
        raise ConfigError(
            f"{path} holds {len(counts)} counts; a backtest needs at least {LEAST_STEPS} to learn and score."
        )
    return Series(known.get("name", path.stem), step_s, np.array(counts))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _count(path: Path, line: int, text: str) -> float:
    if not _is_number(text) or not 0 <= float(text) < math.inf:
        raise ConfigError(
            f"{path}, line {line}: {text!r} is no count; expected a number of at least 0 in the last column."
        )
    return float(text)


def _step(path: Path, text: str | None) -> float:
    if text is None:
        raise ConfigError(
            f"{path} does not say how long a step is; give --step SECONDS or a line '# step_seconds: 60'."
        )
    if not _is_number(text) or not 0 < float(text) < math.inf:
        raise ConfigError(f"{path}: step_seconds is {text!r}; expected the seconds between two counts.")
    return float(text)


def typical_service_s(series: Series, max_workers: int, concurrency: int = 1) -> float:
    """A service time with which the busiest steps but one in a hundred keep 3/4 of the workers busy."""
    busy_per_s = max(float(np.quantile(series.counts, BUSY_QUANTILE)), 1.0) / series.step_s
    return BUSY_SHARE * max_workers * concurrency / busy_per_s


def backtest(series: Series, setting: Setting) -> Backtest:
    """Run all ways of scaling; only what came before a step decides about it, the oracle apart."""
    counts, first = series.counts, int(len(series.counts) * LEARNING_SHARE)
    forecasts = np.zeros((3, len(counts), HORIZONS[-1]))
    predictive = _scaled(series, setting, "predictive", forecasts)
    reactive = _scaled(series, setting, "reactive", None)
    ways = {
        "predictive": predictive,
        "reactive": reactive,
        "fixed": np.full(len(counts), float(setting.max_workers)),
        "oracle": _oracle(series, setting),
    }
    mean, low, high = forecasts[:, first - 1 : -1, 0]
    return Backtest(
        series=series,
        setting=setting,
        first=first,
        counts=counts[first:],
        mean=mean,
        low=low,
        high=high,
        scores=tuple(_score(counts, forecasts, h, first) for h in HORIZONS),
        runs=tuple(_run(name, series, setting, workers, first) for name, workers in ways.items()),
    )


def _score(counts: Floats, forecasts: Floats, horizon: int, first: int) -> Score:
    mean, low, high = forecasts[:, first - 1 : len(counts) - horizon, horizon - 1]
    truth = counts[first - 1 + horizon :]
    return Score(
        horizon,
        accuracy=float(1 - np.abs(truth - mean).sum() / max(truth.sum(), 1e-9)),
        coverage=float(np.mean((truth >= low) & (truth <= high))),
        above=float(np.mean(truth > high)),
    )


def _scaled(series: Series, setting: Setting, mode: Mode, forecasts: Floats | None) -> Floats:
    """Workers per step under the policy; an order serves from the next step on, or `ready_s` later."""
    rules = Rules(setting.min_workers, setting.max_workers, setting.hold_s, mode)
    planner = GroupPlanner(series.step_s, setting.goal, rules, concurrency=setting.concurrency)
    queue = Queue(setting, series.step_s)
    lag = int(setting.ready_s / series.step_s)
    workers = np.full(len(series.counts) + lag + 1, float(setting.min_workers))
    for t, count in enumerate(series.counts.tolist()):
        done = queue.step(count, int(workers[t])).departures
        running = min(round(done / series.step_s * setting.service_s), int(workers[t]) * setting.concurrency)
        plan = planner.step(
            Observed(
                now_s=t * series.step_s,
                arrivals=count,
                departures=done,
                waiting=math.floor(queue.backlog),
                running=running,
                service_s=setting.service_s,
                service_cv2=setting.service_cv2,
                ready_s=setting.ready_s,
            )
        )
        workers[t + 1 :] = np.minimum(workers[t + 1 :], plan.target)  # a worker leaves at once
        workers[t + 1 + lag :] = plan.target
        if forecasts is not None:
            forecasts[:, t] = planner.forecaster.forecast(forecasts.shape[2])
    return workers[: len(series.counts)]


def _oracle(series: Series, setting: Setting) -> Floats:
    """Workers for the very load of each step, known beforehand."""
    need: Callable[[float], int] = lambda count: workers_needed(
        Load(count / series.step_s, setting.service_s, setting.service_cv2),
        setting.goal,
        concurrency=setting.concurrency,
        most=setting.max_workers,
    )
    needs = {count: need(count) for count in set(series.counts.tolist())}
    return np.array([float(max(needs[count], setting.min_workers)) for count in series.counts.tolist()])


@dataclass(frozen=True)
class Step:
    """What became of the jobs of one step."""

    late: float
    departures: float


class Queue:
    """The fluid queue with Erlang's noise (see the module)."""

    def __init__(self, setting: Setting, step_s: float) -> None:
        self._setting, self._step_s = setting, step_s
        self._misses: dict[tuple[int, float], float] = {}
        self.backlog = 0.0

    def step(self, count: float, workers: int) -> Step:
        """Serve one step; a group without workers gets one with its first job."""
        setting, step_s = self._setting, self._step_s
        servers = max(workers, 1 if count or self.backlog else 0) * setting.concurrency
        rate, capacity = count / step_s, servers / setting.service_s
        before, grows = self.backlog, count / step_s - capacity
        self.backlog = max(0.0, before + grows * step_s)
        long_share = _share_above(before, grows, step_s, capacity * setting.goal.target_wait_s)
        chance = self._miss(servers, rate) if grows < 0 else 0.0
        late = count * (long_share + (1 - long_share) * chance)
        return Step(late, before + count - self.backlog)

    def _miss(self, servers: int, rate_per_s: float) -> float:
        key = servers, rate_per_s
        if key not in self._misses:
            load = Load(rate_per_s, self._setting.service_s, self._setting.service_cv2)
            self._misses[key] = miss_probability(servers, load, self._setting.goal.target_wait_s)
        return self._misses[key]


def _share_above(start: float, slope: float, length: float, bound: float) -> float:
    """Share of 0..length in which start + slope * x > bound."""
    if slope == 0:
        return float(start > bound)
    crossing = min(max((bound - start) / slope / length, 0.0), 1.0)
    return 1 - crossing if slope > 0 else crossing


def _run(name: str, series: Series, setting: Setting, workers: Floats, first: int) -> Run:
    queue = Queue(setting, series.step_s)
    steps = [queue.step(count, int(w)) for count, w in zip(series.counts.tolist(), workers.tolist(), strict=True)]
    late = sum(step.late for step in steps[first:])
    scored = workers[first:]
    changes = np.diff(scored)
    return Run(
        name,
        scored,
        late_share=late / max(float(series.counts[first:].sum()), 1e-9),
        worker_seconds=float(scored.sum() * series.step_s),
        spawns=int(changes[changes > 0].sum()),
        reaps=int(-changes[changes < 0].sum()),
    )


def running_accuracy(counts: Sequence[float], means: Sequence[float]) -> float:
    """1 - sum |error| / sum of counts, for `shmq forecast show`; 0 while nothing came."""
    total = sum(counts)
    errors = sum(abs(count - mean) for count, mean in zip(counts, means, strict=True))
    return 1 - errors / total if total > 0 else 0.0


def learned(series: Series) -> Forecaster:
    """A forecaster that has seen the whole series: its state can be put where a live planner starts from."""
    forecaster = Forecaster(series.step_s)
    for count in series.counts.tolist():
        forecaster.update(count)
    return forecaster
