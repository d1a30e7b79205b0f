"""Short soak runs through the command, with everything that belongs to a run."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from shmq.config.load import parse
from shmq.memcheck.recording import Recorder
from shmq.memcheck.soak import mix
from shmq.memcheck.soak.producer import TITLE, Producer, Spec
from shmq.memcheck.soak.readings import Readings
from shmq.memcheck.soak.tally import Counts, Tally
from shmq.tasks.registry import load
from tests.live import until

ROOT = Path(__file__).resolve().parents[2]
LEAKY = """
import shmq

kept = []

@shmq.task
def clean(n: int) -> int:
    return n

@shmq.task
def grow(n: int) -> int:
    kept.append(bytes(67))  # 100 bytes with its head
    return n
"""
CONFIG = """
tasks = ["leaky"]
[groups.computation]
min_workers = 1
max_workers = 1
[memory]
max_producers = 8
max_workers = 8
block_budget_bytes = 4194304
"""


@pytest.mark.parametrize("config", [mix.CONFIG, mix.LEAN_CONFIG], ids=["mixed", "lean"])
def test_the_built_in_configurations_have_every_group_that_their_tasks_ask_for(config):
    config = parse(config)
    assert {task.settings.group for task in load(config.tasks, None).values()} <= set(config.groups)


def soak(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "shmq", "soak", *arguments],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def left_behind(run: Path) -> list[str]:
    """Shared memory and doorbells of this run's own namespace: other runs may be under way."""
    namespace = json.loads((run / "producers.json").read_text())["namespace"]
    return [name for name in os.listdir("/dev/shm") if namespace in name]


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def own_config(folder: Path, *tasks: str) -> list[str]:
    (folder / "leaky.py").write_text(LEAKY)
    (folder / "config.toml").write_text(textwrap.dedent(CONFIG))
    (folder / "config.toml").chmod(0o600)
    (folder / "jobs").write_text("".join(json.dumps([f"leaky.{task}", 7]) + "\n" for task in tasks))
    return ["config.toml", "--jobs", "jobs"]


@pytest.mark.slow
def test_a_planted_leak_is_named_with_file_line_and_task(tmp_path):
    arguments = own_config(tmp_path, "clean", "grow")
    run = soak(*arguments, "--minutes", "0.25", "--hours", "4", "--rate", "5", "--trace", "none", "--out", "run",
               cwd=tmp_path)  # fmt: skip
    out, err = run.communicate(timeout=200)
    assert run.returncode == 1, out + err
    assert "verdict: leak" in out
    line = LEAKY.splitlines().index("    kept.append(bytes(67))  # 100 bytes with its head") + 1
    named = [text for text in out.splitlines() if f"leaky.py:{line} in grow, task leaky.grow" in text]
    assert named, out
    assert "leaky.clean" not in out.partition("Suspects")[2]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["answer"] == "leak"
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_the_built_in_workload_brings_all_it_promises(tmp_path):
    run = soak("--minutes", "0.2", "--hours", "1", "--rate", "10", "--trace", "none", "--out", "run", cwd=tmp_path)
    out, err = run.communicate(timeout=300)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["problems"] == [], err
    assert about["counts"]["wrong"] == 0
    for what in ("ended", "failed", "retried", "cancelled", "large"):
        assert about["counts"][what] > 0, about
    assert about["recycled"] > 0
    cost, aged_per_s, fresh_per_s = about["pace"]
    assert 0.5 < cost < 2
    assert min(aged_per_s, fresh_per_s) > 0
    assert "1 h of 10 jobs/s on average, following a working day, squeezed into 0.2 minutes" in out
    readings = (tmp_path / "run" / "samples.csv").read_text().splitlines()
    kinds = {row["kind"] for row in csv.DictReader(readings)}
    assert kinds >= {
        "supervisor", "fork server", "recovery", "planner", "producer", "guest producer", "worker computation",
        "worker network", "worker filesystem", "worker memory",
    }  # fmt: skip
    assert "verdict: " in out
    assert left_behind(tmp_path / "run") == []


def test_a_run_that_is_killed_takes_its_supervisor_along(tmp_path):
    run = soak(*own_config(tmp_path, "clean"), "--minutes", "10", "--trace", "none", "--out", "run", cwd=tmp_path)
    load = tmp_path / "run" / "load.csv"
    until(lambda: load.exists() and load.read_text().count("\n") > 2, "readings of a load")
    run.kill()
    run.communicate(timeout=200)
    namespace = json.loads((tmp_path / "run" / "producers.json").read_text())["namespace"]
    scratch = Path(tempfile.gettempdir(), f"shmq-{namespace}")
    until(lambda: not left_behind(tmp_path / "run") and not scratch.exists(), "nothing is left")


@pytest.mark.slow
def test_ctrl_c_still_gives_a_report(tmp_path):
    run = soak("--lean", "--out", "run", cwd=tmp_path)
    samples = tmp_path / "run" / "samples.csv"
    until(lambda: samples.exists() and samples.read_text().count("producer") > 5, "readings of producers")
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=200)
    assert "interrupted after" in out, out + err
    assert "verdict: " in out
    assert (tmp_path / "run" / "report.html").exists()
    assert left_behind(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_with_jobs_under_way_that_is_told_to_end_leaves_nothing_and_nobody_waits(tmp_path, how):
    """Workers go last: a producer that waited for the results of one that has gone waited for two minutes."""
    run = soak(*own_config(tmp_path, "clean"), "--minutes", "10", "--trace", "none", "--out", "run", cwd=tmp_path)
    load = tmp_path / "run" / "load.csv"
    until(lambda: load.exists() and load.read_text().count("\n") > 20, "readings of a load")
    producers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent_of(pid) == run.pid]
    run.send_signal(how)
    out, err = run.communicate(timeout=200)
    assert "interrupted after" in out, out + err
    assert "ended with" not in out
    assert len(producers) > 1
    assert not [pid for pid in producers if Path(f"/proc/{pid}").exists()]
    assert left_behind(tmp_path / "run") == []


def test_a_configuration_without_jobs_is_refused(tmp_path):
    own_config(tmp_path)
    run = soak("config.toml", cwd=tmp_path)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "CONFIG and --jobs FILE belong together" in err


def test_a_task_that_the_configuration_lacks_is_told_before_the_run(tmp_path):
    arguments = own_config(tmp_path, "clean", "glean")
    run = soak(*arguments, "--minutes", "60", cwd=tmp_path)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 3, out + err
    assert "no task 'leaky.glean' in config.toml. Did you mean leaky.clean?" in err


def test_jobs_that_are_no_text_are_refused(tmp_path):
    own_config(tmp_path)
    (tmp_path / "jobs").write_bytes(b"\x8e\xff")
    run = soak("config.toml", "--jobs", "jobs", cwd=tmp_path)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2, err
    assert "the file is no text" in err


def test_a_producer_that_still_starts_is_not_read(tmp_path):
    """What it imports looks like a leak in a short life."""
    memory = SimpleNamespace(block_used_bytes=0, slots_used=0)
    snapshot = SimpleNamespace(
        supervisor_pid=os.getpid(), recovery_pid=0, planner_pid=0, workers=[], groups=[], memory=memory
    )
    segment = SimpleNamespace(shape=SimpleNamespace(unit_bytes=65536))
    rig = SimpleNamespace(namespace="none", segment=segment, semaphores=lambda: 0)
    readings = Readings(rig, Recorder(tmp_path, {}), lambda: snapshot)
    say = "print(flush=True); input()"
    wait = f"import sys, setproctitle; {say}; setproctitle.setproctitle(sys.argv[1]); {say}"
    with subprocess.Popen(
        [sys.executable, "-c", wait, TITLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        for seen in (0, 1):
            child.stdout.readline()
            readings.take(Counts(), [("producer", "producer 0", child.pid)])
            assert (tmp_path / "samples.csv").read_text().count("producer 0") == seen
            child.stdin.write("\n")
            child.stdin.flush()
    readings.close()


def test_a_disk_that_is_full_at_the_end_does_not_end_in_an_error(tmp_path):
    snapshot = SimpleNamespace()
    readings = Readings(SimpleNamespace(), Recorder(tmp_path, {}), lambda: snapshot)
    readings._load.close()
    readings._load = open("/dev/full", "w")  # noqa: SIM115 - `close` closes it
    readings._load.write("not yet on the disk")
    readings.close()
    assert readings._load.closed


def test_how_the_users_jobs_fail_first_is_told_once_per_task(tmp_path, capsys):
    failed = SimpleNamespace(exception=lambda: ValueError("five"))
    client = SimpleNamespace(submit=lambda *_: failed)
    spec = Spec("none", str(tmp_path / "tally"), 1.0, 1.0, 1.0, 0.0, lean=False, own_jobs=[["a.b"], ["a.c"]])
    producer = Producer(spec, client, Tally(tmp_path / "tally", 0), 1.0)
    producer._own_round(10)
    assert capsys.readouterr().err == (
        "producer: a job of a.b failed: ValueError: five\nproducer: a job of a.c failed: ValueError: five\n"
    )


def test_a_state_directory_of_another_supervisor_is_refused(tmp_path):
    arguments = own_config(tmp_path, "clean")
    with (tmp_path / "config.toml").open("a") as file:
        file.write('[supervisor]\nstate_dir = "state"\n')
    run = soak(*arguments, "--out", "run", cwd=tmp_path)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 5
    assert "leaves the key out" in err


def test_a_broken_task_module_is_told_with_the_log(tmp_path):
    arguments = own_config(tmp_path, "clean")
    (tmp_path / "leaky.py").write_text("raise ImportError('no such thing')")
    run = soak(*arguments, "--out", "run", cwd=tmp_path)
    _, err = run.communicate(timeout=100)
    assert run.returncode == 3, err
    assert "no such thing" in err
