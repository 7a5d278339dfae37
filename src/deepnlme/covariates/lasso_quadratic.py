"""The model with all relations, and the lasso on a quadratic around its estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import chi2

from deepnlme.covariates.forms import Term
from deepnlme.covariates.lasso_newton import Place
from deepnlme.covariates.lasso_path import group_weights, largest_penalty, path, restricted, size
from deepnlme.covariates.lasso_trail import SPAN, Trail, groups_of
from deepnlme.covariates.relations import CovariateModel
from deepnlme.covariates.scm_refits import CLOSE
from deepnlme.estimation import Fit, FitStatus
from deepnlme.estimation import fit as fit_model

PENALTIES = 100
"""Penalties on a path; they cost nothing here."""


@dataclass(frozen=True)
class Full:
    """The fit with all relations, as a quadratic in their coefficients on the free scale.

    Attributes:
        fit: The fit, with its matrix R.
        place: Of the coefficients.
    """

    fit: Fit
    place: Place

    @property
    def value(self) -> float:
        """OFV - 2 log prior."""
        return self.fit.ofv + self.fit.penalty

    @property
    def best(self) -> np.ndarray:
        """[q] estimates."""
        return self.fit.free[self.place.at]

    @property
    def variance(self) -> np.ndarray:
        """[q, q] inverse information, the other parameters being estimated."""
        assert self.fit.covariance is not None  # `full_fit` has seen to it
        return np.linalg.inv(self.fit.covariance.r)[np.ix_(self.place.at, self.place.at)]

    @property
    def curvature(self) -> np.ndarray:
        """[q, q]: the OFV rises by about d' curvature d where the coefficients move by d."""
        return np.linalg.inv(self.variance)

    @property
    def wald(self) -> np.ndarray:
        """P-values of the relations, [G]."""
        best, variance = self.best, self.variance
        tests = [float(best[g] @ np.linalg.solve(variance[np.ix_(g, g)], best[g])) for g in self.place.groups]
        return np.array([float(chi2.sf(t, len(g))) for t, g in zip(tests, self.place.groups, strict=True)])


def full_fit(fit: Fit, terms: Sequence[Term]) -> Full | str:
    """The model with all relations, fitted; or why it cannot be."""
    count, subjects = sum(len(t.names) for t in terms), len(fit.population)
    if count + len(fit.free) >= subjects:
        return f"{count} coefficients for {subjects} subjects"
    found = refit(fit, terms, "R", fit.estimates)
    why = unfinished(found, fit.unconverged)
    if why:
        return why
    if found.covariance is None or not found.covariance.ok:
        return "the data do not determine it (are covariates nearly linear in each other?)"
    names = list(found.joint.space.names)
    at = np.array([names.index(n) for term in terms for n in term.names])
    return Full(found, Place(at, groups_of(terms)))


def refit(fit: Fit, terms: Sequence[Term], covariance: str, start: Mapping[str, float]) -> Fit:
    """The model with some relations, fitted to the people of a fit.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    options = replace(fit.options, progress=False, checkpoint=None, held_out=None, covariance=covariance, starts=1)
    model = CovariateModel(fit.model, terms) if terms else fit.model
    values: dict[str, Any] = {n: v for n, v in start.items() if n in model.space.names}
    values |= {n: w for n, w in fit.weights.items() if n in model.space.weights}
    found = fit_model(model, fit.population, fit.method, start=values, options=options)
    if found.status is FitStatus.INTERRUPTED or (found.covariance is None and covariance != "auto"):
        raise KeyboardInterrupt("interrupted in a fit of the lasso")
    return found


def unfinished(fit: Fit, known: Sequence[Any] = ()) -> str:
    """Why a fit is not at its minimum; empty where it is.

    Args:
        fit: The fit.
        known: Subjects whose random effects are not found anyway.
    """
    lost = [i for i in fit.unconverged if i not in known]
    if lost:
        return f"random effects not found for {len(lost)} of {len(fit.population)} subjects"
    good = fit.status in (FitStatus.CONVERGED, FitStatus.FLAT) or fit.decrement < CLOSE
    return "" if good else fit.status.value.removeprefix("not converged: ")


def quadratic_trail(full: Full, power: float) -> Trail:
    """The path where the OFV is quadratic in the coefficients, the other parameters being at their best."""
    best, curvature, groups = full.best, full.curvature, full.place.groups
    weights = group_weights(best, groups, power)
    top = largest_penalty(2.0 * curvature @ best, groups, weights)
    penalties = np.geomspace(top, SPAN ** (1.0 + power) * top, PENALTIES)
    found = path(best, curvature, groups, weights, penalties)
    found[0] = 0.0  # by the definition of the largest penalty; the descent ends at rounding errors beside it
    away = found - best
    values = full.value + np.einsum("li,ij,lj->l", away, curvature, away)
    return Trail(full.place, penalties, np.array([size(b, groups, weights) for b in found]), found, values)


def quadratic_refit(full: Full, trail: Trail, at: int) -> float:
    """The OFV without penalty of the set at a place of the path, by the quadratic."""
    active = np.repeat(trail.sets[at], [len(g) for g in full.place.groups])
    return full.value + restricted(full.best, full.curvature, active)[1]
