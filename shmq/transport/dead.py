"""Dead letters: jobs that will not be tried again, kept in one SQLite file of the state directory."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from shmq.config.model import DeadLetters as Limits

FILE = "dead.sqlite"
_log = logging.getLogger("shmq.dead")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS letters (
    job TEXT NOT NULL, epoch INTEGER NOT NULL, task TEXT NOT NULL, grp TEXT NOT NULL, args BLOB, nargs INTEGER,
    kind INTEGER, error TEXT, message TEXT, traceback TEXT, crashes INTEGER, failures INTEGER, how TEXT,
    peak_bytes INTEGER, died_at REAL NOT NULL, PRIMARY KEY (job, epoch)
);
CREATE INDEX IF NOT EXISTS by_time ON letters (died_at);
"""


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead job. `args` is its message as msgpack; `how` the signal or exit status, if it crashed.

    `epoch` names the segment (its creation time): job ids are unique only within one segment.
    """

    job: str
    epoch: int
    task: str
    group: str
    args: bytes
    nargs: int
    kind: int
    error: str
    message: str
    traceback: str = ""
    crashes: int = 0
    failures: int = 0
    how: str = ""
    peak_bytes: int = 0
    died_at: float = 0.0  # wall clock, for display and retention


_FIELDS = DeadLetter.__struct_fields__
_COLUMNS = ", ".join("grp" if name == "group" else name for name in _FIELDS)


class DeadLetters:
    """The dead letters of one namespace. Safe to use from several processes at once."""

    def __init__(self, state_dir: Path, limits: Limits | None = None) -> None:
        self._state_dir = state_dir
        self._limits = limits

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._state_dir / FILE, timeout=30.0)
        try:
            connection.executescript(_SCHEMA)
            with connection:
                yield connection
        finally:
            connection.close()

    def add(self, letter: DeadLetter) -> None:
        """Keep a letter; adding it again changes nothing. The oldest go when limits are passed."""
        values = [_storable(getattr(letter, name)) for name in _FIELDS]
        values[_FIELDS.index("died_at")] = letter.died_at or time.time()
        with self._open() as connection:
            marks = ", ".join("?" * len(_FIELDS))
            connection.execute(f"INSERT OR IGNORE INTO letters ({_COLUMNS}) VALUES ({marks})", values)  # noqa: S608 - fixed column names
            if self._limits is not None:
                self._prune(connection, self._limits)

    def keep(self, letter: DeadLetter) -> None:
        """As `add`, for whoever must go on: a letter that cannot be written is logged instead."""
        try:
            self.add(letter)
        except (sqlite3.Error, OSError) as error:
            _log.error("dead letter of job %s (%s) cannot be kept: %s", letter.job, letter.task, error)

    @staticmethod
    def _prune(connection: sqlite3.Connection, limits: Limits) -> None:
        connection.execute("DELETE FROM letters WHERE died_at < ?", (time.time() - limits.keep_s,))
        connection.execute(
            "DELETE FROM letters WHERE rowid NOT IN (SELECT rowid FROM letters ORDER BY died_at DESC LIMIT ?)",
            (limits.keep_count,),
        )

    def list(
        self, *, task: str | None = None, group: str | None = None, since_s: float | None = None, limit: int = 100
    ) -> list[DeadLetter]:
        """Newest first. `task` may hold shell wildcards; `since_s`: died within so many seconds."""
        where, values = _filter(task, group, since_s)
        with self._open() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM letters {where} ORDER BY died_at DESC LIMIT ?",  # noqa: S608 - fixed column names
                [*values, limit],
            ).fetchall()
        return [DeadLetter(*row) for row in rows]

    def show(self, job: str) -> DeadLetter | None:
        """The newest letter of a job id."""
        with self._open() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM letters WHERE job = ? ORDER BY died_at DESC LIMIT 1",  # noqa: S608 - fixed column names
                (job,),
            ).fetchone()
        return DeadLetter(*row) if row else None

    def drop(
        self, job: str | None = None, *, task: str | None = None, group: str | None = None, since_s: float | None = None
    ) -> int:
        """Delete one letter, or all that pass the filter; how many."""
        where, values = _filter(task, group, since_s, job)
        with self._open() as connection:
            return connection.execute(f"DELETE FROM letters {where}", values).rowcount  # noqa: S608 - fixed column names


def _storable(value: Any) -> Any:
    """SQLite holds 63 bits; a damaged word may hold 64."""
    return min(value, 2**63 - 1) if isinstance(value, int) else value


def _filter(
    task: str | None, group: str | None, since_s: float | None, job: str | None = None
) -> tuple[str, list[Any]]:
    terms, values = [], []
    for term, value in (("task GLOB ?", task), ("grp = ?", group), ("job = ?", job)):
        if value is not None:
            terms.append(term)
            values.append(value)
    if since_s is not None:
        terms.append("died_at >= ?")
        values.append(time.time() - since_s)  # type: ignore[arg-type]
    return ("WHERE " + " AND ".join(terms) if terms else ""), values
