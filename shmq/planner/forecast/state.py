"""Learned patterns on disk: one file per forecaster, versioned, checked, replaced whole.

An `.npz` archive (its CRCs find torn and flipped bytes) with `version`, `step_seconds` and the arrays that
the parts name in `STATE`. A file that cannot be used is renamed to `NAME.damaged` and reported; learning
starts afresh. It never stops the planner.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

VERSION = 1
MOST = 1e12  # no state is greater: all but counters and times are sums of roots of counts
MOST_BYTES = 8 << 20  # a larger file is not ours; reading it could take all memory

UNREADABLE = (
    OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ArithmeticError,
)  # fmt: skip
Values = dict[str, NDArray[np.float64]]

log = logging.getLogger("shmq.planner")


class Part(Protocol):
    """Something with state: `STATE` names its arrays and numbers."""

    STATE: ClassVar[tuple[str, ...]]


class Unusable(ValueError):
    """The file does not hold the state of such a forecaster; the text says why."""


def save(path: Path, step_seconds: float, parts: Mapping[str, Part]) -> None:
    """Write the state of all parts, so that the file is either the old or the new one. Raises OSError."""
    arrays: dict[str, NDArray[np.float64]] = {
        f"{key}.{name}": np.asarray(getattr(part, name), dtype=np.float64)
        for key, part in parts.items()
        for name in part.STATE
    }
    buffer = io.BytesIO()
    np.savez(buffer, version=np.array(VERSION), step_seconds=np.array(step_seconds), **arrays)  # type: ignore[arg-type]
    fresh = path.with_name(path.name + ".new")  # one name: what a killed save leaves is overwritten
    try:
        fresh.write_bytes(buffer.getbuffer())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def load(path: Path, step_seconds: float, parts: Mapping[str, Part], check: Callable[[Values], None]) -> Values | None:
    """Read what `save` wrote of such parts; None without a file that can be used.

    Args:
        check: raises Unusable, or an error of arithmetic, for numbers that mean nothing.
    """
    try:
        values = _read(path, step_seconds, parts)
        check(values)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        aside = path.with_name(path.name + ".damaged")
        try:
            path.replace(aside)
            where = f"set aside as {aside}"
        except OSError as stuck:
            where = f"left where it is ({stuck})"
        log.warning(
            "learned patterns %s cannot be used: %s; %s. Learning starts afresh, unless you put back a copy.",
            path,
            str(error) or type(error).__name__,
            where,
        )
        return None
    return values


def put(values: Values, parts: Mapping[str, Part]) -> None:
    """Give the parts the state that was read."""
    for key, part in parts.items():
        for name in part.STATE:
            old, value = getattr(part, name), values[f"{key}.{name}"]
            if isinstance(old, np.ndarray):
                old[...] = value  # in place: other parts hold views
            else:
                setattr(part, name, type(old)(value))


def _read(path: Path, step_seconds: float, parts: Mapping[str, Part]) -> Values:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise Unusable(f"it has {size} bytes, more than the {MOST_BYTES} any state takes")
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise Unusable("it is no archive")
        if int(archive["version"]) != VERSION:
            raise Unusable(f"it is of version {int(archive['version'])}, this program writes {VERSION}")
        if float(archive["step_seconds"]) != step_seconds:
            raise Unusable(f"its steps are of {float(archive['step_seconds']):g} s, not {step_seconds:g} s")
        values = {}
        for key, part in parts.items():
            for name in part.STATE:
                value = archive[f"{key}.{name}"]
                old = getattr(part, name)
                shape = np.shape(old)
                if value.shape != shape or value.dtype != np.float64 or not (abs(value) <= MOST).all():
                    raise Unusable(f"{key}.{name} is not {shape} numbers up to {MOST:g}")
                if isinstance(old, int) and not (value >= 0 and value == int(value)):
                    raise Unusable(f"{key}.{name} = {float(value):g} is no count")
                values[f"{key}.{name}"] = value
    return values
