"""Radau IIA collocation: coefficients for any number of stages, derived and checked here."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import factorial

import numpy as np
from scipy.special import roots_jacobi


@dataclass(frozen=True)
class Radau:
    """s-stage Radau IIA: the polynomial of degree s through x_0 that satisfies the equation at the s nodes c.

    Order 2s - 1 at the end of a step, L-stable (fast modes that have died out do not limit the step).

    Attributes:
        stages: s.
        c: [s] nodes on (0, 1], the last is 1.
        a: [s, s] a_ij = int_0^c_i l_j.
        interpolation: [s + 1, s + 1] from (x_0, X_1 ... X_s) to the coefficients of the polynomial, by power.
        slope: [s + 1] weights of (x_0, X_1 ... X_s) in the derivative of the polynomial at 0.
        spread: Largest effect of a defect at 0 on a stage.
        factor, power: The error at the end is about factor * (error of the stages)^power, relative to the state;
            exact for x' = lambda x.

    Source: Hairer and Wanner 1996, Solving ordinary differential equations II, section IV.5.
    """

    stages: int
    c: np.ndarray = field(init=False, repr=False, compare=False)
    a: np.ndarray = field(init=False, repr=False, compare=False)
    interpolation: np.ndarray = field(init=False, repr=False, compare=False)
    slope: np.ndarray = field(init=False, repr=False, compare=False)
    spread: float = field(init=False, repr=False, compare=False)
    factor: float = field(init=False, repr=False, compare=False)
    power: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        s = self.stages
        inner = roots_jacobi(s - 1, 1.0, 0.0)[0] if s > 1 else np.zeros(0)
        c = np.append((1.0 + np.sort(inner)) / 2.0, 1.0)
        k = np.arange(1, s + 1)
        a = np.linalg.solve((c[:, None] ** (k - 1)).T, (c[:, None] ** k / k).T).T
        nodes = np.append(0.0, c)
        interpolation = np.linalg.inv(nodes[:, None] ** np.arange(s + 1))
        slope = interpolation[1]
        node_polynomial = np.polynomial.Polynomial.fromroots(c)
        spread = float(np.abs(node_polynomial.integ()(c)).max() / abs(node_polynomial(0.0)))
        known = {"c": c, "a": a, "interpolation": interpolation, "slope": slope, "spread": spread}
        for name, value in known.items():
            object.__setattr__(self, name, value)
        self._check()
        error, stage = self._decay(1.0)
        object.__setattr__(self, "power", 2.0 * s / (s + 1.0))
        object.__setattr__(self, "factor", error / stage**self.power)

    def _check(self) -> None:
        s, c, a = self.stages, self.c, self.a
        for k in range(1, 2 * s):
            if abs(a[-1] @ c ** (k - 1) - 1.0 / k) > 1e-11:
                raise ValueError(f"Radau coefficients fail the quadrature condition of order {k}")
        for k in range(1, s + 1):
            if np.abs(a @ c ** (k - 1) - c**k / k).max() > 1e-11:
                raise ValueError(f"Radau coefficients fail the stage condition of order {k}")

    def _decay(self, z: float) -> tuple[float, float]:
        """Error at the end of a step of x' = -z x, and the estimated error of its stages."""
        s = self.stages
        x = np.linalg.solve(np.eye(s) + z * self.a, np.ones(s))
        defect = self.slope @ np.append(1.0, x) + z
        # leading term of the Pade approximation (s - 1, s): the difference itself would be lost in rounding
        error = z ** (2 * s) * factorial(s - 1) * factorial(s) / (factorial(2 * s - 1) * factorial(2 * s))
        return error, float(abs(defect)) * self.spread


@lru_cache
def radau(stages: int) -> Radau:
    """The method with that many stages."""
    return Radau(stages)
