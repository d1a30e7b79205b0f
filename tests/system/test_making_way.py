"""A worker leaves the core of a producer that goes on submitting, and no other; the core stays allowed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from shmq.cores import core
from shmq.transport import bells, membership
from shmq.transport.bells import Bells
from shmq.transport.membership import register
from shmq.worker import making_way
from shmq.worker.making_way import MakingWay

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there is no other to go to")
HERE = min(os.sched_getaffinity(0)) + 1
FOR_GOOD = 1 << 62

set_affinity = os.sched_setaffinity


@pytest.fixture
def row(client):
    """A producer row of this process, beside that of its client; its producer was here last."""
    row = register(client.segment, client._lock_file)
    row.set("core", HERE)
    yield row
    row.release(client._lock_file, client._blocks)


@pytest.fixture
def way(client, monkeypatch):
    """Of a worker that is on core HERE."""
    monkeypatch.setattr(making_way, "core", lambda: HERE)  # where the kernel puts this thread is nobody's to say
    return MakingWay(Bells(client.segment))


@pytest.fixture
def moves(monkeypatch):
    """`moves(work)`: in a thread of its own, which affinities did it ask for? None: it ended with another one."""

    def moves(work: Callable[[], object], to: Callable[[set[int]], None] | None = None) -> list[set[int]] | None:
        asked: list[set[int]] = []

        def ask(_pid: int, cores: set[int]) -> None:
            asked.append(cores)
            if to is not None:
                to(cores)
                return
            set_affinity(0, cores)
            assert HERE - 1 in cores or core() != HERE, "gone at once"

        def run() -> bool:
            before = os.sched_getaffinity(0)
            work()
            return os.sched_getaffinity(0) == before

        with monkeypatch.context() as patch, ThreadPoolExecutor(1) as thread:
            patch.setattr(making_way.os, "sched_setaffinity", ask)
            is_as_before = thread.submit(run).result()
        return asked if is_as_before else None

    return moves


THERE_AND_BACK = [os.sched_getaffinity(0) - {HERE - 1}, making_way._EVERY_CORE]


def test_it_goes_where_its_producer_goes_on_and_its_core_stays_allowed(way, row, moves):
    assert moves(lambda: way.leave_core_of(row.index)) == THERE_AND_BACK


def test_it_stays_where_its_producer_is_not(way, row, moves):
    row.set("core", HERE + 1)
    assert moves(lambda: way.leave_core_of(row.index)) == []


def test_if_it_was_pinned_before_it_is_so_again(way, row, moves):
    allowed = os.sched_getaffinity(0)

    def in_a_wider_cpuset(cores: set[int]) -> None:
        set_affinity(0, {HERE - 1} if cores == making_way._EVERY_CORE else cores)  # another set than before

    assert moves(lambda: way.leave_core_of(row.index), in_a_wider_cpuset) == [*THERE_AND_BACK, allowed]


def test_it_does_not_move_again_soon(way, row, moves, monkeypatch):
    monkeypatch.setattr(making_way, "_EVERY_NS", FOR_GOOD)
    assert moves(lambda: [way.leave_core_of(row.index) for _ in range(2)]) == THERE_AND_BACK


def test_it_moves_again_later(way, row, moves, monkeypatch):
    monkeypatch.setattr(making_way, "_EVERY_NS", 0)
    assert moves(lambda: [way.leave_core_of(row.index) for _ in range(2)]) == THERE_AND_BACK * 2


def test_with_one_core_it_stays(way, row, moves):
    def on_one() -> None:
        set_affinity(0, {HERE - 1})
        way.leave_core_of(row.index)
        assert os.sched_getaffinity(0) == {HERE - 1}

    moves(on_one)


def test_where_moving_is_forbidden_it_stays(way, row, moves):
    def forbid(_cores: set[int]) -> None:
        raise PermissionError

    assert moves(lambda: way.leave_core_of(row.index), forbid) == THERE_AND_BACK[:1]


def test_who_pins_it_meanwhile_is_obeyed(way, row, moves):
    calls = []

    def pin(cores: set[int]) -> None:
        calls.append(cores)
        set_affinity(0, {HERE - 1} if len(calls) == 1 else cores)

    assert moves(lambda: way.leave_core_of(row.index), pin) is None


def test_a_producer_tells_its_core_with_each_ring_and_around_each_wait(client, monkeypatch):
    monkeypatch.setattr(bells, "core", lambda: 7)
    client._publisher.bells.ring(0)
    told = partial(client._publisher.bells.core_of, client._row.index)
    assert told() == 7
    monkeypatch.setattr(membership, "core", lambda: 5)
    client._row.begin_wait()
    assert told() == 5
    monkeypatch.setattr(membership, "core", lambda: 6)  # where it woke up
    client._row.end_wait()
    assert told() == 6
