"""Linear regression of all random effects together on the columns of a covariate, by generalised least squares.

The data of subject i say eta_i ~ N(y_i, V_i) (see `deepnlme.covariates.targets`). With eta_i = B'(1, x_i) + r_i and
r_i ~ N(0, Omega_r) the estimates B minimise

    sum_i (y_i - B'(1, x_i))' (Omega_r + V_i)^-1 (y_i - B'(1, x_i))

The covariate may act on every effect, so that what it does to one is not taken for what it does to another where a
subject's data do not tell them apart. Directions of which the data of a subject say nothing have weight 0. As in
ordinary least squares the variance is known up to a factor, which the residuals give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from deepnlme.covariates.targets import EffectTargets

LEAST = 1e-3
"""Weight, relative to that of complete knowledge, below which a direction counts for nothing."""


@dataclass(frozen=True)
class Regression:
    """The regression as one effect sees it.

    Attributes:
        slopes: [q] coefficients.
        covariance: [q, q] of them.
        df: Degrees of freedom of the residuals; 0 if the coefficients are not determined.
        r2: Share of the variance that is explained.
        p: Of no relation at all, by the F test.
    """

    slopes: np.ndarray
    covariance: np.ndarray
    df: int
    r2: float
    p: float


def regression(targets: EffectTargets, columns: np.ndarray) -> list[Regression]:
    """The regression for each of k effects.

    With several effects Omega_r is found from the residuals of a first pass with Omega, since a covariate may explain
    much of one effect and nothing of another; with one effect the common factor does that.

    Args:
        targets: Of S subjects.
        columns: [S, q].
    """
    k, q = len(targets.names), columns.shape[1]
    design = np.column_stack([np.ones(len(columns)), columns])
    found = _least_squares(targets, design, targets.omega)
    if found is not None and k > 1:
        coefficients = found[0].reshape(k, q + 1)
        found = _least_squares(targets, design, targets.residual(design @ coefficients.T)[0])
    if found is None:
        nothing = Regression(np.full(q, math.nan), np.full((q, q), math.nan), 0, math.nan, 1.0)
        return [nothing] * k
    b, covariance, df = found
    out = []
    for j in range(k):
        at = np.arange(j * (q + 1) + 1, (j + 1) * (q + 1))
        own, slopes = covariance[np.ix_(at, at)], b[at]
        f = float(slopes @ np.linalg.solve(own, slopes)) / q if np.any(own) else math.inf
        r2 = 1.0 if math.isinf(f) else q * f / (q * f + df / k)
        out.append(Regression(slopes, own, df, r2, float(f_distribution.sf(f, q, df))))
    return out


def _least_squares(
    targets: EffectTargets, design: np.ndarray, omega: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Coefficients [k (q + 1)], effect by effect, their covariance and degrees of freedom; None if not determined."""
    y, w, subject = whitened(targets, omega)
    x = (w[:, :, None] * design[subject][:, None, :]).reshape(len(y), -1)
    df = len(y) - x.shape[1]
    if df < 2 or np.linalg.matrix_rank(x) < x.shape[1]:
        return None
    b, *_ = np.linalg.lstsq(x, y, rcond=None)
    return b, float(np.sum((y - x @ b) ** 2)) / df * np.linalg.inv(x.T @ x), df


def whitened(targets: EffectTargets, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the data say as R independent numbers y of variance 1 around w eta: y [R], w [R, k] and subjects [R].

    With Omega = L L' and L'P L = sum_m l_m u_m u_m' they are sqrt(l_m / (1 + l_m)) u_m' L^-1 eta.

    Args:
        targets: Of S subjects.
        omega: [k, k].
    """
    lower = np.linalg.cholesky(omega)
    values, vectors = np.linalg.eigh(lower.T @ targets.precision @ lower)
    share = np.clip(values, 0.0, None) / (1.0 + np.clip(values, 0.0, None))
    used, root = share > LEAST, np.sqrt(share)
    turned = vectors.swapaxes(1, 2)
    w = root[:, :, None] * (turned @ np.linalg.inv(lower))
    along = (turned @ (targets.information @ lower)[..., None])[..., 0]
    y = root * along / np.where(used, values, 1.0)
    return y[used], w[used], np.nonzero(used)[0]
