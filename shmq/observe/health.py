"""Can every group make progress? If not: why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from shmq.observe.model import GroupState, Problem, Snapshot, WorkerState

STUCK_S = 60.0
"""A worker that has taken no work for this long, while jobs wait, counts as stuck."""
_OVERDUE_S = 10.0
_HELD_S = 60.0
_LIVE = frozenset({"idle", "busy", "blocked", "waiting"})


def health(snapshot: Snapshot, previous: Snapshot | None = None, *, stuck_s: float = STUCK_S) -> list[Problem]:
    """What keeps groups, or everything, from making progress; empty when nothing does.

    Args:
        previous: a snapshot taken a moment before; only what was wrong then as well is told, because
            a worker that is being replaced, or a group that wakes from zero workers, is no problem.
        stuck_s: a worker that took no work for longer is stuck, if others wait. A job without a time limit
            may run that long, so this is a guess; past its limit, or stopped by a signal, is none.
    """
    found = list(_of_everything(snapshot))
    for group in snapshot.groups:
        found += _of_group(group, [w for w in snapshot.workers if w.group == group.name], stuck_s)
    if not snapshot.supervisor_alive:  # that says enough of why there are no workers
        found = [problem for problem in found if problem.kind != "no-workers"]
    if previous is None:
        return found
    before = {(problem.kind, problem.group) for problem in health(previous, stuck_s=stuck_s)}
    return [problem for problem in found if (problem.kind, problem.group) in before]


def _of_everything(snapshot: Snapshot) -> Iterator[Problem]:
    if not snapshot.supervisor_alive:
        pid = snapshot.supervisor_pid
        yield Problem(
            "no-supervisor",
            None,
            f"the supervisor {f'(pid {pid}) is gone' if pid else 'was stopped'}: accepted jobs are safe but do not run",
            "start it again: shmq supervise CONFIG",
        )
    elif snapshot.recovery_pid and not snapshot.recovery_alive:
        yield Problem(
            "no-recovery",
            None,
            f"the recovery process (pid {snapshot.recovery_pid}) is gone; delayed jobs and retries wait",
            "the supervisor restarts it within a second; if not, its log says why",
        )
    if snapshot.detached:
        yield Problem(
            "detached",
            None,
            "the segment's name was removed from /dev/shm; who is attached goes on, nobody else can attach",
            "likely RemoveIPC=yes of systemd-logind, or a cleaner (see README); stop, then start again",
        )
    if snapshot.memory.damaged_words:
        yield Problem(
            "damaged",
            None,
            f"{snapshot.memory.damaged_words} job words hold what shmq never writes",
            "some process wrote over the segment; drain, stop, start again, and look for it",
        )


def _of_group(group: GroupState, workers: list[WorkerState], stuck_s: float) -> Iterator[Problem]:
    name, limits = group.name, group.limits
    waiting = f"{group.queued} job{'' if group.queued == 1 else 's'} waiting"
    if group.paused:
        yield Problem("paused", name, f"paused, {waiting}", f"shmq resume {name}")
    if not (group.workers.live or group.workers.starting) and (group.queued or group.min_workers):
        if group.scaled_to:
            hint = "workers cannot start or die at once, perhaps a task module fails: the supervisor's log says why"
        else:
            hint = f"scaled to 0: shmq scale {name} auto"
        yield Problem("no-workers", name, f"no worker (min_workers is {group.min_workers}), {waiting}", hint)
    live = [worker for worker in workers if worker.state in _LIVE]
    if live and all(worker.state == "waiting" for worker in live):
        yield Problem(
            "no-room",
            name,
            f"its workers wait for free blocks for the results of jobs that have run, {waiting}",
            "read or drop results (shmq status -v shows whose are unread), or raise [memory] block_budget_bytes",
        )
    elif stuck := _all_stuck(workers, stuck_s if group.queued else float("inf")):
        yield Problem(
            "stuck",
            name,
            f"no worker of {len(stuck)} moves, {waiting}: {'; '.join(stuck[:4])}",
            "py-spy dump --pid shows where; give the task a timeout; a killed worker's job is redelivered",
        )
    if limits.circuit == "open":
        fate = "fail at once" if limits.breaker_mode == "fail" else "wait"
        yield Problem(
            "circuit-open",
            name,
            f"the circuit is open (too many failures): jobs {fate}, a probe in {limits.circuit_s:.1f} s",
            "shmq dead list shows what failed; the circuit closes once a probe succeeds",
        )
    if group.queued and limits.held_s >= _HELD_S:
        yield Problem(
            "rate",
            name,
            f"rate limit {limits.rate_per_s or 0:g}/s: the next job in {limits.held_s:.0f} s, {waiting}",
            f"shmq limit {name} --rate R",
        )


def _all_stuck(workers: list[WorkerState], stuck_s: float) -> list[str]:
    """Why each live worker is stuck; empty when one is not, or there is none."""
    live = [worker for worker in workers if worker.state in _LIVE]
    reasons = [_why_stuck(worker, stuck_s) for worker in live]
    return reasons if all(reasons) else []


def _why_stuck(worker: WorkerState, stuck_s: float) -> str:
    who = f"pid {worker.pid}" + (f" in {worker.task}" if worker.task else "")
    if worker.is_stopped:
        return f"{who} is stopped by a signal"
    if worker.overdue_s > _OVERDUE_S:
        return f"{who} is {worker.overdue_s:.0f} s past its time limit"
    if worker.heartbeat_s is not None and worker.heartbeat_s > stuck_s:
        return f"{who} has been in one job for {worker.heartbeat_s:.0f} s"
    return ""
