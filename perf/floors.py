"""What this machine cannot beat: no queue can be faster, so ratios to these say how much is left.

(a)  encode → decode → call → encode → decode            one process, msgspec, reused codecs
(b)  A ──post──▶ B ──post──▶ A                           two processes on two cores, two POSIX semaphores
(c)  memcpy → sum                                        one process, 1 MiB of float64
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import posix_ipc

from perf import functions
from perf.harness import Contestant, Observation, verify
from perf.results import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ARRAY_BYTES = 1 << 20
CODEC, ENCODE, PING_PONG, ANYWHERE, COPY = (
    "floor (a): codec alone",
    "floor: msgspec encode",
    "floor (b): semaphore ping-pong, on two cores",
    "semaphore ping-pong, where the kernel puts it",
    "floor (c): memcpy + sum",
)


def codec() -> Contestant:
    """Floor (a), jobs per second: the least that must be said of a job, both ways."""

    def measure(jobs: int) -> Observation:
        encode = msgspec.msgpack.Encoder().encode
        decode = msgspec.msgpack.Decoder().decode
        tasks = {"perf.tasks.echo": functions.echo}
        results = []
        begin = time.perf_counter()
        for item in range(jobs):
            number, task, arguments = decode(encode((item, "perf.tasks.echo", (item,))))
            _, value = decode(encode((number, tasks[task](*arguments))))
            results.append(value)
        took = time.perf_counter() - begin
        verify(results, range(jobs))
        return Observation({"per_s": jobs / took})

    return _alone(CODEC, measure)


def bare_codec() -> Contestant:
    """The same for the argument alone, without which job and which task: shown beside, not judged by."""

    def measure(jobs: int) -> Observation:
        encode = msgspec.msgpack.Encoder().encode
        decode = msgspec.msgpack.Decoder().decode
        call = functions.echo
        begin = time.perf_counter()
        results = [decode(encode(call(*decode(encode((item,)))))) for item in range(jobs)]
        took = time.perf_counter() - begin
        verify(results, range(jobs))
        return Observation({"per_s": jobs / took})

    return _alone("codec of the argument alone", measure)


def encode_alone() -> Contestant:
    """Floor of a submit that nobody waits for: seconds per encoded call, wall and CPU, medians over chunks of 500."""

    def measure(jobs: int) -> Observation:
        encode = msgspec.msgpack.Encoder().encode
        wall, cpu = [], []
        for start in range(0, jobs, 500):
            items = range(start, start + 500)
            begin, cpu_begin = time.perf_counter(), time.thread_time()
            for item in items:
                encode((item,))
            cpu.append((time.thread_time() - cpu_begin) / 500)
            wall.append((time.perf_counter() - begin) / 500)
        return Observation({"call_s": quantile(wall, 0.5), "call_cpu_s": quantile(cpu, 0.5)})

    return _alone(ENCODE, measure)


def ping_pong(*, apart: bool) -> Contestant:
    """Floor (b): there and back between two processes, seconds.

    `apart`: each on a core of its own, which sleeps until it is rung, as those of an idle system do. Left to itself the
    kernel may have both on one core, that then never sleeps: a switch of processes, 2 µs instead of 60.
    """

    def measure(jobs: int) -> Observation:
        samples = []
        with echoing_process(apart=apart) as (ping, pong):
            for _ in range(20):
                ping.release()
                pong.acquire()
            for _ in range(jobs):
                begin = time.perf_counter()
                ping.release()
                pong.acquire()
                samples.append(time.perf_counter() - begin)
        return latencies(samples)

    return _alone(PING_PONG if apart else ANYWHERE, measure)


def copy_and_sum() -> Contestant:
    """Floor (c), arrays per second; the copy goes through 16 MiB in turn, as through a pool of blocks."""

    def measure(jobs: int) -> Observation:
        source = np.random.default_rng(7).random(ARRAY_BYTES // 8)
        blocks = np.zeros((16, source.size))
        expected = float(source.sum())
        begin = time.perf_counter()
        sums = []
        for job in range(jobs):
            block = blocks[job % 16]
            np.copyto(block, source)
            sums.append(float(block.sum()))
        took = time.perf_counter() - begin
        verify(sums, [expected] * jobs)
        return Observation({"per_s": jobs / took})

    return _alone(COPY, measure)


def serial_spin() -> Contestant:
    """The computation of the CPU scenario in one process, no queue: calls per second."""

    def measure(jobs: int) -> Observation:
        begin = time.perf_counter()
        results = [functions.spin(item) for item in range(jobs)]
        took = time.perf_counter() - begin
        verify(results[:3], [functions.spin(item) for item in range(min(jobs, 3))])
        return Observation({"per_s": jobs / took})

    return _alone("serial", measure)


def parallel_spin(processes: int) -> Contestant:
    """The same in several processes that share nothing: what the cores really give while both are busy."""

    def measure(jobs: int) -> Observation:
        context = get_context("fork")
        each = max(jobs // processes, 1)
        start = context.Barrier(processes + 1)
        workers = [context.Process(target=_spin_many, args=(start, each), daemon=True) for _ in range(processes)]
        for worker in workers:
            worker.start()
        start.wait()
        begin = time.perf_counter()
        for worker in workers:
            worker.join()
        return Observation({"per_s": each * processes / (time.perf_counter() - begin)})

    return _alone(f"{processes} bare processes", measure)


def latencies(samples: list[float], **more: float) -> Observation:
    """Percentiles of a latency measurement together with its samples, seconds."""
    named = {"p50_s": 0.5, "p95_s": 0.95, "p99_s": 0.99, "max_s": 1.0}
    return Observation({name: quantile(samples, share) for name, share in named.items()} | more, samples)


def yardstick() -> float:
    """Rate of floor (a), best of five: the clock by which two runs' absolute times compare."""
    with codec().open() as measure:
        return max(measure(50_000).metrics["per_s"] for _ in range(5))


def _spin_many(start: object, jobs: int) -> None:
    start.wait()  # type: ignore[attr-defined]
    for job in range(jobs):
        functions.spin(job)


def _alone(name: str, measure: Callable[[int], Observation]) -> Contestant:
    @contextmanager
    def open_() -> Iterator[Callable[[int], Observation]]:
        yield measure

    return Contestant(name, "floor", open_)


@contextmanager
def echoing_process(*, apart: bool) -> Iterator[tuple[posix_ipc.Semaphore, posix_ipc.Semaphore]]:
    """Two semaphores, the first answered by a child with the second. Names are gone before the child runs.

    `apart`: this thread on one core meanwhile, the child on another, if there is one.
    """
    cores = os.sched_getaffinity(0)
    mine, its = ({min(cores)}, {max(cores)}) if apart else (cores, cores)
    pair = []
    for way in ("ping", "pong"):
        name = f"/perf-{way}-{os.getpid()}-{secrets.token_hex(6)}"
        pair.append(posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=0o600, initial_value=0))
        posix_ipc.unlink_semaphore(name)
    ping, pong = pair
    child = get_context("fork").Process(target=_answer, args=(ping, pong, its), daemon=True)
    child.start()
    try:
        os.sched_setaffinity(0, mine)
        yield ping, pong
    finally:
        os.sched_setaffinity(0, cores)
        child.kill()
        child.join()
        ping.close()
        pong.close()


def _answer(ping: posix_ipc.Semaphore, pong: posix_ipc.Semaphore, cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)
    while True:
        ping.acquire()
        pong.release()
