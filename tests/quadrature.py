"""Exact marginal likelihoods: Gauss-Hermite quadrature with many nodes, placed at the mode of the integrand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from slow_likelihood import hessian


def marginal(
    twice_joint: Callable[[np.ndarray], np.ndarray], centre: np.ndarray, curvature: np.ndarray, nodes: int
) -> float:
    """-2 log of the integral over eta of exp(-twice_joint(eta) / 2), by nodes^k points.

    Args:
        twice_joint: eta [n, k] -> -2 log p(y, eta) [n].
        centre: [k] where the nodes lie.
        curvature: [k, k] Hessian of twice_joint / 2 there; any positive definite matrix gives the same integral in the
            limit of many nodes.
        nodes: Per dimension.
    """
    x, w = np.polynomial.hermite.hermgauss(nodes)
    k = len(centre)
    grid = np.stack(np.meshgrid(*[x] * k, indexing="ij"), -1).reshape(-1, k)
    weight = np.stack(np.meshgrid(*[np.log(w)] * k, indexing="ij"), -1).reshape(-1, k).sum(1)
    root = np.linalg.cholesky(np.linalg.inv(curvature))
    eta = centre + np.sqrt(2.0) * grid @ root.T
    exponent = weight + (grid**2).sum(1) - 0.5 * twice_joint(eta)
    top = exponent.max()
    log_integral = top + np.log(np.exp(exponent - top).sum()) + 0.5 * k * np.log(2.0) + np.log(np.diag(root)).sum()
    return -2.0 * log_integral


def marginal_at_mode(twice_joint: Callable[[np.ndarray], np.ndarray], k: int, nodes: int) -> float:
    """The same with the mode and the curvature found here, from values alone."""

    def one(eta: np.ndarray) -> float:
        return float(twice_joint(eta[None])[0])

    mode = minimize(one, np.zeros(k), method="BFGS").x
    return marginal(twice_joint, mode, 0.5 * hessian(one, mode), nodes)
