"""Actors are written as generators and run as automata.

A generator cannot be copied, so a search could not go back to an earlier state. But what a
generator does next depends only on where it stands and on its local variables; both can be read
from its frame. Each such position becomes a number; what follows on which answer is learned once,
by replaying the answers that led there, and looked up ever after.

Rules for actors, because values on the interpreter's own stack cannot be seen:

- `x = yield op`, never `f((yield a), (yield b))`;
- a `for` loop runs over distinct values;
- locals are ints, None, or tuples of these (or the world, which never changes).

`tests/crash/test_model.py` holds both forms against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import CodeType, GeneratorType
from typing import Any, TypeVar

Op = tuple[int, ...]
T = TypeVar("T")
Steps = Generator[Op, int, T]
Factory = Callable[[], Steps[None]]

END: Op = (0,)
"""The op of an actor that has nothing more to do."""


class Automaton:
    """Positions of one actor: `ops[i]` is what it wants to do at position i."""

    def __init__(self, factory: Factory, *, exact: bool = False) -> None:
        self._factory = factory
        self._exact = exact
        self._known: dict[object, int] = {}
        self._history: list[tuple[int, ...]] = []
        self._next: dict[tuple[int, int], int] = {}
        self.ops: list[Op] = []
        self._learn(())

    def after(self, position: int, answer: int) -> int:
        """The position reached when the op at `position` is answered."""
        found = self._next.get((position, answer))
        if found is None:
            found = self._learn((*self._history[position], answer))
            self._next[position, answer] = found
        return found

    def _learn(self, history: tuple[int, ...]) -> int:
        actor = self._factory()
        try:
            op = next(actor)
            for answer in history:
                op = actor.send(answer)
            key: object = history if self._exact else _position(actor)
        except StopIteration:
            op, key = END, None
        known = self._known.setdefault(key, len(self.ops))
        if known == len(self.ops):
            self.ops.append(op)
            self._history.append(history)
        elif op != self.ops[known]:
            raise RuntimeError(f"one position wants both {op} and {self.ops[known]}: state outside the locals")
        return known


def _position(actor: Steps[Any]) -> tuple[tuple[CodeType, int, tuple[object, ...]], ...]:
    frames = []
    inner: object = actor
    while isinstance(inner, GeneratorType):
        frame = inner.gi_frame
        assert frame is not None, "only a generator that waits for an answer has a position"
        held = tuple(v for v in frame.f_locals.values() if isinstance(v, int | tuple) or v is None)
        names = tuple(n for n, v in frame.f_locals.items() if isinstance(v, int | tuple) or v is None)
        frames.append((inner.gi_code, frame.f_lasti, (*names, *held)))
        inner = inner.gi_yieldfrom
    return tuple(frames)
