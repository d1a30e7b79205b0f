from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq.planner.staffing import (
    Delay,
    Goal,
    Grant,
    Host,
    Load,
    Need,
    allocate,
    miss_probability,
    rate_error,
    servers_for_backlog,
    servers_needed,
    workers_needed,
)

ARRIVALS = 1_000_000
GOAL = Goal(target_wait_s=0.2, miss_ratio=0.05)


def simulated_waits(servers, load, service, seed=1):
    """Waits of Poisson arrivals at `servers`, first come first served; `service`: a time per arrival."""
    rng = np.random.default_rng(seed)
    arrives = np.cumsum(rng.exponential(1 / load, len(service))).tolist()
    free = [0.0] * servers
    waits = []
    for at, takes in zip(arrives, service.tolist(), strict=True):
        starts = max(free[0], at)
        heapq.heapreplace(free, starts + takes)
        waits.append(starts - at)
    return np.array(waits)


@pytest.mark.parametrize(("servers", "load"), [(2, 1.2), (16, 12.0)])
def test_the_delay_is_what_a_queue_does(servers, load):
    service = np.random.default_rng(2).exponential(1.0, ARRIVALS)
    waits = simulated_waits(servers, load, service)
    assert Delay(load).probability(servers) == pytest.approx((waits > 0).mean(), rel=0.03)
    late = miss_probability(servers, Load(load, 1.0), 0.2)
    assert late == pytest.approx((waits > 0.2).mean(), rel=0.03)


def test_the_unit_of_time_does_not_matter():
    seconds, minutes = Load(12.0, 1.0, 2.0, error=0.1), Load(12.0 / 60, 60.0, 2.0, error=0.1)
    assert miss_probability(16, seconds, 0.2) == pytest.approx(miss_probability(16, minutes, 12.0))
    assert workers_needed(seconds, Goal(0.2, 0.05)) == workers_needed(minutes, Goal(12.0, 0.05))


@pytest.mark.parametrize("cv2", [0.25, 4.0])
def test_spread_of_service_times_is_allowed_for(cv2):
    rng = np.random.default_rng(3)
    sigma = math.sqrt(math.log(1 + cv2))
    service = rng.lognormal(-sigma * sigma / 2, sigma, 300_000)
    waits = simulated_waits(8, 6.4, service)
    mean = Delay(6.4).probability(8) / (8 - 6.4) * (1 + cv2) / 2
    assert mean == pytest.approx(waits.mean(), rel=0.2)
    # Allen and Cunneen correct the mean wait; its tail is taken as exponential, near enough to staff by.
    assert miss_probability(8, Load(6.4, 1.0, cv2), 1.0) == pytest.approx((waits > 1.0).mean(), rel=0.35)


def test_known_values():
    assert Delay(0.5).probability(1) == pytest.approx(0.5)  # M/M/1: the load
    assert Delay(1.0).probability(2) == pytest.approx(1 / 3)
    assert Delay(0.0).probability(3) == 0.0
    assert Delay(3.0).probability(3) == Delay(30.0).probability(3) == 1.0


@pytest.mark.parametrize("load", [1e3, 1e5])
def test_many_servers_are_no_trouble(load):
    waits = Delay(load).probability(round(load + math.sqrt(load)))
    assert waits == pytest.approx(0.2234, abs=0.02)  # Halfin and Whitt's limit for beta = 1
    needed = servers_needed(Load(load, 1.0), Goal(0.001, 0.05))
    assert load < needed < load + 4 * math.sqrt(load)


def test_it_is_the_fewest_that_do():
    for rate in (0.3, 2.0, 17.0, 90.0):
        for error in (0.0, 0.2):
            load = Load(rate, 0.5, 1.5, error=error)
            needed = servers_needed(load, GOAL)
            assert miss_probability(needed, load, GOAL.target_wait_s) <= GOAL.miss_ratio
            assert miss_probability(needed - 1, load, GOAL.target_wait_s) > GOAL.miss_ratio


rates = st.floats(0.001, 200)
services = st.floats(0.001, 5)
factors = st.floats(1, 3)
spreads = st.floats(0, 4)
loads = st.builds(Load, rates, services, spreads, spreads, st.floats(0, 1.5), st.integers(0, 50))
goals = st.builds(Goal, st.floats(0, 3), st.floats(0.001, 0.3))


def scaled(load, **changes):
    return Load(**{**vars(load), **changes})


@settings(max_examples=150, deadline=None)
@given(loads, goals, factors)
def test_more_load_never_needs_fewer(load, goal, factor):
    more = scaled(load, rate_per_s=load.rate_per_s * factor)
    assert workers_needed(more, goal, most=2000) >= workers_needed(load, goal, most=2000)


@settings(max_examples=150, deadline=None)
@given(loads, goals, factors)
def test_longer_jobs_never_need_fewer(load, goal, factor):
    longer = scaled(load, service_s=load.service_s * factor)
    assert workers_needed(longer, goal, most=2000) >= workers_needed(load, goal, most=2000)


@settings(max_examples=150, deadline=None)
@given(loads, goals, factors)
def test_a_softer_goal_never_needs_more(load, goal, factor):
    softer = Goal(goal.target_wait_s * factor, goal.miss_ratio * factor)
    assert workers_needed(load, softer, most=2000) <= workers_needed(load, goal, most=2000)


@settings(max_examples=100, deadline=None)
@given(loads, goals, st.integers(1, 16), st.integers(1, 100))
def test_the_bound_is_kept_and_concurrency_saves_workers(load, goal, concurrency, most):
    workers = workers_needed(load, goal, concurrency=concurrency, most=most)
    assert 0 <= workers <= most
    assert workers <= workers_needed(load, goal, most=most)


def test_a_doubtful_forecast_needs_more():
    sure = servers_needed(Load(50, 0.2), GOAL)
    doubtful = servers_needed(Load(50, 0.2, error=0.3), GOAL)
    assert doubtful >= sure + 3


def test_no_load_needs_nobody():
    assert workers_needed(Load(0.0, 1.0), GOAL) == 0
    assert workers_needed(Load(5.0, 0.0), GOAL) == 0


def test_the_backlog_is_started_within_the_target():
    # Jobs of 10 s, a target of 0.2 s: nobody becomes free in time, each waiting job needs its worker.
    assert servers_for_backlog(Load(0, 10.0, waiting=5, running=3), 0.2) == 8
    # Jobs of 10 ms: a worker starts 20 of them in time.
    assert servers_for_backlog(Load(0, 0.01, waiting=100), 0.2) == 5
    assert workers_needed(Load(0.1, 0.01, waiting=100), GOAL) == 5
    assert servers_for_backlog(Load(9, 1.0, waiting=0, running=7), 0.2) == 0


def test_the_error_of_a_rate_is_what_exceeds_chance():
    mean, sd = 100.0, 10.0
    assert rate_error(mean, mean - 1.6449 * sd, mean + 1.6449 * sd) < 0.01  # Poisson
    assert rate_error(mean, mean - 1.6449 * 30, mean + 1.6449 * 30) == pytest.approx(0.283, abs=0.01)
    assert rate_error(0.0, 0.0, 5.0) == 0.0


def test_there_is_room_for_all():
    needs = [Need("a", 3, 1, 8), Need("b", 2, 1, 8, kind="io")]
    assert allocate(needs, Host(cores=4)) == {"a": Grant(3), "b": Grant(2)}


def test_importance_decides_who_gets_a_core():
    needs = [Need("low", 4, 1, 8, importance=1), Need("high", 4, 1, 8, importance=5)]
    granted = allocate(needs, Host(cores=5))
    assert granted["high"] == Grant(4)
    assert granted["low"] == Grant(1, "no core left")


def test_peers_share_by_what_they_want():
    granted = allocate([Need("a", 8, 0, 8), Need("b", 4, 0, 8)], Host(cores=6))
    assert (granted["a"].workers, granted["b"].workers) == (4, 2)


def test_io_needs_no_core_but_memory():
    need = Need("net", 32, 1, 64, kind="io", worker_memory_bytes=100)
    assert allocate([need], Host(cores=1))["net"].workers == 32
    short = allocate([need], Host(cores=1, memory_bytes=1050))["net"]
    assert short == Grant(10, "memory: a worker takes 100 bytes, 50 left")


def test_what_the_user_asks_for_at_least_is_kept_on_any_host():
    granted = allocate([Need("a", 4, 3, 8), Need("b", 1, 1, 8)], Host(cores=1, memory_bytes=0, worker_rows=1))
    assert (granted["a"].workers, granted["b"].workers) == (3, 1)


def test_max_workers_is_a_limit_with_a_name():
    assert allocate([Need("a", 9, 1, 4)], Host(cores=16))["a"] == Grant(4, "max_workers = 4")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 3), st.sampled_from(["cpu", "io"]), st.integers(1, 5)),
        max_size=6,
    ),
    st.integers(1, 16),
    st.integers(0, 30),
)
def test_no_more_is_granted_than_there_is(rows, cores, worker_rows):
    needs = [Need(f"g{i}", w, least, 20, kind, imp) for i, (w, least, kind, imp) in enumerate(rows)]
    granted = allocate(needs, Host(cores, worker_rows=worker_rows))
    least = sum(need.least for need in needs)
    assert sum(grant.workers for grant in granted.values()) <= max(worker_rows, least)
    on_cores = sum(granted[n.group].workers for n in needs if n.kind == "cpu")
    assert on_cores <= max(cores, sum(n.least for n in needs if n.kind == "cpu"))
    for need in needs:
        assert need.least <= granted[need.group].workers <= max(need.least, min(need.wanted, need.most))
