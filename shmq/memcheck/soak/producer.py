"""One producer process of a soak run: `python -m shmq.memcheck.soak.producer SPEC.json ROW SHARE UNTIL_S`.

    what is due by now (the day's shape) minus what was submitted
      ──▶ one round: singles of all kinds, results of the round before, a map

It is never more than a round ahead of its results, so that its memory tells of leaks and not of a queue. When the
machine is too slow for the plan, it goes as fast as it can.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import shmq
from shmq.errors import ShmqError
from shmq.kernel import die_with_parent
from shmq.memcheck.shape import Load, Plan
from shmq.memcheck.soak.tally import Tally
from shmq.memory.layout import WORKER, WORKER_LIVE

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.handle import Job
    from shmq.memcheck.soak.mix import Kind

# INVARIANT: what is large in two rounds (one unread, one under way) fits the blocks for max_producers at once, else
# producers that hold unread results wait for room that only they could make: 2,500 calls bring 10 large jobs, 2 MiB
MOST_CALLS = 2_500
LEAN_CALLS = 100_000
MOST_SINGLES = 300
PAUSE_S = 0.02
TITLE = "shmq: soak producer"  # once it is ready: what it imports before is no growth to be judged
GAUGE_PAIRS, GAUGE_WARM_UP, GAUGE_CHUNKS, GAUGE_CHUNK = 200, 10, 15, 2_000


class Spec(msgspec.Struct, frozen=True):
    """What all producers of a run have in common. Times are monotonic."""

    namespace: str
    tally: str
    hours: float
    minutes: float | None
    jobs_per_s: float
    started_s: float
    lean: bool
    own_jobs: list[list[Any]]  # [task, argument, ...] of the user's tasks; empty: the built-in mix


class Producer:
    """Submits its share of the plan until `until_s`."""

    def __init__(self, spec: Spec, client: Client, tally: Tally, share: float) -> None:
        self._spec, self._client, self._tally, self._share = spec, client, tally, share
        self._plan = Plan(spec.hours, spec.minutes, Load(spec.jobs_per_s))
        self._first = self._due()  # what was due before this one came is not its business
        self._made: dict[str, int] = {}
        self._unread: list[tuple[Kind, int, Job[Any]]] = []
        self._numbers = itertools.count()
        self._said: set[str] = set()
        self._round: Callable[[int], None] = self._own_round if spec.own_jobs else self._mixed_round
        self.is_over = False

    def run(self, until_s: float) -> None:
        """Until then, or until `is_over`; what was begun is finished."""
        done = 0
        while not self.is_over and (now_s := time.monotonic()) < until_s:
            if self._spec.lean:
                self._map(LEAN_CALLS)
                self._tally.write()
                continue
            missing = min(self._due() - self._first - done, MOST_CALLS)
            if missing <= 0:
                time.sleep(min(PAUSE_S, until_s - now_s))
                continue
            done += missing
            self._round(done)
            self._tally.write()
        self._read()
        self._tally.write()

    def _due(self) -> int:
        if self._spec.lean:
            return 0
        return int(self._plan.due(self._plan.jobs, time.monotonic() - self._spec.started_s) * self._share)

    def _mixed_round(self, until: int) -> None:
        """Bring the number of jobs of each kind to its share of `until`, in parts that fit the slots."""
        from shmq.memcheck.soak.mix import KINDS

        begun = sum(self._made.values())
        wanted = []
        for name, kind in KINDS.items():
            made = self._made.get(name, 0)
            wanted += [kind] * (int(until * kind.share) - made)
            self._made[name] = max(int(until * kind.share), made)
        for part in _batched(wanted):
            fresh = [(kind, n, kind.submit(self._client, n)) for kind, n in zip(part, self._numbers, strict=False)]
            self._read()
            self._unread = fresh
        calls = until - begun - len(wanted)
        self._made["calls"] = self._made.get("calls", 0) + calls
        self._map(calls)

    def _read(self) -> None:
        """Results of the round before, which had the time of this one to come."""
        counts, jobs, self._unread = self._tally.counts, self._unread, []
        for kind, n, job in jobs:
            counts.wrong += not kind.read(job, n, counts)
        counts.ended += len(jobs)

    def _map(self, calls: int) -> None:
        from shmq.memcheck.soak.tasks import echo

        wrong = 0
        for index, is_value, value in self._client.map_calls(echo, ((n,) for n in range(calls))):
            wrong += not is_value or value != index
        self._tally.counts.wrong += wrong
        self._tally.counts.ended += calls

    def _own_round(self, until: int) -> None:
        """The user's jobs in turn; how they end is the user's business."""
        counts, own = self._tally.counts, self._spec.own_jobs
        for part in _batched(range(self._made.get("own", 0), until)):
            jobs = [self._client.submit(own[n % len(own)][0], *own[n % len(own)][1:]) for n in part]
            for n, job in zip(part, jobs, strict=True):
                error = job.exception()
                if error is not None:
                    counts.failed += 1
                    self._say_once(own[n % len(own)][0], error)
            counts.ended += len(jobs)
        self._made["own"] = until

    def _say_once(self, task: str, error: BaseException) -> None:
        """A failure that was not meant, such as a call that does not fit the task, would pass for load."""
        if task not in self._said:
            self._said.add(task)
            sys.stderr.write(f"producer: a job of {task} failed: {type(error).__name__}: {error}\n")


def gauge(aged: Client, fresh: Client) -> tuple[float, float, float]:
    """What a call costs the aged system by what it costs a fresh one, and the calls per second of both.

    The cost is CPU time of this process and of the workers. Bursts of both alternate, and each is compared with the one
    beside it: other users of the machine change the pace by half within seconds, but that of both. One chunk after the
    other, so that every burst has the same batches and wakes as often.
    """
    for client in (aged, fresh):
        for _ in range(GAUGE_WARM_UP):
            _burst(client)
    ratios, took_s = [], {aged: 0.0, fresh: 0.0}
    for pair in range(GAUGE_PAIRS):
        cost = {}
        for client in (aged, fresh) if pair % 2 else (fresh, aged):
            begun = time.perf_counter()
            cost[client] = _burst(client)
            took_s[client] += time.perf_counter() - begun
        ratios.append(cost[aged] / cost[fresh])
    calls = GAUGE_PAIRS * GAUGE_CHUNKS * GAUGE_CHUNK
    return statistics.median(ratios), calls / took_s[aged], calls / took_s[fresh]


def _burst(client: Client) -> float:
    """Some chunks; their CPU time."""
    from shmq.memcheck.soak.tasks import echo

    cpu_s = _cpu_s(client)
    for _ in range(GAUGE_CHUNKS):
        for _ in client.map(echo, range(GAUGE_CHUNK), chunk_size=GAUGE_CHUNK):
            pass
    return _cpu_s(client) - cpu_s


def _cpu_s(client: Client) -> float:
    """CPU time so far of this process and of all live workers, as the scheduler counts it."""
    pids = [row[WORKER["pid"]] for row in client.segment.rows("worker_rows") if row[WORKER["state"]] == WORKER_LIVE]
    texts = [Path(f"/proc/{pid}/schedstat").read_text() for pid in pids if Path(f"/proc/{pid}").exists()]
    return time.process_time() + sum(int(text.split()[0]) for text in texts) / 1e9


def _batched(items: Any) -> Any:
    iterator = iter(items)
    return iter(lambda: list(itertools.islice(iterator, MOST_SINGLES)), [])


def main(arguments: list[str]) -> int:
    """Runs as a process of its own."""
    import setproctitle

    spec = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Spec)
    if not die_with_parent(os.getppid()):
        return 1
    try:
        with shmq.connect(spec.namespace) as client:
            setproctitle.setproctitle(TITLE)
            if arguments[1] == "gauge":
                with shmq.connect(arguments[2]) as fresh:
                    sys.stdout.write(json.dumps(gauge(client, fresh)))
                return 0
            producer = Producer(spec, client, Tally(Path(spec.tally), int(arguments[1])), float(arguments[2]))
            signal.signal(signal.SIGTERM, lambda *_: setattr(producer, "is_over", True))
            producer.run(float(arguments[3]))
    except ShmqError as error:
        sys.stderr.write(f"producer: {type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
