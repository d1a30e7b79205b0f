"""Does this machine reorder, so that the fence is needed, and does the fence stop it?"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
from pathlib import Path

import pytest

from tests.crash import litmus
from tests.crash.litmus import MESSAGE_PASSING, STORE_BUFFERING, hunt, run

ENOUGH = 20  # sightings without a fence, so that as many rounds without one prove something

pytestmark = pytest.mark.skipif(litmus.two_processors() is None, reason="only one processor may be used")


def test_a_store_and_a_later_load_are_reordered_unless_a_fence_stands_between(capsys):
    without = hunt(STORE_BUFFERING, fenced=False, least=ENOUGH, limit_s=120.0)
    fenced = run(STORE_BUFFERING, fenced=True, rounds=min(max(without.rounds, 20_000), 100_000))

    with capsys.disabled():
        print(f"\n{without}\n{fenced}")
    assert without.forbidden, "the test does not bite here: it would pass without any fence"
    assert not fenced.forbidden


def test_a_message_never_overtakes_its_data_with_a_fence():
    outcome = run(MESSAGE_PASSING, fenced=True, rounds=10_000)

    assert not outcome.forbidden


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86 keeps stores in order by itself")
def test_x86_needs_no_fence_between_data_and_flag():
    outcome = run(MESSAGE_PASSING, fenced=False, rounds=10_000)

    assert not outcome.forbidden


def test_the_litmus_leaves_processors_and_children_as_they_were():
    allowed = os.sched_getaffinity(0)
    children = _children()

    run(STORE_BUFFERING, fenced=True, rounds=100)

    assert os.sched_getaffinity(0) == allowed
    assert not _children() - children


def _children():
    """Pids; a thread of the test runner may end meanwhile, and so may a child of an earlier test."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update((task / "children").read_text().split())
    return found


def test_a_partner_that_dies_ends_the_litmus_with_an_error(monkeypatch):
    def die(side, fence):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setitem(litmus._SIDES, STORE_BUFFERING, (litmus._SIDES[STORE_BUFFERING][0], die))

    with pytest.raises(OSError, match="litmus partner"):
        run(STORE_BUFFERING, fenced=True, rounds=100)


def test_on_one_processor_the_litmus_refuses():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with pytest.raises(OSError, match="only one processor"):
            run(STORE_BUFFERING, fenced=False, rounds=1)
    finally:
        os.sched_setaffinity(0, allowed)
