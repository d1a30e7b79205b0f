"""One group, step by step: counts in, worker target out. Forecast, staffing and policy put together.

    Observed ──▶ forecast ──▶ predicted need ─┐
             ──▶ present rate, backlog ──▶ reactive need ─┴──▶ policy ──▶ Plan

The planner process feeds it from shared memory, the backtest from a file: both run this very code. Only the process
puts steps off (`rest.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from shmq.planner.forecast import Forecaster
from shmq.planner.policy import Decision, Needs, Policy, Rules, horizon_steps
from shmq.planner.staffing import Goal, Load, arrival_cv2, most_arrivals, rate_error, workers_needed

LEVEL_STEPS = 5.0  # time constant of the present rate
CHANCE = 2.0  # standard deviations of Poisson arrivals that are no surprise
MOST_STEPS = 15  # looked ahead for orders that take long to fork
ERROR_STEPS = 200.0  # and of the measured error of taking it for the future
LONGER = 2.0  # times the known service time: then the jobs that run are of another kind
NOBODY = 0.5  # arrivals at the upper end of the band: fewer mean none, or no group would ever come to rest


@dataclass(frozen=True)
class Observed:
    """What was counted in the step that ends at `now_s`, and what is there now.

    `service_s`, `service_cv2`: of the jobs done lately; 0 while none is known. `ready_s`: from order to
    first claim of a worker; `pace_s`: so much later each further one of the same order. `workers`: live ones;
    None: as many as were ordered. `stalled_s`: for so long jobs have run and none has ended.
    """

    now_s: float
    arrivals: float
    departures: float = 0.0
    waiting: int = 0
    running: int = 0
    service_s: float = 0.0
    service_cv2: float = 1.0
    ready_s: float = 0.5
    pace_s: float = 0.0
    workers: int | None = None
    stalled_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """The decision and the numbers behind it; mean, low, high: the arrivals forecast that decided.

    `soon`: workers to have from `soon_s` after this plan on, unless the next one comes first; 0: as now.
    """

    target: int
    reason: str
    predicted: int
    reactive: int
    horizon_steps: int
    rate_per_s: float
    mean: float
    low: float
    high: float
    soon: int = 0
    soon_s: float = 0.0


@dataclass(frozen=True)
class Ahead:
    """Workers that the forecast needs now and after `soon_s`; the step (1: the next) and the band that decided.

    `expected`: arrivals of the next step.
    """

    now: int
    soon: int
    soon_s: float
    step: int
    band: tuple[float, float, float]
    expected: float


class PresentRate:
    """Arrivals per step as they are now, and how far off it is to take them for those of the next steps.

    A running mean, kept within the last two counts: a jump seen twice counts in full, a single spike hardly.
    """

    def __init__(self) -> None:
        self.value = 0.0
        self.variance = 0.0  # of the next count around `value`, beyond that of Poisson arrivals
        self._mean = 0.0
        self._last = 0.0
        self._seen = 0

    def observe(self, count: float) -> None:
        """Take the count of one step."""
        self._seen += 1
        if self._seen > 1:
            excess = (count - self.value) ** 2 - self.value
            self.variance += max(1 / ERROR_STEPS, 1 / self._seen) * (excess - self.variance)
        self._mean += max(1 / LEVEL_STEPS, 1 / self._seen) * (count - self._mean)
        last = self._last if self._seen > 1 else count
        self.value = min(max(self._mean, min(count, last)), max(count, last))
        self._last = count

    @property
    def error(self) -> float:
        """Relative standard deviation of the rate ahead, seen from the present one."""
        return max(self.variance, 0.0) ** 0.5 / self.value if self.value > 0 else 0.0


class GroupPlanner:
    """State of one group; `step` once per `step_s`."""

    def __init__(
        self,
        step_s: float,
        goal: Goal,
        rules: Rules,
        *,
        concurrency: int = 1,
        margin_s: float | None = None,
        notice_s: float = 0.0,
        forecaster: Forecaster | None = None,
    ) -> None:
        self.step_s = step_s
        self.goal = goal
        self.concurrency = concurrency
        self.margin_s = step_s if margin_s is None else margin_s  # the next decision is a step away
        self.notice_s = notice_s  # from a plan to the orders that follow from it
        self.forecaster = forecaster or Forecaster(step_s)
        self.policy = Policy(rules)
        self.present = PresentRate()

    def step(self, seen: Observed) -> Plan:
        """Take one step's counts and decide. `now_s` of successive calls never falls."""
        self.forecaster.update(seen.arrivals)
        self.present.observe(seen.arrivals)
        ahead = self._ahead(seen)
        reactive = self._reactive(seen, ahead.expected)
        predicted = max(ahead.now, min(ahead.soon, self.policy.target))  # who is needed soon does not leave before
        needs = Needs(predicted, reactive, seen.arrivals, seen.departures)
        decision = self.policy.decide(seen.now_s, needs)
        soon = min(ahead.soon, self.policy.rules.max_workers)
        is_more = self.policy.rules.mode == "predictive" and soon > decision.target
        return Plan(
            decision.target, decision.reason, max(predicted, ahead.soon), reactive, ahead.step,
            self.present.value / self.step_s, *ahead.band,
            soon=soon if is_more else 0, soon_s=ahead.soon_s,
        )  # fmt: skip

    def may_rest(self, seen: Observed, plan: Plan, steps: int) -> bool:
        """Would each of the next `steps` decide as this one, if no work came? As far as the last of them looks."""
        rules = self.policy.rules
        if rules.mode == "fixed":
            return True
        if max(plan.target, plan.soon) > rules.min_workers:
            return False
        bands = zip(*(ends.tolist() for ends in self.forecaster.forecast(steps + self._reach(seen))), strict=True)
        return all(self._predicted(seen, *band) <= rules.min_workers for band in bands)

    def order_soon(self, now_s: float, plan: Plan) -> Decision:
        """What a plan put off until `soon_s` after it: workers for the next step, just in time."""
        return self.policy.raise_to(now_s, plan.soon, "the forecast")

    def _ahead(self, seen: Observed) -> Ahead:
        """Workers to order for the forecast.

        Now: for the steps that begin before an order could be filled. Soon: for those that begin before an order of
        the next decision could, as late as there is time to fork all of them. Further ahead, only those are ordered
        now who could not be forked in time, one after the other, from the next decision on.
        """
        ready_s = seen.ready_s + self.notice_s
        at_once, horizon, steps = self._horizon(seen, 0.0), self._horizon(seen, self.margin_s), self._reach(seen)
        bands = list(zip(*(ends.tolist() for ends in self.forecaster.forecast(steps)), strict=True))
        worst = max(range(at_once), key=lambda h: bands[h][2])
        now, soon, soon_s = self._predicted(seen, *bands[worst]), 0, 0.0
        if at_once < horizon:
            next_ = max(range(at_once, horizon), key=lambda h: bands[h][2])
            soon = self._predicted(seen, *bands[next_])
            soon_s = at_once * self.step_s - ready_s - seen.pace_s * max(soon - max(now, self.policy.target), 0)
            if soon > now:
                worst = next_
            if soon_s <= 0:
                now = max(now, soon)
        greatest = bands[worst][2]
        for h in range(horizon, steps):
            later = int((h * self.step_s - self.margin_s - ready_s) / seen.pace_s)
            if later >= self.policy.rules.max_workers - now:
                break
            if bands[h][2] > greatest:
                greatest = bands[h][2]
                need = self._predicted(seen, *bands[h]) - later
                worst, now = (h, need) if need > now else (worst, now)
        return Ahead(now, soon, soon_s, worst + 1, bands[worst], bands[0][0])

    def _reach(self, seen: Observed) -> int:
        """Steps ahead that a decision looks at."""
        return max(self._horizon(seen, self.margin_s), MOST_STEPS if seen.pace_s > 0 else 0)

    def _horizon(self, seen: Observed, margin_s: float) -> int:
        """Steps that begin before an order could be filled that is given `margin_s` from now."""
        return horizon_steps(seen.ready_s + self.notice_s, margin_s, self.step_s)

    def _predicted(self, seen: Observed, mean: float, low: float, high: float) -> int:
        if high < NOBODY:
            return 0
        load = Load(
            mean / self.step_s, seen.service_s, seen.service_cv2,
            arrival_cv2(mean, low, high, seen.service_s / self.step_s), rate_error(mean, low, high),
        )  # fmt: skip
        # no more than the jobs that can be there at once: those that come, and those that run on from before
        come = max(math.floor(most_arrivals(mean, high, self.goal.miss_ratio)), 1)
        run_on = max(seen.running, round(load.rate_per_s * load.service_s))
        return min(self._workers(load), math.ceil((come + run_on) / self.concurrency))

    def _reactive(self, seen: Observed, expected: float) -> int:
        """For the load that is here: in mode "reactive" with a margin, else for surprises.

        Where anything came, waits or runs, somebody is needed: rare jobs keep their worker for the hold time, and are
        not forked one each.
        """
        someone = int(seen.arrivals + seen.waiting + seen.running > 0)
        return max(self._for_present_load(seen, expected), self._for_longer_jobs(seen), someone)

    def _for_longer_jobs(self, seen: Observed) -> int:
        """While others wait, the jobs that run take longer than any that is known: step by step twice as many at once.

        Of jobs that have not ended nothing else is known: the mean is that of those before them.
        """
        if not seen.waiting or seen.stalled_s <= max(LONGER * seen.service_s, self.step_s):
            return 0
        return math.ceil(min(2 * seen.running, seen.running + seen.waiting) / self.concurrency)

    def _for_present_load(self, seen: Observed, expected: float) -> int:
        """Beside a forecast the present rate counts as far as chance does not explain it (two standard deviations of
        Poisson arrivals less), or the noise of single steps would fork workers. Jobs that wait come on top of whatever
        is expected: that it was chance does not help them.
        """
        rate, error = self.present.value, 0.0
        if self.policy.rules.mode == "reactive":
            error = self.present.error
        elif seen.waiting:
            rate = max(rate, expected)
        else:
            rate = max(rate - CHANCE * rate**0.5, 0.0)
        load = Load(rate / self.step_s, seen.service_s, seen.service_cv2, error=error)
        return self._workers(self._with_backlog(load, seen))

    def _with_backlog(self, load: Load, seen: Observed) -> Load:
        """The backlog that the present workers will not have worked off by the time a new one is ready."""
        if seen.waiting <= 0:
            return load
        if seen.service_s <= 0:
            return replace(load, waiting=seen.waiting, running=seen.running)
        servers = (self.policy.target if seen.workers is None else seen.workers) * self.concurrency
        idle = max(servers - seen.running, 0)
        spare_per_s = max(servers / seen.service_s - load.rate_per_s, 0.0)
        left = max(seen.waiting - idle - spare_per_s * seen.ready_s, 0.0)
        started = min(seen.waiting, idle)
        return replace(load, waiting=round(left), running=seen.running + started)

    def _workers(self, load: Load) -> int:
        most = max(self.policy.rules.max_workers, 1)
        if load.service_s <= 0:  # nothing known of the jobs yet: one worker finds out
            return min(1, most) if load.rate_per_s > 0 or load.waiting > 0 else 0
        return workers_needed(load, self.goal, concurrency=self.concurrency, most=most)
