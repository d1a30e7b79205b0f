"""What the actors share: the cells of the segment, laid out for one small shape.

A cell holds a whole number and is what the processor moves in one piece: a job word, a ring
entry, a head. Locks, doorbells and the monitor's own notes are cells too, so that one tuple of
numbers is the whole state of memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

FREE, QUEUED, REQUEUED, LEASED, RUNNING, SCHEDULED, DONE, FAILED, CANCELLED = range(9)
STATES = ("FREE", "QUEUED", "REQUEUED", "LEASED", "RUNNING", "SCHEDULED", "DONE", "FAILED", "CANCELLED")

ROW_STARTING, ROW_LIVE, ROW_DEAD, ROW_FREE = range(4)

# What has become of an actor, in the order in which it becomes so.
UNBORN, ALIVE, FROZEN, STOPPED, DEAD, REAPED = range(6)

# The clock of promises to look again goes from 0 to here; a bounded sleep is longer than that.
LAST_MOMENT = 2
WAIT = 16  # the number of a wait, in the word that also tells the model whose bell to ring

# What has become of a job: 0 never started, 1 + actor while it runs there, then one of these.
ENDED, ENDED_CANCELLED, ENDED_DEAD = 100, 101, 102


def word(
    state: int, *, group: int = 0, owner: int = 0, crashes: int = 0, failures: int = 0, generation: int = 0
) -> int:
    """A job word. `owner` is the worker row of a lease."""
    return state | crashes << 4 | group << 8 | owner << 12 | failures << 16 | generation << 20


def state_of(value: int) -> int:
    return value & 15


def crashes_of(value: int) -> int:
    return value >> 4 & 15


def group_of(value: int) -> int:
    return value >> 8 & 15


def owner_of(value: int) -> int:
    return value >> 12 & 15


def failures_of(value: int) -> int:
    return value >> 16 & 15


def generation_of(value: int) -> int:
    return value >> 20


def moved(value: int, state: int, **changes: int) -> int:
    """The word in another state; who is not named keeps its value, the owner goes."""
    parts = {
        "group": group_of(value), "crashes": crashes_of(value),
        "failures": failures_of(value), "generation": generation_of(value),
    }  # fmt: skip
    return word(state, **(parts | changes))


def freed(value: int) -> int:
    """The FREE word that ends a job: the next generation."""
    return word(FREE, generation=generation_of(value) + 1)


@dataclass(frozen=True)
class Shape:
    """Counts and features of one scene. What a scene does not need is left out: fewer states."""

    producers: int = 1
    workers: tuple[int, ...] = (0, 0)  # group of each worker row
    groups: int = 1
    slots: int = 2  # per producer row
    capacity: int = 0  # of a lane; 0: as many as slots
    recovery_capacity: int = 2
    jobs: int = 2
    batch: int = 1
    fine: bool = False  # looks and finds load cell by cell
    clears: bool = False  # who wakes up clears its bell of surplus tokens
    waits: bool = False  # producers may wait: for room or for results
    collect: bool = False  # the producer reads results; else jobs are fire-and-forget
    cancels: bool = False
    delays: bool = False  # jobs may be submitted for later
    retries: bool = False  # job 0 fails once and is scheduled again
    slow: bool = False  # job 0 ends only after job 1 has
    checked: bool = False  # the worker checks its word before start and ack
    epochs: bool = False  # the supervisor may be a new one
    leaves: bool = False  # worker 0 may be told to leave
    first_look: bool = False  # whether to ring on is decided by the look before the claim
    naps: bool = False  # a sleeper already rung in this nap is not rung again
    early: bool = False  # a producer is rung once per wait, and before its job is claimed as well
    fresh_bells: bool = False  # workers come and go, each with a doorbell of its own
    promises: tuple[int, ...] = ()  # for so many moments from the claim of job 1, 2, ... on is the group attended
    max_crashes: int = 15  # a job that costs so many workers is a dead letter
    mutants: frozenset[str] = field(default_factory=frozenset)


class World:
    """Addresses of one shape. `names[a]` says what cell a is."""

    def __init__(self, shape: Shape, actors: tuple[str, ...]) -> None:
        self.shape = shape
        self.actors = actors
        # row of each actor: "worker1" and its replacement "worker1b" live in row 1
        self.home = [int(n[6]) if n.startswith("worker") else 0 if n == "scaler" else -1 for n in actors]
        self.names: list[str] = []
        self.initial: list[int] = []
        self.kinds: list[tuple[str, tuple[int, ...]]] = []
        rows, slots = range(len(shape.workers)), range(shape.producers * shape.slots)
        lanes = [(g, p) for g in range(shape.groups) for p in range(shape.producers + 1)]
        self.recovery_lane = shape.producers
        self.capacity = shape.capacity or shape.slots

        self.status = [self._cell("status", a) for a in range(len(actors))]
        self.group_lock = [self._cell("group_lock", g) for g in range(shape.groups)]
        holders = [actors.index(n) + 1 if (n := f"producer{p}") in actors else 0 for p in range(shape.producers)]
        self.row_lock = [self._cell("row_lock", p, start=h) for p, h in enumerate(holders)]
        self.recovery_lock = self._cell("recovery_lock")
        self.worker_lock = [self._cell("worker_lock", r) for r in rows]
        self.epoch = self._cell("epoch")
        self.locks = (*self.worker_lock, *self.group_lock, *self.row_lock, self.recovery_lock)
        self.word = [self._cell("word", s, start=word(FREE, generation=1)) for s in slots]
        self.payload = [self._cell("payload", s) for s in slots]
        self.result = [self._cell("result", s) for s in slots]
        self.cancel = [self._cell("cancel", s) for s in slots]
        self.high = [self._cell("high", s, start=1) for s in slots]  # only when the word is split
        self.head = {at: self._cell("head", *at) for at in lanes}
        self.tail = {at: self._cell("tail", *at) for at in lanes}
        self.ring = {at: [self._cell("ring", *at, i) for i in range(self.room(at[1]))] for at in lanes}
        self.sleeping = [self._cell("sleeping", r) for r in rows]
        self.nap = [self._cell("nap", r) for r in rows]
        self.row = [self._cell("row", r, start=ROW_LIVE) for r in rows]
        self.bell_of = [self._cell("bell_of", r, start=self.sleeper(r)) for r in rows]
        # rows of workers, then of producers
        self.scheduled = [self._cell("scheduled", r) for r in range(len(rows) + shape.producers)]
        self.leave = [self._cell("leave", r) for r in rows]
        self.attended = [self._cell("attended", g) for g in range(shape.groups)]
        self.clock = self._cell("clock")
        self.waiting = [self._cell("waiting", p) for p in range(shape.producers)]
        self.waits = [self._cell("waits", p) for p in range(shape.producers)]  # how many there were; only its own
        self.bell = [self._cell("bell", a) for a in range(len(actors))]
        self.tag, self.pin, self.pin2, self.block = (self._cell(n) for n in ("tag", "pin", "pin2", "block"))

        # the monitor's notes; no process could read them
        self.in_row = [self._cell("in_row", r) for r in rows]
        self.tenant = [self._cell("tenant", p, start=h) for p, h in enumerate(holders)]  # who may act for the row
        self.issued = [self._cell("issued", s) for s in slots]
        self.fate = [self._cell("fate", j) for j in range(shape.jobs + 1)]
        self.accepted = [self._cell("accepted", j) for j in range(shape.jobs + 1)]
        # cancellation: 1 asked for, 2 called certain
        self.asked = [self._cell("asked", j) for j in range(shape.jobs + 1)]
        self.rung = [[self._cell("rung", a, r) for r in rows] if shape.naps else [] for a in range(len(actors))]
        self.rung_wait = [
            [self._cell("rung_wait", a, p) for p in range(shape.producers)] if shape.early else []
            for a in range(len(actors))
        ]
        self.budget = {name: self._cell("budget") for name in ("worker", "recovery", "producer", "timeout")}
        self.disturbed = self._cell("disturbed", start=int("recovery" in actors))  # deaths not yet dealt with
        self.vow = [self._cell("vow", a) for a in range(len(actors))]  # the latest moment each has promised
        self.unkept = self._cell("unkept")  # did a producer rely on the promise of one that was already buried?
        self.ticks = self._cell("ticks")

    def _cell(self, kind: str, *index: int, start: int = 0) -> int:
        self.kinds.append((kind, index))
        self.names.append(f"{kind}[{','.join(map(str, index))}]" if index else kind)
        self.initial.append(start)
        return len(self.names) - 1

    def actor(self, name: str) -> int:
        return self.actors.index(name)

    def sleeper(self, row: int) -> int:
        """Whose doorbell a sleeping byte stands for; without a worker it is the supervisor's entry."""
        name = f"worker{row}"
        return self.actor(name if name in self.actors else "scaler")

    def is_mutant(self, name: str) -> bool:
        return name in self.shape.mutants

    def room(self, lane: int) -> int:
        return self.shape.recovery_capacity if lane == self.recovery_lane else self.capacity

    def row_slots(self, producer: int) -> range:
        return range(producer * self.shape.slots, (producer + 1) * self.shape.slots)

    def rows_of(self, group: int) -> tuple[int, ...]:
        return tuple(r for r, g in enumerate(self.shape.workers) if g == group)
