"""The size of a lasso by cross-validation: what people who were kept aside say about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepnlme.covariates.forms import Term
from deepnlme.covariates.lasso_newton import Penalised
from deepnlme.covariates.lasso_path import group_weights
from deepnlme.covariates.lasso_trail import most, nothing, pilot, problem, relaxed
from deepnlme.errors import ConvergenceError, invalid
from deepnlme.estimation import Fit
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint

PATIENCE = 5
"""Sizes in a row without improvement of those kept aside after which no larger one is tried."""


class Fold:
    """One group of people kept aside. Weights, path and fits without penalty are made anew from the others.

    Args:
        fit: The fit without the relations.
        terms: The relations.
        aside: Places of those kept aside.
        power: Of the adaptive weights.
    """

    def __init__(self, fit: Fit, terms: Sequence[Term], aside: np.ndarray, power: float):
        people = fit.population
        kept = np.setdiff1d(np.arange(len(people)), aside)
        self.aside = aside
        self.search = problem(fit, terms, people[kept])
        self.weights = _weights(self.search, power)
        self.point = nothing(self.search, self.weights)
        joint = Joint(self.search.objective.joint.model, people[aside], occasions=fit.joint.occasions)
        self._others = MarginalObjective.of(joint, fit.method, fit.options)
        self._known: dict[bytes, np.ndarray] = {}

    def ofv(self, bound: float) -> np.ndarray:
        """OFV of those aside at the fit without bound of the relations at this size; infinite where they are too many.

        Args:
            bound: Size of the coefficients; from call to call it grows.
        """
        if bound > 0:
            self.search.move(self.point)
            self.point = self.search.within(self.weights, bound, self.point.penalty, most(self.search))
        if self.search.place.count(self.point.used) > most(self.search):
            return np.full(len(self.aside), np.inf)
        key = self.point.used.tobytes()
        if key not in self._known:
            found = self._others(relaxed(self.search, self.point).u).subject[0]
            self._known[key] = np.where(np.isfinite(found), found, np.inf)
        return self._known[key]


def _weights(search: Penalised, power: float) -> np.ndarray:
    """Those of the people kept, [G]."""
    groups = search.place.groups
    if power and len(search.u) < search.subjects:
        full = search.without_bound(np.ones(len(groups), dtype=bool))
        if full.converged:
            return group_weights(full.b, groups, power)
    return group_weights(pilot(search)[0] if power else np.zeros(len(search.place.at)), groups, power)


def held_out(
    fit: Fit,
    terms: Sequence[Term],
    sizes: np.ndarray,
    power: float,
    folds: int,
    seed: int,
    seen: Callable[[], Any] = lambda: None,
) -> np.ndarray:
    """OFV of every subject when it is kept aside, for every size, [L, S]; NaN for sizes that are not tried.

    Args:
        fit: The fit without the relations.
        terms: The relations.
        sizes: [L] of the coefficients, increasing from 0.
        power: Of the adaptive weights.
        folds: Groups of subjects.
        seed: Of the groups.
        seen: Called after every size.

    Raises:
        ConvergenceError: The OFV of a subject is not finite at the fit of others.
    """
    order = np.random.default_rng([seed, 17]).permutation(len(fit.population))
    parts = [Fold(fit, terms, np.sort(order[i::folds]), power) for i in range(folds)]
    out = np.full((len(sizes), len(order)), np.nan)
    for i, bound in enumerate(sizes):
        for part in parts:
            out[i, part.aside] = part.ofv(float(bound))
        lost = np.flatnonzero(~np.isfinite(out[0]))
        if len(lost):
            got, who = "'cv'", f"subject {fit.population.ids[lost[0]]}"
            expected = "Its OFV is not finite at the fit of the others"
            raise ConvergenceError(invalid("criterion", got, expected, who, 'Use "bic", or look at its data'))
        seen()
        if i - int(np.nanargmin(out.sum(1))) >= PATIENCE:
            break
    return out


def simplest(aside: np.ndarray) -> int:
    """The first size whose held-out OFV is within one standard error of the best, of the difference by subject.

    Args:
        aside: [L, S] held-out OFV of every subject, from the smallest on.
    """
    best = aside[int(np.nanargmin(aside.sum(1)))]
    usable = np.isfinite(aside.sum(1))
    away = np.where(usable[:, None], aside, 0.0) - best
    error = away.std(axis=1, ddof=1) * math.sqrt(aside.shape[1])
    return int(np.flatnonzero(usable & (away.sum(1) <= error))[0])
