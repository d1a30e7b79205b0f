"""How many jobs of a group are worth claiming at once, as the planner measured it."""

from __future__ import annotations

import os

from shmq.config.check import nearest
from shmq.errors import UnknownGroup
from shmq.memory.layout import GROUP_PLAN
from shmq.memory.segment import attach, segment_name


def optimize_batch_size(group: str, namespace: str | None = None) -> int:
    """The batch size with which a claim of this group takes about `target_batch_s`; also a good size of chunks.

    From the service time that the planner measures; 1 while it knows none.

    Args:
        namespace: None means SHMQ_NAMESPACE, else "default".

    Raises:
        NotRunning: no supervisor serves the namespace.
        UnknownGroup: it has no such group.
    """
    namespace = namespace or os.environ.get("SHMQ_NAMESPACE") or "default"
    segment = attach(segment_name(namespace))
    try:
        groups = segment.group_names()
        if group not in groups:
            raise UnknownGroup(f"no group {group!r} in namespace {namespace!r}; {nearest(group, groups)}")
        return max(int(segment.rows("group_plan")[groups.index(group)][GROUP_PLAN["batch"]]), 1)
    finally:
        segment.close()
