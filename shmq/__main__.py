"""`python -m shmq`: the command line, for an interpreter whose scripts are not on PATH."""

from __future__ import annotations

from shmq.cli.main import main

if __name__ == "__main__":
    main()
