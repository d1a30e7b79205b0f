"""When to follow the need: up at once, down with patience. Time is passed in.

    need above target ──▶ up at once
    need below target ──▶ down by e workers once the need has been lower for hold_s * max(1, LINGER / e²),
                          to one more than was needed; that one leaves after LINGER hold times;
                          never down while work arrives faster than it leaves, beyond chance
    a small step down that had to be taken back ──▶ both times double; after a quiet while they halve again

Why the last worker may stay so long: chance moves a need by one all the time, and an idle worker costs less
than a fork and a cold start every few minutes. The doubling is route-flap damping (RFC 2439) turned round:
the policy distrusts its own steps down. Large swings are no chance and are followed without it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

Mode = Literal["predictive", "reactive", "fixed"]
LINGER = 60.0  # in hold times
MOST_PATIENCE = 8
SMALL_STEP, SMALL_SHARE = 2, 0.2  # a step down of so many workers, or such a part of them, may be chance


@dataclass(frozen=True)
class Rules:
    """What the config says of a group."""

    min_workers: int
    max_workers: int
    hold_s: float = 30.0
    mode: Mode = "predictive"

    @property
    def linger_s(self) -> float:
        """How long a need of one worker less has to last."""
        return LINGER * self.hold_s


@dataclass(frozen=True)
class Needs:
    """Workers needed: by the forecast for when a worker ordered now is ready, and by what is here already.

    `arrivals`, `departures`: jobs of the last step.
    """

    predicted: int
    reactive: int
    arrivals: float = 0.0
    departures: float = 0.0

    @property
    def is_falling_behind(self) -> bool:
        """Does work arrive faster than it leaves, by more than the chance of Poisson counts?"""
        return self.arrivals - self.departures > math.sqrt(self.arrivals + self.departures)


@dataclass(frozen=True)
class Decision:
    """Workers to have, and why."""

    target: int
    reason: str


def horizon_steps(ready_s: float, margin_s: float, step_s: float) -> int:
    """Steps ahead to look: the time until a worker ordered now takes jobs, and a margin; at least one."""
    return max(1, math.ceil((ready_s + margin_s) / step_s - 1e-9))


class Policy:
    """The decisions of one group, step by step."""

    def __init__(self, rules: Rules, target: int | None = None) -> None:
        self.rules = rules
        self.target = rules.min_workers if target is None else target
        self.patience = 1
        self._needs: deque[tuple[float, int]] = deque()  # falling: the front is the greatest kept
        self._since_s: float | None = None
        self._small_down_s = -math.inf  # last small step down that was not taken back
        self._quiet_since_s = -math.inf

    def decide(self, now_s: float, needs: Needs) -> Decision:
        """Workers to have from `now_s` on. `now_s` never goes back."""
        rules = self.rules
        if self._since_s is None:
            self._since_s = now_s
        if rules.mode == "fixed":
            return self._move(now_s, rules.max_workers, 'mode = "fixed"')
        wish, source = needs.reactive, "the present load"
        if rules.mode == "predictive" and needs.predicted > wish:
            wish, source = needs.predicted, "the forecast"
        need = min(max(wish, rules.min_workers), rules.max_workers)
        self._remember(now_s, need)
        bound = ""
        if need != wish:
            bound = f", bounded by {'max_workers' if need < wish else 'min_workers'} = {need}"
        if need > self.target:
            self._regret(now_s)
            return self._move(now_s, need, f"{source} needs {wish}{bound}")
        if need == self.target:
            return self._move(now_s, need, f"{source} needs {wish}{bound}")
        return self._maybe_lower(now_s, need, needs)

    def raise_to(self, now_s: float, need: int, source: str) -> Decision:
        """Between two decisions: workers for a need that was put off, never fewer than there are to be."""
        if need <= self.target:
            return self._stay(f"{source} needs {need}")
        self._regret(now_s)
        return self._move(now_s, min(need, self.rules.max_workers), f"{source} needs {need} soon")

    def watch_anew(self) -> None:
        """Needs went by unseen: a lower one has to last from the next decision on."""
        self._since_s = None

    def _maybe_lower(self, now_s: float, need: int, needs: Needs) -> Decision:
        assert self._since_s is not None
        if now_s - self._since_s < self._hold_s:
            return self._stay(f"needs {need}, but not yet for {self._hold_s:g} s")
        if needs.is_falling_behind:
            return self._stay(f"needs {need}, but work arrives faster than it leaves")
        if self._greatest(now_s - self._hold_s) == 0:
            return self._lower(now_s, 0, f"no work for {self._hold_s:g} s")
        watched_s = now_s - self._since_s
        for target in range(max(need, 1), self.target):
            excess = self.target - target
            for spare, last_s in ((1, self._hold_s * max(1.0, LINGER / excess**2)), (0, self._linger_s)):
                if last_s <= watched_s and self._greatest(now_s - last_s) <= target - spare:
                    return self._lower(now_s, target, f"needed {target - spare} at most for {last_s:g} s")
        return self._stay(f"needs {need}, but one worker less has to last {self._linger_s:g} s, more not so long")

    @property
    def _hold_s(self) -> float:
        return self.rules.hold_s * self.patience

    @property
    def _linger_s(self) -> float:
        return self.rules.linger_s * self.patience

    def _stay(self, reason: str) -> Decision:
        return Decision(self.target, f"{self.target}: {reason}")

    def _lower(self, now_s: float, target: int, reason: str) -> Decision:
        if self.target - target <= max(SMALL_STEP, SMALL_SHARE * self.target):
            self._small_down_s = now_s
        return self._move(now_s, target, reason)

    def _move(self, now_s: float, target: int, reason: str) -> Decision:
        if self.patience > 1 and now_s - self._quiet_since_s >= self._linger_s:
            self.patience //= 2
            self._quiet_since_s = now_s
        before, self.target = self.target, target
        change = f"{target}" if target == before else f"{before} → {target}"
        return Decision(target, f"{change}: {reason}")

    def _regret(self, now_s: float) -> None:
        if now_s - self._small_down_s <= self._linger_s:
            self.patience = min(2 * self.patience, MOST_PATIENCE)
            self._quiet_since_s = now_s
            self._small_down_s = -math.inf

    def _remember(self, now_s: float, need: int) -> None:
        needs = self._needs
        while needs and needs[-1][1] <= need:
            needs.pop()
        needs.append((now_s, need))
        while now_s - needs[0][0] > self._linger_s:
            needs.popleft()

    def _greatest(self, since_s: float) -> int:
        return next(need for at_s, need in self._needs if at_s >= since_s)
