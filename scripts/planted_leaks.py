"""What `scripts/planted-leaks` runs: the plants of tests/memcheck/planted under `shmq soak`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.memcheck.planted.run import run, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/planted-leaks", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--per-s", type=float, default=500.0, help="jobs per second of each plant")
    parser.add_argument("--out", type=Path, help="keep the run here, with its report.html")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shmq-planted-") as scratch:
        found, said = run(options.out or Path(scratch), minutes=options.minutes, per_s=options.per_s)
    print("\n".join(table(found)) if found else said)
    return 0 if found and all(row.is_right for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
