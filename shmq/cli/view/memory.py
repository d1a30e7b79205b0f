"""What `shmq.memory()` found, as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shmq.cli.text import NOTHING, number, printable, size, table

if TYPE_CHECKING:
    from shmq.memcheck.usage.model import Memory, WorkerMemory


def render(memory: Memory) -> str:
    """Segment, each group in words with its workers, producers."""
    head = (
        f"segment {size(memory.segment_bytes)}, reserved at start; "
        f"slots {number(memory.slots_used)} of {number(memory.slots)}, "
        f"blocks {size(memory.block_used_bytes)} of {size(memory.block_bytes)}"
    )
    groups = [
        f"{group.name}: {len(group.workers)} workers, {size(group.private)} private\n  {printable(group.why)}"
        for group in memory.groups
    ]
    workers = [[group.name, *_worker(worker)] for group in memory.groups for worker in group.workers]
    titles = ["group", "worker", ">pid", ">private", ">at its peak", ">in use", ">Python slack", ">malloc slack"]
    producers = [
        [str(p.row), str(p.pid or NOTHING), number(p.slots), size(p.block_bytes), size(p.pinned_bytes)]
        for p in memory.producers
    ]
    parts = [head, *groups, table(titles, workers) if workers else ""]
    parts += [table(["producer", ">pid", ">slots", ">blocks", ">of them pinned"], producers) if producers else ""]
    return "\n\n".join(part for part in parts if part)


def _worker(worker: WorkerMemory) -> list[str]:
    heap = worker.heap
    own = [NOTHING] * 3 if heap is None else [size(heap.used), size(heap.python_slack), size(heap.malloc_slack)]
    return [str(worker.row), str(worker.pid), size(worker.private), size(worker.private_peak), *own]
