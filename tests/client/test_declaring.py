"""What can be declared as a task, and what a task object can be used for beside submitting."""

from __future__ import annotations

import functools
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import shmq
from shmq.errors import BadArguments
from tests.client import declared


def twice(value):
    return 2 * value


class Holder:
    def method(self):
        return 1

    @staticmethod
    def static():
        return 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retrys": 3}, "unknown option 'retrys'; did you mean retries?"),
        ({"delay": 1}, "unknown option 'delay'"),
        ({"retry_on": "OSError"}, "retry_on must be an exception type, or several, .*; got 'OSError'"),
        ({"retry_on": ["OSError"]}, r"got \('OSError',\)"),
        ({"give_up_on": [OSError, 3]}, "give_up_on must be an exception type"),
        ({"give_up_on": int}, "give_up_on must be an exception type"),
    ],
)
def test_an_option_that_cannot_mean_anything_is_refused_where_it_is_written(options, told):
    with pytest.raises(BadArguments, match=told):
        shmq.task(**options)(twice)


@pytest.mark.parametrize("kinds", [OSError, (OSError,), [OSError], {OSError}, frozenset({OSError})])
def test_exception_types_may_come_in_any_collection(kinds):
    assert shmq.task(retry_on=kinds)(twice).settings.retry_on == (OSError,)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (Holder.method, "must not be inside a class"),
        (Holder.static, "must not be inside a class"),
        (functools.partial(twice, 1), "declares a function, got functools.partial"),
        (3, "declares a function, got 3"),
    ],
)
def test_what_workers_could_not_find_again_is_refused(function, told):
    with pytest.raises(BadArguments, match=told):
        shmq.task(function)


def test_a_task_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(declared.echo)) is declared.echo


def test_with_other_options_it_is_pickled_with_these():
    changed = declared.echo.options(priority=1, timeout=2.5)
    copy = pickle.loads(pickle.dumps(changed))
    assert (copy.name, copy.settings) == (changed.name, changed.settings)
    assert copy(3) == 3


def test_a_group_that_was_chosen_stays_chosen():
    changed = declared.echo.options(group=declared.echo.settings.group)
    assert pickle.loads(pickle.dumps(changed)).has_chosen_group


def test_a_declared_task_can_be_given_to_another_pool():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(declared.echo, 5).result() == 5


def test_what_no_module_holds_cannot_be_pickled():
    task = shmq.task(twice)
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(task)
