"""Simulated memory: store buffers, old values, record locks, doorbells, death.

    x86   an actor's stores reach memory later, in their order ("TSO"); a fence waits for them
    pso   stores to different cells overtake each other, unless a fence or one of the sync points
          that only such machines need stands between
    arm   the same, and a load may answer what a cell held at any time since the actor's last fence,
          lock or wake-up, as long as it never goes back in time for that cell

A load sees the actor's own buffered stores first. Ringing a bell waits until the buffer is empty.
Unlocking is a buffered store that nothing overtakes: no more than any release promises, so that the
fences of the protocol stand on their own. Whoever is killed takes no further step, but what it
stored still arrives; after that its locks are free, silently.

Two reductions, neither of which hides a reachable failure:

- An actor's next steps that nobody can notice (stores into its buffer, fences that wait for
  nothing, loads of cells whose one writer it is) are taken together with the step before them.
- A death is tried only right after a step that changed something: dying later is the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.crash.model.automaton import Automaton, Op
from tests.crash.model.monitor import Monitor
from tests.crash.model.ops import (
    CLEAR,
    EXIT,
    FENCE,
    FIND,
    FREEZE,
    KILL,
    LOAD,
    LOCK,
    LOOK,
    NOTE,
    POST,
    PROOF,
    REAP,
    SPAWN,
    STORE,
    SYNC,
    THAW,
    UNLOCK,
    UNTIL,
    WAIT,
)
from tests.crash.model.world import ALIVE, DEAD, FROZEN, REAPED, ROW_DEAD, STOPPED, World

X86, PSO, ARM = "x86", "pso", "arm"
STEP, DIE, TIMEOUT = -1, -2, -3  # choices of an actor; 0, 1, ... : that buffered store arrives

_TOKENS = 3  # more tokens in a bell change nothing
_LOOKS = frozenset({LOAD, LOOK, FIND})
_ALWAYS = frozenset({LOAD, LOOK, FIND, CLEAR, PROOF})
_AFTER_DRAIN = frozenset({POST, SPAWN, THAW, KILL, EXIT})
_ACQUIRES = frozenset({LOCK, WAIT, PROOF, REAP, UNTIL})

Cells = tuple[tuple[int, int], ...]  # (cell, value), oldest first
State = tuple[tuple[int, ...], tuple[int, ...], tuple[Cells, ...], tuple[Cells, ...]]
"""Positions of the actors, memory, stores under way, and old values that each may still see."""
Choice = tuple[int, int]  # actor, what


class _Draft:
    """A state being changed."""

    __slots__ = ("buffers", "memory", "old", "positions")

    def __init__(self, state: State) -> None:
        self.positions = list(state[0])
        self.memory = list(state[1])
        self.buffers = list(state[2])
        self.old = list(state[3])

    def state(self) -> State:
        return (tuple(self.positions), tuple(self.memory), tuple(self.buffers), tuple(self.old))

    def seen(self, a: int, cell: int) -> int:
        for at, value in reversed(self.buffers[a]):
            if at == cell:
                return value
        return self.memory[cell]


class Machine:
    """One world with its actors. States are tuples; the machine itself never changes."""

    def __init__(
        self, world: World, automata: list[Automaton], *, kind: str = X86, born: tuple[int, ...],
        children: tuple[int, ...] = (), crashes: dict[int, str] | None = None, reduce: bool = True,
    ) -> None:  # fmt: skip
        """`crashes` names the budget an actor's death is paid from; `children` are who REAP waits for."""
        self.world = world
        self.automata = automata
        self.monitor = Monitor(world)
        self.is_weak = kind != X86
        self.shows_old = kind == ARM
        self.reduce = reduce
        self.born = born
        self.children = children
        self._budget = {a: world.budget[name] for a, name in (crashes or {}).items()}
        self._ops = [a.ops for a in automata]
        self._status = world.status
        self._locks = frozenset(world.locks)
        self._timeouts = world.budget["timeout"]

    def initial(self, budgets: dict[str, int]) -> list[State]:
        """Everybody at the first step that somebody can notice; behind it those where one died before."""
        memory, nothing = list(self.world.initial), ((),) * len(self.automata)
        for name, count in budgets.items():
            memory[self.world.budget[name]] = count
        for a in self.born:
            memory[self._status[a]] = ALIVE
            self.monitor.born(memory, a)
        states: list[State] = [((0,) * len(self.automata), tuple(memory), nothing, nothing)]
        for a in self.born:
            begun: list[State] = []
            died: list[State] = []
            for state in states:
                draft = _Draft(state)
                self._settle(draft, a, died)
                begun.append(draft.state())
            states = begun + died
        return states

    def choices(self, state: State) -> list[Choice]:
        """Who can do what now."""
        positions, memory, buffers, _ = state
        found: list[Choice] = []
        for a, cell in enumerate(self._status):
            status = memory[cell]
            if status == ALIVE:
                op = self._ops[a][positions[a]]
                if op[0] in _ALWAYS or self._is_enabled(op, a, state):
                    found.append((a, STEP))
                if op[0] == WAIT and memory[self._timeouts]:
                    found.append((a, TIMEOUT))
            if buffers[a] and ALIVE <= status <= STOPPED:
                found.extend((a, i) for i in self._arrivable(buffers[a]))
            elif status == STOPPED:
                found.append((a, DIE))
        return found

    def take(self, state: State, choice: Choice) -> tuple[list[State], list[State]]:
        """What the choice may lead to (one state for each answer); and where the actor died on the way."""
        a, what = choice
        ends: list[State] = []
        died: list[State] = []
        if what == STEP:
            op = self._ops[a][state[0][a]]
            for draft, answer in self._step(state, a, op):
                draft.positions[a] = self.automata[a].after(draft.positions[a], answer)
                if op[0] not in _LOOKS:
                    self._maybe_dead(draft, a, died)
                self._settle(draft, a, died)
                ends.append(draft.state())
            return ends, died
        draft = _Draft(state)
        if what == TIMEOUT:
            draft.memory[self._timeouts] -= 1
            draft.positions[a] = self.automata[a].after(draft.positions[a], 0)
        elif what == DIE:
            self._die(draft, a)
        else:
            buffer = draft.buffers[a]
            draft.buffers[a] = buffer[:what] + buffer[what + 1 :]
            self._arrive(draft, a, buffer[what])
            if draft.memory[self._status[a]] == STOPPED:
                self._run_out(draft, a)
        self._settle(draft, a, died)
        return [draft.state()], died

    def tick(self, state: State) -> State:
        """Time passes: every sleep that is under way ends without a token."""
        draft = _Draft(state)
        draft.memory[self.world.ticks] += 1
        draft.memory[self.world.unkept] = 0
        for a, cell in enumerate(self._status):
            if draft.memory[cell] == ALIVE and self._ops[a][draft.positions[a]][0] == WAIT:
                draft.positions[a] = self.automata[a].after(draft.positions[a], 0)
                self._settle(draft, a, [])
        return draft.state()

    # ------------------------------------------------------------------ steps

    def _is_enabled(self, op: Op, a: int, state: State) -> bool:
        kind, memory, buffer = op[0], state[1], state[2][a]
        if kind == LOCK:
            # on x86 taking a lock is an atomic instruction, which drains the buffer
            return not memory[op[1]] and (all(cell != op[1] for cell, _ in buffer) if self.is_weak else not buffer)
        if kind == WAIT:
            return memory[op[1]] > 0
        if kind in _AFTER_DRAIN:
            return not buffer
        if kind == FREEZE:  # a stopped processor has drained its buffer
            return not state[2][op[1]]
        if kind == UNTIL:
            return memory[op[1]] >= op[2]
        if kind == REAP:
            return any(memory[self._status[c]] == DEAD for c in self.children)
        return False

    def _step(self, state: State, a: int, op: Op) -> Iterable[tuple[_Draft, int]]:
        """Do what the actor wants; each answer it may get, with the state after it."""
        draft = _Draft(state)
        if op[0] == LOAD:
            self.monitor.reads(draft.memory, a, op[1])
            return self._loads(state, a, op[1])
        if op[0] in _ACQUIRES or (op[0] == CLEAR and state[1][op[1]]):
            draft.old[a] = ()
        return [(draft, self._do(draft, a, op))]

    def _loads(self, state: State, a: int, cell: int) -> Iterable[tuple[_Draft, int]]:
        old = state[3][a]
        for i, (at, value) in enumerate(old):
            if at == cell:  # from now on nothing older than this
                draft = _Draft(state)
                draft.old[a] = (*(entry for entry in old[:i] if entry[0] != cell), *old[i:])
                yield draft, value
        draft = _Draft(state)
        draft.old[a] = tuple(entry for entry in old if entry[0] != cell)
        yield draft, draft.seen(a, cell)

    def _do(self, draft: _Draft, a: int, op: Op) -> int:
        kind, memory = op[0], draft.memory
        if kind == LOOK:
            values = [draft.seen(a, cell) for cell in op[1:]]
            return int(values[::2] != values[1::2])
        if kind == FIND:
            return next((i for i, cell in enumerate(op[2:], 1) if draft.seen(a, cell) == op[1]), 0)
        if kind == LOCK:
            memory[op[1]] = a + 1
        elif kind == WAIT:
            memory[op[1]] -= 1
            return 1
        elif kind == CLEAR:
            memory[op[1]] = 0
        elif kind == POST:
            memory[op[1]] = min(memory[op[1]] + 1, _TOKENS)
        elif kind == EXIT:
            self._die(draft, a)
        else:
            return self._do_to_another(draft, a, op)
        return 0

    def _do_to_another(self, draft: _Draft, a: int, op: Op) -> int:
        kind, memory = op[0], draft.memory
        if kind == REAP:
            child = next(c for c in self.children if memory[self._status[c]] == DEAD)
            memory[self._status[child]] = REAPED
            self._mark_dead(memory, child)
            return child
        if kind == SPAWN:
            self._spawn(draft, op[1])
        elif kind == PROOF:
            return int(memory[self._status[op[1]]] >= DEAD)
        elif kind in (FREEZE, THAW, KILL):
            return self._signal(memory, a, op)
        return 0

    def _mark_dead(self, memory: list[int], child: int) -> None:
        """The supervisor's row DEAD and ring of recovery: only recovery looks, so one step will do."""
        row = self.world.home[child]
        if row >= 0 and "recovery" in self.world.actors:
            memory[self.world.row[row]] = ROW_DEAD
            bell = self.world.bell[self.world.actor("recovery")]
            memory[bell] = min(memory[bell] + 1, _TOKENS)

    def _spawn(self, draft: _Draft, child: int) -> None:
        self.monitor.born(draft.memory, child)
        draft.memory[self._status[child]] = ALIVE
        for cell in (*self.world.rung[child], *self.world.rung_wait[child]):  # a new process remembers nothing
            draft.memory[cell] = 0
        draft.positions[child], draft.buffers[child], draft.old[child] = 0, (), ()
        self._settle(draft, child, [])

    def _signal(self, memory: list[int], a: int, op: Op) -> int:
        kind, cell = op[0], self._status[op[1]]
        if kind == FREEZE and memory[cell] == ALIVE:
            memory[cell] = FROZEN
        elif kind == THAW and memory[cell] == FROZEN:
            memory[cell] = ALIVE
        elif kind == KILL and ALIVE <= memory[cell] <= FROZEN:
            if len(op) > 2:
                self.monitor.killed(memory, a, op[1], op[2])
            memory[cell] = STOPPED
        return int(memory[cell] == FROZEN)

    # ------------------------------------------------------------------ stores

    def _arrivable(self, buffer: Cells) -> list[int]:
        if not self.is_weak:
            return [0]
        found: list[int] = []
        seen: set[int] = set()
        for i, (cell, _) in enumerate(buffer):
            if cell in self._locks:
                if not i:
                    found.append(0)
                break
            if cell not in seen:
                seen.add(cell)
                found.append(i)
        return found

    def _arrive(self, draft: _Draft, a: int, entry: tuple[int, int]) -> None:
        cell, value = entry
        self.monitor.arrives(draft.memory, a, cell, value)
        if self.shows_old and draft.memory[cell] != value and cell not in self._locks:
            for b, status in enumerate(self._status):
                if b != a and draft.memory[status] == ALIVE:
                    draft.old[b] = (*draft.old[b], (cell, draft.memory[cell]))
        draft.memory[cell] = value

    def _drain_unnoticed(self, draft: _Draft, a: int) -> None:
        """Let arrive at once what only its owner may look at. In order only: weak stores may part."""
        if self.is_weak or not self.reduce:
            return
        while draft.buffers[a] and self.monitor.is_private(draft.memory, a, draft.buffers[a][0][0]):
            entry, *left = draft.buffers[a]
            draft.buffers[a] = tuple(left)
            self._arrive(draft, a, entry)

    # ------------------------------------------------------------------ death

    def _maybe_dead(self, draft: _Draft, a: int, died: list[State]) -> None:
        budget = self._budget.get(a)
        if budget is None or not draft.memory[budget]:
            return
        dead = _Draft((tuple(draft.positions), tuple(draft.memory), tuple(draft.buffers), tuple(draft.old)))
        dead.memory[budget] -= 1
        dead.memory[self._status[a]] = STOPPED
        dead.memory[self.world.disturbed] += 1
        dead.positions[a], dead.old[a] = 0, ()
        self._run_out(dead, a)
        died.append(dead.state())

    def _run_out(self, draft: _Draft, a: int) -> None:
        """Whoever is stopped and holds nothing any more is dead: that is no step of its own."""
        self._drain_unnoticed(draft, a)
        if not draft.buffers[a] and not any(draft.memory[cell] == a + 1 for cell in self.world.locks):
            self._die(draft, a)

    def _die(self, draft: _Draft, a: int) -> None:
        draft.memory[self._status[a]] = DEAD
        for cell in self.world.locks:
            if draft.memory[cell] == a + 1:
                draft.memory[cell] = 0

    # ------------------------------------------------------------------ what nobody notices

    def _settle(self, draft: _Draft, a: int, died: list[State]) -> None:
        """Take the actor's next steps as long as nobody can notice them."""
        ops, after = self._ops[a], self.automata[a].after
        while draft.memory[self._status[a]] == ALIVE:
            if draft.buffers[a]:
                self._drain_unnoticed(draft, a)
            op = ops[draft.positions[a]]
            kind, answer = op[0], 0
            if kind in (STORE, UNLOCK):
                draft.buffers[a] = (*draft.buffers[a], (op[1], op[2] if kind == STORE else 0))
                if draft.old[a]:
                    draft.old[a] = tuple(entry for entry in draft.old[a] if entry[0] != op[1])
            elif kind == NOTE:
                self.monitor.noted(draft.memory, a, op)
            elif kind == LOAD:
                if not self._is_unnoticed_load(draft, a, op[1]):
                    break
                answer = draft.seen(a, op[1])
            elif kind == SYNC and not self.is_weak:
                pass
            elif kind in (FENCE, SYNC) and not draft.buffers[a]:
                draft.old[a] = ()
            else:
                break
            draft.positions[a] = after(draft.positions[a], answer)
            if kind in (STORE, UNLOCK):
                self._maybe_dead(draft, a, died)

    def _is_unnoticed_load(self, draft: _Draft, a: int, cell: int) -> bool:
        if not self.reduce or any(at == cell for at, _ in draft.old[a]):
            return False
        return self.monitor.is_own(draft.memory, a, cell)
