"""What a snapshot says, as frozen structs: the shape of `shmq status --json`.

Seconds are floats `_s`, sizes `_bytes`; None means "not known" or "nothing counted yet". Rates need two
snapshots: they are None in the first.
"""

from __future__ import annotations

from msgspec import Struct


class Distribution(Struct, frozen=True, kw_only=True):
    """Durations of the jobs that the present workers ran."""

    count: int
    mean_s: float | None = None
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None


class Workers(Struct, frozen=True, kw_only=True):
    """Workers of one group by what they do."""

    starting: int = 0
    idle: int = 0
    busy: int = 0
    blocked: int = 0
    """Inside a job, waiting for another job of the same group."""
    waiting: int = 0
    """Done with a job, waiting for a free block for its result."""
    dead: int = 0
    """Ended, their jobs not redelivered yet."""

    @property
    def live(self) -> int:
        """Workers that take or run jobs."""
        return self.idle + self.busy + self.blocked + self.waiting


class Limits(Struct, frozen=True, kw_only=True):
    """Rate limit and circuit breaker of one group or `[limits."pattern"]`, named as in the configuration."""

    rate_per_s: float | None
    burst: int | None
    held_s: float
    """Seconds until the rate limit lets the next job start; 0 when it holds nothing back."""
    breaker_failure_share: float | None
    breaker_window: int
    breaker_open_s: float
    breaker_mode: str
    circuit: str
    """closed, open or probing."""
    circuit_s: float
    """Seconds until an open circuit lets a probe through."""


class GroupState(Struct, frozen=True, kw_only=True):
    """One resource group."""

    name: str
    paused: bool
    workers: Workers
    min_workers: int
    max_workers: int
    scaled_to: int
    """Workers that the supervisor keeps: the target, or what `shmq scale` has fixed."""
    target_workers: int
    reason: str
    """Why the planner wants that many, in its words."""
    backlog: tuple[int, ...]
    """Entries in the lanes by priority 1 to 5; entries of jobs that ran or were cancelled included."""
    queued: int
    leased: int
    running: int
    scheduled: int
    unread: int
    """Ended, their result not read by the producer yet."""
    done: int
    failed: int
    retried: int
    """Attempts that failed and were repeated."""
    workers_started: int
    workers_crashed: int
    workers_recycled: int
    arrivals_per_s: float | None
    """What the planner measured."""
    done_per_s: float | None
    wait: Distribution
    service: Distribution
    limits: Limits


class WorkerState(Struct, frozen=True, kw_only=True):
    """One worker row that is not free."""

    row: int
    pid: int
    group: str
    state: str
    """starting, idle, busy, blocked, waiting or dead; see `Workers`."""
    running: int
    """Jobs that it runs at this moment: more than one only where `concurrency` is."""
    task: str
    """Name of the task it began last, while that job runs; else ""."""
    job: str
    """Id of that job."""
    wants_bytes: int
    """Bytes of blocks that results wait for; 0 unless waiting."""
    ended: int
    """Jobs that this worker has brought to an end, well or not."""
    age_s: float | None
    heartbeat_s: float | None
    """Seconds since the worker last showed life."""
    overdue_s: float
    """Seconds by which the running job is past its time limit; 0 when it is not."""
    is_stopped: bool
    """Stopped by a signal or a debugger."""
    busy_s: float
    """Time spent inside tasks."""
    busy_share: float | None
    """The same as a share of the time since the previous snapshot."""


class ProducerState(Struct, frozen=True, kw_only=True):
    """One producer row that is held or still has jobs."""

    row: int
    pid: int
    alive: bool
    free: int
    waiting: int
    """Slots of jobs that have not ended."""
    unread: int


class MemoryState(Struct, frozen=True, kw_only=True):
    """How full the segment is."""

    segment_bytes: int
    slots: int
    slots_used: int
    block_bytes: int
    block_used_bytes: int
    damaged_words: int
    """Job words that no version of shmq writes; 0 unless somebody scribbled over the segment."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """Everything at one moment. Figures of different rows are read microseconds apart."""

    taken_ns: int
    """Monotonic; compare with other snapshots of the same boot only."""
    epoch: int
    """How many supervisors this segment has had."""
    supervisor_pid: int
    supervisor_alive: bool
    recovery_pid: int
    recovery_alive: bool
    planner_pid: int
    planner_alive: bool
    age_s: float
    """How long this segment has existed."""
    detached: bool
    draining: bool
    state_dir: str
    groups: tuple[GroupState, ...]
    workers: tuple[WorkerState, ...]
    producers: tuple[ProducerState, ...]
    memory: MemoryState

    def group(self, name: str) -> GroupState:
        """The group of that name. Raises KeyError."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)


class Problem(Struct, frozen=True):
    """Why a group, or everything (`group` is None), cannot make progress."""

    kind: str
    group: str | None
    reason: str
    advice: str
