"""Reads all ledgers and says what became of each job: none lost, made up or altered, each repeat explained."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.crash.chaos import records
from tests.crash.chaos.crew import PLANNER_KILL, PRODUCER_KILL, SUPERVISOR_KILL, WORKER_KILL, Kill

_DTYPE = np.dtype([
    ("kind", "u1"), ("attempt", "u1"), ("-", "<u2"), ("producer", "<u4"), ("sequence", "<u4"), ("sum", "<u4"),
    ("at", "<u8"),
])  # fmt: skip
assert _DTYPE.itemsize == records.RECORD.size
_EXAMPLES = 8
_PORTION = 1_000_000  # records that are Python objects at a time


class Latencies(NamedTuple):
    """Seconds from a death to the next start of the job that it cut off: of all, and where nothing else was killed."""

    all_s: list[float]
    undisturbed_s: list[float]


@dataclass
class Verdict:
    """Counts, and the first few examples of whatever is wrong."""

    accepted: int = 0
    executed: int = 0
    answered: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    explained: int = 0
    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    cancelled_but_ran: list[str] = field(default_factory=list)
    redelivery: Latencies = field(default_factory=lambda: Latencies([], []))
    restart: Latencies = field(default_factory=lambda: Latencies([], []))

    def is_clean(self) -> bool:
        """Were all promises kept?"""
        return not (self.lost or self.phantom or self.altered or self.unexplained or self.cancelled_but_ran)


def judge(ledger: Path, kills: list[Kill], dead: Path) -> Verdict:
    """Compare what producers and workers wrote down."""
    verdict = Verdict()
    wrote = _read(ledger, "producer-*")
    ran = _read(ledger, "worker-*")
    done = ran[ran["kind"] == records.DONE]
    accepted = _ids(wrote[wrote["kind"] == records.ACCEPTED])
    done_ids = _ids(done)
    verdict.accepted, verdict.executed = len(accepted), len(np.unique(done_ids))
    answered = _ids(wrote[np.isin(wrote["kind"], (records.ASKED, records.LOST))])
    verdict.dead_letters = _dead_letters(dead)
    missing = np.setdiff1d(accepted, done_ids)
    verdict.answered = int(np.isin(missing, answered).sum())
    missing = np.setdiff1d(missing, answered)
    verdict.lost = _named(_without_dead(missing, dead, ran))
    verdict.phantom = _phantom(wrote, ran)
    verdict.altered = _altered(done)
    verdict.cancelled_but_ran = _started_after_cancel(wrote, ran)
    _explain_repeats(verdict, ran, kills)
    verdict.redelivery = _latencies(ran, kills, WORKER_KILL)
    verdict.restart = _latencies(ran, kills, SUPERVISOR_KILL)
    return verdict


def _read(ledger: Path, pattern: str) -> NDArray[np.void]:
    """All records with their writer's pid and place in its file."""
    kinds = np.dtype([*_DTYPE.descr, ("pid", "<u4"), ("is_last", "?")])
    parts = [np.zeros(0, kinds)]
    for path in sorted(ledger.glob(pattern)):
        raw = np.frombuffer(path.read_bytes(), _DTYPE)
        part = np.zeros(len(raw), kinds)
        for name in ("kind", "attempt", "producer", "sequence", "sum", "at"):
            part[name] = raw[name]
        part["pid"] = int(path.name.split("-")[1])
        if len(part):
            part["is_last"][-1] = True
        parts.append(part)
    return np.concatenate(parts)


def _ids(rows: NDArray[np.void]) -> NDArray[np.uint64]:
    return rows["producer"].astype(np.uint64) << np.uint64(32) | rows["sequence"].astype(np.uint64)


def _named(ids: NDArray[np.uint64]) -> list[str]:
    return [f"{int(i) >> 32}:{int(i) & 0xFFFFFFFF}" for i in ids[:_EXAMPLES]] + (["..."] * (len(ids) > _EXAMPLES))


def _dead_letters(dead: Path) -> int:
    if not dead.exists():
        return 0
    with sqlite3.connect(dead) as connection:
        return int(connection.execute("SELECT count(*) FROM letters").fetchone()[0])


def _without_dead(missing: NDArray[np.uint64], dead: Path, ran: NDArray[np.void]) -> NDArray[np.uint64]:
    """A job whose producer died unread may be a dead letter: its arguments tell which it was."""
    if not len(missing) or not dead.exists():
        return missing
    import msgspec

    letters = set()
    with sqlite3.connect(dead) as connection:
        for (args,) in connection.execute("SELECT args FROM letters"):
            if args:
                producer, sequence = msgspec.msgpack.decode(args, ext_hook=lambda _code, data: None)[:2]
                letters.add(producer << 32 | sequence)
    worn_out = _ids(ran[(ran["kind"] == records.STARTED) & (ran["attempt"] >= 3)])  # its arguments were in a block
    letters |= set(worn_out.tolist())
    kept = [i for i in missing.tolist() if i not in letters]
    return np.array(kept, np.uint64)


def _phantom(wrote: NDArray[np.void], ran: NDArray[np.void]) -> list[str]:
    """Ran, but was never handed in: only the one job after a producer's last accepted may be so."""
    accepted = wrote[wrote["kind"] == records.ACCEPTED]
    known = np.unique(_ids(accepted))
    strangers = np.setdiff1d(np.unique(_ids(ran)), known)
    highest = np.zeros(1 + max(int(rows["producer"].max(initial=0)) for rows in (wrote, ran)), np.int64)
    np.maximum.at(highest, accepted["producer"], accepted["sequence"])
    odd = [i for i in strangers.tolist() if (i & 0xFFFFFFFF) != int(highest[i >> 32]) + 1]
    return _named(np.array(odd, np.uint64))


def _altered(done: NDArray[np.void]) -> list[str]:
    wrong: list[str] = []
    for first in range(0, len(done), _PORTION):
        part = done[first : first + _PORTION]
        for producer, sequence, total in part[["producer", "sequence", "sum"]].tolist():
            if total != records.checksum(records.payload(producer, sequence)) and total != records.checksum(
                np.full(1000, sequence, np.int64).tobytes()
            ):
                wrong.append(f"{producer}:{sequence}")
    return wrong


def _started_after_cancel(wrote: NDArray[np.void], ran: NDArray[np.void]) -> list[str]:
    """A promise holds from when it is given: an attempt that had failed before it is none of its business."""
    promised = wrote[wrote["kind"] == records.CANCELLED]
    since = dict(zip(_ids(promised).tolist(), promised["at"].tolist(), strict=True))
    started = ran[(ran["kind"] == records.STARTED) & np.isin(_ids(ran), _ids(promised))]
    late = [i for i, at in zip(_ids(started).tolist(), started["at"].tolist(), strict=True) if at > since[i]]
    return _named(np.array(late, np.uint64))


def _explain_repeats(verdict: Verdict, ran: NDArray[np.void], kills: list[Kill]) -> None:
    """A repeat is explained when the run before it was the very last thing that a killed worker did."""
    done = ran[ran["kind"] == records.DONE]
    ids = _ids(done)
    order = np.lexsort((done["at"], ids))
    done, ids = done[order], ids[order]
    repeats = (ids[1:] == ids[:-1]).nonzero()[0]
    killed = {pid for kill in kills for pid in kill.workers}
    verdict.duplicates = len(repeats)
    for i in repeats.tolist():
        if bool(done["is_last"][i]) and int(done["pid"][i]) in killed:
            verdict.explained += 1
        else:
            job = f"{int(ids[i]) >> 32}:{int(ids[i]) & 0xFFFFFFFF}"
            verdict.unexplained.append(f"{job} of worker {int(done['pid'][i])}")


def _latencies(ran: NDArray[np.void], kills: list[Kill], kind: str) -> Latencies:
    """From a kill of the kind to the start of the next attempt of the job that it cut off."""
    disturbing = np.sort([kill.at_ns for kill in kills if kill.kind not in {PRODUCER_KILL, PLANNER_KILL}])
    started = ran[ran["kind"] == records.STARTED]
    ids = _ids(started)
    order = np.lexsort((started["at"], ids))
    started, ids = started[order], ids[order]
    again = (ids[1:] == ids[:-1]).nonzero()[0]
    at_kill: dict[int, list[int]] = {}
    for kill in kills:
        for pid in kill.workers if kill.kind == kind else ():
            at_kill.setdefault(pid, []).append(kill.at_ns)
    found = Latencies([], [])
    for i in again.tolist():
        if not started["is_last"][i]:
            continue  # not cut off: the task raised, and was tried again
        began, next_began = int(started["at"][i]), int(started["at"][i + 1])
        for at in at_kill.get(int(started["pid"][i]), ()):
            if began <= at <= next_began:
                found.all_s.append((next_began - at) / 1e9)
                if np.searchsorted(disturbing, next_began) - np.searchsorted(disturbing, at) == 1:
                    found.undisturbed_s.append(found.all_s[-1])
                break
    return found
