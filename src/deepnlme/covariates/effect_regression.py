"""Linear regression of all random effects together on the columns of a covariate, by generalised least squares.

The data of subject i say eta_i ~ N(y_i, V_i) (see `deepnlme.covariates.targets`). With eta_i = B'(1, x_i) + r_i and
r_i ~ N(0, Omega_r) the estimates B minimise

    sum_i (y_i - B'(1, x_i))' (Omega_r + V_i)^-1 (y_i - B'(1, x_i))

The covariate may act on every effect, so that what it does to one is not taken for what it does to another where a
subject's data do not tell them apart. Directions of which the data of a subject say nothing have no weight, however
small Omega is in the others; an effect of which nobody's data say anything is held at zero. As in ordinary least
squares the variance is known up to a factor, which the residuals give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from deepnlme.covariates.targets import EffectTargets

NOTHING = 1e-12
"""Information relative to the most that a subject's data say, at which it is rounding."""


@dataclass(frozen=True)
class Regression:
    """The regression as one effect sees it.

    Attributes:
        slopes: [q] coefficients; NaN for a column that is the same for all subjects.
        covariance: [q, q] of them.
        df: Degrees of freedom of the residuals of one effect; 0 if the coefficients are not determined.
        r2: Share of the variance that is explained.
        p: Of no relation at all, by the F test; NaN if it cannot be tested.
    """

    slopes: np.ndarray
    covariance: np.ndarray
    df: float
    r2: float
    p: float


def regression(targets: EffectTargets, columns: np.ndarray) -> list[Regression]:
    """The regression for each of k effects.

    With several effects Omega_r is found from the residuals of a first pass with Omega, since a covariate may explain
    much of one effect and nothing of another; with one effect the common factor does that. Omega_r has the residuals of
    each effect to go by, so that their degrees of freedom are those of one effect, not of all together.

    Args:
        targets: Of S subjects.
        columns: [S, q].
    """
    k, q = len(targets.names), columns.shape[1]
    differ = np.flatnonzero(np.ptp(columns, axis=0) > 0)
    known = np.einsum("skk->k", targets.precision) > 0
    nothing = Regression(np.full(q, math.nan), np.full((q, q), math.nan), 0.0, math.nan, math.nan)
    if not len(differ) or not known.any():
        return [nothing] * k
    design = np.column_stack([np.ones(len(columns)), columns[:, differ]])
    found = _least_squares(targets, design, targets.omega, known)
    if found is not None and k > 1:
        found = _least_squares(targets, design, targets.residual(design @ found[0].T)[0], known)
    if found is None:
        return [nothing] * k
    b, covariance, df = found
    out, n, each = [], len(differ), df / int(known.sum())
    places = np.cumsum(known) - 1
    for j in range(k):
        if not known[j]:
            out.append(nothing)
            continue
        at = places[j] * (n + 1) + 1 + np.arange(n)
        own, slopes = covariance[np.ix_(at, at)], b[j, 1:]
        f = float(slopes @ np.linalg.solve(own, slopes)) / n if np.any(own) else math.inf
        r2 = 1.0 if math.isinf(f) else n * f / (n * f + each)
        full, matrix = np.full(q, math.nan), np.full((q, q), math.nan)
        full[differ], matrix[np.ix_(differ, differ)] = slopes, own
        out.append(Regression(full, matrix, each, r2, float(f_distribution.sf(f, n, each))))
    return out


def _least_squares(
    targets: EffectTargets, design: np.ndarray, omega: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Coefficients [k, q + 1], zero for effects that are not known; of the others the covariance and df; or None."""
    y, w, subject = whitened(targets, omega)
    x = (w[:, known, None] * design[subject][:, None, :]).reshape(len(y), -1)
    df = len(y) - x.shape[1]
    if df < 2 * known.sum() or np.linalg.matrix_rank(x / np.linalg.norm(x, axis=0)) < x.shape[1]:
        return None
    b, *_ = np.linalg.lstsq(x, y, rcond=None)
    out = np.zeros((len(known), design.shape[1]))
    out[known] = b.reshape(-1, design.shape[1])
    return out, float(np.sum((y - x @ b) ** 2)) / df * np.linalg.inv(x.T @ x), df


def whitened(targets: EffectTargets, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the data say as R independent numbers y of variance 1 around w eta: y [R], w [R, k] and subjects [R].

    With P = Q Q', Q [k, r] of full rank, and I + Q'Omega Q = C C' they are C^-1 Q' eta: Q' eta is observed with
    variance 1 and varies by Q'Omega Q. Omega is not inverted, so that it may be as small as it likes.

    Args:
        targets: Of S subjects.
        omega: [k, k].
    """
    size = np.sqrt(np.einsum("skk->sk", targets.precision).mean(0))
    size = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(targets.precision / np.outer(size, size))
    used = values > NOTHING * np.maximum(values[:, -1:], 1e-300)
    root = np.sqrt(np.where(used, values, 0.0))
    q = size[:, None] * vectors * root[:, None, :]
    along = np.einsum("ski,sk->si", vectors, targets.information / size) / np.where(used, root, 1.0)
    c = np.linalg.cholesky(np.eye(len(size)) + q.swapaxes(1, 2) @ omega @ q)
    w = np.linalg.solve(c, q.swapaxes(1, 2))
    y = np.linalg.solve(c, np.where(used, along, 0.0)[..., None])[..., 0]
    return y[used], w[used], np.nonzero(used)[0]
