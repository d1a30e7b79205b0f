"""Deltas name the task, line watches the line; both without memray."""

from __future__ import annotations

import gc
import json
import os
import sys

import pytest

from shmq.heap import malloc_use
from shmq.memcheck.attribution import Growth, Source, TaskDeltas, load_growth, task_of
from shmq.memcheck.line_watch import LineWatch, heap_use
from tests.memcheck import children, leaky

pytestmark = pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or coverage tool holds sys.settrace")
LEAKING = ["grow_list", "cycle_with_del", "c_malloc", "only_when_failing", "descriptors"]


def measured(tmp_path, task: str, jobs: int = 2500) -> Growth:
    done = children.run(task, tmp_path, "--deltas", "--jobs", str(jobs))
    assert done.returncode == 0, done.stderr
    return {growth.task: growth for growth in load_growth(tmp_path / "traces")}[task]


@pytest.mark.parametrize("task", LEAKING)
def test_leaking_task_is_suspected_and_its_line_named(tmp_path, task):
    growth = measured(tmp_path, task, jobs=800 if task == "descriptors" else 2500)
    assert growth.suspect_units
    (file, line, function), unit, left = growth.lines()[0]
    assert os.path.samefile(file, leaky.__file__)
    assert (line, function) == (leaky.line_of(task), task)
    assert unit == ("descriptors" if task == "descriptors" else "bytes")
    assert left > 0


@pytest.mark.parametrize("task", ["clean"])
def test_clean_task_is_not_suspected(tmp_path, task):
    growth = measured(tmp_path, task)
    assert growth.jobs > 50
    assert abs(growth.bytes_per_1000_jobs) < 5_000
    assert growth.counts == {"descriptors": 0}
    assert not growth.suspect_units


def test_bytes_per_job_are_about_right(tmp_path):
    assert measured(tmp_path / "c", "c_malloc").bytes_per_1000_jobs == pytest.approx(208_000, rel=0.1)
    assert measured(tmp_path / "list", "grow_list").bytes_per_1000_jobs == pytest.approx(110_000, rel=0.4)


def test_leak_of_failing_jobs_shows_in_the_failing_jobs(tmp_path):
    growth = measured(tmp_path, "only_when_failing", jobs=5000)
    assert growth.failed_jobs > 10
    assert growth.bytes_per_1000_failed_jobs > 5 * growth.bytes_per_1000_jobs


def drive(deltas: TaskDeltas, task, jobs: int) -> None:
    for _ in range(jobs):
        deltas.begin("task")
        task()
        deltas.end()


def test_a_job_that_does_nothing_leaves_nothing():
    deltas = TaskDeltas(cost_share=100, watch_lines=False)
    drive(deltas, lambda: None, 500)
    (growth,) = deltas.snapshot()
    assert growth.jobs > 20
    assert abs(growth.bytes) / growth.jobs < 20


def test_garbage_that_outlives_the_youngest_generation_does_not_pile_up():
    """Collecting the youngest by hand keeps the automatic collections away: the older ones must come all the same."""
    alive, most = [0], 0

    class Cycle:
        def __init__(self) -> None:
            self.itself = self
            alive[0] += 1

        def __del__(self) -> None:
            alive[0] -= 1

    kept = [Cycle()]

    def replaces() -> None:
        kept[0] = Cycle()

    deltas = TaskDeltas(cost_share=100, watch_lines=False)
    for _ in range(50):
        drive(deltas, replaces, 100)
        most = max(most, alive[0])
    assert most < 1_000, "one in five lived through a measurement"


def test_measuring_takes_only_its_share():
    """A measurement costs far more than such a job: most jobs must go unmeasured."""
    deltas = TaskDeltas(cost_share=0.01)
    drive(deltas, lambda: None, 20_000)
    (growth,) = deltas.snapshot()
    assert growth.jobs < 2_000


def test_whatever_the_worker_counts_is_watched_too():
    """Blocks that a task never gives back, as the worker counts them."""
    blocks = []

    def keep_block() -> None:
        blocks.extend([None, None])
        blocks.pop()

    deltas = TaskDeltas(cost_share=100, counters={"blocks": lambda: len(blocks)})
    drive(deltas, keep_block, 1000)
    (growth,) = deltas.snapshot()
    assert growth.suspect_units[0] == "blocks"
    assert growth.count_per_1000_jobs("blocks") == 1000
    (_, line, function), unit, left = growth.lines()[0]
    assert (line, function) == (keep_block.__code__.co_firstlineno + 1, "keep_block")
    assert (unit, left) == ("blocks", 1.0)


def test_overlapping_jobs_are_not_measured():
    deltas = TaskDeltas(cost_share=100)
    for _ in range(200):
        deltas.begin("a")
        deltas.begin("b")
        deltas.end()
        deltas.end()
    assert deltas.snapshot() == []
    drive(deltas, lambda: None, 100)
    assert deltas.snapshot()[0].jobs > 0


def test_garbage_in_cycles_is_not_taken_for_a_leak():
    def litter() -> None:
        for _ in range(5):
            loop: list[object] = [bytes(50)]
            loop.append(loop)

    gc.disable()
    try:
        deltas = TaskDeltas(cost_share=100, watch_lines=False)
        drive(deltas, litter, 300)
    finally:
        gc.enable()
    assert deltas.snapshot()[0].bytes_per_1000_jobs < 20_000


def test_a_debugger_is_left_alone():
    def debugger(_frame, _event, _arg):
        return None

    deltas = TaskDeltas(cost_share=100)
    kept = []
    sys.settrace(debugger)
    try:
        drive(deltas, lambda: kept.append(bytes(1000)), 300)
        assert sys.gettrace() is debugger
    finally:
        sys.settrace(None)
    assert deltas.snapshot()[0].watched_jobs == 0


def test_a_watched_job_that_runs_long_goes_on_unwatched():
    watch = LineWatch(longest_s=0)
    watch.start()
    total = sum(one() for _ in range(3))
    watch.stop()
    assert total == 3
    assert watch.gave_up
    assert sys.gettrace() is None


def one() -> int:
    return 1


def test_heap_use_follows_what_is_held():
    before = heap_use()
    held = bytearray(100_000)
    assert 90_000 < heap_use() - before < 120_000
    del held
    assert malloc_use() > 0


def test_growth_of_several_workers_is_added(tmp_path):
    place = ("f.py", 3, "leak")
    for pid in (1, 2):
        row = {**vars(Growth("m.t", jobs=20, bytes=1000, watched_jobs=2)), "left": {"bytes": [[place, 80]]}}
        (tmp_path / f"growth-{pid}.json").write_text(json.dumps([row]))
    (tmp_path / "growth-3.json").write_text('[{"task": "m.t"')
    (tmp_path / "growth-4.json").write_text('[{"nonsense": 1}]')
    (growth,) = load_growth(tmp_path)
    assert (growth.jobs, growth.bytes, growth.bytes_per_1000_jobs) == (40, 2000, 50_000)
    assert growth.lines() == [(place, "bytes", 40.0)]


def test_full_disk_costs_the_table_only(tmp_path):
    deltas = TaskDeltas(cost_share=100)
    drive(deltas, lambda: None, 100)
    deltas.save(tmp_path / "missing")


def test_outermost_task_function_in_a_stack_is_the_task():
    outer, inner = Source("m.outer", "f.py", 10, 20), Source("m.inner", "f.py", 30, 40)
    assert task_of([outer, inner], [("lib.py", 5), ("f.py", 33), ("f.py", 12), ("worker.py", 90)]) == "m.outer"
    assert task_of([outer, inner], [("f.py", 25)]) is None


def test_source_of_a_decorated_function_is_that_of_the_function():
    def wrapper(*args):
        return leaky.clean(*args)

    wrapper.__wrapped__ = leaky.clean
    source = Source.of("x", wrapper)
    assert source.file == leaky.__file__
    assert source.holds(leaky.__file__, leaky.clean.__code__.co_firstlineno + 2)
    assert Source.of("y", len) is None
