"""The part of a snapshot about resource groups: workers, backlog, totals, latencies, limits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shmq.clock import NS
from shmq.memory.columns import column
from shmq.memory.layout import GROUP_CLAIM, GROUP_CONTROL, GROUP_PLAN, PRIORITIES, WORKER
from shmq.memory.segment import Segment
from shmq.observe import histogram
from shmq.observe.limits import limits_of
from shmq.observe.model import Distribution, GroupState, Snapshot, Workers, WorkerState
from shmq.observe.reading import DAMAGED, checked
from shmq.transport.table import DONE, LEASED, QUEUED, REQUEUED, RUNNING, SCHEDULED

_SHARES = (0.5, 0.95, 0.99)
_PLAN_IS_FRESH_S = 10.0


def read_groups(
    segment: Segment,
    now_ns: int,
    jobs: NDArray[np.intp],
    workers: tuple[WorkerState, ...],
    previous: Snapshot | None,
) -> tuple[GroupState, ...]:
    """Every group by index.

    Args:
        jobs: what `count_jobs` returned.
        previous: an earlier snapshot, for rates.
    """
    rows = checked(segment, "worker_rows")
    controls, claims, plans = (checked(segment, f"group_{name}") for name in ("control", "claim", "plan"))
    backlogs = _backlogs(segment)
    service, wait = histograms(segment)
    before = {group.name: group for group in previous.groups} if previous else {}
    elapsed_s = (now_ns - previous.taken_ns) / NS if previous else 0.0
    found = []
    for g, name in enumerate(segment.group_names()):
        mine = rows[rows[:, WORKER["group"]] == g]
        control = {word: int(controls[g, i]) for word, i in GROUP_CONTROL.items()}
        plan = {word: int(plans[g, i]) for word, i in GROUP_PLAN.items()}
        done, failed, retried = _totals(mine, control)
        found.append(
            GroupState(
                name=name,
                paused=bool(control["paused"]),
                workers=_by_state([worker for worker in workers if worker.group == name]),
                min_workers=control["min_workers"],
                max_workers=control["max_workers"],
                scaled_to=control["scaled_to"],
                target_workers=plan["target"],
                reason=segment.text("group_reason", g),
                backlog=tuple(backlogs[g].tolist()),
                queued=int(jobs[g, QUEUED] + jobs[g, REQUEUED]),
                leased=int(jobs[g, LEASED]),
                running=int(jobs[g, RUNNING]),
                scheduled=int(jobs[g, SCHEDULED]),
                unread=int(jobs[g, DONE:DAMAGED].sum()),
                done=done,
                failed=failed,
                retried=retried,
                workers_started=control["spawned"],
                workers_crashed=control["past_crashed"],
                workers_recycled=control["recycled"],
                arrivals_per_s=plan["arrivals_milli"] / 1000 if _is_fresh(plan, now_ns) else None,
                done_per_s=_rate(done + failed, before.get(name), elapsed_s),
                wait=_distribution(wait[g], int(mine[:, WORKER["wait_sum_ns"]].sum())),
                service=_distribution(service[g], int(mine[:, WORKER["busy_ns"]].sum())),
                limits=limits_of(control, {word: int(claims[g, i]) for word, i in GROUP_CLAIM.items()}, now_ns),
            )
        )
    return tuple(found)


def histograms(segment: Segment) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(service, wait): counts by [group, bucket] of the jobs that the present worker rows counted."""
    group_of_row = column(segment, "worker_rows")[:, WORKER["group"]]

    def by_group(name: str) -> NDArray[np.float64]:
        rows = column(segment, name)
        return np.stack([histogram.merge(rows[group_of_row == g]) for g in range(segment.shape.groups)])

    return by_group("service_times"), by_group("wait_times")


def _backlogs(segment: Segment) -> NDArray[np.uint64]:
    """Lane entries by [group, priority]. Heads are read before tails; a damaged lane counts as full."""
    heads = column(segment, "heads").copy()
    entries = column(segment, "tails") - heads
    entries = np.minimum(entries, np.uint64(segment.shape.slots_per_producer))
    total: NDArray[np.uint64] = entries.sum(axis=1)[:, :PRIORITIES]
    return total


def _by_state(workers: list[WorkerState]) -> Workers:
    return Workers(**Counter(worker.state for worker in workers))


def _totals(rows: NDArray[Any], control: dict[str, int]) -> tuple[int, int, int]:
    """(done, failed, retried) of the group's present workers and of those that are gone."""
    ended, raised, retried = (
        int(rows[:, WORKER[word]].sum()) + control[f"past_{word}"] for word in ("done", "failed", "retried")
    )
    failed = max(raised - retried, 0)  # workers count jobs that ended and attempts that failed
    return max(ended - failed, 0), failed, retried


def _is_fresh(plan: dict[str, int], now_ns: int) -> bool:
    """Has the planner written lately? An old figure would look like a present one."""
    return bool(plan["updated_ns"]) and now_ns - plan["updated_ns"] < _PLAN_IS_FRESH_S * NS


def _rate(ended: int, before: GroupState | None, elapsed_s: float) -> float | None:
    """Jobs ended per second."""
    if before is None or elapsed_s <= 0:
        return None
    return max(ended - before.done - before.failed, 0) / elapsed_s


def _distribution(counts: NDArray[Any], sum_ns: int) -> Distribution:
    quantiles = histogram.quantiles_s(counts, _SHARES)
    if quantiles is None:
        return Distribution(count=0)
    total = int(counts.sum())
    p50, p95, p99 = quantiles
    return Distribution(count=total, mean_s=sum_ns / total / NS, p50_s=p50, p95_s=p95, p99_s=p99)
