"""Which group fits a task with `group = "auto"`: its class by what was measured of its jobs, and why.

A task keeps its class until the measurements leave it clearly (SLACK), so that jobs near a threshold do not
wander between groups.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from shmq.tasks.registry import default_group

MIB = 1 << 20
LEAST_JOBS = 20  # measured before a class is believed
MEMORY_JOBS = 100  # jobs that the running means remember
BUSY_SHARE = 0.5  # of its wall time on a core: computation
LARGE_BYTES = 64 * MIB  # memory growth or payload: memory
STORAGE_BYTES = 64 << 10  # read from and written to storage: filesystem
SLACK = 1.25  # a threshold must be passed by this factor before a known class changes
CLASSES = ("filesystem", "network", "computation", "memory")


@dataclass
class Traits:
    """Running means of what the jobs of one task did."""

    jobs: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_growth_bytes: float = 0.0
    payload_bytes: float = 0.0
    storage_bytes: float = 0.0
    group: str = ""  # class so far

    @property
    def cpu_share(self) -> float:
        """Part of the wall time spent on a core."""
        return self.cpu_s / self.wall_s if self.wall_s > 0 else 0.0

    def observe(
        self,
        wall_s: float,
        cpu_s: float,
        memory_growth_bytes: float = 0.0,
        payload_bytes: float = 0.0,
        storage_bytes: float = 0.0,
        jobs: int = 1,
    ) -> None:
        """Take the means of some jobs."""
        self.jobs += jobs
        rate = min(max(jobs / MEMORY_JOBS, jobs / self.jobs), 1.0)
        self.wall_s += rate * (wall_s - self.wall_s)
        self.cpu_s += rate * (cpu_s - self.cpu_s)
        self.memory_growth_bytes += rate * (max(memory_growth_bytes, 0.0) - self.memory_growth_bytes)
        self.payload_bytes += rate * (payload_bytes - self.payload_bytes)
        self.storage_bytes += rate * (storage_bytes - self.storage_bytes)


@dataclass(frozen=True)
class Choice:
    """A group and why."""

    group: str
    evidence: str


def choose(traits: Traits, groups: Collection[str]) -> Choice:
    """The group of a task with `group = "auto"`; `groups`: those there are."""
    if traits.jobs < LEAST_JOBS:
        return Choice(default_group(groups), f"{traits.jobs} of {LEAST_JOBS} jobs measured: the default")
    return _existing(classify(traits), groups)


def classify(traits: Traits) -> Choice:
    """Class of a task by its traits; remembers it there, so that the next call knows which way to lean."""
    was = traits.group
    growth, payload = traits.memory_growth_bytes, traits.payload_bytes
    if max(growth, payload) >= _threshold(LARGE_BYTES, inside=was == "memory", known=bool(was)):
        what = "memory growth" if growth >= payload else "payload"
        choice = Choice("memory", f"{what} of {max(growth, payload) / MIB:.0f} MiB per job")
    elif traits.cpu_share >= _threshold(BUSY_SHARE, inside=was == "computation", known=bool(was)):
        choice = Choice("computation", f"on a core for {traits.cpu_share:.0%} of {traits.wall_s:.3g} s")
    elif traits.storage_bytes >= _threshold(STORAGE_BYTES, inside=was == "filesystem", known=bool(was)):
        size = traits.storage_bytes / 1024
        choice = Choice("filesystem", f"waits {_waiting(traits)}, {size:.0f} KiB of storage per job")
    else:
        choice = Choice("network", f"waits {_waiting(traits)}, hardly any storage")
    traits.group = choice.group
    return Choice(choice.group, f"{choice.evidence} (mean of {traits.jobs} jobs)")


def _threshold(value: float, *, inside: bool, known: bool) -> float:
    """Harder to enter and harder to leave once a class is known."""
    if not known:
        return value
    return value / SLACK if inside else value * SLACK


def _waiting(traits: Traits) -> str:
    return f"{1 - min(traits.cpu_share, 1.0):.0%} of {traits.wall_s:.3g} s"


def _existing(choice: Choice, groups: Collection[str]) -> Choice:
    """The choice, or the nearest group that exists."""
    if choice.group in groups or not groups:
        return choice
    likes = ("network", "filesystem") if choice.group in {"network", "filesystem"} else ("computation", "memory")
    other = next((name for name in likes if name in groups), default_group(groups))
    return Choice(other, f"{choice.evidence}; no group {choice.group!r}, so {other!r}")
