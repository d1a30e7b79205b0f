"""Submitting: how arguments are bound, by object or by name, and what is refused with which words."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import shmq
from shmq.errors import BadArguments, ClientClosed, NotRunning, UnknownGroup, UnknownTask
from tests.client import declared

pytestmark = pytest.mark.usefixtures("client")
NAME = "tests.client.declared"


def test_options_made_for_one_job_go_with_it():
    task = declared.keywords.options(priority=2)
    job, alive = task.submit(1, c=3), weakref.ref(task)
    job.result(10)
    del task, job
    gc.collect()
    assert alive() is None


class TestSignatures:
    def test_defaults_and_keywords_are_bound_as_in_a_call(self):
        assert declared.keywords.submit(1, c=3).result(10) == [1, 2, 3, 4]
        assert declared.keywords.submit(1, 5, c=3, d=6).result(10) == [1, 5, 3, 6]
        assert declared.keywords.submit(c=3, b=7, a=1).result(10) == [1, 7, 3, 4]

    def test_var_positional_and_var_keyword_are_bound_as_in_a_call(self):
        assert declared.gather.submit(1).result(10) == [1, [], {}]
        assert declared.gather.submit(1, 2, 3).result(10) == [1, [2, 3], {}]
        assert declared.gather.submit(1, 2, x=3, y=[4]).result(10) == [1, [2], {"x": 3, "y": [4]}]
        assert declared.gather.submit(first=1, z=2).result(10) == [1, [], {"z": 2}]

    def test_positional_only_parameters_are_bound_as_in_a_call(self):
        assert declared.positional.submit(1).result(10) == [1, 5]
        with pytest.raises(BadArguments):
            declared.positional.submit(1, b=2)  # type: ignore[call-arg]

    def test_no_arguments_and_no_result(self):
        assert declared.nothing.submit().result(10) is None

    def test_many_arguments_travel_up_to_the_stated_number(self):
        assert declared.gather.submit(*range(254)).result(10)[1] == list(range(1, 254))
        with pytest.raises(BadArguments, match="at most 254"):
            declared.gather.submit(*range(255))

    def test_keyword_only_arrays_and_records_arrive_as_such(self):
        array = np.arange(5_000.0)
        result = declared.only_keywords.submit(array=array, point=declared.Point(1)).result(10)
        assert result == ["ndarray", "Point", float(array.sum())]

    def test_large_keyword_arguments_travel(self):
        assert declared.gather.submit(1, blob=b"x" * 100_000).result(10)[2] == {"blob": b"x" * 100_000}

    @pytest.mark.parametrize(
        ("args", "kwargs", "word"),
        [
            ((), {}, "'a'"),
            ((1,), {}, "'c'"),
            ((1, 2, 3), {"c": 1}, "too many"),
            ((1,), {"c": 1, "z": 2}, "'z'"),
            ((1,), {"a": 1, "c": 1}, "'a'"),
        ],
    )
    def test_wrong_arguments_are_refused_at_submit_with_the_signature(self, args, kwargs, word):
        with pytest.raises(BadArguments, match=r"keywords\(a: 'int'|keywords\(a: int") as caught:
            declared.keywords.submit(*args, **kwargs)
        assert word in str(caught.value)
        assert isinstance(caught.value, TypeError)

    def test_a_task_called_directly_runs_here(self):
        assert declared.keywords(1, c=2) == [1, 2, 2, 4]
        assert shmq.current_job() is None
        assert not shmq.cancelled()

    def test_async_and_generator_tasks_give_their_results(self):
        assert declared.acho.submit("a").result(10) == "a"
        assert declared.parts.submit(5).result(10) == [0, 1, 2, 3, 4]


class TestByName:
    def test_a_name_is_as_good_as_the_object(self):
        assert shmq.submit(declared.echo, 1).result(10) == 1
        assert shmq.submit(f"{NAME}.echo", 2).result(10) == 2
        assert shmq.submit(f"{NAME}.keywords", 1, c=3).result(10) == [1, 2, 3, 4]
        assert shmq.submit(f"{NAME}.keywords", c=3, a=1).result(10) == [1, 2, 3, 4]

    def test_results_of_the_object_are_typed_after_its_name_was_used(self):
        assert shmq.submit(f"{NAME}.move", {"x": 1, "y": 0.0}).result(10) == {"x": 2, "y": 0.0}
        assert declared.move.submit(declared.Point(1)).result(10) == declared.Point(2)

    def test_a_name_keeps_the_options_of_its_task(self):
        with pytest.raises(shmq.TaskTimeout):
            shmq.submit(f"{NAME}.spin").result(10)
        assert shmq.submit(f"{NAME}.single", 5).result(10) == 5

    @pytest.mark.parametrize(
        ("task", "args", "kwargs", "word"),
        [
            ("keywords", (), {}, "'a'"),
            ("keywords", (1, 2, 3, 4, 5), {}, "too many"),
            ("typed_number", (), {}, "'n'"),
            ("keywords", (1,), {"c": 1, "z": 1}, "'z'"),
            ("nothing", (1,), {}, "too many"),
        ],
    )
    def test_wrong_arguments_by_name_are_refused_by_the_worker(self, task, args, kwargs, word):
        with pytest.raises(BadArguments, match=task) as caught:
            shmq.submit(f"{NAME}.{task}", *args, **kwargs).result(10)
        assert word in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "near"),
        [(f"{NAME}.ecko", f"{NAME}.echo"), ("echo", f"{NAME}.echo"), (f"{NAME}.doubles", f"{NAME}.doubled")],
    )
    def test_an_unknown_name_is_refused_with_the_nearest(self, name, near):
        with pytest.raises(UnknownTask, match="Did you mean") as caught:
            shmq.submit(name, 1)
        assert near in str(caught.value)
        assert "shmq reload" in str(caught.value)

    @pytest.mark.parametrize("name", ["", "../x", "a\0b", "\x1b[31m", "x" * 10_000, "zzz.qqq"])
    def test_odd_names_are_refused(self, name):
        with pytest.raises(UnknownTask):
            shmq.submit(name)

    def test_an_unregistered_task_object_is_refused(self):
        @shmq.task
        def local(x: int) -> int:
            return x

        with pytest.raises(UnknownTask, match="local"):
            local.submit(1)

    def test_a_task_of_the_main_script_is_refused_with_the_reason(self):
        def main_task() -> None: ...

        main_task.__module__, main_task.__qualname__ = "__main__", "main_task"
        with pytest.raises(UnknownTask, match="main script"):
            shmq.task(main_task).submit()


class TestOptions:
    def test_an_unknown_group_is_refused_with_the_known_ones(self):
        with pytest.raises(UnknownGroup, match="computation, single, parked") as caught:
            declared.echo.options(group="gpu").submit(1)
        assert "[groups.gpu]" in str(caught.value)

    def test_options_of_one_job_do_not_change_the_task(self):
        changed = declared.who.options(group="single")
        assert changed.submit().result(10)[2] == "single"
        assert declared.who.submit().result(10)[2] == "computation"

    def test_options_of_a_name_are_kept_too(self, client):
        task = client._registry.task(f"{NAME}.who").options(group="single")
        assert client.submit(task).result(10)[2] == "single"

    @pytest.mark.parametrize(
        "options",
        [
            {"priority": 0},
            {"priority": 6},
            {"retries": -1},
            {"retries": 255},
            {"timeout": 0},
            {"timeout": -1.0},
            {"timeout": float("inf")},
            {"timeout": float("nan")},
            {"delay": -1.0},
            {"delay": float("inf")},
            {"delay": float("nan")},
            {"expires": 0},
            {"block": -1},
            {"eta": float("nan")},
            {"eta": float("inf")},
            {"timeout": 1e300},
            {"delay": 1e300},
            {"eta": 1e300},
            {"expires": 1e300},
        ],
        ids=str,
    )
    def test_values_that_mean_nothing_are_refused_by_name(self, options):
        with pytest.raises(BadArguments, match=next(iter(options))):
            declared.echo.options(**options)

    @pytest.mark.parametrize(
        "options", [{"priority": "high"}, {"timeout": "1"}, {"retries": 1.5}, {"group": 3}, {"delay": None}], ids=str
    )
    def test_values_of_another_type_are_refused_by_name(self, options):
        with pytest.raises(BadArguments, match=next(iter(options))):
            declared.echo.options(**options)

    def test_an_option_that_is_none_is_refused_with_those_that_are(self):
        with pytest.raises(BadArguments, match="priority") as caught:
            declared.echo.options(prio=1)
        assert "prio" in str(caught.value)
        with pytest.raises(BadArguments, match="backoff"):
            declared.echo.options(backoff=1.0)


def test_a_task_knows_its_job():
    job = declared.who.submit()
    assert job.result(10) == [job.id, f"{NAME}.who", "computation", 1]


def test_a_task_may_submit_and_wait_for_another_group():
    assert declared.submit_inside.submit(4).result(20) == 5


def test_without_a_supervisor_submit_says_how_to_start_one(monkeypatch):
    shmq.close()
    monkeypatch.setenv("SHMQ_NAMESPACE", "nobody-serves-this")
    with pytest.raises(NotRunning, match="shmq supervise"):
        declared.echo.submit(1)
    with pytest.raises(NotRunning, match="nobody-serves-this"):
        shmq.connect("nobody-serves-this")


def test_a_closed_client_refuses_and_a_second_close_is_fine(service):
    with shmq.connect(service.namespace) as client:
        job = client.submit(declared.echo, 1)
        assert job.result(10) == 1
        unread = client.submit(declared.echo, 2)
    client.close()
    with pytest.raises(ClientClosed, match="connect again"):
        client.submit(declared.echo, 1)
    assert job.result() == 1  # read before, kept in the handle
    with pytest.raises(shmq.ShmqError):
        unread.result(1)


def test_the_default_client_connects_again_after_close():
    assert declared.echo.submit(1).result(10) == 1
    shmq.close()
    assert declared.echo.submit(2).result(10) == 2


class TestTheMethodTakenAlong:
    def test_submit_that_was_bound_before_the_first_call_takes_the_hot_path_as_well(self, client, monkeypatch):
        task = declared.keywords.options()
        early = task.submit  # the method; `task.submit` is the hot path itself from the first call on
        assert early(1, c=3).result(10) == [1, 2, 3, 4]

        def fail(*_: object) -> None:
            raise AssertionError("went the long way")

        monkeypatch.setattr(client, "submit_task", fail)
        assert early(1, 5, c=3, d=6).result(10) == [1, 5, 3, 6]

    def test_it_finds_the_next_client_after_a_close(self):
        task = declared.keywords.options()
        early = task.submit
        assert early(1, c=3).result(10) == [1, 2, 3, 4]
        shmq.close()
        assert early(1, c=3).result(10) == [1, 2, 3, 4]
