"""What must hold, checked at every store that reaches memory and at every note.

- A word is written only by its one writer, along an arrow of the state machine (the table of the
  architecture, with one line that it lacks: the sleeping byte of a dead row is recovery's).
- A job starts only as what was published, never beside a living run, never after its end, never
  once its cancellation was called certain.
- When nobody can go on, everything accepted has ended, and no slot is stuck.
- Nobody sleeps over visible work, except after a death that recovery has not yet dealt with, or
  after a producer relied on a promise whose giver was already buried.
"""

from __future__ import annotations

from typing import NoReturn

from tests.crash.model.automaton import Op
from tests.crash.model.world import (
    CANCELLED,
    DEAD,
    DONE,
    ENDED,
    ENDED_CANCELLED,
    ENDED_DEAD,
    FAILED,
    FREE,
    FROZEN,
    LEASED,
    QUEUED,
    REQUEUED,
    ROW_DEAD,
    ROW_FREE,
    ROW_LIVE,
    RUNNING,
    SCHEDULED,
    STATES,
    STOPPED,
    World,
    crashes_of,
    generation_of,
    group_of,
    owner_of,
    state_of,
)

ISSUE, ACCEPT, START, GOT, CERTAIN, SETTLED, VIEW, TENANT, ASK, OWES, AT_HOME, RELIES = range(12)
NOTES = ("issue", "accept", "start", "got", "certain", "settled", "view", "tenant", "ask", "owes", "at home", "relies")

RESULT_OF = 7  # a job's right result is its number plus this

_ARROWS = frozenset({
    (FREE, QUEUED), (FREE, SCHEDULED), (FREE, FREE),
    (QUEUED, LEASED), (REQUEUED, LEASED),
    (LEASED, RUNNING), (LEASED, SCHEDULED), (LEASED, CANCELLED), (LEASED, REQUEUED), (LEASED, FREE),
    (RUNNING, DONE), (RUNNING, FAILED), (RUNNING, FREE), (RUNNING, SCHEDULED), (RUNNING, REQUEUED),
    (SCHEDULED, REQUEUED), (SCHEDULED, CANCELLED), (QUEUED, CANCELLED), (REQUEUED, CANCELLED),
    (DONE, FREE), (FAILED, FREE), (CANCELLED, FREE),
})  # fmt: skip


class Violation(Exception):
    """Something that must never be so."""


class Monitor:
    """Judges one world. `memory` is the list about to change, before the change."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._kinds = world.kinds
        self._rules = [getattr(self, f"_{kind}", None) for kind, _ in world.kinds]
        # two mutants would be caught by this one check; it is their consequences that must be noticed
        self._counts_generations = not (world.is_mutant("split_word") or world.is_mutant("same_generation"))

    # ------------------------------------------------------------------ whose is it?

    def is_private(self, memory: list[int], a: int, cell: int) -> bool:
        """May nobody but `a` write *or read* the cell until `a` itself lets go?"""
        kind, index = self._kinds[cell]
        if kind in ("payload", "result"):
            return self._may_write_word(memory, a, index[0])
        return kind in ("rung", "rung_wait") or (
            kind == "ring" and self._holds_lane(memory, a, index[1]) and not self._is_live(memory, index)
        )

    def is_own(self, memory: list[int], a: int, cell: int) -> bool:
        """May nobody but `a` write the cell until `a` itself lets go? Then `a` may read it at any time."""
        w = self.world
        kind, index = self._kinds[cell]
        if kind in ("word", "payload", "result", "high"):
            return self._may_write_word(memory, a, index[0])
        if kind == "head":
            return memory[w.group_lock[index[0]]] == a + 1
        if kind == "tail":
            return self._holds_lane(memory, a, index[1])
        if kind == "ring":
            if self._holds_lane(memory, a, index[1]):
                return True
            return memory[w.group_lock[index[0]]] == a + 1 and self._is_live(memory, index)
        if kind in ("sleeping", "nap", "bell_of") or (kind == "scheduled" and index[0] < len(w.in_row)):
            return memory[w.in_row[index[0]]] == a + 1
        if kind in ("waiting", "waits", "cancel"):
            row = index[0] // w.shape.slots if kind == "cancel" else index[0]
            return memory[w.tenant[row]] == a + 1
        return kind in ("rung", "rung_wait")

    def _holds_lane(self, memory: list[int], a: int, lane: int) -> bool:
        w = self.world
        cell = w.recovery_lock if lane == w.recovery_lane else w.tenant[lane]
        return memory[cell] == a + 1

    def _is_live(self, memory: list[int], index: tuple[int, ...]) -> bool:
        """Is the ring cell between head and tail?"""
        w = self.world
        head, tail = memory[w.head[index[0], index[1]]], memory[w.tail[index[0], index[1]]]
        return (index[2] - head) % w.room(index[1]) < tail - head

    def _may_write_word(self, memory: list[int], a: int, slot: int) -> bool:
        w = self.world
        value = memory[w.word[slot]]
        state = value & 15
        if state in (LEASED, RUNNING):
            holder = memory[w.in_row[owner_of(value)]]
            if holder == a + 1:
                return memory[w.status[a]] < DEAD
            return holder > 0 and memory[w.recovery_lock] == a + 1 and memory[w.status[holder - 1]] >= DEAD
        if state in (QUEUED, REQUEUED):
            return memory[w.group_lock[group_of(value)]] == a + 1
        if state == SCHEDULED:
            return memory[w.recovery_lock] == a + 1
        return memory[w.tenant[slot // w.shape.slots]] == a + 1

    # ------------------------------------------------------------------ stores

    def arrives(self, memory: list[int], a: int, cell: int, value: int) -> None:
        """Raises: Violation, when `a` may not store this there now."""
        rule = self._rules[cell]
        if rule is not None:
            rule(memory, a, self._kinds[cell][1], value)

    def reads(self, memory: list[int], a: int, cell: int) -> None:
        """Raises: Violation, when `a` looks at data that somebody else may be writing."""
        kind, index = self._kinds[cell]
        if kind in ("payload", "result", "ring") and not self.is_own(memory, a, cell):
            self._fail(a, f"read {kind} {index}, which somebody else may be writing")

    def _fail(self, a: int, why: str) -> NoReturn:
        raise Violation(f"{self.world.actors[a]}: {why}")

    def _word(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        slot, w = index[0], self.world
        old = memory[w.word[slot]]
        was, now = state_of(old), state_of(value)
        if not self._may_write_word(memory, a, slot):
            self._fail(a, f"wrote {STATES[now]} over word {slot}, which says {STATES[was]} and is not its to write")
        if (was, now) not in _ARROWS:
            self._fail(a, f"took word {slot} from {STATES[was]} to {STATES[now]}")
        if self._counts_generations and generation_of(value) != generation_of(old) + (now == FREE):
            self._fail(a, f"gave word {slot} generation {generation_of(value)} after {generation_of(old)}")
        if now in (LEASED, RUNNING) and memory[w.in_row[owner_of(value)]] != a + 1:
            self._fail(a, f"leased slot {slot} in the name of row {owner_of(value)}")
        self._word_ends(memory, a, slot, old, value)

    def _word_ends(self, memory: list[int], a: int, slot: int, old: int, value: int) -> None:
        w, job, was, now = self.world, memory[self.world.issued[slot]], state_of(old), state_of(value)
        memory[w.ticks] = 0
        if was == RUNNING and now in (DONE, FREE):
            memory[w.fate[job]] = ENDED
        elif was == RUNNING and now == FAILED:
            memory[w.fate[job]] = ENDED_DEAD
        elif now == CANCELLED or (was == LEASED and now == FREE):
            if not memory[w.asked[job]]:
                self._fail(a, f"cancelled job {job}, which nobody asked for")
            memory[w.fate[job]] = ENDED_CANCELLED
        elif was == RUNNING and now == SCHEDULED:
            memory[w.fate[job]] = 0
            if crashes_of(value) != crashes_of(old) - 1:
                self._fail(a, f"job {job} failed and was charged a crash")
        elif was == LEASED and now in (REQUEUED, SCHEDULED) and crashes_of(value) != crashes_of(old):
            self._fail(a, f"job {job} was only leased and was charged a crash")

    def _high(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        if not self._may_write_word(memory, a, index[0]):
            self._fail(a, f"wrote half of word {index[0]}, which is not its to write any more")

    def _payload(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        if not self._may_write_word(memory, a, index[0]):
            self._fail(a, f"wrote data of slot {index[0]}, which is not its to write")

    _result = _payload

    def _head(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        w, at = self.world, (index[0], index[1])
        if memory[w.group_lock[index[0]]] != a + 1:
            self._fail(a, f"moved the head of lane {at} without the group's byte")
        if not memory[w.head[at]] <= value <= memory[w.tail[at]]:
            self._fail(a, f"moved head {memory[w.head[at]]} of lane {at} to {value}, tail {memory[w.tail[at]]}")

    def _tail(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        w, at = self.world, (index[0], index[1])
        if not self._holds_lane(memory, a, index[1]):
            self._fail(a, f"moved the tail of lane {at}, which it does not hold")
        if value != memory[w.tail[at]] + 1 or value - memory[w.head[at]] > w.room(index[1]):
            self._fail(a, f"moved tail {memory[w.tail[at]]} of lane {at} to {value}, head {memory[w.head[at]]}")

    def _ring(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        if not self._holds_lane(memory, a, index[1]):
            self._fail(a, f"wrote ring cell {index}, which it does not hold")
        if self._is_live(memory, index):
            self._fail(a, f"overwrote the live entry in ring cell {index}")

    def _sleeping(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        w, holder = self.world, memory[self.world.in_row[index[0]]]
        buried = memory[w.recovery_lock] == a + 1 and (not holder or memory[w.status[holder - 1]] >= DEAD)
        if holder != a + 1 and not buried:
            self._fail(a, f"wrote the sleeping byte of row {index[0]}")

    def _row(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        w, row = self.world, index[0]
        old, holder = memory[w.row[row]], memory[w.in_row[row]]
        if value == ROW_DEAD:
            memory[w.disturbed] += 1
        if value == ROW_FREE:
            if memory[w.recovery_lock] != a + 1 or old != ROW_DEAD:
                self._fail(a, f"freed row {row}, which is not its to free")
            memory[w.disturbed] -= 1
        if value == ROW_LIVE and holder != a + 1:
            self._fail(a, f"called row {row} its own")

    def _attended(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        if memory[self.world.group_lock[index[0]]] != a + 1:
            self._fail(a, f"promised {value} for group {index[0]} without its byte")
        memory[self.world.vow[a]] = max(memory[self.world.vow[a]], value)

    def _cancel(self, memory: list[int], a: int, index: tuple[int, ...], value: int) -> None:
        if memory[self.world.tenant[index[0] // self.world.shape.slots]] != a + 1:
            self._fail(a, f"cancelled in slot {index[0]} without holding the row")

    # ------------------------------------------------------------------ notes

    def noted(self, memory: list[int], a: int, op: Op) -> None:
        """Raises: Violation, when what `a` says happened must not happen."""
        w, kind = self.world, op[1]
        if kind == ISSUE:
            memory[w.issued[op[2]]] = op[3]
            memory[w.fate[op[3]]] = 0
        elif kind == ACCEPT:
            memory[w.accepted[op[2]]] = 1
            memory[w.ticks] = 0
        elif kind == START:
            self._started(memory, a, op[2], op[3])
        elif kind == GOT and op[3] != op[2] + RESULT_OF:
            self._fail(a, f"got {op[3]} as result of job {op[2]}")
        elif kind == CERTAIN:
            fate = memory[w.fate[op[2]]]
            if 0 < fate < ENDED and memory[w.status[fate - 1]] < STOPPED:
                self._fail(a, f"was told that job {op[2]} will not run while it runs")
            memory[w.asked[op[2]]] = 2
        elif kind == ASK:
            memory[w.asked[op[2]]] = 1
        elif kind == AT_HOME:
            memory[w.in_row[op[2]]] = a + 1
        elif kind == OWES:
            memory[w.disturbed] += op[2]
        elif kind == TENANT:
            memory[w.tenant[op[2]]] = a + 1
        elif kind == SETTLED:
            memory[w.disturbed] -= 1
        elif kind == RELIES and not self._is_covered(memory, op[2]):
            memory[w.unkept] = 1
        elif kind == VIEW and op[2] != op[3]:
            self._fail(a, f"its view shows {op[2]} where {op[3]} was")

    def _is_covered(self, memory: list[int], moment: int) -> bool:
        """Has anybody promised to look then or later whose burial has not begun?"""
        w = self.world
        return any(
            memory[cell] >= moment and memory[w.in_row[w.home[a]]] == a + 1 and memory[w.row[w.home[a]]] == ROW_LIVE
            for a, cell in enumerate(w.vow)
        )

    def _started(self, memory: list[int], a: int, slot: int, job: int) -> None:
        w = self.world
        if not job or job != memory[w.issued[slot]]:
            self._fail(a, f"started job {job} from slot {slot}, which holds job {memory[w.issued[slot]]}")
        fate = memory[w.fate[job]]
        if fate >= ENDED:
            self._fail(a, f"started job {job} after its end")
        if fate and memory[w.status[fate - 1]] < STOPPED:
            self._fail(a, f"started job {job} while {w.actors[fate - 1]} runs it")
        if memory[w.asked[job]] == 2:
            self._fail(a, f"started job {job}, whose cancellation was certain")
        memory[w.fate[job]] = a + 1

    def born(self, memory: list[int], child: int) -> None:
        """An actor starts. Its row, if it is a worker, is now its own."""
        row = self.world.home[child]
        if row >= 0 and not self.world.shape.epochs:
            memory[self.world.in_row[row]] = child + 1

    def killed(self, memory: list[int], a: int, child: int, slot: int) -> None:
        """Raises: Violation, when the killed one was not in the job of that slot any more."""
        w = self.world
        value = memory[w.word[slot]]
        if state_of(value) != RUNNING or memory[w.in_row[owner_of(value)]] != child + 1:
            self._fail(a, f"killed {w.actors[child]} for slot {slot}, which is {STATES[state_of(value)]}")
        memory[w.disturbed] += 1

    # ------------------------------------------------------------------ ends

    def unfinished(self, memory: tuple[int, ...]) -> str:
        """What is left undone in a state from which nobody can go on; "" when nothing is."""
        w = self.world
        for job, accepted in enumerate(memory[cell] for cell in w.accepted):
            if accepted and memory[w.fate[job]] < ENDED and not self._is_held_up(memory, job):
                return f"job {job} was accepted and has not ended"
        for slot, cell in enumerate(w.word):
            state = state_of(memory[cell])
            if not QUEUED <= state <= SCHEDULED or (state == QUEUED and self._is_half_done(memory, slot)):
                continue
            if not self._is_held_up(memory, memory[w.issued[slot]]):
                return f"slot {slot} is stuck in {STATES[state]}"
        return ""

    def _is_held_up(self, memory: tuple[int, ...], job: int) -> bool:
        """Is a stopped worker the one that has leased the job, or that keeps all others from claiming it?"""
        w = self.world
        stopped = {a + 1 for a, cell in enumerate(w.status) if memory[cell] == FROZEN}
        if not stopped:
            return False
        value = memory[w.word[next(s for s, cell in enumerate(w.issued) if memory[cell] == job)]]
        if state_of(value) in (LEASED, RUNNING):
            return memory[w.in_row[owner_of(value)]] in stopped
        return memory[w.group_lock[group_of(value)]] in stopped

    def _is_half_done(self, memory: tuple[int, ...], slot: int) -> bool:
        """Did the producer die between word and tail, and nobody has taken its row yet? Then the job may wait."""
        w = self.world
        tenant = memory[w.tenant[slot // w.shape.slots]]
        if memory[w.status[tenant - 1]] < DEAD:
            return False
        for at, ring in w.ring.items():
            places = range(memory[w.head[at]], memory[w.tail[at]])
            if any(memory[ring[place % w.room(at[1])]] == slot + 1 for place in places):
                return False
        return True
