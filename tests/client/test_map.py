"""`map`: in order, lazy, bounded, failures in their place."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from types import SimpleNamespace

import pytest

import shmq
from shmq.client.many.mapping import CHUNKS, Pace
from shmq.client.many.window import INPUT_S, most_ahead
from shmq.errors import BadArguments, ShmqError, TooLarge, UnknownTask, WorkerLost
from shmq.memory.layout import GROUP_CONTROL, GROUP_PLAN
from tests.client import declared
from tests.live import in_child, until

pytestmark = pytest.mark.usefixtures("client")


@pytest.mark.parametrize("chunk_size", ["auto", 1, 7, 100, 10**30])
def test_results_come_in_order_with_every_chunk_size(chunk_size):
    assert list(shmq.map(declared.echo, range(3_000), chunk_size=chunk_size)) == list(range(3_000))


@pytest.mark.parametrize("quick", [0, 4_000])
@pytest.mark.parametrize("verb", [shmq.map, shmq.stream])
def test_what_is_ready_does_not_wait_for_a_slow_input(verb, quick):
    """It is handed out as soon as the input has given the next item: `read` of them then."""
    read = 0

    def items():
        nonlocal read
        yield from range(quick)
        for number in range(quick, quick + 100):
            comes_at = time.perf_counter() + INPUT_S
            until(lambda at=comes_at: time.perf_counter() > at)
            read = number + 1
            yield number

    ahead = [read - number for number in verb(declared.echo, items())][-40:]
    assert sorted(ahead)[len(ahead) // 2] <= 8  # most often: now and then a worker has no core for a while


def test_without_an_input_there_is_nothing_to_map():
    with pytest.raises(BadArguments, match="needs an iterable"):
        shmq.map(declared.echo)


def test_empty_and_single_inputs_work():
    assert list(shmq.map(declared.echo, [])) == []
    assert list(shmq.map(declared.echo, [5])) == [5]


def test_several_inputs_are_zipped_to_the_shortest():
    assert list(shmq.map(declared.positional, range(5), itertools.count(10))) == [[i, 10 + i] for i in range(5)]


def test_an_input_longer_than_any_list_is_read_as_far_as_somebody_reads():
    assert list(itertools.islice(shmq.map(declared.echo, range(10**25)), 300)) == list(range(300))


def test_a_forked_child_is_told_that_the_results_are_its_parents(service):
    beside = [shmq.connect(service.namespace) for _ in range(2)]  # their rows lie between the parent's and the child's
    values = shmq.map(declared.echo, range(100), chunk_size=1)
    assert next(values) == 0

    def read_on() -> None:
        assert declared.echo.submit(1).result(30) == 1  # the client is this process's own now
        with pytest.raises(ShmqError, match="before a fork"):
            list(values)

    assert in_child(read_on) == 0
    assert list(values) == list(range(1, 100))
    for client in beside:
        client.close()


def test_a_length_is_asked_for_only_where_chunks_are_sized_by_it():
    class Counting(list):
        asked = 0

        def __len__(self):
            Counting.asked += 1
            return super().__len__()

    assert list(shmq.map(declared.echo, Counting(range(5)), chunk_size=2)) == list(range(5))
    assert Counting.asked == 0
    assert list(shmq.map(declared.echo, Counting(range(5)))) == list(range(5))
    assert Counting.asked == 1


class Unwilling:
    """An input that cannot say how long it is."""

    def __len__(self):
        raise RuntimeError("not yet known")

    def __iter__(self):
        return iter(range(300))


def test_a_length_is_asked_for_not_relied_on():
    assert list(shmq.map(declared.positional, Unwilling(), range(300))) == [[n, n] for n in range(300)]


def test_what_cannot_be_read_is_refused_at_once():
    with pytest.raises(TypeError):
        shmq.map(declared.echo, 5)


def test_a_name_works_like_the_object():
    assert list(shmq.map("tests.client.declared.echo", range(100))) == list(range(100))
    with pytest.raises(UnknownTask, match="Did you mean"):
        list(shmq.map("tests.client.declared.ecko", range(100)))


def test_defaults_are_filled_in():
    assert list(shmq.map(declared.positional, range(3))) == [[i, 5] for i in range(3)]


def test_annotated_types_arrive_as_such():
    points = [declared.Point(i) for i in range(50)]
    assert list(shmq.map(declared.move, points)) == [declared.Point(i + 1) for i in range(50)]
    assert list(shmq.map(declared.unique, [{1}, {2}])) == [{0, 1}, {0, 2}]


def test_async_and_generator_tasks_are_mapped():
    assert list(shmq.map(declared.acho, range(50))) == list(range(50))
    assert list(shmq.map(declared.parts, range(5))) == [list(range(i)) for i in range(5)]


def test_large_items_and_arrays_are_mapped():
    import numpy as np

    assert list(shmq.map(declared.length, [b"x" * 50_000] * 100)) == [50_000] * 100
    arrays = [np.full(5_000, float(i)) for i in range(60)]
    for i, result in enumerate(shmq.map(declared.doubled, arrays)):
        assert (result == 2 * i).all()


def test_results_larger_than_all_blocks_together_are_mapped():
    total = sum(len(value) for value in shmq.map(declared.blob, itertools.repeat(100_000, 400)))
    assert total == 400 * 100_000
    assert sum(value.sum() for value in shmq.map(declared.ones, itertools.repeat(50_000, 200))) == 200 * 50_000


def test_chunks_under_way_never_fill_the_blocks_with_results():
    # 24 results of 1 MiB, as many as there are chunks of small ones, would not fit 16 MiB
    assert sum(value.sum() for value in shmq.map(declared.ones, itertools.repeat(131_072, 60))) == 60 * 131_072


def test_arguments_larger_than_all_blocks_together_are_mapped():
    assert set(shmq.map(declared.length, itertools.repeat(b"x" * 100_000, 400), chunk_size=200)) == {100_000}
    sizes = [10, 10, 10, 10] * 60 + [3_000_000] * 20
    assert list(shmq.map(declared.length, (b"x" * size for size in sizes))) == sizes


def test_an_item_too_large_for_any_block_is_refused():
    with pytest.raises(TooLarge):
        list(shmq.map(declared.length, [b"x", b"x" * (9 << 20)]))


def test_input_is_taken_lazily_and_without_end():
    taken = itertools.count()
    results = shmq.map(declared.echo, (next(taken) for _ in itertools.count()), chunk_size=2)
    assert next(taken) == 0  # nothing is taken before the first result is asked for
    assert list(itertools.islice(results, 10)) == list(range(1, 11))
    assert next(taken) < 100
    results.close()


def test_memory_stays_flat_for_any_number_of_items():
    def peak_bytes(items: int) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in shmq.map(declared.echo, range(items), chunk_size=50)) == items
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(2_000)
    assert peak_bytes(30_000) < 1.5 * peak_bytes(10_000)


@pytest.mark.parametrize("chunk_size", [1, 5, "auto"])
def test_the_first_failure_is_raised_in_its_place(chunk_size):
    results = shmq.map(declared.divide, [1, 2, 0, 4], chunk_size=chunk_size)
    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert "declared.py" in str(caught.value.__cause__)


def test_failures_stay_with_their_call(client):
    answers = list(client.map_calls(declared.divide, [(1,), (0,), (2,), (0,)], chunk_size=4))
    assert [(i, ok) for i, ok, _ in answers] == [(0, True), (1, False), (2, True), (3, False)]
    assert all(isinstance(answers[i][2], ZeroDivisionError) for i in (1, 3))


def test_a_call_that_does_not_fit_the_signature_is_refused_with_it():
    with pytest.raises(BadArguments, match="nothing"):
        list(shmq.map(declared.nothing, range(10)))


def test_calls_of_different_length_are_mapped_right(client):
    calls = [(1,), (2, 7), (3,), (4, 9)]
    assert [value for _, _, value in client.map_calls(declared.positional, calls, chunk_size=4)] == [
        [1, 5],
        [2, 7],
        [3, 5],
        [4, 9],
    ]


def test_a_call_of_the_wrong_type_fails_alone(client):
    answers = list(client.map_calls(declared.typed_number, [(1,), ("x",), (3,)], chunk_size=3))
    assert [ok for _, ok, _ in answers] == [True, False, True]
    assert isinstance(answers[1][2], BadArguments)


def test_a_result_that_cannot_travel_fails_alone(client):
    answers = list(client.map_calls(declared.odd_result, [(1,), (2,), (3,)], chunk_size=3))
    assert [ok for _, ok, _ in answers] == [True, False, True]


def test_an_item_that_cannot_travel_is_raised_and_what_waited_is_cancelled():
    results = shmq.map(declared.echo, [1, 2, object(), 4], chunk_size=1)
    with pytest.raises(TypeError, match="cannot travel"):
        list(results)
    assert declared.echo.submit(1).result(10) == 1


def test_an_input_that_raises_ends_the_map_with_its_error():
    def items():
        yield 1
        raise OSError("source broke")

    with pytest.raises(OSError, match="source broke"):
        list(shmq.map(declared.echo, items(), chunk_size=1))


def test_closing_the_iterator_cancels_what_has_not_started(service, tmp_path):
    service.control("pause", group="parked")
    results = shmq.map(declared.parked_or_first.options(group="parked"), range(1_000), chunk_size=1)
    service.control("resume", group="parked")
    assert next(results) == 0
    service.control("pause", group="parked")
    results.close()
    service.control("resume", group="parked")
    assert declared.parked.submit(1).result(10) == 1


def test_unordered_answers_are_complete(client):
    calls = [(i % 5 / 100,) for i in range(40)]
    answers = list(client.map_calls(declared.nap, calls, ordered=False, chunk_size=1))
    assert sorted(i for i, _, _ in answers) == list(range(40))
    assert all(ok and value == calls[i][0] for i, ok, value in answers)


def test_two_maps_at_once_do_not_mix():
    first, second = shmq.map(declared.echo, range(500)), shmq.map(declared.echo, range(1_000, 1_500))
    assert list(zip(first, second, strict=True)) == list(zip(range(500), range(1_000, 1_500), strict=True))


@pytest.mark.parametrize("chunk_size", [0, -1, "big", 1.5, None, True])
def test_a_chunk_size_that_means_nothing_is_refused(chunk_size):
    with pytest.raises(BadArguments, match="chunk_size"):
        list(shmq.map(declared.echo, [1], chunk_size=chunk_size))


def test_a_call_that_kills_its_worker_is_lost(client):
    answers = list(client.map_calls(declared.die_at_three, [(i,) for i in range(6)], chunk_size=1))
    assert [ok for _, ok, _ in answers] == [True, True, True, False, True, True]
    assert isinstance(answers[3][2], WorkerLost)


class TestSizesOfChunks:
    def test_they_grow_to_a_time_and_shrink_as_the_end_comes_near(self):
        pace = Pace("auto", 1 << 25, 24)
        sizes = []
        left = 400
        while left > 0:
            size = pace.share(left, workers=4)
            sizes.append(size)
            left -= size
            pace.learn(size, size * 0.001, 0)  # calls of 1 ms: 8 of them fill the time
        assert sizes[:3] == [1, 4, 8]
        assert max(sizes) == 8
        assert sizes[-7:] == [1] * 7
        assert sizes[3:] == sorted(sizes[3:], reverse=True)

    def test_tiny_calls_make_no_tiny_chunks_at_the_end(self):
        pace = Pace("auto", 1 << 25, 24)
        for _ in range(8):
            pace.learn(pace.size, pace.size * 1e-6, 0)
        assert pace.size == 2048
        assert pace.share(10, workers=4) == 250

    def test_a_given_size_stays(self):
        pace = Pace(7, 1 << 25, 24)
        assert pace.share(1, workers=4) == 7

    @pytest.mark.parametrize(
        ("max_workers", "concurrency", "found", "most"),
        [
            (2, 1, 0, CHUNKS), (64, 1, 0, 128), (4, 100, 0, 800), (4, 100, 8, 800), (800, 1, 0, 1024),
            (4, 0, 0, 64), (4, 0, 50, 400),
        ],
    )  # fmt: skip
    def test_there_are_chunks_ahead_of_every_worker(self, max_workers, concurrency, found, most):
        rows = {"group_control": [[0] * len(GROUP_CONTROL)], "group_plan": [[0] * len(GROUP_PLAN)]}
        rows["group_control"][0][GROUP_CONTROL["max_workers"]] = max_workers
        rows["group_control"][0][GROUP_CONTROL["concurrency"]] = concurrency
        rows["group_plan"][0][GROUP_PLAN["concurrency"]] = found
        segment = SimpleNamespace(rows=rows.__getitem__, shape=SimpleNamespace(slots_per_producer=2048, units=1 << 16))
        assert most_ahead(segment, 0, CHUNKS) == most
        segment.shape.units = 64
        assert most_ahead(segment, 0, CHUNKS) == 16
        segment.shape.slots_per_producer = 8
        assert most_ahead(segment, 0, CHUNKS) == 4

    def test_the_length_of_the_input_is_that_of_its_shortest_part_that_is_known(self, client, monkeypatch):
        seen = []
        share = Pace.share
        monkeypatch.setattr(Pace, "share", lambda pace, left, workers: seen.append(left) or share(pace, left, workers))
        assert len(list(shmq.map(declared.positional, range(30), itertools.count()))) == 30
        assert seen[0] == 30
        seen.clear()
        assert len(list(shmq.map(declared.positional, (n for n in range(30)), itertools.count()))) == 30
        assert seen
        assert all(left <= 0 for left in seen)
