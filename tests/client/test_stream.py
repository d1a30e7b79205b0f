"""`job.stream()`: parts as they come, a bounded buffer, errors in their place, closing cancels."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
from collections import deque
from pathlib import Path

import pytest

import shmq
from shmq.errors import ClientClosed, JobCancelled, ShmqError, TaskFailed, TaskTimeout, TooLarge, Unencodable
from tests.client import declared
from tests.live import until

pytestmark = pytest.mark.usefixtures("client")
ENDLESS = (declared.step_by_step, declared.step_in_thread, declared.step_on_loop)
endless = pytest.mark.parametrize("task", ENDLESS, ids=["main thread", "pool thread", "event loop"])
groups = pytest.mark.parametrize("group", ["computation", "many"])


def told(path: Path) -> str:
    """What the task wrote there, once it has."""
    return until(lambda: path.exists() and path.read_text(), f"{path.name} is told")


def settled(path: Path) -> int:
    """How far the task got when it went on no more."""
    seen: list[int] = []

    def stands() -> bool:
        seen.append(int(told(path)))
        return len(seen) > 60 and len(set(seen[-60:])) == 1  # a third of a second at the same place

    until(stands)
    return seen[-1]


# -- parts ------------------------------------------------------------------------------


@groups
@pytest.mark.parametrize("task", [declared.parts, declared.async_parts])
@pytest.mark.parametrize("count", [0, 1, 17, 20_000])
def test_parts_come_in_order(group, task, count):
    assert list(task.options(group=group).submit(count).stream()) == list(range(count))


@groups
@pytest.mark.parametrize("task", [declared.parts, declared.async_parts])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_result_is_the_list_of_all_parts(group, task, count):
    assert task.options(group=group).submit(count).result(120) == list(range(count))


def test_a_part_is_there_before_the_next_is_made(tmp_path):
    gate = tmp_path / "gate"
    stream = declared.first_then_wait.submit(str(gate)).stream()
    assert next(stream) == "first"
    gate.touch()
    assert list(stream) == ["second"]


def test_parts_that_were_made_before_anybody_asked_come_without_the_next_one(tmp_path):
    gate = tmp_path / "gate"
    job = declared.first_then_wait.submit(str(gate))
    until(lambda: job.state == "running")
    stream = job.stream()
    assert next(stream) == "first"
    gate.touch()
    assert list(stream) == ["second"]


def test_annotated_parts_arrive_as_such():
    wanted = [declared.Point(number) for number in range(50)]
    assert list(declared.typed_parts.submit(50).stream()) == wanted
    assert declared.typed_parts.submit(50).result(30) == wanted


def test_parts_of_every_size_come_through():
    lengths = [0, 1, 15_000, 16_383, 16_384, 70_000, 1_000_000, 3, 5_000_000, 64_000, 0] * 3
    assert [len(part) for part in declared.sizes.submit(*lengths).stream()] == lengths


def test_far_more_bytes_than_there_are_blocks_come_through():
    parts = declared.sizes.submit(*[500_000] * 100).stream()
    assert sum(len(part) for part in parts) == 50_000_000


@groups
def test_arrays_come_as_they_were_when_they_were_yielded(group):
    task = declared.one_buffer.options(group=group)
    for number, array in enumerate(task.submit(60, 100_000).stream()):
        assert (array == number).all()
    assert [array[0] for array in task.submit(5, 100_000).result(30)] == [0, 1, 2, 3, 4]


def test_arrays_that_are_kept_stay_as_they_are():
    kept = list(declared.one_buffer.submit(8, 100_000).stream())
    for _ in declared.one_buffer.submit(30, 20_000).stream():
        pass
    assert all((array == number).all() for number, array in enumerate(kept))


def test_blocks_are_free_after_a_stream(client):
    gc.collect()
    before = client._blocks.used_bytes()
    deque(declared.one_buffer.submit(60, 100_000).stream(), maxlen=0)  # which keeps no part
    until(lambda: client._blocks.used_bytes() <= before)
    assert declared.length.submit(b"x" * 4_000_000).result(30) == 4_000_000


def test_arrays_that_fill_all_blocks_before_anybody_asks_come_through(client):
    job = declared.one_buffer.submit(60, 100_000)
    until(lambda: any(client._wanted_blocks), "its worker waits for a block")
    assert [int(part[0]) for part in job.stream()] == list(range(60))


def test_a_task_may_read_a_stream():
    assert declared.read_inside.submit(20_000).result(30) == sum(range(20_000))


def test_a_task_known_by_its_name_streams_too():
    assert list(shmq.submit("tests.client.declared.parts", 100).stream()) == list(range(100))


def test_coroutines_read_streams_beside_each_other():
    async def read(count: int) -> list[int]:
        job = await declared.async_parts.options(group="many").asubmit(count)
        return [part async for part in job.stream()]

    async def main() -> list[list[int]]:
        return await asyncio.gather(*(read(count) for count in (0, 10, 1_000, 5_000)))

    assert asyncio.run(main()) == [list(range(count)) for count in (0, 10, 1_000, 5_000)]


# -- a bounded buffer -------------------------------------------------------------------


@endless
def test_the_task_waits_while_nobody_reads_and_goes_on_when_somebody_does(task, tmp_path):
    with task.submit(str(tmp_path)).stream() as stream:
        assert next(stream) == 0
        at = settled(tmp_path / "at")
        assert at < 20_000
        assert list(itertools.islice(stream, at + 10_000)) == list(range(1, at + 10_001))


@endless
def test_the_time_limit_ends_the_wait_for_room(task, tmp_path):
    stream = task.options(timeout=2.0).submit(str(tmp_path)).stream()  # by then it waits, on a busy machine too
    next(stream)
    ended = told(tmp_path / "end")
    assert ended == "TaskTimeout" or task is not declared.step_by_step
    with pytest.raises(TaskTimeout):
        list(stream)


@endless
@pytest.mark.parametrize("how", ["close", "with", "drop", "cancel", "break"])
def test_closing_the_stream_ends_the_task_at_its_yield(task, how, tmp_path):
    job = task.submit(str(tmp_path))
    stream = job.stream()
    assert next(stream) == 0
    if how == "close":
        stream.close()
        stream.close()
        assert list(stream) == []
    elif how == "with":
        with stream:
            pass
    elif how == "cancel":
        assert job.cancel() is False
    elif how == "break":
        for _ in stream:
            break
    if how in ("drop", "break"):
        del stream
    assert told(tmp_path / "end") in ("GeneratorExit", "CancelledError")
    with pytest.raises(JobCancelled, match="while it ran"):
        job.result(30)
    assert job.state == "cancelled"


def test_a_cancelled_generator_ends_at_its_next_yield_although_nobody_reads(tmp_path):
    job = declared.step_by_step.submit(str(tmp_path))
    told(tmp_path / "at")
    assert job.cancel() is False
    assert told(tmp_path / "end") == "GeneratorExit"


def test_a_stream_that_is_closed_before_the_task_starts_never_runs_it(service, tmp_path):
    service.control("pause", group="parked")
    job = declared.step_by_step.options(group="parked").submit(str(tmp_path))
    job.stream().close()
    service.control("resume", group="parked")
    assert declared.parked.submit(1).result(30) == 1
    assert job.state == "cancelled"
    assert not (tmp_path / "at").exists()


def test_no_worker_is_lost_to_streams_that_nobody_reads(tmp_path):
    streams = []
    for name in ("a", "b"):  # as many as there are workers
        (tmp_path / name).mkdir()
        streams.append(declared.step_by_step.submit(str(tmp_path / name)).stream())
        next(streams[-1])
    assert declared.echo.submit(5).result(30) == 5  # by a substitute
    for stream in streams:
        stream.close()


def test_a_part_that_no_block_holds_is_refused():
    with pytest.raises(TooLarge, match=r"declared\.sizes: a part of"):
        declared.sizes.submit(9 << 20).result(60)


@pytest.mark.slow
def test_parts_that_no_result_can_hold_fail_when_nobody_asks_for_them():
    with pytest.raises(TooLarge, match=r"job\.stream\(\)"):
        declared.sizes.submit(*[1 << 20] * 9).result(90)


# -- errors -----------------------------------------------------------------------------


@groups
@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize(("name", "kind"), [("ValueError", ValueError), ("Odd", TaskFailed)])
def test_what_the_task_raises_is_raised_after_the_parts_before_it(group, wait, name, kind):
    job = declared.parts_then.options(group=group).submit(100, name)
    if wait:
        until(lambda: job.state == "failed")
    got = []
    with pytest.raises(kind, match="after 100") as caught:
        for part in job.stream():
            got.append(part)  # noqa: PERF402
    assert got == list(range(100))
    assert "declared.py" in str(caught.value.__cause__)


def test_a_part_that_cannot_travel_is_an_error_at_its_place():
    stream = declared.odd_part.submit(3).stream()
    assert [next(stream), next(stream), next(stream)] == [0, 1, 2]
    with pytest.raises(Unencodable):
        next(stream)
    assert list(stream) == []


def test_a_failed_attempt_is_repeated_while_nothing_was_read(tmp_path):
    assert declared.third_time_lucky.submit(str(tmp_path / "marks")).result(30) == [3]


def test_a_failed_attempt_is_not_repeated_once_a_part_was_read(tmp_path):
    stream = declared.fails_at_the_gate.submit(str(tmp_path / "gate")).stream()
    assert next(stream) == "first"
    (tmp_path / "gate").touch()
    with pytest.raises(OSError, match="not again"):
        next(stream)


def test_a_part_that_does_not_come_in_time_may_be_waited_for_again(tmp_path):
    stream = declared.first_then_wait.submit(str(tmp_path / "gate")).stream(timeout=0.05)
    assert next(stream) == "first"
    with pytest.raises(TimeoutError):
        next(stream)
    (tmp_path / "gate").touch()
    assert until(lambda: _next_or_none(stream)) == "second"


def _next_or_none(stream):
    try:
        return next(stream)
    except TimeoutError:
        return None


# -- who reads --------------------------------------------------------------------------


def test_a_task_that_is_no_generator_is_refused():
    with pytest.raises(ShmqError, match="yields no parts"):
        declared.echo.submit(1).stream()


def test_a_forgotten_job_has_no_stream():
    with pytest.raises(ShmqError, match="forget=True"):
        declared.parts.options(forget=True).submit(3).stream()


def test_a_stream_is_taken_once():
    job = declared.parts.submit(10)
    stream = job.stream()
    with pytest.raises(ShmqError, match="taken already"):
        job.stream()
    assert list(stream) == list(range(10))


def test_result_after_the_stream_is_none_and_the_stream_after_the_result_repeats_it():
    job = declared.parts.submit(10)
    assert list(job.stream()) == list(range(10))
    assert job.result(30) is None
    job = declared.parts.submit(10)
    assert job.result(30) == list(range(10))
    assert list(job.stream()) == list(job.stream()) == list(range(10))
    job = declared.parts.submit(10)
    until(job.done)
    assert list(job.stream()) == list(range(10))
    assert job.result(30) is None


def test_threads_share_a_stream():
    stream = declared.parts.submit(20_000).stream()
    got: list[list[int]] = [[], [], []]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(stream)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(itertools.chain(*got)) == list(range(20_000))


def test_a_forked_child_can_neither_read_nor_close_the_stream(tmp_path):
    job = declared.step_by_step.submit(str(tmp_path))
    stream = job.stream()
    assert next(stream) == 0
    pid = os.fork()
    if not pid:
        try:
            next(stream)
        except ShmqError:
            stream.close()
            del stream
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert next(stream) == 1
    assert job.state == "running"
    stream.close()


def test_closing_the_client_ends_the_stream(service, tmp_path):
    with shmq.connect(service.namespace) as other:
        stream = other.submit(declared.step_by_step, str(tmp_path)).stream()
        assert next(stream) == 0
    assert told(tmp_path / "end") == "GeneratorExit"
    with pytest.raises(ShmqError):
        list(stream)
    with pytest.raises(ClientClosed):
        other.submit(declared.parts, 1)


def test_slots_that_are_needed_do_not_lose_unread_parts(client):
    streams = [declared.parts.submit(50).stream() for _ in range(40)]
    assert [job.result(30) for job in [declared.echo.submit(n) for n in range(200)]] == list(range(200))
    assert [list(stream) for stream in streams] == [list(range(50))] * 40
