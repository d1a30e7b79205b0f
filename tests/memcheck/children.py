"""Starting leaky.py in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("leaky.py")
ROOT = Path(__file__).parents[2]


def start(task: str, folder: Path, *options: str, program: Path = PROGRAM) -> subprocess.Popen[str]:
    (folder / "traces").mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(program), task, str(folder), *options],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "2"},
    )


def run(task: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    child = start(task, folder, *options)
    _, errors = child.communicate(timeout=240)
    return subprocess.CompletedProcess(child.args, child.returncode, None, errors)
