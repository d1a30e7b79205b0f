"""Where every byte of the segment is, and who may write it.

A `Shape` (counts and sizes) gives a `Layout` (offset of each field); nothing else decides
offsets. `FIELDS` is the ownership table of `README.md`; a test compares the two.
This module knows no mmap and no numpy: the supervisor uses it too.

    header | groups | producers | workers | lanes | jobs | payload | blocks
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields
from typing import Final

MAGIC = 0x71_6D_68_73_31_30_30_32  # changes with the byte order, so a foreign file never matches
LAYOUT_VERSION = 5
LINE = 64  # bytes; hot words of different writers never share one
PAGE = 4096
PRIORITIES = 5
WORD: Final = "L"  # of memoryview: native u64; Python stores most values by "Q" at half the speed
LANE_WORDS = 8  # one cache line of heads or tails per producer; priorities 1..5 use the first five
HISTOGRAM_BUCKETS = 160
NAME_BYTES = 72
BELL_BYTES = 128  # a semaphore's name: uid, namespace, 128 random bits
PATH_BYTES = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """The counts a segment is built for. Two segments of one shape have one layout."""

    groups: int
    producers: int
    slots_per_producer: int
    slot_bytes: int
    workers: int
    units: int
    unit_bytes: int
    arenas: int

    @property
    def slots(self) -> int:
        """Rows of the job table."""
        return self.producers * self.slots_per_producer

    @property
    def recovery_row(self) -> int:
        """Index of the extra lane set, behind those of the producers."""
        return self.producers


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `code` is a memoryview format, `dims` its extent, `writer` its one writer."""

    name: str
    code: str
    dims: tuple[str | int, ...]
    writer: str
    what: str


GROUP_CONTROL_WORDS, GROUP_CLAIM_WORDS, GROUP_PLAN_WORDS = 32, 8, 16
PRODUCER_WORDS, WORKER_WORDS = 8, 32
"""Words per row of the fields below; each row fills whole cache lines."""

# Words of the header, each one u64.
HEADER_WORDS = (
    "magic", "version", "total_bytes", "boot", "pid_namespace", "epoch", "supervisor_pid",
    "supervisor_ticks", "registry", "created_ns", "detached", "max_attempts", "recovery_pid",
    "planner_pid", "time_namespace", "draining",
    "groups", "producers", "slots_per_producer", "slot_bytes", "workers", "units", "unit_bytes", "arenas",
)  # fmt: skip
HEADER = {name: i for i, name in enumerate(HEADER_WORDS)}

# Words of a group's rows. Three writers, three rows, so that no cache line has two.
GROUP_CONTROL = {
    name: i
    for i, name in enumerate((
        "paused", "min_workers", "max_workers", "workers", "rate_per_s_milli", "burst",
        "breaker_share_milli", "breaker_window", "breaker_open_ns", "breaker_fail_fast",
        "concurrency", "past_done", "past_failed", "past_retried", "past_busy_ns", "past_crashed",
        "spawned", "recycled", "scaled_to", "rescues",
    ))
}  # fmt: skip
GROUP_CLAIM = {name: i for i, name in enumerate((
    "rate_ns", "claimed", "breaker", "breaker_until_ns", "breaker_calls", "breaker_failures", "attended_until_ns",
))}  # fmt: skip
GROUP_PLAN = {name: i for i, name in enumerate((
    "target", "step", "arrivals_milli", "mean_milli", "lo_milli", "hi_milli", "service_ns", "need",
    "updated_ns", "reactive_need", "accuracy_milli", "batch", "concurrency", "came_milli", "expected_milli",
))}  # fmt: skip
AUTO_FIRST, AUTO_MOST = 8, 256
"""Jobs at once in a worker with `concurrency = "auto"` (in GROUP_CONTROL 0): until GROUP_PLAN tells, and at most."""

# Words of one `[limits."pattern"]`: configuration and state, the latter under the limit's lock byte.
MOST_TASK_LIMITS, LIMIT_WORDS = 64, 8
TASK_LIMIT = {name: i for i, name in enumerate((
    "rate_per_s_milli", "burst", "breaker_share_milli", "breaker_window", "breaker_open_ns", "breaker_fail_fast",
))}  # fmt: skip
TASK_LIMIT_STATE = {name: i for i, name in enumerate((
    "rate_ns", "breaker", "breaker_until_ns", "breaker_calls", "breaker_failures",
))}  # fmt: skip

# Words of one task with `group = "auto"`: what the planner knows of it, and what one worker has measured (sums).
MOST_ROUTED_TASKS = 32  # further ones stay in the default group
TASK_ROUTE = {name: i for i, name in enumerate((
    "key", "group", "class", "jobs", "wall_ns", "cpu_ns", "growth_bytes", "payload_bytes", "storage_bytes",
))}  # fmt: skip
TASK_TRAITS = {name: i for i, name in enumerate((
    "key", "jobs", "wall_ns", "cpu_ns", "growth_bytes", "payload_bytes", "storage_bytes",
))}  # fmt: skip
TASK_TRAITS_WORDS = 8

# Words of a producer row and of a worker row.
PRODUCER = {name: i for i, name in enumerate((
    "pid", "ticks", "waiting", "polling", "scheduled", "bell_serial", "core", "waits",
))}  # fmt: skip
WORKER = {
    name: i
    for i, name in enumerate((
        "pid", "ticks", "group", "state", "deadline_ns", "heartbeat_ns", "scheduled", "bell_serial", "naps",
        "job", "wants_bytes", "done", "failed", "busy_ns", "blocked", "exit_status", "culprit", "rescues",
        "started_ns", "retried", "fork_ns", "peak_bytes",
        "wait_sum_ns", "reason",
    ))
}  # fmt: skip

AT_ONCE_NS = 1
"""A `deadline_ns` whose grace is over as well: the worker wants to be killed for that job."""
WORKER_FREE, WORKER_STARTING, WORKER_LIVE, WORKER_DEAD = range(4)

_PRODUCER_BYTE = "holder of the producer byte"
_GROUP_BYTE = "holder of the group byte"
_LIMIT_BYTE = "holder of the limit byte; while no worker lives: supervisor"
_WORKER = "by state: starting, dead: supervisor; live: the worker; dead to free: recovery"

FIELDS: tuple[Field, ...] = (
    Field("header", WORD, (64,), "supervisor", "magic, version, boot, epoch, shape, registry version"),
    Field("state_dir", "B", (PATH_BYTES,), "supervisor", "path of the state directory, UTF-8"),
    Field("group_names", "B", ("groups", NAME_BYTES), "supervisor", "name of each group"),
    Field("group_control", WORD, ("groups", GROUP_CONTROL_WORDS), "supervisor", "paused, bounds, limits"),
    Field(
        "group_claim",
        WORD,
        ("groups", GROUP_CLAIM_WORDS),
        _GROUP_BYTE,
        "rate word, breaker, counters, until when attended",
    ),
    Field("group_plan", WORD, ("groups", GROUP_PLAN_WORDS), "planner", "target_workers and the numbers behind it"),
    Field("group_reason", "B", ("groups", 256), "planner", "the target's reason, in words"),
    Field("route_version", WORD, (8,), "planner", "[0] counts changes of the groups in `task_routes`"),
    Field("task_routes", WORD, (MOST_ROUTED_TASKS, 16), "planner", 'tasks with group = "auto": group, mean traits'),
    Field("task_traits", WORD, ("workers", MOST_ROUTED_TASKS, 8), "the worker", "sums of what its jobs took, by task"),
    Field("task_limits", WORD, (MOST_TASK_LIMITS, LIMIT_WORDS), "supervisor", "limits of tasks: rate, burst, breaker"),
    Field("task_limit_states", WORD, (MOST_TASK_LIMITS, LIMIT_WORDS), _LIMIT_BYTE, "rate word, breaker"),
    Field("sleeping", "B", ("groups", "sleepers"), "its worker; entry 0: supervisor", "1 = asleep, ring me"),
    Field(
        "producer_rows",
        WORD,
        ("producers", PRODUCER_WORDS),
        _PRODUCER_BYTE,
        "pid, ticks, wait, last wait, core; scheduled",
    ),
    Field("producer_bells", "B", ("producers", BELL_BYTES), _PRODUCER_BYTE, "doorbell name"),
    Field("worker_rows", WORD, ("workers", WORKER_WORDS), _WORKER, "pid, group, state, deadline, counters"),
    Field("worker_bells", "B", ("workers", BELL_BYTES), "supervisor (starting)", "doorbell name"),
    Field("service_times", WORD, ("workers", HISTOGRAM_BUCKETS), "the worker", "histogram of run times"),
    Field("wait_times", WORD, ("workers", HISTOGRAM_BUCKETS), "the worker", "histogram of queue waits"),
    Field("heads", WORD, ("groups", "lane_rows", LANE_WORDS), _GROUP_BYTE, "next entry to claim"),
    Field("tails", WORD, ("groups", "lane_rows", LANE_WORDS), "holder of the row", "next entry to write"),
    Field("rings", "I", ("groups", "lane_rows", PRIORITIES, "slots_per_producer"), "holder of the row", "slots"),
    Field("words", WORD, ("slots",), "by its state, see transport/README.md", "job word"),
    Field("cancels", "I", ("slots",), _PRODUCER_BYTE, "generation asked to cancel"),
    Field("kills", "I", ("slots",), _PRODUCER_BYTE, "generation asked to kill"),
    Field("asks", "I", ("slots",), _PRODUCER_BYTE, "generation whose parts are read as a stream"),
    Field("reads", "I", ("slots",), _PRODUCER_BYTE, "generation of which a part was read"),
    Field("dues", WORD, ("slots",), "whoever may write the word", "SCHEDULED: due time, monotonic ns"),
    Field("results", WORD, ("slots",), "whoever may write the word", "length, kind and place of the result"),
    Field("streams", WORD, ("slots",), "whoever may write the word", "generation, first unit + 1 of the ring of parts"),
    Field("tags", WORD, ("units",), "holder of the arena byte", "job (slot, generation) that uses the unit"),
    Field("pins", "I", ("units", 2), "the process that reads the block", "row + 1; [0] producers [1] workers"),
    Field("payload", "B", ("slots", "slot_bytes"), "whoever may write the word", "header, arguments, result"),
    Field("blocks", "B", ("units", "unit_bytes"), "owner of the tag, before publishing", "large values"),
)

_ITEM_BYTES = {WORD: 8, "I": 4, "B": 1}


class Layout:
    """Offsets of every field for one shape. Immutable; cheap to build."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.sleepers = -(-(1 + shape.workers) // LINE) * LINE
        self.offsets: dict[str, int] = {}
        at = 0
        for field in FIELDS:
            align = PAGE if field.name in {"payload", "blocks"} else LINE
            at = -(-at // align) * align
            self.offsets[field.name] = at
            at += self.bytes_of(field.name)
        self.total_bytes = -(-at // PAGE) * PAGE

    def extent(self, name: str) -> tuple[int, ...]:
        """The field's dimensions, as numbers."""
        known = {
            "sleepers": self.sleepers, "lane_rows": self.shape.producers + 1, "slots": self.shape.slots,
            "groups": self.shape.groups, "producers": self.shape.producers, "workers": self.shape.workers,
            "slots_per_producer": self.shape.slots_per_producer, "slot_bytes": self.shape.slot_bytes,
            "units": self.shape.units, "unit_bytes": self.shape.unit_bytes,
        }  # fmt: skip
        return tuple(known[d] if isinstance(d, str) else d for d in FIELD[name].dims)

    def bytes_of(self, name: str) -> int:
        """Size of the field in bytes."""
        return math.prod(self.extent(name)) * _ITEM_BYTES[FIELD[name].code]


FIELD = {field.name: field for field in FIELDS}


def shape_words(shape: Shape) -> tuple[tuple[str, int], ...]:
    """The shape as (header word, value) pairs."""
    return tuple(zip((f.name for f in fields(shape)), astuple(shape), strict=True))
