"""Observed lines over the intervals of simulated sets, bin by bin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepnlme.model import Model
from deepnlme.plots.quantities import units_of
from deepnlme.plots.style import BLACK, ORANGE, SKY, VERMILION

UNKNOWN = (np.nan, np.nan)
"""No limits."""

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes


class _Drawn:
    """What `units_of` reads of a fit."""

    def __init__(self, model: Model, endpoints: tuple[str, ...]):
        self.model, self.joint, self.endpoints = model, self, endpoints


def declared_units(
    model: Model, endpoints: tuple[str, ...], endpoint: str, units: Mapping[str, str] | None
) -> dict[str, str]:
    """Units of ``time`` and ``dv``, as of `units_of`, where there is no fit at hand."""
    fit: Any = _Drawn(model, endpoints)
    return units_of(fit, endpoint, units)


def quantile_bands(
    ax: Axes, table: pd.DataFrame, limits: tuple[float, float] = UNKNOWN, least: float = -np.inf
) -> None:
    """Intervals of simulated quantiles as boxes over the bins, observed quantiles as lines; outside ones marked.

    Args:
        ax: Where.
        table: STRATUM ... QUANTILE OBSERVED ..., as of `vpc`.
        limits: Where an interval that reaches beyond a limit of quantification begins or ends, NaN if not known.
        least: Smallest value that can be shown (on a logarithmic axis).
    """
    probabilities = np.unique(table["QUANTILE"].to_numpy(float))
    middle = probabilities[np.abs(probabilities - 0.5).argmin()]
    for probability in probabilities:
        own = table.loc[table["QUANTILE"] == probability]
        inner = probability == middle
        median = inner and probability == 0.5
        boxes(ax, own, ORANGE if inner else SKY, "sim. median" if median else "simulated", limits, least)
        line(ax, own, "-" if inner else "--", "obs. median" if median else "obs. quantiles", least)


def share_bands(ax: Axes, table: pd.DataFrame, labels: tuple[str, str] = ("simulated", "observed")) -> None:
    """Intervals of simulated shares as boxes over the bins, observed shares as a line; outside ones marked."""
    boxes(ax, table, SKY, labels[0])
    line(ax, table, "-", labels[1])
    ax.set_ylim(-0.03, min(1.03, max(0.1, 1.1 * float(np.nanmax(table[["OBSERVED", "SIM_HIGH"]].to_numpy())))))


def boxes(
    ax: Axes,
    table: pd.DataFrame,
    color: str,
    label: str,
    limits: tuple[float, float] = UNKNOWN,
    least: float = -np.inf,
) -> None:
    """One box for each bin, from SIM_LOW to SIM_HIGH, with SIM_MEDIAN as a line across.

    An end beyond a limit is drawn there, or, where the limit is not one number, at the last end that is known.
    """
    for row in table.to_dict("records"):
        low, middle, high = row["SIM_LOW"], row["SIM_MEDIAN"], row["SIM_HIGH"]
        if not (np.isfinite(low) or np.isfinite(high)):
            continue
        low, high = _known(low, limits[0], middle, high), _known(high, limits[1], middle, low)
        if high <= least:
            continue
        low = max(low, least)
        left, right = _ends(row, table)
        ax.fill_between([left, right], low, high, color=color, alpha=0.4, lw=0, label=label)
        level = middle if np.isfinite(middle) else high
        if level > least and (np.isfinite(middle) or low == high):  # a box without height would not be seen
            ax.plot([left, right], [level, level], color=color, lw=0.8)


def line(ax: Axes, table: pd.DataFrame, dashes: str, label: str, least: float = -np.inf) -> None:
    """Observed values at the middle of the bins; those outside the interval are marked."""
    x, y = table["X_MID"].to_numpy(float), table["OBSERVED"].to_numpy(float)
    y = np.where(y > least, y, np.nan)
    ax.plot(x, y, dashes, color=BLACK, marker="o", ms=2.5, label=label)
    outside = table["OUTSIDE"].to_numpy(bool) & np.isfinite(y)
    if outside.any():
        ax.plot(x[outside], y[outside], "D", ms=5, mfc="none", mec=VERMILION, mew=1.2, ls="none", label="outside")


def _known(*values: float) -> float:
    return next(value for value in values if np.isfinite(value))


def _ends(row: dict[Any, Any], table: pd.DataFrame) -> tuple[float, float]:
    """Where a box begins and ends; one of a single position gets some width."""
    left, right = row["X_LOW"], row["X_HIGH"]
    if right > left:
        return left, right
    width = 0.02 * max(float(np.ptp(table[["X_LOW", "X_HIGH"]].to_numpy(float))), abs(left), 1.0)
    return left - width, right + width
