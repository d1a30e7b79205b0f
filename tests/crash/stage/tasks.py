"""Tasks that note each run on the board, and whether their arguments arrived as they were sent."""

from __future__ import annotations

import os
import signal

import numpy as np

import shmq
from tests.crash.stage import board

LARGE_BYTES = 3000  # does not fit the stage's slots


def text_of(number: int, size: int = 24) -> str:
    """What job `number` must receive."""
    return (f"job {number} " * size)[:size]


def _note(number: int, *, is_as_sent: bool) -> int:
    if board.fatal[number]:
        board.fatal[number] = 0
        os.kill(os.getpid(), signal.SIGKILL)
    board.executions[number] += 1
    if not is_as_sent:
        board.altered[number] += 1
    return board.executions[number]


@shmq.task(backoff=0.0)
def note(number: int, text: str) -> int:
    """The plain case."""
    _note(number, is_as_sent=text == text_of(number, len(text)))
    return number


@shmq.task(backoff=0.0, retries=2)
def flaky(number: int, text: str) -> int:
    """Fails once."""
    if _note(number, is_as_sent=text == text_of(number, len(text))) == 1:
        raise ValueError("the first attempt fails")
    return number


@shmq.task(backoff=0.0, retries=0)
def failing(number: int, text: str) -> int:
    """Fails for good."""
    _note(number, is_as_sent=text == text_of(number, len(text)))
    raise ValueError(f"job {number} fails")


@shmq.task
def large(number: int, text: str) -> str:
    """Its result needs a block."""
    _note(number, is_as_sent=text == text_of(number, len(text)))
    return text_of(number, LARGE_BYTES)


@shmq.task
def doubled(number: int, values: np.ndarray) -> np.ndarray:
    """Array in, array out."""
    _note(number, is_as_sent=bool((values == number).all()))
    return values * 2


@shmq.task
def called(number: int, text: str):
    """For chunks: the answer of each call is its number."""
    _note(number, is_as_sent=text == text_of(number, len(text)))
    return number


TASKS = (note, called, flaky, failing, large, doubled)
RUNS = {flaky.name: 2}
"""How often a job of the task runs when nothing dies; once, if not named here."""
