"""What an actor can want: one op, one step of memory or kernel."""

from __future__ import annotations

from tests.crash.model.automaton import END, Op

OP_NAMES = (
    "end", "load", "store", "fence", "sync", "lock", "unlock", "post", "wait", "clear", "note", "until", "spawn",
    "reap", "proof", "freeze", "thaw", "kill", "look", "find", "exit",
)  # fmt: skip
(_END, LOAD, STORE, FENCE, SYNC, LOCK, UNLOCK, POST, WAIT, CLEAR, NOTE, UNTIL, SPAWN, REAP, PROOF, FREEZE, THAW,
 KILL, LOOK, FIND, EXIT) = range(21)  # fmt: skip
assert END == (_END,)


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


def find(value: int, *cells: int) -> Op:
    """Index, from 1, of the first cell that holds the value; else 0. One `find`, taken as one step."""
    return (FIND, value, *cells)


def until(cell: int, least: int) -> Op:
    """Go on once the cell holds at least that: polling, in one step."""
    return (UNTIL, cell, least)


def spawn(actor: int) -> Op:
    return (SPAWN, actor)


def reap() -> Op:
    """Wait for the death of a child; answers which."""
    return (REAP,)


def proof(actor: int) -> Op:
    """Is the actor dead? Byte obtained, and nobody with its pid and start ticks maps the segment."""
    return (PROOF, actor)


def freeze(actor: int) -> Op:
    """SIGSTOP, and wait until it is stopped; answers whether it is."""
    return (FREEZE, actor)


def thaw(actor: int) -> Op:
    return (THAW, actor)


def kill(actor: int, slot: int | None = None) -> Op:
    """SIGKILL. With a slot: because of the job in it, which the monitor checks."""
    return (KILL, actor) if slot is None else (KILL, actor, slot)


def leave() -> Op:
    """The process ends by itself."""
    return (EXIT,)
