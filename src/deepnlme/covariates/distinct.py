"""Covariates that say the same: which of them acts cannot be told, and is not left to chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepnlme.covariates.forms import Term
from deepnlme.data import Population
from deepnlme.errors import DataError, invalid

SAME = 1e-2
"""What one relation leaves of another, relative to its spread, at which they say the same, rounding included."""


def require_distinct(population: Population, terms: Sequence[Term], what: str = "candidates") -> None:
    """Refuse two covariates whose relations to one parameter are the same but for the coefficients.

    Args:
        population: The people; all of their records count.
        terms: The relations.
        what: The argument that they were given as.

    Raises:
        DataError: Naming both.
    """
    for parameter in dict.fromkeys(t.parameter for t in terms):
        own = [t for t in terms if t.parameter == parameter]
        designs = [t.design(population.records.covariates[t.covariate]) for t in own]
        for i, second in enumerate(own):
            for j, first in enumerate(own[:i]):
                if first.covariate != second.covariate and say_the_same(designs[j], designs[i]):
                    got = f"{first.covariate} and {second.covariate}"
                    expected = "They say the same, so that their effects cannot be told apart"
                    raise DataError(invalid(what, got, expected, parameter, "Leave one out"))


def _centered(columns: np.ndarray) -> np.ndarray:
    """Columns [n, q] without their means, of length 1."""
    away = columns - columns.mean(0)
    return away / np.maximum(np.linalg.norm(away, axis=0), 1e-300)


def say_the_same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the columns [n, q] of one are linear in those of the other, both with a constant."""
    if a.shape[1] != b.shape[1]:
        return False
    a, b = _centered(a), _centered(b)
    rest = b - a @ (a.T @ b) if a.shape[1] == 1 else b - a @ np.linalg.lstsq(a, b, rcond=None)[0]
    return bool(np.linalg.norm(rest, axis=0).max() < SAME)
