"""What `shmq.memory()` returns, as frozen structs: the shape of `shmq status --memory --json`."""

from __future__ import annotations

from msgspec import Struct


class PoolUse(Struct, frozen=True):
    """One `shmq.ObjectPool` of a worker."""

    factory: str
    idle: int
    """Objects that are kept and not lent."""
    max_size: int


class Heap(Struct, frozen=True, kw_only=True):
    """What a process says of its own heap; bytes."""

    python_used: int
    """In blocks of Python's own allocator that hold objects."""
    python_slack: int
    """In its arenas, but free: pages that one live object each keeps."""
    malloc_used: int
    """Handed out by malloc: large objects, numpy, C libraries."""
    malloc_slack: int
    """Freed, and not given back to the system."""
    gc: str
    """The group's `gc` mode."""
    gc_tracked: int
    """Objects that a full collection walks over."""
    gc_frozen: int
    """Objects set aside before the fork: never walked, their pages stay shared."""
    pools: tuple[PoolUse, ...] = ()

    @property
    def used(self) -> int:
        """Bytes that live objects hold."""
        return self.python_used + self.malloc_used

    @property
    def slack(self) -> int:
        """Bytes that allocators keep for later."""
        return self.python_slack + self.malloc_slack


class WorkerMemory(Struct, frozen=True, kw_only=True):
    """One worker process; bytes. Private: not shared with other processes by being the segment or a file."""

    row: int
    pid: int
    private: int
    private_peak: int
    heap: Heap | None
    """None: it did not answer in time, because it is in a long job."""


class GroupMemory(Struct, frozen=True, kw_only=True):
    """One resource group."""

    name: str
    workers: tuple[WorkerMemory, ...]
    slots: int
    """Rows of the job table that its jobs take."""
    block_bytes: int
    """Blocks of those jobs, and blocks that its workers keep views of."""
    why: str
    """The same in words, with what can be done where something can."""

    @property
    def private(self) -> int:
        """Of all its workers."""
        return sum(worker.private for worker in self.workers)


class ProducerMemory(Struct, frozen=True, kw_only=True):
    """One producer row in use."""

    row: int
    pid: int
    slots: int
    block_bytes: int
    pinned_bytes: int
    """Part of the blocks that views in this process keep."""


class Memory(Struct, frozen=True, kw_only=True):
    """Everything at one moment."""

    segment_bytes: int
    slots: int
    slots_used: int
    block_bytes: int
    block_used_bytes: int
    groups: tuple[GroupMemory, ...]
    producers: tuple[ProducerMemory, ...]
