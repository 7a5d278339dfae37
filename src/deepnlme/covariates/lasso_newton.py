"""A group lasso inside the likelihood: proximal Newton steps on the marginal OFV of a model with all relations.

Minimised over all free parameters u, with b those of them that are coefficients of relations, is

    OFV(u) - 2 log prior(u)    with    sum_g w_g |b_g| <= size

which is a stationary point of OFV(u) - 2 log prior(u) + lambda sum_g w_g |b_g|, lambda being the multiplier of the
bound. Where relations explain so much that Omega falls, the slopes of all others grow, and a fixed lambda would leap
over models; a size does not. Around u the OFV is taken as quadratic, with its exact gradient and a curvature that
follows the gradients (damped BFGS). In this model a group lasso in b, solved by cyclic descent, takes turns with the
other parameters; the step to the solution is shortened until the OFV falls.

Source: Lee, Sun, Saunders 2014, SIAM J Optim 24:1420 (proximal Newton methods); Staedler et al. 2010, Test 19:209 (the
lasso where variances are estimated too).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from deepnlme.covariates.lasso_path import minimiser, size, within
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.estimation.trust_region import curvature, damped_update

TOLERANCE = 1e-7
"""Expected improvement at which the descent ends [OFV units]."""
ITERATIONS, HALVINGS = 60, 25
"""Most steps of a descent, and most halvings of a step."""
TOO_MANY = 5
"""Steps in a row with too many coefficients at which a descent is given up."""
CYCLES, SETTLED = 12, 1e-5
"""Turns of coefficients and other parameters within a step, and the relative change at which they end."""
SURGE = 10.0
"""Growth of the trace of the curvature beyond which an update is not taken."""
SUFFICIENT = 1e-4
"""Share of the linear decrease that a step must achieve."""
AGE = 12
"""Steps after which the curvature is computed anew."""
FLOOR = 1e-4
"""Least eigenvalue of a curvature that is computed, relative to the largest."""

Solver = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Coefficients [q] that minimise b' H b - 2 right' b under a bound, from right [q], H [q, q] and where b is [q]."""


@dataclass(frozen=True)
class Place:
    """Coefficients of relations among the free parameters.

    Attributes:
        at: [q] places of the coefficients in the free vector.
        groups: Places of the coefficients of every relation among the q.
    """

    at: np.ndarray
    groups: tuple[np.ndarray, ...]

    def used(self, b: np.ndarray) -> np.ndarray:
        """Which relations have a coefficient other than zero, [G]."""
        return np.array([bool(b[g].any()) for g in self.groups])

    def count(self, on: np.ndarray) -> int:
        """Number of the coefficients of some relations."""
        return sum(len(g) for g, yes in zip(self.groups, on, strict=True) if yes)


@dataclass(frozen=True)
class Point:
    """A minimiser.

    Attributes:
        u: [P] free parameters.
        b: [q] those of them that are coefficients of relations.
        used: [G] which relations have one other than zero.
        evaluation: The objective there.
        converged: Whether the improvement still expected is below `TOLERANCE`.
        penalty: lambda; 0 without a bound.
        size: sum_g w_g |b_g|; 0 without a bound.
    """

    u: np.ndarray
    b: np.ndarray
    used: np.ndarray
    evaluation: Evaluation
    converged: bool
    penalty: float = 0.0
    size: float = 0.0

    @property
    def value(self) -> float:
        """OFV - 2 log prior."""
        return float(self.evaluation.value[0])


@dataclass
class Penalised:
    """The OFV of a model with all relations, and where the search for its minimisers stands.

    Args:
        objective: The OFV.
        place: Of the coefficients.
        u: [P] where to begin.
    """

    objective: MarginalObjective
    place: Place
    u: np.ndarray
    evaluation: Evaluation = field(init=False)
    curvature: np.ndarray = field(init=False)
    _trace: float = field(init=False)

    def __post_init__(self) -> None:
        self.evaluation = self.objective(self.u)
        self.curvature = first_curvature(self.objective, self.evaluation)
        self._trace = float(np.trace(self.curvature))

    @property
    def subjects(self) -> int:
        """S."""
        return self.objective.subjects

    def move(self, point: Point) -> None:
        """Go on from a minimiser found before."""
        self.u, self.evaluation = point.u, point.evaluation
        self.objective.start_from(point.u, point.evaluation.z[0])

    def without_bound(self, used: np.ndarray) -> Point:
        """The fit with some of the relations, from where the last minimiser was found.

        Args:
            used: [G] which.
        """
        thresholds = np.where(used, 0.0, np.inf)
        u = self.u.copy()
        u[self.place.at[~np.repeat(used, [len(g) for g in self.place.groups])]] = 0.0
        if not np.array_equal(u, self.u):
            self.u, self.evaluation = u, self.objective(u)
        good = self._descend(lambda right, h, b: minimiser(right, h, self.place.groups, thresholds, b), math.inf)
        return self._point(good)

    def within(self, weights: np.ndarray, bound: float, penalty: float, most: float = math.inf) -> Point:
        """The minimiser with sum_g w_g |b_g| <= bound, from the last one, which must be inside.

        Args:
            weights: [G] w; infinite for a relation that is left out.
            bound: Positive.
            penalty: About the multiplier.
            most: Coefficients beyond which nobody wants it.
        """
        groups, multiplier = self.place.groups, [penalty]

        def solve(right: np.ndarray, h: np.ndarray, b: np.ndarray) -> np.ndarray:
            b, multiplier[0] = within(right, h, groups, weights, bound, (b, multiplier[0]))
            return b

        good = self._descend(solve, most)
        return self._point(good, multiplier[0], size(self.u[self.place.at], groups, weights))

    def _proposal(self, solve: Solver, cycles: int) -> tuple[np.ndarray, float]:
        """Where the quadratic model around the present point is less, and the improvement that it promises.

        Coefficients and the other parameters take turns, so many times at most. Where the others being at their best
        the OFV is concave in the coefficients, the turns end before the model's flat minimum far away.
        """
        at, h, g = self.place.at, self.curvature, self.evaluation.gradient[0]
        rest = np.setdiff1d(np.arange(len(g)), at)
        h_rr, h_rb, h_bb = h[np.ix_(rest, rest)], h[np.ix_(rest, at)], 0.5 * h[np.ix_(at, at)]
        b, step = self.u[at], np.zeros(len(rest))
        new = b
        for _ in range(cycles):
            old = new
            new = solve(h_bb @ b - 0.5 * (g[at] + h_rb.T @ step), h_bb, old)
            if not len(rest):
                break
            step = -np.linalg.solve(h_rr, g[rest] + h_rb @ (new - b))
            if np.abs(new - old).max() <= SETTLED * np.abs(new).max():
                break
        end = self.u.copy()
        end[at], end[rest] = new, end[rest] + step
        move = end - self.u
        return end, -float(g @ move + 0.5 * move @ h @ move)

    def _point(self, good: bool, penalty: float = 0.0, size: float = 0.0) -> Point:
        b = self.u[self.place.at]
        return Point(self.u, b, self.place.used(b), self.evaluation, good, penalty, size)

    def _descend(self, solve: Solver, most: float) -> bool:
        """Steps until nothing more is expected; whether that was reached."""
        over, stale = 0, 1  # the curvature comes from elsewhere: a step that fails is no end yet
        for _ in range(ITERATIONS):
            end, expected = self._proposal(solve, CYCLES)
            if abs(expected) < TOLERANCE:
                return True
            good = expected > 0 and self._take(end)
            if not good and not stale:
                return False
            stale = stale + 1 if good else AGE
            if stale >= AGE:
                self.curvature, stale = first_curvature(self.objective, self.evaluation), 0
            over = over + 1 if self.place.count(self.place.used(self.u[self.place.at])) > most else 0
            if over == TOO_MANY:
                return False
        return False

    def _take(self, end: np.ndarray) -> bool:
        """Go towards the end of the step as far as the OFV falls; whether it fell."""
        step = end - self.u
        value, linear = float(self.evaluation.value[0]), float(self.evaluation.gradient[0] @ step)
        for halving in range(HALVINGS):
            share = 0.5**halving
            u = end if halving == 0 else self.u + share * step
            new = self.objective(u)
            if not np.isfinite(new.value[0]):
                continue
            updated = damped_update(self.curvature, u - self.u, new.gradient[0] - self.evaluation.gradient[0])
            if _definite(updated) and np.trace(updated) <= SURGE * self._trace:  # else the OFV is concave there
                self.curvature = updated
            if float(new.value[0]) - value <= SUFFICIENT * share * linear:
                self.objective.remember()
                self.u, self.evaluation = u, new
                return True
        return False


def first_curvature(objective: MarginalObjective, evaluation: Evaluation) -> np.ndarray:
    """The expected information and the curvature of priors, [P, P], positive definite."""
    values, vectors = np.linalg.eigh(curvature(objective, evaluation))
    values = np.maximum(values, FLOOR * max(float(values.max()), 1e-300))
    return (vectors * values) @ vectors.T


def _definite(matrix: np.ndarray) -> bool:
    values = np.linalg.eigvalsh(matrix)
    return bool(values[0] > 1e-8 * values[-1])
