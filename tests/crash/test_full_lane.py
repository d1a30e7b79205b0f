"""A lane that stale or doubled entries have filled, while slots are free: "later", never a job that is nowhere."""

from __future__ import annotations

import pytest

from shmq.errors import QueueFull
from tests.crash.stage.settle import Autopsy, settle
from tests.crash.stage.stage import HELPER, Stage


@pytest.mark.parametrize("forget", [False, True])
def test_a_submit_into_a_full_lane_is_refused_although_slots_are_free(stage: Stage, forget: bool) -> None:
    client = stage.client()
    stage.send(client, 0)
    route = client._registry.target(client, stage.sent[0].task).route
    rings, tails = stage.segment.view("rings"), stage.segment.view("tails")
    for position in range(1, stage.segment.shape.slots_per_producer):  # the job's entry, doubled again and again
        rings[route.ring + position] = stage.sent[0].slot
        tails[route.lane] += 1
    assert len(client._free) > 1
    with pytest.raises(QueueFull, match="entries that no worker has passed yet"):
        stage.send(client, 1, block=0.0, forget=forget)
    with pytest.raises(QueueFull):
        stage.send(client, 2, block=0.02, forget=forget)
    bench = stage.bench(HELPER)
    bench.run_all()
    bench.leave()
    stage.send(client, 3, forget=forget)
    settle(stage, Autopsy(stage))
