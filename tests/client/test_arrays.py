"""numpy arrays: one copy in, none at the reader; blocks live as long as a view of them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import deque

import numpy as np
import pytest

import shmq
from shmq.errors import BadArguments, QueueFull, TooLarge, Unencodable
from tests.client import declared
from tests.live import until

DTYPES = [
    "?",
    "b",
    "B",
    "<i2",
    ">i4",
    "<u8",
    "<f2",
    "<f4",
    "<f8",
    ">f8",
    "<c8",
    "<c16",
    "S5",
    "<U3",
    "<M8[ns]",
    "<m8[s]",
]


@pytest.mark.usefixtures("client")
class TestValues:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("count", [3, 40_000], ids=["inline", "block"])
    def test_every_dtype_comes_back_equal(self, dtype, count):
        array = (
            (np.arange(count) % 100).astype("u1").astype(dtype)
            if dtype != "<M8[ns]"
            else np.arange(count).astype(dtype)
        )
        result = declared.same_array.submit(array).result(10)
        assert result.dtype == array.dtype
        assert np.array_equal(result, array)

    @pytest.mark.parametrize(
        "array",
        [
            np.empty(0),
            np.empty((0, 5), "i4"),
            np.array(7.5),
            np.arange(6).reshape(2, 3),
            np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
            np.arange(100_000.0)[::2],
            np.arange(100_000.0)[::-1],
            np.arange(20.0)[::3],
            np.zeros((2, 3, 4, 5, 6)),
            np.broadcast_to(np.float64(3), (100, 100)),
            np.arange(30_000.0).reshape(100, 300).T,
        ],
        ids=[
            "empty",
            "empty2d",
            "0d",
            "2d",
            "fortran",
            "strided",
            "reversed",
            "small strided",
            "5d",
            "broadcast",
            "transposed",
        ],
    )
    def test_every_shape_and_layout_comes_back_equal(self, array):
        result = declared.same_array.submit(array).result(10)
        assert result.shape == array.shape
        assert result.dtype == array.dtype
        assert np.array_equal(result, array)

    def test_a_read_only_array_travels(self):
        array = np.arange(50_000.0)
        array.flags.writeable = False
        assert np.array_equal(declared.doubled.submit(array).result(10), array * 2)

    def test_arrays_nested_in_containers_travel(self):
        arrays = [np.zeros(10), np.ones(50_000), np.full((100, 100), 2.0)]
        result = declared.many_arrays.submit(arrays).result(10)
        for i, array in enumerate(arrays):
            assert np.array_equal(result[str(i)], array + i)

    def test_a_generic_annotation_is_understood(self):
        array = np.arange(10_000.0)
        assert np.array_equal(declared.scaled.submit(array, 0.5).result(10), array / 2)
        assert np.array_equal(declared.scaled.submit(by=0.5, array=array).result(10), array / 2)

    def test_arrays_of_objects_and_records_are_refused_at_submit(self):
        for array in (np.array([object()]), np.zeros(3, dtype=[("a", "i4"), ("b", "f8")])):
            with pytest.raises(Unencodable, match="cannot travel"):
                declared.same_array.submit(array)

    def test_an_array_above_the_budget_is_refused(self):
        with pytest.raises(TooLarge, match="do not fit a block"):
            declared.described.submit(np.zeros(9 << 20, "u1"))

    def test_something_else_than_an_array_is_refused_by_the_annotation(self):
        with pytest.raises(TypeError, match="doubled"):
            declared.doubled.submit([1, 2]).result(10)


def first_unit(client, array) -> int:
    """Where an array of `shmq.empty` begins."""
    return (array.__array_interface__["data"][0] - client._blocks._columns.address) // client._blocks.unit_bytes


def tag_of(job) -> int:
    return job._generation << 32 | job._slot


class TestBlocks:
    def test_task_and_reader_see_read_only_views(self, client):
        array = np.arange(100_000.0)
        assert declared.described.submit(array).result(10) == ("<f8", [100_000], float(array.sum()), False)
        result = declared.doubled.submit(array).result(10)
        assert not result.flags.writeable
        assert not result.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            result[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            result.flags.writeable = True

    def test_a_result_view_keeps_its_block_while_others_come_and_go(self, client):
        first = declared.doubled.submit(np.arange(100_000.0)).result(10)
        part = first[10:20]
        del first
        for i in range(40):  # 40 x 0.8 MB: more than the budget, so blocks must be taken again
            assert declared.ones.submit(100_000).result(10).sum() == 100_000, i
        assert np.array_equal(part, np.arange(10, 20) * 2.0)

    def test_blocks_are_free_again_when_views_die(self, client):
        until(lambda: client._blocks.used_bytes() == 0)
        results = [declared.ones.submit(100_000).result(10) for _ in range(5)]
        assert client._blocks.used_bytes() >= 5 * 800_000
        del results
        gc.collect()
        until(lambda: client._blocks.used_bytes() == 0)

    def test_a_block_is_reused_after_its_view_dies(self, client):
        def address() -> int:
            return declared.ones.submit(100_000).result(10).__array_interface__["data"][0]

        assert len({address() for _ in range(20)}) <= 2

    def test_a_rolling_window_takes_its_blocks_again_without_a_search(self, client, monkeypatch):
        kept = [shmq.empty(50_000, "f8") for _ in range(2)]
        search, searches, waiting = client._blocks._find, [], deque()
        monkeypatch.setattr(client._blocks, "_find", lambda *where: searches.append(where) or search(*where))
        array = np.arange(50_000.0)
        for _ in range(100):
            waiting.append(declared.described.submit(array))
            if len(waiting) > 4:
                assert waiting.popleft().result(10)[2] == array.sum()
        while waiting:
            assert waiting.popleft().result(10)[2] == array.sum()
        assert len(searches) <= 10  # for the first of them, and where all that are tried were in use for once
        kept.clear()

    def test_an_unread_result_frees_its_block_with_its_handle(self, client):
        jobs = [declared.ones.submit(100_000) for _ in range(4)]
        until(lambda: all(job.done() for job in jobs))
        jobs.clear()
        gc.collect()
        until(lambda: client._blocks.used_bytes() == 0)

    @pytest.mark.parametrize("dtype", ["M8[s]", "S3", "V5", "?"])
    def test_one_of_any_type_is_submitted_without_a_copy(self, client, dtype):
        array = shmq.empty(50_000, dtype)
        array[:] = np.zeros(1, dtype)[0]
        used = client._blocks.used_bytes()
        job = declared.same_array.options(delay=60).submit(array)
        assert client._blocks.used_bytes() == used
        job.cancel()

    @pytest.mark.parametrize("shape", [np.int64(4), (np.int64(2), 2), [4], 4, range(2, 3)])
    @pytest.mark.usefixtures("client")
    def test_a_shape_is_what_numpy_takes_for_one(self, shape):
        assert shmq.empty(shape).shape == np.empty(shape).shape

    @pytest.mark.parametrize("shape", [-1, (2, -1), "x", None, 2.5, (2.5,)])
    @pytest.mark.usefixtures("client")
    def test_a_shape_that_means_nothing_is_refused(self, shape):
        with pytest.raises(BadArguments, match="no array of shape"):
            shmq.empty(shape)

    def test_map_takes_no_more_arrays_of_the_pool_from_its_input_than_there_is_room_for(self, client):
        def arrays():
            for number in range(40):
                array = shmq.empty(client._blocks.largest_bytes // 16, "u1")
                array[:] = number
                yield array

        until(lambda: client._blocks.used_bytes() == 0, "cancelled jobs of former tests have left")
        found = list(shmq.map(declared.described, arrays()))
        assert [total // shape[0] for _, shape, total, _ in found] == list(range(40))

    def test_tasks_that_keep_their_arrays_leave_room_for_others(self, client):
        until(lambda: client._blocks.used_bytes() == 0, "cancelled jobs of former tests have left")
        for number in range(60):
            declared.kept.submit(np.full(100_000, float(number))).result(10)
        assert client._blocks.used_bytes() <= client._blocks.budget_bytes // 8 + (1 << 20)
        assert declared.look_at_kept.submit().result(10) == [float(number) for number in range(60)]
        until(lambda: client._blocks.used_bytes() == 0)

    def test_an_empty_array_of_the_pool_is_submitted_without_a_copy(self, client):
        array = shmq.empty((1000, 200), "f4")
        array[:] = 1.5
        used = client._blocks.used_bytes()
        job = declared.described.submit(array)
        assert client._blocks.used_bytes() == used
        assert job.result(10) == ("<f4", [1000, 200], 300_000.0, False)
        array[:] = 2  # it is the producer's again
        assert declared.described.submit(array).result(10)[2] == 400_000.0

    def test_a_pool_array_in_two_jobs_at_once_is_right_in_both(self, client):
        array = shmq.empty(50_000)
        array[:] = 1
        jobs = [declared.described.submit(array) for _ in range(6)]
        assert [job.result(10)[2] for job in jobs] == [50_000.0] * 6

    @pytest.mark.parametrize("begin", [0, 1, 2, 3])
    def test_a_part_of_a_pool_array_takes_no_block_of_another_job(self, client, begin):
        unit, tags = client._blocks.unit_bytes, client.segment.view("tags")
        later = declared.same_array.options(delay=60)
        array = shmq.empty(8 * unit, "u1")
        at = first_unit(client, array)
        neighbour = later.submit(array[4 * unit :])
        part = later.submit(array[begin * unit : 4 * unit])
        assert list(tags[at + 4 : at + 8]) == [tag_of(neighbour)] * 4
        in_place = {0: 4, 2: 2, 3: 1}.get(begin, 0)
        assert [tags[at + i] == tag_of(part) for i in range(4)] == [begin <= i < begin + in_place for i in range(4)]
        assert part.cancel()
        assert neighbour.cancel()

    def test_a_whole_pool_array_is_copied_while_a_part_of_it_is_on_its_way(self, client):
        unit, tags = client._blocks.unit_bytes, client.segment.view("tags")
        later = declared.same_array.options(delay=60)
        array = shmq.empty(4 * unit, "u1")
        at = first_unit(client, array)
        part = later.submit(array[2 * unit :])
        whole = later.submit(array)
        assert list(tags[at + 2 : at + 4]) == [tag_of(part)] * 2
        assert tag_of(whole) not in tags[at : at + 4]
        assert part.cancel()
        assert whole.cancel()

    def test_a_part_of_a_pool_array_travels_right(self, client):
        array = shmq.empty(100_000)
        array[:] = np.arange(100_000)
        for part in (array[:5000], array[50_000:], array[::2], array.reshape(100, 1000).T):
            result = declared.same_array.submit(part).result(10)
            assert np.array_equal(result, part)
            del result

    def test_a_pool_array_outlives_its_job_and_its_block_goes_with_it(self, client):
        array = shmq.empty(100_000)
        array[:] = 3
        declared.described.submit(array).result(10)
        for _ in range(40):
            declared.ones.submit(100_000).result(10)
        assert (array == 3).all()
        del array
        gc.collect()
        until(lambda: client._blocks.used_bytes() == 0)

    def test_a_result_resubmitted_as_argument_is_right(self, client):
        array = np.arange(50_000.0)
        once = declared.doubled.submit(array).result(10)
        assert np.array_equal(declared.doubled.submit(once).result(10), array * 4)

    def test_a_view_that_the_task_keeps_stays_valid(self, client):
        for value in (1.0, 2.0, 3.0):
            assert declared.kept.submit(np.full(100_000, value)).result(10) == value
        for _ in range(40):
            declared.ones.submit(100_000).result(10)
        assert declared.look_at_kept.submit().result(10) == [1.0, 2.0, 3.0]
        until(lambda: client._blocks.used_bytes() == 0)

    def test_views_of_two_attempts_end_apart(self, client):
        assert declared.kept_at_each_attempt.submit(np.full(100_000, 7.0)).result(10) == 7.0
        declared.drop_first_kept.submit().result(10)
        for value in range(40):
            declared.described.submit(np.full(100_000, float(value))).result(10)
        assert declared.look_at_kept.submit().result(10) == [7.0]
        until(lambda: client._blocks.used_bytes() == 0)

    def test_views_of_a_part_and_of_the_whole_end_apart(self, client):
        unit = client._blocks.unit_bytes
        array = shmq.empty(8 * unit, "u1")
        array[:] = 7
        declared.kept.submit(array[4 * unit :]).result(10)
        declared.kept.submit(array).result(10)
        declared.drop_first_kept.submit().result(10)
        del array
        gc.collect()
        for value in range(40):
            declared.described.submit(np.full(4 * unit, value, "u1")).result(10)
        assert declared.are_kept_uniform.submit().result(10) == [True]
        until(lambda: client._blocks.used_bytes() == 0)

    def test_a_pool_full_of_living_views_says_so(self, client):
        kept = []
        with pytest.raises(QueueFull, match="no free block"):
            kept.extend(shmq.empty(1 << 20, "u1") for _ in range(17))
        with pytest.raises(QueueFull, match="no free block for the arguments") as caught:
            declared.length.options(block=0.05).submit(b"x" * (1 << 20))
        assert "0 are free in one piece; 8388608 take results only" in str(caught.value)
        del kept
        gc.collect()
        assert declared.length.submit(b"x" * (1 << 20)).result(10) == 1 << 20

    def test_results_may_be_kept_beyond_the_budget_while_more_arrays_are_submitted(self, client):
        task = declared.doubled.options(block=3.0)
        kept = list(shmq.map(task, (np.full(100_000, float(i)) for i in range(40))))
        kept += [client.submit(task, np.full(100_000, 40.0)).result(10)]
        assert [float(array[-1]) for array in kept] == [2.0 * i for i in range(41)]

    def test_an_idle_worker_keeps_no_argument_of_a_chunk(self, client):
        list(shmq.map(declared.described, (np.ones(100_000) for _ in range(6))))
        until(lambda: client._blocks.used_bytes() == 0)

    def test_a_zero_sized_pool_array_travels(self, client):
        assert declared.described.submit(shmq.empty((0, 3))).result(10)[1] == [0, 3]

    def test_too_large_a_pool_array_is_refused(self, client):
        with pytest.raises(TooLarge):
            shmq.empty(9 << 20, "u1")


class TestViewsThatOutliveTheirClient:
    def test_they_stay_as_they_are(self, service):
        with shmq.connect(service.namespace) as client:
            array = client.submit(declared.same_array, np.ones(100_000)).result(10)
        with shmq.connect(service.namespace) as client:
            later = [client.submit(declared.same_array, np.full(100_000, i)).result(10) for i in range(2, 8)]
            assert (array == 1.0).all()
        assert (array == 1.0).all()
        assert [int(each[0]) for each in later] == [2, 3, 4, 5, 6, 7]

    def test_their_row_is_free_with_the_last_of_them(self, service):
        with shmq.connect(service.namespace) as client:
            row = client._row
            arrays = [client.submit(declared.same_array, np.ones(100_000)).result(10) for _ in range(2)]
        arrays.pop()
        assert is_holder_alive_elsewhere(service, row.index)
        arrays.pop()
        assert not is_holder_alive_elsewhere(service, row.index)

    def test_a_forked_child_that_drops_its_copy_frees_nothing(self, client):
        array = declared.same_array.submit(np.ones(100_000)).result(10)
        used = client._blocks.used_bytes()
        child = os.fork()
        if child == 0:
            del array
            gc.collect()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert client._blocks.used_bytes() == used
        assert (array == 1.0).all()


LOOK = """
import sys
from shmq.memory.segment import attach, segment_name
from shmq.transport.membership import is_holder_alive
print(is_holder_alive(attach(segment_name(sys.argv[1])), int(sys.argv[2])))
"""


def is_holder_alive_elsewhere(service, index):
    """What another process sees of a producer row."""
    command = [sys.executable, "-c", LOOK, service.namespace, str(index)]
    done = subprocess.run(command, env=service.env, capture_output=True, text=True, check=True)
    return done.stdout == "True\n"
