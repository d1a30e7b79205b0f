"""The fork server equips a worker that does not exist: in a queue that is served, nobody may notice."""

from __future__ import annotations

from shmq.worker.boot import rehearse
from tests.crash.stage.stage import Stage


def test_a_rehearsal_changes_nothing_in_a_busy_segment(stage: Stage) -> None:
    client = stage.client()
    for number in range(3):
        stage.send(client, number)
    before = stage.segment.map[:]
    rehearse(stage.segment, stage.lock_file)
    assert stage.segment.map[:] == before
