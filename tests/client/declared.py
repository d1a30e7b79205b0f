"""The tasks that these tests submit; imported by the workers and by the tests under the same name."""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

import shmq


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float = 0.0


class Box(msgspec.Struct):
    corner: Point
    label: str
    colour: Colour = Colour.RED


class Odd(Exception):
    """A type that producers cannot rebuild."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even my text fails")


class AbortAll(BaseException):
    pass


# -- values ---------------------------------------------------------------------------


@shmq.task
def echo(value: Any) -> Any:
    return value


@shmq.task
def kind(value):
    return type(value).__name__


@shmq.task
def at(moment: datetime) -> datetime:
    assert isinstance(moment, datetime), type(moment)
    return moment + timedelta(hours=1)


@shmq.task
def day(of: date) -> date:
    assert isinstance(of, date), type(of)
    return of


@shmq.task
def identify(key: UUID) -> UUID:
    assert isinstance(key, UUID), type(key)
    return key


@shmq.task
def price(amount: Decimal) -> Decimal:
    assert isinstance(amount, Decimal), type(amount)
    return amount * 2


@shmq.task
def move(point: Point, by: int = 1) -> Point:
    return Point(point.x + by, point.y)


@shmq.task
def relabel(box: Box, label: str) -> Box:
    assert isinstance(box.corner, Point)
    return Box(box.corner, label, Colour.BLUE)


@shmq.task
def other(colour: Colour) -> Colour:
    return Colour.BLUE if colour is Colour.RED else Colour.RED


@shmq.task
def unique(values: set[int]) -> set[int]:
    assert isinstance(values, set), type(values)
    return values | {0}


@shmq.task
def pair(value: tuple[int, str]) -> tuple[int, str]:
    assert isinstance(value, tuple), type(value)
    return value


@shmq.task
def points(by_name: dict[str, Point]) -> list[Point]:
    return [by_name[name] for name in sorted(by_name)]


@shmq.task
def maybe(value: Point | None = None) -> Point | None:
    return value


# -- arrays -----------------------------------------------------------------------------


@shmq.task
def doubled(array: np.ndarray) -> np.ndarray:
    return array * 2


@shmq.task
def scaled(array: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    return array * by


@shmq.task
def described(array: np.ndarray) -> tuple[str, list[int], float, bool]:
    return array.dtype.str, list(array.shape), float(array.sum()), bool(array.flags.writeable)


@shmq.task
def same_array(array: np.ndarray) -> np.ndarray:
    return array


@shmq.task
def many_arrays(arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {str(i): array + i for i, array in enumerate(arrays)}


@shmq.task
def ones(count: int) -> np.ndarray:
    return np.ones(count)


@shmq.task(group="single")  # one worker: what it keeps is found there again
def kept(array: np.ndarray) -> float:
    """Keep a view beyond the job, as a cache would."""
    _cache.append(array)
    return float(array[0])


@shmq.task(group="single", retries=1)
def kept_at_each_attempt(array: np.ndarray) -> float:
    """Both attempts keep a view of the same block."""
    _cache.append(array)
    if len(_cache) == 1:
        raise shmq.Retry(0.0)
    return float(array[0])


@shmq.task(group="single")
def drop_first_kept() -> None:
    del _cache[0]


@shmq.task(group="single")
def look_at_kept() -> list[float]:
    found = [float(array[0]) for array in _cache]
    _cache.clear()
    return found


@shmq.task(group="single")
def are_kept_uniform() -> list[bool]:
    found = [bool((array == array[0]).all()) for array in _cache]
    _cache.clear()
    return found


_cache: list[np.ndarray] = []


@shmq.task
def blob(size: int) -> bytes:
    return b"x" * size


@shmq.task
def length(value: Any) -> int:
    return len(value)


# -- failures ---------------------------------------------------------------------------


@shmq.task
def fail_as(name: str, *args: Any) -> None:
    kinds = {"Odd": Odd, "Unspeakable": Unspeakable, "AbortAll": AbortAll}
    kind = kinds.get(name) or getattr(__builtins__, name, None) or __builtins__[name]  # type: ignore[index]
    raise kind(*args)


@shmq.task
def fail_deeply() -> None:
    _inner_step_of_fail_deeply()


def _inner_step_of_fail_deeply() -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error


@shmq.task
def fail_with_surrogate() -> None:
    raise ValueError("lone \udc80 surrogate")


@shmq.task
def fail_at_length(size: int) -> None:
    raise ValueError("x" * size)


@shmq.task
def leave(code: int) -> None:
    sys.exit(code)


@shmq.task
def recurse() -> None:
    recurse.function()


@shmq.task
def unencodable_result() -> Any:
    return object()


@shmq.task
def reject(reason: str) -> None:
    raise shmq.Reject(reason)


@shmq.task(retries=2, backoff=0.001)
def succeed_at(path: str, attempt: int) -> int:
    with open(path, "ab") as file:
        file.write(b".")
    if os.path.getsize(path) < attempt:
        raise ConnectionError("not yet")
    return os.path.getsize(path)


@shmq.task
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- signatures -------------------------------------------------------------------------


@shmq.task
def keywords(a: int, b: int = 2, *, c: int, d: int = 4) -> list[int]:
    return [a, b, c, d]


@shmq.task
def gather(first: Any, *rest: Any, **named: Any) -> list[Any]:
    return [first, list(rest), named]


@shmq.task
def positional(a: int, b: int = 5, /) -> list[int]:
    return [a, b]


@shmq.task
def only_keywords(*, array: NDArray[np.float64], point: Point) -> list[Any]:
    return [type(array).__name__, type(point).__name__, float(array.sum())]


@shmq.task
def nothing() -> None:
    return None


@shmq.task
def wrong_result() -> int:
    return "three"  # type: ignore[return-value]


@shmq.task
def typed_number(n: int) -> int:
    return n


# -- time and order ---------------------------------------------------------------------


@shmq.task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@shmq.task
def wait_for_file(path: str, limit_s: float = 20.0) -> bool:
    """Run until the file exists or the job is cancelled; True when the file came."""
    give_up = time.monotonic() + limit_s
    while time.monotonic() < give_up:
        if shmq.cancelled():
            return False
        if os.path.exists(path):
            return True
        time.sleep(0.002)
    raise TimeoutError(path)


@shmq.task(group="single")
def hold(path: str) -> bool:
    return wait_for_file.function(path)


@shmq.task(group="single")
def note(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text + "\n")


@shmq.task(group="single")
def single(value: Any) -> Any:
    return value


@shmq.task(group="parked")
def parked(value: Any) -> Any:
    return value


@shmq.task
def when() -> float:
    return time.monotonic()


@shmq.task(timeout=0.1)
def spin() -> None:
    while True:
        pass


@shmq.task
def spin_for(seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        pass


@shmq.task(group="many", timeout=0.2)
async def block_the_loop(seconds: float) -> float:
    time.sleep(seconds)  # noqa: ASYNC251 - what it must not do
    return seconds


@shmq.task
async def acho(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@shmq.task
def parts(count: int):
    yield from range(count)


# -- streams ------------------------------------------------------------------------------


@shmq.task
async def async_parts(count: int):
    for number in range(count):
        await asyncio.sleep(0)
        yield number


@shmq.task
def typed_parts(count: int) -> Iterator[Point]:
    for number in range(count):
        yield Point(number)


@shmq.task
def one_buffer(count: int, size: int):
    """A generator that writes each part into the same array."""
    buffer = np.empty(size)
    for number in range(count):
        buffer[:] = number
        yield buffer


@shmq.task
def sizes(*lengths: int):
    for length in lengths:
        yield b"x" * length


@shmq.task
def parts_then(count: int, error: str):
    yield from range(count)
    raise {"ValueError": ValueError, "Odd": Odd}[error](f"after {count}")


@shmq.task
def step_by_step(folder: str, count: int = 1_000_000):
    """Tells how far it is, and what ended it, in files: `at`, `end`."""
    at = 0
    with open(f"{folder}/at", "wb", 0) as told:
        try:
            for at in range(count):
                told.seek(0)
                told.write(b"%d" % at)
                yield at
        except BaseException as error:
            Path(f"{folder}/end").write_text(type(error).__name__)
            raise


@shmq.task(group="many")
def step_in_thread(folder: str):
    yield from step_by_step.function(folder)


@shmq.task(group="many")
async def step_on_loop(folder: str):
    for part in step_by_step.function(folder):
        yield part


@shmq.task
def first_then_wait(path: str):
    yield "first"
    wait_for_file.function(path)
    yield "second"


@shmq.task
def odd_part(count: int):
    yield from range(count)
    yield object()


@shmq.task(retries=2, backoff=0.0)
def fails_at_the_gate(path: str):
    yield "first"
    wait_for_file.function(path)
    raise OSError("not again")


@shmq.task(retries=2, backoff=0.0)
def third_time_lucky(path: str):
    """Each attempt leaves a mark; the first two fail after a part."""
    with open(path, "a") as file:
        file.write("x")
    yield os.path.getsize(path)
    if os.path.getsize(path) < 3:
        raise OSError("not yet")


@shmq.task
def read_inside(count: int) -> int:
    return sum(parts.options(group="single").submit(count).stream())


@shmq.task
def take(value: Any) -> int:
    """Bytes of what came."""
    return getattr(value, "nbytes", None) or len(value)


@shmq.task
def give(nbytes: int) -> bytes:
    return b"x" * nbytes


@shmq.task
def die_once_at_three(number: int, mark: str = "") -> int:
    if number == 3 and not os.path.exists(os.environ["XDG_STATE_HOME"] + "/died"):
        open(os.environ["XDG_STATE_HOME"] + "/died", "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@shmq.task(retries=2, backoff=0.0)
def second_time(path: str) -> str:
    """Fails the first time that it sees the path; "" never fails."""
    if path and not os.path.exists(path):
        open(path, "x").close()
        raise OSError("not yet")
    return path


@shmq.task
def who() -> list[Any]:
    job = shmq.current_job()
    assert job is not None
    return [job.id, job.task, job.group, job.attempt]


@shmq.task
def submit_inside(value: int) -> int:
    return single.submit(value + 1).result(10)


# -- output -----------------------------------------------------------------------------


@shmq.task
def speak(text: str) -> None:
    print(text)


@shmq.task
def log(text: str) -> None:
    logging.getLogger("declared").warning(text)


@shmq.task
def touch(path: str) -> None:
    Path(path).touch()


@shmq.task(forget=True)
def touch_and_forget(path: str) -> None:
    Path(path).touch()


# -- for map ------------------------------------------------------------------------------


@shmq.task
def divide(by: int) -> float:
    return 1 / by


@shmq.task
def odd_result(number: int) -> Any:
    return object() if number == 2 else number


@shmq.task
def parked_or_first(number: int) -> int:
    return number


@shmq.task
def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@shmq.task
def parent_of(path: Path) -> Path:
    assert isinstance(path, Path)
    return path.parent


@shmq.task(group="single")
def mutter(text: str) -> None:
    sys.stdout.write(text)


@shmq.task
def large_after_deaths(item: tuple[str, int, int]):
    """Parts that no block holds together; the first item's worker is killed while the others' wait for their turn."""
    folder, number, deaths = item
    path = Path(folder)
    (path / f"begun {number}").touch()
    if number == 0 and len(list(path.glob("death *"))) < deaths:
        while len(list(path.glob("begun *"))) < 6:
            time.sleep(0.002)
        (path / f"death {time.monotonic_ns()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    for part in range(3):
        yield np.full(500_000, 10.0 * number + part)
