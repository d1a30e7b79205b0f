"""How an exception travels: as plain data, rebuilt only from an allow-list. No pickle.

Built-in exception types and shmq's own job errors come back as themselves; every other type
comes back as `TaskFailed` with its name. The remote traceback is the `__cause__`.
"""

from __future__ import annotations

import builtins
import os
import traceback
from functools import cache

import msgspec

from shmq import errors

_MAX_TEXT = 64 * 1024


class Failure(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Why a job failed. `args` are the exception's arguments when they can travel."""

    type_name: str
    message: str
    traceback: str = ""
    args: bytes = b""
    retries_left: int = 0  # a call of a chunk: so often it may be tried again


class RemoteTraceback(Exception):
    """The traceback in the worker, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


_OWN = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.ShmqError) and value is not errors.ConfigError
}
_BUILTIN = {
    name: value for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)
}
_simple = msgspec.msgpack.Encoder()


def describe(error: BaseException) -> Failure:
    """The exception as a Failure. Survives exceptions whose `str()` raises."""
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in {"builtins", "shmq.errors"}
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        message = str(error)[:_MAX_TEXT]
    except Exception as odd:  # noqa: BLE001 - any user-defined __str__ may raise anything
        message = f"<str() of the exception raised {type(odd).__name__}>"
    try:
        text = "".join(traceback.format_exception(error))[-_MAX_TEXT:]
    except Exception:  # noqa: BLE001 - as above: formatting calls user code
        text = "".join(traceback.format_tb(error.__traceback__))[-_MAX_TEXT:]
    message, text = _printable(message), _printable(text)
    try:
        args = _simple.encode(_arguments(error))
    except Exception:  # noqa: BLE001 - arguments may be anything; then the message stands for them
        args = b""
    return Failure(name, message, text, args if len(args) <= _MAX_TEXT else b"")


def _arguments(error: BaseException) -> tuple[object, ...]:
    """What rebuilds the exception: `args`, and what some types keep beside them."""
    if isinstance(error, errors.TaskFailed):
        return str(error), error.type_name
    if isinstance(error, OSError) and error.filename is not None and len(error.args) == 2:
        names = (error.filename,) if error.filename2 is None else (error.filename, None, error.filename2)
        return *error.args, *(os.fspath(name) if isinstance(name, os.PathLike) else name for name in names)
    return error.args


def _printable(text: str) -> str:
    """Lone surrogates cannot be encoded; show them escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def rebuild(failure: Failure) -> BaseException:
    """An exception to raise for the failure, with the remote traceback as its cause."""
    error = _instance(failure)
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error


@cache
def _ended(name: str) -> type[errors.ShmqError]:
    """What a worker refuses is of the kind that the client would have raised, and the end of an accepted job."""
    kind = _OWN[name]
    return type(
        kind.__name__,
        (kind, errors.JobError),
        {
            "__doc__": kind.__doc__,
            "__module__": kind.__module__,
            "__reduce__": lambda error: (_made_again, (name, error.args)),  # no module holds it: pickled by its parts
        },
    )


def _made_again(name: str, args: tuple[object, ...]) -> BaseException:
    return _ended(name)(*args)


def _instance(failure: Failure) -> BaseException:
    kind = _OWN.get(failure.type_name) or _BUILTIN.get(failure.type_name)
    if kind is None:
        shown = failure.type_name.rsplit(".", 1)[-1]
        return errors.TaskFailed(f"{shown}: {failure.message}", failure.type_name)
    if issubclass(kind, errors.SubmitError):
        kind = _ended(failure.type_name)
    try:
        error = kind(*msgspec.msgpack.decode(failure.args)) if failure.args else kind(failure.message)
    except Exception:  # noqa: BLE001 - a constructor may refuse; the message still tells
        return errors.TaskFailed(f"{failure.type_name}: {failure.message}", failure.type_name)
    assert isinstance(error, BaseException)
    return error
