"""The path of a penalised joint estimation: minimisers for growing sizes, and the sets of relations on it.

It begins at the fit without relations, where lambda is largest. The sets of relations met on the way are fitted once
more without the bound, which shrinks what it keeps; sets are compared by the OFV of these fits.

Source: Chen, Chen 2008, Biometrika 95:759 (the extended BIC); Meinshausen 2007, Comput Stat Data Anal 52:374 (the
relaxed lasso).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.covariates.forms import Term
from deepnlme.covariates.lasso_newton import Penalised, Place, Point
from deepnlme.covariates.lasso_path import group_weights, largest_penalty, minimiser, size
from deepnlme.covariates.relations import CovariateModel
from deepnlme.data import Population
from deepnlme.estimation import Fit
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint

PENALTIES, PILOT_PENALTIES = 60, 30
"""Penalties on a path, and on that of a pilot, about."""
SPAN = 0.03
"""Size of the smallest coefficients that a path reaches, relative to the largest, about."""
CLOSER, CLOSE = 20, 0.01
"""Steps of a path that may be halved because relations enter together, and the least growth in one of them."""
GROWTH = 1.05
"""Least growth of the size from one point of a path to the next."""
MOST = 0.25
"""Coefficients per subject beyond which a path ends where not all of them can be fitted."""


@dataclass(frozen=True)
class Trail:
    """Minimisers for growing sizes.

    Attributes:
        place: Of the coefficients.
        penalties: [L] lambda.
        sizes: [L] sum_g w_g |b_g|, increasing from 0.
        coefficients: [L, q] of the relations, on the free scale.
        values: [L] OFV - 2 log prior.
        points: The minimisers; empty where they are those of a quadratic.
        end: Why it ended before the smallest penalty, or "".
    """

    place: Place
    penalties: np.ndarray
    sizes: np.ndarray
    coefficients: np.ndarray
    values: np.ndarray
    points: tuple[Point, ...] = ()
    end: str = ""

    @property
    def sets(self) -> list[np.ndarray]:
        """Which relations each minimiser has, [G] each."""
        return [self.place.used(b) for b in self.coefficients]

    @property
    def firsts(self) -> list[int]:
        """Where on the path each of its different sets is met first."""
        known: set[bytes] = set()
        out = []
        for i, on in enumerate(self.sets):
            if on.tobytes() not in known:
                known.add(on.tobytes())
                out.append(i)
        return out

    @property
    def relative(self) -> np.ndarray:
        """[L] lambda relative to that at the beginning."""
        return self.penalties / self.penalties[0] if self.penalties[0] > 0 else np.ones(len(self.penalties))

    @property
    def middles(self) -> np.ndarray:
        """Sizes amidst those with each of the different sets, at which people kept aside speak of them; first 0."""
        sets, last = self.sets, len(self.sizes) - 1
        ends = [next((k for k in range(i, last) if not np.array_equal(sets[k], sets[i])), last) for i in self.firsts]
        middles = 0.5 * (self.sizes[self.firsts] + self.sizes[ends])
        middles[0] = 0.0
        return middles


@dataclass(frozen=True)
class Rule:
    """What a set of relations must improve the OFV by.

    Attributes:
        criterion: "bic": log S for each coefficient; "ebic": besides 2 gamma log C(G, k) for k of G relations, gamma
            being 1/2, or 1 where there are as many coefficients as subjects: C(G, k) models have this size, and the
            best of many fits well by chance.
        subjects: S.
        relations: G.
        coefficients: Of all relations.
    """

    criterion: str
    subjects: int
    relations: int
    coefficients: int

    def cost(self, coefficients: int, relations: int) -> float:
        """[OFV units]."""
        out = math.log(self.subjects) * coefficients
        if self.criterion == "ebic":
            n, k, gamma = self.relations, relations, 0.5 if self.coefficients < self.subjects else 1.0
            out += 2.0 * gamma * (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1))
        return out


def problem(fit: Fit, terms: Sequence[Term], population: Population | None = None) -> Penalised:
    """The model with all relations and the data of a fit, or some of them, at the estimates of the fit."""
    model = CovariateModel(fit.model, terms)
    joint = Joint(model, fit.population if population is None else population, occasions=fit.joint.occasions)
    values: dict[str, Any] = {n: v for n, v in fit.estimates.items() if n in joint.space.names}
    values |= {n: w for n, w in fit.weights.items() if n in joint.space.weights}
    names = list(joint.space.names)
    at = np.array([names.index(n) for term in terms for n in term.names])
    objective = MarginalObjective.of(joint, fit.method, fit.options)
    return Penalised(objective, Place(at, groups_of(terms)), joint.space.initial(values))


def groups_of(terms: Sequence[Term]) -> tuple[np.ndarray, ...]:
    """Places of the coefficients of every relation among those of all."""
    ends = np.cumsum([0, *(len(t.names) for t in terms)])
    return tuple(np.arange(a, b) for a, b in pairwise(ends))


def most(search: Penalised) -> float:
    """Number of coefficients beyond which a path ends; no limit where all can be fitted."""
    return math.inf if len(search.u) < search.subjects else max(MOST * search.subjects, 1.0)


def nothing(search: Penalised, weights: np.ndarray) -> Point:
    """Moves to the minimiser without relations; its penalty is the smallest that keeps all of them out."""
    found = search.without_bound(np.zeros(len(weights), dtype=bool))
    slope = found.evaluation.gradient[0][search.place.at]
    return replace(found, penalty=largest_penalty(slope, search.place.groups, weights))


def walk(
    search: Penalised, weights: np.ndarray, power: float, count: int = PENALTIES, seen: Callable[[], Any] = lambda: None
) -> Trail:
    """Minimisers from the one without relations on, each from the one before.

    The next size is about that at which the penalty is smaller by a constant factor; half of that growth where more
    than one relation enters. The path ends where the penalty is `SPAN` ** (1 + power) of the largest: a
    coefficient b enters at about a lambda in proportion to |b|^(1 + power).

    Args:
        search: The problem.
        weights: [G] w.
        power: Of the weights.
        count: Penalties, about.
        seen: Called after every penalty.
    """
    points, end, left = [nothing(search, weights)], "", CLOSER
    span = SPAN ** (1.0 + power)
    ratio, top, bound = span ** (1.0 / (count - 1)), points[0].penalty, math.nan
    while points[-1].penalty > span * top > 0 and len(points) < 2 * count:
        last = points[-1]
        if math.isnan(bound):
            bound = max(_next(search, weights, ratio * last.penalty), GROWTH * last.size)
        point = search.within(weights, bound, ratio * last.penalty, most(search))
        many = search.place.count(point.used) > most(search)
        if (many or np.sum(point.used != last.used) > 1) and left and bound > last.size + CLOSE * bound:
            bound, left = 0.5 * (bound + last.size), left - 1
            search.move(last)
            continue
        if many:
            end = (
                f"The path ends where there are more than {most(search):g} coefficients for {search.subjects} subjects."
            )
            break
        if not point.converged and point.value >= last.value:
            end = "The path ends where no step improves the OFV any more."
            break
        points.append(point)
        top, bound = max(top, point.penalty), math.nan
        seen()
    if not end and points[-1].penalty > span * top > 0:
        end = f"The path ends after {len(points)} sizes, before the smallest penalty."
    return _trail(search.place, points, end)


def _next(search: Penalised, weights: np.ndarray, penalty: float) -> float:
    """The size of the minimiser with a penalty where the OFV is quadratic and the other parameters stay."""
    at, groups = search.place.at, search.place.groups
    h, b = 0.5 * search.curvature[np.ix_(at, at)], search.u[at]
    right = h @ b - 0.5 * search.evaluation.gradient[0][at]
    return size(minimiser(right, h, groups, penalty * weights, b), groups, weights)


def _trail(place: Place, points: Sequence[Point], end: str) -> Trail:
    penalties, sizes, values = (np.array([getattr(p, n) for p in points]) for n in ("penalty", "size", "value"))
    return Trail(place, penalties, sizes, np.stack([p.b for p in points]), values, tuple(points), end)


def relaxed(search: Penalised, point: Point) -> Point:
    """The fit of the relations that a point has, without bound."""
    search.move(point)
    return search.without_bound(point.used)


def pilot(search: Penalised, seen: Callable[[], Any] = lambda: None) -> tuple[np.ndarray, str]:
    """Coefficients to weigh a path by where the model with all relations cannot be fitted, [q]; why the path ended.

    Those of a plain lasso at the penalty with the smallest OFV + 2 q, q coefficients that are not zero.
    """
    weights = group_weights(np.zeros(len(search.place.at)), search.place.groups, 0.0)
    trail = walk(search, weights, 0.0, PILOT_PENALTIES, seen)
    cost = [v + 2.0 * trail.place.count(on) for v, on in zip(trail.values, trail.sets, strict=True)]
    return trail.coefficients[int(np.argmin(cost))], trail.end


def compared(trail: Trail, refitted: Callable[[int], float], rule: Rule, least: float) -> pd.DataFrame:
    """The different sets on a path: LAMBDA (relative to that at its beginning), SIZE, N, OFV, REFITTED, the criterion.

    Args:
        trail: The path.
        refitted: The OFV without bound of the set at a place of the path.
        rule: The criterion.
        least: OFV of the model with all relations. Sets that cannot win even with this one are not fitted.
    """
    rows: list[dict[str, Any]] = []
    best = math.inf
    for i, relative in zip(trail.firsts, trail.relative[trail.firsts], strict=True):
        on = trail.sets[i]
        cost = rule.cost(trail.place.count(on), int(on.sum()))
        value = refitted(i) if least + cost < best else math.nan
        best = min(best, value + cost) if math.isfinite(value) else best
        row = {"LAMBDA": relative, "SIZE": trail.sizes[i], "N": int(on.sum()), "OFV": trail.values[i]}
        rows.append({**row, "REFITTED": value, rule.criterion.upper(): value + cost})
    return pd.DataFrame(rows)
