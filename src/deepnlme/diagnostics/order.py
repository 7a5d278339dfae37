"""Quantiles of samples, of which some values may be infinite: known only to lie below or above a limit."""

from __future__ import annotations

import numpy as np


def quantiles(values: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Quantiles along the last axis, linearly interpolated between order statistics (numpy's "linear", R's type 7).

    A quantile that depends on an infinite value is infinite.

    Args:
        values: Samples ([..., n]).
        probabilities: Of the quantiles (float [Q]).

    Returns:
        The quantiles ([Q, ...]).
    """
    n = values.shape[-1]
    ordered = np.sort(values, axis=-1)
    position = np.asarray(probabilities, dtype=float) * (n - 1)
    low = np.clip(np.floor(position + 1e-9).astype(int), 0, n - 1)
    part = np.clip(position - low, 0.0, 1.0)
    part = np.where(part < 1e-9, 0.0, part)
    a = np.moveaxis(ordered[..., low], -1, 0)
    b = np.moveaxis(ordered[..., np.minimum(low + 1, n - 1)], -1, 0)
    part = part.reshape(-1, *[1] * (values.ndim - 1))
    with np.errstate(invalid="ignore"):
        out = a + part * (b - a)
    out = np.where(np.isneginf(a), a, np.where(np.isposinf(b), b, out))
    return np.where(part == 0.0, a, out)


def interval(simulated: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower end, median and upper end of the central interval over replicates (first axis), each [...]."""
    tail = 0.5 * (1.0 - level)
    low, middle, high = quantiles(np.moveaxis(simulated, 0, -1), np.array([tail, 0.5, 1.0 - tail]))
    return low, middle, high
