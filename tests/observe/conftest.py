from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from shmq import clock
from shmq.memory.layout import GROUP_CONTROL, WORKER, WORKER_LIVE, Shape
from shmq.memory.segment import Segment, create, segment_name, unlink
from shmq.transport.table import FIRST_FREE, GENERATION_SHIFT, GROUP_SHIFT, OWNER_SHIFT

GROUPS = ["computation", "network"]


class Fake:
    """A segment without processes, whose words a test writes."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment

    def word(self, slot: int, state: int, *, group: int = 0, owner: int = 0, generation: int = 1) -> int:
        word = generation << GENERATION_SHIFT | owner << OWNER_SHIFT | group << GROUP_SHIFT | state
        self.segment.view("words")[slot] = word
        return word

    def control(self, group: int, **words: int) -> None:
        for name, value in words.items():
            self.segment.rows("group_control")[group][GROUP_CONTROL[name]] = value

    def worker(self, row: int, **words: int) -> None:
        defaults = {"state": WORKER_LIVE, "pid": os.getpid(), "heartbeat_ns": clock.now_ns()}
        for name, value in (defaults | words).items():
            self.segment.rows("worker_rows")[row][WORKER[name]] = value

    def supervisor(self, pid: int) -> None:
        self.segment.set_header("supervisor_pid", pid)
        self.segment.set_header("supervisor_ticks", clock.start_ticks(pid))


@pytest.fixture
def fake(namespace, tmp_path) -> Iterator[Fake]:
    shape = Shape(
        groups=2, producers=2, slots_per_producer=16, slot_bytes=256, workers=4, units=4, unit_bytes=4096,
        arenas=1,
    )  # fmt: skip
    name = segment_name(namespace)
    segment = create(name, shape, groups=GROUPS, state_dir=tmp_path, max_attempts=3)
    fake = Fake(segment)
    for slot in range(shape.slots):
        segment.view("words")[slot] = FIRST_FREE
    fake.supervisor(os.getpid())
    yield fake
    unlink(name)
    segment.close()
