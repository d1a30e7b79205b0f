"""What lies between two measured jobs of a watched batch runs at once, and is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.crash.stage.stage import HELPER, Stage


class Watching:
    """Whoever measures a job now and then: the next one after `unmeasured` others."""

    def __init__(self, unmeasured: int) -> None:
        self.unmeasured = unmeasured
        self.measured = 0

    def around(self, run: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Counts what it is called for."""

        def measured(slot: int, word: int) -> None:
            self.measured += 1
            run(slot, word)

        return measured

    def pass_by(self, jobs: int) -> None:
        """As of `TaskDeltas`."""
        self.unmeasured -= jobs


@pytest.mark.parametrize(("unmeasured", "runs", "left"), [(3, [3, 1, 1], 0), (7, [5], 2), (0, [1] * 5, 0)])
def test_a_batch_of_five(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, unmeasured: int, runs: list[int], left: int
) -> None:
    client, bench = stage.client(), stage.bench(HELPER)
    run_batch, seen = bench.executor.run_batch, []

    def noted(slots: Iterable[int], words: Iterable[int], position: int) -> None:
        run_batch(slots, words, position)
        seen.append(bench.seat.position - position)

    monkeypatch.setattr(bench.executor, "run_batch", noted)
    watching: Any = Watching(unmeasured)
    bench.loop.watching = watching
    for number in range(5):
        stage.send(client, number)
    bench.claimer.service_ns = 1e3
    bench.run_all()
    assert seen == runs
    assert watching.unmeasured == left
    assert watching.measured == sum(runs) - min(unmeasured, 5)
    bench.leave()


def test_what_is_given_back_in_the_middle_is_not_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the timer does it in a slow job."""
    client, bench = stage.client(), stage.bench(HELPER)
    run_batch = bench.executor.run_batch

    def slow_second(slots: Iterable[int], words: Iterable[int], position: int) -> None:
        def until_the_second() -> Iterable[int]:
            for at, slot in enumerate(slots):
                if at == 1:
                    bench.seat.give_back_rest()
                yield slot

        run_batch(until_the_second(), words, position)

    monkeypatch.setattr(bench.executor, "run_batch", slow_second)
    watching: Any = Watching(9)
    bench.loop.watching = watching
    for number in range(5):
        stage.send(client, number)
    bench.claimer.service_ns = 1e3
    bench.loop._run_batch(bench.claimer.lanes_with_work())
    assert watching.unmeasured == 9 - bench.seat.position
    assert 0 < bench.seat.position < 5
    bench.leave()
