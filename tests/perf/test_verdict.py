from __future__ import annotations

import msgspec
import pytest

from perf.results import FORMAT, Check, Entry, Machine, Outcome, Run, Spread
from perf.verdict import Target, below_margin, compare, judge, mark

SUBJECT = Entry("shmq", "subject", {"per_s": [300.0, 330.0], "p50_s": [60e-6, 66e-6]})
PEER = Entry("Pool", "peer", {"per_s": [30.0, 30.0], "p50_s": [80e-6, 80e-6]})


def a_check(ratio: float, at_least: float = 10.0, better: str = "higher", unit: str = "×") -> Check:
    spread = Spread(ratio, ratio, ratio)
    return Check("echo", "per_s", "Pool", better, at_least, at_least * 2, unit, spread)  # type: ignore[arg-type]


def a_run(*checks: Check, yardstick: float = 1e6) -> Run:
    machine = Machine("cpu", 2, "6.1", "CPython 3.11", 1 << 30, {}, 0.1)
    return Run(FORMAT, "", False, yardstick, machine, [Outcome("echo", "echo", [], list(checks), {})])


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    check = judge(Target("echo", "per_s", 10, 25, against="Pool"), [SUBJECT, PEER], {})
    assert check.ratio is not None
    assert check.ratio.median == pytest.approx(10.5)
    assert mark(check) == "pass"


def test_scale_multiplies_the_counterpart() -> None:
    check = judge(Target("cpu", "per_s", 5, 6, against="Pool", scale=2.0), [SUBJECT, PEER], {})
    assert check.ratio is not None
    assert check.ratio.median == pytest.approx(5.25)


def test_without_counterpart_the_figure_itself_is_judged() -> None:
    check = judge(Target("start", "p50_s", 70e-6, 65e-6, "lower", unit="s"), [SUBJECT], {})
    assert check.ratio is not None
    assert check.ratio.median == pytest.approx(63e-6)
    assert mark(check) == "aim"


@pytest.mark.parametrize(
    ("ratio", "better", "expected"),
    [
        (21, "higher", "aim"),
        (12, "higher", "pass"),
        (9, "higher", "fail"),
        (9, "lower", "aim"),
        (30, "lower", "fail"),
    ],
)
def test_marks_follow_the_direction(ratio: float, better: str, expected: str) -> None:
    aim = 20.0 if better == "higher" else 9.5
    assert mark(msgspec.structs.replace(a_check(ratio, better=better), aim=aim)) == expected


def test_an_absent_peer_skips_the_target_and_is_named_with_its_reason() -> None:
    check = judge(Target("echo", "per_s", 10, 25, against="ray.remote"), [SUBJECT], {"ray.remote": "not installed"})
    assert (mark(check), check.skipped) == ("skipped", "not installed")


def test_an_absent_subject_fails_even_if_the_peer_is_absent_too() -> None:
    check = judge(Target("echo", "per_s", 10, 25, against="ray.remote"), [], {"shmq": "it hangs"})
    assert (mark(check), check.error) == ("fail", "it hangs")


def test_a_metric_that_nobody_measured_fails_with_its_name() -> None:
    check = judge(Target("echo", "p51_s", 10, 25, against="Pool"), [SUBJECT, PEER], {})
    assert mark(check) == "fail"
    assert "p51_s" in check.error


def test_the_gate_lets_pass_what_misses_by_less_than_the_margin() -> None:
    assert not list(below_margin(a_run(a_check(2.6), a_check(39.0, better="lower"))))


def test_the_gate_stops_what_misses_by_more() -> None:
    broken = [check for _, check in below_margin(a_run(a_check(2.4), a_check(41.0, better="lower")))]
    assert [check.ratio.median for check in broken if check.ratio] == [2.4, 41.0]


def test_the_gate_stops_a_subject_that_could_not_be_measured() -> None:
    failed = msgspec.structs.replace(a_check(1.0), ratio=None, error="RuntimeError: it hangs")
    absent = msgspec.structs.replace(a_check(1.0), ratio=None, skipped="not installed")
    assert [check for _, check in below_margin(a_run(failed, absent))] == [failed]


def test_a_ratio_that_fell_is_a_regression() -> None:
    (found,) = compare(a_run(a_check(7.0)), a_run(a_check(10.0)))
    assert found.change == "regression"
    assert found.factor == pytest.approx(0.7)


def test_lower_is_better_turns_the_factor() -> None:
    (found,) = compare(a_run(a_check(2.0, better="lower")), a_run(a_check(1.0, better="lower")))
    assert found.change == "regression"
    assert found.factor == pytest.approx(0.5)


def test_what_lies_within_the_spread_is_no_regression() -> None:
    noisy = msgspec.structs.replace(a_check(7.0), ratio=Spread(7.0, 4.0, 10.0))
    (found,) = compare(a_run(noisy), a_run(a_check(10.0)))
    assert found.change == "same"


def test_an_absolute_time_is_compared_by_the_yardstick_not_by_the_clock() -> None:
    before = a_run(a_check(1.0, better="lower", unit="s"), yardstick=2e6)
    (found,) = compare(a_run(a_check(2.0, better="lower", unit="s"), yardstick=1e6), before)
    assert found.change == "same"
    assert found.factor == pytest.approx(1.0)


def test_ratios_are_left_alone_by_the_yardstick() -> None:
    (found,) = compare(a_run(a_check(10.0), yardstick=1e6), a_run(a_check(10.0), yardstick=2e6))
    assert found.change == "same"
    assert found.factor == pytest.approx(1.0)


def test_checks_that_came_or_went_are_named_so() -> None:
    other = msgspec.structs.replace(a_check(10.0), label="map")
    assert {item.check.label: item.change for item in compare(a_run(other), a_run(a_check(10.0)))} == {
        "map": "new",
        "echo": "gone",
    }


def test_scenarios_that_were_not_run_this_time_are_no_news() -> None:
    before = a_run(a_check(10.0))
    now = msgspec.structs.replace(before, outcomes=[])
    assert compare(now, before) == []


def test_from_nothing_to_something_is_no_division_by_zero() -> None:
    (found,) = compare(a_run(a_check(0.0, better="lower")), a_run(a_check(0.0, better="lower")))
    assert found.change == "same"
