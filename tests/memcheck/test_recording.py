"""What is recorded comes back, also from a run that was cut off; a full disk ends the recording only."""

from __future__ import annotations

import json
import logging
import os

import pytest

from shmq.errors import TracingError
from shmq.memcheck.recording import FACTS, RUN, SAMPLES, Recorder, load_run
from shmq.memcheck.sampling import Process, Reading

WORKER = Process("worker computation", "worker computation 1", 4711, 99)


def reading(t_s: float, jobs: int | None = 10, process: Process = WORKER, **values: int) -> Reading:
    return Reading(t_s, process, jobs, {"rss_anon_bytes": 1000, "descriptors": 5, "threads": 1, **values})


def record(folder, count=5):
    recorder = Recorder(folder, {"title": "a run", "acceleration": 144.0})
    for i in range(count):
        assert recorder.sample(reading(100.0 + i, jobs=i, rss_anon_bytes=1000 + i))
        assert recorder.facts("system", "shared memory", {"shm_bytes": 4096 + i}, jobs=i)
    return recorder


def by_key(run):
    return {(s.name, s.quantity): s for s in run.series}


def test_readings_come_back_as_series(tmp_path):
    record(tmp_path / "run").finish(jobs=4)
    run = load_run(tmp_path / "run")
    rss = by_key(run)["worker computation 1", "rss_anon_bytes"]
    assert rss.kind == "worker computation"
    assert list(rss.t_s) == [100, 101, 102, 103, 104]
    assert list(rss.value) == [1000, 1001, 1002, 1003, 1004]
    assert list(rss.jobs) == [0, 1, 2, 3, 4]
    assert list(by_key(run)["shared memory", "shm_bytes"].value) == [4096, 4097, 4098, 4099, 4100]
    assert run.acceleration == 144
    assert run.about["jobs"] == 4
    assert run.damaged_lines == 0


def test_quantities_that_were_not_read_leave_no_holes(tmp_path):
    recorder = Recorder(tmp_path / "run", {})
    recorder.sample(reading(1.0, pss_anon_bytes=7))
    recorder.sample(reading(2.0))
    recorder.sample(reading(3.0, pss_anon_bytes=9))
    recorder.finish()
    pss = by_key(load_run(tmp_path / "run"))["worker computation 1", "pss_anon_bytes"]
    assert list(pss.t_s) == [1, 3]


def test_processes_of_one_name_stay_apart(tmp_path):
    recorder = Recorder(tmp_path / "run", {})
    for pid in (1, 2):
        recorder.sample(reading(1.0, process=Process("worker", "worker 1", pid, 5)))
    recorder.finish()
    assert [s.quantity for s in load_run(tmp_path / "run").series].count("rss_anon_bytes") == 2


def test_a_process_without_a_job_count_has_none(tmp_path):
    recorder = Recorder(tmp_path / "run", {})
    recorder.sample(reading(1.0, jobs=None))
    recorder.finish()
    assert load_run(tmp_path / "run").series[0].jobs is None


def test_everything_written_before_a_crash_is_there(tmp_path):
    """Killed without a word: no `finish`, and the last line of each file half written."""
    record(tmp_path / "run")
    for name in (SAMPLES, FACTS):
        path = tmp_path / "run" / name
        path.write_bytes(path.read_bytes()[:-3])
    run = load_run(tmp_path / "run")
    assert len(by_key(run)["worker computation 1", "threads"].value) == 4
    assert len(by_key(run)["shared memory", "shm_bytes"].value) == 4
    assert run.damaged_lines == 2
    assert "seconds" not in run.about


def test_garbage_in_the_middle_costs_its_lines_only(tmp_path):
    record(tmp_path / "run").finish()
    path = tmp_path / "run" / SAMPLES
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = "\0\0\0,what,\xff\n"
    lines[3] = "x,y\n"
    path.write_text("".join(lines))
    run = load_run(tmp_path / "run")
    assert len(by_key(run)["worker computation 1", "rss_anon_bytes"].value) == 3
    assert run.damaged_lines == 2


def test_full_disk_stops_the_recording_and_says_so(tmp_path, caplog):
    recorder = record(tmp_path / "run", count=2)
    os.close(recorder._samples)
    recorder._samples = os.open("/dev/full", os.O_WRONLY)
    with caplog.at_level(logging.WARNING):
        assert recorder.sample(reading(9.0)) is False
    assert recorder.facts("system", "x", {"y": 1.0}) is False
    assert "No space left on device" in recorder.problem
    assert "goes on without" in caplog.text
    recorder.finish()
    run = load_run(tmp_path / "run")
    assert len(run.series[0].value) == 2
    assert "No space left" in run.about["recording_problem"]


def test_names_with_commas_and_newlines_cannot_break_the_file(tmp_path):
    recorder = Recorder(tmp_path / "run", {})
    recorder.sample(reading(1.0, process=Process('a,"b', "c\nd\0", 1, 1)))
    recorder.finish()
    run = load_run(tmp_path / "run")
    assert run.series[0].kind == "a  b"
    assert run.damaged_lines == 0


def test_a_second_run_in_one_folder_is_refused(tmp_path):
    record(tmp_path / "run").finish()
    with pytest.raises(TracingError, match="already holds"):
        Recorder(tmp_path / "run", {})


def test_a_folder_that_cannot_be_made_is_an_error_with_advice(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TracingError, match="Choose a folder"):
        Recorder(tmp_path / "file" / "run", {})


def test_a_folder_without_a_run_is_an_error_with_advice(tmp_path):
    with pytest.raises(TracingError, match="holds no run"):
        load_run(tmp_path)


def test_run_file_is_json_from_the_first_moment(tmp_path):
    Recorder(tmp_path / "run", {"title": "x"})
    assert json.loads((tmp_path / "run" / RUN).read_text())["title"] == "x"


def test_finish_twice_is_fine_and_later_readings_are_refused(tmp_path):
    recorder = record(tmp_path / "run")
    recorder.finish()
    recorder.finish()
    assert recorder.sample(reading(1.0)) is False
