"""The path of an adaptive group lasso on a quadratic approximation of a likelihood.

Source: Wang, Leng 2007, J Am Stat Assoc 102:1039 (least squares approximation); Zou 2006, J Am Stat Assoc 101:1418
(adaptive weights); Yuan, Lin 2006, J R Stat Soc B 68:49 (groups).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq

TOLERANCE = 1e-12
"""Change of a coefficient, relative to the largest one, at which the descent ends."""
SWEEPS = 10_000
"""Most sweeps over the groups at one penalty."""


def path(
    best: np.ndarray, curvature: np.ndarray, groups: Sequence[np.ndarray], weights: np.ndarray, penalties: np.ndarray
) -> np.ndarray:
    """Minimisers of (b - best)' H (b - best) + lambda sum_g w_g |b_g| for decreasing lambda, [L, q].

    Cyclic descent over the groups, each solved exactly, every lambda from the minimiser at the one before.

    Args:
        best: [q] unpenalised estimates.
        curvature: H [q, q], positive definite.
        groups: Positions of the coefficients of every group.
        weights: [G] of the groups.
        penalties: [L] lambda, decreasing.
    """
    parts = [np.linalg.eigh(curvature[np.ix_(g, g)]) for g in groups]
    right = curvature @ best
    b, out = np.zeros(len(best)), np.zeros((len(penalties), len(best)))
    scale = max(float(np.abs(best).max()), 1e-300)
    for i, penalty in enumerate(penalties):
        for _ in range(SWEEPS):
            moved = 0.0
            for g, weight, (values, vectors) in zip(groups, weights, parts, strict=True):
                rest = right[g] - curvature[g] @ b + curvature[np.ix_(g, g)] @ b[g]
                new = _group(rest, values, vectors, float(penalty * weight))
                moved = max(moved, float(np.abs(new - b[g]).max()))
                b[g] = new
            if moved <= TOLERANCE * scale:
                break
        out[i] = b
    return out


def _group(rest: np.ndarray, values: np.ndarray, vectors: np.ndarray, threshold: float) -> np.ndarray:
    """The minimiser of b' D b - 2 rest' b + threshold |b| with D = vectors diag(values) vectors'.

    It is zero for 2 |rest| <= threshold; else its length t solves |2 rest / (2 D t + threshold)| = 1.
    """
    if 2.0 * float(np.linalg.norm(rest)) <= threshold:
        return np.zeros(len(rest))
    if len(rest) == 1:
        return np.sign(rest) * (np.abs(rest) - 0.5 * threshold) / values
    local = 2.0 * (vectors.T @ rest)
    if threshold == 0.0:
        return vectors @ (local / (2.0 * values))
    high = float(np.linalg.norm(local) / (2.0 * values.min()))
    t = float(brentq(lambda t: np.sum((local / (2.0 * values * t + threshold)) ** 2) - 1.0, 0.0, high, xtol=1e-300))  # type: ignore[arg-type]
    return vectors @ (local * t / (2.0 * values * t + threshold))


def group_weights(best: np.ndarray, groups: Sequence[np.ndarray], power: float) -> np.ndarray:
    """Adaptive weights sqrt(size) / |best_g|^power, [G]."""
    return np.array([math.sqrt(len(g)) / max(float(np.linalg.norm(best[g])), 1e-12) ** power for g in groups])


def largest_penalty(
    best: np.ndarray, curvature: np.ndarray, groups: Sequence[np.ndarray], weights: np.ndarray
) -> float:
    """The smallest lambda at which all coefficients are zero."""
    right = 2.0 * curvature @ best
    return max(float(np.linalg.norm(right[g])) / w for g, w in zip(groups, weights, strict=True))


def restricted(best: np.ndarray, curvature: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, float]:
    """The minimiser of the quadratic with all but the active coefficients at zero, and its value there.

    Args:
        best: [q].
        curvature: [q, q].
        active: [q] mask.
    """
    b = np.zeros(len(best))
    if active.any():
        on = np.ix_(active, active)
        off = np.ix_(active, ~active)
        b[active] = best[active] + np.linalg.solve(curvature[on], curvature[off] @ best[~active])
    away = b - best
    return b, float(away @ curvature @ away)
