"""Explicit Runge-Kutta methods as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import DOP853 as _SCIPY


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta pair; it checks its own order conditions.

    Attributes:
        order: Order of the solution.
        a: Lower triangular rows, stage by stage.
        b: Weights of the solution.
        error: Weights of the difference to an embedded solution, over the stages and the slope at the end.
        reach: Step times steepness of the vector field that a first mesh allows (inside the region of stability).
        coarse: Of another one, of lower order, that steadies the estimate (DOP853), or empty.
    """

    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    error: tuple[float, ...]
    reach: float
    coarse: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        s = len(self.b)
        a = np.zeros((s, s))
        for i, row in enumerate(self.a):
            a[i, : len(row)] = row
        b, c = np.array(self.b), a.sum(1)
        conditions = {
            1: [(b.sum(), 1.0)],
            2: [(b @ c, 1 / 2)],
            3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
            4: [(b @ c**3, 1 / 4), ((b * c) @ a @ c, 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
            5: [(b @ c**4, 1 / 5), (b @ a @ a @ a @ c, 1 / 120), (b @ a @ c**3, 1 / 20), ((b * c**2) @ a @ c, 1 / 10)],
        }
        for order in range(1, min(self.order, 5) + 1):
            for got, expected in conditions[order]:
                if abs(got - expected) > 1e-12:
                    raise ValueError(f"Runge-Kutta coefficients fail a condition of order {order}: {got} != {expected}")
        if abs(sum(self.error)) > 1e-12 or len(self.error) != s + 1:
            raise ValueError("error weights must sum to zero over the stages and the end")

    @property
    def c(self) -> tuple[float, ...]:
        """Relative times of the stages."""
        return tuple(sum(row) for row in self.a)


DOPRI5 = Tableau(
    order=5,
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    reach=1.5,
)
"""Dormand and Prince 1980, J Comput Appl Math 6:19."""

DOP853 = Tableau(
    order=8,
    a=tuple(tuple(float(v) for v in row[:i]) for i, row in enumerate(_SCIPY.A)),
    b=tuple(float(v) for v in _SCIPY.B),
    error=tuple(float(v) for v in _SCIPY.E5),
    reach=5.0,
    coarse=tuple(float(v) for v in _SCIPY.E3),
)
"""Hairer, Norsett and Wanner 1993, order 8 in 12 stages; coefficients from scipy."""
