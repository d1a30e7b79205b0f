"""No ring is lost while nobody dies; a million edges: `python -m tests.crash.edges`."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmq.transport.bells import Bells
from tests.crash import edges
from tests.live import LiveSupervisor, until


def test_the_bounded_sleep_finds_no_forgotten_work(tmp_path: Path) -> None:
    naps, rescues, _ = edges.run(tmp_path, 3000)
    assert naps >= 3000
    assert rescues == 0


def test_a_producer_that_never_rings_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LiveSupervisor(tmp_path, edges.TASKS, edges.CONFIG) as live:
        monkeypatch.setattr(Bells, "wake_one", lambda _bells, _group: None)
        client = live.client()
        task = client._registry.task("jobs.left")

        def is_rescued() -> int:
            client.submit_task(task, (1,)).result(60)
            return edges.rescued(live)

        until(is_rescued, "a bounded sleep finds what nobody rang for")
