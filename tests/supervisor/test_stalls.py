from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import os, signal, time, shmq

@shmq.task
def echo(x):
    return x

@shmq.task
def stop_while_claiming(path: str):
    if os.path.exists(path):
        return "again"
    open(path, "w").close()
    from shmq.memory import locks
    (lock_file,) = locks._open_files.values()
    lock_file.acquire(locks.group_byte(0))
    os.kill(os.getpid(), signal.SIGSTOP)

@shmq.task(timeout=0.2)
def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)

@shmq.task
def nap(s: float):
    time.sleep(s)
    return s
"""


def test_a_stopped_holder_of_the_claim_lock_is_killed_and_nobody_pays(tmp_path):
    config = "[groups.computation]\nmin_workers = 2\nmax_workers = 2\n[supervisor]\ntick_s = 0.05\n"
    with LiveSupervisor(tmp_path, TASKS, config) as live:
        job = live.submit("stop_while_claiming", str(tmp_path / "mark"))
        until((tmp_path / "mark").exists, "it runs")
        others = [live.submit("echo", i) for i in range(20)]
        assert [other.result(GUARD_S) for other in others] == list(range(20))
        assert job.result(GUARD_S) == "again"
        assert "has held the claim lock" in live.log()


def test_a_stopped_worker_is_killed_at_its_limit_and_one_in_a_job_without_limit_is_left_alone(tmp_path):
    config = "[groups.computation]\nmin_workers = 2\nmax_workers = 2\ngrace_s = 0.2\n"
    with LiveSupervisor(tmp_path, TASKS, config) as live:
        with pytest.raises(TimeoutError, match="past its time limit"):
            live.submit("stopped").result(GUARD_S)
        job = live.submit("nap", 0.5)
        until(lambda: job.state == "running", "it runs")
        (pid,) = [w["pid"] for w in live.workers() if _task_is_running(live, w["index"])]
        os.kill(pid, signal.SIGSTOP)
        assert live.submit("echo", 1).result(GUARD_S) == 1
        os.kill(pid, signal.SIGCONT)
        assert job.result(GUARD_S) == 0.5
        assert live.log().count("ended: SIGKILL") == 1


def _task_is_running(live, index):
    from shmq.transport.table import RUNNING, STATE, owner_of

    return any(word & STATE == RUNNING and owner_of(word) == index for word in live.segment.view("words").tolist())


def test_an_idle_worker_that_was_stopped_is_replaced_when_jobs_wait(tmp_path):
    config = "[groups.computation]\nmin_workers = 1\nmax_workers = 1\n[supervisor]\ntick_s = 0.1\n"
    hurry = "from shmq.supervisor.pools import stalls; stalls._SILENT_S, stalls._SLOW_LOOK_S = 1.0, 0.1"
    with LiveSupervisor(tmp_path, TASKS, config, prelude=hurry) as live:
        (worker,) = live.live_workers()
        os.kill(worker["pid"], signal.SIGSTOP)
        assert live.submit("echo", 1).result(GUARD_S) == 1
        assert "no sign of life" in live.log()


def test_garbage_in_any_shared_word_does_not_end_the_supervisor(tmp_path):
    """The workers and what they run may suffer; the supervisor answers, and stops when told."""
    config = "[groups.computation]\nmin_workers = 1\nmax_workers = 2\n[supervisor]\ntick_s = 0.02\n"
    with LiveSupervisor(tmp_path, TASKS, config) as live:
        live.leaves_jobs = True
        live.submit("echo", 1).result(GUARD_S)
        live.close_clients()
        source = random.Random(7)
        fields = (
            "group_control", "group_claim", "group_plan", "group_reason", "sleeping", "producer_rows",
            "producer_bells", "worker_rows", "worker_bells", "service_times", "heads", "tails", "rings",
            "words", "cancels", "kills", "dues", "results", "payload", "tags", "pins", "group_names",
            "state_dir", "header",
        )  # fmt: skip
        deaths = 0
        for field in fields:
            view = live.segment.view(field).cast("B")
            before = bytes(view)
            for value in (source.randbytes(len(view)), b"\xff" * len(view)):
                view[:] = value
                for worker in live.workers():
                    if worker["pid"]:  # a death reads and writes most of the words
                        os.kill(worker["pid"], signal.SIGKILL)
                        deaths += 1
                        break
                time.sleep(0.05)  # exposure, not a wait: some ticks shall see the garbage
                assert live.control("limit", target="computation", rate_per_s=source.randint(1, 9))
                assert live.control("ping")["pid"] == live.pid
            view[:] = before
            if field in {"group_plan", "worker_rows", "words", "tails"}:
                until(live.live_workers, f"workers come back after {field}")
        live.control("stop", grace_s=0)
        assert live.process.wait(GUARD_S) in {0, 1}
        assert "supervisor: stopped; " in live.log()
        assert deaths >= 5
