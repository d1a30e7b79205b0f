"""`shmq.stream`: in order, in bounded memory, pulled by the reader."""

from __future__ import annotations

import gc
import itertools
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import shmq
from shmq.client.many.streaming import _results
from shmq.client.many.window import INPUT_S, Window, parse_size
from shmq.errors import BadArguments, TooLarge, UnknownTask, WorkerLost
from tests.client import declared
from tests.live import GUARD_S, LiveSupervisor, until

pytestmark = pytest.mark.usefixtures("client")
ROOT = Path(__file__).parents[2]
groups = pytest.mark.parametrize("group", ["computation", "many"])


@groups
@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
@pytest.mark.parametrize("task", [declared.echo, declared.acho])
def test_results_come_in_order(group, chunk_size, task):
    items = range(0 if chunk_size == 7 else 1, 3_000)
    assert list(shmq.stream(task.options(group=group), items, chunk_size=chunk_size)) == list(items)


@groups
@pytest.mark.parametrize("task", [declared.parts, declared.async_parts])
def test_a_generator_task_gives_its_parts_item_after_item(group, task):
    wanted = [part for count in range(60) for part in range(count)]
    assert list(shmq.stream(task.options(group=group), range(60))) == wanted


def test_an_item_may_yield_without_end():
    parts = shmq.stream(declared.parts, [10, 10**9])
    assert list(itertools.islice(parts, 50_000)) == [*range(10), *range(49_990)]
    parts.close()


def test_annotated_types_arrive_as_such():
    points = [declared.Point(number) for number in range(50)]
    assert list(shmq.stream(declared.move, points)) == [declared.Point(number + 1) for number in range(50)]
    wanted = [declared.Point(number) for count in range(9) for number in range(count)]
    assert list(shmq.stream(declared.typed_parts, range(9))) == wanted


def test_empty_input_and_names_work():
    assert list(shmq.stream(declared.echo, [])) == []
    assert list(shmq.stream("tests.client.declared.echo", range(5))) == [0, 1, 2, 3, 4]
    assert list(shmq.stream("tests.client.declared.parts", [2, 3])) == [0, 1, 0, 1, 2]
    with pytest.raises(UnknownTask):
        list(shmq.stream("tests.client.declared.ecko", [1]))


@pytest.mark.parametrize("limit", ["1 MB", "100 MB"])
def test_results_far_larger_than_limit_and_blocks_together_come_through(limit):
    lengths = [10, 2_000_000, 0, 300_000, 5] * 40
    assert [len(value) for value in shmq.stream(declared.give, lengths, memory_limit=limit)] == lengths


def test_arrays_larger_than_all_blocks_together_come_through():
    arrays = (np.full(100_000, float(number)) for number in range(100))
    for number, array in enumerate(shmq.stream(declared.doubled, arrays)):
        assert (array == 2 * number).all()
        assert array.shape == (100_000,)


def test_results_that_are_kept_hold_no_shared_memory():
    kept = list(shmq.stream(declared.ones, [100_000] * 40))  # 32 MB, where the blocks have 16
    assert sum(array.sum() for array in kept) == 40 * 100_000


def bytes_taken(total: int, size: int, taken: list[int]) -> Iterator[bytes]:
    for _ in range(total // size):
        taken[0] += size
        yield bytes(size)


@pytest.mark.parametrize(("task", "size"), [(declared.take, 10), (declared.take, 50_000), (declared.echo, 50_000)])
def test_input_is_pulled_by_the_reader(task, size):
    taken = [0]
    results = shmq.stream(task, bytes_taken(10**12, size, taken), memory_limit="4 MB")
    assert taken == [0]
    for _ in range(20):
        next(results)
        before = taken[0]
    assert taken[0] - 20 * size < 4_000_000
    assert until(lambda: taken[0] == before)
    results.close()


def test_this_process_stays_below_the_limit_whatever_the_length():
    def peak(total: int) -> int:
        tracemalloc.start()
        try:
            taken = [0]
            count = sum(1 for _ in shmq.stream(declared.echo, bytes_taken(total, 20_000, taken), memory_limit="8 MB"))
            assert count == total // 20_000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(20_000_000) < 8_000_000
    assert peak(100_000_000) < 8_000_000


def test_slow_readers_lose_nothing(client):
    # results larger than the blocks wait at their workers for as long as it takes: longer than a plain result may
    gc.collect()  # views that other tests left in cycles would keep blocks
    results = shmq.stream(declared.ones, itertools.repeat(200_000, 30), memory_limit="64 MB")
    next(results)
    held = client.empty(400_000)  # and somebody else needs blocks
    assert sum(array.sum() for array in results) == 29 * 200_000
    del held


def test_a_chunk_whose_worker_died_while_all_others_wait_for_their_turn_is_run(tmp_path):
    calls = [(str(tmp_path), number, 2) for number in range(12)]
    results = shmq.stream(declared.large_after_deaths, calls, chunk_size=1, memory_limit="64 MB")
    assert [int(part[0]) for part in results] == [10 * number + part for number in range(12) for part in range(3)]
    assert len(list(tmp_path.glob("death *"))) == 2


@pytest.mark.parametrize("chunk_size", [1, 5, 1000])
def test_the_first_failure_is_raised_in_its_place(chunk_size):
    results = shmq.stream(declared.divide, [1, 2, 0, 4], chunk_size=chunk_size)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert "declared.py" in str(caught.value.__cause__)
    assert list(results) == []


@groups
def test_calls_with_retries_are_tried_again_in_their_place(group, tmp_path):
    paths = [str(tmp_path / str(number)) if number % 7 == 3 else "" for number in range(40)]
    assert list(shmq.stream(declared.second_time.options(group=group), paths)) == paths


def test_a_call_that_kills_its_worker_is_lost_in_its_place():
    results = shmq.stream(declared.die_at_three, range(6))
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(WorkerLost):
        next(results)


def test_a_worker_that_dies_once_costs_nothing(tmp_path, service):
    mark = Path(service.env["XDG_STATE_HOME"]) / "died"
    mark.unlink(missing_ok=True)
    assert list(shmq.stream(declared.die_once_at_three, range(200))) == list(range(200))
    assert mark.exists()


def test_a_call_of_the_wrong_type_fails_in_its_place():
    results = shmq.stream(declared.typed_number, [1, "x", 3])
    next(results)
    with pytest.raises(BadArguments):
        next(results)


def test_an_item_that_cannot_travel_is_refused_and_what_was_under_way_is_cancelled():
    with pytest.raises(TypeError, match="cannot travel"):
        list(shmq.stream(declared.echo, [1, 2, object(), 4]))
    assert declared.echo.submit(1).result(10) == 1


def test_an_input_that_raises_ends_the_stream_with_its_error():
    def items():
        yield 1
        raise OSError("source broke")

    with pytest.raises(OSError, match="source broke"):
        list(shmq.stream(declared.echo, items()))


def test_an_item_that_breaks_the_limit_is_refused():
    with pytest.raises(TooLarge, match=r"declared\.take: an item of \d+ bytes does not fit memory_limit"):
        list(shmq.stream(declared.take, [b"x", b"x" * 600_000], memory_limit="2 MB"))
    with pytest.raises(TooLarge, match="block"):
        list(shmq.stream(declared.take, [b"x" * (9 << 20)]))


def test_parts_do_not_wait_for_a_slow_input():
    read = 0

    def items():
        nonlocal read
        for _ in range(20):
            comes_at = time.perf_counter() + 5 * INPUT_S
            until(lambda at=comes_at: time.perf_counter() > at)
            read += 1
            yield 100_000  # parts, more than its worker keeps

    parts = shmq.stream(declared.parts, items())
    assert next(parts) == 0
    assert read <= 6
    parts.close()


def test_streams_that_are_closed_early_leave_room_for_others(tmp_path):
    task = "import shmq\n@shmq.task\ndef give(size): return bytes(size)"
    small = "[groups.computation]\nmin_workers = 2\nmax_workers = 2\n[memory]\nblock_budget_bytes = 4194304"
    with LiveSupervisor(tmp_path, task, small) as live:
        client = live.client()

        def close_many():
            for _ in range(200):
                results = client.stream(f"{live.module}.give", [1, 200_000] * 30, 1, "1 MB")
                assert [len(next(results)) for _ in range(2)] == [1, 200_000]
                results.close()

        thread = threading.Thread(target=close_many, daemon=True)
        thread.start()
        thread.join(GUARD_S)
        assert not thread.is_alive()


def test_a_worker_that_dies_after_the_last_result_of_its_chunk_was_read_is_not_missed(client):
    ends = iter(([1], [2], WorkerLost("gone")))

    def next_():
        end = next(ends)
        if isinstance(end, list):
            return end
        raise end

    chunk = SimpleNamespace(next=next_, close=lambda: None, job=SimpleNamespace(_raw=b""), calls=[(1,), (2,)])
    window = Window("task", 10**6, 1 << 24, 8)
    assert list(_results(client, declared.echo, chunk, [], window)) == [1, 2]


def test_the_exception_of_a_signal_handler_ends_the_wait():
    def deadline(*_):
        raise TimeoutError("deadline")

    before = signal.signal(signal.SIGALRM, deadline)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(TimeoutError, match="deadline"):
            list(shmq.stream(declared.nap, [1.0]))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@groups
def test_an_item_and_its_result_may_each_need_a_whole_arena(client, group):
    array = np.arange(client._blocks.largest_bytes // 8.0 - 8)
    for result in shmq.stream(declared.same_array.options(group=group), [array] * 3):
        assert np.array_equal(result, array)
        del result


def test_closing_the_iterator_cancels_what_is_under_way(client):
    results = shmq.stream(declared.nap, itertools.repeat(0.01))
    next(results)
    results.close()
    until(lambda: sum(1 for word in client._words if word & 0xF == 4) == 0, "nothing runs any more")


@pytest.mark.parametrize("chunk_size", [0, -1, "auto", 1.5, None, True])
def test_a_chunk_size_that_means_nothing_is_refused(chunk_size):
    with pytest.raises(BadArguments, match="chunk_size"):
        list(shmq.stream(declared.echo, [1], chunk_size=chunk_size))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(1, 1), ("100 MB", 10**8), ("64 MiB", 64 << 20), ("64mib", 64 << 20), ("1.5GB", 15 * 10**8), (" 7 kB ", 7000),
     ("12", 12), ("12 B", 12), ("2 GiB", 2 << 30), ("3 KiB", 3072)],
)  # fmt: skip
def test_sizes_are_read(text, wanted):
    assert parse_size(text) == wanted


@pytest.mark.parametrize("text", [0, -1, "", "MB", "100 XB", "-5 MB", 1.5, None, True, "0 MB", "1e6"])
def test_sizes_that_mean_nothing_are_refused(text):
    with pytest.raises(BadArguments, match="size is"):
        list(shmq.stream(declared.echo, [1], memory_limit=text))


def test_a_limit_too_small_for_anything_is_refused():
    with pytest.raises(BadArguments, match="at least"):
        shmq.stream(declared.echo, [1], memory_limit="10 kB")  # at once, not when it is read


@pytest.mark.parametrize("limit", ["8 MB", "100 MB"])
def test_the_check_of_many_gigabytes_is_right_on_a_few_megabytes(limit):
    done = subprocess.run(
        [sys.executable, "scripts/stream_check.py", "--gb", "0.1", "--limit", limit],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right: 1,562 of 1,562" in done.stdout


@pytest.mark.parametrize("most_chunks", [8, 128, 1000])
@pytest.mark.parametrize("limit_bytes", [1_000_000, 100_000_000])
def test_there_is_room_for_a_chunk_ahead_of_every_worker_and_for_no_more_than_the_limit(most_chunks, limit_bytes):
    def chunks(nbytes):
        window, count = Window("task", limit_bytes, 64 << 20, most_chunks), 0
        while window.has_room(nbytes):
            window.add(nbytes, window.kept_bytes(nbytes))
            count += 1
        assert count * (2 * nbytes + window.kept_bytes(nbytes)) <= limit_bytes // 2
        return count

    assert chunks(100) == most_chunks
    full = Window("task", limit_bytes, 64 << 20, most_chunks).chunk_bytes
    assert chunks(full) == 8


def test_a_chunk_is_one_call_until_a_result_was_seen_and_then_has_as_many_as_may_be_kept():
    window = Window("task", 100_000_000, 64 << 20, 128)
    share = window.kept_bytes(0)
    assert not window.fits(100, 2)
    window.learn(bytes(share // 10 - 5))
    assert window.fits(100, 10)
    assert not window.fits(100, 11)
    assert not window.fits(window.chunk_bytes + 1, 2)
    window.learn(bytes(3 * share - 5))
    assert not window.fits(100, 2)
    assert window.kept_bytes(100) == 3 * share
    window.learn(0)  # large ones are remembered for a while
    assert 2 * share < window.kept_bytes(100) < 3 * share
