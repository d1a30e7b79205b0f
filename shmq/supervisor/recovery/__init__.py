"""Recovery: a process of its own. Imported there only: it needs numpy, the supervisor does not."""

from shmq.supervisor.recovery.recovery import Recovery

__all__ = ["Recovery"]
