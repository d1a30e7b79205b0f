"""The control socket: one packet asks, one packet answers. Same user only (0700 folder).

Requests are `{"command": ..., **arguments}` as JSON in one SOCK_SEQPACKET packet, so the
supervisor never waits for the second half of anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shmq.errors import NotRunning, ShmqError

FILE = "control.sock"
_LARGEST = 256 * 1024
_MOST_OPEN = 32

Handler = Callable[..., dict[str, Any]]


class ControlServer:
    """Answers requests; polled by the supervisor's loop."""

    def __init__(self, state_dir: Path, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers
        self._path = state_dir / FILE
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        with _short_path(self._path) as address:
            self._socket.bind(address)
        self._path.chmod(0o600)
        self._socket.listen(16)
        self._open: dict[int, socket.socket] = {}

    def fileno(self) -> int:
        """The listening descriptor."""
        return self._socket.fileno()

    def accept(self) -> int | None:
        """Take one connection; its descriptor, to be polled until `answer` is called for it."""
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionError):
            return None
        if len(self._open) >= _MOST_OPEN:  # nobody asks that many things at once: they do not ask at all
            connection.close()
            return None
        connection.setblocking(False)
        self._open[connection.fileno()] = connection
        return connection.fileno()

    def answer(self, fd: int) -> None:
        """Read the request of a connection, do it, answer, hang up."""
        connection = self._open.pop(fd)
        with connection:
            try:
                packet = connection.recv(_LARGEST)
                if packet:
                    connection.send(msgspec.json.encode(self._perform(packet)))
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                connection.send(msgspec.json.encode({"error": "the answer is too long for one packet"}))

    def _perform(self, packet: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(packet, type=dict[str, Any])
            handler = self._handlers.get(request.pop("command", ""))
            if handler is None:
                return {"error": f"unknown command; this supervisor knows {', '.join(sorted(self._handlers))}"}
            return handler(**request)
        except (ShmqError, TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            return {"error": str(error)}

    def close(self) -> None:
        """Hang up everywhere and remove the socket."""
        for connection in self._open.values():
            connection.close()
        self._socket.close()
        self._path.unlink(missing_ok=True)


def request(state_dir: Path, command: str, *, timeout_s: float = 10.0, **arguments: Any) -> dict[str, Any]:
    """Ask the supervisor and return its answer.

    Raises:
        NotRunning: nobody listens. ShmqError: the supervisor refuses, with its reason.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(timeout_s)
        try:
            with _short_path(state_dir / FILE) as address:
                connection.connect(address)
            connection.send(msgspec.json.encode({"command": command, **arguments}))
            packet = connection.recv(_LARGEST)
        except (FileNotFoundError, ConnectionError) as error:
            raise NotRunning(
                f"no supervisor listens at {state_dir / FILE} ({error.strerror}).\n"
                "Start one with `shmq supervise config.toml`."
            ) from None
        except TimeoutError:
            raise NotRunning(
                f"the supervisor did not answer `{command}` within {timeout_s:g} s; is it stopped (SIGSTOP)?"
            ) from None
    answer = msgspec.json.decode(packet, type=dict[str, Any]) if packet else {"error": "the supervisor hung up"}
    if "error" in answer:
        raise ShmqError(str(answer["error"]))
    return answer


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """Unix socket addresses hold 107 bytes: reach deep folders through a descriptor."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
