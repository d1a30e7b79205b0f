"""The supervisor of a run, which ends with it: `python -m shmq.memcheck.soak.guarded PID SCRATCH supervise ...`.

    run killed ──▶ SIGTERM here ──▶ the supervisor stops in order ──▶ what the run would have removed is removed

PID is the run's, SCRATCH the folder of the supervisor's state. Neither numpy nor threads: what runs is a supervisor.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys

from shmq.kernel import die_with_parent
from shmq.memory import doorbell
from shmq.memory.segment import SHM, segment_name


def remove_names(namespace: str) -> None:
    """Jobs that were cut off keep the segment for a next supervisor: there will be none."""
    segment = segment_name(namespace)
    (SHM / segment).unlink(missing_ok=True)
    for name in doorbell.names_of(segment):
        doorbell.unlink(name)


def main(parent: int, scratch: str) -> None:
    """Runs as a process of its own; `sys.argv` holds the arguments of `shmq`."""
    if not die_with_parent(parent, signal.SIGTERM):
        sys.exit("the soak run has ended already")
    try:
        runpy.run_module("shmq", run_name="__main__")
    finally:
        if os.getppid() != parent:
            remove_names(os.environ["SHMQ_NAMESPACE"])
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    run, folder = int(sys.argv[1]), sys.argv[2]
    sys.argv[1:3] = []
    main(run, folder)
