"""memray in a worker: lines named, files bounded, every failure said and survived."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest

from shmq.errors import TracingError
from shmq.memcheck import tracing
from shmq.memcheck.traces import flame_graph, load_sources, sites, trace_files
from shmq.memcheck.tracing import WorkerTrace, problems, require_memray
from tests.memcheck import children, leaky

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("memray") is None, reason="memray is not installed: pip install 'shmq[memray]'"
)


def traced(tmp_path, task, *options):
    done = children.run(task, tmp_path, "--trace", "--jobs", "3000", "--per-second", "3000", *options)
    return done, trace_files(tmp_path / "traces")


@pytest.mark.parametrize("task", ["grow_list", "cycle_with_del"])
def test_growing_line_is_named_with_its_task(tmp_path, task):
    done, files = traced(tmp_path, task)
    assert done.returncode == 0, done.stderr
    top = sites(files[-1].path, load_sources(tmp_path / "traces"))[0]
    assert os.path.samefile(top.file, leaky.__file__)
    assert (top.line, top.function, top.task) == (leaky.line_of(task), task, task)
    assert top.grown_bytes > 0.1 * 3000 * 100
    assert (top.file, top.line, top.function) in top.stack


def test_file_of_a_killed_worker_can_be_read(tmp_path):
    done, files = traced(tmp_path, "grow_list", "--kill")
    assert done.returncode == -signal.SIGKILL
    top = sites(files[-1].path, load_sources(tmp_path / "traces"))[0]
    assert (top.line, top.task) == (leaky.line_of("grow_list"), "grow_list")


def test_clean_task_has_no_site_of_its_own(tmp_path):
    _, files = traced(tmp_path, "clean")
    found = sites(files[-1].path, load_sources(tmp_path / "traces"))
    assert sum(site.grown_bytes for site in found if site.task == "clean") < 50_000


def test_old_files_are_removed(tmp_path):
    done = children.run("clean", tmp_path, "--trace", "--per-second", "4000", "--jobs", "8000")
    assert done.returncode == 0, done.stderr
    files = trace_files(tmp_path / "traces")
    assert files[-1].number > 1, "the trace was too small to be rotated"
    assert len(files) <= tracing.KEPT_FILES + 1
    assert [f.number for f in files] == list(range(files[-1].number - len(files) + 1, files[-1].number + 1))


SECOND_TRACKER = """
import sys, memray, pathlib
from shmq.memcheck.tracing import WorkerTrace
folder = pathlib.Path(sys.argv[2])
with memray.Tracker(folder / "first.bin"):
    trace = WorkerTrace(folder / "traces", "worker 1")
    assert not trace.start() and not trace.is_active
    trace.tick(); trace.stop()
    sys.exit(trace.problem)
"""


def test_tracker_that_is_active_already_is_said_and_survived(tmp_path):
    program = tmp_path / "second.py"
    program.write_text(SECOND_TRACKER)
    child = children.start("-", tmp_path, program=program)
    _, errors = child.communicate(timeout=120)
    assert "another memray Tracker is active" in errors
    assert "goes on without" in errors
    assert not trace_files(tmp_path / "traces")


FULL_DISK = """
import sys, pathlib
from shmq.memcheck.tracing import WorkerTrace
folder = pathlib.Path(sys.argv[2])
trace = WorkerTrace(folder / "traces", "worker 1", reserve_bytes=0)
assert trace.start(), trace.problem
trace._reserve_bytes = 2**62  # from here on, the disk counts as full
trace.tick()
assert not trace.is_active
kept = [bytes(100) for _ in range(1000)]
trace.tick(); trace.stop()
sys.exit(trace.problem)
"""


def test_disk_that_becomes_full_ends_the_tracing_only(tmp_path):
    program = tmp_path / "full.py"
    program.write_text(FULL_DISK)
    child = children.start("-", tmp_path, program=program)
    _, errors = child.communicate(timeout=120)
    assert "MiB left on the disk" in errors
    assert len(trace_files(tmp_path / "traces")) == 1  # what was traced stays, closed


def test_full_disk_at_the_start_is_said(tmp_path):
    trace = WorkerTrace(tmp_path, "worker 1", reserve_bytes=2**62)
    assert trace.start() is False
    assert "MiB left on the disk" in trace.problem


def test_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    trace = WorkerTrace(tmp_path / "file" / "traces", "worker 1")
    assert trace.start() is False
    assert "cannot be written to" in trace.problem


def test_why_a_worker_gave_up_stands_beside_the_traces(tmp_path):
    trace = WorkerTrace(tmp_path, "worker 1", reserve_bytes=2**62)
    trace.start()
    assert problems(tmp_path) == [trace.problem]


def test_stop_without_start_is_fine(tmp_path):
    trace = WorkerTrace(tmp_path, "worker 1")
    trace.stop()
    trace.tick()
    assert not trace.is_active
    assert trace.problem is None


def test_missing_memray_is_an_error_with_the_pip_line(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TracingError, match=r"-m pip install 'shmq\[memray\]'"):
        require_memray()
    trace = WorkerTrace(tmp_path, "worker 1", reserve_bytes=0)
    assert trace.start() is False
    assert "pip install" in trace.problem


def test_damaged_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "worker-1.5.0001.memray"
    path.write_bytes(b"no trace at all")
    with pytest.raises(TracingError, match=r"worker-1\.5\.0001\.memray"):
        sites(path)
    with pytest.raises(TracingError, match="no flame graph"):
        flame_graph(path, tmp_path / "out.html")


def test_names_of_trace_files_tell_process_and_pid(tmp_path):
    for name in (
        "worker-network-1.77.0002.memray",
        "worker-network-1.77.0001.memray",
        "other.memray",
        "x.html",
    ):
        (tmp_path / name).write_bytes(b"")
    assert [(f.process, f.pid, f.number) for f in trace_files(tmp_path)] == [
        ("worker-network-1", 77, 1),
        ("worker-network-1", 77, 2),
    ]
    assert tracing.file_stem("worker network 1") == "worker-network-1"
