"""Steps that several processes take: look for work, wake a sleeper, push into a lane."""

from __future__ import annotations

from tests.crash.model.automaton import Op, Steps
from tests.crash.model.ops import find, load, look_at, post, store
from tests.crash.model.world import WAIT, World, generation_of, word


def read_word(w: World, slot: int) -> Steps[int]:
    value = yield load(w.word[slot])
    if w.is_mutant("split_word"):
        high = yield load(w.high[slot])
        value = word(0, generation=high) | value
    return value


def write_word(w: World, slot: int, value: int) -> Steps[None]:
    if w.is_mutant("split_word"):
        yield store(w.word[slot], value - word(0, generation=generation_of(value)))
        yield store(w.high[slot], generation_of(value))
    else:
        yield store(w.word[slot], value)


def in_order(w: World, **steps: Op) -> tuple[Op, ...]:
    """The named stores in the order given, unless a mutant `b_before_a` swaps two of them."""
    names = list(steps)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if w.is_mutant(f"{second}_before_{first}"):
                j = names.index(second)
                names[i], names[j] = names[j], names[i]
                return tuple(steps[n] for n in names)
    return tuple(steps.values())


def lanes_of(w: World) -> tuple[int, ...]:
    return tuple(range(w.shape.producers + 1))


def look(w: World, group: int) -> Steps[bool]:
    """Is there an entry in any lane of the group? Heads before tails."""
    if not w.shape.fine:
        found = yield look_at(*(cell for lane in lanes_of(w) for cell in (w.head[group, lane], w.tail[group, lane])))
        return found > 0
    for lane in lanes_of(w):
        found = yield from _differs(w, group, lane)
        if found:
            return True
    return False


def _differs(w: World, group: int, lane: int) -> Steps[bool]:
    head = yield load(w.head[group, lane])
    tail = yield load(w.tail[group, lane])
    return head != tail


def wake_one(w: World, a: int, group: int) -> Steps[None]:
    """Ring the first that says it sleeps. Caller must: have fenced after making the work visible."""
    rows = w.rows_of(group)
    if not w.shape.fine:
        first = yield find(1, *(w.sleeping[row] for row in rows))
        if first:
            yield from _ring(w, a, rows[first - 1])
        return
    for row in rows:
        asleep = yield load(w.sleeping[row])
        if asleep:
            yield from _ring(w, a, row)
            return


def _ring(w: World, a: int, row: int) -> Steps[None]:
    nap = 0
    if w.shape.naps:
        nap = yield load(w.nap[row])
        last = yield load(w.rung[a][row])
        if last == nap + 1:
            return
    bell = w.sleeper(row)
    if w.shape.fresh_bells and not w.is_mutant("stale_bell_handle"):
        bell = yield load(w.bell_of[row])
    yield post(w.bell[bell])
    if w.shape.naps:  # remembered after the ring: an exception between the two must not lose it
        yield store(w.rung[a][row], nap + 1)


def notify_producer(w: World, a: int, producer: int) -> Steps[None]:
    """Ring whoever waits in that row. Caller must: have fenced after the words, or do it once more later."""
    if not w.shape.waits:
        return
    waits = yield load(w.waiting[producer])
    if not waits:
        return
    if w.shape.early:
        last = yield load(w.rung_wait[a][producer])
        if last == waits:
            return
    yield post(w.bell[waiter(waits)])
    if w.shape.early:  # remembered after the ring, as naps are
        yield store(w.rung_wait[a][producer], waits)


def waiter(waits: int) -> int:
    """Whose bell the word names. Its upper part is the number of the wait: the real word has nothing else."""
    return waits % WAIT - 1
