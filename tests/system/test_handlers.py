"""Signal handlers and finalizers of a producer: what they do in the middle of the client's code harms nobody."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytest

import shmq
from shmq.errors import ReentrantSubmit
from tests.client import declared
from tests.live import until


def test_a_signal_handler_that_submits_inside_submit_is_refused_and_nothing_is_lost(client):
    outcomes: list[object] = []

    def submit_here(*_: object) -> None:
        try:
            outcomes.append(declared.echo.submit("from handler"))
        except ReentrantSubmit as error:
            outcomes.append(error)

    before = signal.signal(signal.SIGALRM, submit_here)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for i in range(6_000):
            assert declared.echo.submit(i).result(30) == i
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    accepted = [job for job in outcomes if isinstance(job, shmq.Job)]
    refused = [error for error in outcomes if isinstance(error, ReentrantSubmit)]
    assert len(accepted) + len(refused) == len(outcomes) > 0
    assert all(job.result(30) == "from handler" for job in accepted)


def test_a_finalizer_that_submits_inside_the_client_is_refused_with_the_reason(client):
    with client._lock, pytest.raises(ReentrantSubmit, match="Set a flag"):
        declared.echo.submit(1)
    assert declared.echo.submit(1).result(30) == 1


def test_an_exception_of_a_handler_leaves_the_client_usable(client):
    class Interrupted(BaseException):
        pass

    fired = threading.Event()

    def interrupt(*_: object) -> None:
        fired.set()
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # hypothesis listens to it: an exception in there could only be reported as ignored
    raised = 0
    try:
        for round_ in range(300):
            fired.clear()
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0003 + round_ % 7 * 0.00005)
                while not fired.is_set():
                    assert declared.echo.submit(5).result(30) == 5
            except Interrupted:
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert raised > 0  # posix_ipc swallows those that come while it waits
    assert [declared.echo.submit(i).result(30) for i in range(1_000)] == list(range(1_000))


class Boom(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("leads", [False, True])
def test_an_exception_of_a_handler_anywhere_in_a_wait_holds_up_no_other_thread(client, tmp_path, leads):
    """Raised at the n-th bytecode of the waiting code, for each n, while another thread waits, too."""
    go = tmp_path / "go"

    def interrupted_at(number: int) -> bool:
        left = number

        def trace(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.endswith(("client/waiting.py", "threading.py")):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if event == "opcode":
                left -= 1
                if left == 0:
                    raise Boom
            return trace

        other = threading.Thread(target=lambda: slow.result(30))
        if not leads:
            other.start()
            until(client._waiter._is_led, "another thread leads")
        sys.settrace(trace)
        try:
            while left == number:  # until one is not over before it is waited for
                declared.nap.submit(0.002).result(30)
        except Boom:
            return True
        finally:
            sys.settrace(None)
            if leads:
                other.start()
            seen: list[int] = []
            third = threading.Thread(target=lambda: seen.append(declared.echo.submit(number).result(30)))
            third.start()
            third.join()
            assert seen == [number]
            go.touch()
            other.join()
            go.unlink()
        return False

    number = 1
    while True:
        slow = declared.wait_for_file.submit(str(go))
        if not interrupted_at(number):
            break
        number += 1
    assert number > 50
    assert len(client._waiter._followers) == 0
