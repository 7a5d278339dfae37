"""Penalised selection: a group lasso on all relations at once, inside the likelihood.

Source: Ribbing et al. 2007, J Pharmacokinet Pharmacodyn 34:485 (the lasso for covariate models); Zou 2006, J Am Stat
Assoc 101:1418 (adaptive weights).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from deepnlme.covariates.false_positives import LASSO
from deepnlme.covariates.forms import Term
from deepnlme.covariates.lasso_folds import held_out, simplest
from deepnlme.covariates.lasso_newton import Penalised, Place, Point
from deepnlme.covariates.lasso_path import group_weights
from deepnlme.covariates.lasso_quadratic import Full, full_fit, quadratic_refit, quadratic_trail, refit, unfinished
from deepnlme.covariates.lasso_trail import (
    PENALTIES,
    PILOT_PENALTIES,
    Rule,
    Trail,
    compared,
    groups_of,
    pilot,
    problem,
    relaxed,
    walk,
)
from deepnlme.covariates.selection import Selection, distinct_candidates, effect_of, effects_of, ranked
from deepnlme.errors import ConvergenceError, ModelError, invalid
from deepnlme.estimation import Fit

CRITERIA = ("auto", "bic", "ebic", "cv")
APPROXIMATIONS = ("exact", "quadratic")


@dataclass(frozen=True)
class _Task:
    """What is asked for.

    Attributes:
        fit: The fit without the relations.
        terms: The relations.
        full: The model with all of them, or why there is none.
        criterion: "bic", "ebic" or "cv".
        power: Of the adaptive weights.
        folds, seed: Of "cv".
    """

    fit: Fit
    terms: tuple[Term, ...]
    full: Full | str
    criterion: str
    power: float
    folds: int
    seed: int

    @property
    def rule(self) -> Rule:
        """The criterion of sets; BIC beside cross-validation."""
        name = "bic" if self.criterion == "cv" else self.criterion
        return Rule(name, len(self.fit.population), len(self.terms), sum(len(t.names) for t in self.terms))


@dataclass(frozen=True)
class _Found:
    """A path, and the choice on it.

    Attributes:
        trail: The path in the coefficients of all relations.
        steps: Its table.
        which: The row of the table that is chosen.
        start: Estimates by name from which to fit the model chosen.
        end: Estimates by name at the end of the path.
        notes: Remarks.
    """

    trail: Trail
    steps: pd.DataFrame
    which: int
    start: dict[str, float]
    end: dict[str, float]
    notes: tuple[str, ...] = ()


def lasso(
    fit: Fit,
    candidates: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    forms: Mapping[str, Any] | str = "auto",
    criterion: str = "auto",
    folds: int = 5,
    power: float = 1.0,
    approximation: str = "exact",
    seed: int = 0,
    progress: bool = True,
) -> Selection:
    """Group lasso on the model with all relations, inside the likelihood.

    Over all parameters together, OFV + lambda sum_g w_g |b_g| is made stationary, with b_g the coefficients of one
    relation on the free scale: per standard deviation of the covariate, of a category the logarithm of its factor.
    (Priors of the model count as well: where it has any, OFV stands for OFV - 2 log prior, in the tables too.) The path
    grows with the size sum_g w_g |b_g|, at each of which the OFV is least, and lambda is the multiplier; it falls on
    the way, but where effects are so large that Omega falls it may rise for a while. The weights are
    w_g = sqrt(coefficients in g) / |c_g|^power with c the estimates of the model with all relations. Where this model
    cannot be fitted, as with more coefficients than subjects, c is that of a plain lasso (`notes` say so), and
    relations with c_g = 0 are left out. The sets of relations along the path are the choices; they are fitted without
    penalty to be compared, and the one chosen is the result.

    Args:
        fit: The fit without the relations.
        candidates: As in `scm`.
        forms: A form, or that of each covariate by name.
        criterion: "bic" (OFV without penalty + q log S with q coefficients and S subjects); "ebic", which adds
            log C(G, k) for k of G relations (twice that with as many coefficients as subjects); "auto" is "ebic" with
            as many coefficients as subjects, else "bic"; "cv": the OFV of subjects that are kept aside, in turn, from
            weights, path and fits (sizes tried, medians and levels are those of all): the smallest set that is within
            one standard error of the best.
        folds: Groups of subjects of "cv".
        power: Of the adaptive weights; 0 for a plain group lasso.
        approximation: "exact", or "quadratic": the OFV is quadratic around the estimates of the model with all
            relations, which is fitted once. This is faster, overstates what is lost where large effects are left out,
            and needs more subjects than coefficients.
        seed: Of the folds.
        progress: Show a progress bar.

    Returns:
        The selection: P is that of the Wald test in the model with all relations, by the matrix R (NaN where there is
        no such fit). `steps` has the different sets on the path: LAMBDA relative to that at the beginning, SIZE
        sum_g w_g |b_g|, OFV at the penalised estimates, REFITTED without penalty (NaN for sets that cannot win). `path`
        has LAMBDA, SIZE, OFV and all b on the free scale. EFFECT of a relation that is not selected is that in the
        model with all, else at the end of the path. Intervals do not know that there was a selection. Iteration and
        time limits of the fit's options hold for the fit of all relations and that of the result; `notes` say if one of
        them has not reached its end.

    Raises:
        ModelError: Not a fit with estimates, arguments out of range.
        DataError: A covariate that is not there, has no value for some, does not vary, or says the same as another.
        ConvergenceError: "quadratic", and the model with all relations cannot be fitted; "cv", and the OFV of a subject
            is not finite at the fit of others.
        KeyboardInterrupt: It was interrupted.
    """
    terms = distinct_candidates(fit, candidates, forms)
    _check(fit, terms, criterion, folds, power, approximation)
    began = time.perf_counter()
    count, subjects = sum(len(t.names) for t in terms), len(fit.population)
    if criterion == "auto":
        criterion = "ebic" if count >= subjects else "bic"
    bar = tqdm(total=2 + PENALTIES, disable=not progress, desc="lasso", leave=False)
    try:
        task = _Task(fit, tuple(terms), full_fit(fit, terms), criterion, power, folds, seed)
        bar.update()
        found = _exact(task, bar) if approximation == "exact" else _quadratic(task)
        on = found.trail.sets[found.trail.firsts[found.which]]
        chosen = tuple(t for t, yes in zip(terms, on, strict=True) if yes)
        new = bool(chosen) or bool(unfinished(fit))
        final = refit(fit, chosen, fit.options.covariance or "sandwich", found.start) if new else fit
    finally:
        bar.close()
    name = f"{'Adaptive lasso' if power else 'Lasso'} ({criterion}{', quadratic' * (approximation != 'exact')})"
    if unfinished(final):
        note = f"The fit of the result has not reached its end: {unfinished(final)}."
        found = replace(found, notes=(*found.notes, note))
    selection = _selection(name, task, found, chosen, final, time.perf_counter() - began)
    usual = (criterion, power, approximation, forms) == ("bic", 1, "exact", "auto") and isinstance(task.full, Full)
    return replace(selection, false_positives=LASSO if usual else None)


def _check(fit: Fit, terms: Sequence[Term], criterion: Any, folds: Any, power: Any, approximation: Any) -> None:
    if criterion not in CRITERIA:
        raise ModelError(invalid("criterion", repr(criterion), f"It is one of {', '.join(CRITERIA)}"))
    if approximation not in APPROXIMATIONS:
        raise ModelError(invalid("approximation", repr(approximation), f"It is one of {', '.join(APPROXIMATIONS)}"))
    if criterion == "cv" and approximation != "exact":
        fix = 'Use criterion="bic", or leave `approximation` out'
        raise ModelError(invalid("approximation", repr(approximation), "Cross-validation is exact", fix=fix))
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(fit.population):
        raise ModelError(invalid("folds", repr(folds), f"It is a whole number from 2 to {len(fit.population)}"))
    if isinstance(power, bool) or not isinstance(power, int | float) or not 0 <= power < math.inf:
        raise ModelError(invalid("power", repr(power), "It is a number of at least 0"))
    space = fit.joint.space
    if space.row_size < space.size:
        got = f"a network with {space.size - space.row_size} weights that all subjects share"
        expected = "The lasso estimates everything together, with a curvature of all parameters"
        raise ModelError(invalid("fit", got, expected, fix="Use dn.screen, or a network of at most 600 weights"))
    pairs = [(t.parameter, t.covariate) for t in terms]
    if len(set(pairs)) < len(pairs):
        expected = "The model with all relations has one form of each"
        raise ModelError(invalid("forms", "several of one relation", expected, fix="Use dn.scm to compare forms"))


def _exact(task: _Task, bar: Any) -> _Found:
    """The path of the true OFV."""
    search, weights, kept, notes = _weighted(task, bar)
    trail = walk(search, weights, task.power, seen=bar.update)
    fitted: dict[int, Point] = {}

    def refitted(i: int) -> float:
        fitted[i] = relaxed(search, trail.points[i])
        return fitted[i].value

    least = min(task.full.value, *trail.values) if isinstance(task.full, Full) else -math.inf
    steps = compared(trail, refitted, task.rule, least)
    which = int(np.nanargmin(steps[task.rule.criterion.upper()].to_numpy(float)))
    if task.criterion == "cv":
        bar.total += len(steps)
        aside = held_out(task.fit, task.terms, trail.middles, task.power, task.folds, task.seed, bar.update)
        steps["HELD OUT"], which = aside.sum(1), simplest(aside)
    named = search.objective.joint.space.as_dict
    first = trail.firsts[which]
    start = named(fitted.get(first, trail.points[first]).u)
    minima = [*trail.points, *fitted.values()]
    unsure = sum(not point.converged for point in minima)
    notes += [f"{unsure} of {len(minima)} minimisations have not converged."] * (unsure > 0)
    notes += [trail.end] * bool(trail.end)
    return _Found(_widened(trail, task.terms, kept), steps, which, start, named(trail.points[-1].u), tuple(notes))


def _weighted(task: _Task, bar: Any) -> tuple[Penalised, np.ndarray, np.ndarray, list[str]]:
    """The problem, weights and places of the relations that the weights leave in; remarks."""
    groups, full = groups_of(task.terms), task.full
    search, notes = problem(task.fit, task.terms), []
    best = full.best if isinstance(full, Full) else np.zeros(len(search.place.at))
    if isinstance(full, str):
        notes.append(f"The model with all relations is not fitted: {full}. There are no P.")
        if task.power:
            best, end = pilot(search, bar.update)
            bar.total += PILOT_PENALTIES
            count = int(search.place.used(best).sum())
            notes.append(f"The weights are from a plain lasso, which leaves {count} of {len(groups)} relations in.")
            notes += [end.replace("The path", "Its path")] * bool(end)
    weights = group_weights(best, groups, task.power)
    kept = np.flatnonzero(np.isfinite(weights))
    if len(kept) in (0, len(weights)):
        return search, weights, np.arange(len(weights)), notes
    return problem(task.fit, [task.terms[i] for i in kept]), weights[kept], kept, notes


def _widened(trail: Trail, terms: Sequence[Term], kept: np.ndarray) -> Trail:
    """The path in the coefficients of all relations, from that in those of some."""
    groups = groups_of(terms)
    out = np.zeros((len(trail.penalties), sum(len(g) for g in groups)))
    out[:, np.concatenate([groups[i] for i in kept])] = trail.coefficients
    return replace(trail, place=Place(np.arange(out.shape[1]), groups), coefficients=out)


def _quadratic(task: _Task) -> _Found:
    """The path of the OFV as a quadratic."""
    full = task.full
    if isinstance(full, str):
        fix = 'Leave approximation="quadratic" out, give fewer candidates, or use dn.screen or dn.scm'
        got = f"{len(task.terms)} relations"
        raise ConvergenceError(invalid("candidates", got, f"The model with all of them is needed: {full}", fix=fix))
    trail = quadratic_trail(full, task.power)
    steps = compared(trail, lambda i: quadratic_refit(full, trail, i), task.rule, -math.inf)
    which = int(np.argmin(steps[task.rule.criterion.upper()].to_numpy(float)))
    return _Found(trail, steps, which, full.fit.estimates, full.fit.estimates)


def _changes(terms: Sequence[Term], sets: Sequence[np.ndarray]) -> list[str]:
    """What every set has more or less than the one before."""
    before, out = np.zeros(len(terms), dtype=bool), []
    for on in sets:
        signs = on.astype(int) - before.astype(int)
        out.append("; ".join(f"{'+' if s > 0 else '-'} {t.label}" for t, s in zip(terms, signs, strict=True) if s))
        before = on
    return out


def _path(terms: Sequence[Term], trail: Trail) -> pd.DataFrame:
    """LAMBDA (relative), SIZE, OFV, and the coefficients on the free scale by name."""
    columns = {"LAMBDA": trail.relative, "SIZE": trail.sizes, "OFV": trail.values}
    names = [n for term in terms for n in term.names]
    return pd.DataFrame(columns | {n: trail.coefficients[:, i] for i, n in enumerate(names)})


def _selection(
    name: str, task: _Task, found: _Found, chosen: tuple[Term, ...], final: Fit, seconds: float
) -> Selection:
    trail, terms, full = found.trail, task.terms, task.full
    steps = found.steps.assign(CHANGE=_changes(terms, [trail.sets[i] for i in trail.firsts]))
    steps["DECISION"] = np.where(np.arange(len(steps)) == found.which, "chosen", "")
    if isinstance(full, Full):
        effects, p = effects_of(full.fit, terms), full.wald
    else:
        at_end = {n: t.null for t in terms for n in t.names} | found.end
        effects, p = {t: effect_of(t, at_end) for t in terms}, np.full(len(terms), math.nan)
    effects |= effects_of(final, chosen)
    on, late = np.stack(trail.sets), trail.sizes / max(trail.sizes[-1], 1e-300)
    rows = []
    for i, term in enumerate(terms):
        score = 1.0 - float(late[on[:, i]].min()) if on[:, i].any() else 0.0
        row = {"TERM": term, "EFFECT": effects[term], "SCORE": score, "P": p[i], "SELECTED": term in chosen}
        rows.append(row)
    score = "how early on the path the relation enters, from 1 to 0; P: Wald test in the model with all"
    path = _path(terms, trail)
    return Selection(name, ranked(rows), score, chosen, seconds, steps, final, found.notes, path)
