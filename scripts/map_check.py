"""`shmq map` on real files: the digests of sha256sum, faster than xargs, flat memory over a million lines.

find FOLDER -type f ──▶ shmq map workers.filesystem.hash_file ──▶ digests ══ those of sha256sum?
                   └──▶ xargs -P2 -n1 sha256sum                ──▶ time, side by side
1,000,000 lines     ──▶ shmq map check_tasks.same             ──▶ peak memory of the command
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import click
import msgspec
from supervised import supervised

CONFIG = """
namespace = "{namespace}"
tasks = ["workers.filesystem", "check_tasks"]
[groups.filesystem]
min_workers = 2
max_workers = 2
[groups.computation]
min_workers = 2
max_workers = 2
"""
TASKS = "import shmq\n\n\n@shmq.task\ndef same(line: str) -> str:\n    return line\n"


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path, exists=True), default=Path("/usr"), help="Where files are.")
@click.option("--files", default=12_000, help="Files to hash, at most 64 KiB each.")
@click.option("--lines", default=1_000_000, help="Lines through a trivial task.")
def main(folder: Path, files: int, lines: int) -> None:
    names = [str(path) for path in _some_files(folder, files)]
    if len(names) < files:
        raise SystemExit(f"{folder} has only {len(names)} readable files of the wanted {files}; name another --folder")
    with supervised("map-check", CONFIG, TASKS) as (_, scratch):
        is_right = _hash(names) and _stream(lines, scratch)
    sys.exit(0 if is_right else 1)


def _some_files(folder: Path, most: int) -> list[Path]:
    found: list[Path] = []
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            if "\n" not in str(path) and not path.is_symlink() and path.is_file() and path.stat().st_size < 65536:
                found.append(path)
                if len(found) == most:
                    return found
    return found


def _hash(names: list[str]) -> bool:
    """Same digests, and the times of both."""
    listing = "".join(f"{name}\n" for name in names).encode()
    # first of all: from now on no file is read from disk
    (_, plain) = _timed(["xargs", "-d", "\n", "sha256sum"], listing)
    ours_s, ours = _timed([sys.executable, "-m", "shmq", "map", "workers.filesystem.hash_file"], listing)
    peers = {
        "xargs -P2 -n1 sha256sum": _timed(["xargs", "-d", "\n", "-P2", "-n1", "sha256sum"], listing),
        "xargs -P2 -n50 sha256sum": _timed(["xargs", "-d", "\n", "-P2", "-n50", "sha256sum"], listing),
    }
    wanted = [line[:64].decode().removeprefix("\\") for line in plain.splitlines()]
    found = [msgspec.json.decode(line) for line in ours.splitlines()]
    print(f"{len(names):,} files: shmq map {ours_s:.2f} s, " + ", ".join(f"{k} {v[0]:.2f} s" for k, v in peers.items()))
    print(f"same digests as sha256sum: {found == wanted}")
    return found == wanted and ours_s < peers["xargs -P2 -n1 sha256sum"][0]


def _timed(command: list[str], stdin: bytes) -> tuple[float, bytes]:
    begin = time.monotonic()
    output = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout
    return time.monotonic() - begin, output


def _stream(lines: int, scratch: Path) -> bool:
    """Peak memory of the command at a tenth of the lines and at all of them."""
    peaks = []
    for count in (lines // 10, lines):
        source, target = scratch / "lines", scratch / "out"
        with source.open("w") as file:
            file.writelines(f"{number}\n" for number in range(count))
        with source.open("rb") as stdin, target.open("wb") as stdout:
            begin = time.monotonic()
            pid = subprocess.Popen(
                [sys.executable, "-m", "shmq", "map", "check_tasks.same"], stdin=stdin, stdout=stdout
            ).pid
            _, status, usage = os.wait4(pid, 0)
            took = time.monotonic() - begin
        with target.open() as file:
            is_right = status == 0 and all(line == f'"{n}"\n' for n, line in enumerate(file))
        peaks.append(usage.ru_maxrss / 1024)
        print(f"{count:,} lines: {took:.2f} s, peak {peaks[-1]:.0f} MiB, right: {is_right}")
        if not is_right:
            return False
    return peaks[1] < 1.25 * peaks[0]


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
