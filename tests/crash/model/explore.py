"""Search: every interleaving of a machine (depth first, each state once), or random walks.

A state from which nobody can go on is judged: either all is done, or somebody waits for ever. If a
death is still to be dealt with, time passes (bounded sleeps end) and the search goes on; without
one, needing the bound is already the failure: a wake-up was lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.crash.model.automaton import END
from tests.crash.model.machine import DIE, STEP, TIMEOUT, Choice, Machine, State
from tests.crash.model.monitor import NOTES, Violation
from tests.crash.model.ops import FIND, LOCK, OP_NAMES
from tests.crash.model.world import (
    ALIVE,
    LEASED,
    RUNNING,
    STATES,
    generation_of,
    group_of,
    owner_of,
    state_of,
)

NO_BOUND = 99  # on preemptions
_LOWER_SHARE = 0.02  # of the steps of a walk by priority
_TICKS = 2  # bounded sleeps in a row that may bring nothing

Start = dict[str, int]


@dataclass
class Outcome:
    """What a search has seen. `violation` is "" when nothing was wrong."""

    states: int = 0
    moves: int = 0
    ends: int = 0
    end_memories: set[int] = field(default_factory=set)  # hashes
    rescues: int = 0
    is_complete: bool = True
    violation: str = ""
    trace: list[str] = field(default_factory=list)


def exhaust(machine: Machine, budgets: Start, *, most_states: int = 10**9, preemptions: int = NO_BOUND) -> Outcome:
    """Visit every reachable state, up to `most_states`; stop at the first violation.

    `preemptions` bounds how often a schedule leaves an actor that could go on, or whose stores have
    not arrived; most failures need one or two.
    """
    outcome, search = Outcome(), _Search(machine, preemptions)
    try:
        stack: list[Iterator[Step]] = [((state, -1, 0) for state in machine.initial(budgets))]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
                del search.path[max(len(stack) - 1, 0) :]
                continue
            outcome.moves += 1
            if search.is_new(*step):
                if len(search.seen) >= most_states:
                    outcome.is_complete = False
                    break
                stack.append(search.successors(*step, outcome))
    except Violation as violation:
        outcome.violation = str(violation)
        outcome.trace = describe(machine, search.path)
    outcome.states = len(search.seen)
    return outcome


Step = tuple[State, int, int]  # state, who moved last, preemptions so far


class _Search:
    """Depth first. States are kept as hashes: 64 bits, so 10^7 states collide with odds of 1 to 10^5."""

    def __init__(self, machine: Machine, preemptions: int) -> None:
        self.machine = machine
        self.most = preemptions
        self.seen: dict[int, int] = {}
        self.path: list[tuple[State, Choice | None]] = []

    def is_new(self, state: State, last: int, used: int) -> bool:
        key = hash(state if self.most == NO_BOUND else (state, last))
        if self.seen.get(key, 100) <= used:
            return False
        self.seen[key] = used
        return True

    def successors(self, state: State, last: int, used: int, outcome: Outcome) -> Iterator[Step]:
        machine, path, depth = self.machine, self.path, len(self.path)
        path.append((state, None))
        choices = machine.choices(state)
        bounded = self.most < NO_BOUND
        leaves = bounded and any(a == last for a, _ in choices)
        for choice in choices:
            cost = used + (leaves and choice[0] != last)
            if bounded and cost > self.most:
                continue
            path[depth] = (state, choice)
            ends, died = machine.take(state, choice)
            for after in (*ends, *died):
                yield after, choice[0], cost if bounded else 0
        if not any(what != TIMEOUT for _, what in choices):
            path[depth] = (state, None)
            later = judge(machine, state, outcome)
            if later is not None:
                yield later, -1, used


def judge(machine: Machine, state: State, outcome: Outcome) -> State | None:
    """Nobody can go on: the end, or the state after the bounded sleeps.

    Raises: Violation, when something is left undone that no bounded sleep may excuse.
    """
    memory, world = state[1], machine.world
    left = machine.monitor.unfinished(memory) or _stuck_producer(machine, state)
    if not left:
        outcome.ends += 1
        outcome.end_memories.add(hash(memory))
        return None
    if memory[world.disturbed] <= 0 and not memory[world.unkept]:
        raise Violation(f"all sleep and nobody died: {left}")
    if memory[world.ticks] >= _TICKS:
        raise Violation(f"not even bounded sleeps help: {left}")
    outcome.rescues += 1
    return machine.tick(state)


def _stuck_producer(machine: Machine, state: State) -> str:
    for a, name in enumerate(machine.world.actors):
        if name.startswith(("producer", "successor")) and state[1][machine.world.status[a]] == ALIVE:
            op = machine.automata[a].ops[state[0][a]]
            if op != END and op[0] != LOCK:
                return f"{name} waits for ever"
    return ""


def walk(machine: Machine, budgets: Start, seed: int, *, death_share: float = 0.02) -> Outcome:
    """One random schedule from start to end.

    Half of them are fair; in the other half an actor (or the arrival of its stores) runs until it is
    blocked or its priority is lowered, which finds what needs one of them to be very slow
    (probabilistic concurrency testing: Burckhardt et al., ASPLOS 2010).
    """
    dice, outcome = random.Random(seed), Outcome()
    path: list[tuple[State, Choice | None]] = []
    priorities: dict[tuple[int, bool], float] = {}
    try:
        state: State | None = dice.choice(machine.initial(budgets))
        while state is not None:
            choices = machine.choices(state)
            path.append((state, None))
            outcome.moves += 1
            if not any(what != TIMEOUT for _, what in choices):
                state = judge(machine, state, outcome)
                continue
            choice = _pick(dice, choices) if seed % 4 < 2 else _pick_by_priority(dice, choices, priorities)
            path[-1] = (state, choice)
            ends, died = machine.take(state, choice)
            state = dice.choice(died if died and dice.random() < death_share * len(died) else ends)
    except Violation as violation:
        outcome.violation = str(violation)
        outcome.trace = describe(machine, path)
    return outcome


def _pick(dice: random.Random, choices: list[Choice]) -> Choice:
    """An actor first, then what it does: one with many buffered stores is not more likely."""
    actors = list({a for a, what in choices})
    a = dice.choice(actors)
    return dice.choice([c for c in choices if c[0] == a])


def _pick_by_priority(dice: random.Random, choices: list[Choice], priorities: dict[tuple[int, bool], float]) -> Choice:
    def key(choice: Choice) -> tuple[int, bool]:
        return choice[0], choice[1] >= 0  # an actor, or its stores under way

    best = max(choices, key=lambda choice: priorities.setdefault(key(choice), dice.random()))
    if dice.random() < _LOWER_SHARE:
        priorities[key(best)] = min(priorities.values()) - dice.random()
    return best


def describe(machine: Machine, path: list[tuple[State, Choice | None]]) -> list[str]:
    """A schedule in words, one line per step: who did what, and which cells it changed."""
    lines: list[str] = []
    names = machine.world.names
    for i, (before, choice) in enumerate(path):
        after = path[i + 1][0] if i + 1 < len(path) else before
        who = machine.world.actors[choice[0]] if choice else "time"
        changes = [
            f"{names[c]}={_shown(names[c], v)}"
            for c, (u, v) in enumerate(zip(before[1], after[1], strict=True)) if u != v
        ]  # fmt: skip
        lines.append(f"{who:12} {_verb(machine, before, choice):24} {' '.join(changes)}".rstrip())
    return lines


def _shown(name: str, value: int) -> str:
    if not name.startswith("word["):
        return str(value)
    owner = f" by row {owner_of(value)}" if state_of(value) in (LEASED, RUNNING) else ""
    return f"{STATES[state_of(value)]}{owner} (group {group_of(value)}, generation {generation_of(value)})"


def _verb(machine: Machine, state: State, choice: Choice | None) -> str:
    if choice is None:
        return "passes"
    a, what = choice
    if what in (DIE, TIMEOUT):
        return "is dead" if what == DIE else "times out"
    if what != STEP:
        return f"arrives {machine.world.names[state[2][a][what][0]]}"
    op = machine.automata[a].ops[state[0][a]]
    if OP_NAMES[op[0]] == "note":
        return NOTES[op[1]]
    cells = op[2:3] if op[0] == FIND else op[1:2]
    return " ".join([OP_NAMES[op[0]], *(machine.world.names[cell] for cell in cells)])
