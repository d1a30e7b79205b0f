"""Options that many commands share, and the way to the namespace's segment and supervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from click.core import ParameterSource
from msgspec.structs import replace

from shmq.config.check import nearest
from shmq.config.model import Config, Name
from shmq.errors import NotRunning, UnknownGroup
from shmq.memory.segment import SHM, Segment, attach, segment_name

if TYPE_CHECKING:
    from shmq.client.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def _checked_namespace(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else msgspec.convert(value, Name)
    except msgspec.ValidationError:
        raise click.BadParameter(
            f'{value!r}: 1 to 64 letters, digits, "_", "." or "-", a letter or digit first.'
        ) from None


namespace_option: Callable[[F], F] = click.option(
    "-n",
    "--namespace",
    envvar="SHMQ_NAMESPACE",
    default="default",
    show_default=True,
    show_envvar=True,
    metavar="NAME",
    callback=_checked_namespace,
    help="Which supervisor of this user.",
)
override_namespace: Callable[[F], F] = click.option(
    "-n",
    "--namespace",
    envvar="SHMQ_NAMESPACE",
    show_envvar=True,
    metavar="NAME",
    callback=_checked_namespace,
    help="Instead of the configuration's namespace.",
)
json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
config_argument: Callable[[F], F] = click.argument("config", metavar="CONFIG", type=click.Path(path_type=Path))
priority_option: Callable[[F], F] = click.option(
    "--priority", type=click.IntRange(1, 5), help="1 is served first, 5 last."
)
timeout_option: Callable[[F], F] = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Time limit of each run.",
)


def with_namespace(config: Config, namespace: str | None, say: Callable[[str], object]) -> Config:
    """The configuration in the namespace of option or environment; `say` is told when the environment decides."""
    if namespace is None or namespace == config.namespace:
        return config
    if click.get_current_context().get_parameter_source("namespace") is ParameterSource.ENVIRONMENT:
        say(f"SHMQ_NAMESPACE wins: the namespace is {namespace!r}, not {config.namespace!r} as in the configuration")
    return replace(config, namespace=namespace)


@contextmanager
def attached(namespace: str) -> Iterator[Segment]:
    """The namespace's segment. Raises NotRunning."""
    segment = attach(segment_name(namespace))
    try:
        yield segment
    finally:
        segment.close()


def segment_exists(namespace: str) -> bool:
    """Has the namespace a segment under its name?"""
    return (SHM / segment_name(namespace)).exists()


@contextmanager
def connected(namespace: str) -> Iterator[Client]:
    """A client of the namespace. Raises NotRunning."""
    from shmq.client.client import Client

    with Client(namespace) as client:
        yield client


def ask(namespace: str, command: str, **arguments: Any) -> dict[str, Any]:
    """Tell the namespace's supervisor to do something; its answer. Raises NotRunning, ShmqError."""
    from shmq.supervisor.control import request

    return request(state_dir_of(namespace), command, **arguments)


def known_group(namespace: str, group: str) -> str:
    """The group, if the namespace has it. Raises UnknownGroup, NotRunning."""
    with attached(namespace) as segment:
        groups = segment.group_names()
    if group not in groups:
        raise UnknownGroup(f"no group {group!r} in namespace {namespace!r}; {nearest(group, groups)}")
    return group


def state_dir_of(namespace: str) -> Path:
    """The namespace's state directory, also when nothing runs. Raises NotRunning."""
    from shmq.supervisor.namespace import state_dir

    try:
        with attached(namespace) as segment:
            return segment.state_dir
    except NotRunning:
        folder = state_dir(Config(namespace=namespace))
        if folder.is_dir():
            return folder
        raise
