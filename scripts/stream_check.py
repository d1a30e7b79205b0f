"""`shmq.stream` over more input than there is memory for: results verified, memory of the whole tree against the limit.

    counter ─▶ blocks of bytes, made as they are pulled ─▶ shmq.stream(fold) ─▶ checksums ══ those computed here beside?
                                                     └▶ shmq.stream(flip) ─▶ a quarter of them, reversed

Memory is what the stream adds: private memory of every process of the tree, this one included, and blocks in use, above
what all of them took before the first item.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from supervised import supervised

CONFIG = """
namespace = "{namespace}"
tasks = ["check_tasks"]
[groups.computation]
min_workers = 2
max_workers = 2
mode = "fixed"
"""
TASKS = """
import zlib
import shmq

@shmq.task
def fold(block: bytes) -> tuple[int, int]:
    return len(block), zlib.crc32(block)

@shmq.task
def flip(block: bytes) -> bytes:
    return block[::-1]
"""
_SEED = bytes(range(256)) * 4096  # 1 MiB; each block is a slice that begins elsewhere, under a number of its own


def block_of(number: int, size: int) -> bytes:
    """The input's block of this number, the same each time."""
    at = number * 37 % 255
    return number.to_bytes(8, "little") + _SEED[at : at + size - 8]


class Peak:
    """Looks at the tree's memory five times a second."""

    def __init__(self, root: int, client: Any) -> None:
        self._root, self._client = root, client
        self._stop = threading.Event()
        self.base = self._now()
        self.peak = self.base
        self.blocks_peak = 0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _now(self) -> int:
        return sum(_private_bytes(pid) for pid in [os.getpid(), *_tree(self._root)])

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            blocks = self._client._blocks.used_bytes()
            self.blocks_peak = max(self.blocks_peak, blocks)
            self.peak = max(self.peak, self._now() + blocks)

    def added(self) -> int:
        """Bytes at the peak above the beginning."""
        self._stop.set()
        self._thread.join()
        return self.peak - self.base


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


def _private_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss_Anon"))


@click.command(help=__doc__)
@click.option("--gb", default=10.0, help="Bytes of input, in 10^9.")
@click.option("--block", default=64_000, type=click.IntRange(16, 1_000_000), help="Bytes of one item.")
@click.option("--limit", default="100 MB", help="memory_limit of the stream.")
@click.option("--chunk-size", default=1000)
def main(gb: float, block: int, limit: str, chunk_size: int) -> None:
    count = max(int(gb * 1e9 / block), 1)
    with supervised("stream-check", CONFIG, TASKS) as (supervisor, _):
        is_right = _check("fold", count, block, limit, chunk_size, supervisor.pid)
        is_right &= _check("flip", count // 4 or 1, block, limit, chunk_size, supervisor.pid)
    sys.exit(0 if is_right else 1)


def _check(task: str, count: int, size: int, limit: str, chunk_size: int, root: int) -> bool:
    import shmq
    from shmq.client.many.window import parse_size

    client = shmq.connect()
    for _ in client.stream(f"check_tasks.{task}", (block_of(n, size) for n in range(300)), chunk_size, limit):
        pass  # everything is imported and warm before the memory of the beginning is taken
    peak = Peak(root, client)
    begin = time.monotonic()
    source = (block_of(number, size) for number in range(count))
    got = is_right = 0
    for number, result in enumerate(client.stream(f"check_tasks.{task}", source, chunk_size, limit)):
        sent = block_of(number, size)  # once more, here
        is_right += result == ([len(sent), zlib.crc32(sent)] if task == "fold" else sent[::-1])
        got += 1
    took = time.monotonic() - begin
    added = peak.added()
    client.close()
    nbytes = count * size
    print(
        f"{task}: {nbytes / 1e9:.2f} GB in {count:,} items, {took:.1f} s, {nbytes / 1e6 / took:.0f} MB/s; "
        f"right: {is_right:,} of {count:,}; memory added at the peak {added / 1e6:.1f} MB "
        f"(blocks {peak.blocks_peak / 1e6:.1f} MB of it), limit {parse_size(limit) / 1e6:.1f} MB",
        flush=True,
    )
    return got == is_right == count and added < parse_size(limit)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
