"""`shmq.memory()`: what a group uses and why, asked of running workers without restart."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

import shmq
from shmq import heap
from shmq.memcheck.soak import orders
from shmq.memcheck.usage import own
from shmq.memcheck.usage.look import explain
from shmq.memcheck.usage.model import Heap, Memory, WorkerMemory
from tests.live import LiveSupervisor, until

MIB = 1 << 20
TASKS = """
import shmq, numpy as np, weakref

kept = []
pool = shmq.ObjectPool(dict, max_size=3)

@shmq.task
def hold(mebibytes: int) -> int:
    with pool.lend():
        kept.append(bytearray(b"x") * (mebibytes * 2**20))
    return len(kept)

@shmq.task
def view(array: np.ndarray) -> int:
    kept.append(array)
    return len(array)

@shmq.task
def scatter() -> None:
    pieces = [bytes(2048) for _ in range(30_000)]
    kept.append(pieces[::100])

class Knot:
    def __init__(self):
        self.me = self

knots, last = weakref.WeakSet(), None

@shmq.task
def tie() -> int:
    global last
    last = Knot()  # lives to the next job, and is garbage that only the collector frees then
    knots.add(last)
    return len(knots)

@shmq.task
def wait_for(path: str) -> None:
    import os, time
    while not os.path.exists(path):
        time.sleep(0.01)

@shmq.task(group="network")
async def nothing() -> None:
    pass
"""
CONFIG = """
[groups.computation]
min_workers = 1
max_workers = 1
gc = "batch"
[groups.network]
min_workers = 1
max_workers = 1
concurrency = 10
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, CONFIG) as live:
        live.submit("nothing").result(30)
        yield live


def group(memory: Memory, name: str):
    return next(group for group in memory.groups if group.name == name)


def test_what_a_task_holds_is_seen_from_outside_and_from_inside(live):
    live.submit("hold", 1).result(30)
    before = group(shmq.memory(live.namespace, wait_s=30), "computation").workers[0]
    live.submit("hold", 20).result(30)
    found = group(shmq.memory(live.namespace, wait_s=30), "computation")
    (after,) = found.workers
    assert after.pid == before.pid
    assert 19 * MIB < after.private - before.private < 25 * MIB
    assert after.private_peak >= after.private
    assert 19 * MIB < after.heap.malloc_used - before.heap.malloc_used < 25 * MIB
    assert after.heap.python_used > 0
    assert (after.heap.gc, after.heap.gc_frozen > 1000) == ("batch", True)
    (pool,) = after.heap.pools
    assert (pool.factory, pool.idle, pool.max_size) == ("dict", 1, 3)
    assert "gc batch" in found.why
    assert "pool of dict: 1 idle, at most 3 per worker" in found.why


def test_what_outlives_its_batch_is_collected_later(live):
    seen = [live.submit("tie").result(30)]

    def has_fallen() -> bool:
        seen.append(live.submit("tie").result(30))
        return seen[-1] < seen[-2]

    until(has_fallen, "older generations are collected")


def test_every_kind_of_worker_answers(live):
    assert group(shmq.memory(live.namespace, wait_s=30), "network").workers[0].heap is not None


def test_blocks_and_slots_are_told_by_group_and_producer(live):
    live.submit("view", np.ones(MIB // 8)).result(30)  # the worker keeps a view
    unread = live.submit("hold", 1)
    until(lambda: live.segment.view("words")[unread._slot] & 0xF >= 6)
    found = shmq.memory(live.namespace, wait_s=30)
    computation = group(found, "computation")
    assert computation.block_bytes >= MIB
    assert found.block_used_bytes >= computation.block_bytes
    assert computation.slots >= 1
    assert sum(producer.slots for producer in found.producers) == found.slots_used >= 1


def test_a_worker_in_a_long_job_is_shown_without_its_heap(live, tmp_path):
    job = live.submit("wait_for", str(tmp_path / "go"))
    until(lambda: job.state == "running")
    found = group(shmq.memory(live.namespace, wait_s=0.2), "computation")
    (tmp_path / "go").touch()
    job.result(30)
    assert found.workers[0].heap is None
    assert found.workers[0].private > MIB
    assert "long jobs" in found.why
    assert orders.read(live.state_dir, "computation", orders.HEAP) is None


def test_an_idle_worker_gives_freed_memory_back(live):
    """60 MiB in pieces, every hundredth kept: nothing that malloc would give back by itself."""
    before = group(shmq.memory(live.namespace, wait_s=30), "computation").workers[0]
    live.submit("scatter").result(30)

    def is_given_back() -> bool:
        now = group(shmq.memory(live.namespace, wait_s=30), "computation").workers[0]
        return now.private_peak - before.private > 50 * MIB and now.private - before.private < 20 * MIB

    until(is_given_back)


def test_trimming_looks_once_per_idle_spell(monkeypatch):
    looks = []
    monkeypatch.setattr(heap, "malloc_slack", lambda: looks.append(1) or 0)
    trim = heap.Trim()
    assert not any(trim.when_idle(jobs) for jobs in (0, 5, 5, 5, 6, 6))
    assert len(looks) == 2


def test_the_command_shows_the_same(live):
    command = [sys.executable, "-m", "shmq", "status", "--memory", "-n", live.namespace]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "computation: 1 workers, " in text
    assert "malloc slack" in text
    raw = subprocess.run([*command, "--json"], capture_output=True, check=True).stdout
    assert len(msgspec.json.decode(raw, type=Memory).groups) == 2


def test_own_heap_follows_what_is_held():
    before = own.heap("auto")
    kept = [object() for _ in range(100_000)]
    after = own.heap("auto")
    assert 1.5e6 <= after.python_used - before.python_used < 4e6
    assert after.python_slack >= 0
    del kept


def test_a_full_disk_costs_the_answer_only(tmp_path):
    own.write(tmp_path / "missing", "auto")


def test_slack_of_malloc_is_said_with_its_remedy():
    own_heap = Heap(python_used=MIB, python_slack=0, malloc_used=MIB, malloc_slack=60 * MIB, gc="auto", gc_tracked=9,
                gc_frozen=1)  # fmt: skip
    worker = WorkerMemory(row=0, pid=1, private=62 * MIB, private_peak=62 * MIB, heap=own_heap)
    assert "max_worker_memory_bytes" in explain((worker,), 0, 0)
    assert explain((), 3, 2 * MIB) == "no worker; 3 slots; 2.0 MiB of blocks"
