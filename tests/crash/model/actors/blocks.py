"""Blocks: a reader keeps a view of a block beyond its job; an allocator looks for free units.

A unit is free when its tag's generation is not its slot's and its pin is 0. Both sides race:

    reader     pin → word FREE, generation + 1 → uses its view → unpin
    allocator  generation of the slot → pin → tag and bytes are its own
"""

from __future__ import annotations

from tests.crash.model.actors.shared import in_order
from tests.crash.model.automaton import Steps
from tests.crash.model.monitor import TENANT, VIEW
from tests.crash.model.ops import load, lock, note, store, sync
from tests.crash.model.world import World, freed, generation_of

BYTES, OTHER_BYTES = 11, 22
OTHER_TAG = 9


def reader(w: World, a: int) -> Steps[None]:
    """A producer that reads a result in place, then frees the slot and goes on looking."""
    yield lock(w.row_lock[0])
    yield note(TENANT, 0)
    ended = yield load(w.word[0])
    first, second = in_order(w, pin=store(w.pin, 1), free=store(w.word[0], freed(ended)))
    yield first
    if not w.is_mutant("no_sync_pin"):
        yield sync()  # SYNC POINT: block-pin
    yield second
    yield from view(w)
    yield store(w.pin, 0)


def view(w: World) -> Steps[None]:
    shown = yield load(w.block)
    yield note(VIEW, shown, BYTES)


def keeper(w: World, a: int) -> Steps[None]:
    """A worker whose task failed but kept a view of its argument (its pin is set at the start)."""
    yield from view(w)
    yield from view(w)
    yield store(w.pin, 0)


def second_reader(w: World, a: int) -> Steps[None]:
    """The next attempt, elsewhere: there is one pin, so whoever finds it taken copies."""
    yield lock(w.row_lock[0])
    yield note(TENANT, 0)
    ended = yield load(w.word[0])
    pinned = yield load(w.pin)
    pins = not pinned or w.is_mutant("pin_overwrites_pin")
    if pins:
        yield store(w.pin, 2)
    yield from view(w)
    yield store(w.word[0], freed(ended))
    if pins:
        yield store(w.pin, 0)


def allocator(w: World, a: int) -> Steps[None]:
    tag = yield load(w.tag)
    if w.is_mutant("pin_read_first"):
        pin = yield load(w.pin)
        value = yield load(w.word[0])
    else:
        value = yield load(w.word[0])
        if not w.is_mutant("no_sync_allocate"):
            yield sync()  # SYNC POINT: block-pin
        pin = yield load(w.pin)
    if generation_of(value) != tag and not pin:
        yield store(w.tag, OTHER_TAG)
        yield store(w.block, OTHER_BYTES)
