"""Books that survive kills, and the audit of them after a run.

Whoever takes part writes down what it did, each in a file of its own, one `write` per record, before
others can see the deed. A killed writer leaves at most one torn record, at the end.

    producer   INTENT before it submits, ACCEPTED after `submit` returned
    worker     EXECUTED before it acknowledges
    killer     KILL right before the signal

    record, 48 bytes, little endian:
        id u64 · hash u64 · lane u32 · seq u32 · pid u32 · parent u32 · attempt u16 · kind u8 · flags u8
        · check u32 (of all the rest) · time u64 (monotonic ns)

Ids are the test's own: any u64 that names a job once. `lane` and `seq` number the submissions of one
producer into one lane. The audit reads everything in slices of the id space, so that ten million
records need no more memory than one slice.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype([
    ("id", "<u8"), ("hash", "<u8"), ("lane", "<u4"), ("seq", "<u4"), ("pid", "<u4"), ("parent", "<u4"),
    ("attempt", "<u2"), ("kind", "u1"), ("flags", "u1"), ("check", "<u4"), ("time_ns", "<u8"),
])  # fmt: skip
_PACKED = struct.Struct("<QQIIIIHBBIQ")
_WORDS = struct.Struct("<6Q")
assert RECORD.itemsize == _PACKED.size == _WORDS.size

INTENT, ACCEPTED, EXECUTED, KILL = 1, 2, 3, 4

REDELIVERED = 1  # EXECUTED: not the first delivery (REQUEUED); its order proves nothing
WILL_FAIL = 2  # EXECUTED: the task is about to raise; another execution is no duplicate
ALL_CHILDREN = 4  # KILL: who was killed takes its workers along (supervisor)

Records = NDArray[np.void]
Numbers = NDArray[np.uint64]

_MIX = 0x9E3779B97F4A7C15  # odd, its bits well mixed: 2**64 divided by the golden ratio
_SEED = 0x53484D51
_MASK = (1 << 64) - 1
_CHUNK = 1 << 16  # records read at once
_EXAMPLES = 5


def payload_hash(payload: bytes) -> int:
    """Hash of a job's arguments: 64 bits made of two CRCs, for accidents, not for enemies."""
    return zlib.crc32(payload) << 32 | zlib.crc32(payload, 0xFFFFFFFF)


class Book:
    """One writer's file. Cheap enough for every job of a chaos run: one `write` of 48 bytes."""

    def __init__(self, folder: Path, name: str) -> None:
        path = folder / f"{name}-{os.getpid()}-{time.monotonic_ns()}.book"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._pid, self._parent = os.getpid(), os.getppid()

    def intent(self, id_: int, payload: bytes, *, lane: int = 0, seq: int = 0) -> None:
        """About to submit this."""
        self._write(INTENT, id_, payload_hash(payload), lane, seq)

    def accepted(self, id_: int) -> None:
        """`submit` returned: from now on the job must not be lost."""
        self._write(ACCEPTED, id_)

    def executed(
        self, id_: int, payload: bytes, *, attempt: int = 1, lane: int = 0, seq: int = 0,
        redelivered: bool = False, will_fail: bool = False,
    ) -> None:  # fmt: skip
        """Ran this job; its acknowledgement comes later."""
        flags = REDELIVERED * redelivered | WILL_FAIL * will_fail
        self._write(EXECUTED, id_, payload_hash(payload), lane, seq, attempt=attempt, flags=flags)

    def kill(self, pid: int, *, takes_children: bool = False) -> None:
        """About to kill `pid`; a supervisor takes all of its workers along."""
        self._write(KILL, pid, flags=ALL_CHILDREN * takes_children)

    def close(self) -> None:
        os.close(self._fd)

    def _write(
        self, kind: int, id_: int, hash_: int = 0, lane: int = 0, seq: int = 0, *, attempt: int = 0, flags: int = 0
    ) -> None:
        parts = (id_, hash_, lane, seq, self._pid, self._parent, attempt, kind, flags)
        now = time.monotonic_ns()
        data = _PACKED.pack(*parts, _check_of(_PACKED.pack(*parts, 0, now)), now)
        if os.write(self._fd, data) != len(data):
            raise OSError("a record was written in part: the disk of the books is full. Free space, run again.")


@dataclass
class Report:
    """Outcome of an audit. `is_clean` is the promise; the rest is for people."""

    submitted: int = 0
    accepted: int = 0
    executed: int = 0
    kills: int = 0
    dead_lettered: int = 0
    torn: int = 0  # last records cut short by a kill: legal
    lost: int = 0  # accepted, neither executed nor dead-lettered
    phantom: int = 0  # executed, never submitted
    altered: int = 0  # executed with other bytes than submitted
    disordered: int = 0  # first deliveries of one lane to one worker, out of order
    duplicates: int = 0  # executions beyond the first
    unexplained: int = 0  # duplicates whose earlier execution's worker was not killed after it
    damaged: int = 0  # records whose check does not fit, not at the end of a file
    most_per_kill: int = 0  # duplicates that one kill explains
    examples: dict[str, list[int]] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Nothing lost, phantom, altered, out of order, damaged, and every duplicate explained."""
        faults = (self.lost, self.phantom, self.altered, self.disordered, self.unexplained, self.damaged)
        return not any(faults)

    def __str__(self) -> str:
        return (
            f"{self.submitted} submitted, {self.accepted} accepted, {self.executed} executed, "
            f"{self.dead_lettered} dead-lettered, {self.kills} kills: {self.lost} lost, {self.phantom} phantom, "
            f"{self.altered} altered, {self.disordered} out of order, {self.duplicates} duplicates "
            f"({self.unexplained} unexplained, at most {self.most_per_kill} per kill), {self.damaged} damaged, "
            f"{self.torn} torn" + "".join(f"\n    {what}: {ids}" for what, ids in self.examples.items())
        )

    def note(self, what: str, ids: Records | Numbers) -> int:
        """Keep a few offenders; returns how many there are."""
        if len(ids):
            kept = self.examples.setdefault(what, [])
            kept.extend(int(i) for i in ids[: _EXAMPLES - len(kept)])
        return len(ids)


def check(
    folder: Path, dead_lettered: Iterable[int] = (), *, order: bool = True, slice_records: int = 1 << 21
) -> Report:
    """Audit all books of a folder.

    Args:
        dead_lettered: ids that ended in the dead-letter file.
        order: whether first deliveries must be in order (not so for async tasks, which end as they like).
        slice_records: about how many records are held at once (48 bytes each, a few times over).
    """
    report, paths = Report(), sorted(folder.glob("*.book"))
    dead = np.unique(np.fromiter(dead_lettered, np.uint64))
    report.dead_lettered = len(dead)
    total = sum(path.stat().st_size for path in paths) // RECORD.itemsize
    kills = _kills(paths, report)
    report.kills = len(kills)
    explained: list[Numbers] = []
    count = max(1, -(-total // slice_records))
    for part in range(count):
        records = _slice(paths, part, count, verify=report.damaged > 0)
        explained.append(_audit(records, dead[_parts(dead, count) == part], kills, report))
    if explained:
        per_kill = np.unique(np.concatenate(explained), return_counts=True)[1]
        report.most_per_kill = int(per_kill.max(initial=0))
    if order:
        _check_order(paths, report)
    return report


def _audit(records: Records, dead: Numbers, kills: Records, report: Report) -> Numbers:
    """All that can be said of one slice of ids; returns the kills that explain its duplicates."""
    intents, accepted, executed = (records[records["kind"] == kind] for kind in (INTENT, ACCEPTED, EXECUTED))
    report.submitted += len(intents)
    report.accepted += len(accepted)
    report.executed += len(executed)
    done = np.union1d(executed["id"][executed["flags"] & WILL_FAIL == 0], dead)
    report.lost += report.note("lost", np.setdiff1d(accepted["id"], done))
    intents = intents[np.argsort(intents["id"], kind="stable")]
    at = np.searchsorted(intents["id"], executed["id"])
    at[at == len(intents)] = 0
    is_known = (intents["id"][at] == executed["id"]) if len(intents) else np.zeros(len(executed), bool)
    report.phantom += report.note("phantom", executed["id"][~is_known])
    known, meant = executed[is_known], intents[at[is_known]]
    report.altered += report.note("altered", known["id"][known["hash"] != meant["hash"]])
    return _audit_duplicates(executed, kills, report)


def _audit_duplicates(executed: Records, kills: Records, report: Report) -> Numbers:
    """Of two executions in a row, the earlier one's worker must have been killed after it."""
    executed = executed[np.lexsort((executed["time_ns"], executed["id"]))]
    earlier = executed[:-1]
    again = (executed["id"][1:] == earlier["id"]) & (earlier["flags"] & WILL_FAIL == 0)
    earlier = earlier[again]
    report.duplicates += len(earlier)
    own = _first_kill_after(kills[kills["flags"] & ALL_CHILDREN == 0], earlier["pid"], earlier["time_ns"])
    parents = _first_kill_after(kills[kills["flags"] & ALL_CHILDREN != 0], earlier["parent"], earlier["time_ns"])
    cause = np.where(own > 0, own, parents)
    report.unexplained += report.note("unexplained", earlier["id"][cause == 0])
    return own[own > 0]


def _first_kill_after(kills: Records, pids: NDArray[np.uint32], times: Numbers) -> Numbers:
    """Time of the first kill of each pid at or after each time; 0 when there is none.

    Pids are used again, so the time counts; both come from the one monotonic clock of the host.
    """
    found = np.zeros(len(pids), np.uint64)
    if not len(kills):
        return found
    order = np.lexsort((kills["time_ns"], kills["id"]))
    known_pids, known_times = kills["id"][order], kills["time_ns"][order]
    for i, (pid, when) in enumerate(zip(pids.tolist(), times.tolist(), strict=True)):
        first, last = np.searchsorted(known_pids, [pid, pid + 1])
        at = first + np.searchsorted(known_times[first:last], when)
        if at < last:
            found[i] = known_times[at]
    return found


def _check_order(paths: list[Path], report: Report) -> None:
    """Within one worker's book, first deliveries of one lane come in the order of submission."""
    for path in paths:
        last: dict[int, int] = {}
        for records in _chunks(path, verify=report.damaged > 0):
            first = records[(records["kind"] == EXECUTED) & (records["flags"] & REDELIVERED == 0)]
            first = first[first["attempt"] <= 1]
            for lane in np.unique(first["lane"]).tolist():
                mine = first[first["lane"] == lane]
                seqs = mine["seq"].astype(np.int64)
                steps = np.diff(seqs, prepend=last.get(lane, -1))
                report.disordered += report.note("out of order", mine["id"][steps <= 0])
                last[lane] = max(int(seqs.max()), last.get(lane, -1))


def _kills(paths: list[Path], report: Report) -> Records:
    """All kill records; on this first pass over the files, torn and damaged ones are counted."""
    kills: list[Records] = [np.zeros(0, RECORD)]
    for path in paths:
        report.torn += path.stat().st_size % RECORD.itemsize > 0
        for records in _chunks(path, verify=False):
            sound = records["check"] == _checks(records)
            report.damaged += report.note("damaged", records["id"][~sound])
            kills.append(records[sound & (records["kind"] == KILL)])
    return np.concatenate(kills)


def _slice(paths: list[Path], part: int, count: int, *, verify: bool) -> Records:
    found: list[Records] = [np.zeros(0, RECORD)]
    for path in paths:
        for records in _chunks(path, verify=verify):
            mine = (records["kind"] != KILL) & (_parts(records["id"], count) == part)
            found.append(records[mine])
    return np.concatenate(found)


def _parts(ids: Numbers, count: int) -> Numbers:
    """Slice of each id: spread evenly, whatever the ids look like."""
    mixed = (ids.astype(np.uint64) * np.uint64(_MIX)) >> np.uint64(32)
    return mixed % np.uint64(count)


def _chunks(path: Path, *, verify: bool) -> Iterator[Records]:
    """Whole records of one file, on request only sound ones. A torn last one is left out."""
    with path.open("rb") as file:
        while data := file.read(_CHUNK * RECORD.itemsize):
            records = np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)
            yield records[records["check"] == _checks(records)] if verify else records


def _check_of(data: bytes) -> int:
    """Check of one record whose check word is 0."""
    total = _SEED
    for value in _WORDS.unpack(data):
        total = (total ^ value) * _MIX & _MASK
    return total >> 32


def _checks(records: Records) -> Numbers:
    """The same, of many."""
    words = records.copy()
    words["check"] = 0
    total = np.full(len(records), _SEED, np.uint64)
    for column in words.view(np.uint64).reshape(len(records), 6).T:
        total = (total ^ column) * np.uint64(_MIX)
    return total >> np.uint64(32)
