"""Event loops: awaiting handles, submitting without blocking the loop; and concurrent.futures' Executor."""

from __future__ import annotations

import asyncio
import concurrent.futures

import pytest

import shmq
from shmq.errors import BadArguments, JobCancelled, QueueFull
from tests.client import declared
from tests.client.conftest import SLOTS
from tests.live import until

pytestmark = pytest.mark.usefixtures("client")


class TestAwait:
    def test_a_job_is_awaited_for_its_result(self):
        async def main() -> int:
            return await declared.echo.submit(5)

        assert asyncio.run(main()) == 5

    def test_awaiting_raises_what_the_task_raised(self):
        async def main() -> None:
            await declared.fail_as.submit("KeyError", "k")

        with pytest.raises(KeyError):
            asyncio.run(main())

    def test_a_job_is_awaited_twice_and_by_many(self):
        async def main() -> list[int]:
            job = declared.nap.submit(0.05)

            async def one() -> float:
                return await job

            assert await asyncio.gather(*[one() for _ in range(10)]) == [0.05] * 10
            return [await job, await job]

        assert asyncio.run(main()) == [0.05, 0.05]

    def test_many_jobs_are_awaited_at_once(self):
        async def main() -> list[int]:
            async def one(i: int) -> int:
                job = await declared.echo.asubmit(i)
                return await job

            return await asyncio.gather(*[one(i) for i in range(20 * SLOTS)])

        assert asyncio.run(main()) == list(range(20 * SLOTS))

    def test_the_loop_goes_on_while_a_job_is_awaited(self, tmp_path):
        async def main() -> bool:
            job = declared.wait_for_file.submit(str(tmp_path / "go"))

            async def open_gate() -> None:
                await asyncio.sleep(0.02)
                (tmp_path / "go").touch()

            result, _ = await asyncio.gather(_awaited(job), open_gate())
            return result

        assert asyncio.run(main()) is True

    def test_a_wait_that_is_given_up_leaves_the_job_alone(self, tmp_path):
        async def main() -> bool:
            job = declared.wait_for_file.submit(str(tmp_path / "go"))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_awaited(job), 0.05)
            (tmp_path / "go").touch()
            return await job

        assert asyncio.run(main()) is True

    def test_a_loop_after_another_works(self):
        async def main(i: int) -> int:
            return await declared.echo.submit(i)

        assert [asyncio.run(main(i)) for i in range(5)] == list(range(5))

    def test_awaiting_a_cancelled_job_raises_job_cancelled(self, service):
        async def main() -> None:
            job = declared.echo.options(delay=60.0).submit(1)
            asyncio.get_running_loop().call_later(0.02, job.cancel)
            await job

        with pytest.raises(JobCancelled):
            asyncio.run(main())


class TestSubmit:
    def test_a_full_queue_never_blocks_the_loop(self, service):
        service.control("pause", group="parked")
        try:

            async def main() -> str:
                kept = [await declared.parked.asubmit(i) for i in range(SLOTS)]
                waiting = asyncio.ensure_future(declared.parked.asubmit("late"))
                turns = 0
                while turns < 50:
                    await asyncio.sleep(0.001)
                    turns += 1
                assert not waiting.done()
                service.control("resume", group="parked")
                job = await waiting
                assert [await job for job in kept] == list(range(SLOTS))
                return await job

            assert asyncio.run(main()) == "late"
        finally:
            service.control("resume", group="parked")

    def test_a_full_queue_is_an_error_when_its_time_is_up(self, service):
        service.control("pause", group="parked")
        try:

            async def main() -> None:
                for i in range(SLOTS + 1):
                    await declared.parked.options(block=0.05).asubmit(i)

            with pytest.raises(QueueFull, match="'parked'"):
                asyncio.run(main())
        finally:
            service.control("resume", group="parked")

    def test_names_and_clients_submit_too(self, client):
        async def main() -> list[object]:
            named = await client.asubmit("tests.client.declared.echo", 1)
            plain = await client.asubmit(declared.echo, 2)
            return [await named, await plain]

        assert asyncio.run(main()) == [1, 2]


class TestExecutor:
    def test_futures_get_results_and_errors(self):
        with shmq.Executor() as executor:
            good = executor.submit(declared.echo, 1)
            bad = executor.submit(declared.fail_as, "KeyError", "k")
            assert good.result(10) == 1
            assert isinstance(bad.exception(10), KeyError)

    def test_map_works_in_order(self):
        with shmq.Executor() as executor:
            assert list(executor.map(declared.echo, range(200))) == list(range(200))

    def test_wait_and_as_completed_work(self):
        with shmq.Executor() as executor:
            futures = [executor.submit(declared.echo, i) for i in range(50)]
            assert sorted(f.result() for f in concurrent.futures.as_completed(futures, 20)) == list(range(50))
            assert not concurrent.futures.wait(futures, 10).not_done

    def test_a_plain_function_is_refused(self):
        with shmq.Executor() as executor, pytest.raises(BadArguments, match=r"@shmq\.task"):
            executor.submit(len, [])

    def test_after_shutdown_nothing_is_taken(self):
        executor = shmq.Executor()
        executor.shutdown()
        executor.shutdown()
        with pytest.raises(RuntimeError, match="shutdown"):
            executor.submit(declared.echo, 1)

    def test_leaving_waits_for_what_runs(self):
        with shmq.Executor() as executor:
            future = executor.submit(declared.nap, 0.1)
        assert future.done()

    def test_a_waiting_future_is_cancelled_with_its_job(self, service, tmp_path):
        service.control("pause", group="parked")
        with shmq.Executor() as executor:
            future = executor.submit(declared.touch.options(group="parked"), str(tmp_path / "never"))
            assert future.cancel()
            assert future.cancelled()
            service.control("resume", group="parked")
            assert declared.parked.submit(1).result(10) == 1
        assert not (tmp_path / "never").exists()

    def test_shutdown_cancels_what_has_not_started(self, service):
        service.control("pause", group="parked")
        executor = shmq.Executor()
        futures = [executor.submit(declared.parked, i) for i in range(10)]
        executor.shutdown(cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        service.control("resume", group="parked")

    def test_a_future_of_a_running_job_is_not_cancelled(self, tmp_path):
        with shmq.Executor() as executor:
            future = executor.submit(declared.wait_for_file, str(tmp_path / "go"))
            until(lambda: future._job.state == "running")
            assert not future.cancel()
            assert future.result(10) is False

    def test_asyncio_runs_tasks_in_the_executor(self):
        async def main() -> int:
            with shmq.Executor() as executor:
                return await asyncio.get_running_loop().run_in_executor(executor, declared.echo, 3)

        assert asyncio.run(main()) == 3


async def _awaited(job: shmq.Job) -> object:
    return await job
