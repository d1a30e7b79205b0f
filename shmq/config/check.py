"""What no single key can tell: names that must exist, sums and sizes that must fit each other."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from shmq.config.model import MAX_GROUPS, Config, Group, Limit


def cross_problems(config: Config) -> list[str]:
    """Everything that is wrong between keys, one sentence each; empty when the configuration can be used."""
    checks = (_group_problems, _name_problems, _memory_problems, _limit_problems)
    return [problem for check in checks for problem in check(config)]


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean X?' if one of `known` looks like `word`, else the list of what is known."""
    known = sorted(known)
    if close := difflib.get_close_matches(word, known, n=2, cutoff=0.5):
        return f"did you mean {' or '.join(close)}?"
    return f"known are: {', '.join(known)}"


def _group_problems(config: Config) -> Iterator[str]:
    if not 1 <= len(config.groups) <= MAX_GROUPS:
        yield (
            f"expected groups to hold 1 to {MAX_GROUPS} tables, got {len(config.groups)}; "
            f"leave [groups] out for the four default groups"
        )
    for name, group in config.groups.items():
        where = f"groups.{name}"
        if isinstance(group.max_workers, int) and group.min_workers > group.max_workers:
            yield (
                f"expected {where}.min_workers to be at most max_workers ({group.max_workers}), got {group.min_workers}"
            )
        soft, hard = group.max_worker_memory_bytes, group.hard_worker_memory_bytes
        if soft is not None and hard is not None and soft > hard:
            yield (
                f"expected {where}.max_worker_memory_bytes to be at most hard_worker_memory_bytes ({hard}), "
                f"got {soft}; workers would be killed before they could be replaced"
            )
    wanted = sum(_workers_for_certain(group) for group in config.groups.values())
    if wanted > config.memory.max_workers:
        yield (
            f"expected memory.max_workers to be at least {wanted}, the workers of all groups together, "
            f"got {config.memory.max_workers}; raise it or lower max_workers of a group"
        )


def _workers_for_certain(group: Group) -> int:
    return max(group.min_workers, group.max_workers if isinstance(group.max_workers, int) else 1)


def _name_problems(config: Config) -> Iterator[str]:
    for name, group in config.groups.items():
        if group.escalate_to == name:
            yield (
                f'expected groups.{name}.escalate_to to be another group or "", got "{name}"; '
                f"the job would meet the same limit again"
            )
        elif group.escalate_to is not None and group.escalate_to not in config.groups:
            yield _no_such_group(f"groups.{name}.escalate_to", group.escalate_to, config)
    for i, route in enumerate(config.routes):
        if route.group not in config.groups:
            yield _no_such_group(f"routes[{i}].group", route.group, config)
    for module in {module for module in config.tasks if config.tasks.count(module) > 1}:
        yield f'expected tasks to name each module once, got "{module}" {config.tasks.count(module)} times'


def _no_such_group(where: str, name: str, config: Config) -> str:
    return f'expected {where} to be a group of this file, got "{name}"; {nearest(name, config.groups)}'


def _memory_problems(config: Config) -> Iterator[str]:
    memory = config.memory
    powers_of_two = {
        "slots_per_producer": memory.slots_per_producer,
        "block_unit_bytes": memory.block_unit_bytes,
    }
    for key, value in powers_of_two.items():
        if value & (value - 1):
            low = 1 << (value.bit_length() - 1)
            yield f"expected memory.{key} to be a power of two, got {value}; nearest are {low} and {2 * low}"
    needed = memory.arenas * memory.block_unit_bytes
    if memory.block_budget_bytes < needed:
        yield (
            f"expected memory.block_budget_bytes to be at least {needed}, one block of "
            f"{memory.block_unit_bytes} bytes in each of {memory.arenas} arenas, "
            f"got {memory.block_budget_bytes}"
        )


def _limit_problems(config: Config) -> Iterator[str]:
    limits: list[tuple[str, Limit]] = [(f"groups.{name}", group) for name, group in config.groups.items()]
    limits += [(f'limits."{name}"', limit) for name, limit in config.limits.items()]
    for where, limit in limits:
        if limit.burst is not None and limit.rate_per_s is None:
            yield f"expected {where}.rate_per_s beside burst = {limit.burst}; a burst alone limits nothing"
