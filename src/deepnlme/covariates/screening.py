"""Screening: do empirical Bayes estimates go with covariates?

An EBE is shrunk towards zero, and where data are sparse or Omega is a block also towards what other effects of the
subject suggest: a covariate of one parameter then goes with the EBEs of another. So the tests take what the data alone
say of all effects together (see `deepnlme.covariates.effect_regression`): subjects with few data count less, effects
are not diluted, and a covariate of one parameter is not found on another.

Source: Savic, Karlsson 2009, AAPS J 11:558 (shrinkage and covariate screening); Holm 1979, Scand J Statist 6:65.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from scipy.stats import t as t_distribution

from deepnlme.covariates.effect_regression import Regression, regression
from deepnlme.covariates.false_positives import SCREENING
from deepnlme.covariates.forms import Term, subject_values
from deepnlme.covariates.selection import (
    LEVEL,
    Selection,
    distinct_candidates,
    left_out,
    ranked,
    ratio_with_interval,
    require_effects,
    same_at_first,
)
from deepnlme.covariates.targets import effect_targets
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.estimation.individuals import block_cholesky, effect_names
from deepnlme.joint.calling import model_arithmetic

TESTS = ("regression", "spearman")
HIGH_SHRINKAGE = 30.0
"""Shrinkage [%] beyond which the screening warns."""
FEW = 15.0
"""Subjects informing an effect, of many, below which p-values were not found to be nominal."""


def screen(
    fit: Fit,
    candidates: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    forms: Mapping[str, Any] | Sequence[str] | str = "auto",
    level: float = 0.05,
    test: str = "regression",
) -> Selection:
    """Test every candidate on the EBEs of one fit; no model is fitted again.

    EFFECT is exact for power, exponential and categorical relations where the random effect is additive on the
    logarithm of the parameter, else to first order (`notes` say so); linear and exponential relations are one test.
    Relations are tested one at a time: covariates that go with a true one are found too. P is that of Holm's
    correction over all candidates; `steps` has the single p-values and the shrinkage. Covariates count with their
    values at the subjects' first records. P is NaN where that cannot be tested, and `notes` say why.

    Args:
        fit: The fit without the relations.
        candidates: As in `scm`; only parameters with a random effect of their name.
        forms: As in `scm`.
        level: Relations with a corrected p-value below are selected.
        test: "regression" (F test of a regression in which shrinkage is taken out; an analysis of variance for
            categories) or "spearman" (rank correlation of the plain EBEs; for numbers).

    Returns:
        The selection, without a fit; `relations` go into `with_covariates`.

    Raises:
        ModelError: No such effect, or arguments out of range.
        DataError: A covariate that is not there, does not vary, does not suit the form, or says the same as another.
    """
    terms, left = left_out(fit, distinct_candidates(fit, candidates, forms), candidates)
    _check(fit, terms, level, test)
    began = time.perf_counter()
    targets, done = effect_targets(fit), dict[tuple[str, str], list[Regression]]()
    slopes = log_slopes(fit, dict.fromkeys(term.parameter for term in terms))
    raw, rows = [], []
    for term in terms:
        i, x = targets.names.index(term.parameter), subject_values(fit.population, term.covariate)
        key = term.covariate, term.form
        if key not in done:
            done[key] = regression(targets, term.design(x))
        p, score = done[key][i].p, done[key][i].r2
        if test == "spearman" and term.form != "categorical":
            r, p = map(float, spearmanr(x, targets.mode[:, i]))
            score = r * r
        raw.append(p)
        rows.append({"TERM": term, "EFFECT": _effect(term, done[key][i], slopes[term.parameter]), "SCORE": score})
    corrected = holm(np.array(raw))
    for row, p in zip(rows, corrected, strict=True):
        row |= {"P": float(p), "SELECTED": bool(p < level)}
    tested = [term for term, p in zip(terms, raw, strict=True) if test == "regression" and not math.isnan(p)]
    of = {term.parameter: done[term.covariate, term.form][targets.names.index(term.parameter)] for term in tested}
    few = _few({name: found.people for name, found in of.items()}, len(targets))
    notes = (*left, *_remarks(fit, terms, slopes), *few, *_untested(fit, terms, raw))
    found = _selection(fit, rows, raw, test, time.perf_counter() - began, notes)
    usual = (level, test, forms) == (0.05, "regression", "auto")
    return replace(found, false_positives=SCREENING if usual else None)


def log_slopes(fit: Fit, names: Collection[str]) -> dict[str, float]:
    """d log parameter / d random effect of its name at eta = 0, the median over the subjects; 1 for log-normal ones.

    NaN for parameters that are not log-normal and so near to zero that they vary around it: ratios of them say nothing.
    """
    joint, step = fit.joint, 1e-4
    lower, effects = block_cholesky(joint, fit.free), effect_names(joint)
    values = joint.space.values(torch.tensor(fit.free).expand(1, 1, -1))

    def log(name: str, size: float) -> np.ndarray:
        eta = size * np.array([float(effect == name) for effect in effects])
        z = torch.tensor(np.linalg.lstsq(lower, eta, rcond=None)[0]).expand(1, len(fit.population), -1)
        with torch.no_grad(), model_arithmetic():
            p = joint.parameters(values, z, joint.batch)[1][name]
        return np.log(np.abs(p[0, :, 0].numpy()))

    found = {name: float(np.median(log(name, step) - log(name, -step)) / (2.0 * step)) for name in names}
    found = {name: 1.0 if abs(slope - 1.0) < 1e-6 else slope for name, slope in found.items()}
    sd = {name: math.sqrt(float(fit.omega.loc[name, name])) for name in found}  # type: ignore[arg-type]
    return {n: s if s == 1.0 or 0.0 < abs(s) * sd[n] < 1.0 else math.nan for n, s in found.items()}


def _check(fit: Fit, terms: Sequence[Term], level: Any, test: Any) -> None:
    require_effects(fit, terms)
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ModelError(invalid("level", repr(level), "It is a p-value between 0 and 1"))
    if test not in TESTS:
        raise ModelError(invalid("test", repr(test), f"It is one of {', '.join(TESTS)}"))
    most = max(len(t.names) for t in terms)
    if len(fit.population) < most + 3:
        expected = f"A regression on {most} columns needs at least {most + 3}"
        raise ModelError(invalid("fit", f"{len(fit.population)} subjects", expected))


def _effect(term: Term, found: Regression, slope: float) -> tuple[float, float, float]:
    """Ratio over the range of the covariate with its interval, from the regression and d log parameter / d eta."""
    if not found.df:
        return math.nan, math.nan, math.nan
    if term.form == "categorical":
        contrast = np.zeros(len(found.slopes))
        contrast[int(np.nanargmax(np.abs(found.slopes)))] = 1.0
    else:
        ends = term.design(np.array([term.low, term.high]))
        contrast = ends[1] - ends[0]
    on = np.flatnonzero(np.isfinite(found.slopes))  # not levels that nobody begins with
    contrast = contrast[on] * slope
    log, variance = float(contrast @ found.slopes[on]), contrast @ found.covariance[np.ix_(on, on)] @ contrast
    away = float(t_distribution.ppf(0.5 + 0.5 * LEVEL, found.df)) * math.sqrt(variance)
    return ratio_with_interval(log, away)


def holm(p: np.ndarray) -> np.ndarray:
    """P-values corrected for their number by Holm's method, [n]; NaN are no tests."""
    out = np.full(len(p), math.nan)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    stepped = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    out[order] = np.minimum(stepped, 1.0)
    return out


def _remarks(fit: Fit, terms: Sequence[Term], slopes: Mapping[str, float]) -> tuple[str, ...]:
    shrunk, out = fit.shrinkage, []
    if any(term.form in ("linear", "piecewise") for term in terms):
        out.append("EFFECT of linear and piecewise relations is to first order")
    for name in slopes:
        if shrunk[name] > HIGH_SHRINKAGE:
            out.append(f"warning: shrinkage of {name} is {shrunk[name]:.0f} %: its EBEs say little, tests lose power")
    return (*out, *first_order(slopes))


def first_order(slopes: Mapping[str, float]) -> list[str]:
    """Remarks on parameters whose random effect is not additive on their logarithm, from `log_slopes`."""
    near = [
        f"{n} varies around zero: there is no EFFECT as a ratio" for n, slope in slopes.items() if math.isnan(slope)
    ]
    others = [n for n, slope in slopes.items() if slope != 1.0 and not math.isnan(slope)]
    return [f"{n} is not log-normal: its EFFECT is to first order" for n in others] + near


def _few(people: Mapping[str, float], subjects: int) -> list[str]:
    """Warnings for effects that few of many subjects inform, from their numbers."""
    return [
        f"warning: effectively {n:.0f} of {subjects} subjects inform {name}: its P may be too small"
        for name, n in people.items()
        if n < FEW and n < 0.5 * subjects
    ]


def _untested(fit: Fit, terms: Sequence[Term], raw: Sequence[float]) -> list[str]:
    """Why there are relations without P."""
    lost = [term for term, p in zip(terms, raw, strict=True) if math.isnan(p)]
    same = same_at_first(fit, lost)
    out = [f"warning: {name} is not tested: all subjects begin with the same value" for name in same]
    rest = [term.label for term in lost if term.covariate not in same]
    if rest:
        shown = ", ".join(rest[:5]) + (" ..." if len(rest) > 5 else "")
        out.append(f"warning: not tested, since the data do not tell what it does to the random effects: {shown}")
    return out


def _selection(
    fit: Fit, rows: list[dict[str, Any]], raw: list[float], test: str, seconds: float, notes: tuple[str, ...]
) -> Selection:
    shrunk = fit.shrinkage
    steps = pd.DataFrame(
        {
            "RELATION": [row["TERM"].label for row in rows],
            "P": raw,
            "P HOLM": [row["P"] for row in rows],
            "SHRINKAGE%": [shrunk[row["TERM"].parameter] for row in rows],
        }
    )
    chosen = tuple(row["TERM"] for row in rows if row["SELECTED"])
    score = "share of the variance of the effects that the covariate explains (R2)"
    return Selection(f"Screening ({test})", ranked(rows), score, _one_form(chosen, rows), seconds, steps, None, notes)


def _one_form(chosen: tuple[Term, ...], rows: list[dict[str, Any]]) -> tuple[Term, ...]:
    """Of several forms of one relation the one with the largest score."""
    score = {row["TERM"]: row["SCORE"] for row in rows}
    best: dict[tuple[str, str], Term] = {}
    for term in chosen:
        key = (term.parameter, term.covariate)
        if key not in best or score[term] > score[best[key]]:
            best[key] = term
    return tuple(best.values())
