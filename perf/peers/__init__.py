"""What people use today, each behind the same two verbs, so that one driver measures them all.

pools/     executors and pools of the same machine
queues/    bare queues: the loop around them is ours, there is no recovery, no retry
clusters/  schedulers that happen to run on one machine
brokers/   task queues over a Redis on a free loopback port
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MODULES = (
    "pools.process_pool_executor",
    "pools.multiprocessing_pool",
    "pools.loky",
    "pools.pebble",
    "pools.deadpool",
    "pools.mpire",
    "queues.faster_fifo",
    "queues.pyzmq",
    "clusters.ray",
    "clusters.dask",
    "brokers.celery",
    "brokers.dramatiq",
    "brokers.rq",
)


@dataclass(frozen=True)
class Session:
    """A peer with its workers running.

    `bind(function)` gives what submits one job of it: argument → handle, with as little around the peer's own call
    as can be; `read(handle)` gives the result. `map` is the peer's own bulk call.
    """

    bind: Callable[[Callable[..., Any]], Callable[[Any], Any]]
    read: Callable[[Any], Any]
    map: Callable[[Callable[..., Any], Sequence[Any]], Iterable[Any]] | None = None


@dataclass(frozen=True)
class Peer:
    """How to start a peer, and what it needs.

    `verb` names the call that is measured, `map_verb` its bulk call, as a reader would look them up.
    `open(workers)` runs it. `jobs`: most jobs that make sense in one measurement of a slow peer.
    """

    name: str
    verb: str
    open: Callable[[int], AbstractContextManager[Session]]
    module: str = ""
    distribution: str = ""
    command: str = ""
    map_verb: str = ""
    jobs: int = 1_000_000
    window: int = 2_000

    @property
    def label(self) -> str:
        return f"{self.name}.{self.verb}" if self.verb else self.name

    def missing(self) -> str:
        """Why this peer cannot run here; empty when it can."""
        if self.module and importlib.util.find_spec(self.module) is None:
            return f"not installed (pip install {self.distribution or self.module})"
        if self.command and shutil.which(self.command) is None:
            return f"{self.command} is not on PATH"
        return ""


def load(names: Iterable[str] = ()) -> list[Peer]:
    """The adapters, all or those named; raises ValueError for a name that nobody has."""
    peers = [importlib.import_module(f"perf.peers.{module}").PEER for module in MODULES]
    wanted = {name.lower() for name in names}
    known = {peer.name.lower() for peer in peers}
    if wanted - known:
        raise ValueError(f"unknown peer {', '.join(sorted(wanted - known))}; known: {', '.join(p.name for p in peers)}")
    return [peer for peer in peers if not wanted or peer.name.lower() in wanted]
