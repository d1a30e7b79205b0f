"""The configuration as frozen structs, one per TOML table: each key's default, bounds, meaning in one place.

The meanings are what README prints (`shmq.config.describe`), the bounds what `shmq.config.load` enforces.
`extra["is"]` says in words what a pattern or a later check demands; else the words follow from the bounds.
Seconds end in `_s`, sizes in `_bytes`; a table leaves out a key to get None.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from msgspec import Meta, Struct, convert, field

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
        extra={"is": 'a name of 1 to 64 letters, digits, "_", "." or "-" that begins with a letter or digit'},
    ),
]
NameOrNothing = Annotated[
    str,
    Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,63})?\Z", extra={"is": 'the name of a group, or ""'}),
]
ModuleName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z",
        extra={"is": 'the dotted name of a module, such as "workers.network"'},
    ),
]
TaskPattern = Annotated[
    str,
    Meta(pattern=r"^[^\s/]+\Z", extra={"is": 'a task name, or a pattern such as "img.*"'}),
]
PathText = Annotated[str, Meta(pattern=r"^[^\x00]+\Z", extra={"is": "a path"})]
# INVARIANT: counts that live in the job word fit it: crashes 4 bits, failures 8, group 6, owner 10.
MAX_GROUPS = 64
WorkerCount = Annotated[int, Meta(ge=0, le=1000)]
SomeWorkers = Annotated[int, Meta(ge=1, le=1000)]
Failures = Annotated[int, Meta(ge=0, le=254)]
Attempts = Annotated[int, Meta(ge=1, le=15)]

Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Bytes = Annotated[int, Meta(ge=1, le=1 << 50)]
Seconds = Annotated[float, Meta(gt=0, le=1e9)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=1e9)]
Rate = Annotated[float, Meta(gt=0, le=1e9)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Auto = Literal["auto"]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every table of the file has in common: values never change, misspelt keys are errors."""


class Limit(Table, frozen=True, kw_only=True):
    """Rate limit and circuit breaker; of one task, and (inherited) of a group."""

    rate_per_s: Annotated[
        Rate | None,
        Meta(
            description="jobs started per second, all workers together; each call of `map` and `stream` is then a job. "
            "Without it no limit"
        ),
    ] = None
    burst: Annotated[
        Count | None,
        Meta(description="jobs that may start at once after a pause; without it one second's worth"),
    ] = None
    breaker_failure_share: Annotated[
        Share | None,
        Meta(description="the circuit opens when this share of the last jobs failed; without it no breaker"),
    ] = None
    breaker_window: Annotated[
        int,
        Meta(ge=1, le=10_000, description="how many of the last jobs the share is taken over"),
    ] = 50
    breaker_open_s: Annotated[
        Seconds,
        Meta(description="how long the circuit stays open before one job is let through as a probe"),
    ] = 10.0
    breaker_mode: Annotated[
        Literal["wait", "fail"],
        Meta(description="what an open circuit does to jobs: they wait, or they fail with CircuitOpen"),
    ] = "wait"


class Group(Limit, frozen=True, kw_only=True):
    """One resource group: how many workers of what kind, and what a worker may use."""

    min_workers: Annotated[
        WorkerCount,
        Meta(description="workers kept without load; with 0 the first job after a pause waits for a fork"),
    ] = 1
    max_workers: Annotated[
        SomeWorkers | Auto,
        Meta(description='workers at most; "auto" starts at the number of cores and finds its own bound'),
    ] = "auto"
    mode: Annotated[
        Literal["predictive", "reactive", "fixed"],
        Meta(description="scale by forecast, by present backlog only, or keep max_workers at all times"),
    ] = "predictive"
    kind: Annotated[
        Literal["cpu", "io"],
        Meta(description='"cpu": a worker needs a core; "io": it mostly waits (filesystem, network)'),
    ] = "cpu"
    importance: Annotated[
        int,
        Meta(
            ge=1,
            le=5,
            description="who gets workers when the host is too small for all groups; 5 comes first",
        ),
    ] = 3
    max_batch: Annotated[
        int,
        Meta(ge=1, le=1024, description="jobs that a worker claims at once, at most"),
    ] = 64
    target_batch_s: Annotated[
        Seconds,
        Meta(description="a claim takes what should run this long; longer ones delay cancel and priority"),
    ] = 0.002
    concurrency: Annotated[
        SomeWorkers | Auto,
        Meta(description="jobs that one worker runs at once: `async def` on one event loop, others in threads"),
    ] = 1
    timeout_s: Annotated[
        Seconds | None,
        Meta(description="time limit of tasks that name none; without it they may run for ever"),
    ] = None
    grace_s: Annotated[
        SecondsOrZero,
        Meta(description="from TaskTimeout raised in the task to SIGKILL of its worker"),
    ] = 2.0
    target_wait_s: Annotated[
        Seconds,
        Meta(description="how long a job may wait for a worker; the number of workers follows from it"),
    ] = 0.05
    miss_ratio: Annotated[
        Share,
        Meta(description="the share of jobs that may wait longer than target_wait_s"),
    ] = 0.05
    hold_s: Annotated[
        SecondsOrZero,
        Meta(description="the need must have been lower for this long before workers are drained"),
    ] = 30.0
    max_worker_memory_bytes: Annotated[
        Bytes | None,
        Meta(description="private memory above which a worker is replaced between two jobs; without it never"),
    ] = None
    hard_worker_memory_bytes: Annotated[
        Bytes | None,
        Meta(description="private memory above which a worker is killed, its job escalated; without it never"),
    ] = None
    max_jobs_per_worker: Annotated[
        Count | None,
        Meta(description="jobs after which a worker is replaced; without it never"),
    ] = None
    max_worker_age_s: Annotated[
        Seconds | None,
        Meta(description="age at which a worker is replaced; without it never"),
    ] = None
    escalate_to: Annotated[
        NameOrNothing | None,
        Meta(
            description="group that retries a job whose worker ran out of memory "
            '(default: `memory`, where that is another group); "" turns it off',
        ),
    ] = None
    spin_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="an idle worker looks for work this long before it sleeps; costs a core meanwhile",
        ),
    ] = 0.0
    gc: Annotated[
        Literal["batch", "auto", "off"],
        Meta(description="garbage collection between batches, when Python likes, or never"),
    ] = "auto"
    max_substitutes: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="extra workers for those that wait inside a task for a job of the same group",
        ),
    ] = 4
    retries: Annotated[
        Failures | None,
        Meta(description="retries of tasks that name none; without it none"),
    ] = None
    oom_score_adj: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="how gladly the kernel kills a worker of this group when memory runs out",
        ),
    ] = 300


class Memory(Table, frozen=True, kw_only=True):
    """The shared segment. All of it is reserved at start; another shape needs a drained queue."""

    max_producers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="processes that may submit at the same time, workers that submit included",
        ),
    ] = 32
    slots_per_producer: Annotated[
        int,
        Meta(
            ge=16,
            le=65536,
            description="jobs that one producer may have unfinished; then submit waits",
            extra={"is": "an integer from 16 to 65536 that is a power of two"},
        ),
    ] = 1024
    slot_bytes: Annotated[
        int,
        Meta(
            ge=256,
            le=65536,
            multiple_of=64,
            description="one job's place; what does not fit it goes through a block",
        ),
    ] = 512
    block_budget_bytes: Annotated[
        int,
        Meta(ge=4096, le=1 << 44, description="memory of all blocks together: large arguments, results, arrays"),
    ] = 32 << 20
    block_unit_bytes: Annotated[
        int,
        Meta(
            ge=4096,
            le=16 << 20,
            description="the smallest block; blocks are powers of two of it",
            extra={"is": "an integer from 4096 to 16_777_216 that is a power of two"},
        ),
    ] = 65536
    arenas: Annotated[
        int,
        Meta(
            ge=1,
            le=8,
            description="parts of the block memory with a lock each; a block fits one part, the last is for results",
        ),
    ] = 2
    max_workers: Annotated[
        SomeWorkers,
        Meta(description="rows for workers of all groups together, replacements and substitutes included"),
    ] = 64


class Supervisor(Table, frozen=True, kw_only=True):
    """The process tree as a whole."""

    grace_s: Annotated[
        SecondsOrZero,
        Meta(description="from SIGTERM to the kill of workers that still run a job"),
    ] = 10.0
    state_dir: Annotated[
        PathText | None,
        Meta(
            description="folder for lock file, control socket, dead letters, learned patterns "
            "(default: `$XDG_STATE_HOME/shmq`, else `~/.local/state/shmq`)",
        ),
    ] = None
    task_output: Annotated[
        PathText,
        Meta(
            description='what tasks print: "log" (by line, with task and job), "inherit" (as it is), a file',
            extra={"is": '"log", "inherit" or the path of a file'},
        ),
    ] = "log"
    log_format: Annotated[
        Literal["text", "json"],
        Meta(description="the supervisor's own lines on stderr"),
    ] = "text"
    max_attempts: Annotated[
        Attempts,
        Meta(description="a job whose worker died this often is dead-lettered instead of redelivered"),
    ] = 3
    tick_s: Annotated[
        float,
        Meta(
            ge=0.01,
            le=10,
            description="the longest sleep of the supervisor; bounds how late it notices anything. At rest, when all "
            "workers have slept for a second, only the lanes are looked at so often, all else ten times less, up to "
            "1 s",
        ),
    ] = 0.1


class Planner(Table, frozen=True, kw_only=True):
    """The process that forecasts load and sets the number of workers of each group."""

    step_s: Annotated[
        float,
        Meta(ge=0.02, le=3600, description="length of a forecast step; the patterns learned belong to it"),
    ] = 1.0
    save_s: Annotated[
        Seconds,
        Meta(description="how often the learned patterns are saved to the state directory"),
    ] = 60.0
    day_s: Annotated[
        Seconds,
        Meta(description="length of the day that the load repeats by; shorter where time is compressed"),
    ] = 86400.0


class DeadLetters(Table, frozen=True, kw_only=True):
    """How long jobs that failed for good are kept."""

    keep_s: Annotated[Seconds, Meta(description="age at which a dead letter is dropped")] = 604800.0
    keep_count: Annotated[
        int,
        Meta(ge=0, le=100_000_000, description="number above which the oldest are dropped"),
    ] = 10000


class Route(Table, frozen=True, kw_only=True):
    """Where jobs of some tasks go, whatever group the task names; the first route that fits wins."""

    task: Annotated[TaskPattern, Meta(description="task name, or pattern with `*`, `?` and `[...]`")]
    group: Annotated[Name, Meta(description="where such jobs go")]
    min_payload_bytes: Annotated[
        int,
        Meta(ge=0, le=1 << 50, description="only jobs whose arguments take at least this much"),
    ] = 0


def group_defaults(name: str, groups: Collection[str]) -> dict[str, str]:
    """The keys whose default depends on the group's name and on which other groups there are."""
    defaults = {"kind": "io" if name in {"filesystem", "network"} else "cpu"}
    if "memory" in groups and name != "memory":
        defaults["escalate_to"] = "memory"
    return defaults


def default_groups() -> dict[str, Group]:
    """The four groups of a file that names none."""
    names = ("filesystem", "network", "computation", "memory")
    return {name: convert(group_defaults(name, names), Group) for name in names}


class Config(Table, frozen=True, kw_only=True):
    """A whole file."""

    namespace: Annotated[
        Name,
        Meta(
            description="tells supervisors of one user apart; -n and SHMQ_NAMESPACE win over it; "
            "for producers: connect() or SHMQ_NAMESPACE"
        ),
    ] = "default"
    tasks: Annotated[
        tuple[ModuleName, ...],
        Meta(description="modules with tasks, imported once; found beside this file or installed"),
    ] = ()
    groups: Annotated[dict[Name, Group], Meta(description="the resource groups")] = field(
        default_factory=default_groups
    )
    memory: Annotated[Memory, Meta(description="the shared segment")] = Memory()
    supervisor: Annotated[Supervisor, Meta(description="the process tree")] = Supervisor()
    planner: Annotated[Planner, Meta(description="forecast and scaling")] = Planner()
    dead_letters: Annotated[DeadLetters, Meta(description="what is kept of failed jobs")] = DeadLetters()
    routes: Annotated[tuple[Route, ...], Meta(description="tasks sent to another group")] = ()
    limits: Annotated[dict[TaskPattern, Limit], Meta(description="rate and failure limits per task")] = field(
        default_factory=dict
    )
