from __future__ import annotations

import pytest

from shmq.errors import WorkerLost
from shmq.transport.dead import DeadLetters
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import os, time, shmq

kept = []

@shmq.task
def pid(s: float = 0.0):
    time.sleep(s)
    return os.getpid()

@shmq.task(group="aged")
def aged_pid():
    return os.getpid()

@shmq.task(group="leaky")
def leak(mib: int):
    kept.append(bytearray(b"x") * (mib << 20))
    return os.getpid()

@shmq.task(group="small")
def devour(path: str):
    with open(path, "a") as file:
        file.write(f"{os.environ['SHMQ_NAMESPACE']} {open('/proc/self/cmdline').read()}\\n")
    for _ in range(400):
        kept.append(bytearray(b"x") * (1 << 20))
        time.sleep(0.002)
    time.sleep(60)

@shmq.task(group="small")
def modest():
    return os.getpid()
"""

CONFIG = """
[groups.computation]
min_workers = 1
max_workers = 1
max_jobs_per_worker = 5

[groups.aged]
min_workers = 1
max_workers = 1
max_worker_age_s = 0.5

[groups.leaky]
min_workers = 1
max_workers = 1
max_worker_memory_bytes = 67108864

[groups.small]
min_workers = 1
max_workers = 1
hard_worker_memory_bytes = 100663296
escalate_to = "large"

[groups.large]
min_workers = 1
max_workers = 1
hard_worker_memory_bytes = 134217728
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, CONFIG) as live:
        yield live


def another(live, task, first, *args):
    """The pid of another worker, once there is one."""
    return until(lambda: pid if (pid := live.submit(task, *args).result(GUARD_S)) != first else None, "another worker")


def test_a_worker_is_replaced_after_its_jobs(live):
    first = live.submit("pid").result(GUARD_S)
    another(live, "pid", first)
    assert "jobs run, limit 5" in live.log()


def test_a_worker_is_replaced_at_its_age(live):
    first = live.submit("aged_pid").result(GUARD_S)
    another(live, "aged_pid", first)
    assert "s old, limit 0.5 s" in live.log()


def test_the_replacement_is_live_before_the_old_worker_leaves(live):
    """While workers come and go, the count of those that take jobs never reaches 0."""
    recycled = live.controls()[1]["recycled"]
    seen = set()

    def watch():
        seen.add(live.controls()[1]["workers"])
        return live.controls()[1]["recycled"] >= recycled + 3

    until(watch, "three replacements by age")
    assert 0 not in seen


def test_a_worker_over_its_soft_limit_is_replaced_between_jobs_and_the_log_says_why(live):
    first = live.submit("leak", 1).result(GUARD_S)
    until(lambda: live.submit("leak", 8).result(GUARD_S) != first, "another worker")
    line = next(line for line in live.log().splitlines() if "group leaky" in line and "is replaced" in line)
    assert "MiB private memory, limit 64.0 MiB" in line
    assert "MiB per 1,000 jobs" in line
    assert "crashed" not in [line for line in live.log().splitlines() if "group leaky" in line][-1]


def test_a_job_over_the_hard_limit_goes_where_there_is_more_then_to_the_dead_letters_with_its_peak(live, tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(WorkerLost, match="over the memory limit"):
        live.submit("devour", str(runs)).result(GUARD_S)
    groups = [line.split("worker ")[1].split()[0] for line in runs.read_text().splitlines()]
    assert groups == ["small", "large"]
    (letter,) = DeadLetters(live.state_dir).list(task="jobs.devour")
    assert letter.group == "large"
    assert letter.how == "over the memory limit"
    assert letter.peak_bytes > 134217728
    assert live.submit("modest").result(GUARD_S)  # the neighbours are served
