"""Simulated memory: store buffers, record locks, doorbells, death.

    strong  each actor's stores reach memory later, in their order (x86, "TSO")
    weak    stores to different cells overtake each other unless a fence, or the sync points that
            only such machines need, stands between (the store side of ARM; loads stay in order)

A load sees the actor's own buffered stores first. A fence, or ringing a bell, waits until the
buffer is empty. Unlocking is a buffered store that nothing overtakes: no more than any release
promises, so that the fences of the protocol stand on their own. Whoever is killed takes no
further step, but what it stored still arrives; after that its locks are free, silently.

Two reductions, neither of which hides a reachable failure:

- An actor's next steps that nobody can notice (stores into its buffer, fences that wait for
  nothing, loads of cells whose one writer it is) are taken together with the step before them.
- A death is tried only right after a step that changed something: dying later is the same.
"""

from __future__ import annotations

from typing import TypeVar

from tests.crash.model.automaton import END, Automaton, Op
from tests.crash.model.monitor import Monitor
from tests.crash.model.world import ALIVE, DEAD, FROZEN, REAPED, STOPPED, World

(_END, LOAD, STORE, FENCE, SYNC, LOCK, UNLOCK, POST, WAIT, CLEAR, NOTE, UNTIL, SPAWN, REAP, PROOF, FREEZE, THAW,
 KILL, LOOK, FIND) = range(20)  # fmt: skip
assert END == (_END,)
OP_NAMES = ("end load store fence sync lock unlock post wait clear note until spawn reap proof freeze thaw "
            "kill look find").split()  # fmt: skip

STEP, DIE, TIMEOUT = -1, -2, -3  # choices of an actor; 0, 1, ... : that buffered store arrives
_TOKENS = 3  # more tokens in a bell change nothing

T = TypeVar("T")
Buffer = tuple[tuple[int, int], ...]
State = tuple[tuple[int, ...], tuple[int, ...], tuple[Buffer, ...]]  # positions, memory, buffers
Choice = tuple[int, int]  # actor, what


def load(cell: int) -> Op:
    return (LOAD, cell)


def store(cell: int, value: int) -> Op:
    return (STORE, cell, value)


def fence() -> Op:
    return (FENCE,)


def sync() -> Op:
    """A sync point where x86 needs nothing: a fence on weak machines."""
    return (SYNC,)


def lock(cell: int) -> Op:
    return (LOCK, cell)


def unlock(cell: int) -> Op:
    return (UNLOCK, cell)


def post(bell: int) -> Op:
    return (POST, bell)


def wait(bell: int) -> Op:
    """Bounded sleep: answers 1 when rung, 0 when time is up."""
    return (WAIT, bell)


def clear(bell: int) -> Op:
    return (CLEAR, bell)


def note(kind: int, *args: int) -> Op:
    """Tell the monitor. Takes no time: part of the step before it."""
    return (NOTE, kind, *args)


def look_at(*pairs: int) -> Op:
    """Do the cells of any pair differ? One numpy comparison, taken as one step."""
    return (LOOK, *pairs)


def find(*cells: int) -> Op:
    """Index, from 1, of the first cell that is not 0; else 0. One `find`, taken as one step."""
    return (FIND, *cells)


def until(cell: int, least: int) -> Op:
    """Go on once the cell holds at least that: polling, in one step."""
    return (UNTIL, cell, least)


class Machine:
    """One world with its actors. States are tuples; the machine itself never changes."""

    def __init__(
        self, world: World, automata: list[Automaton], *, weak: bool = False, born: tuple[int, ...],
        children: tuple[int, ...] = (), crashes: dict[int, str] | None = None, reduce: bool = True,
    ) -> None:  # fmt: skip
        """`crashes` names the budget an actor's death is paid from; `children` are who REAP waits for."""
        self.world = world
        self.automata = automata
        self.monitor = Monitor(world)
        self.weak = weak
        self.reduce = reduce
        self.born = born
        self.children = children
        self._budget = {a: world.budget[name] for a, name in (crashes or {}).items()}
        self._ops = [a.ops for a in automata]
        self._status = world.status
        self._locks = frozenset(world.locks)

    def initial(self, budgets: dict[str, int]) -> State:
        """Everybody at the first step that somebody can notice."""
        memory = list(self.world.initial)
        for name, count in budgets.items():
            memory[self.world.budget[name]] = count
        for a in self.born:
            memory[self._status[a]] = ALIVE
            self.monitor.born(memory, a)
        state: State = ((0,) * len(self.automata), tuple(memory), ((),) * len(self.automata))
        for a in self.born:
            state = self._settle(state, a, [], list(state[1]))  # nobody dies before its first step
        return state

    def choices(self, state: State) -> list[Choice]:
        """Who can do what now."""
        positions, memory, buffers = state
        found: list[Choice] = []
        for a, cell in enumerate(self._status):
            status = memory[cell]
            if status == ALIVE:
                op = self._ops[a][positions[a]]
                if self._is_enabled(op, a, state):
                    found.append((a, STEP))
                if op[0] == WAIT and memory[self.world.budget["timeout"]]:
                    found.append((a, TIMEOUT))
            if buffers[a] and ALIVE <= status <= STOPPED:
                found.extend((a, i) for i in self._arrivable(buffers[a]))
            elif status == STOPPED:
                found.append((a, DIE))
        return found

    def take(self, state: State, choice: Choice) -> list[State]:
        """The state after the choice, first; behind it those in which the actor died on the way."""
        a, what = choice
        memory = list(state[1])
        died: list[State] = []
        if what == STEP:
            after, answer = self._step(state, a, memory)
            after = self._answer(after, a, answer, memory)
            if self._ops[a][state[0][a]][0] not in (LOAD, LOOK, FIND):
                self._maybe_dead(after, a, memory, died)
            return [self._settle(after, a, died, memory), *died]
        if what == TIMEOUT:
            memory[self.world.budget["timeout"]] -= 1
            return [self._settle(self._answer(state, a, 0, memory), a, died, memory), *died]
        if what == DIE:
            self._die(a, memory)
            return [(state[0], tuple(memory), state[2])]
        buffer = state[2][a]
        self._arrive(a, buffer[what], memory)
        left = _put(state[2], a, buffer[:what] + buffer[what + 1 :])
        if memory[self._status[a]] == STOPPED:
            left = self._run_out(a, memory, left)
        return [self._settle((state[0], state[1], left), a, died, memory), *died]

    def tick(self, state: State) -> State:
        """Time passes: every sleep that is under way ends without a token."""
        memory = list(state[1])
        memory[self.world.ticks] += 1
        state = (state[0], tuple(memory), state[2])
        for a in range(len(self.automata)):
            if state[1][self._status[a]] == ALIVE and self._ops[a][state[0][a]][0] == WAIT:
                memory = list(state[1])
                state = self._settle(self._answer(state, a, 0, memory), a, [], memory)
        return state

    def is_at_end(self, state: State, a: int) -> bool:
        """Has the actor done all it was to do, or died?"""
        return state[1][self._status[a]] != ALIVE or self._ops[a][state[0][a]] == END

    def _is_enabled(self, op: Op, a: int, state: State) -> bool:
        kind = op[0]
        _, memory, buffers = state
        buffer = buffers[a]
        if kind in (LOAD, LOOK, FIND, CLEAR, PROOF):
            return True
        if kind == LOCK:
            return not memory[op[1]] and all(cell != op[1] for cell, _ in buffer)
        if kind == WAIT:
            return memory[op[1]] > 0
        if kind == FREEZE:  # a stopped processor has drained its buffer
            return not buffers[op[1]]
        if kind in (POST, SPAWN, THAW, KILL):
            return not buffer
        if kind == UNTIL:
            return memory[op[1]] >= op[2]
        if kind == REAP:
            return any(memory[self._status[c]] == DEAD for c in self.children)
        return False

    def _step(self, state: State, a: int, memory: list[int]) -> tuple[State, int]:
        """Do what the actor wants; its position is moved by the caller."""
        op = self._ops[a][state[0][a]]
        kind, answer = op[0], 0
        if kind == LOAD:
            self.monitor.reads(memory, a, op[1])
            answer = _seen(op[1], memory, state[2][a])
        elif kind == LOCK:
            memory[op[1]] = a + 1
        elif kind == LOOK:
            values = [_seen(cell, memory, state[2][a]) for cell in op[1:]]
            answer = int(values[::2] != values[1::2])
        elif kind == FIND:
            answer = next((i for i, c in enumerate(op[1:], 1) if _seen(c, memory, state[2][a])), 0)
        elif kind == WAIT:
            memory[op[1]] -= 1
            answer = 1
        elif kind == CLEAR:
            memory[op[1]] = 0
        elif kind == POST:
            memory[op[1]] = min(memory[op[1]] + 1, _TOKENS)
        elif kind == REAP:
            answer = next(c for c in self.children if memory[self._status[c]] == DEAD)
            memory[self._status[answer]] = REAPED
        elif kind == PROOF:
            answer = int(memory[self._status[op[1]]] >= DEAD)
        elif kind == SPAWN:
            state = self._spawn(state, op[1], memory)
        elif kind in (FREEZE, THAW, KILL):
            answer = self._signal(kind, a, op, memory)
        return state, answer

    def _spawn(self, state: State, child: int, memory: list[int]) -> State:
        self.monitor.born(memory, child)
        memory[self._status[child]] = ALIVE
        state = (_put(state[0], child, 0), tuple(memory), _put(state[2], child, ()))
        state = self._settle(state, child, [], memory)
        memory[:] = state[1]
        return state

    def _signal(self, kind: int, a: int, op: Op, memory: list[int]) -> int:
        cell = self._status[op[1]]
        if kind == FREEZE and memory[cell] == ALIVE:
            memory[cell] = FROZEN
        elif kind == THAW and memory[cell] == FROZEN:
            memory[cell] = ALIVE
        elif kind == KILL and memory[cell] == FROZEN:
            self.monitor.killed(memory, a, op[1], op[2])
            memory[cell] = STOPPED
        return int(memory[cell] == FROZEN)

    def _answer(self, state: State, a: int, answer: int, memory: list[int]) -> State:
        positions = _put(state[0], a, self.automata[a].after(state[0][a], answer))
        return (positions, tuple(memory), state[2])

    def _arrivable(self, buffer: Buffer) -> list[int]:
        if not self.weak:
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

    def _arrive(self, a: int, entry: tuple[int, int], memory: list[int]) -> None:
        self.monitor.arrives(memory, a, *entry)
        memory[entry[0]] = entry[1]

    def _maybe_dead(self, state: State, a: int, memory: list[int], died: list[State]) -> None:
        budget = self._budget.get(a)
        if budget is None or not memory[budget]:
            return
        after = list(memory)
        after[budget] -= 1
        after[self._status[a]] = STOPPED
        after[self.world.disturbed] += 1
        buffers = self._run_out(a, after, state[2])
        died.append((_put(state[0], a, 0), tuple(after), buffers))

    def _run_out(self, a: int, memory: list[int], buffers: tuple[Buffer, ...]) -> tuple[Buffer, ...]:
        """Whoever is stopped holds nothing any more: then its death itself is no step of its own."""
        buffers = self._drain_unnoticed(a, memory, buffers)
        if not buffers[a] and not any(memory[cell] == a + 1 for cell in self.world.locks):
            self._die(a, memory)
        return buffers

    def _die(self, a: int, memory: list[int]) -> None:
        memory[self._status[a]] = DEAD
        for cell in self.world.locks:
            if memory[cell] == a + 1:
                memory[cell] = 0

    def _drain_unnoticed(self, a: int, memory: list[int], buffers: tuple[Buffer, ...]) -> tuple[Buffer, ...]:
        """Let arrive at once what only its owner may look at. In order only: weak stores may part."""
        buffer = buffers[a]
        if self.weak or not self.reduce:
            return buffers
        count = 0
        while count < len(buffer) and self.monitor.is_private(memory, a, buffer[count][0]):
            self._arrive(a, buffer[count], memory)
            count += 1
        return _put(buffers, a, buffer[count:]) if count else buffers

    def _settle(self, state: State, a: int, died: list[State], memory: list[int]) -> State:
        """Take the actor's next steps as long as nobody can notice them."""
        positions, _, buffers = state
        ops, after = self._ops[a], self.automata[a].after
        at = positions[a]
        while memory[self._status[a]] == ALIVE:
            buffers = self._drain_unnoticed(a, memory, buffers)
            op = ops[at]
            kind, answer = op[0], 0
            if kind == STORE:
                buffers = _put(buffers, a, (*buffers[a], (op[1], op[2])))
            elif kind == UNLOCK:
                buffers = _put(buffers, a, (*buffers[a], (op[1], 0)))
            elif kind == NOTE:
                self.monitor.noted(memory, a, op)
            elif kind == LOAD and self.reduce and self.monitor.is_own(memory, a, op[1]):
                answer = _seen(op[1], memory, buffers[a])
            elif not ((kind in (FENCE, SYNC) and not buffers[a]) or (kind == SYNC and not self.weak)):
                break
            at = after(at, answer)
            if kind in (STORE, UNLOCK):
                self._maybe_dead((positions, (), buffers), a, memory, died)
        return (_put(positions, a, at), tuple(memory), buffers)


def _seen(cell: int, memory: list[int], buffer: Buffer) -> int:
    for at, value in reversed(buffer):
        if at == cell:
            return value
    return memory[cell]


def _put(items: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*items[:at], value, *items[at + 1 :])
