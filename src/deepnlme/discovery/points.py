"""Points of a function that is to be written as a formula, and the fit of a formula's constants to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares

from deepnlme.discovery.formula import Formula

LARGE = 1e6
"""What a residual is where a formula has no value, relative to the spread of the function."""
NEGLIGIBLE = 1e-7
"""A constant whose effect the others can take over to so small a part is no constant of its own."""


@dataclass(frozen=True)
class Points:
    """y = f(x), the function being known at N points.

    Attributes:
        names: Of the d inputs.
        x: [N, d].
        y: [N]; where there is a baseline, the difference to the value there.
        baseline: [d] inputs at which the function counts as zero, or None.
    """

    names: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    baseline: np.ndarray | None = None

    @property
    def spread(self) -> float:
        """Standard deviation of y; with a baseline about zero."""
        found = float(np.sqrt(np.mean(self.y**2))) if self.baseline is not None else float(np.std(self.y))
        return found or float(np.abs(self.y).max()) or 1.0

    def values(self, formula: Formula, constants: dict[str, float] | None = None) -> np.ndarray:
        """The formula at the points, [N], less its value at the baseline."""
        inputs = {name: torch.tensor(self.x[:, i]) for i, name in enumerate(self.names)}
        found = torch.as_tensor(formula.evaluate(inputs, constants), dtype=torch.float64)
        out = found.expand(len(self.x)).numpy().astype(float)
        if self.baseline is not None:
            there = float(formula.evaluate(dict(zip(self.names, self.baseline.tolist(), strict=True)), constants))
            out = out - there if np.isfinite(there) else np.full(len(self.x), np.nan)
        return out

    def error(self, formula: Formula) -> float:
        """Root mean square of formula - function, relative to the spread of the function."""
        gap = self.values(formula) - self.y
        return float(np.sqrt(np.mean(gap**2)) / self.spread) if np.isfinite(gap).all() else np.inf

    def worst(self, formula: Formula) -> float:
        """Largest |formula - function| relative to the spread of the function."""
        gap = self.values(formula) - self.y
        return float(np.abs(gap).max() / self.spread) if np.isfinite(gap).all() else np.inf


def adjusted(formula: Formula, points: Points, evaluations: int = 100) -> Formula:
    """The formula with its constants moved to where it is closest to the points (least squares).

    Args:
        formula: Where to start.
        points: The function.
        evaluations: At most, besides those for derivatives.
    """
    names = list(formula.constants)
    if not names:
        return formula
    scale = np.array([1.0 if n in formula.positive else max(abs(formula.constants[n]), 1e-3) for n in names])

    def natural(free: np.ndarray) -> dict[str, float]:
        positive = [n in formula.positive for n in names]
        return {n: float(np.exp(np.clip(v, -50, 50)) if p else v * s)
                for n, v, p, s in zip(names, free, positive, scale, strict=True)}  # fmt: skip

    def gap(free: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # far away a formula may be anything
            found = (points.values(formula, natural(free)) - points.y) / points.spread
        return np.where(np.isfinite(found), np.clip(found, -LARGE, LARGE), LARGE)

    start = np.array(
        [np.log(formula.constants[n]) if n in formula.positive else formula.constants[n] / s
         for n, s in zip(names, scale, strict=True)]
    )  # fmt: skip
    e = 1e-12
    found = least_squares(gap, start, x_scale="jac", ftol=e, xtol=e, gtol=e, max_nfev=evaluations)
    return replace(formula, constants=natural(found.x)) if np.isfinite(found.fun).all() else formula


def slopes(formula: Formula, points: Points) -> np.ndarray:
    """Derivatives of the formula at the points in its constants, each relative to its size, [N, constants]."""
    columns = []
    for name, value in formula.constants.items():
        step = 1e-5 * (abs(value) or 1.0)
        up, down = ({**formula.constants, name: value + sign * step} for sign in (1, -1))
        columns.append((points.values(formula, up) - points.values(formula, down)) / 2e-5)
    return np.stack(columns, 1) if columns else np.zeros((len(points.x), 0))


def independent(formula: Formula, points: Points) -> list[str]:
    """Constants each of which the points tell apart from the others, the most influential first."""
    from scipy.linalg import qr

    columns = slopes(formula, points)
    if not columns.size or not np.isfinite(columns).all():
        return []
    size = np.linalg.norm(columns, axis=0)
    keep = np.flatnonzero(size > NEGLIGIBLE * np.sqrt(len(columns)) * points.spread)
    if not len(keep):
        return []
    factors: Any = qr(columns[:, keep] / size[keep], mode="economic", pivoting=True)
    _, r, order = factors
    left = np.abs(np.diag(r)) > 1e-4
    names = list(formula.constants)
    return [names[keep[i]] for i, ok in zip(order, left, strict=False) if ok]
