"""One scenario per file: topology drawn at the top, result verified, not only timed.

throughput/  jobs per second
latency/     from due time to result seen
footprint/   what it costs to start, to idle, to grow
memory/      what care of memory brings, and what watching it costs
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perf.harness import Scenario

MODULES = (
    "throughput.echo",
    "throughput.bulk",
    "throughput.forget",
    "latency.round_trip",
    "latency.open_loop",
    "throughput.arrays",
    "throughput.cpu_bound",
    "footprint.growth",
    "footprint.start",
    "footprint.idle",
    "latency.head_of_line",
    "latency.redelivery",
    "memory.care",
    "memory.watching",
)


def load(names: Iterable[str] = ()) -> list[Scenario]:
    """The scenarios in the order of the table, all or those named; ValueError for a name that nobody has."""
    scenarios: list[Scenario] = [importlib.import_module(f"perf.scenarios.{module}").SCENARIO for module in MODULES]
    wanted = set(names)
    if unknown := wanted - {scenario.name for scenario in scenarios}:
        known = ", ".join(scenario.name for scenario in scenarios)
        raise ValueError(f"unknown scenario {', '.join(sorted(unknown))}; known: {known}")
    return [scenario for scenario in scenarios if not wanted or scenario.name in wanted]
