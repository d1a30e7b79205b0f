"""Memory of processes as it is seen in practice, made up: arenas, trims, caches, replacements."""

from __future__ import annotations

import numpy as np

from shmq.memcheck.windows import Series

KIB, MIB = 2**10, 2**20
BASE = 30 * MIB
Random = np.random.Generator


def clock(minutes: float = 10, every_s: float = 2.0) -> np.ndarray:
    return np.arange(0, minutes * 60, every_s)


def series(t_s, value, *, jobs_per_s=200.0, jobs=None, name="worker 1", quantity="rss_anon_bytes") -> Series:
    counted = t_s * jobs_per_s if jobs is None else jobs
    return Series("worker", name, quantity, np.asarray(t_s, float), np.asarray(value, float), counted)


def white(r: Random, t, size):
    return r.normal(0, size, len(t))


def drifting(r: Random, t, size, tau_s):
    """Noise that forgets in `tau_s`."""
    keep = np.exp(-(t[1] - t[0]) / tau_s)
    steps = r.normal(0, size * np.sqrt(1 - keep**2), len(t))
    out = np.zeros(len(t))
    for i in range(1, len(t)):
        out[i] = keep * out[i - 1] + steps[i]
    return out


def warm_up(t, size=5 * MIB, tau_s=15):
    return size * (1 - np.exp(-t / tau_s))


def in_arenas(grown, arena=256 * KIB, offset=0.0):
    return np.floor((grown + offset) / arena) * arena


def trims(r: Random, t, every_s=60, depth=MIB, length_s=6):
    """malloc_trim now and then: a drop that fills up again."""
    out, at = np.zeros(len(t)), r.uniform(0, every_s)
    while at < t[-1]:
        out[(t >= at) & (t < at + length_s)] -= depth * r.uniform(0.5, 1.5)
        at += r.exponential(every_s)
    return out


def realistic(r: Random, t, leak_bytes_per_s=0.0):
    """A worker with warm-up, arenas of 256 KiB, trims of 1 MiB each minute, and perhaps a leak."""
    leaked = in_arenas(leak_bytes_per_s * t, offset=r.uniform(0, 256 * KIB))
    return BASE + warm_up(t) + leaked + white(r, t, 20 * KIB) + trims(r, t)
