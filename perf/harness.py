"""Runs contestants side by side: round after round, each opened, warmed up, measured and closed in turn.

    round 1    shmq   floor   peer A   peer B
    round 2    peer B   peer A   floor   shmq        (the order turns round: drift of the host favours nobody)
    ...
    ratio      median over the rounds of subject / counterpart of the same round

Never two at once: an idle pool beside the measured one would still take its wake-ups.
"""

from __future__ import annotations

import gc
import signal
import time
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perf import machine
from perf.results import Entry, Outcome, Role, thin
from perf.verdict import Target, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from perf.peers import Peer


QUIET_LIMIT_S = 60.0  # all rounds of a scenario together: on a machine that is never quiet it must end too


@dataclass(frozen=True)
class Observation:
    """One measurement: named values, and the latencies in seconds where the scenario is about latency."""

    metrics: dict[str, float]
    samples: Sequence[float] = ()


class WrongResult(AssertionError):
    """A contestant was fast and wrong: its figures mean nothing."""


class MissingPeer(RuntimeError):
    """A contestant cannot run here; the message names what to install."""


class Overdue(TimeoutError):
    """A measurement did not end: the contestant hangs or was given far too many jobs."""


@dataclass(frozen=True)
class Contestant:
    """Something to measure.

    `open` yields the measuring function: number of jobs → what was seen; it raises WrongResult when a result
    is not the expected one. `jobs` None: as many as fill the time.
    """

    name: str
    role: Role
    open: Callable[[], AbstractContextManager[Callable[[int], Observation]]]
    jobs: int | None = None
    most_jobs: int = 1_000_000
    limit_s: float = 120.0


@dataclass(frozen=True)
class Setting:
    """How a run is to be done: short or thorough, beside whom."""

    short: bool = False
    rounds: int = 7
    seconds: float = 1.0
    workers: int = 2
    peers: tuple[Peer, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """A row of the table: who competes, and what is asked of the subject.

    `needs_quiet`: its figures mean something only on a machine with nothing else to do; it waits for that.
    """

    name: str
    title: str
    contestants: Callable[[Setting], list[Contestant]]
    targets: tuple[Target, ...]
    most_rounds: int = 99
    needs_quiet: bool = False


@dataclass
class Calm:
    """How much longer a scenario is willing to wait for a quiet machine."""

    left_s: float

    def wait(self) -> float:
        """Waits; the share of all cores that others still use."""
        begin = time.monotonic()
        share = machine.wait_quiet(self.left_s)
        self.left_s = max(self.left_s - (time.monotonic() - begin), 0.0)
        return share


@dataclass
class _Record:
    contestant: Contestant
    jobs: int = 0
    metrics: dict[str, list[float]] = field(default_factory=dict)
    samples: list[float] = field(default_factory=list)

    def add(self, seen: Observation) -> None:
        for name, value in seen.metrics.items():
            self.metrics.setdefault(name, []).append(value)
        self.samples.extend(seen.samples)

    def entry(self) -> Entry:
        return Entry(self.contestant.name, self.contestant.role, self.metrics, thin(self.samples), self.jobs)


def run(scenario: Scenario, setting: Setting, progress: Callable[[str], None] = lambda _: None) -> Outcome:
    """Measures every contestant of a scenario in each round; one that fails is left out, with its reason."""
    records = [_Record(contestant) for contestant in scenario.contestants(setting)]
    skipped: dict[str, str] = {}
    calm = Calm(QUIET_LIMIT_S) if scenario.needs_quiet else None
    for round_ in range(min(setting.rounds, scenario.most_rounds)):
        for record in records if round_ % 2 == 0 else records[::-1]:
            name = record.contestant.name
            if name in skipped:
                continue
            progress(f"{scenario.name} · round {round_ + 1} · {name}")
            try:
                record.add(_measure_once(record, setting, calm))
            except Exception as error:
                skipped[name] = _reason(error)
    entries = [record.entry() for record in records if record.contestant.name not in skipped]
    checks = [judge(target, entries, skipped) for target in scenario.targets]
    return Outcome(scenario.name, scenario.title, entries, checks, skipped)


def rolling(submit: Callable[[Any], Any], read: Callable[[Any], Any], items: Sequence[Any], window: int) -> list[Any]:
    """One submit per item, every result read in order, at most `window` unread: the same for everyone."""
    block = max(window // 2, 1)  # one block is read while the next is under way: no bookkeeping per job
    results: list[Any] = []
    unread: list[Any] = []
    for begin in range(0, len(items), block):
        fresh = [submit(item) for item in items[begin : begin + block]]
        results += [read(handle) for handle in unread]
        unread = fresh
    return results + [read(handle) for handle in unread]


def verify(found: Sequence[object], expected: Sequence[object]) -> None:
    """Raises WrongResult with the first difference."""
    if list(found) == list(expected):
        return
    if len(found) != len(expected):
        raise WrongResult(f"{len(found)} results for {len(expected)} jobs")
    place = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    raise WrongResult(f"job {place}: got {found[place]!r}, expected {expected[place]!r}")


def _measure_once(record: _Record, setting: Setting, calm: Calm | None) -> Observation:
    contestant = record.contestant
    with deadline(contestant.limit_s, contestant.name), contestant.open() as measure:
        if contestant.jobs is not None:
            record.jobs = contestant.jobs
        elif record.jobs == 0:
            record.jobs = _jobs_that_fill(measure, setting.seconds, contestant.most_jobs)
        else:
            measure(max(record.jobs // 10, 1))  # warm-up
        gc.collect()
        others = {} if calm is None else {"others_share": calm.wait()}
        seen = measure(record.jobs)
    return Observation({**seen.metrics, **others}, seen.samples)


def _jobs_that_fill(measure: Callable[[int], Observation], seconds: float, most: int) -> int:
    """How many jobs take about `seconds`; finding out is the warm-up of the first round."""
    jobs = min(16, most)
    measure(jobs)  # the first jobs pay for lazy starts and say nothing about the rate
    while True:
        begin = time.perf_counter()
        measure(jobs)
        took = time.perf_counter() - begin
        if took >= seconds / 8 or jobs >= most:
            return max(1, min(most, int(jobs * seconds / max(took, 1e-9))))
        jobs = min(most, jobs * 4)


@contextmanager
def deadline(limit_s: float, name: str) -> Iterator[None]:
    """Raises Overdue in the main thread when the block takes longer than `limit_s`."""

    def overdue(_signal: int, _frame: object) -> None:
        raise Overdue(f"{name} did not finish within {limit_s:.0f} s; it hangs or the machine is busy: run it alone")

    before = signal.signal(signal.SIGALRM, overdue)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _reason(error: Exception) -> str:
    text = str(error).strip() or repr(error)
    return text if isinstance(error, MissingPeer) else f"{type(error).__name__}: {text}"
