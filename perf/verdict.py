"""Measured against asked, and this run against an earlier one: pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from perf.results import Better, Check, Entry, Outcome, Run, Spread, paired_ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Mark = Literal["aim", "pass", "fail", "skipped"]
Change = Literal["regression", "better", "same", "new", "gone"]


@dataclass(frozen=True)
class Target:
    """What is asked of the subject: `at_least` and `aim` for its metric, divided by the counterpart's if any.

    `scale` multiplies the counterpart: half of 2 × serial speed is a ratio of 0.5 at scale 2.
    `against_metric` defaults to `metric`. `unit`: what the figure is when there is no counterpart.
    """

    label: str
    metric: str
    at_least: float
    aim: float
    better: Better = "higher"
    subject: str = "shmq"
    against: str | None = None
    against_metric: str = ""
    scale: float = 1.0
    unit: str = "×"


@dataclass(frozen=True)
class Comparison:
    """One check in two runs; `factor` > 1 means the subject got better, both measured by their own floor."""

    scenario: str
    check: Check
    before: Spread | None
    factor: float
    change: Change


def judge(target: Target, entries: Sequence[Entry], skipped: Mapping[str, str]) -> Check:
    """The target with its measured ratio, or with the reason why there is none."""
    ratio: Spread | None = None
    error = absent = ""
    if _entry(entries, target.subject) is None:
        error = skipped.get(target.subject, "was not measured")
    elif target.against and _entry(entries, target.against) is None:
        absent = skipped.get(target.against, "not asked for")
    else:
        try:
            ratio = _ratio(target, entries)
        except (KeyError, ValueError, ZeroDivisionError) as problem:
            error = f"{target.metric}: {problem!r}"
    return Check(
        target.label,
        target.metric,
        target.against,
        target.better,
        target.at_least,
        target.aim,
        target.unit,
        ratio,
        error,
        absent,
    )


def mark(check: Check) -> Mark:
    if check.ratio is None:
        return "skipped" if check.skipped else "fail"
    if _reaches(check, check.ratio.median, check.aim):
        return "aim"
    return "pass" if _reaches(check, check.ratio.median, check.at_least) else "fail"


def below_margin(run: Run, margin: float = 4.0) -> Iterator[tuple[Outcome, Check]]:
    """Checks that miss `at_least` by more than `margin`: what stops a merge, however noisy its machine."""
    for outcome in run.outcomes:
        for check in outcome.checks:
            limit = check.at_least / margin if check.better == "higher" else check.at_least * margin
            broken = check.ratio is None and mark(check) == "fail"
            if broken or (check.ratio is not None and not _reaches(check, check.ratio.median, limit)):
                yield outcome, check


def compare(now: Run, before: Run, tolerance: float = 0.15) -> list[Comparison]:
    """Each check of both runs by ratio to its floor or peer.

    Where a check has no counterpart, times are multiplied by the run's yardstick, so that another clock
    rate is no regression. A change counts when it exceeds `tolerance` and the spread of both runs.
    """
    earlier = {(outcome.name, check.key): check for outcome in before.outcomes for check in outcome.checks}
    found = []
    for outcome in now.outcomes:
        for check in outcome.checks:
            old = earlier.pop((outcome.name, check.key), None)
            found.append(_compare(outcome.name, check, old, now.yardstick_per_s / before.yardstick_per_s, tolerance))
    measured = {outcome.name for outcome in now.outcomes}
    gone = [
        Comparison(name, check, check.ratio, 0.0, "gone") for (name, _), check in earlier.items() if name in measured
    ]
    return found + gone


def _compare(scenario: str, check: Check, old: Check | None, clock: float, tolerance: float) -> Comparison:
    if old is None or old.ratio is None:
        return Comparison(scenario, check, None, 1.0, "new")
    if check.ratio is None:
        return Comparison(scenario, check, old.ratio, 0.0, "gone")
    factor = _gain(check, check.ratio.median, old.ratio.median)
    if check.unit == "s":
        factor /= clock
    noise = max(tolerance, check.ratio.relative + old.ratio.relative)
    change: Change = "regression" if factor < 1 - noise else "better" if factor > 1 + noise else "same"
    return Comparison(scenario, check, old.ratio, factor, change)


def _gain(check: Check, now: float, before: float) -> float:
    top, bottom = (now, before) if check.better == "higher" else (before, now)
    if bottom == 0.0:
        return 1.0 if top == 0.0 else float("inf")
    return top / bottom


def _ratio(target: Target, entries: Sequence[Entry]) -> Spread:
    subject = _entry(entries, target.subject)
    assert subject is not None
    values = subject.metrics[target.metric]
    counterpart = _entry(entries, target.against) if target.against else None
    if counterpart is None:
        return Spread.of(values)
    beside = counterpart.metrics[target.against_metric or target.metric]
    return paired_ratio(values, [value * target.scale for value in beside])


def _reaches(check: Check, value: float, limit: float) -> bool:
    return value >= limit if check.better == "higher" else value <= limit


def _entry(entries: Sequence[Entry], name: str) -> Entry | None:
    return next((entry for entry in entries if entry.name == name), None)
