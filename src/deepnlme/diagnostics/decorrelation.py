"""Prediction distribution errors: where observations lie among simulated ones, correlation within subjects removed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri

from deepnlme.errors import ModelError, invalid

NUMBERS = 4_000_000
"""Simulated values at a time."""

METHODS = ("cholesky", "inverse", "none")
"""Ways to take the correlation away."""


def prediction_errors(
    y: np.ndarray, simulated: np.ndarray, subject: np.ndarray, method: str, ids: np.ndarray, keep: int
) -> tuple[np.ndarray, np.ndarray]:
    """Normalised prediction distribution errors of the observations, and of some simulated sets.

    With E_i and V_i the mean and covariance of the K simulated vectors of subject i,

        y* = V_i^(-1/2) (y - E_i),    pde = share of simulated y* below the observed one,    npde = Phi^-1(pde)

    where V^(-1/2) is the inverse of the lower Cholesky factor or of the symmetric root; without decorrelation y* = y
    (npd). A share of 0 or 1 becomes 1/(2K) or 1 - 1/(2K).

    Args:
        y: Observations (float [N]).
        simulated: Simulated values (float [K, N]).
        subject: Subject of each observation (int [N]), those of a subject together.
        method: "cholesky", "inverse" (symmetric root) or "none".
        ids: Identifiers for the messages ([N]).
        keep: Number of simulated sets whose own errors, among all K, are wanted too.

    Returns:
        Errors of the observations (float [N]) and of the first simulated sets (float [keep, N]).

    Raises:
        ModelError: Fewer simulated sets than a subject has observations, or a covariance that has no inverse.

    Source: Brendel et al. 2006, Pharm Res 23:2036; Comets, Brendel, Mentre 2008, Comput Meth Prog Biomed 90:154;
        1/(2K): the npde package, version 2.0 and later.
    """
    k = len(simulated)
    out, sets = np.empty(len(y)), np.empty((keep, len(y)))
    for columns in _groups(subject, k):  # [G, n] positions of the observations of G subjects
        own, drawn = y[columns], np.moveaxis(simulated[:, columns], 0, -1)  # [G, n], [G, n, K]
        if method != "none":
            own, drawn = _decorrelated(own, drawn, method, ids[columns[:, 0]])
        below = (drawn < own[..., None]).sum(-1)
        out[columns] = _normal(below, k)
        if keep:
            rank = drawn.argsort(-1).argsort(-1)[..., :keep]
            sets[:, columns] = np.moveaxis(ndtri((rank + 0.5) / k), -1, 0)
    return out, sets


def _normal(below: np.ndarray, k: int) -> np.ndarray:
    """Phi^-1 of a share of K."""
    return ndtri(np.clip(below / k, 0.5 / k, 1.0 - 0.5 / k))


def _groups(subject: np.ndarray, k: int) -> Iterator[np.ndarray]:
    """Positions of the observations of subjects that have equally many, [G, n], small enough for memory."""
    _, start, count = np.unique(subject, return_index=True, return_counts=True)
    for n in np.unique(count):
        first = start[count == n]
        size = max(1, NUMBERS // (int(n) * k))
        for part in range(0, len(first), size):
            yield first[part : part + size, None] + np.arange(n)


def _decorrelated(y: np.ndarray, drawn: np.ndarray, method: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y* of the observations [G, n] and of the simulated values [G, n, K]."""
    n, k = drawn.shape[1:]
    if k <= n:
        expected = f"The covariance of {n} observations needs more simulated sets than that"
        raise ModelError(invalid("replicates", k, expected, f"subject {ids[0]}", f"Use {max(10 * n, 1000)} or more"))
    centre = drawn.mean(-1)
    residual, own = drawn - centre[..., None], y - centre
    variance = residual @ np.swapaxes(residual, 1, 2) / (k - 1)
    root = _roots(variance, method, ids)
    return np.linalg.solve(root, own[..., None])[..., 0], np.linalg.solve(root, residual)


def _roots(variance: np.ndarray, method: str, ids: np.ndarray) -> np.ndarray:
    """V^(1/2) of each subject [G, n, n]."""
    scale = np.sqrt(np.maximum(np.einsum("gnn->gn", variance), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.linalg.eigvalsh(np.nan_to_num(variance / (scale[:, :, None] * scale[:, None, :])))
    bad = np.flatnonzero((scale == 0).any(1) | (values[:, 0] < 1e-12 * values[:, -1]))
    if len(bad):
        expected = "Decorrelation needs observations that vary, none of which follows from the others"
        fix = "Set MDV=1 on observations without variability (a baseline that is fixed), or use decorrelation='none'"
        raise ModelError(invalid("covariance", "a singular one", expected, f"subject {ids[bad[0]]}", fix))
    if method == "cholesky":
        return np.linalg.cholesky(variance)
    values, vectors = np.linalg.eigh(variance)
    return (vectors * np.sqrt(values)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
