"""A watch that traces measures no job: what goes by meanwhile does not move the next measurement."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from shmq.memcheck.attribution import TaskDeltas
from shmq.memcheck.soak.watch import Watch


def test_what_goes_by_during_a_trace_is_not_counted(tmp_path: Path) -> None:
    deltas = TaskDeltas()
    deltas._skip = 10
    watch = Watch("worker", "computation", tmp_path, {}, tmp_path, deltas, "auto")
    trace: Any = SimpleNamespace()
    watch._trace = trace
    assert watch.unmeasured > 1_000_000, "more than any batch has"
    watch.pass_by(1_000)
    watch._trace = None
    assert watch.unmeasured == 9
    watch.pass_by(4)
    assert watch.unmeasured == 5
