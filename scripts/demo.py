"""What `scripts/demo` runs: real work through real processes, each outcome checked by independent means."""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import hashlib
import http.server
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

import shmq

ROOT = Path(__file__).resolve().parent.parent
SHMQ = str(Path(sys.executable).with_name("shmq"))
START_S = 30.0
STOP_S = 30.0


@dataclass
class Outcome:
    """One kind of work: how many jobs, beside what they were checked, and what did not agree."""

    work: str
    checked_against: str
    jobs: int
    wrong: list[str]
    elapsed_s: float = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--namespace", default=os.environ.get("SHMQ_NAMESPACE") or f"demo-{os.getpid()}")
    parser.add_argument("--max-files", type=int, default=100_000, help="hash at most so many files")
    options = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)  # so that the supervisor is stopped and the folder removed then too
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="shmq-demo-"))
    os.environ.update(SHMQ_NAMESPACE=options.namespace, XDG_STATE_HOME=str(folder / "state"))
    try:
        outcomes, left = run_all(console, options.namespace, folder, options.max_files)
    except (DemoError, KeyboardInterrupt) as error:
        console.print(f"scripts/demo: {str(error) or 'interrupted'}", style="red", markup=False, soft_wrap=True)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return verdict(console, outcomes, left)


class DemoError(Exception):
    """The demo cannot go on; says why and what to look at."""


def run_all(console: Console, namespace: str, folder: Path, max_files: int) -> tuple[list[Outcome], list[str]]:
    work: dict[str, Callable[[], Outcome]] = {
        "hash files": lambda: hash_files(max_files),
        "count primes": count_primes,
        "draw": draw_mandelbrot,
        "sort": lambda: sort_lines(folder),
        "summarize": lambda: summarize_table(folder),
        "fetch": lambda: fetch_pages(folder),
    }
    outcomes = []
    with supervised(console, namespace, folder) as seen:
        for name, step in work.items():
            started = time.monotonic()
            with console.status(f"{name} ..."):
                outcome = step()
            outcome.elapsed_s = time.monotonic() - started
            console.print(f"{'ok' if not outcome.wrong else 'WRONG':>5}  {outcome.work}", highlight=False)
            outcomes.append(outcome)
        shmq.close()
        console.print("\n$ shmq status", highlight=False)
        print(command("status"), flush=True)
        seen.update(tree_of(os.getpid()))
    return outcomes, remains(namespace, seen)


# -------------------- the supervisor


@contextlib.contextmanager
def supervised(console: Console, namespace: str, folder: Path) -> Iterator[dict[int, psutil.Process]]:
    """A running supervisor; yields the processes seen under it, for the look at what is left."""
    log = folder / "supervisor.log"
    arguments = [SHMQ, "supervise", "config.toml", "--namespace", namespace]
    console.print(f"$ shmq {' '.join(arguments[1:])}", highlight=False)
    with log.open("wb") as stderr:
        supervisor = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=stderr)
    try:
        wait_ready(supervisor, log)
        yield tree_of(os.getpid())
        stop(supervisor, log)
    finally:
        if supervisor.poll() is None:  # the demo failed or was interrupted: twice, as a person would
            for ending in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                supervisor.send_signal(ending)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    supervisor.wait(STOP_S / 3)
                    break


def wait_ready(supervisor: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while supervisor.poll() is None and time.monotonic() < deadline:
        if subprocess.run([SHMQ, "status"], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    state = "ended" if supervisor.poll() is not None else f"was not ready within {START_S:g} s"
    raise DemoError(f"the supervisor {state}; its log ends:\n{tail(log)}")


def stop(supervisor: subprocess.Popen[bytes], log: Path) -> None:
    print("$ shmq stop", flush=True)
    command("stop")
    try:
        code = supervisor.wait(STOP_S)
    except subprocess.TimeoutExpired:
        raise DemoError(f"`shmq stop` did not stop it within {STOP_S:g} s; its log ends:\n{tail(log)}") from None
    if code != 0:
        raise DemoError(f"the supervisor ended with exit code {code}; its log ends:\n{tail(log)}")


def command(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run([SHMQ, *arguments], input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(f"`shmq {' '.join(arguments)}` ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def tree_of(pid: int) -> dict[int, psutil.Process]:
    return {process.pid: process for process in psutil.Process(pid).children(recursive=True)}


def remains(namespace: str, seen: dict[int, psutil.Process]) -> list[str]:
    """What outlived the supervisor: processes (psutil knows a reused pid by its start) and shared memory."""
    running = [f"process {process.pid}" for process in psutil.wait_procs(list(seen.values()), timeout=2.0)[1]]
    return running + [f"/dev/shm/{name}" for name in os.listdir("/dev/shm") if namespace in name]


def tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# -------------------- the work, each beside an independent computation


def hash_files(max_files: int) -> Outcome:
    """Through the command line: names in, digests out, in the same order."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = sorted(str(path) for path in library.rglob("*.py") if "site-packages" not in path.parts and path.is_file())
    paths = [path for path in paths if "\n" not in path][:max_files]
    printed = command("map", "workers.filesystem.hash_file", text="".join(f"{path}\n" for path in paths))
    digests = [json.loads(line) for line in printed.splitlines()]
    wrong = [] if len(digests) == len(paths) else [f"{len(paths)} names gave {len(digests)} digests"]
    expected = sha256sums(paths)
    wrong += [f"{path}: {digest}" for path, digest in zip(paths, digests, strict=False) if digest != expected[path]]
    return Outcome("sha256 of the standard library's .py files, by `shmq map`", "sha256sum", len(paths), wrong)


def sha256sums(paths: list[str]) -> dict[str, str]:
    if shutil.which("sha256sum") is None:
        return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
    sums: dict[str, str] = {}
    for start in range(0, len(paths), 500):
        arguments = ["sha256sum", "--zero", "--", *paths[start : start + 500]]
        printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        sums.update((line[66:], line[:64]) for line in printed.split("\0") if line)
    return sums


def count_primes() -> Outcome:
    """A sieve in 64 jobs beside Legendre's count, which never looks for a prime in the upper range."""
    from workers.computation import count_primes as task

    stop, parts = 8_000_000, 64
    edges = [stop * i // parts for i in range(parts + 1)]
    found = sum(shmq.map(task, edges[:-1], edges[1:]))
    known = primes_by_legendre(stop - 1)
    wrong = [] if found == known else [f"{found} instead of {known}"]
    return Outcome(f"{found:,} primes below {stop:,}, sieved in parts", "Legendre's recursion", parts, wrong)


def primes_by_legendre(limit: int) -> int:
    """pi(limit) from counts of numbers without small factors, at the values limit // i."""
    root = math.isqrt(limit)
    values = [limit // i for i in range(1, root + 1)]
    values += range(values[-1] - 1, 0, -1)
    count = {value: value - 1 for value in values}
    for prime in range(2, root + 1):
        if count[prime] == count[prime - 1]:
            continue
        for value in values:
            if value < prime * prime:
                break
            count[value] -= count[value // prime] - count[prime - 1]
    return count[limit]


def draw_mandelbrot() -> Outcome:
    """Tiles as numpy arrays, put together, beside a loop over single points in plain Python."""
    import numpy as np

    from workers.computation import mandelbrot_tile

    side, tiles, most = 160, 4, 120
    step, pixels = 2.5 / tiles, side // tiles
    corners = [(-2.0 + i * step, -1.25 + j * step) for j in range(tiles) for i in range(tiles)]
    jobs = [mandelbrot_tile.submit(x, y, x + step, y + step, pixels, pixels, most) for x, y in corners]
    rows = [np.hstack([job.result() for job in jobs[j * tiles : (j + 1) * tiles]]) for j in range(tiles)]
    picture = np.vstack(rows)
    wrong = [
        f"point ({x}, {y}): {picture[y, x]} steps"
        for y in range(side)
        for x in range(side)
        if picture[y, x] != escape_time(-2.0 + x * 2.5 / side, -1.25 + y * 2.5 / side, most)
    ]
    return Outcome(f"Mandelbrot set, {side} x {side} points in tiles", "a loop in plain Python", len(jobs), wrong)


def escape_time(real: float, imag: float, most: int) -> int:
    x = y = 0.0
    for step in range(most):
        if x * x + y * y > 4.0:
            return step
        x, y = x * x - y * y + real, 2 * x * y + imag
    return most


def sort_lines(folder: Path) -> Outcome:
    """Sort files through the disk, with far less memory than they need, beside sorted()."""
    from workers.memory import external_sort

    rng = random.Random(7)
    wrong, jobs, lines = [], [], 0
    for number in range(4):
        words = [b"%x\t%d" % (rng.getrandbits(rng.randrange(1, 80)), i) for i in range(50_000)]
        source, target = folder / f"words{number}", folder / f"sorted{number}"
        source.write_bytes(b"\n".join(words) + b"\n")
        job = external_sort.submit(str(source), str(target), max_memory_bytes=512 * 1024)
        jobs.append((job, target, words))
        lines += len(words)
    for job, target, words in jobs:
        outcome = job.result()
        if target.read_bytes() != b"\n".join(sorted(words)) + b"\n" or outcome.lines != len(words):
            wrong.append(f"{target.name}: {outcome}")
    return Outcome(f"{lines:,} lines sorted with 512 KiB of memory each", "sorted()", len(jobs), wrong)


def summarize_table(folder: Path) -> Outcome:
    """Statistics of a CSV file in chunks, beside the standard library's `statistics` on all of it."""
    from workers.memory import csv_statistics

    rng = random.Random(8)
    columns = {name: [rng.gauss(mean, 2.0) for _ in range(30_000)] for name, mean in (("a", 0.0), ("b", 1e8))}
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    wrong = []
    for column in csv_statistics.submit(str(path)).result().columns:
        values, numbers = columns[column.name], column.numbers
        if not (
            (numbers.count, numbers.minimum, numbers.maximum) == (len(values), min(values), max(values))
            and math.isclose(numbers.mean or 0.0, statistics.fmean(values), rel_tol=1e-9, abs_tol=1e-9)
            and math.isclose(numbers.std or 0.0, statistics.stdev(values), rel_tol=1e-6)
        ):
            wrong.append(f"column {column.name}: {numbers}")
    return Outcome("statistics of a CSV file in chunks", "module statistics", 1, wrong)


def fetch_pages(folder: Path) -> Outcome:
    """Pages of a loopback server by an `async def` task, many at once in one worker; and a refusal."""
    from workers.network import fetch, port_probe

    site = folder / "site"
    site.mkdir()
    rng = random.Random(9)
    pages = {f"{number}.bin": rng.randbytes(rng.randrange(30_000)) for number in range(200)}
    for name, body in pages.items():
        (site / name).write_bytes(body)
    with served(site) as port:
        urls = [f"http://127.0.0.1:{port}/{name}" for name in pages]
        bodies = [result.body for result in shmq.map(fetch, urls)]
        wrong = [url for url, body, page in zip(urls, bodies, pages.values(), strict=True) if body != page]
        missing = fetch.submit(f"http://127.0.0.1:{port}/no").result().status
        state = port_probe.submit("127.0.0.1", [port]).result()[0]
    wrong += [] if missing == 404 else [f"missing page: status {missing}"]
    wrong += [] if state.is_open else [f"open port: {state}"]
    refused = fetch.submit("file:///etc/passwd").exception()
    wrong += [] if isinstance(refused, ValueError) else [f"file:// was answered with {refused!r}"]
    return Outcome(f"{len(pages)} pages fetched from a loopback server", "the files it serves", len(pages) + 3, wrong)


@contextlib.contextmanager
def served(site: Path) -> Iterator[int]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256  # a hundred fetches connect at once

    with Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


# -------------------- the outcome


def verdict(console: Console, outcomes: list[Outcome], left: list[str]) -> int:
    table = Table(title="outcome", title_justify="left")
    for name in ("work", "checked against"):
        table.add_column(name)
    for name in ("jobs", "seconds", "wrong"):
        table.add_column(name, justify="right")
    for outcome in outcomes:
        wrong = f"[red]{len(outcome.wrong)}[/red]" if outcome.wrong else "0"
        table.add_row(outcome.work, outcome.checked_against, f"{outcome.jobs:,}", f"{outcome.elapsed_s:.2f}", wrong)
    console.print(table)
    faults = [f"{outcome.work}: {fault}" for outcome in outcomes for fault in outcome.wrong[:5]]
    faults += [f"left behind: {what}" for what in left]
    for fault in faults:
        console.print(fault, style="red", markup=False, soft_wrap=True)
    jobs = sum(outcome.jobs for outcome in outcomes)
    if not faults:
        console.print(f"{jobs:,} jobs, all right; stopped, nothing left behind.", highlight=False)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
