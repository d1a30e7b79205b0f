"""The job word: one u64 that decides a job's fate. Changed in one store.

A load or store may be of the lower half alone where the upper one stays as it is: who publishes leaves the generation.

bits   0-3    state
       4-7    crashes      (workers that died while they ran it)
       8-15   failures     (attempts that ended with an exception)
       16-21  group
       22-31  owner        (worker row of a lease)
       32-63  generation   (of the slot; a freed slot's next job has the next one)
"""

from __future__ import annotations

FREE, QUEUED, REQUEUED, LEASED, RUNNING, SCHEDULED, DONE, FAILED, CANCELLED = range(9)
STATE_NAMES = ("free", "queued", "queued", "leased", "running", "scheduled", "done", "failed", "cancelled")

STATE = 0xF
CRASH = 1 << 4
CRASHES = 0xF << 4
FAILURE = 1 << 8
FAILURES = 0xFF << 8
GROUP_SHIFT = 16
GROUP = 0x3F << GROUP_SHIFT
OWNER_SHIFT = 22
OWNER = 0x3FF << OWNER_SHIFT
GENERATION_SHIFT = 32
LAST_GENERATION = 0xFFFFFFFF

FIRST_FREE = 1 << GENERATION_SHIFT
"""Word of a slot never used: generation 1, so that a zeroed `cancel` names no job."""


def next_free(word: int) -> int:
    """The FREE word that ends the job of `word`: the generation moves on, never to 0."""
    return (((word >> GENERATION_SHIFT) + 1) & LAST_GENERATION or 1) << GENERATION_SHIFT


def state_of(word: int) -> int:
    """State number."""
    return word & STATE


def crashes_of(word: int) -> int:
    """Workers that died while they ran the job (counted when a run starts)."""
    return (word & CRASHES) >> 4


def failures_of(word: int) -> int:
    """Attempts that ended with an exception."""
    return (word & FAILURES) >> 8


def group_of(word: int) -> int:
    """Group index."""
    return (word & GROUP) >> GROUP_SHIFT


def owner_of(word: int) -> int:
    """Worker row of the lease."""
    return (word & OWNER) >> OWNER_SHIFT


def generation_of(word: int) -> int:
    """Generation of the slot."""
    return word >> GENERATION_SHIFT


def with_state(word: int, state: int) -> int:
    """The word in another state, without an owner."""
    return (word & ~(STATE | OWNER)) | state


def job_id(word: int, slot: int) -> int:
    """Identity of the job: generation and slot."""
    return (word >> GENERATION_SHIFT) << 32 | slot
