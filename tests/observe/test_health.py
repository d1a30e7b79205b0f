from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from shmq import clock
from shmq.memory.layout import GROUP_CLAIM
from shmq.observe.health import health
from shmq.observe.snapshot import take
from shmq.transport.limits import OPEN
from shmq.transport.table import QUEUED, RUNNING, job_id

NOBODY = 2**31 - 1


def kinds(fake, **options):
    return [(problem.kind, problem.group) for problem in health(take(fake.segment), **options)]


@pytest.fixture
def healthy(fake):
    fake.worker(0, group=0)
    fake.worker(1, group=1)
    return fake


@pytest.fixture
def child() -> Iterator[int]:
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_groups_with_workers_are_healthy(healthy):
    assert kinds(healthy) == []


def test_a_group_scaled_to_zero_is_healthy_until_jobs_wait(fake):
    fake.worker(1, group=1)
    assert kinds(fake) == []
    fake.word(0, QUEUED, group=0)
    assert kinds(fake) == [("no-workers", "computation")]
    assert health(take(fake.segment))[0].advice == "scaled to 0: shmq scale computation auto"
    fake.control(0, scaled_to=1)
    assert "cannot start" in health(take(fake.segment))[0].advice


def test_a_group_below_its_minimum_with_no_worker_at_all_is_not_healthy(healthy):
    healthy.control(0, min_workers=1)
    assert kinds(healthy) == []
    healthy.worker(0, state=0)
    assert kinds(healthy) == [("no-workers", "computation")]


def test_a_paused_group_is_told_with_what_waits(healthy):
    healthy.control(1, paused=1)
    healthy.word(0, QUEUED, group=1)
    (problem,) = health(take(healthy.segment))
    assert (problem.kind, problem.group) == ("paused", "network")
    assert problem.reason == "paused, 1 job waiting"
    assert problem.advice == "shmq resume network"


def test_a_supervisor_that_is_gone_is_told_once_for_all_groups(healthy):
    healthy.supervisor(NOBODY)
    assert kinds(healthy) == [("no-supervisor", None)]
    healthy.worker(0, state=0)
    healthy.word(0, QUEUED, group=0)  # its workers ended with the supervisor: nothing is wrong with its tasks
    assert kinds(healthy) == [("no-supervisor", None)]


def test_a_supervisor_that_was_stopped_is_named_as_such(healthy):
    healthy.segment.set_header("supervisor_pid", 0)
    (problem,) = health(take(healthy.segment))
    assert problem.reason == "the supervisor was stopped: accepted jobs are safe but do not run"


def test_another_process_with_the_supervisors_pid_is_not_the_supervisor(healthy):
    healthy.segment.set_header("supervisor_ticks", 1)
    assert kinds(healthy) == [("no-supervisor", None)]


def test_a_removed_segment_is_told(healthy):
    healthy.segment.path.unlink()
    assert kinds(healthy) == [("detached", None)]


def test_a_recovery_process_that_is_gone_is_told(healthy):
    healthy.segment.set_header("recovery_pid", NOBODY)
    assert kinds(healthy) == [("no-recovery", None)]


def test_an_open_circuit_is_told_until_it_probes(healthy):
    healthy.control(0, breaker_share_milli=500)
    claim = healthy.segment.rows("group_claim")[0]
    claim[GROUP_CLAIM["breaker"]] = OPEN
    claim[GROUP_CLAIM["breaker_until_ns"]] = clock.now_ns() + 100 * clock.NS
    assert kinds(healthy) == [("circuit-open", "computation")]
    claim[GROUP_CLAIM["breaker_until_ns"]] = clock.now_ns() - 1
    assert kinds(healthy) == []


def test_a_rate_limit_that_holds_jobs_for_minutes_is_told(healthy):
    healthy.control(0, rate_per_s_milli=1000, burst=1)
    healthy.segment.rows("group_claim")[0][GROUP_CLAIM["rate_ns"]] = clock.now_ns() + 600 * clock.NS
    assert kinds(healthy) == []
    healthy.word(0, QUEUED, group=0)
    assert kinds(healthy) == [("rate", "computation")]


def test_a_group_is_stuck_only_when_every_worker_is(healthy, child):
    healthy.worker(2, group=0, pid=child)
    os.kill(child, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while clock.process_state(child) != "T" and time.monotonic() < deadline:
        time.sleep(0.001)
    assert kinds(healthy) == []
    healthy.worker(0, state=0)
    (problem,) = health(take(healthy.segment))
    assert problem.kind == "stuck"
    assert f"pid {child} is stopped by a signal" in problem.reason


def test_a_worker_past_its_time_limit_is_stuck(healthy):
    word = healthy.word(3, RUNNING, group=0, owner=0)
    healthy.worker(0, group=0, job=job_id(word, 3), deadline_ns=clock.now_ns() - 11 * clock.NS)
    assert kinds(healthy) == [("stuck", "computation")]


def test_a_long_job_is_a_problem_only_when_others_wait(healthy):
    healthy.worker(0, group=0, heartbeat_ns=clock.now_ns() - clock.NS)
    assert kinds(healthy, stuck_s=0.5) == []
    healthy.word(0, QUEUED, group=0)
    assert kinds(healthy, stuck_s=0.5) == [("stuck", "computation")]
    assert kinds(healthy, stuck_s=60.0) == []


def test_only_what_lasts_from_one_snapshot_to_the_next_is_told(healthy):
    before = take(healthy.segment)
    healthy.worker(0, state=0)
    healthy.word(0, QUEUED, group=0)
    after = take(healthy.segment)
    assert health(after, before) == []
    assert health(take(healthy.segment), after) == health(after)


def test_job_words_that_shmq_never_writes_are_told(healthy):
    healthy.word(0, 15)
    assert kinds(healthy) == [("damaged", None)]
