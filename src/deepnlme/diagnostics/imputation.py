"""Values that are not exact, censored or discrete, made continuous for prediction distribution errors."""

from __future__ import annotations

import numpy as np

from deepnlme.diagnostics.replicated import Replicated


def imputed(found: Replicated, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Observations and simulated values with the censored ones drawn from their distribution below (above) the limit.

    A censored observation gets the prediction discrepancy pd ~ U(0, p), p the share of its simulated values beyond the
    limit, and the value that the simulated ones have there. Simulated values beyond the limit are drawn anew in the
    same way: like that of the observation, their correlation with the other values of the subject is lost.

    Args:
        found: With limits.
        rng: Source of the draws.

    Returns:
        Observations (float [N]) and simulated values (float [K, N]).

    Source: Nguyen, Comets, Mentre 2012, J Pharmacokinet Pharmacodyn 39:499.
    """
    y, simulated = found.y.copy(), found.simulated.copy()
    for sign, limit in ((1.0, found.lower), (-1.0, found.upper)):
        columns = np.flatnonzero(np.isfinite(limit))
        if len(columns):
            ends = sign * limit[columns]
            ordered = np.sort(sign * found.simulated[:, columns], axis=0)
            beyond = sign * found.simulated[:, columns] < ends
            again = sign * _beyond(ordered, beyond.sum(0), ends, rng.random((1 + len(simulated), len(columns))))
            y[columns] = np.where(found.cens[columns] == sign, again[0], y[columns])
            simulated[:, columns] = np.where(beyond, again[1:], simulated[:, columns])
    return y, simulated


def _beyond(ordered: np.ndarray, number: np.ndarray, limit: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Values below the limit at the shares u of their empirical distribution, linear between the simulated ones.

    Args:
        ordered: Simulated values in ascending order (float [K, M]).
        number: How many of them are below the limit (int [M]).
        limit: The limit (float [M]), which stands where there is none.
        u: Shares (float [D, M]).
    """
    position = u * number
    j = np.minimum(position.astype(int), len(ordered) - 1)
    after = np.minimum(j + 1, len(ordered) - 1)
    low = np.where(j < number, np.take_along_axis(ordered, j, 0), limit)
    high = np.where(j + 1 < number, np.take_along_axis(ordered, after, 0), limit)
    return low + (position - j) * (high - low)


def spread(y: np.ndarray, simulated: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers made continuous: y + U(0, 1), for observed and simulated values.

    The share of simulated values below the observed one is then P(sim < y) + u P(sim = y): ties are broken at random.
    """
    return y + rng.random(y.shape), simulated + rng.random(simulated.shape)
