"""Confidence intervals of a proportion."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import betaincinv, ndtri

from deepnlme.errors import ModelError, invalid


def wilson(successes: Any, trials: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion (Brown, Cai and DasGupta 2001, Statistical Science 16: 101-133).

    Args:
        successes: Number of successes; may be fractional with an effective number of trials.
        trials: Number of trials, positive.
        level: Confidence level.

    Returns:
        Lower and upper limit, of the shape of the arguments.

    Example:
        >>> low, high = wilson(81, 263)
        >>> round(float(low), 4), round(float(high), 4)
        (0.2553, 0.3662)
    """
    z = float(ndtri(0.5 + 0.5 * level))
    n = np.asarray(trials, dtype=np.float64)
    p = np.asarray(successes, dtype=np.float64) / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = np.where(p == 0, 0.0, centre - half), np.where(p == 1, 1.0, centre + half)
    return np.maximum(low, 0.0), np.minimum(high, 1.0)


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion: it covers with at least `level` (Clopper and Pearson 1934).

    Args:
        successes: Number of successes.
        trials: Number of trials, positive.
        level: Confidence level.

    Returns:
        Lower and upper limit.
    """
    tail, k, n = 0.5 * (1.0 - level), successes, trials
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1.0 - tail))
    return low, high


def check_share(name: str, value: Any) -> float:
    """A number between 0 and 1, both excluded; else raise ModelError."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not (number and 0 < value < 1):
        raise ModelError(invalid(name, repr(value), "It is a number between 0 and 1"))
    return float(value)
