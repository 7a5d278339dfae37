"""Screening: do empirical Bayes estimates go with covariates?

An EBE is shrunk towards zero: about eta_hat = w (eta + error) with w = 1 - v / omega2, v its conditional variance. The
regression of eta_hat / w on the covariates with weights w undoes that: subjects without information count for nothing,
and effects are not diluted.

Source: Savic, Karlsson 2009, AAPS J 11:558 (shrinkage and covariate screening); Holm 1979, Scand J Statist 6:65.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution
from scipy.stats import spearmanr
from scipy.stats import t as t_distribution

from deepnlme.covariates.forms import Term, subject_values
from deepnlme.covariates.selection import LEVEL, Selection, candidates_of, own_effects, ranked
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit

TESTS = ("regression", "spearman")
HIGH_SHRINKAGE = 30.0
"""Shrinkage [%] beyond which the screening warns."""
LEAST = 1e-3
"""Weight below which a subject counts for nothing."""


@dataclass(frozen=True)
class _Regression:
    """A weighted regression of an effect on the columns of a relation.

    Attributes:
        slopes: [q] coefficients, of log parameter per free unit of the relation.
        covariance: [q, q] of them.
        df: Degrees of freedom of the residuals.
        r2: Share of the weighted variance that is explained.
        p: Of no relation at all, by the F test.
    """

    slopes: np.ndarray
    covariance: np.ndarray
    df: int
    r2: float
    p: float


def screen(
    fit: Fit,
    candidates: Mapping[str, Any] | Sequence[str] | None = None,
    *,
    forms: Mapping[str, Any] | Sequence[str] | str = "auto",
    level: float = 0.05,
    test: str = "regression",
) -> Selection:
    """Test every candidate on the EBEs of one fit; no model is fitted again.

    The random effect of the parameter's name is taken as additive on the logarithm of the parameter. Relations are
    tested one at a time: covariates that go with a true one are found too. P is that of Holm's correction over all
    candidates; `steps` has the single p-values and the shrinkage.

    Args:
        fit: The fit without the relations.
        candidates: As in `scm`; only parameters with a random effect of their name.
        forms: As in `scm`.
        level: Relations with a corrected p-value below are selected.
        test: "regression" (F test of the regression weighted for shrinkage; an analysis of variance for categories) or
            "spearman" (rank correlation of the plain EBEs; for numbers).

    Returns:
        The selection, without a fit; `relations` go into `with_covariates`.

    Raises:
        ModelError: No such effect, or arguments out of range.
        DataError: A covariate that is not there, does not vary, or does not suit the form.
    """
    terms = candidates_of(fit, candidates, forms)
    _check(fit, terms, level, test)
    began = time.perf_counter()
    ebes, omega = fit.ebes, fit.omega
    position = {name: i for i, name in enumerate(ebes.names)}
    raw, rows = [], []
    for term in terms:
        i = position[term.parameter]
        variance = float(omega.loc[term.parameter, term.parameter])
        weight = np.clip(1.0 - ebes.covariance[:, i, i] / variance, 0.0, 1.0)
        x = subject_values(fit.population, term.covariate)
        found = weighted_regression(ebes.eta[:, i], weight, term.design(x))
        p, score = found.p, found.r2
        if test == "spearman" and term.form != "categorical":
            r, p = map(float, spearmanr(x, ebes.eta[:, i]))
            score = r * r
        raw.append(p)
        rows.append({"TERM": term, "EFFECT": _effect(term, found), "SCORE": score})
    corrected = holm(np.array(raw))
    for row, p in zip(rows, corrected, strict=True):
        row |= {"P": float(p), "SELECTED": bool(p < level)}
    return _selection(fit, rows, raw, test, time.perf_counter() - began)


def _check(fit: Fit, terms: Sequence[Term], level: Any, test: Any) -> None:
    effects = own_effects(fit)
    unknown = [t.parameter for t in terms if t.parameter not in effects]
    if unknown:
        expected = f"Parameters with a random effect of their name are {', '.join(effects) or '(none)'}"
        raise ModelError(invalid("candidates", repr(unknown[0]), expected, fix="Use dn.scm for others"))
    zero = [t.parameter for t in terms if not fit.omega.loc[t.parameter, t.parameter] > 0]
    if zero:
        raise ModelError(invalid("candidates", repr(zero[0]), "Its variance is zero: there are no EBEs to test"))
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ModelError(invalid("level", repr(level), "It is a p-value between 0 and 1"))
    if test not in TESTS:
        raise ModelError(invalid("test", repr(test), f"It is one of {', '.join(TESTS)}"))
    most = max(len(t.names) for t in terms)
    if len(fit.population) < most + 3:
        expected = f"A regression on {most} columns needs at least {most + 3}"
        raise ModelError(invalid("fit", f"{len(fit.population)} subjects", expected))


def weighted_regression(eta: np.ndarray, weight: np.ndarray, columns: np.ndarray) -> _Regression:
    """Regression of eta / weight on an intercept and columns, with these weights.

    Args:
        eta: [S] shrunk effects.
        weight: [S] one less shrinkage of the variance, 0 to 1.
        columns: [S, q].
    """
    used = weight > LEAST
    n, q = int(used.sum()), columns.shape[1]
    nothing = _Regression(np.full(q, math.nan), np.full((q, q), math.nan), 0, math.nan, 1.0)
    if n < q + 3:
        return nothing
    root = np.sqrt(weight[used])
    y = eta[used] / weight[used] * root
    x = np.column_stack([np.ones(n), columns[used]]) * root[:, None]
    if np.linalg.matrix_rank(x) < q + 1:
        return nothing
    b, *_ = np.linalg.lstsq(x, y, rcond=None)
    rest = float(np.sum((y - x @ b) ** 2))
    mean = float((root @ y) / (root @ root))
    total = float(np.sum((y - mean * root) ** 2))
    df = n - q - 1
    sigma2 = rest / df
    p = float(f_distribution.sf((total - rest) / q / sigma2, q, df)) if sigma2 > 0 else 0.0
    covariance = sigma2 * np.linalg.inv(x.T @ x)[1:, 1:]
    return _Regression(b[1:], covariance, df, 1.0 - rest / total if total > 0 else 0.0, p)


def _effect(term: Term, found: _Regression) -> tuple[float, float, float]:
    """Ratio over the range of the covariate with its interval, from the regression."""
    if not found.df:
        return math.nan, math.nan, math.nan
    if term.form == "categorical":
        contrast = np.zeros(len(found.slopes))
        contrast[int(np.argmax(np.abs(found.slopes)))] = 1.0
    else:
        ends = term.design(np.array([term.low, term.high]))
        contrast = ends[1] - ends[0]
    log = float(contrast @ found.slopes)
    away = float(t_distribution.ppf(0.5 + 0.5 * LEVEL, found.df)) * math.sqrt(contrast @ found.covariance @ contrast)
    return math.exp(log), math.exp(log - away), math.exp(log + away)


def holm(p: np.ndarray) -> np.ndarray:
    """P-values corrected for their number by Holm's method, [n]."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1.0)
    return out


def _selection(fit: Fit, rows: list[dict[str, Any]], raw: list[float], test: str, seconds: float) -> Selection:
    shrunk = fit.shrinkage
    names = dict.fromkeys(row["TERM"].parameter for row in rows)
    notes = tuple(
        f"warning: shrinkage of {name} is {shrunk[name]:.0f} %: its EBEs say little, and tests of them lose power"
        for name in names
        if shrunk[name] > HIGH_SHRINKAGE
    )
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
