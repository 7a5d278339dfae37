"""Visual predictive checks: the table that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.diagnostics.arguments import check_level
from deepnlme.diagnostics.cells import Cells, quantile_table, share_table
from deepnlme.diagnostics.classes import classes_of
from deepnlme.diagnostics.correction import Correction, correction_of
from deepnlme.diagnostics.replicated import Replicated, replicated
from deepnlme.diagnostics.strata import strata
from deepnlme.diagnostics.survival import check_events, followed_until, survival_table
from deepnlme.errors import ModelError, invalid
from deepnlme.model import Model

KINDS = ("auto", "continuous", "categorical", "event")
"""Kinds of endpoints."""


@dataclass(frozen=True, eq=False)
class VPC:
    """A visual predictive check. `plot_vpc` draws it.

    Attributes:
        kind: "continuous" (quantiles), "categorical" (shares of categories or counts) or "event" (Kaplan-Meier).
        endpoint: Name of the endpoint.
        x: What stands on the axis: "TIME", "TAD" or "PRED".
        table: What is drawn. STRATUM, BIN, X_LOW, X_HIGH, X_MID (median of x), N, then QUANTILE (or CATEGORY; events
            have TIME and AT_RISK only), OBSERVED, SIM_LOW, SIM_MEDIAN, SIM_HIGH (over the simulated sets), OUTSIDE
            (the observed value lies outside the interval). A quantile that lies beyond a limit of quantification is
            NaN.
        blq: Shares beyond the limits of quantification: the same columns with LIMIT ("below" or "above"); None without
            censored observations.
        observed: The observations: ID TIME X STRATUM BIN DV CENS, corrected if that was asked for. Censored ones have
            the limit. Events have CENS=-1 where there was none until DV.
        strata: Labels of the strata; ("",) without.
        level: Of the intervals.
        corrected: "", "prediction" or "prediction and variability".
        uncorrected: Number of observations left as they are because their PRED is at the lower bound.
        limits: Lower and upper limit of quantification, where it is one for all observations, else NaN; on the scale of
            the data.
        replicates: Number of simulated sets.
        seed: Of the simulation.
        model: The model, whose declarations have the units.
        endpoints: Names of its endpoints.
    """

    kind: str
    endpoint: str
    x: str
    table: pd.DataFrame
    blq: pd.DataFrame | None
    observed: pd.DataFrame
    strata: tuple[str, ...]
    level: float
    corrected: str
    uncorrected: int
    limits: tuple[float, float]
    replicates: int
    seed: int
    model: Model
    endpoints: tuple[str, ...]

    def __str__(self) -> str:
        what = {"continuous": "quantiles", "categorical": "shares", "event": "points of the survival curve"}[self.kind]
        corrected = f", {self.corrected} corrected" if self.corrected else ""
        lines = [
            f"VPC of {self.endpoint} against {self.x}{corrected}: {len(self.observed)} observations, "
            f"{self.replicates} simulated sets",
            f"{_outside(self.table)} {what} lie outside the {100 * self.level:g}% interval of the simulated ones",
        ]
        if self.uncorrected:
            lines.append(f"{self.uncorrected} observations are not corrected: their PRED is at the lower bound")
        if self.blq is not None:
            lines.append(f"{_outside(self.blq)} shares beyond the limits of quantification lie outside")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<VPC of {self.endpoint}: {self.kind}, {len(self.observed)} observations, {self.replicates} sets>"


def vpc(
    source: Any,
    *,
    endpoint: str | None = None,
    kind: str = "auto",
    x: str = "TIME",
    bins: Any = "auto",
    number: int | None = None,
    stratify: str | Sequence[str] | None = None,
    cuts: Mapping[str, Any] | None = None,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    level: float = 0.95,
    prediction_corrected: bool = False,
    variability_corrected: bool = False,
    lower_bound: float = 0.0,
    log: bool = False,
    blq: float | str | None = None,
    classes: Sequence[float] | None = None,
    follow_up: float | str | None = None,
    replicates: int = 500,
    seed: int = 0,
) -> VPC:
    """Compare the observations with sets simulated from the model, bin by bin.

    Continuous endpoints: quantiles in each bin (linear between order statistics, numpy's default), against the interval
    of the same quantiles of the simulated sets. Simulated values below the limit of quantification are censored as the
    data are, and quantiles that lie among the censored are not drawn; the shares of censored values are compared
    instead. Counts and categories: their shares. Times to one event: Kaplan-Meier curves.

    Args:
        source: A fit; or a simulation of the data's own design, `dn.simulate(fit, fit.population, replicates=500)`.
        endpoint: Name of the endpoint, the first by default.
        kind: "continuous", "categorical" or "event"; "auto" finds out: one time per subject, some of them censored
            (CENS=-1), are times to events, and whole numbers are counts or categories.
        x: "TIME", "TAD" (time after dose) or "PRED".
        bins: "auto", "quantile", "time", "kmeans", "unique", a number or edges; see `bin_edges`.
        number: Number of bins for "quantile", "time" and "kmeans".
        stratify: Names of covariates (their values at the records).
        cuts: Where numbers are cut into strata, ``{"wt": [70]}``.
        quantiles: Probabilities of the quantiles.
        level: Of the intervals.
        prediction_corrected: Correct for differences of PRED within a bin; see `prediction_correction`.
        variability_corrected: Correct for differences of the spread, too.
        lower_bound: Lowest possible value of the data, for prediction correction.
        log: The data are logarithms: prediction correction adds instead of multiplying.
        blq: Limit of quantification of the records that are not censored: a number, a covariate, or None for what the
            censored records say.
        classes: Upper ends of classes of counts, ``[0, 1, 5]`` for 0, 1, 2-5 and more; None to find them.
        follow_up: Until when subjects with an event would have been followed: a time, a covariate or None (no end).
        replicates: Simulated sets, for a fit.
        seed: Of the simulation, for a fit.

    Raises:
        ModelError: Arguments that do not suit, and bins with fewer than 5 observations.

    Source: Holford 2005, PAGE 14 Abstr 738; Bergstrand and Karlsson 2009, AAPS J 11:371 (censored data); Bergstrand
        et al. 2011, AAPS J 13:143 (prediction correction).
    """
    probabilities = _probabilities(quantiles, level)
    found = replicated(source, endpoint, replicates, seed)
    kind = _kind(kind, found)
    covariates = found.simulation.covariates(found.rows)
    labels, stratum = strata(covariates, stratify, cuts, len(found.y))
    if kind != "continuous" and (prediction_corrected or variability_corrected):
        raise ModelError(invalid("prediction_corrected", True, f"It is for continuous endpoints, this is {kind}"))
    for name, given, needed in (("classes", classes, "categorical"), ("follow_up", follow_up, "event")):
        if given is not None and kind != needed:
            expected = f"It is for {needed} endpoints, this is {kind}"
            raise ModelError(invalid(name, repr(given), expected, "", f"Use kind={needed!r}, or leave it out"))
    if kind == "event":
        check_events(found)
        table = survival_table(found, labels, stratum, followed_until(found, follow_up), level)
        frame = _observed(found, found.time, labels, stratum, np.zeros(len(found.y), int), found.y)
        return _result(found, kind, "TIME", table, None, frame, labels, level, "", 0)
    found = found.with_limits(blq)
    position = found.position(x)
    cells = Cells.of(position, labels, stratum, bins, number)
    numbers = np.array([cell.number for cell in cells])[cells.cell]
    if kind == "categorical":
        table = share_table(cells, found.y, found.simulated, classes_of(found, classes), level, "CATEGORY")
        frame = _observed(found, position, labels, stratum, numbers, found.y)
        return _result(found, kind, x, table, None, frame, labels, level, "", 0)
    change = correction_of(found, cells.cell, prediction_corrected, variability_corrected, lower_bound, log)
    table, beyond = _continuous(found, cells, change, probabilities, level)
    frame = _observed(found, position, labels, stratum, numbers, change.of(found.y))
    name = "prediction and variability" if variability_corrected else "prediction" if prediction_corrected else ""
    return _result(found, kind, x, table, beyond, frame, labels, level, name, int(change.uncorrected.sum()))


def _continuous(
    found: Replicated, cells: Cells, change: Correction, probabilities: np.ndarray, level: float
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The table of quantiles, and that of shares beyond the limits."""
    y, simulated = found.coded()
    limits = change.of(found.lower), change.of(found.upper)
    table = quantile_table(cells, change.of(y), change.of(simulated), probabilities, level, *limits)
    sides = []
    if np.isfinite(found.lower).any():
        sides.append(("below", np.isneginf))
    if np.isfinite(found.upper).any():
        sides.append(("above", np.isposinf))
    return table, share_table(cells, y, simulated, sides, level, "LIMIT") if sides else None


def _outside(table: pd.DataFrame) -> str:
    return f"{int(np.sum(table['OUTSIDE'].to_numpy()))} of {len(table)}"


def _probabilities(quantiles: Sequence[float], level: float) -> np.ndarray:
    try:
        values = np.atleast_1d(np.asarray(quantiles, dtype=float))
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.ndim != 1 or not len(values) or not ((values > 0) & (values < 1)).all() or (np.diff(values) <= 0).any():
        expected = "Quantiles are increasing numbers between 0 and 1"
        raise ModelError(invalid("quantiles", repr(quantiles), expected, "", "For example (0.05, 0.5, 0.95)"))
    check_level(level)
    return values


def _kind(kind: str, found: Replicated) -> str:
    if kind not in KINDS:
        raise ModelError(invalid("kind", repr(kind), f"It is one of {', '.join(KINDS)}"))
    if kind != "auto":
        if kind == "categorical" and (found.cens != 0).any():
            raise ModelError(
                invalid("kind", repr(kind), "Categories are not censored, these data are", "", "Use 'auto'")
            )
        return kind
    if len(np.unique(found.subject)) == len(found.subject) and (found.cens < 0).any() and (found.y > 0).all():
        return "event"
    return "categorical" if found.discrete and not (found.cens != 0).any() else "continuous"


def _observed(
    found: Replicated, x: np.ndarray, labels: tuple[str, ...], stratum: np.ndarray, bins: np.ndarray, y: np.ndarray
) -> pd.DataFrame:
    names = np.array(labels, dtype=object)[stratum]
    columns = {"ID": list(found.ids), "TIME": found.time, "X": x, "STRATUM": names, "BIN": bins, "DV": y}
    return pd.DataFrame(columns | {"CENS": found.cens})


def _result(
    found: Replicated, kind: str, x: str, table: pd.DataFrame, blq: Any, observed: pd.DataFrame, *rest: Any
) -> VPC:
    labels, level, corrected, uncorrected = rest
    low, high = np.unique(found.lower), np.unique(found.upper)
    limits = tuple(float(v[0]) if len(v) == 1 and np.isfinite(v[0]) else float("nan") for v in (low, high))
    simulation = found.simulation
    return VPC(
        kind,
        found.endpoint,
        x,
        table,
        blq,
        observed,
        labels,
        level,
        corrected,
        uncorrected,
        (limits[0], limits[1]),
        found.replicates,
        simulation.seed,
        simulation.model,
        simulation.endpoints,
    )
