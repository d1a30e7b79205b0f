"""Order: first in, first out per producer and priority; 1 is served first, 5 never starves."""

from __future__ import annotations

import itertools
import time

import pytest

import shmq
from shmq.memory.layout import WORKER
from shmq.observe.snapshot import take
from shmq.transport.claim import PRIORITY_WHEEL
from tests.client import declared
from tests.live import LiveSupervisor, until


@pytest.fixture
def gate(service, tmp_path):
    """The group `single` is paused until `gate()`; then its one worker claims what has piled up."""
    service.control("pause", group="single")
    yield lambda: service.control("resume", group="single")
    service.control("resume", group="single")


WHEEL = declared.note.options(group="wheel")


@pytest.fixture
def wheel(service):
    """A paused group whose worker claims one job at a time: jobs start in the order of their claims."""
    service.control("pause", group="wheel")
    yield lambda: service.control("resume", group="wheel")
    service.control("resume", group="wheel")


def lines(path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_jobs_of_one_producer_and_priority_start_in_order(client, wheel, tmp_path):
    log = tmp_path / "log"
    jobs = [WHEEL.submit(str(log), str(i)) for i in range(200)]
    wheel()
    for job in jobs:
        job.result(30)
    assert lines(log) == [str(i) for i in range(200)]


def test_each_producers_jobs_start_in_its_order_and_producers_take_turns(service, wheel, tmp_path):
    log = tmp_path / "log"
    clients = [shmq.connect(service.namespace) for _ in range(3)]
    try:
        jobs = [client.submit(WHEEL, str(log), f"{n} {i}") for n, client in enumerate(clients) for i in range(100)]
        wheel()
        for job in jobs:
            job.result(30)
    finally:
        for client in clients:
            client.close()
    seen = [tuple(map(int, line.split())) for line in lines(log)]
    for n in range(3):
        assert [i for who, i in seen if who == n] == list(range(100))
    last_third = seen[200:]
    assert {who for who, _ in last_third} == {0, 1, 2}  # nobody was served to the end before the others


def test_a_higher_priority_overtakes_what_waits(client, wheel, tmp_path):
    log = tmp_path / "log"
    jobs = [WHEEL.options(priority=5).submit(str(log), "low") for _ in range(100)]
    jobs += [WHEEL.options(priority=1).submit(str(log), "high") for _ in range(50)]
    wheel()
    for job in jobs:
        job.result(30)
    seen = lines(log)
    # the wheel gives 5 one turn of 31, all others to 1 while it waits
    assert seen[:50].count("high") >= 48


def test_among_31_jobs_claimed_one_is_of_priority_5_while_one_waits(client, wheel, tmp_path):
    log = tmp_path / "log"
    jobs = [WHEEL.options(priority=p).submit(str(log), str(p)) for p in (1, 2, 3, 4) for _ in range(60)]
    jobs += [WHEEL.options(priority=5).submit(str(log), "5") for _ in range(6)]
    wheel()
    for job in jobs:
        job.result(30)
    seen = lines(log)
    assert len(seen) == 246
    at = [i for i, p in enumerate(seen) if p == "5"]
    assert at[0] < 31
    assert all(b - a <= 31 for a, b in itertools.pairwise(at))


def test_weights_are_served_as_stated(client, wheel, tmp_path):
    log = tmp_path / "log"
    jobs = [WHEEL.options(priority=p).submit(str(log), str(p)) for p in (1, 2, 3, 4, 5) for _ in range(50)]
    wheel()
    for job in jobs:
        job.result(30)
    seen = lines(log)
    first = seen[:62]  # two turns of the wheel, all priorities waiting
    assert [first.count(str(p)) for p in (1, 2, 3, 4, 5)] == [2 * PRIORITY_WHEEL.count(p - 1) for p in (1, 2, 3, 4, 5)]


def test_a_blocked_group_does_not_hold_up_another(client, gate):
    for i in range(100):
        declared.single.options(forget=True).submit(i)
    assert [declared.echo.submit(i).result(30) for i in range(500)] == list(range(500))


def test_short_jobs_do_not_wait_behind_a_long_one_while_a_worker_idles(client, tmp_path):
    for i in range(100):  # the workers learn that jobs are short, so they claim many at once
        declared.echo.submit(i).result(30)
    long = declared.wait_for_file.submit(str(tmp_path / "go"))
    short = [declared.echo.submit(i) for i in range(200)]
    assert [job.result(30) for job in short] == list(range(200))
    assert not long.done()
    (tmp_path / "go").touch()
    assert long.result(30)


def test_of_a_batch_what_ended_before_a_long_job_is_counted_and_what_comes_behind_it_given_back(tmp_path):
    with LiveSupervisor(
        tmp_path,
        "from tests.client.declared import *",
        "[groups.computation]\nmin_workers = 1\nmax_workers = 1\n[groups.single]\n[groups.parked]\n[groups.many]\n",
    ) as live:
        client = live.client()
        for i in range(100):
            client.submit(declared.echo, i).result(30)

        def counted() -> int:
            return take(live.segment).group("computation").done

        until(lambda: counted() == 100)
        live.control("pause", group="computation")
        early = [client.submit(declared.echo, i) for i in range(20)]
        long = client.submit(declared.wait_for_file, str(tmp_path / "go"))
        short = [client.submit(declared.echo, i) for i in range(50)]
        live.control("resume", group="computation")
        until(lambda: long.state == "running")
        until(lambda: counted() == 100 + len(early), "the long job keeps no count back")
        live.control("scale", group="computation", workers=2)
        assert [job.result(30) for job in short] == list(range(50))
        assert [job.result(30) for job in early] == list(range(20))
        (tmp_path / "go").touch()
        assert long.result(30)


@pytest.mark.parametrize("group", ["single", "many"])
def test_how_long_jobs_waited_is_measured_by_workers_of_both_kinds(client, service, group):
    index = client.segment.group_names().index(group)
    rows = [row for row in client.segment.rows("worker_rows") if row[WORKER["group"]] == index]

    def waited_ns() -> int:
        return sum(row[WORKER["wait_sum_ns"]] for row in rows)

    before = waited_ns()
    service.control("pause", group=group)
    job, began = declared.echo.options(group=group).submit(1), time.monotonic()
    until(lambda: time.monotonic() - began > 0.1)  # the wait that is to be booked
    service.control("resume", group=group)
    assert job.result(30) == 1
    until(lambda: waited_ns() - before >= 50_000_000, "the wait is booked")
