"""What was learned of each group's load, kept in the state directory from one planner to the next.

Steps end at whole multiples of `step_s` of the wall clock. So the steps that passed between a save and a load
are known, and day and week go on in phase, whoever was away for how long.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

from shmq.planner.forecast import Forecaster

LONGEST_GAP_S = 366 * 86400.0  # more than that was no pause but a step of the clock
_log = logging.getLogger("shmq.planner")


def seconds_of_load(step_s: float, day_s: float = 86400.0) -> float:
    """What one step stands for in a load whose day takes `day_s`: the forecaster counts in days of 24 h."""
    return round(step_s * 86400.0 / day_s, 6)


def missed_steps(saved_at: float, now: float, step_s: float) -> int:
    """Whole steps between two times of the wall clock; 0 when the clock was set back or far ahead meanwhile."""
    if saved_at <= 0.0 or not 0.0 <= now - saved_at <= LONGEST_GAP_S:
        return 0
    return max(math.floor(now / step_s + 1e-6) - math.floor(saved_at / step_s + 1e-6), 0)


def next_boundary(now: float, step_s: float) -> float:
    """When the next step begins."""
    return (math.floor(now / step_s + 1e-6) + 1) * step_s


class Patterns:
    """The folder with one file per group."""

    def __init__(self, folder: Path, step_s: float, day_s: float) -> None:
        self._folder, self._step_s = folder, step_s
        self._unsaved: set[str] = set()  # groups whose last save failed
        self._load_step_s = seconds_of_load(step_s, day_s)

    def path(self, group: str) -> Path:
        """Where the group's pattern is."""
        return self._folder / f"{group}.npz"

    def load(self, group: str) -> Forecaster:
        """The group's forecaster as it was saved; a fresh one without a file. A damaged file is set aside."""
        return Forecaster.load(self.path(group), self._load_step_s)

    def resume(self, forecaster: Forecaster, boundary: float) -> None:
        """Make it ready for the step that begins at `boundary` (wall clock): what passed since it was saved."""
        forecaster.skip(missed_steps(forecaster.saved_at, boundary, self._step_s))

    def save(self, group: str, forecaster: Forecaster, saved_at: float | None = None) -> None:
        """Write what was learned up to now. A full disk or a lost folder costs the pattern, not the planner."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            forecaster.save(self.path(group), time.time() if saved_at is None else saved_at)
        except OSError as error:
            if group in self._unsaved:  # said already
                return
            self._unsaved.add(group)
            _log.warning(
                "group %s: the learned pattern was not saved: %s. Is there room, and is the folder yours? "
                "It is tried again every [planner] save_s.",
                group, error,
            )  # fmt: skip
        else:
            self._unsaved.discard(group)
