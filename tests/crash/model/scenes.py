"""Scenes: small worlds that are searched to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.crash.model.actors import blocks
from tests.crash.model.actors import producer as producers
from tests.crash.model.actors import supervisor as keepers
from tests.crash.model.actors import worker as workers
from tests.crash.model.actors.producer import BREAK_OFF, CANCEL, COLLECT, DELAY, SUBMIT, Plan
from tests.crash.model.actors.recovery import recovery
from tests.crash.model.automaton import Automaton, Steps
from tests.crash.model.explore import NO_BOUND, Start
from tests.crash.model.machine import X86, Machine
from tests.crash.model.world import DONE, Shape, World, word

Actor = Callable[[World, int], Steps[None]]


@dataclass(frozen=True)
class Scene:
    """Who acts in which world, and what deaths are allowed."""

    name: str
    story: str
    shape: Shape
    actors: dict[str, Actor]
    deaths: Start
    unborn: tuple[str, ...] = ()
    start: dict[str, int] = field(default_factory=dict)  # cells that do not begin as usual
    preemptions: int = NO_BOUND  # how far the suite searches it; the command line always searches to the end
    mortals: tuple[str, ...] = ()  # who may die; () = everybody for whom `deaths` has a budget

    def machine(self, *mutants: str, exact: bool = False, reduce: bool = True, kind: str = X86) -> Machine:
        shape = replace(self.shape, mutants=frozenset(mutants))
        names = tuple(self.actors)
        world = World(shape, names)
        for name, value in self.start.items():
            world.initial[world.names.index(name)] = value
        automata = [
            Automaton(lambda f=f, a=a: f(world, a), exact=exact)  # type: ignore[misc]
            for a, f in enumerate(self.actors.values())
        ]
        return Machine(
            world, automata, kind=kind, reduce=reduce,
            born=tuple(a for a, n in enumerate(names) if n not in self.unborn),
            children=tuple(a for a, n in enumerate(names) if n.startswith(("worker", "recovery"))),
            crashes={
                a: kind for a, n in enumerate(names) for kind in ("worker", "recovery", "producer")
                if n.startswith(kind) and self.deaths.get(kind) and (not self.mortals or n in self.mortals)
            },
        )  # fmt: skip


def _producer(row: int, *plan: tuple[int, int, int]) -> Actor:
    return lambda w, a: producers.producer(w, a, row, plan)


def _successor(row: int, former: str, *plan: tuple[int, int, int]) -> Actor:
    return lambda w, a: producers.successor(w, a, row, w.actor(former), plan)


def _worker(row: int) -> Actor:
    return lambda w, a: workers.worker(w, a, row)


def _replacement(row: int) -> Actor:
    return lambda w, a: workers.worker(w, a, row, is_replacement=True)


def _replacements(*rows: int) -> dict[str, Actor]:
    """For each row the worker that comes next, and who starts it."""
    nexts = {f"worker{r}b": _replacement(r) for r in rows}
    return nexts | {f"replacer{r}": lambda w, a, r=r: keepers.replacer(w, a, r, w.actor(f"worker{r}b")) for r in rows}


def submits(*jobs: int, group: int = 0) -> Plan:
    return tuple((SUBMIT, job, group) for job in jobs)


def _keepers() -> dict[str, Actor]:
    return {"supervisor": keepers.supervisor, "recovery": recovery}


def _clock() -> dict[str, Actor]:
    return {"clock": keepers.clock}


def _crew(*plan: tuple[int, int, int], workers: int = 2) -> dict[str, Actor]:
    return {"producer0": _producer(0, *plan)} | {f"worker{row}": _worker(row) for row in range(workers)}


def _lock_of_row(w: World, a: int) -> Steps[None]:
    return keepers.meddler(w, a, w.row_lock[0])


SCENES = {scene.name: scene for scene in (
    Scene("basic", "1 producer, 2 workers, 2 jobs; a worker and recovery die",
          Shape(), _crew(*submits(1, 2)) | _keepers(), {"worker": 1, "recovery": 1}, preemptions=0),
    Scene("death", "the same with 1 job; only worker 0 may die",
          Shape(jobs=1), _crew(*submits(1)) | _keepers(), {"worker": 1}, mortals=("worker0",), preemptions=2),
    Scene("abandoned", "the producer dies, nobody takes its row",
          Shape(workers=(0,), jobs=1), _crew(*submits(1), workers=1), {"producer": 1}),
    Scene("inherited", "the same, and its row is taken by one that submits nothing",
          Shape(workers=(0,), jobs=1),
          _crew(*submits(1), workers=1) | {"successor": _successor(0, "producer0")}, {"producer": 1}),
    Scene("handshake", "1 producer waits for the results of 1 worker",
          Shape(workers=(0,), collect=True, waits=True, clears=True, fine=True),
          _crew(*submits(1, 2), (COLLECT, 1, 0), (COLLECT, 2, 0), workers=1), {"timeout": 1}),
    Scene("early", "the same, and the producer is rung once per wait, before its job is claimed as well",
          Shape(workers=(0,), collect=True, waits=True, fine=True, early=True),
          _crew(*submits(1, 2), (COLLECT, 1, 0), (COLLECT, 2, 0), workers=1), {"timeout": 1}),
    Scene("ring on", "2 workers, 2 jobs, the first of which ends after the second",
          Shape(slow=True, clears=True), _crew(*submits(1, 2)), {}),
    Scene("first look", "the same, rung on by the look before the claim",
          Shape(slow=True, clears=True, first_look=True), _crew(*submits(1, 2)), {}),
    Scene("tight", "1 slot, 3 jobs, lanes of capacity 1; a worker dies",
          Shape(slots=1, jobs=3, waits=True), _crew(*submits(1, 2, 3)) | _keepers(), {"worker": 1}, preemptions=0),
    Scene("stale entry", "1 slot, a lane that is full of a stale entry",
          Shape(workers=(0,), slots=1, jobs=1, waits=True), _crew(*submits(1), workers=1), {},
          start={"tail[0,0]": 1, "ring[0,0,0]": 1}),
    Scene("doubled entry", "recovery's lane names a slot that is published again",
          Shape(slots=1, jobs=1), _crew(*submits(1)), {}, start={"tail[0,1]": 1, "ring[0,1,0]": 1}),
    Scene("foreign entry", "a lane of another group names a slot that is published again",
          Shape(workers=(0, 1), groups=2, slots=1, jobs=1), _crew(*submits(1)), {},
          start={"tail[1,0]": 1, "ring[1,0,0]": 1}),
    Scene("full recovery lane", "a job fails while recovery's lane is full of a stale entry",
          Shape(workers=(0,), slots=1, jobs=1, recovery_capacity=1, retries=True),
          _crew(*submits(1), workers=1) | _keepers(), {}, start={"tail[0,1]": 1, "ring[0,1,0]": 1}),
    Scene("dead letter", "a job that costs a worker becomes a dead letter; its producer waits",
          Shape(jobs=1, collect=True, waits=True, max_crashes=1),
          _crew((SUBMIT, 1, 0), (COLLECT, 1, 0)) | _keepers(), {"worker": 1}, mortals=("worker0",), preemptions=0),
    Scene("due", "a delayed job, nobody dies", Shape(workers=(0,), slots=1, jobs=1, delays=True),
          _crew((DELAY, 1, 0), workers=1) | {"recovery": recovery}, {}),
    Scene("delayed", "a delayed job; its producer is killed, the row taken over",
          Shape(workers=(0,), slots=1, delays=True, waits=True),
          _crew((DELAY, 1, 0), workers=1) | _keepers() | {"successor": _successor(0, "producer0", *submits(2))},
          {"producer": 1}, preemptions=1),
    Scene("scale to zero", "the only worker leaves, the supervisor's entry takes its place",
          Shape(workers=(0, 0), jobs=1, leaves=True),
          {"producer0": _producer(0, *submits(1)), "scaler": keepers.scaler, "worker1": _worker(1),
           "worker1b": _replacement(1), "dismisser": lambda w, a: keepers.dismisser(w, a, 1)},
          {}, unborn=("worker1b",)),
    Scene("restart", "a new supervisor, while a worker of the old one is just starting",
          Shape(workers=(0,), jobs=1, epochs=True, fresh_bells=True),
          _crew(*submits(1), workers=1) | {"recovery": recovery, "new supervisor": keepers.new_supervisor}
          | _replacements(0), {}, unborn=("worker0b",), preemptions=2),
    Scene("groups", "2 groups share a slot; a worker dies and is replaced",
          Shape(workers=(0, 1), groups=2, slots=1, waits=True, fresh_bells=True),
          _crew((SUBMIT, 1, 0), (SUBMIT, 2, 1)) | _keepers()
          | _replacements(0, 1), {"worker": 1}, unborn=("worker0b", "worker1b"), preemptions=0),
    Scene("takeover", "a producer is killed, its row is taken over",
          Shape(workers=(0,), jobs=3, waits=True),
          _crew(*submits(1, 2), workers=1) | {"successor": _successor(0, "producer0", *submits(3))},
          {"producer": 1}),
    Scene("closed lock file", "a producer's byte is freed while it lives",
          Shape(workers=(0,), jobs=3, slots=1, waits=True),
          _crew(*submits(1, 2), workers=1)
          | {"meddler": _lock_of_row, "successor": _successor(0, "producer0", *submits(3))}, {}),
    Scene("cancel", "a job is cancelled, the next one takes its slot",
          Shape(workers=(0,), slots=1, waits=True, cancels=True),
          _crew((SUBMIT, 1, 0), (CANCEL, 1, 0), (SUBMIT, 2, 0), workers=1), {}),
    Scene("late cancel", "a finished job is cancelled after the next one in its slot was",
          Shape(workers=(0,), slots=1, waits=True, cancels=True),
          _crew(*submits(1, 2), (CANCEL, 2, 0), (CANCEL, 1, 0), workers=1), {}),
    Scene("broken off", "an exception ends a submit between word and tail; the producer goes on",
          Shape(workers=(0,)), _crew((BREAK_OFF, 1, 0), (SUBMIT, 2, 0), workers=1), {}),
    Scene("retry", "a job fails once; recovery dies",
          Shape(workers=(0,), retries=True), _crew(*submits(1, 2), workers=1) | _keepers(),
          {"recovery": 1}, preemptions=1),
    Scene("failed, then dead", "a job fails, its worker dies before recovery is told",
          Shape(jobs=1, retries=True), _crew(*submits(1)) | _keepers(), {"worker": 1},
          mortals=("worker0",), preemptions=0),
    Scene("give back", "one of two leased jobs is slow, the other goes back",
          Shape(slow=True, batch=2), _crew(*submits(1, 2)) | _keepers(), {}, preemptions=1),
    Scene("replaced", "a worker dies and is replaced in its row, with a doorbell of its own",
          Shape(workers=(0,), fresh_bells=True, clears=True),
          _crew(*submits(1, 2), workers=1) | _keepers()
          | _replacements(0), {"worker": 1}, unborn=("worker0b",), preemptions=1),
    Scene("replaced naps", "the same, and each sleeper is rung once per nap",
          Shape(workers=(0,), fresh_bells=True, naps=True, clears=True),
          _crew(*submits(1, 2), workers=1) | _keepers()
          | _replacements(0), {"worker": 1}, unborn=("worker0b",), preemptions=1),
    Scene("silent", "a live worker makes no sign for long", Shape(jobs=1),
          _crew(*submits(1)) | _keepers() | {"hasty": lambda w, a: keepers.hasty_supervisor(w, a, 0)}, {}),
    Scene("two recoveries", "recovery is started twice", Shape(workers=(0,), jobs=1, retries=True),
          _crew(*submits(1), workers=1) | _keepers() | {"recovery2": recovery}, {}),
    Scene("naps", "a sleeper is rung once per nap",
          Shape(slow=True, naps=True, clears=True), _crew(*submits(1, 2)), {}, preemptions=2),
    Scene("leave", "an idle worker is told to leave",
          Shape(leaves=True, jobs=1), _crew(*submits(1)) | {"dismisser": lambda w, a: keepers.dismisser(w, a, 0)}, {}),
    Scene("attended", "after tiny jobs a worker promises to look again: producers do not ring",
          Shape(slots=3, jobs=3, promises=(2, 1, 0), clears=True), _crew(*submits(1, 2, 3)) | _clock(), {},
          preemptions=1),
    Scene("attended, then not", "the same with 1 worker, whose later claims promise nothing",
          Shape(workers=(0,), slots=3, jobs=3, promises=(2, 0, 0), clears=True),
          _crew(*submits(1, 2, 3), workers=1) | _clock(), {}),
    Scene("attended, again", "the same, whose next claim promises a sooner moment",
          Shape(workers=(0,), slots=3, jobs=3, promises=(2, 1, 0), clears=True),
          _crew(*submits(1, 2, 3), workers=1) | _clock(), {}),
    Scene("attended, slow", "the one that promised is kept by a long job",
          Shape(slow=True, promises=(2, 1), clears=True), _crew(*submits(1, 2)) | _clock(), {}),
    Scene("attended, leaves", "the one that promised is told to leave",
          Shape(leaves=True, promises=(2, 1)), _crew(*submits(1, 2)) | _clock()
          | {"dismisser": lambda w, a: keepers.dismisser(w, a, 0)}, {}, preemptions=1),
    Scene("attended, dead", "the one that promised dies",
          Shape(promises=(2, 0)), _crew(*submits(1, 2)) | _clock() | _keepers(), {"worker": 1},
          mortals=("worker0",), preemptions=1),
    Scene("attended, stopped", "the one that promised is stopped and never goes on",
          Shape(promises=(2, 1)), _crew(*submits(1, 2)) | _clock()
          | {"stopper": lambda w, a: keepers.stopper(w, a, w.actor("worker0"))}, {}, preemptions=2),
    Scene("kill", "a job past its limit: stop, look again, kill",
          Shape(workers=(0, 0)),
          _crew(*submits(1, 2)) | _keepers() | {"killer": lambda w, a: keepers.killer(w, a, 0, w.actor("worker0"))},
          {}, preemptions=1),
    Scene("blocks", "a view outlives its job", Shape(workers=()),
          {"reader": blocks.reader, "allocator": blocks.allocator}, {},
          start={"word[0]": word(DONE, generation=1), "tag": 1, "block": blocks.BYTES}),
    Scene("two views", "two attempts of one job, each keeps a view", Shape(workers=()),
          {"keeper": blocks.keeper, "second": blocks.second_reader, "allocator": blocks.allocator}, {},
          start={"word[0]": word(DONE, generation=1), "tag": 1, "block": blocks.BYTES, "pin": 1}),
)}  # fmt: skip


def crowd(*, collect: bool) -> Scene:
    """For random walks: everything at once, too large to be searched."""
    first: Plan = ((SUBMIT, 1, 0), (SUBMIT, 2, 1), (CANCEL, 2, 1), (SUBMIT, 3, 0), (DELAY, 4, 1))
    second: Plan = ((SUBMIT, 5, 1), (SUBMIT, 6, 0), (CANCEL, 6, 0), (DELAY, 7, 0), (SUBMIT, 8, 0))
    if collect:  # 3 slots for 4 jobs: one result is read early
        first = (*first[:3], (COLLECT, 1, 0), *first[3:], (COLLECT, 2, 0), (COLLECT, 3, 0), (COLLECT, 4, 0))
        second = (*second[:3], (COLLECT, 5, 0), *second[3:], (COLLECT, 6, 0), (COLLECT, 7, 0), (COLLECT, 8, 0))
    return Scene(
        "crowd", "2 producers and their successors, 3 workers and their replacements, 2 groups, all may die",
        Shape(producers=2, workers=(0, 0, 1), groups=2, slots=3, jobs=10, batch=2, recovery_capacity=4, collect=collect,
              cancels=True, retries=True, delays=True, waits=True, clears=True, fine=True, checked=True, naps=True,
              fresh_bells=True, promises=(2, 1, 0, 1, 2, 0, 1, 2, 0, 1)),
        {"producer0": _producer(0, *first), "producer1": _producer(1, *second),
         "successor0": _successor(0, "producer0", *submits(9)), "successor1": _successor(1, "producer1", *submits(10)),
         **{f"worker{row}": _worker(row) for row in range(3)}, **_keepers(), **_replacements(0, 1, 2), **_clock()},
        {"worker": 2, "recovery": 2, "producer": 1, "timeout": 2}, unborn=("worker0b", "worker1b", "worker2b"),
        mortals=("worker0", "worker1", "worker2", "recovery", "producer0", "producer1"),
    )  # fmt: skip
