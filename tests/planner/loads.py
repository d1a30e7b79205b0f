"""Synthetic loads: recorded ones are not shipped."""

from __future__ import annotations

import numpy as np


def daily(days: float, step_s: float = 1800.0, mean: float = 50.0, seed: int = 0) -> list[float]:
    """Poisson arrivals with a daily season."""
    n = int(days * 86_400 / step_s)
    t = np.arange(n) * step_s / 86_400
    rate = mean * (1 + 0.8 * np.sin(2 * np.pi * t))
    return np.random.default_rng(seed).poisson(rate).astype(float).tolist()


def flat(n: int, mean: float, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).poisson(mean, n).astype(float).tolist()


def square(periods: int, half: int, low: float, high: float, seed: int = 0) -> list[float]:
    """`half` steps low, `half` steps high, and again."""
    rate = np.tile(np.repeat([low, high], half), periods)
    return np.random.default_rng(seed).poisson(rate).astype(float).tolist()
