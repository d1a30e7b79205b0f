"""Job handles: what they tell, cancel, call back; dropped ones leak no slot."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

import shmq
from shmq.client.handle import PENDING
from shmq.client.hot import AT_ONCE
from shmq.errors import JobCancelled, QueueFull, ShmqError
from shmq.transport.table import FREE, SCHEDULED, STATE
from tests.client import declared
from tests.client.conftest import SLOTS
from tests.live import until

pytestmark = pytest.mark.usefixtures("client")


@pytest.fixture
def parked(service):
    """The group `parked`, paused for the test."""
    service.control("pause", group="parked")
    yield "parked"
    service.control("resume", group="parked")


class TestState:
    def test_a_handle_follows_its_job(self, parked, service, tmp_path):
        job = declared.parked.submit(1)
        assert job.state == "queued"
        assert not job.done()
        with pytest.raises(TimeoutError, match=r"queued after 0\.05 s; it goes on\.\nGroup 'parked' is paused"):
            job.result(0.05)
        service.control("resume", group="parked")
        assert job.result(10) == 1
        assert job.state == "done"
        assert job.done()

    def test_a_running_job_says_so(self, tmp_path):
        job = declared.wait_for_file.submit(str(tmp_path / "go"))
        until(lambda: job.state == "running")
        (tmp_path / "go").touch()
        assert job.result(10) is True

    def test_a_wait_in_vain_tells_why(self, client, tmp_path):
        running = declared.wait_for_file.submit(str(tmp_path / "go"))
        delayed = declared.echo.options(delay=60).submit(1)
        until(lambda: running.state == "running")
        try:
            with pytest.raises(TimeoutError, match="A worker runs it: wait longer, or give the task a `timeout`"):
                running.result(0.01)
            with pytest.raises(TimeoutError, match=r"is to be tried again, and due in (60|5\d(\.\d)?) s"):
                delayed.result(0.01)
        finally:
            (tmp_path / "go").touch()
            delayed.cancel()
        running.result(10)

    def test_a_failed_job_says_so(self):
        job = declared.fail_as.submit("ValueError", "x")
        until(job.done)
        assert job.state == "failed"

    def test_a_handle_shows_what_it_is(self):
        job = declared.echo.submit(1)
        job.result(10)
        assert repr(job) == f"<shmq.Job {job.id} tests.client.declared.echo done>"
        assert job.task_name == "tests.client.declared.echo"

    def test_ids_are_never_the_same(self):
        assert len({declared.nothing.submit().id for _ in range(1000)}) == 1000

    def test_a_zero_timeout_only_looks(self, parked):
        job = declared.parked.submit(1)
        with pytest.raises(TimeoutError):
            job.result(0)
        with pytest.raises(TimeoutError):
            job.exception(0)

    def test_results_are_read_in_any_order(self):
        jobs = [declared.echo.submit(i) for i in range(SLOTS)]
        assert [job.result(10) for job in reversed(jobs)] == list(reversed(range(SLOTS)))


class TestSlots:
    def test_dropped_handles_leak_no_slot(self):
        for i in range(5_000):
            declared.echo.submit(i)
        assert declared.echo.submit("still room").result(10) == "still room"

    def test_a_backlog_of_ten_times_the_slots_keeps_its_results(self):
        jobs = [declared.echo.submit(i) for i in range(10 * SLOTS)]
        assert [job.result(10) for job in jobs] == list(range(10 * SLOTS))

    def test_a_backlog_of_large_results_keeps_them(self):
        jobs = [declared.blob.submit(5_000 + i) for i in range(4 * SLOTS)]
        assert [len(job.result(10)) for job in jobs] == [5_000 + i for i in range(4 * SLOTS)]

    def test_dropped_handles_are_let_go_when_their_slots_are_needed(self):
        reference = weakref.ref(declared.echo.submit(1))
        until(lambda: declared.echo.submit(1) and reference() is None)

    def test_forgotten_jobs_run_and_free_their_slots(self, tmp_path, client):
        for i in range(200):
            declared.touch_and_forget.submit(str(tmp_path / str(i)))
        until(lambda: len(list(tmp_path.iterdir())) == 200)
        until(lambda: not client._publisher.ended())
        declared.touch.options(forget=True).submit(str(tmp_path / "one more"))
        until((tmp_path / "one more").exists)

    def test_a_forgotten_job_that_fails_frees_its_slot(self, client):
        for _ in range(SLOTS + 10):
            declared.fail_as.options(forget=True).submit("ValueError", "x")
        assert declared.echo.submit(1).result(10) == 1

    def test_the_handle_of_a_forgotten_job_ends_with_it(self, tmp_path):
        job = declared.touch_and_forget.submit(str(tmp_path / "a"))
        until((tmp_path / "a").exists)
        until(job.done)
        with pytest.raises(ShmqError, match="forget"):
            job.result(1)


class TestFull:
    def test_a_full_queue_says_group_depth_capacity_and_remedies(self, parked):
        kept = [declared.parked.submit(i) for i in range(SLOTS)]
        with pytest.raises(QueueFull) as caught:
            declared.parked.submit_nowait(0)
        text = str(caught.value)
        for word in (
            "'parked'",
            "tests.client.declared.parked",
            f"{SLOTS} of {SLOTS} slots",
            "shmq status",
            "slots_per_producer",
            "block=",
        ):
            assert word in text
        with pytest.raises(QueueFull):
            declared.parked.options(block=0.05).submit(0)
        assert sum(job.cancel() for job in kept) == SLOTS

    def test_a_blocked_submit_goes_on_when_there_is_room(self, parked, service):
        kept = [declared.parked.submit(i) for i in range(SLOTS)]
        timer = threading.Timer(0.1, lambda: service.control("resume", group="parked"))
        timer.start()
        assert declared.parked.submit("last").result(20) == "last"
        timer.join()
        assert [job.result(10) for job in kept] == list(range(SLOTS))


class TestCancel:
    def test_a_queued_job_is_cancelled_at_once_and_never_runs(self, parked, service, tmp_path):
        job = declared.touch.options(group="parked").submit(str(tmp_path / "never"))
        assert job.cancel()
        assert job.done()
        assert job.cancelled()
        assert job.state == "cancelled"
        with pytest.raises(JobCancelled, match="before it ran"):
            job.result(1)
        with pytest.raises(JobCancelled):
            job.exception(1)
        service.control("resume", group="parked")
        assert declared.parked.submit(1).result(10) == 1  # the worker has passed the entry
        assert not (tmp_path / "never").exists()

    def test_cancelled_jobs_give_their_slots_back_in_a_paused_group(self, parked):
        for _ in range(2):
            jobs = [declared.parked.submit(i) for i in range(SLOTS)]
            assert all(job.cancel() for job in jobs)
        assert declared.echo.submit(1).result(10) == 1

    def test_slots_of_cancelled_jobs_come_back_before_the_row_is_full(self, client):
        """Nobody reads a cancelled job: its slot, and the block of its arguments, must not wait for a full row."""

        def used() -> int:
            words = client.segment.view("words")
            return sum(words[slot] & STATE != FREE for slot in range(client._first, client._first + SLOTS))

        before = used()
        for _ in range(3):
            for _ in range(SLOTS // 4):
                assert declared.echo.options(delay=3600).submit(1).cancel()
            until(lambda: not any(w & STATE == SCHEDULED for w in client.segment.view("words")))  # recovery has seen it
        assert used() - before < SLOTS // 2  # two rounds of orphans at most

    def test_a_delayed_job_is_cancelled_at_once(self):
        job = declared.echo.options(delay=60.0).submit(1)
        assert job.state == "scheduled"
        assert job.cancel()
        assert job.cancelled()

    def test_a_running_job_is_asked_and_the_handle_tells_the_outcome(self, tmp_path):
        job = declared.wait_for_file.submit(str(tmp_path / "never"))
        until(lambda: job.state == "running")
        assert not job.cancel()
        assert job.result(10) is False  # the task saw shmq.cancelled()
        assert not job.cancelled()

    def test_a_running_job_is_cancelled_by_killing_its_worker(self, service):
        job = declared.nap.submit(60.0)
        until(lambda: job.state == "running")
        job.cancel(kill=True)
        with pytest.raises(JobCancelled):
            job.result(20)
        assert job.state == "cancelled"
        assert declared.echo.submit(1).result(20) == 1
        until(lambda: len(service.live_workers("computation")) == 2)

    def test_an_ended_job_cannot_be_cancelled(self):
        job = declared.echo.submit(1)
        assert job.result(10) == 1
        assert not job.cancel()
        assert job.result() == 1

    def test_a_second_cancel_changes_nothing(self, parked):
        job = declared.parked.submit(1)
        assert job.cancel()
        assert not job.cancel()
        assert job.cancelled()


class TestCallbacks:
    def test_a_callback_gets_the_ended_job(self):
        seen: list[shmq.Job] = []
        job = declared.nap.submit(0.05)
        job.add_done_callback(seen.append)
        until(lambda: seen == [job])
        assert job.result(0) == 0.05

    def test_a_callback_on_an_ended_job_runs_now(self):
        job = declared.echo.submit(1)
        job.result(10)
        seen: list[shmq.Job] = []
        job.add_done_callback(seen.append)
        assert seen == [job]

    def test_callbacks_run_in_the_order_they_were_added(self):
        seen: list[int] = []
        job = declared.nap.submit(0.05)
        for i in range(5):
            job.add_done_callback(lambda _, i=i: seen.append(i))
        until(lambda: len(seen) == 5)
        assert seen == [0, 1, 2, 3, 4]

    def test_a_callback_on_an_ended_job_that_raises_is_logged_as_well(self, caplog):
        job = declared.echo.submit(1)
        job.result(10)
        job.add_done_callback(lambda _: 1 / 0)
        assert "ZeroDivisionError" in caplog.text

    def test_a_callback_that_raises_is_logged_and_the_others_run(self, caplog):
        seen: list[shmq.Job] = []
        job = declared.nap.submit(0.05)
        job.add_done_callback(lambda _: 1 / 0)
        job.add_done_callback(seen.append)
        until(lambda: seen)
        assert "ZeroDivisionError" in caplog.text
        assert job.id in caplog.text

    def test_a_callback_may_submit(self):
        ends = threading.Event()
        values: list[int] = []

        def count(job: shmq.Job) -> None:
            values.append(job.result(0))
            if len(values) < 20:
                declared.echo.submit(len(values)).add_done_callback(count)
            else:
                ends.set()

        declared.echo.submit(0).add_done_callback(count)
        assert ends.wait(20)
        assert values == list(range(20))

    def test_a_thousand_callbacks_all_run(self):
        seen: list[int] = []
        for i in range(1_000):
            declared.echo.submit(i).add_done_callback(lambda job: seen.append(job.result(0)))
        until(lambda: len(seen) == 1_000)
        assert sorted(seen) == list(range(1_000))

    def test_a_callback_is_rung_for_after_the_row_had_other_holders(self, monkeypatch):
        monkeypatch.setattr("shmq.client.results.poller.RESCUE_S", 300.0)  # no look without a ring
        for _ in range(3):
            shmq.close()
            seen: list[float] = []
            declared.nap.submit(0.05).add_done_callback(lambda job, seen=seen: seen.append(job.result(0)))
            until(lambda seen=seen: seen == [0.05])

    def test_cancelling_calls_back(self, parked):
        seen: list[str] = []
        job = declared.parked.submit(1)
        job.add_done_callback(lambda job: seen.append(job.state))
        assert job.cancel()
        until(lambda: seen == ["cancelled"])

    def test_a_job_with_callback_whose_handle_is_dropped_still_calls_back(self):
        seen: list[int] = []
        declared.echo.submit(7).add_done_callback(lambda job: seen.append(job.result(0)))
        gc.collect()
        until(lambda: seen == [7])


@pytest.mark.parametrize("order", [1, -1])
def test_results_read_one_after_the_other_come_out_together_each_as_its_own(service, parked, order):
    client, cut_off = shmq.connect(service.namespace), JobCancelled.__name__  # a new one: neighbours in its row

    def submit(i: int) -> tuple[shmq.Job, object]:
        if i % 7 == 3:
            return client.submit(declared.fail_as.options(group=parked), "KeyError", i), KeyError.__name__
        if i % 7 == 5:
            return client.submit(declared.echo.options(group=parked), bytes(50_000 + i)), bytes(50_000 + i)
        job = client.submit(declared.echo.options(group=parked), i)
        return (job, cut_off) if i % 11 == 8 and job.cancel() else (job, i)

    def end(job: shmq.Job) -> object:
        try:
            return job.result(10)
        except (KeyError, JobCancelled) as error:
            return type(error).__name__

    pairs = [submit(i) for i in range(60)][::order]
    service.control("resume", group=parked)
    until(lambda: all(job.state in {"done", "failed", "cancelled"} for job, _ in pairs))
    free = len(client._free)
    assert [end(job) for job, _ in pairs] == [expected for _, expected in pairs]
    assert len(client._free) == free + sum(expected != cut_off for _, expected in pairs)
    client.close()


def test_whoever_reads_in_order_takes_many_results_at_once_wherever_their_slots_are(service, parked):
    client, task = shmq.connect(service.namespace), declared.echo.options(group=parked)
    for stride in (1, 7, 5):
        service.control("pause", group=parked)
        jobs = [client.submit(task, i) for i in range(SLOTS)]
        service.control("resume", group=parked)
        until(lambda jobs=jobs: all(job.state == "done" for job in jobs))
        taken_by_itself = 0
        for i, job in enumerate(jobs):
            taken_by_itself += job._state == PENDING  # else it had left its slot with one before it
            assert job.result(10) == i
        assert taken_by_itself == SLOTS // AT_ONCE
        assert len(client._free) == SLOTS
        client._free.sort(key=lambda slot, stride=stride: slot * stride % SLOTS)
    client.close()


def test_who_was_about_to_take_a_result_when_the_row_was_given_back_takes_nothing_of_the_next_holder(service):
    former = shmq.connect(service.namespace)
    job = former.submit(declared.echo, "former")
    until(lambda: job.state == "done")
    collect, row = job._origin.collect, former._row.index
    former.close()
    client = shmq.connect(service.namespace)
    assert client._row.index == row
    jobs = [client.submit(declared.echo, i) for i in range(SLOTS)]
    until(lambda: all(job.state == "done" for job in jobs))
    assert collect(job)  # it has ended: with an error
    with pytest.raises(ShmqError, match="before a fork or before the client was closed"):
        job.result(0)
    assert [job.result(10) for job in jobs] == list(range(SLOTS))
    client.close()


@pytest.mark.parametrize("read", ["result", "exception", "cancelled"])
def test_an_exception_that_was_raised_keeps_no_handles_alive(client, read):
    """Else traceback, frame and handle keep each other, and all handles and arrays of the frame, until gc comes by."""

    def round_trip() -> weakref.ref[object]:
        jobs = [declared.doubled.submit(np.ones(40_000)), declared.fail_as.submit("ValueError", "x")]
        jobs += [declared.echo.options(delay=3600).submit(1)]
        jobs[2].cancel()
        jobs[0].result(10)
        for job in (jobs[2],) if read == "cancelled" else (jobs[1],):
            try:
                assert isinstance(job.exception(10) if read == "exception" else job.result(10), ValueError)
            except (ValueError, JobCancelled):
                assert read != "exception"
        return weakref.ref(jobs[0])

    gc.collect()
    gc.disable()
    try:
        assert round_trip()() is None
    finally:
        gc.enable()
