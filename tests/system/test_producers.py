"""Producers as processes: threads share a client, forked children get their own, rows run out and come back."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import shmq
from shmq.errors import ShmqError, SystemRefused, TooManyProducers
from shmq.memory import doorbell
from shmq.memory.doorbell import SemaphoreBell, new_name
from shmq.memory.layout import PRODUCER, PRODUCER_WORDS
from tests.client import declared
from tests.live import in_child, until

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("client")
class TestThreads:
    def test_threads_share_a_client_and_get_their_own_results(self):
        wrong: list[object] = []

        def work(base: int) -> None:
            for i in range(300):
                value = declared.echo.submit(base + i).result(30)
                if value != base + i:
                    wrong.append((base + i, value))

        threads = [threading.Thread(target=work, args=(1_000_000 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_threads_submit_in_bulk_and_read_each_others_results(self):
        jobs: list[list[shmq.Job]] = [[] for _ in range(4)]

        def submit(n: int) -> None:
            jobs[n] = [declared.echo.submit((n, i)) for i in range(1_000)]

        threads = [threading.Thread(target=submit, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n in range(4):
            assert [job.result(30) for job in jobs[n]] == [[n, i] for i in range(1_000)]

    def test_one_job_is_waited_for_by_many_threads(self, tmp_path):
        job = declared.wait_for_file.submit(str(tmp_path / "go"))
        seen: list[bool] = []
        threads = [threading.Thread(target=lambda: seen.append(job.result(30))) for _ in range(8)]
        for thread in threads:
            thread.start()
        (tmp_path / "go").touch()
        for thread in threads:
            thread.join()
        assert seen == [True] * 8

    def test_closing_the_client_ends_the_waits_of_its_threads(self, service, tmp_path):
        client, ends = shmq.connect(service.namespace), []

        def wait(job: shmq.Job) -> None:
            try:
                job.result(30)
            except ShmqError as error:
                ends.append(str(error))

        slow = client.submit(declared.wait_for_file, str(tmp_path / "go"))
        threads = [threading.Thread(target=wait, args=(slow,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        row = service.segment.rows("producer_rows")[client._row.index]
        until(lambda: row[PRODUCER["waiting"]], "one of them sleeps on the bell")
        client.close()
        for thread in threads:
            thread.join()
        assert len(ends) == 4
        assert all("closed" in end for end in ends)
        (tmp_path / "go").touch()

    def test_a_bell_whose_name_was_removed_before_the_first_wait_still_rings(self):
        bell = SemaphoreBell(new_name("shmq-test-bell"), create=True)
        bell.unlink()
        bell.notify()
        assert bell.wait(30)
        assert not bell.wait(0.01)
        bell.close()

    def test_a_waiting_thread_does_not_keep_others_from_their_results(self, tmp_path):
        slow = declared.wait_for_file.submit(str(tmp_path / "go"))
        waiter = threading.Thread(target=slow.result, args=(30,))
        waiter.start()
        assert [declared.echo.submit(i).result(30) for i in range(200)] == list(range(200))
        (tmp_path / "go").touch()
        waiter.join()

    def test_a_thread_that_gives_up_waiting_leaves_the_others_to_their_turn(self, tmp_path):
        slow = declared.wait_for_file.submit(str(tmp_path / "go"))
        late: list[object] = []

        def give_up() -> None:
            try:
                slow.result(0.05)
            except TimeoutError as error:
                late.append(error)

        threads = [threading.Thread(target=give_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert declared.echo.submit(1).result(30) == 1
        for thread in threads:
            thread.join()
        assert len(late) == 4
        (tmp_path / "go").touch()
        assert slow.result(30)


class TestFork:
    def test_a_child_gets_a_row_of_its_own(self, client):
        def work() -> None:
            assert [declared.echo.submit(i).result(30) for i in range(300)] == list(range(300))
            shmq.close()

        before = [declared.echo.submit(i) for i in range(50)]
        assert in_child(work) == 0
        assert [job.result(30) for job in before] == list(range(50))
        assert declared.echo.submit("after").result(30) == "after"

    def test_handles_of_the_parent_are_refused_in_the_child(self, client, tmp_path):
        running = declared.wait_for_file.submit(str(tmp_path / "go"))
        ended = declared.echo.submit(1)
        read = declared.echo.submit(2)
        assert read.result(30) == 2
        until(lambda: client._words[ended._slot] & 15 >= 6)

        def work() -> None:
            for _ in range(2):  # before the child's own first submit, and after it
                for job in (running, ended):
                    with pytest.raises(ShmqError, match="before a fork"):
                        job.result(5)
                    assert isinstance(job.exception(5), ShmqError)
                    assert not job.cancel(kill=True)
                assert read.result() == 2
                assert declared.echo.submit(3).result(30) == 3
            shmq.close()

        assert in_child(work) == 0
        assert ended.result(30) == 1
        (tmp_path / "go").touch()
        assert running.result(30) is True

    def test_a_child_forked_while_threads_submit_works(self, client):
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                declared.echo.submit(1).result(30)

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(5):
                assert in_child(lambda: _submit_and_close(7)) == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def test_a_submit_kept_from_before_the_fork_does_not_wait_for_the_parents_lock(self, client):
        submit, is_held, is_over = declared.echo.submit, threading.Event(), threading.Event()
        assert submit(1).result(30) == 1
        submit = declared.echo.submit  # the hot path itself by now

        def hold() -> None:
            with client._lock:
                is_held.set()
                is_over.wait(30)

        def work() -> None:
            signal.alarm(20)  # instead of waiting for ever
            assert submit(2).result(30) == 2
            shmq.close()

        thread = threading.Thread(target=hold)
        thread.start()
        is_held.wait(30)
        try:
            assert in_child(work) == 0
        finally:
            is_over.set()
            thread.join()

    def test_a_child_of_a_parent_with_callbacks_runs_its_own(self, client):
        seen: list[int] = []
        declared.echo.submit(1).add_done_callback(lambda job: seen.append(job.result()))
        until(lambda: seen == [1])

        def work() -> None:
            mine: list[int] = []
            declared.nap.submit(0.01).add_done_callback(lambda job: mine.append(job.result()))
            until(lambda: mine == [0.01])
            shmq.close()

        assert in_child(work) == 0
        declared.echo.submit(2).add_done_callback(lambda job: seen.append(job.result()))
        until(lambda: seen == [1, 2])

    def test_a_child_that_dies_leaves_its_row_to_the_next(self, client, service):
        for i in range(10):  # more children than rows

            def work(i: int = i) -> None:
                assert declared.echo.submit(i).result(30) == i
                declared.echo.submit("unread")
                os.kill(os.getpid(), signal.SIGKILL)

            pid = os.fork()
            if pid == 0:
                try:
                    work()
                finally:
                    os._exit(9)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert declared.echo.submit(1).result(30) == 1


def _submit_and_close(value: int) -> None:
    assert declared.echo.submit(value).result(30) == value
    shmq.close()


class TestRows:
    def test_one_producer_more_than_rows_is_refused_with_the_number(self, service):
        clients: list[shmq.Client] = []
        try:
            with pytest.raises(TooManyProducers, match="all 6 producer rows") as caught:
                clients.extend(shmq.connect(service.namespace) for _ in range(7))
            assert "max_producers" in str(caught.value)
        finally:
            for client in clients:
                client.close()
        with shmq.connect(service.namespace) as client:
            assert client.submit(declared.echo, 1).result(30) == 1

    def test_rows_come_back_as_often_as_wished(self, service):
        for i in range(60):
            with shmq.connect(service.namespace) as client:
                assert client.submit(declared.echo, i).result(30) == i

    def test_jobs_of_a_closed_client_still_run(self, service, tmp_path):
        with shmq.connect(service.namespace) as client:
            for i in range(100):
                client.submit(declared.touch, str(tmp_path / str(i)))
        until(lambda: len(list(tmp_path.iterdir())) == 100)

    def test_results_that_a_former_holder_left_are_not_the_new_ones(self, service):
        with shmq.connect(service.namespace) as client:
            for i in range(200):
                client.submit(declared.echo, -i)
        with shmq.connect(service.namespace) as client:
            assert [client.submit(declared.echo, i).result(30) for i in range(500)] == list(range(500))

    def test_a_script_that_ends_without_close_leaves_nothing(self, service):
        script = (
            "import shmq\n"
            "from tests.client import declared\n"
            "jobs = [declared.echo.submit(i) for i in range(100)]\n"
            "jobs[0].add_done_callback(repr)\n"  # not print: it would write between the two writes of the other
            "print(sum(job.result(30) for job in jobs))\n"
        )
        for _ in range(3):
            run = subprocess.run(
                [sys.executable, "-W", "error", "-c", script],
                env={**os.environ, "SHMQ_NAMESPACE": service.namespace, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
            )
            assert "4950" in run.stdout, run.stderr  # the callback may print within the same line
            assert run.stderr == ""
            assert run.returncode == 0


def test_a_full_dev_shm_is_told_and_takes_no_row(service, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(doorbell.posix_ipc, "Semaphore", full)
        for _ in range(20):  # more often than there are rows
            with pytest.raises(SystemRefused, match="No space left on device"):
                shmq.connect(service.namespace)
    with shmq.connect(service.namespace) as client:
        assert client.submit(declared.echo, 1).result(10) == 1
        rows = service.segment.view("producer_rows").tolist()
        assert rows[PRODUCER["pid"] :: PRODUCER_WORDS].count(os.getpid()) == 1
