"""Delay, eta, expires: jobs that are due later, or not at all."""

from __future__ import annotations

import time

import pytest

from shmq.errors import JobExpired
from tests.client import declared
from tests.live import until

pytestmark = pytest.mark.usefixtures("client")


def test_a_delayed_job_does_not_start_before_its_time():
    before = time.monotonic()
    assert declared.when.options(delay=0.2).submit().result(30) >= before + 0.2


def test_eta_is_wall_clock_time():
    job = declared.when.options(eta=time.time() + 0.2).submit()
    before = time.monotonic()
    assert job.state == "scheduled"
    assert job.result(30) >= before + 0.15


def test_an_eta_in_the_past_means_now():
    assert declared.echo.options(eta=time.time() - 1e6).submit(1).result(30) == 1
    assert declared.echo.options(eta=0).submit(1).result(30) == 1


def test_delayed_jobs_start_in_the_order_of_their_times():
    jobs = {delay: declared.when.options(delay=delay, group="single").submit() for delay in (0.3, 0.1, 0.2, 0.4)}
    started = {delay: job.result(30) for delay, job in jobs.items()}
    assert sorted(started, key=started.__getitem__) == [0.1, 0.2, 0.3, 0.4]


def test_many_delayed_jobs_all_run():
    jobs = [declared.echo.options(delay=0.001 * (i % 50)).submit(i) for i in range(200)]
    assert [job.result(30) for job in jobs] == list(range(200))


def test_a_delayed_job_with_a_large_argument_runs():
    assert declared.length.options(delay=0.05).submit(b"x" * 100_000).result(30) == 100_000


def test_a_job_not_started_in_time_expires(service, tmp_path):
    service.control("pause", group="single")
    try:
        job = declared.touch.options(group="single", expires=0.05).submit(str(tmp_path / "never"))
        started = time.monotonic()
        until(lambda: time.monotonic() > started + 0.1)
    finally:
        service.control("resume", group="single")
    with pytest.raises(JobExpired, match="expired"):
        job.result(30)
    assert not (tmp_path / "never").exists()


def test_a_job_started_in_time_does_not_expire():
    assert declared.nap.options(expires=20.0).submit(0.05).result(30) == 0.05
