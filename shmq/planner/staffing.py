"""How many workers a group needs, and who gets them when the host is too small for all.

    arrivals, service time, spread, forecast error, backlog ──workers_needed()──▶ need of one group
    needs of all groups, cores, memory ──allocate()──▶ workers per group

Sources: A. K. Erlang 1917 (the delay formula, here by way of the loss formula's recursion, which is stable
for any size); A. O. Allen 1990 / J. M. Cunneen 1977 (waits grow with half the sum of the squared
coefficients of variation of gaps and service times); W. Whitt, "Staffing a call center with uncertain
arrival rate and absenteeism", POM 2006 (the load itself is uncertain); the first guess c = a + beta *
sqrt(a + (e a)^2) is the square-root rule with that second variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

# Seven-point Gauss-Hermite rule for a normal variable of mean 0, variance 1: (node, weight).
NORMAL = (
    (-3.750439717725742, 5.482688559722185e-4),
    (-2.366759410734541, 3.075712396758650e-2),
    (-1.154405394739968, 2.401231786050127e-1),
    (0.0, 4.571428571428573e-1),
    (1.154405394739968, 2.401231786050127e-1),
    (2.366759410734541, 3.075712396758650e-2),
    (3.750439717725742, 5.482688559722185e-4),
)
Z_90 = 1.6448536269514722  # half a central 90 % band in standard deviations
STEADY_POWER = 4  # only counts far steadier than chance are believed to stay so
MOST_SERVERS = 1 << 20  # nobody has more; bounds the search when no bound is given


@dataclass(frozen=True)
class Load:
    """What comes in and what one job takes.

    `service_cv2`, `arrival_cv2`: squared coefficient of variation (1: exponential). `error`: standard
    deviation of the forecast rate over the rate. `waiting`, `running`: jobs now.
    """

    rate_per_s: float
    service_s: float
    service_cv2: float = 1.0
    arrival_cv2: float = 1.0
    error: float = 0.0
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True)
class Goal:
    """At most the share `miss_ratio` of jobs may wait longer than `target_wait_s`."""

    target_wait_s: float
    miss_ratio: float


class Delay:
    """Erlang's delay formula for one load; the recursion is kept, because a search asks for many servers."""

    def __init__(self, load: float) -> None:
        self.load = load
        self._blocked = [1.0]  # Erlang B with 0, 1, 2 ... servers: every step stays within 0 and 1

    def probability(self, servers: int) -> float:
        """P(an arrival has to wait); 1 when the servers cannot keep up."""
        load, blocked = self.load, self._blocked
        if load <= 0:
            return 0.0
        if servers <= load:
            return 1.0
        last = blocked[-1]
        for c in range(len(blocked), servers + 1):
            last = load * last / (c + load * last)
            blocked.append(last)
        return blocked[servers] / (1 - load / servers * (1 - blocked[servers]))


class Misses:
    """P(wait > target) under one load, forecast error included.

    Exact for exponential times and a rate that is known. The rate is taken as normal around the forecast.
    """

    def __init__(self, load: Load, target_wait_s: float) -> None:
        error = load.error if load.error > 0 else 0.0
        nodes = NORMAL if error else ((0.0, 1.0),)
        erlangs = load.rate_per_s * load.service_s
        self._cases = [(Delay(max(erlangs * (1 + error * node), 0.0)), weight) for node, weight in nodes]
        # Waits last so much longer than Erlang's (Allen and Cunneen), and fall off so much more slowly.
        spread = max((load.service_cv2 + load.arrival_cv2) / 2, 1e-3)
        self._decay = target_wait_s / (load.service_s * spread) if load.service_s > 0 else math.inf

    def probability(self, servers: int) -> float:
        """The share of late jobs with so many servers."""
        return sum(weight * self._late(delay, servers) for delay, weight in self._cases)

    def _late(self, delay: Delay, servers: int) -> float:
        waits = delay.probability(servers)
        if waits in {0.0, 1.0}:
            return waits
        return waits * math.exp(-(servers - delay.load) * self._decay)


def miss_probability(servers: int, load: Load, target_wait_s: float) -> float:
    """P(wait > target) with so many servers."""
    return Misses(load, target_wait_s).probability(servers)


def servers_needed(load: Load, goal: Goal, most: int = MOST_SERVERS) -> int:
    """Fewest servers that meet the goal in the long run, 0 without load, `most` when none do."""
    erlangs = load.rate_per_s * load.service_s
    if erlangs <= 0:
        return 0
    if erlangs >= most:
        return most

    misses = Misses(load, goal.target_wait_s)

    def is_enough(servers: int) -> bool:
        return misses.probability(servers) <= goal.miss_ratio

    beta = NormalDist().inv_cdf(min(max(1 - goal.miss_ratio, 0.5), 1 - 1e-9))
    guess = math.ceil(erlangs + beta * math.sqrt(erlangs + (load.error * erlangs) ** 2))
    high = min(max(guess, 1), most)
    step = 1
    while not is_enough(high):
        if high >= most:
            return most
        high = min(high + step, most)
        step *= 2
    low = 0  # never enough: there is load
    step = 1
    while high - step > low and is_enough(high - step):
        high, step = high - step, step * 2
    low = max(low, high - step)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def servers_for_backlog(load: Load, target_wait_s: float) -> int:
    """Servers with which every job that waits now starts within the target.

    Of c servers, c - running are free at once and c * target / service end a job in time: together they
    must cover `waiting`.
    """
    if load.waiting <= 0:
        return 0
    if load.service_s <= 0:
        return 1
    return math.ceil((load.waiting + load.running) / (1 + target_wait_s / load.service_s) - 1e-9)


def workers_needed(load: Load, goal: Goal, *, concurrency: int = 1, most: int = MOST_SERVERS) -> int:
    """Workers of `concurrency` jobs each for the load to come and the backlog there is, `most` at most."""
    servers = max(servers_needed(load, goal, most * concurrency), servers_for_backlog(load, goal.target_wait_s))
    return min(math.ceil(servers / concurrency), most)


def rate_error(mean: float, low: float, high: float) -> float:
    """Relative standard deviation of the *rate*, from a 90 % band of counts.

    The chance of Poisson arrivals is taken off: Erlang's formula has it already.
    """
    return math.sqrt(max(_variance(mean, low, high) - mean, 0.0)) / mean if mean > 0 else 0.0


def arrival_cv2(mean: float, low: float, high: float, share: float) -> float:
    """Variation of arrivals, from the same band: below 1 where counts vary less than those of Poisson arrivals.

    The index of dispersion for counts stands for the squared coefficient of variation of the gaps (Whitt 1982).
    Within a step of a known count arrivals are as random as ever, so it counts for the `share` of a step that a job
    takes. Only counts that are far steadier than chance change much: the band is an estimate.
    """
    if mean <= 0:
        return 1.0
    steadiness = max(1.0 - _variance(mean, low, high) / mean, 0.0)
    return 1.0 - min(share, 1.0) * steadiness**STEADY_POWER


def most_arrivals(mean: float, high: float, miss_ratio: float) -> float:
    """The count that is passed with a chance of `miss_ratio`; `high` is passed with one of 0.05."""
    z = NormalDist().inv_cdf(min(max(1 - miss_ratio, 0.5), 1 - 1e-9))
    return mean + max(high - mean, 0.0) * z / Z_90


def _variance(mean: float, low: float, high: float) -> float:
    """Of the count, from a 90 % band; a skewed one: what may come on top counts."""
    return (max(high - mean, (high - low) / 2) / Z_90) ** 2


@dataclass(frozen=True)
class Need:
    """What one group asks for. `least` and `most`: its min_workers and max_workers; memory: of one worker."""

    group: str
    wanted: int
    least: int
    most: int
    kind: Literal["cpu", "io"] = "cpu"
    importance: int = 3
    worker_memory_bytes: int = 0


@dataclass(frozen=True)
class Host:
    """What there is for workers of all groups."""

    cores: int
    memory_bytes: int | None = None
    worker_rows: int | None = None


@dataclass(frozen=True)
class Grant:
    """Workers that a group gets, and why it got no more (empty: it got what it wanted)."""

    workers: int
    limit: str = ""


@dataclass
class _Room:
    cores: int
    memory_bytes: float
    rows: float

    def take(self, need: Need, workers: int) -> None:
        self.cores -= workers * (need.kind == "cpu")
        self.memory_bytes -= workers * need.worker_memory_bytes
        self.rows -= workers

    def lacks_for(self, need: Need) -> str:
        if need.kind == "cpu" and self.cores < 1:
            return "no core left"
        if need.worker_memory_bytes > max(self.memory_bytes, 0):
            left = max(self.memory_bytes, 0)
            return f"memory: a worker takes {need.worker_memory_bytes} bytes, {left:.0f} left"
        return "no worker row left" if self.rows < 1 else ""


def allocate(needs: Iterable[Need], host: Host) -> dict[str, Grant]:
    """Share the host out: to each group its `least` (the user's word), the rest by importance.

    Among groups of equal importance each further worker goes to the one that has the smallest part of what
    it wants, so that none starves and the order of the groups hardly matters.
    """
    asked = list(needs)
    given = {need.group: need.least for need in asked}
    room = _Room(
        cores=max(host.cores, 1),
        memory_bytes=math.inf if host.memory_bytes is None else host.memory_bytes,
        rows=math.inf if host.worker_rows is None else host.worker_rows,
    )
    for need in asked:
        room.take(need, need.least)
    limits = dict.fromkeys(given, "")
    for importance in sorted({need.importance for need in asked}, reverse=True):
        _share([need for need in asked if need.importance == importance], given, limits, room)
    return {need.group: Grant(given[need.group], limits[need.group]) for need in asked}


def _share(peers: Sequence[Need], given: dict[str, int], limits: dict[str, str], room: _Room) -> None:
    """Give one worker at a time until all peers have what they want or what there is."""
    for need in peers:
        if need.wanted > need.most:
            limits[need.group] = f"max_workers = {need.most}"
    goals = {need.group: min(need.wanted, need.most) for need in peers}
    hungry = [need for need in peers if given[need.group] < goals[need.group]]
    while hungry:
        need = min(hungry, key=lambda n: (given[n.group] / goals[n.group], n.group))
        limit = room.lacks_for(need)
        if limit:
            limits[need.group] = limit
            hungry.remove(need)
            continue
        room.take(need, 1)
        given[need.group] += 1
        if given[need.group] >= goals[need.group]:
            hungry.remove(need)
