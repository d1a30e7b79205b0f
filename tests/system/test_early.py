"""Producers rung before their job is claimed: once per wait, where that is not too early, and what they do then."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import shmq
from shmq.client import waiting
from shmq.cores import UNKNOWN, core, is_told
from shmq.memory.doorbell import SemaphoreBell, new_name
from shmq.memory.layout import PRODUCER, PRODUCER_WORDS
from shmq.transport.bells import Bells
from shmq.transport.membership import register
from shmq.transport.promises import Promises
from shmq.worker import early as early_rings
from shmq.worker.early import EarlyRings
from tests.client import declared
from tests.live import until
from tests.system.conftest import SLOTS

ELSEWHERE = 1 << 30  # a core that this machine does not have


@pytest.fixture
def row(client):
    """A producer row of this process, beside that of its client."""
    row = register(client.segment, client._lock_file)
    yield row
    row.release(client._lock_file, client._blocks)


@pytest.fixture
def bells(client):
    return Bells(client.segment)


def tokens(row) -> int:
    """Rings since the last look."""
    count = 0
    while row.bell.wait(0):
        count += 1
    return count


def test_a_wait_is_rung_once_however_many_jobs_end_and_the_next_one_again(row, bells):
    bells.notify_producer(row.index)
    assert tokens(row) == 0  # nobody waits
    row.begin_wait()
    for _ in range(3):
        bells.notify_producer(row.index)
    assert tokens(row) == 1
    row.begin_wait()
    bells.notify_producer(row.index)
    assert tokens(row) == 1
    row.end_wait()
    bells.notify_producer(row.index)
    assert tokens(row) == 0


def test_no_holder_of_a_row_has_the_number_of_anothers_wait(client, bells):
    numbers = set()
    for _ in range(3):
        row = register(client.segment, client._lock_file)
        for _ in range(5):
            row.begin_wait()
            numbers.add(client.segment.view("producer_rows")[row.index * PRODUCER_WORDS + PRODUCER["waiting"]])
        row.end_wait()
        row.release(client._lock_file, client._blocks)
    assert len(numbers) == 15


def test_who_was_rung_too_early_is_left_alone_for_longer_and_longer(row, bells):
    early = EarlyRings(bells, bells._segment.shape.recovery_row)

    def job(*, looks_too_early: bool) -> bool:
        """One job for a producer that waits; was it rung early?"""
        row.begin_wait()
        row.set("core", ELSEWHERE)
        early.before(row.index)
        was_rung = tokens(row) == 1
        if was_rung and looks_too_early:
            row.begin_wait()
        bells.notify_producer(row.index)  # the job has ended
        assert tokens(row) == (not was_rung or looks_too_early)  # never missed, never twice
        early.after(row.index)
        return was_rung

    assert [job(looks_too_early=False) for _ in range(5)] == [True] * 5
    pauses = [0]
    for _ in range(60):
        if job(looks_too_early=True):
            pauses.append(0)
        else:
            pauses[-1] += 1
    assert pauses[:4] == [0, 8, 16, 32]
    while not job(looks_too_early=False):
        pass
    assert [job(looks_too_early=False) for _ in range(5)] == [True] * 5


def test_who_sleeps_on_the_workers_own_core_is_not_rung_early(row, bells, monkeypatch):
    recovery_row = bells._segment.shape.recovery_row
    early = EarlyRings(bells, recovery_row)
    monkeypatch.setattr(early_rings, "core", lambda: 5)
    for number, is_rung in ((5, False), (6, True), (UNKNOWN, True)):
        row.begin_wait()
        row.set("core", number)
        early.before(row.index)
        assert tokens(row) == is_rung, number
    monkeypatch.setattr(early_rings, "core", lambda: UNKNOWN)
    row.begin_wait()
    row.set("core", UNKNOWN)
    early.before(row.index)
    assert tokens(row) == 1
    early.before(recovery_row)  # its lanes hold anybody's jobs: nobody to ring, nothing to break
    early.after(recovery_row)


def test_a_thread_knows_its_core_wherever_it_is_moved():
    cores = sorted(os.sched_getaffinity(0))

    def look() -> list[int]:
        seen = []
        for number in cores:
            os.sched_setaffinity(0, {number})  # of this thread alone
            seen.append(core())
        return seen

    with ThreadPoolExecutor(1) as thread:
        seen = thread.submit(look).result()
    knows = is_told() and platform.machine() == "x86_64"
    assert seen == ([number + 1 for number in cores] if knows else [UNKNOWN] * len(cores))


def waiter_of(row, rung) -> waiting.Waiter:
    return waiting.Waiter(row, Promises(row.segment, row.index, Bells(row.segment)), rung, lambda: None)


def test_who_was_rung_early_looks_for_a_while_before_it_sleeps_again(row, monkeypatch):
    monkeypatch.setattr(waiting, "QUICK_NS", 60 * 10**9)
    looks = iter([False, False, False, True])  # before the sleep twice, after it, and once more
    row.bell.notify()
    assert waiter_of(row, lambda: pytest.fail("it sleeps again")).wait(lambda: next(looks), float("inf"))
    assert list(looks) == []


def waits_of(row, *, follower: bool) -> int:
    """Waits that the leader begins when it is rung once for nothing, then for the end."""
    begun, begin_wait = [], row.begin_wait
    row.begin_wait = lambda: begun.append(begin_wait())
    waiter = waiter_of(row, row.bell.notify)  # after a ring for nothing the next one
    if follower:
        waiter._followers.append(threading.Lock())
        waiter._followers[0].acquire()
        waiter._tell_followers = lambda: None
    row.bell.notify()
    assert waiter.wait(lambda: len(begun) > 2, float("inf"))
    return len(begun)


@pytest.mark.parametrize("follower", [False, True])
def test_who_was_rung_for_nothing_begins_another_wait_before_it_sleeps_again(row, monkeypatch, follower):
    clock = itertools.count(0, 30_000)
    monkeypatch.setattr(waiting, "now_ns", lambda: next(clock))
    assert waits_of(row, follower=follower) == 3
    assert next(clock) == (0 if follower else 60_000)  # looked for a while once, the second chance is left out


def test_a_signal_ends_a_sleep_and_it_is_no_sleep_in_vain():
    bell = SemaphoreBell(new_name("shmq-test-bell"), create=True)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        assert not bell.doze(0.05)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert bell.doze(60.0)
    finally:
        signal.signal(signal.SIGALRM, before)
        bell.unlink()
        bell.close()


def test_a_claim_that_only_passes_cancelled_jobs_rings_the_producer_that_waits_for_their_room(service):
    client = shmq.connect(service.namespace)
    waiter, task = client._waiter, declared.single
    service.control("pause", group="single")
    try:
        for _ in range(SLOTS):
            assert client.submit(task, 0).cancel()
        values: list[int] = []
        thread = threading.Thread(target=lambda: values.append(client.submit(task.options(block=60), 7).result(60)))
        thread.start()
        row = service.segment.rows("producer_rows")[client._row.index]
        until(lambda: row[PRODUCER["waiting"]], "no slot is free: it waits")
    finally:
        service.control("resume", group="single")
    thread.join()
    assert values == [7]
    assert waiter.rescues == 0  # it was rung, not found by the end of a bounded sleep
    client.close()


def test_a_forked_child_knows_its_core():
    seen, child_end = os.pipe()
    number = min(os.sched_getaffinity(0))
    before = core()
    child = os.fork()
    if child == 0:
        try:
            os.sched_setaffinity(0, {number})
            os.write(child_end, str(core()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(seen, 16)) == (number + 1 if before != UNKNOWN else UNKNOWN)
    os.close(seen)
    os.close(child_end)


def test_who_waits_sees_to_promises_when_they_are_over_and_not_only_when_it_is_rung(row, monkeypatch):
    waiter = waiter_of(row, lambda: None)
    made, looks = waiter._promises, []
    monkeypatch.setattr(made, "settle", lambda: looks.append(0.0005) or 0.0005)
    made.believed[0] = 1
    assert waiter.wait(lambda: len(looks) > 1, time.monotonic() + 60)  # nobody rings
    assert waiter.rescues == 0  # that was a short sleep, no ring was lost


def test_who_follows_another_thread_in_its_wait_sees_to_promises_as_well(row, monkeypatch):
    waiter, looks, has_lead, is_over = waiter_of(row, lambda: None), [], threading.Event(), threading.Event()
    monkeypatch.setattr(waiter._promises, "settle", lambda: looks.append(0.0005) or 0.0005)

    def lead() -> None:
        with waiter._leader:
            has_lead.set()
            is_over.wait(60)

    monkeypatch.setattr(waiting, "RESCUE_S", 600.0)
    with ThreadPoolExecutor(1) as thread:
        led = thread.submit(lead)
        has_lead.wait(60)
        assert waiter.wait(lambda: len(looks) > 1, time.monotonic() + 60)
        is_over.set()
        led.result()
