"""What producers and workers write down, one record per write, in a file of their own: no kill tears or mixes them."""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

RECORD = struct.Struct("<BBHIIIQ")  # kind, attempt, -, producer, sequence, checksum, monotonic ns
ACCEPTED, ASKED, CANCELLED, LOST, STARTED, DONE = range(6)
"""Producer: accepted, about to cancel, cancel promised, read WorkerLost. Worker: task begun, its end reached."""
FOLDER = "SHMQ_CHAOS_LEDGER"


class Book:
    """One process's file. A forked child gets one of its own on its first write."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._pid, self._fd = 0, -1

    def write(self, kind: int, producer: int, sequence: int, checksum: int = 0, attempt: int = 0) -> None:
        """Add a record."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            path = self._folder / f"{self._name}-{self._pid}-{time.monotonic_ns()}"
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(self._fd, RECORD.pack(kind, attempt, 0, producer, sequence, checksum, time.monotonic_ns()))


def payload(producer: int, sequence: int) -> bytes:
    """What the job carries, different for each; every sixteenth does not fit a slot."""
    seed = f"{producer}:{sequence};".encode()
    size = 5000 if sequence % 16 == 7 else 8 + (producer * 31 + sequence * 7) % 300
    return (seed * (size // len(seed) + 1))[:size]


checksum = zlib.crc32
