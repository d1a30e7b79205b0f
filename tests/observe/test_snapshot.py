from __future__ import annotations

import os
import random

import msgspec
import pytest

from shmq import clock
from shmq.errors import ShmqError
from shmq.memory.lanes import lane
from shmq.memory.layout import FIELDS, GROUP_CLAIM, GROUP_PLAN, PRODUCER, WORKER, WORKER_DEAD, WORKER_STARTING
from shmq.observe.histogram import bucket_of
from shmq.observe.model import Snapshot
from shmq.observe.snapshot import take
from shmq.tasks import registry
from shmq.tasks.task import Options, Task
from shmq.transport.limits import HALF_OPEN, OPEN
from shmq.transport.table import CANCELLED, DONE, FAILED, LEASED, QUEUED, REQUEUED, RUNNING, SCHEDULED, job_id
from shmq.wire.header import HEADER

NOBODY = 2**31 - 1  # a pid that no process has


def test_jobs_are_counted_by_group_and_state(fake):
    states = [QUEUED, QUEUED, REQUEUED, LEASED, RUNNING, SCHEDULED, DONE, FAILED, CANCELLED]
    for slot, state in enumerate(states):
        fake.word(slot, state, group=1)

    snapshot = take(fake.segment)

    group = snapshot.group("network")
    assert (group.queued, group.leased, group.running, group.scheduled, group.unread) == (3, 1, 1, 1, 3)
    assert snapshot.group("computation").queued == 0
    assert (snapshot.memory.slots, snapshot.memory.slots_used) == (32, 9)


def test_backlog_is_told_by_priority(fake):
    tails = fake.segment.view("tails")
    tails[lane(fake.segment.shape, 1, 0, 0).word] = 3
    tails[lane(fake.segment.shape, 1, 1, 0).word] = 2
    tails[lane(fake.segment.shape, 1, 1, 4).word] = 7

    assert take(fake.segment).group("network").backlog == (5, 0, 0, 0, 7)


def test_workers_are_told_by_what_they_do(fake):
    fake.worker(0, group=0)
    fake.worker(1, group=0, job=job_id(fake.word(3, RUNNING, owner=1), 3))
    fake.worker(2, group=0, state=WORKER_STARTING, pid=0)
    fake.worker(3, group=0, state=WORKER_DEAD, pid=NOBODY)

    snapshot = take(fake.segment)

    assert [worker.state for worker in snapshot.workers] == ["idle", "busy", "starting", "dead"]
    workers = snapshot.group("computation").workers
    assert (workers.idle, workers.busy, workers.starting, workers.dead, workers.live) == (1, 1, 1, 1, 2)


def test_the_task_of_a_running_job_is_named(fake, tmp_path):
    task = Task(len, Options(), "some.task")
    registry.publish({task.key: task}, tmp_path)
    HEADER.pack_into(fake.segment.view("payload"), 3 * 256, task.key, *[0] * 10)
    fake.worker(0, group=0, job=job_id(fake.word(3, RUNNING, generation=7), 3))

    (worker,) = take(fake.segment).workers

    assert (worker.task, worker.job, worker.running) == ("some.task", "7-3", 1)


def test_a_damaged_list_of_tasks_costs_the_names_only(fake, tmp_path):
    (tmp_path / registry.FILE).write_bytes(b"[{")
    fake.worker(0, group=0, job=job_id(fake.word(3, RUNNING, generation=7), 3))
    (worker,) = take(fake.segment).workers
    assert worker.job == "7-3"
    with pytest.raises(ShmqError, match=r"registry\.json cannot be read(.|\n)*`shmq reload` writes it anew"):
        registry.read(tmp_path)


def test_a_worker_whose_result_finds_no_room_is_waiting(fake):
    fake.worker(0, group=0, job=job_id(fake.word(3, RUNNING), 3), wants_bytes=4096)
    fake.worker(1, group=0, state=WORKER_DEAD, wants_bytes=4096)

    snapshot = take(fake.segment)

    assert [(worker.state, worker.wants_bytes) for worker in snapshot.workers] == [("waiting", 4096), ("dead", 0)]
    assert snapshot.group("computation").workers.live == 1


def test_a_job_that_has_ended_no_longer_counts_as_running(fake):
    fake.worker(0, group=0, job=job_id(fake.word(3, DONE), 3))

    (worker,) = take(fake.segment).workers

    assert (worker.state, worker.task, worker.job) == ("idle", "", "")


def test_the_slots_next_job_is_not_taken_for_the_workers_own(fake):
    former = job_id(fake.word(3, RUNNING, generation=7), 3)
    fake.worker(0, group=0, job=former)
    fake.word(3, RUNNING, generation=8)

    (worker,) = take(fake.segment).workers

    assert (worker.running, worker.job) == (1, "")


def test_totals_include_workers_that_are_gone(fake):
    fake.control(0, past_done=10, past_failed=4, past_retried=1, spawned=5, past_crashed=2)
    fake.worker(0, group=0, done=5, failed=1, retried=1)

    group = take(fake.segment).group("computation")

    assert (group.done, group.failed, group.retried) == (12, 3, 2)
    assert (group.workers_started, group.workers_crashed) == (5, 2)


def test_rates_come_from_two_snapshots(fake):
    fake.worker(0, group=0, done=5)
    first = take(fake.segment)
    fake.worker(0, group=0, done=25)
    second = take(fake.segment, first)

    elapsed_s = (second.taken_ns - first.taken_ns) / 1e9
    assert first.group("computation").done_per_s is None
    assert second.group("computation").done_per_s == pytest.approx(20 / elapsed_s)


def test_latencies_of_a_group_come_from_all_its_workers(fake):
    for row, ns in ((0, 1_000_000), (1, 2_000_000)):
        fake.worker(row, group=0, busy_ns=100 * ns)
        fake.segment.rows("service_times")[row][bucket_of(ns)] = 100
    fake.worker(2, group=1)
    fake.segment.rows("service_times")[2][bucket_of(10**9)] = 1

    service = take(fake.segment).group("computation").service

    assert service.count == 200
    assert service.mean_s == pytest.approx(0.0015)
    assert service.p50_s == pytest.approx(0.001, rel=0.25)
    assert service.p99_s == pytest.approx(0.002, rel=0.25)


def test_producers_are_told_with_their_slots(fake):
    rows = fake.segment.rows("producer_rows")
    rows[1][PRODUCER["pid"]], rows[1][PRODUCER["ticks"]] = os.getpid(), clock.start_ticks(os.getpid())
    fake.word(16, QUEUED)
    fake.word(17, DONE)
    fake.word(0, QUEUED)  # row 0: nobody holds it, its job still waits

    left, mine = take(fake.segment).producers

    assert (left.row, left.pid, left.alive, left.waiting) == (0, 0, False, 1)
    assert (mine.pid, mine.alive, mine.free, mine.waiting, mine.unread) == (os.getpid(), True, 14, 1, 1)


def test_a_reused_pid_is_not_taken_for_the_producer(fake):
    rows = fake.segment.rows("producer_rows")
    rows[0][PRODUCER["pid"]], rows[0][PRODUCER["ticks"]] = os.getpid(), 1

    (producer,) = take(fake.segment).producers

    assert not producer.alive


def test_blocks_in_use_are_those_of_live_jobs_and_readers(fake):
    tags, pins = fake.segment.view("tags"), fake.segment.view("pins")
    tags[0] = job_id(fake.word(2, RUNNING, generation=5), 2)
    tags[1] = 4 << 32 | 2  # an earlier job of the slot
    pins[2 * 2] = 1

    memory = take(fake.segment).memory

    assert (memory.block_bytes, memory.block_used_bytes) == (4 * 4096, 2 * 4096)


def test_the_planners_figures_are_dropped_when_old(fake):
    plan = fake.segment.rows("group_plan")[0]
    plan[GROUP_PLAN["arrivals_milli"]], plan[GROUP_PLAN["updated_ns"]] = 1500, clock.now_ns()
    assert take(fake.segment).group("computation").arrivals_per_s == pytest.approx(1.5)

    plan[GROUP_PLAN["updated_ns"]] = max(clock.now_ns() - 11 * clock.NS, 1)
    assert take(fake.segment).group("computation").arrivals_per_s is None


def test_limits_are_told_as_the_configuration_names_them(fake):
    fake.control(0, rate_per_s_milli=2500, burst=3, breaker_share_milli=500, breaker_fail_fast=1)
    claim = fake.segment.rows("group_claim")[0]
    claim[GROUP_CLAIM["breaker"]] = OPEN
    claim[GROUP_CLAIM["breaker_until_ns"]] = clock.now_ns() + 100 * clock.NS

    limits = take(fake.segment).group("computation").limits

    assert (limits.rate_per_s, limits.burst, limits.breaker_failure_share) == (2.5, 3, 0.5)
    assert (limits.circuit, limits.breaker_mode) == ("open", "fail")
    assert 90 < limits.circuit_s <= 100

    claim[GROUP_CLAIM["breaker"]] = HALF_OPEN
    assert take(fake.segment).group("computation").limits.circuit == "probing"
    fake.control(0, breaker_share_milli=0)
    assert take(fake.segment).group("computation").limits.circuit == "closed"


def test_a_spent_burst_holds_the_next_job_back(fake):
    fake.control(0, rate_per_s_milli=500, burst=3)  # a job every 2 s, three at once
    claim = fake.segment.rows("group_claim")[0]
    claim[GROUP_CLAIM["rate_ns"]] = clock.now_ns() + 4 * clock.NS  # two of three spent
    assert take(fake.segment).group("computation").limits.held_s == 0
    claim[GROUP_CLAIM["rate_ns"]] = clock.now_ns() + 60 * clock.NS
    assert 50 < take(fake.segment).group("computation").limits.held_s <= 56


def test_a_removed_name_is_seen_as_detached(fake):
    assert not take(fake.segment).detached
    fake.segment.path.unlink()
    assert take(fake.segment).detached


def test_taking_a_snapshot_changes_no_byte(fake):
    fake.worker(0, group=0)
    before = bytes(fake.segment.map)
    take(fake.segment, take(fake.segment))
    assert bytes(fake.segment.map) == before


def test_a_snapshot_survives_json(fake):
    fake.worker(0, group=0, busy_ns=5_000)
    fake.segment.rows("service_times")[0][bucket_of(1000)] = 5
    snapshot = take(fake.segment)
    assert msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot) == snapshot


@pytest.mark.parametrize("seed", range(20))
def test_garbage_in_every_shared_word_gives_wrong_figures_at_worst(fake, seed):
    source = random.Random(seed)
    for field in FIELDS:
        if field.name not in {"header", "state_dir", "payload", "blocks"}:
            view = fake.segment.view(field.name)
            view.cast("B")[:] = source.randbytes(view.nbytes)

    snapshot = take(fake.segment, take(fake.segment))

    assert all(0 <= n <= 32 for g in snapshot.groups for n in (g.queued, g.leased, g.running, g.unread))
    assert all(sum(g.backlog) <= 3 * 5 * 16 for g in snapshot.groups)
    assert all(worker.pid < 2**31 for worker in snapshot.workers)
    assert 0 <= snapshot.memory.block_used_bytes <= snapshot.memory.block_bytes
    assert msgspec.json.encode(snapshot)


def test_words_that_shmq_never_writes_are_counted_as_damage(fake):
    fake.word(0, 12)
    fake.word(1, QUEUED, group=9)
    assert take(fake.segment).memory.damaged_words == 2


def test_counters_that_no_work_reaches_count_as_nothing(fake):
    fake.worker(0, group=0, done=2**64 - 1, busy_ns=2**63)
    (worker,) = take(fake.segment).workers
    assert (worker.ended, worker.busy_s) == (0, 0.0)


def test_a_worker_row_that_names_no_group_is_left_out(fake):
    fake.worker(0, group=0)
    fake.segment.rows("worker_rows")[0][WORKER["group"]] = 60
    assert take(fake.segment).workers == ()
