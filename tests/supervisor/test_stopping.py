from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from shmq.observe.snapshot import take
from shmq.supervisor import namespace
from shmq.supervisor.namespace import is_job_left, jobs_left
from shmq.transport.table import GENERATION_SHIFT, QUEUED, RUNNING
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import os, time, shmq

@shmq.task
def echo(x):
    return x

@shmq.task
def mark(path: str, s: float = 0.0):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(s)

@shmq.task
def stubborn(path: str):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    if len(open(path).readlines()) < 3:
        time.sleep(3600)

@shmq.task
def segfault_while_leaving(path: str):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.5)
    os.kill(os.getpid(), 11)
"""

PRODUCER = """
import sys, time
from shmq.client.client import Client
client = Client(sys.argv[1])
jobs = [client.submit("jobs.echo", i) for i in range(5)]
[job.result(60) for job in jobs]
print("ready", flush=True)
time.sleep(3600)
"""

ONE = "[groups.computation]\nmin_workers = 1\nmax_workers = 1\n[supervisor]\nmax_attempts = 2\n"


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def live(tmp_path):
    with LiveSupervisor(tmp_path, TASKS, ONE) as live:
        yield live


def producer(live):
    child = subprocess.Popen(
        [sys.executable, "-c", PRODUCER, live.namespace], env=live.env, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    return child


def end(child):
    child.kill()
    child.wait()
    child.stdout.close()


def test_sigterm_lets_running_jobs_finish_and_queued_ones_run_under_the_next_supervisor(live, tmp_path):
    path = tmp_path / "runs"
    jobs = [live.submit("mark", str(path), 0.4, forget=True) for _ in range(3)]
    until(lambda: lines(path), "the first job runs")
    assert live.stop() == 0
    assert len(lines(path)) == 1
    assert "the segment stays with 2 unfinished jobs" in live.log()
    assert len(jobs) == 3
    live.start()
    until(lambda: len(lines(path)) == 3, "the others run")
    until(lambda: not live.controls()[0]["past_crashed"], "no crash is counted")


def test_a_second_signal_kills_and_costs_no_attempt(live, tmp_path):
    path = tmp_path / "runs"
    live.submit("stubborn", str(path), forget=True)
    until(lambda: lines(path), "the job runs")
    os.kill(live.pid, signal.SIGTERM)
    until(lambda: "stopping" in live.log(), "it stops")
    assert live.stop(signal.SIGINT) == 1
    live.start()
    until(lambda: len(lines(path)) == 2, "the job runs again")
    live.control("stop", grace_s=0)
    assert live.process.wait(GUARD_S) == 1
    live.start()
    until(lambda: len(lines(path)) == 3, "and again: what a stop cuts off costs no attempt")
    until(lambda: live.control("drain")["jobs"] == 0, "the job has ended")
    assert live.process.wait(GUARD_S) == 0


HELD_AT_BIRTH = """
import os, time

folder, generation = os.path.dirname(__file__), 0

def is_there(name):
    return os.path.exists(os.path.join(folder, name))

def hold():
    global generation
    generation += 1
    if generation == 2 and is_there("hold"):  # the worker, not the process between
        open(os.path.join(folder, "born"), "w").close()
        while not is_there("go on"):
            time.sleep(0.002)

os.register_at_fork(after_in_child=hold)
"""


def test_a_stop_reaches_a_worker_that_has_no_handler_yet(tmp_path):
    config = ONE.replace("max_workers = 1", "max_workers = 2") + "grace_s = 2\n"
    with LiveSupervisor(tmp_path, TASKS, config, modules={"held": HELD_AT_BIRTH}) as live:
        (tmp_path / "hold").touch()
        live.control("scale", group="computation", workers=2)
        until((tmp_path / "born").exists, "the second worker is forked")
        live.control("stop")
        until(lambda: "stopping" in live.log(), "it stops")
        (tmp_path / "go on").touch()
        assert live.process.wait(GUARD_S) == 0


def test_stop_while_workers_are_ordered_but_not_forked_yet_ends_in_order(live):
    (server,) = live.named("shmq: fork server")
    os.kill(server, signal.SIGSTOP)
    live.control("scale", group="computation", workers=6)
    until(lambda: len(live.workers()) == 6, "orders")
    live.control("stop", grace_s=0)
    until(lambda: "stopping" in live.log(), "it stops")  # most often the kill comes before what follows; either is fine
    os.kill(server, signal.SIGCONT)
    assert live.process.wait(GUARD_S) in {0, 1}  # a signal would be negative
    assert "nothing left behind" in live.log()


def test_drain_runs_what_was_accepted_then_ends(live, tmp_path):
    path = tmp_path / "runs"
    for _ in range(20):
        live.submit("mark", str(path), 0.01, forget=True)
    live.close_clients()
    live.control("drain")
    assert live.process.wait(GUARD_S) == 0
    assert len(lines(path)) == 20
    assert "drained" in live.log()


def test_stop_removes_what_dead_producers_left(live):
    child = producer(live)
    end(child)
    assert live.stop() == 0
    assert "nothing left behind" in live.log()
    assert not list(live.state_dir.glob("*.bell"))


def test_stop_leaves_the_segment_to_a_living_producer_who_goes_on_with_the_next_supervisor(live):
    child = producer(live)
    try:
        assert live.stop() == 0
        assert "producers are attached" in live.log()
        assert (live.state_dir / "recovery.bell").exists()  # it holds the FIFO open and will ring it again
        live.start()
        assert live.submit("echo", 1).result(GUARD_S) == 1
    finally:
        end(child)


def test_a_worker_taken_down_by_its_job_while_it_is_drained_has_crashed(live, tmp_path):
    path = tmp_path / "runs"
    job = live.submit("segfault_while_leaving", str(path))
    until(lambda: lines(path), "it runs")
    live.control("scale", group="computation", workers=0)
    until(lambda: not live.workers(), "the worker is gone")
    assert "SIGSEGV (crashed)" in live.log()
    live.control("scale", group="computation", workers=None)
    with pytest.raises(Exception, match="lost its worker 2 times"):
        job.result(GUARD_S)
    assert len(lines(path)) == 2


def test_after_sigkill_of_the_supervisor_a_new_one_goes_on_with_every_job(live, tmp_path):
    path, slow = tmp_path / "runs", tmp_path / "slow"
    assert [live.submit("echo", i).result(GUARD_S) for i in range(30)] == list(range(30))

    def counted():
        return take(live.segment).group("computation").done

    until(lambda: counted() == 30, "they are counted")
    first = live.submit("stubborn", str(slow))
    until(lambda: lines(slow), "a job runs")
    jobs = [live.submit("echo", i) for i in range(50)]
    delayed = live.submit("echo", "later", delay=0.2)
    bells = live.names_left()
    for rounds in (2, 3):
        live.kill()
        with pytest.raises(TimeoutError, match=rf"No supervisor runs \(pid {live.pid} is gone\).*shmq supervise"):
            first.result(0.01)
        live.start()
        until(lambda rounds=rounds: len(lines(slow)) == rounds, "the running job runs again")
        until(lambda: counted() == 30 + sum(job.done() for job in [first, *jobs, delayed]), "what ended is counted")
    first.result(GUARD_S)
    assert [job.result(GUARD_S) for job in jobs] == list(range(50))
    assert delayed.result(GUARD_S) == "later"
    until(lambda: counted() == 82, "nothing that was counted is forgotten")
    assert "found the segment of a former supervisor" in live.log()
    until(lambda: len([p for p in bells if p.exists()]) <= 2, "bells of dead workers are gone")
    assert not lines(path)


def test_another_configuration_replaces_an_empty_segment_and_is_refused_with_jobs_in_it(live, tmp_path):
    live.submit("echo", 1).result(GUARD_S)
    live.control("pause", group="computation")
    live.submit("mark", str(tmp_path / "runs"), forget=True)
    live.kill()
    live.close_clients()
    until(lambda: not live.processes(), "the tree is gone")
    other = ONE + "[groups.network]\n"
    live.write_config(other)
    live.start(wait=False)
    assert live.process.wait(GUARD_S) == 1
    assert "holds 1 unfinished jobs and was made for another configuration" in live.log()

    live.write_config(ONE)
    live.start()
    live.control("resume", group="computation")
    until(lambda: lines(tmp_path / "runs") and not jobs_left(live.segment), "the job has run and ended")
    live.kill()
    live.write_config(other)
    live.start()
    assert "replaced" in live.log()
    assert live.submit("echo", 2, group="network").result(GUARD_S) == 2


def looked_at(monkeypatch, before, after):
    """A table of two jobs, (word, cancel) each, that changes once while `is_job_left` looks at it."""
    now = {"words": [word for word, _ in before], "cancels": [cancel for _, cancel in before]}

    class Column:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, slot):
            value = now[self.name][slot]
            now["words"], now["cancels"] = ([job[i] for job in after] for i in (0, 1))
            return value

    monkeypatch.setattr(namespace, "slots_where", lambda *_: [0])  # the second one came after the scan
    return SimpleNamespace(view=Column, shape=SimpleNamespace(slots=2))


def test_a_job_that_begins_to_run_as_its_cancel_comes_is_left(monkeypatch):
    queued, running = 7 << GENERATION_SHIFT | QUEUED, 7 << GENERATION_SHIFT | RUNNING
    assert is_job_left(looked_at(monkeypatch, [(queued, 0), (0, 0)], [(running, 7), (0, 0)]))


def test_a_job_that_submits_another_as_it_ends_is_left(monkeypatch):
    """The other one is not in the scan: whoever finds nothing would not look again."""
    ended, queued = 8 << GENERATION_SHIFT, 7 << GENERATION_SHIFT | QUEUED
    assert is_job_left(looked_at(monkeypatch, [(ended, 0), (queued, 0)], [(ended, 0), (queued, 0)]))


@pytest.mark.parametrize("delay", [0, 3600])
def test_a_job_that_was_cancelled_before_it_ran_is_not_left(live, delay):
    live.control("pause", group="computation")
    (recovery,) = live.named("shmq: recovery")
    jobs = [live.submit("echo", i, delay=delay) for i in range(3)]
    if delay:
        until(lambda: [job.state for job in jobs] == ["scheduled"] * 3, "recovery has seen them")
    os.kill(recovery, signal.SIGSTOP)  # it would end what was cancelled
    try:
        assert jobs_left(live.segment) == 3
        assert jobs[0].cancel()
        assert jobs[2].cancel()
        assert jobs_left(live.segment) == 1
        assert is_job_left(live.segment)
        assert jobs[1].cancel()
        assert jobs_left(live.segment) == 0
        assert not is_job_left(live.segment)
    finally:
        os.kill(recovery, signal.SIGCONT)
    live.close_clients()
