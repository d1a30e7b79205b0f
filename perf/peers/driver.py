"""One measurement for the subject and every peer: submit → read in a rolling window, each result verified."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from perf.floors import latencies
from perf.harness import Contestant, MissingPeer, Observation, rolling, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from perf.harness import Setting
    from perf.peers import Peer, Session
    from perf.results import Role


def contestant(
    name: str,
    role: Role,
    open_session: Callable[[], AbstractContextManager[Session]],
    drive: Callable[[Session, int], Observation],
    jobs: int | None = None,
    most_jobs: int = 1_000_000,
) -> Contestant:
    """A session and what is done with it."""

    @contextmanager
    def open_() -> Iterator[Callable[[int], Observation]]:
        with open_session() as session:
            yield lambda count: drive(session, count)

    return Contestant(name, role, open_, jobs, most_jobs)


def peers(
    setting: Setting,
    drive: Callable[[Session, int], Observation],
    names: Sequence[str] = (),
    jobs: int | None = None,
    bulk: bool = False,
) -> list[Contestant]:
    """The asked-for peers (of these names, if given) as contestants. Absent ones are there to be named."""
    chosen = [peer for peer in setting.peers if not names or peer.name in names]
    return [
        contestant(
            f"{peer.name}.{peer.map_verb}" if bulk else peer.label,
            "peer",
            _session(peer, setting.workers),
            drive,
            jobs,
            peer.jobs * (5 if bulk else 1),
        )
        for peer in chosen
        if peer.map_verb or not bulk
    ]


def each(
    function: Callable[..., Any],
    items: Callable[[int], Sequence[Any]],
    expected: Callable[[Sequence[Any]], Sequence[Any]] = lambda items: items,
    window: int = 2_000,
) -> Callable[[Session, int], Observation]:
    """One submit per job, every result read: jobs per second."""

    def drive(session: Session, jobs: int) -> Observation:
        given = items(jobs)
        submit, read = session.bind(function), session.read
        begin = time.perf_counter()
        results = rolling(submit, read, given, window)
        took = time.perf_counter() - begin
        verify(results, expected(given))
        return Observation({"per_s": jobs / took})

    return drive


def bulk(
    function: Callable[..., Any],
    expected: Callable[[Sequence[Any]], Sequence[Any]] = lambda items: items,
) -> Callable[[Session, int], Observation]:
    """All jobs by one call: jobs per second."""

    def drive(session: Session, jobs: int) -> Observation:
        assert session.map is not None
        given = range(jobs)
        begin = time.perf_counter()
        results = list(session.map(function, given))
        took = time.perf_counter() - begin
        verify(results, expected(given))
        return Observation({"per_s": jobs / took})

    return drive


def round_trip(function: Callable[..., Any]) -> Callable[[Session, int], Observation]:
    """One job at a time on an idle system: seconds from submit to result."""

    def drive(session: Session, jobs: int) -> Observation:
        submit, read = session.bind(function), session.read
        samples, results = [], []
        for job in range(jobs):
            begin = time.perf_counter()
            results.append(read(submit(job)))
            samples.append(time.perf_counter() - begin)
        verify(results, range(jobs))
        return latencies(samples)

    return drive


def _session(peer: Peer, workers: int) -> Callable[[], AbstractContextManager[Session]]:
    @contextmanager
    def open_() -> Iterator[Session]:
        if reason := peer.missing():
            raise MissingPeer(reason)
        with peer.open(workers) as session:
            yield session

    return open_
