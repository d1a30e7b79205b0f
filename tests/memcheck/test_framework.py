"""What the framework itself must let go of, found by soak runs."""

from __future__ import annotations

import gc
import secrets

import pytest

from shmq.memcheck.sampling import open_descriptors
from shmq.memory import doorbell
from shmq.memory.doorbell import FifoBell
from shmq.memory.layout import WORKER, WORKER_FREE, WORKER_LIVE
from shmq.transport.bells import Bells
from tests.crash.stage.stage import Stage


@pytest.fixture
def stage():
    stage = Stage(f"kept-{secrets.token_hex(4)}")
    try:
        yield stage
    finally:
        stage.drop()
        stage.close()


def test_a_bell_whose_row_changed_hands_and_is_free_again_is_closed_once(stage):
    bells, row = Bells(stage.segment), stage.segment.rows("worker_rows")[0]
    for serial in (1, 2):
        name = doorbell.new_name(stage.segment.path.name)
        bell = doorbell.SemaphoreBell(name, create=True)
        stage.segment.set_text("worker_bells", name, 0)
        row[WORKER["bell_serial"]] = serial
        row[WORKER["state"]] = WORKER_FREE  # gone already when somebody rings
        bells.worker(0).notify()
        assert bell.wait(0)
        bell.remove()


def test_pipes_of_ended_workers_are_closed(stage):
    """A group's workers move through all rows as others are recycled: one pipe for each would stay open."""
    bells, rows = Bells(stage.segment), stage.segment.rows("worker_rows")
    pipes = [FifoBell(stage.folder / f"worker-{row}.bell", create=True) for row in range(4)]
    for row, pipe in enumerate(pipes):
        stage.segment.set_text("worker_bells", pipe.name, row)
        rows[row][WORKER["state"]] = WORKER_LIVE
    gc.collect()  # what earlier tests left in cycles is not this one's
    before = open_descriptors()
    for row in range(3):
        bells.worker(row).notify()
    assert open_descriptors() == before + 3
    rows[0][WORKER["state"]] = rows[1][WORKER["state"]] = WORKER_FREE
    bells.worker(2).notify()
    bells.worker(3).notify()  # a new one: time to look who has gone
    assert open_descriptors() == before + 2
    for pipe in pipes:
        pipe.close()
    for row in range(2, 4):
        bells._of_worker[row][1].close()


def test_pipes_of_bells_that_are_dropped_are_closed(stage):
    """Whoever makes bells for a while, a client or a recovery, forgets them with himself."""
    gc.collect()
    before = open_descriptors()
    bells = Bells(stage.segment)
    bells.notify_recovery()
    assert open_descriptors() == before + 1
    del bells
    assert open_descriptors() == before
