"""What only a process itself can tell of its heap. Called between two jobs, some ms long."""

from __future__ import annotations

import gc
import os
import re
import sys
from pathlib import Path

import msgspec

from shmq.heap import malloc_slack, malloc_use
from shmq.memcheck.usage.model import Heap, PoolUse
from shmq.tasks.object_pool import POOLS

_FIGURES = {
    "used": re.compile(r"^# bytes in allocated blocks\s*=\s*([\d,]+)", re.MULTILINE),
    "arenas": re.compile(r"^\d+ arenas \* \d+ bytes/arena\s*=\s*([\d,]+)", re.MULTILINE),
}


def heap(gc_mode: str) -> Heap:
    """This process's heap at this moment."""
    used, arenas = _python_allocator()
    return Heap(
        python_used=used,
        python_slack=max(arenas - used, 0),
        malloc_used=malloc_use(),
        malloc_slack=malloc_slack(),
        gc=gc_mode,
        gc_tracked=len(gc.get_objects()),
        gc_frozen=gc.get_freeze_count(),
        pools=_pools(),
    )


def write(folder: Path, gc_mode: str) -> None:
    """Put it where `look` waits for it; a full disk costs the answer, not the worker."""
    path = folder / f"heap-{os.getpid()}.json"
    try:
        path.with_suffix(".new").write_bytes(msgspec.json.encode(heap(gc_mode)))
        path.with_suffix(".new").replace(path)
    except OSError:
        path.with_suffix(".new").unlink(missing_ok=True)


def _python_allocator() -> tuple[int, int]:
    """Bytes in live blocks, bytes of all arenas. CPython tells them on the C library's stderr only."""
    text = _stderr_of(sys._debugmallocstats)
    found = {name: pattern.search(text) for name, pattern in _FIGURES.items()}
    used, arenas = (int(match[1].replace(",", "")) if match else 0 for match in found.values())
    return used, arenas


def _stderr_of(function: object) -> str:
    sys.stderr.flush()
    kept, target = os.dup(2), os.memfd_create("heap")
    try:
        os.dup2(target, 2)
        function()  # type: ignore[operator]
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        text = os.pread(target, 1 << 20, 0).decode(errors="replace")
        os.close(target)
    return text


def _pools() -> tuple[PoolUse, ...]:
    return tuple(PoolUse(pool.name, len(pool), pool.max_size) for pool in list(POOLS))
