"""Recovery scans a table that living workers write to: what it takes for a dead one's lease must have been one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from shmq.transport.redeliver import Redeliverer
from shmq.transport.table import FIRST_FREE, LEASED, OWNER_SHIFT, RUNNING, next_free
from tests.crash.stage.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage(f"scan{os.environ.get('SHMQ_TEST_RUN', '')}-{os.getpid()}")
    try:
        yield stage
    finally:
        stage.drop()
        stage.close()


class Moving:
    """A column that another process changes: each load shows the next moment."""

    def __init__(self, *moments: list[int]) -> None:
        self._moments = [np.array(words, np.uint64) for words in moments]

    def _load(self) -> np.ndarray:
        return self._moments.pop(0) if len(self._moments) > 1 else self._moments[0]

    def copy(self) -> np.ndarray:
        return self._load()

    def __and__(self, other: np.uint64) -> np.ndarray:
        return self._load() & other

    def __rshift__(self, other: np.uint64) -> np.ndarray:
        return self._load() >> other


def lease(worker: int, state: int) -> int:
    return FIRST_FREE | worker << OWNER_SHIFT | state


@pytest.mark.parametrize("state", [LEASED, RUNNING])
def test_a_job_that_a_living_worker_ends_during_the_scan_is_nobody_elses(stage: Stage, state: int) -> None:
    redeliverer = Redeliverer(stage.segment, stage.lock_file)
    running = lease(3, state)
    for moments in ([[running], [next_free(running)]], [[next_free(running)], [running]]):
        redeliverer._np_words = Moving(*moments)  # type: ignore[assignment]
        assert redeliverer.owned_by(0) == []


def test_the_dead_ones_leases_are_found(stage: Stage) -> None:
    redeliverer = Redeliverer(stage.segment, stage.lock_file)
    stage.segment.view("words")[5], stage.segment.view("words")[7] = lease(0, LEASED), lease(2, RUNNING)
    assert redeliverer.owned_by(0) == [5]
    assert redeliverer.owned_by(2) == [7]
