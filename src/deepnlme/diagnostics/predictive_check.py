"""Numerical predictive checks: statistics of the data, and shares of observations outside prediction intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.diagnostics.arguments import check_level, check_mapping
from deepnlme.diagnostics.order import interval
from deepnlme.diagnostics.replicated import Replicated, replicated
from deepnlme.errors import ModelError, invalid

INTERVALS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9, 0.95)
"""Prediction intervals; the one of 0 is the median."""

Statistic = Callable[[pd.DataFrame], float]


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """A numerical predictive check.

    Attributes:
        endpoint: Name of the endpoint.
        statistics: One row per statistic: STATISTIC OBSERVED SIM_LOW SIM_MEDIAN SIM_HIGH P OUTSIDE. P is two-sided,
            min(1, 2 min(P(sim <= obs), P(sim >= obs))), each share counted as (1 + number) / (1 + R).
        intervals: Two rows per prediction interval: INTERVAL SIDE ("below" or "above") EXPECTED (share of a continuous
            endpoint without censoring) OBSERVED SIM_LOW SIM_MEDIAN SIM_HIGH OUTSIDE, shares of the observations.
        level: Of the intervals over simulated sets.
        replicates: Number of simulated sets.
        seed: Of the simulation.
    """

    endpoint: str
    statistics: pd.DataFrame
    intervals: pd.DataFrame
    level: float
    replicates: int
    seed: int

    def __str__(self) -> str:
        level = f"{100 * self.level:g}%"
        outside = int(np.sum(self.intervals["OUTSIDE"].to_numpy()))
        lines = [
            f"Predictive check of {self.endpoint}, {self.replicates} simulated sets",
            f"{outside} of {len(self.intervals)} shares beyond prediction intervals are outside their {level} interval",
        ]
        for row in self.statistics.to_dict("records"):
            lines.append(
                f"{row['STATISTIC']}: {row['OBSERVED']:.4g}, simulated {row['SIM_MEDIAN']:.4g} "
                f"({row['SIM_LOW']:.4g} - {row['SIM_HIGH']:.4g}), p {row['P']:.3g}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<PredictiveCheck of {self.endpoint}, {self.replicates} sets>"


def predictive_check(
    source: Any,
    statistic: Mapping[str, Statistic] | None = None,
    *,
    endpoint: str | None = None,
    intervals: Sequence[float] = INTERVALS,
    level: float = 0.95,
    blq: float | str | None = None,
    replicates: int = 500,
    seed: int = 0,
) -> PredictiveCheck:
    """Compare statistics of the observations with the same statistics of sets simulated from the model.

    Shares outside prediction intervals (numerical predictive check): each observation has its own interval, between
    quantiles of its simulated values; counted are the observations below and above, and the same for every simulated
    set. Values beyond a limit of quantification, observed and simulated, count as the limit.

    Args:
        source: A fit; or a simulation of the data's own design, `dn.simulate(fit, fit.population, replicates=500)`.
        statistic: Functions by name of a table with a row per observation: ID TIME DV CENS and the covariates by name
            (DV is the limit where CENS is not 0). Each is called for the data and for every simulated set.
        endpoint: Name of the endpoint, the first by default.
        intervals: Probabilities of the prediction intervals.
        level: Of the intervals over simulated sets.
        blq: Limit of quantification, as in `vpc`.
        replicates: Simulated sets, for a fit.
        seed: Of the simulation, for a fit.

    Raises:
        ModelError: Arguments that do not suit; a statistic that is no number.

    Source: Yano, Beal, Sheiner 2001, J Pharmacokinet Pharmacodyn 28:171; Karlsson and Holford 2008, PAGE 17 Abstr 1434.
    """
    probabilities = _checked(intervals, level)
    check_mapping("statistic", statistic or {}, '{"mean": lambda data: data.DV.mean()}')
    found = replicated(source, endpoint, replicates, seed).with_limits(blq)
    y = found.y
    clipped = np.clip(found.simulated, found.lower, found.upper)
    table = _shares(y, clipped, probabilities, level)
    statistics = _statistics(found, clipped, statistic or {}, level)
    return PredictiveCheck(found.endpoint, statistics, table, level, found.replicates, found.simulation.seed)


def _checked(intervals: Sequence[float], level: float) -> np.ndarray:
    try:
        values = np.atleast_1d(np.asarray(intervals, dtype=float))
    except (TypeError, ValueError):
        values = np.full(1, -1.0)
    if values.ndim != 1 or not ((values >= 0) & (values < 1)).all():
        expected = "Prediction intervals are probabilities, 0 or more and below 1"
        raise ModelError(invalid("intervals", repr(intervals), expected, "", "For example (0, 0.5, 0.9)"))
    check_level(level)
    return values


def _shares(y: np.ndarray, simulated: np.ndarray, probabilities: np.ndarray, level: float) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for probability in probabilities:
        ends = np.quantile(simulated, [0.5 - 0.5 * probability, 0.5 + 0.5 * probability], axis=0)
        for side, end in (("below", ends[0]), ("above", ends[1])):
            beyond = np.less if side == "below" else np.greater
            observed = float(beyond(y, end).mean())
            low, middle, high = interval(beyond(simulated, end).mean(1), level)
            first = {"INTERVAL": float(probability), "SIDE": side, "EXPECTED": 0.5 - 0.5 * float(probability)}
            rows.append(first | _compared(observed, low, middle, high))
    return pd.DataFrame(rows)


def _statistics(
    found: Replicated, simulated: np.ndarray, statistic: Mapping[str, Statistic], level: float
) -> pd.DataFrame:
    columns = {"ID": list(found.ids), "TIME": found.time, "DV": found.y, "CENS": found.cens}
    covariates = {n: v for n, v in found.simulation.covariates(found.rows).items() if n not in columns}
    data = pd.DataFrame(columns | covariates)
    observed = {name: _number(name, of, data) for name, of in statistic.items()}
    values = {name: np.empty(len(simulated)) for name in statistic}
    for r, row in enumerate(simulated if statistic else ()):
        cens = np.where(found.simulated[r] < found.lower, 1, np.where(found.simulated[r] > found.upper, -1, 0))
        replicate = data.assign(DV=row, CENS=cens)
        for name, of in statistic.items():
            values[name][r] = _number(name, of, replicate)
    names = ("STATISTIC", "OBSERVED", "SIM_LOW", "SIM_MEDIAN", "SIM_HIGH", "P", "OUTSIDE")
    rows = []
    for name, one in observed.items():
        drawn = values[name]
        tails = (1.0 + np.array([(drawn <= one).sum(), (drawn >= one).sum()])) / (1.0 + len(drawn))
        p = min(1.0, 2.0 * float(tails.min()))
        rows.append({"STATISTIC": name} | _compared(one, *interval(drawn, level)) | {"P": p})
    return pd.DataFrame(rows, columns=list(names))


def _number(name: str, of: Statistic, table: pd.DataFrame) -> float:
    value = of(table.copy())  # which the function may change
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        expected = "A statistic of a table is a finite number"
        got = repr(value) if np.ndim(value) == 0 else type(value).__name__
        raise ModelError(invalid("statistic", got, expected, f"statistic {name}", "Return a float"))
    return number


def _compared(observed: float, low: Any, middle: Any, high: Any) -> dict[str, Any]:
    ends = {"SIM_LOW": float(low), "SIM_MEDIAN": float(middle), "SIM_HIGH": float(high)}
    return {"OBSERVED": observed} | ends | {"OUTSIDE": bool(observed < low or observed > high)}
