"""When to follow the need: up at once, down with patience. Time is passed in.

    need above target ──▶ up at once
    need below target ──▶ stay for hold_s; a need of just one less must last linger_s; never down while work arrives faster than it leaves
    a step down that had to be taken back ──▶ the hold doubles (patience); after a quiet linger_s it halves again

Why one worker less counts for so little: chance moves a need by one all the time, and an idle worker costs less than a fork and a
cold start every few minutes. Patience is route-flap damping (RFC 2439) turned round: the policy distrusts its own steps down.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

Mode = Literal["predictive", "reactive", "fixed"]
LINGER = 60.0  # in hold times
REGRET = 10.0  # in hold times: an up within so long after a down takes it back
MOST_PATIENCE = 64


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
    """Workers needed now: by the forecast for the time when a worker ordered now is ready, and by what is here already."""

    predicted: int
    reactive: int
    arrivals_per_s: float = 0.0
    departures_per_s: float = 0.0


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
        self._needs: deque[tuple[float, int]] = deque()  # falling needs: the front is the greatest within linger_s
        self._since_s: float | None = None
        self._lowered_s = -math.inf
        self._troubled_s = -math.inf  # last time that patience changed

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

    def _maybe_lower(self, now_s: float, need: int, needs: Needs) -> Decision:
        hold_s = self.rules.hold_s * self.patience
        assert self._since_s is not None
        watched_s = now_s - self._since_s
        greatest = self._greatest(now_s - hold_s)
        if watched_s < hold_s or greatest >= self.target:
            return self._stay(f"needs {need}, but not yet for {hold_s:g} s")
        if needs.arrivals_per_s > needs.departures_per_s:
            return self._stay(f"needs {need}, but work arrives faster than it leaves")
        linger_s = max(self.rules.linger_s, hold_s)
        if greatest == self.target - 1 > 0 and (
            watched_s < linger_s or self._greatest(now_s - linger_s) >= self.target
        ):
            return self._stay(f"needs {need}; one worker less has to last {linger_s:g} s")
        self._lowered_s = now_s
        return self._move(now_s, greatest, f"needed {greatest} at most for {hold_s:g} s")

    def _stay(self, reason: str) -> Decision:
        return Decision(self.target, f"{self.target}: {reason}")

    def _move(self, now_s: float, target: int, reason: str) -> Decision:
        if self.patience > 1 and now_s - self._troubled_s >= self.rules.linger_s:
            self.patience //= 2
            self._troubled_s = now_s
        before, self.target = self.target, target
        return Decision(target, f"{target}: {reason}" if target == before else f"{before} → {target}: {reason}")

    def _regret(self, now_s: float) -> None:
        if now_s - self._lowered_s <= REGRET * self.rules.hold_s * self.patience:
            self.patience = min(2 * self.patience, MOST_PATIENCE)
            self._troubled_s = now_s
            self._lowered_s = -math.inf

    def _remember(self, now_s: float, need: int) -> None:
        needs = self._needs
        while needs and needs[-1][1] <= need:
            needs.pop()
        needs.append((now_s, need))
        kept_s = max(self.rules.linger_s, self.rules.hold_s * self.patience)
        while now_s - needs[0][0] > kept_s:
            needs.popleft()

    def _greatest(self, since_s: float) -> int:
        return next(need for at_s, need in self._needs if at_s >= since_s)
