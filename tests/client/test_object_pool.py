from __future__ import annotations

import os
import threading

import pytest

import shmq


class Thing:
    pass


def test_an_object_is_made_once_and_lent_again():
    pool = shmq.ObjectPool(Thing)
    with pool.lend() as first:
        assert isinstance(first, Thing)
    with pool.lend() as second:
        assert second is first
    assert len(pool) == 1


@pytest.mark.parametrize("wrong", [(None,), ("connect",), (Thing, Thing())], ids=["none", "text", "reset"])
def test_what_cannot_be_called_is_refused(wrong):
    with pytest.raises(TypeError, match=r"must be functions; pass connect, not connect\(\)"):
        shmq.ObjectPool(*wrong)


def test_nested_borrowers_get_different_objects():
    pool = shmq.ObjectPool(Thing)
    with pool.lend() as outer, pool.lend() as inner:
        assert outer is not inner
    assert len(pool) == 2


def test_no_more_than_max_size_are_kept():
    pool = shmq.ObjectPool(Thing, max_size=1)
    with pool.lend(), pool.lend(), pool.lend():
        assert len(pool) == 0
    assert len(pool) == 1


def test_objects_are_reset_before_they_are_kept():
    pool = shmq.ObjectPool(list, reset=list.clear)
    with pool.lend() as items:
        items.append(1)
    with pool.lend() as items:
        assert items == []


def test_an_object_whose_borrower_raised_is_dropped():
    pool = shmq.ObjectPool(Thing)
    with pytest.raises(KeyError), pool.lend():
        raise KeyError
    assert len(pool) == 0


def test_an_object_that_cannot_be_reset_is_dropped():
    def reset(_):
        raise OSError("gone")

    pool = shmq.ObjectPool(Thing, reset)
    with pytest.raises(OSError, match="gone"), pool.lend():
        pass
    assert len(pool) == 0


def test_clear_drops_what_is_kept():
    pool = shmq.ObjectPool(Thing)
    with pool.lend():
        pass
    pool.clear()
    assert len(pool) == 0


def test_a_forked_process_does_not_use_its_parents_objects():
    pool = shmq.ObjectPool(Thing)
    with pool.lend():
        pass
    child = os.fork()
    if child == 0:
        os._exit(len(pool))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(pool) == 1


def test_an_object_lent_before_a_fork_is_not_kept_by_the_child():
    pool = shmq.ObjectPool(Thing)
    child = None
    with pool.lend():
        child = os.fork()
        if child == 0:
            len(pool)
    if child == 0:
        os._exit(len(pool))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_never_share_an_object():
    pool = shmq.ObjectPool(lambda: {"busy": False}, max_size=4)
    shared = []

    def work():
        for _ in range(500):
            with pool.lend() as thing:
                if thing["busy"]:
                    shared.append(thing)
                thing["busy"] = True
                thing["busy"] = False

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not shared
    assert len(pool) <= 4


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="max_size must be 1 or more, got 0"):
        shmq.ObjectPool(Thing, max_size=0)
