"""A job that has run and finds no free block for its result: it waits, says so, and ends well."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from shmq.errors import JobCancelled, QueueFull, TooLarge
from shmq.observe.health import health
from shmq.observe.snapshot import take
from shmq.transport.table import DONE, STATE
from tests.live import LiveSupervisor, until

TASKS = """
import time
import numpy as np
import shmq

@shmq.task
def ones(count: int) -> np.ndarray:
    return np.ones(count)

@shmq.task
def ones_or_odd(count: int):
    return np.ones(count) if count >= 0 else object()

@shmq.task
def text(count: int) -> str:
    return "x" * count

@shmq.task
def doubled(values: np.ndarray) -> np.ndarray:
    return values * 2

@shmq.task
def arrays(how_many: int, count: int) -> list[np.ndarray]:
    return [np.ones(count) for _ in range(how_many)]

@shmq.task(group="network")
async def far(count: int) -> np.ndarray:
    return np.ones(count)

@shmq.task(group="network")
async def echo(x: int) -> int:
    return x

@shmq.task
def leaves_unread(how_many: int, count: int) -> np.ndarray:
    jobs = [far.submit(count) for _ in range(how_many)]
    while sum(job.state == "done" for job in jobs) < 8:  # every block is taken; nothing was read
        time.sleep(0.001)
    return np.ones(count)
"""
CONFIG = """
[groups.computation]
min_workers = 2
max_workers = 2
[groups.network]
min_workers = 1
max_workers = 1
concurrency = 20
[memory]
max_producers = 8
slots_per_producer = 64
block_budget_bytes = 2097152
max_workers = 8
"""
COUNT = 30_000  # 240 kB: a block of 256 KiB, of which there are eight
MANY = 24


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSupervisor]:
    with LiveSupervisor(tmp_path_factory.mktemp("room"), TASKS, CONFIG) as live:
        yield live


@pytest.fixture(autouse=True)
def _no_client_stays(live: LiveSupervisor) -> Iterator[None]:
    yield
    live.close_clients()


@pytest.fixture
def submit(live: LiveSupervisor):
    return live.submit


class TestWhoeverReadsOrWaitsGoesOn:
    def test_more_results_than_blocks_are_kept_at_once(self, submit):
        jobs = [submit("ones", COUNT) for _ in range(MANY)]
        results = [job.result(30) for job in jobs]
        assert [result.sum() for result in results] == [COUNT] * MANY
        assert not any(result.flags.writeable for result in results)

    @pytest.mark.parametrize(("task", "argument"), [("ones", COUNT), ("text", 200_000), ("far", COUNT)])
    def test_the_last_is_waited_for_first(self, submit, task, argument):
        jobs = [submit(task, argument) for _ in range(MANY)]
        assert all(len(job.result(30)) == argument for job in reversed(jobs))

    def test_arguments_leave_room_for_results(self, submit):
        jobs = [submit("doubled", np.full(COUNT, i)) for i in range(MANY)]
        assert [job.result(30)[0] for job in jobs] == [2 * i for i in range(MANY)]

    def test_results_of_several_blocks_each_do_not_starve_each_other(self, submit):
        jobs = [submit("arrays", 3, COUNT) for _ in range(MANY)]
        assert all(len(job.result(30)) == 3 for job in reversed(jobs))

    def test_a_chunk_with_a_value_that_cannot_travel_takes_no_block_twice(self, live):
        counts = [COUNT, COUNT, -1, COUNT, COUNT]  # one chunk: four blocks of eight
        answers = live.client().map_calls("jobs.ones_or_odd", [(count,) for count in counts], chunk_size=5)
        found = [value.sum() if is_value else type(value).__name__ for _, is_value, value in answers]
        assert found == [COUNT, COUNT, "Unencodable", COUNT, COUNT]

    def test_a_task_whose_own_unread_results_are_in_the_way(self, submit):
        assert submit("leaves_unread", 12, COUNT).result(30).sum() == COUNT

    def test_a_callback_thread_makes_room(self, live, submit):
        jobs = [submit("ones", COUNT) for _ in range(MANY)]
        ended = threading.Event()
        jobs[-1].add_done_callback(lambda _job: ended.set())
        assert ended.wait(30)  # nobody reads: the thread that serves callbacks sweeps
        assert all(job.result(30).sum() == COUNT for job in jobs)  # the last may have overtaken one that still waits


class TestWhileSomebodyElseKeepsTheBlocks:
    @pytest.fixture
    def full(self, live: LiveSupervisor):
        """Every block holds a result of a producer that does nothing at present."""
        lazy = live.client()
        jobs = [lazy.submit("jobs.ones", COUNT) for _ in range(8)]
        until(lambda: all(lazy._words[job._slot] & STATE >= DONE for job in jobs), "all have ended, unread")
        return jobs

    def test_a_result_waits_until_there_is_room(self, live, submit, full):
        job = submit("ones", COUNT)
        until(lambda: take(live.segment).group("computation").workers.waiting == 1, "a worker says that it waits")
        assert job.state == "running"
        assert [full_job.result(30).sum() for full_job in full] == [COUNT] * 8
        full.clear()
        assert job.result(30).sum() == COUNT
        assert take(live.segment).group("computation").workers.waiting == 0

    def test_a_group_all_of_whose_workers_wait_is_not_well(self, live, submit, full):
        jobs = [submit("ones", COUNT) for _ in range(3)]
        until(lambda: take(live.segment).group("computation").workers.waiting == 2, "both wait")
        (problem,) = health(take(live.segment))
        assert (problem.kind, problem.group) == ("no-room", "computation")
        until(lambda: "waits for a free block" in live.log(), "the log says so")
        full.clear()
        live._clients[0].make_room_for_results()
        assert all(job.result(30).sum() == COUNT for job in jobs)

    def test_the_time_limit_ends_the_wait(self, submit, full):
        with pytest.raises(QueueFull, match=r"jobs\.ones has run.*no block was free.*unread results by producer"):
            submit("ones", COUNT, timeout=0.2).result(30)

    def test_cancelling_ends_the_wait(self, live, submit, full):
        job = submit("ones", COUNT)
        until(lambda: take(live.segment).group("computation").workers.waiting == 1)
        assert not job.cancel()
        with pytest.raises(JobCancelled, match="while its result waited"):
            job.result(30)

    def test_a_job_whose_result_nobody_reads_ends(self, submit, full):
        job = submit("ones", COUNT, forget=True)
        until(job.done)

    def test_other_coroutines_of_the_worker_go_on(self, live, submit, full):
        job = submit("far", COUNT)
        until(lambda: take(live.segment).group("network").workers.waiting == 1)
        assert [submit("echo", i).result(30) for i in range(5)] == list(range(5))
        full.clear()
        live._clients[0].make_room_for_results()
        assert job.result(30).sum() == COUNT

    def test_a_coroutines_time_limit_ends_the_wait(self, submit, full):
        with pytest.raises(QueueFull, match="far has run"):
            submit("far", COUNT, timeout=0.2).result(30)


def test_a_result_that_could_never_fit_is_refused(submit):
    with pytest.raises(TooLarge, match=r"jobs\.arrays takes more than .* all together are 2097152"):
        submit("arrays", 9, COUNT).result(30)
