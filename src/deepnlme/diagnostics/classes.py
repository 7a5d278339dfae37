"""Classes of counts and categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deepnlme.diagnostics.replicated import Replicated
from deepnlme.errors import ModelError, invalid

DISTINCT = 6
"""Distinct values up to which each is a class."""

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Shares of the observations at which more values are divided into classes."""

Class = tuple[str, Callable[[np.ndarray], np.ndarray]]


def classes_of(found: Replicated, ends: Sequence[float] | None) -> list[Class]:
    """Labels of the classes, and functions that tell which values belong.

    Without `ends` every value is a class if there are at most 6 distinct ones among observed and simulated values, else
    the classes end at the quintiles of the observations.

    Args:
        found: Observed and simulated values.
        ends: Upper ends of the classes but the last.

    Raises:
        ModelError: Values that are not whole numbers, without ends; or ends that do not increase.
    """
    if ends is not None:
        try:
            at = np.atleast_1d(np.asarray(ends, dtype=float))
        except (TypeError, ValueError):
            at = np.zeros(0)
        if at.ndim != 1 or not len(at) or not np.isfinite(at).all() or (np.diff(at) <= 0).any():
            expected = "Give the upper ends of the classes, increasing"
            raise ModelError(invalid("classes", repr(ends), expected, "", "For example [0, 1, 5]"))
    elif not found.discrete:
        expected = "Categories and counts are whole numbers"
        fix = "Use kind='continuous', or give classes=[...]"
        raise ModelError(invalid("kind", "'categorical'", expected, f"endpoint {found.endpoint}", fix))
    else:
        values = np.unique(np.concatenate([np.unique(found.y), np.unique(found.simulated)]))
        if len(values) <= DISTINCT:
            return [_single(value) for value in values]
        at = np.unique(np.quantile(found.y, SHARES, method="inverted_cdf"))
    lows = np.concatenate([[-np.inf], at])
    highs = np.concatenate([at, [np.inf]])
    smallest = min(found.y.min(), found.simulated.min())
    return [_class(low, high, smallest, found.discrete) for low, high in zip(lows, highs, strict=True)]


def _single(value: float) -> Class:
    return f"{value:g}", lambda values: values == value


def _class(low: float, high: float, smallest: float, whole: bool) -> Class:
    def belongs(values: np.ndarray) -> np.ndarray:
        return (values > low) & (values <= high)

    if not np.isfinite(high):
        return f"> {low:g}", belongs
    if not np.isfinite(low):
        return (f"{high:g}" if whole and smallest == high else f"<= {high:g}"), belongs
    if not whole:
        return f"{low:g} - {high:g}", belongs
    return (f"{high:g}" if high == low + 1 else f"{low + 1:g} - {high:g}"), belongs
