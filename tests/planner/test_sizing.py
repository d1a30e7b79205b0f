from __future__ import annotations

from shmq.config.model import Group
from shmq.memory.layout import FIELD
from shmq.planner.group import Observed
from shmq.planner.sizing import Sizing


def steps(sizing, seconds, throughput, waiting=9):
    """Let the group run with what `sizing` says; the settings it went through."""
    settings = []
    for _ in range(int(seconds / 0.5)):
        settings.append((sizing.concurrency, sizing.max_workers))
        done = 0.5 * throughput(*settings[-1])
        seen = Observed(now_s=0.0, arrivals=done, departures=done, waiting=waiting, service_s=0.1)
        sizing.observe(seen, 0.5, settings[-1][1])
    return settings


def test_a_fixed_group_stays_as_it_is_configured():
    sizing = Sizing(Group(max_workers=5, concurrency=3), cores=2, worker_rows=16)
    assert set(steps(sizing, 100, lambda c, w: c * w)) == {(3, 5)}
    assert sizing.reason == ""


def test_workers_rise_to_where_the_throughput_stops_and_rest_there():
    sizing = Sizing(Group(max_workers="auto"), cores=2, worker_rows=64)
    seen = steps(sizing, 400, lambda c, w: 100.0 * min(w, 10))
    assert {workers for _, workers in seen[-20:]} <= {9, 10, 11, 12, 13, 14}
    assert len(set(seen[-100:])) == 1
    assert "max_workers" in sizing.reason


def test_a_group_that_needs_its_cores_does_not_grow_past_them():
    sizing = Sizing(Group(max_workers="auto"), cores=4, worker_rows=64)
    assert steps(sizing, 200, lambda c, w: 100.0 * min(w, 4))[-1][1] == 4


def test_concurrency_rests_before_the_workers_climb():
    sizing = Sizing(Group(max_workers="auto", concurrency="auto"), cores=2, worker_rows=8)
    seen = steps(sizing, 400, lambda c, w: 10.0 * w * min(c, 40))
    first_wider = next(i for i, (_, workers) in enumerate(seen) if workers != 2)
    assert 25 <= seen[first_wider][0] <= 60
    assert seen[-1][1] == 8


def test_a_planner_that_starts_anew_goes_on_from_what_the_one_before_found():
    auto = Group(max_workers="auto", concurrency="auto")
    sizing = Sizing(auto, cores=2, worker_rows=64, found_workers=17, found_concurrency=48)
    assert (sizing.concurrency, sizing.max_workers) == (48, 21)  # the rung that has room for all
    assert Sizing(auto, cores=2, worker_rows=16, found_workers=17).max_workers == 16
    assert Sizing(auto, cores=4, worker_rows=64, found_workers=1).max_workers == 4


def test_what_was_found_fits_the_segment_beside_the_policys_reason():
    sizing = Sizing(Group(max_workers="auto", concurrency="auto"), cores=2, worker_rows=1000)
    longest = 0
    for _ in range(100):
        steps(sizing, 30, lambda c, w: 1234.5678 * w * min(c, 200) ** 0.7)
        longest = max(longest, len(sizing.reason))
    assert sizing.concurrency > 100
    policy = "1000: needs 999, but one worker less has to last 14400 s, more not so long; "
    assert len(policy) + longest < FIELD["group_reason"].dims[-1]


def test_without_waiting_jobs_nothing_is_measured():
    sizing = Sizing(Group(max_workers="auto", concurrency="auto"), cores=2, worker_rows=8)
    assert len(set(steps(sizing, 100, lambda c, w: 5.0, waiting=0))) == 1
