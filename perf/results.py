"""What a run leaves behind: measured series, machine, verdicts; kept as JSON."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

Role = Literal["subject", "floor", "peer"]
Better = Literal["higher", "lower"]

FORMAT = 1  # raise when a field changes its meaning: `--against` refuses files of another format


class Spread(msgspec.Struct, frozen=True):
    """Median of some repeats with the range that holds their middle half."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), quantile(values, 0.25), quantile(values, 0.75))

    @property
    def relative(self) -> float:
        """Half the width of the middle range as a share of the median."""
        return (self.high - self.low) / 2 / abs(self.median) if self.median else 0.0


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one contestant showed: per metric one value a round, and its latencies.

    `samples` are quantiles at equal steps, in seconds, smallest first; empty where no distribution was taken.
    """

    name: str
    role: Role
    metrics: dict[str, list[float]]
    samples: list[float] = []
    jobs: int = 0

    def spread(self, metric: str) -> Spread:
        return Spread.of(self.metrics[metric])


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One target held against what was measured.

    `ratio` is subject by floor or peer, or the subject's own value where `against` is None. Without one,
    `skipped` says why the counterpart is missing, or `error` why the subject is.
    """

    label: str
    metric: str
    against: str | None
    better: Better
    at_least: float
    aim: float
    unit: str
    ratio: Spread | None
    error: str = ""
    skipped: str = ""

    @property
    def key(self) -> str:
        return f"{self.label} | {self.against or 'itself'}"


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One scenario's part of a run. `skipped` names each contestant that is missing, with the reason."""

    name: str
    title: str
    entries: list[Entry]
    checks: list[Check]
    skipped: dict[str, str]

    def entry(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a run took place; `steal` is the share of time the host took from this machine meanwhile."""

    cpu: str
    cores: int
    kernel: str
    python: str
    memory_bytes: int
    versions: dict[str, str]
    load_before: float
    steal: float = 0.0


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole run. `yardstick_per_s`: rate of floor (a), by which absolute times of two runs are compared."""

    format: int
    started: str
    short: bool
    yardstick_per_s: float
    machine: Machine
    outcomes: list[Outcome]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, by linear interpolation between neighbours."""
    if not values:
        raise ValueError("quantile of no values: the contestant returned no samples; it must measure at least one job")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def thin(samples: Sequence[float], points: int = 2001) -> list[float]:
    """At most `points` equally spaced quantiles, first and last kept: a file stays small, the tail whole."""
    ordered = sorted(samples)
    if len(ordered) <= points:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(i * last / (points - 1))] for i in range(points)]


def paired_ratio(subject: Sequence[float], against: Sequence[float]) -> Spread:
    """Ratio of two contestants round by round: what slows the host for a while slows both."""
    if not subject or not against or len(subject) != len(against):
        raise ValueError(
            f"{len(subject)} rounds of the subject against {len(against)} of its counterpart cannot pair; "
            "both must be measured in every round",
        )
    return Spread.of([a / b for a, b in zip(subject, against, strict=True)])


def save(run: Run, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))


def load(path: Path) -> Run:
    """A run saved before.

    Raises ValueError when the file is no run or of another format.
    """
    try:
        run = msgspec.json.decode(path.read_bytes(), type=Run)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a saved run ({error}); make one with `python -m perf --save {path}`") from error
    if run.format != FORMAT:
        raise ValueError(f"{path}: format {run.format}, this version reads {FORMAT}; save a new run to compare with")
    return run
