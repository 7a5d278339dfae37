"""Marginal likelihoods from the textbook formulas, one subject at a time, in numpy and scipy.

Nothing is shared with the package: derivatives are complex steps (exact to rounding), modes come from scipy, and random
effects are not whitened. Every result is -2 log L without the constant N log(2 pi).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize


def jacobian(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """d function / dx, [..., k], by complex steps."""
    step = 1e-30
    columns = [np.imag(function(x + 1j * step * e)) / step for e in np.eye(len(x))]
    return np.stack(columns, -1)


def hessian(function: Callable[[np.ndarray], Any], x: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Second derivatives of a real function from its values, by Richardson-extrapolated central differences."""

    def second(h: float) -> np.ndarray:
        e, out = h * np.eye(len(x)), np.zeros((len(x), len(x)))
        for i, a in enumerate(e):
            for j, b in enumerate(e[: i + 1]):
                four = function(x + a + b) - function(x + a - b) - function(x - a + b) + function(x - a - b)
                out[i, j] = out[j, i] = four / (4 * h * h)
        return out

    return (4.0 * second(10 * step) - second(20 * step)) / 3.0


def hessian_from_gradient(
    gradient: Callable[[np.ndarray], np.ndarray], x: np.ndarray, step: float = 1e-3
) -> np.ndarray:
    """Fourth-order central differences of an exact gradient."""
    rows = []
    for e in step * np.eye(len(x)):
        rows.append((8 * (gradient(x + e) - gradient(x - e)) - gradient(x + 2 * e) + gradient(x - 2 * e)) / (12 * step))
    h = np.array(rows)
    return 0.5 * (h + h.T)


@dataclass
class Subject:
    """One subject.

    Attributes:
        minus_two_log_density: eta -> -2 log p(y | eta) without constant, for complex eta too.
        omega: [k, k].
        y: Observations on the scale where they are normal.
        moments: eta -> (f, sd), for Gaussian observations.
        jacobian: -2 log of the Jacobian of the scale.
    """

    omega: np.ndarray
    minus_two_log_density: Callable[[np.ndarray], Any] | None = None
    y: np.ndarray | None = None
    moments: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    jacobian: float = 0.0

    def data(self, eta: np.ndarray, sd: np.ndarray | None = None) -> Any:
        if self.minus_two_log_density is not None:
            return self.minus_two_log_density(eta)
        f, own = self.moments(eta)
        r = (own if sd is None else sd) ** 2 + 0.0 * f
        return ((self.y - f) ** 2 / r + np.log(r)).sum() + self.jacobian

    def joint(self, eta: np.ndarray, sd: np.ndarray | None = None) -> Any:
        """-2 log p(y, eta) without N log 2 pi and without k log 2 pi."""
        return self.data(eta, sd) + eta @ np.linalg.solve(self.omega, eta) + np.linalg.slogdet(self.omega)[1]

    def mode(self, sd: np.ndarray | None = None) -> np.ndarray:
        def gradient(eta: np.ndarray) -> np.ndarray:
            return jacobian(lambda e: self.joint(e, sd), eta)

        k = len(self.omega)
        starts = [np.zeros(k), 0.3 * np.ones(k), -0.3 * np.ones(k)]
        found = [minimize(lambda e: self.joint(e, sd), s, jac=gradient, method="BFGS", tol=1e-9) for s in starts]
        eta = min(found, key=lambda r: r.fun).x
        for _ in range(5):
            eta = eta - np.linalg.solve(hessian_from_gradient(gradient, eta), gradient(eta))
        return eta


def fo(s: Subject) -> float:
    """y ~ N(f(0), G Omega G' + R(0))."""
    zero = np.zeros(len(s.omega))
    f, sd = s.moments(zero)
    g = jacobian(lambda e: s.moments(e)[0], zero)
    c = g @ s.omega @ g.T + np.diag(sd**2 + 0.0 * f)
    r = s.y - f
    return float(r @ np.linalg.solve(c, r) + np.linalg.slogdet(c)[1] + s.jacobian)


def foce(s: Subject, interaction: bool) -> tuple[float, np.ndarray]:
    """l(eta_hat) and H from first derivatives; the residual variance of eta = 0 without interaction."""
    frozen = None if interaction else s.moments(np.zeros(len(s.omega)))[1]
    eta = s.mode(frozen)
    f, own = s.moments(eta)
    r = (own if frozen is None else frozen) ** 2 + 0.0 * f
    g = jacobian(lambda e: s.moments(e)[0], eta)
    h = np.linalg.inv(s.omega) + g.T @ (g / r[:, None])
    if interaction:
        q = jacobian(lambda e: s.moments(e)[1] ** 2 + 0.0 * s.moments(e)[0], eta)
        h = h + 0.5 * q.T @ (q / r[:, None] ** 2)
    return float(s.joint(eta, frozen) + np.linalg.slogdet(h)[1]), eta


def laplace(s: Subject) -> tuple[float, np.ndarray]:
    """l(eta_hat) and the true Hessian."""
    eta = s.mode()
    h = 0.5 * hessian_from_gradient(lambda e: jacobian(s.joint, e), eta)
    return float(s.joint(eta) + np.linalg.slogdet(h)[1]), eta
