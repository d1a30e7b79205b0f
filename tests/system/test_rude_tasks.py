"""Tasks that do to their process what no task should: it costs themselves at most, never their neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shmq.errors import Unencodable, WorkerLost
from tests.live import GUARD_S, LiveSupervisor, until

TASKS = """
import asyncio, os, signal, shmq

@shmq.task
def echo(x):
    return x

@shmq.task
def ends(path: str, how: str) -> None:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    if how == "exit":
        os._exit(0)
    os.execv("/bin/true", ["true"])

@shmq.task
def closes_all_descriptors(path: str) -> str:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    os.closerange(0, 4096)
    return "closed"

@shmq.task
def moves(folder: str) -> str:
    os.chdir(folder)
    os.umask(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2})
    return os.getcwd()

@shmq.task
def forks() -> int:
    child = os.fork()
    if not child:
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

@shmq.task
async def stops_the_loop() -> str:
    asyncio.get_running_loop().stop()
    return "stopped"

@shmq.task
async def naps(s: float) -> float:
    await asyncio.sleep(s)
    return s

@shmq.task
def cannot_travel() -> object:
    return object()

@shmq.task
def fills_memory() -> None:
    raise MemoryError("no more")
"""
CONFIG = "[groups.computation]\nmin_workers = 1\nmax_workers = 1\n[supervisor]\ngrace_s = 1.0\n"
CONFIG += "[groups.together]\nmin_workers = 1\nmax_workers = 1\nconcurrency = 10\n"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSupervisor]:
    with LiveSupervisor(tmp_path_factory.mktemp("live"), TASKS, CONFIG) as live:
        yield live


@pytest.mark.parametrize("how", ["exit", "exec"])
def test_a_task_that_ends_its_worker_quietly_is_tried_three_times_and_put_aside(
    live: LiveSupervisor, tmp_path: Path, how: str
) -> None:
    job, neighbours = live.submit("ends", str(tmp_path / "runs"), how), [live.submit("echo", n) for n in range(5)]
    with pytest.raises(WorkerLost, match="lost its worker 3 times"):
        job.result(GUARD_S)
    assert [job.result(GUARD_S) for job in neighbours] == list(range(5))
    assert len(set((tmp_path / "runs").read_text().split())) == 3


def test_a_task_that_closes_all_descriptors_runs_once_and_the_next_worker_goes_on(
    live: LiveSupervisor, tmp_path: Path
) -> None:
    job = live.submit("closes_all_descriptors", str(tmp_path / "runs"))
    assert job.result(GUARD_S) == "closed"
    assert live.submit("echo", 1).result(GUARD_S) == 1
    assert len((tmp_path / "runs").read_text().split()) == 1


def test_a_task_that_moves_and_blocks_signals_harms_no_job_after_it(live: LiveSupervisor, tmp_path: Path) -> None:
    assert live.submit("moves", str(tmp_path)).result(GUARD_S) == str(tmp_path)
    assert [live.submit("echo", n).result(GUARD_S) for n in range(3)] == [0, 1, 2]


def test_a_task_may_fork_and_wait(live: LiveSupervisor) -> None:
    assert live.submit("forks").result(GUARD_S) == 3


def test_a_memory_error_is_the_tasks_own(live: LiveSupervisor) -> None:
    with pytest.raises(MemoryError, match="no more"):
        live.submit("fills_memory").result(GUARD_S)


@pytest.mark.parametrize("group", ["computation", "together"])
def test_a_task_that_stops_the_event_loop_costs_no_other_job(live, group):
    naps = [live.submit("naps", 0.3, group=group) for _ in range(3)]
    assert live.submit("stops_the_loop", group=group).result(GUARD_S) == "stopped"
    naps.append(live.submit("naps", 0.0, group=group))
    assert [nap.result(GUARD_S) for nap in naps] == [0.3, 0.3, 0.3, 0.0]


def test_a_job_lost_with_those_beside_it_says_that_it_may_be_innocent(live, tmp_path):
    nap = live.submit("naps", 60.0, group="together")
    until(lambda: nap.state == "running", "it runs beside what follows")
    killer = live.submit("ends", str(tmp_path / "runs"), "exit", group="together")
    for job in (nap, killer):
        with pytest.raises(WorkerLost, match=r"lost its worker 3 times.*\nOr one that ran beside it \(1 did\) is"):
            job.result(GUARD_S)


def test_a_result_that_cannot_travel_is_told_by_its_own_task(live):
    nap = live.submit("naps", 0.3, group="together")
    with pytest.raises(Unencodable, match=r"the result of jobs\.cannot_travel"):
        live.submit("cannot_travel", group="together").result(GUARD_S)
    assert nap.result(GUARD_S) == 0.3
