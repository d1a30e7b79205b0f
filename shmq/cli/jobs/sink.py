"""Where result lines go: written in batches, yet never held back while nothing else comes."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

_BATCH_BYTES = 1 << 16
_DELAY_S = 0.05


class Sink:
    """Collects lines and writes them to a descriptor when there are many, or after 50 ms.

    A closed pipe is raised by the next `write`, or when the context is left without another error. After
    another error (Ctrl-C) nothing is waited for: whoever reads may have stopped reading.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd  # not the buffered stream: its lock, held by the flusher, would block interpreter exit
        self._lines: list[bytes] = []
        self._bytes = 0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._failure: OSError | None = None
        self._flusher = threading.Thread(target=self._flush_regularly, name="shmq-output", daemon=True)

    def __enter__(self) -> Self:
        self._flusher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        if kind is None:
            self._flusher.join()
            self._flush()
            self._raise_failure()

    def write(self, line: bytes) -> None:
        """Take one line, without its end. Raises BrokenPipeError once nobody reads."""
        self._raise_failure()
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= _BATCH_BYTES:
            self._flush()

    def _flush_regularly(self) -> None:
        while not self._is_over.wait(_DELAY_S):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            if not self._lines or self._failure is not None:
                return
            lines, self._lines, self._bytes = self._lines, [], 0
            left = memoryview(b"\n".join(lines) + b"\n")
            try:
                while left:
                    left = left[os.write(self._fd, left) :]
            except OSError as error:
                self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
