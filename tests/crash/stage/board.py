"""What jobs did, written where no kill can undo it: one anonymous mapping shared with every forked child."""

from __future__ import annotations

import mmap

from shmq.memory.layout import WORD

JOBS = 64
_memory = mmap.mmap(-1, 64 * 1024)
_cells = memoryview(_memory).cast(WORD)

executions = _cells[0:JOBS]
accepted = _cells[JOBS : 2 * JOBS]
cancelled = _cells[2 * JOBS : 3 * JOBS]
ASKED, PROMISED = 1, 2
"""`cancelled`: cancel was called; it returned True."""
altered = _cells[3 * JOBS : 4 * JOBS]
fatal = _cells[4 * JOBS : 5 * JOBS]
"""1: the next run of the job ends its worker."""
point = _cells[5 * JOBS : 5 * JOBS + 1]
"""The opcode at which the child was killed, or how many there were when it survived."""
points = _cells[6 * JOBS :]
"""A dry run's answer: how many opcodes, then the number of each that follows a change of shared memory."""


def clear() -> None:
    """Forget everything, before the next kill."""
    _memory[: 6 * JOBS * 8] = bytes(6 * JOBS * 8)
