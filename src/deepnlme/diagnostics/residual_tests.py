"""Tests of what weighted residuals are under the model: independent, standard normal, without a trend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit

RESIDUALS = ("CWRES", "WRES", "IWRES")
SHAPIRO_MOST = 5000
"""Residuals up to which normality is tested by Shapiro and Wilk, beyond by D'Agostino and Pearson."""
ROUNDING = 1e-9
"""Predictions that differ by no more, relatively, are the same."""
FEWEST = 8
"""Residuals that a test takes at least."""


@dataclass(frozen=True)
class _Sample:
    """Residuals of one endpoint, those of a subject together and in the order of the table.

    Attributes:
        residual, time, pred, subject: [N].
    """

    residual: np.ndarray
    time: np.ndarray
    pred: np.ndarray
    subject: np.ndarray


_Result = tuple[str, int, float, float]
"""How it was tested, number of residuals or pairs, statistic, p-value."""


def residual_tests(fit: Fit | pd.DataFrame, residual: str = "CWRES") -> pd.DataFrame:
    """Test the weighted residuals of each endpoint against what they are under the model.

    - mean: zero (t test);
    - variance: one (chi2 test);
    - normality: Shapiro and Wilk, beyond 5000 residuals D'Agostino and Pearson;
    - trend with TIME, PRED: Spearman's rank correlation;
    - curve in TIME, PRED: the quadratic term of a regression on ranks, which finds what rises and falls again;
    - spread with PRED: Spearman's correlation of the residual's size with PRED;
    - autocorrelation: Spearman's correlation of consecutive residuals of a subject.

    P-values are approximate: the residuals of a subject are decorrelated by a linearised model, at estimates that were
    fitted to the same data (which makes the tests of mean and variance conservative). IWRES are shrunken: their
    variance is below one in a correct model too. Endpoints that have no such residuals (counts) are not in the table.

    Args:
        fit: A fit, or a table with the columns ID TIME PRED, the residual's and, for several endpoints, DVID.
        residual: "CWRES", "WRES" or "IWRES"; of a table any of its columns that is standard normal under the model,
            such as NPDE.

    Returns:
        One row per endpoint and test: Endpoint, Test, By (which test), N, Statistic, P, and "P Holm", adjusted for all
        tests of the table. A test that cannot be made has NaN, and By says why.

    Raises:
        ModelError: No such residual, or fewer than 8 of them.
    """
    table = _table(fit, residual)
    name = fit.joint.endpoints[0] if isinstance(fit, Fit) else "dv"
    rows = []
    for endpoint, own in table.groupby("DVID", sort=False, dropna=False) if "DVID" in table else [(name, table)]:
        if len(own) < FEWEST:
            fix = "Look at its residuals one by one, and test a table without it: the rows of fit.predictions()"
            raise ModelError(invalid(residual, len(own), f"Tests need {FEWEST} of them", f"`{endpoint}`", fix))
        subject = pd.factorize(own["ID"])[0]
        order = np.argsort(subject, kind="stable")
        value, time, pred = (own[c].to_numpy(float)[order] for c in (residual, "TIME", "PRED"))
        pred = _even(pred)
        sample = _Sample(value, time, pred, subject[order])
        rows += [(endpoint, test, *run(sample)) for test, run in TESTS.items()]
    found = pd.DataFrame(rows, columns=["Endpoint", "Test", "By", "N", "Statistic", "P"])
    found["P Holm"] = holm(found["P"].to_numpy(float))
    return found


def _table(fit: Fit | pd.DataFrame, residual: str) -> pd.DataFrame:
    """Rows that have a residual."""
    if isinstance(fit, pd.DataFrame):
        table = fit
        missing = [c for c in ("ID", "TIME", "PRED", residual) if c not in table]
        if missing:
            got = f"a table without {missing[0]}"
            raise ModelError(invalid("fit", got, f"It has the columns ID TIME PRED {residual}"))
    elif isinstance(fit, Fit):
        if residual not in RESIDUALS:
            fix = "Other residuals are tested from a table that has them"
            raise ModelError(invalid("residual", repr(residual), f"It is one of {', '.join(RESIDUALS)}", fix=fix))
        table = fit.predictions()
    else:
        raise ModelError(invalid("fit", type(fit).__name__, "It is a fit or a table", fix="Use the result of dn.fit"))
    seen = table.loc[np.isfinite(table[residual].to_numpy(float)) & np.isfinite(table["PRED"].to_numpy(float))]
    if not len(seen):
        fix = "Likelihoods that are not normal have none: look at simulated data beside the observed"
        raise ModelError(invalid(residual, "none", "Tests need residuals", fix=fix))
    return seen


def _mean(s: _Sample) -> _Result:
    statistic, p = np.asarray(stats.ttest_1samp(s.residual, 0.0), dtype=float)
    return "t", len(s.residual), float(statistic), float(p)


def _variance(s: _Sample) -> _Result:
    n = len(s.residual)
    statistic = float((n - 1) * s.residual.var(ddof=1))
    p = 2.0 * min(stats.chi2.cdf(statistic, n - 1), stats.chi2.sf(statistic, n - 1))
    return "chi2", n, statistic, float(min(p, 1.0))


def _normality(s: _Sample) -> _Result:
    small = len(s.residual) <= SHAPIRO_MOST
    statistic, p = stats.shapiro(s.residual) if small else stats.normaltest(s.residual)
    return "Shapiro-Wilk" if small else "D'Agostino", len(s.residual), float(statistic), float(p)


def _even(pred: np.ndarray) -> np.ndarray:
    """Predictions that are the same but for rounding (people alike) made the same: their ranks are ties then."""
    order = np.argsort(pred, kind="stable")
    up = pred[order]
    apart = np.diff(up) > ROUNDING * np.maximum(np.abs(up[1:]), np.abs(up[:-1]))
    first = np.maximum.accumulate(np.where(np.r_[True, apart], np.arange(len(up)), 0))
    out = np.empty_like(pred)
    out[order] = up[first]
    return out


def _spearman(x: np.ndarray, y: np.ndarray, what: str) -> _Result:
    if len(x) < FEWEST:
        return f"{len(x)} {what}, too few", len(x), math.nan, math.nan
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return f"{what} all the same", len(x), math.nan, math.nan
    correlation, p = np.asarray(stats.spearmanr(x, y), dtype=float)
    return "Spearman", len(x), float(correlation), float(p)


def _curve(x: np.ndarray, y: np.ndarray, what: str) -> _Result:
    """The t test of the square in a regression of y on rank and squared rank of x."""
    if len(np.unique(x)) < 3:
        return f"{what} with fewer than 3 values", len(x), math.nan, math.nan
    rank = stats.rankdata(x)
    rank = (rank - rank.mean()) / rank.std()
    design = np.stack([np.ones_like(rank), rank, rank**2], 1)
    inverse = np.linalg.inv(design.T @ design)
    slope = inverse @ design.T @ y
    freedom = len(y) - 3
    error = math.sqrt(float(np.sum((y - design @ slope) ** 2)) / freedom * inverse[2, 2])
    statistic = float(slope[2]) / error
    return "regression", len(y), statistic, float(2.0 * stats.t.sf(abs(statistic), freedom))


def _autocorrelation(s: _Sample) -> _Result:
    follows = s.subject[1:] == s.subject[:-1]
    return _spearman(s.residual[:-1][follows], s.residual[1:][follows], "pairs")


TESTS: dict[str, Callable[[_Sample], _Result]] = {
    "mean": _mean,
    "variance": _variance,
    "normality": _normality,
    "trend with TIME": lambda s: _spearman(s.time, s.residual, "TIME"),
    "trend with PRED": lambda s: _spearman(s.pred, s.residual, "PRED"),
    "curve in TIME": lambda s: _curve(s.time, s.residual, "TIME"),
    "curve in PRED": lambda s: _curve(s.pred, s.residual, "PRED"),
    "spread with PRED": lambda s: _spearman(s.pred, np.abs(s.residual), "PRED"),
    "autocorrelation": _autocorrelation,
}


def holm(p: np.ndarray) -> np.ndarray:
    """P-values adjusted for their number; NaN do not count.

    Source: Holm 1979, Scand J Statist 6:65.

    Args:
        p: [N].
    """
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return out
