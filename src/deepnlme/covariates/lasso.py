"""Penalised selection: an adaptive group lasso on all relations at once, inside the likelihood.

Source: Ribbing et al. 2007, J Pharmacokinet Pharmacodyn 34:485 (the lasso for covariate models); Wang, Leng 2007.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2
from tqdm.auto import tqdm

from deepnlme.covariates.forms import Term
from deepnlme.covariates.lasso_path import group_weights, largest_penalty, path, restricted
from deepnlme.covariates.relations import CovariateModel
from deepnlme.covariates.selection import Selection, candidates_of, effects_of, ranked, require_distinct
from deepnlme.data import Population
from deepnlme.errors import ConvergenceError, ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.estimation import fit as fit_model
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint

PENALTIES = 100
"""Penalties on a path."""
SPAN = 1e-4
"""The smallest penalty relative to the largest."""


@dataclass(frozen=True)
class _Full:
    """The fit with all relations, as a quadratic in their coefficients on the free scale.

    Attributes:
        fit: The fit.
        at: [q] places of the coefficients in the free vector.
        groups: Places of the coefficients of every relation among the q.
    """

    fit: Fit
    at: np.ndarray
    groups: list[np.ndarray]

    @property
    def best(self) -> np.ndarray:
        """[q] estimates."""
        return self.fit.free[self.at]

    @property
    def variance(self) -> np.ndarray:
        """[q, q] inverse information, the other parameters being estimated."""
        assert self.fit.covariance is not None
        return np.linalg.inv(self.fit.covariance.r)[np.ix_(self.at, self.at)]

    @property
    def curvature(self) -> np.ndarray:
        """[q, q]: the OFV rises by about d' curvature d where the coefficients move by d."""
        return np.linalg.inv(self.variance)

    def point(self, b: np.ndarray) -> np.ndarray:
        """The free vector with these coefficients and the others where they are best then, [P]."""
        assert self.fit.covariance is not None
        u, r = self.fit.free.copy(), self.fit.covariance.r
        others = np.setdiff1d(np.arange(len(u)), self.at)
        away = b - self.best
        u[self.at] = b
        u[others] -= np.linalg.solve(r[np.ix_(others, others)], r[np.ix_(others, self.at)] @ away)
        return u


def lasso(
    fit: Fit,
    candidates: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    forms: Mapping[str, Any] | str = "auto",
    criterion: str = "bic",
    folds: int = 5,
    power: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> Selection:
    """Adaptive group lasso on the model with all relations.

    The model with all relations is fitted once; around its estimates b_hat the OFV is taken as quadratic,
    (b - b_hat)' H (b - b_hat), and lambda sum_g w_g |b_g| is added, with g the coefficients of one relation on the
    free scale (per standard deviation of the covariate) and w_g = sqrt(size_g) / |b_hat_g|^power. The sets of relations
    along the path of lambda are the choices; the one chosen is fitted by its likelihood, without penalty.

    Args:
        fit: The fit without the relations.
        candidates: As in `scm`.
        forms: A form, or that of each covariate by name.
        criterion: "bic" (quadratic + q log S with q coefficients and S subjects), or "cv": the OFV of subjects that
            are kept aside, in turn: the smallest set that is within one standard error of the best.
        folds: Groups of subjects of "cv".
        power: Of the adaptive weights; 0 for a plain group lasso.
        seed: Of the folds.
        progress: Show a progress bar.

    Returns:
        The selection: P is that of the Wald test in the model with all relations; `steps` is the path; EFFECT of a
        relation that is not selected is that in the model with all. Intervals do not know that there was a selection.

    Raises:
        ModelError: Not a fit with estimates, arguments out of range, more coefficients than subjects.
        DataError: A covariate that is not there, does not vary, or says the same as another.
        ConvergenceError: The model with all relations is not determined by the data.
    """
    terms = candidates_of(fit, candidates, forms)
    _check(fit, terms, criterion, folds, power)
    began = time.perf_counter()
    bar = tqdm(total=2 + folds * (criterion == "cv"), disable=not progress, desc="lasso", leave=False)
    try:
        full = _full(fit, terms, fit.population, fit.estimates)
        bar.update()
        steps, sets = _steps(full, power, len(fit.population))
        if criterion == "cv":
            aside = _held_out(fit, full, terms, sets, folds, seed, bar)
            steps["HELD OUT"] = aside.sum(1)
            which = _simplest(aside)
        else:
            which = int(np.argmin(steps["BIC"].to_numpy(float)))
        chosen = tuple(t for t, on in zip(terms, sets[which], strict=True) if on)
        final = _final(fit, chosen)
        bar.update()
    finally:
        bar.close()
    steps["CHANGE"] = _changes(terms, sets)
    steps["DECISION"] = np.where(np.arange(len(sets)) == which, "chosen", "")
    return _selection(full, terms, steps, sets, chosen, final, criterion, time.perf_counter() - began)


def _check(fit: Fit, terms: Sequence[Term], criterion: Any, folds: Any, power: Any) -> None:
    if criterion not in ("bic", "cv"):
        raise ModelError(invalid("criterion", repr(criterion), "It is one of bic, cv"))
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(fit.population):
        raise ModelError(invalid("folds", repr(folds), f"It is a whole number from 2 to {len(fit.population)}"))
    if isinstance(power, bool) or not isinstance(power, int | float) or power < 0:
        raise ModelError(invalid("power", repr(power), "It is a number of at least 0"))
    pairs = [(t.parameter, t.covariate) for t in terms]
    if len(set(pairs)) < len(pairs):
        expected = "The model with all relations has one form of each"
        raise ModelError(invalid("forms", "several of one relation", expected, fix="Use dn.scm to compare forms"))
    count, subjects = sum(len(t.names) for t in terms), len(fit.population)
    if count >= subjects:
        fix = "Give fewer candidates, or use dn.screen or dn.scm"
        expected = f"The model with all relations needs more subjects; there are {subjects}"
        raise ModelError(invalid("candidates", f"{count} coefficients", expected, fix=fix))
    require_distinct(fit, terms)


def _full(fit: Fit, terms: Sequence[Term], population: Population, start: Mapping[str, float]) -> _Full:
    """The model with all relations, fitted to some subjects."""
    model = CovariateModel(fit.model, terms)
    options = replace(fit.options, progress=False, checkpoint=None, held_out=None, covariance="R", starts=1)
    values: dict[str, Any] = {n: v for n, v in start.items() if n in model.space.names}
    values |= {n: w for n, w in fit.weights.items() if n in model.space.weights}
    found = fit_model(model, population, fit.method, start=values, options=options)
    assert found.covariance is not None
    if not found.covariance.ok:
        expected = f"The model with all {len(terms)} relations is not determined. {found.covariance.message}"
        fix = "Give fewer candidates, or use dn.screen or dn.scm"
        raise ConvergenceError(invalid("candidates", f"{len(terms)} relations", expected, fix=fix), found)
    names = list(found.joint.space.names)
    at = [names.index(n) for term in terms for n in term.names]
    ends = np.cumsum([0, *(len(t.names) for t in terms)])
    groups = [np.arange(a, b) for a, b in pairwise(ends)]
    return _Full(found, np.array(at), groups)


def _steps(full: _Full, power: float, subjects: int) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """The different sets of relations along the path, from none on: the table, and masks of the relations."""
    best, curvature = full.best, full.curvature
    weights = group_weights(best, full.groups, power)
    top = largest_penalty(best, curvature, full.groups, weights)
    penalties = np.geomspace(top, SPAN * top, PENALTIES)
    rows, sets = [], []
    for penalty, b in zip(penalties, path(best, curvature, full.groups, weights, penalties), strict=True):
        on = np.array([bool(np.any(b[g] != 0)) for g in full.groups])
        if any(np.array_equal(on, known) for known in sets):
            continue
        active = _mask(full, on)
        rise = restricted(best, curvature, active)[1]
        bic = rise + math.log(subjects) * active.sum()
        rows.append({"LAMBDA": penalty / top, "N": int(on.sum()), "dOFV": rise, "BIC": bic})
        sets.append(on)
    return pd.DataFrame(rows), sets


def _changes(terms: Sequence[Term], sets: Sequence[np.ndarray]) -> list[str]:
    """What every set has more or less than the one before."""
    before, out = np.zeros(len(terms), dtype=bool), []
    for on in sets:
        signs = on.astype(int) - before.astype(int)
        out.append("; ".join(f"{'+' if s > 0 else '-'} {t.label}" for t, s in zip(terms, signs, strict=True) if s))
        before = on
    return out


def _simplest(aside: np.ndarray) -> int:
    """The first set whose held-out OFV is within one standard error of the best, of the difference by subject.

    Args:
        aside: [sets, S] held-out OFV of every subject, from the smallest set on.
    """
    away = aside - aside[int(np.argmin(aside.sum(1)))]
    error = away.std(axis=1, ddof=1) * math.sqrt(aside.shape[1])
    return int(np.flatnonzero(away.sum(1) <= error)[0])


def _mask(full: _Full, on: np.ndarray) -> np.ndarray:
    return np.repeat(on, [len(g) for g in full.groups])


def _held_out(
    fit: Fit, full: _Full, terms: Sequence[Term], sets: Sequence[np.ndarray], folds: int, seed: int, bar: Any
) -> np.ndarray:
    """OFV of every subject when it is kept aside, with the coefficients of every set from the others, [sets, S]."""
    population = full.fit.population
    order = np.random.default_rng([seed, 17]).permutation(len(population))
    out = np.zeros((len(sets), len(population)))
    for fold in range(folds):
        aside = np.sort(order[fold::folds])
        kept = np.setdiff1d(np.arange(len(population)), aside)
        part = _full(fit, terms, population[kept], full.fit.estimates)
        points = [part.point(restricted(part.best, part.curvature, _mask(full, on))[0]) for on in sets]
        joint = Joint(full.fit.model, population[aside], occasions=full.fit.joint.occasions)
        objective = MarginalObjective.of(joint, full.fit.method, full.fit.options)
        out[:, aside] = objective(np.stack(points)).subject
        bar.update()
    return out


def _final(fit: Fit, chosen: Sequence[Term]) -> Fit:
    """The model chosen, fitted with standard errors."""
    if not chosen:
        return fit
    kind = fit.options.covariance or "sandwich"
    options = replace(fit.options, progress=False, checkpoint=None, held_out=None, covariance=kind, starts=1)
    model = CovariateModel(fit.model, chosen)
    values: dict[str, Any] = {n: v for n, v in fit.estimates.items() if n in model.space.names}
    values |= {n: w for n, w in fit.weights.items() if n in model.space.weights}
    return fit_model(model, fit.population, fit.method, start=values, options=options)


def _selection(
    full: _Full,
    terms: Sequence[Term],
    steps: pd.DataFrame,
    sets: Sequence[np.ndarray],
    chosen: tuple[Term, ...],
    final: Fit,
    criterion: str,
    seconds: float,
) -> Selection:
    effects = effects_of(full.fit, terms) | effects_of(final, chosen)
    best, variance = full.best, full.variance
    penalties = steps["LAMBDA"].to_numpy(float)
    rows = []
    for i, term in enumerate(terms):
        g = full.groups[i]
        wald = float(best[g] @ np.linalg.solve(variance[np.ix_(g, g)], best[g]))
        entered = [p for p, on in zip(penalties, sets, strict=True) if on[i]]
        score = float(max(entered)) if entered else 0.0
        p = float(chi2.sf(wald, len(g)))
        rows.append({"TERM": term, "EFFECT": effects[term], "SCORE": score, "P": p, "SELECTED": term in chosen})
    score = "largest penalty (relative) at which the relation is in the model; P: Wald test in the model with all"
    return Selection(f"Adaptive lasso ({criterion})", ranked(rows), score, chosen, seconds, steps, final)
