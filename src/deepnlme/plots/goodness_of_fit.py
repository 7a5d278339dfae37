"""Goodness of fit: observations against predictions, residuals against time, prediction and the normal distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepnlme.estimation import Fit
from deepnlme.plots.panels import Z95, check_scale, dots, levels, limits, log_axis, note, say, smooth_line
from deepnlme.plots.quantities import censoring, endpoint_of, name_of, observations_of, units_of
from deepnlme.plots.style import DOUBLE, GREY, axes_for, legend_above, row_height, style, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEAN_ABSOLUTE = np.sqrt(2.0 / np.pi)
"""Mean of |e| for e ~ N(0, 1)."""


def plot_goodness_of_fit(
    fit: Fit,
    *,
    endpoint: str | None = None,
    scale: str = "linear",
    units: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """DV against PRED and IPRED; CWRES against TIME, PRED and the normal distribution; abs(IWRES) against IPRED.

    Dots are observations, hollow triangles the limits of censored ones (which have no residual). The red line is a
    local linear smooth. Grey lines are what a right model gives: identity; mean and 95% range of standard normal
    residuals (of their absolute value: 0.80 and 1.96). In the last panel the quantiles of CWRES stand against those of
    N(0, 1), with the band in which each of them lies with probability 0.95 if CWRES are independent.

    Args:
        fit: The fit.
        endpoint: Name of the endpoint, the first by default.
        scale: "linear" or "log" for observations and predictions. On "log", pairs that are not positive are not
            shown; the panel says how many.
        units: Units by "time" and "dv", where the declarations do not tell them.
        axes: Six axes to draw into: DV-PRED, DV-IPRED, CWRES-TIME, CWRES-PRED, abs(IWRES)-IPRED, quantiles of CWRES.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not a fit; unknown endpoint, unit or scale; fewer than six axes.
        MissingExtraError: matplotlib is not installed.
    """
    check_scale(scale)
    endpoint = endpoint_of(fit, endpoint)
    unit = units_of(fit, endpoint, units)
    table = observations_of(fit, endpoint)
    with style():
        columns = 3 if width > 120 else 2
        figure, panels = axes_for(axes, 6, columns, width, row_height(0.31 * width))
        for ax, column in ((panels[0], "PRED"), (panels[1], "IPRED")):
            _against_prediction(ax, table, column, scale)
            ax.set_ylabel(with_unit(name_of(fit, endpoint), unit["dv"]))
        _residuals(panels[2], table, "TIME", "linear")
        _residuals(panels[3], table, "PRED", scale)
        _absolute(panels[4], table, scale)
        _quantiles(panels[5], table)
        for ax, column in zip(panels, ("PRED", "IPRED", "Time", "PRED", "IPRED"), strict=False):
            ax.set_xlabel(with_unit(column, unit["time" if column == "Time" else "dv"]))
        legend_above(figure, panels, axes is None)
    return figure


def _against_prediction(ax: Axes, table: pd.DataFrame, column: str, scale: str) -> None:
    x, y, cens = table[column].to_numpy(float), table["DV"].to_numpy(float), censoring(table)
    shown = np.isfinite(x) & np.isfinite(y)
    if scale == "log":
        shown &= (x > 0) & (y > 0)
        note(ax, _hidden(len(x) - int(shown.sum())))
    exact = shown & (cens == 0)
    dots(ax, x[exact], y[exact])
    limits(ax, x[shown], y[shown], cens[shown])
    if shown.any():
        both = np.concatenate([x[shown], y[shown]])
        ends = np.array([both.min(), both.max()])
        ax.plot(ends, ends, color=GREY, lw=0.8, zorder=1, label="identity")
    smooth_line(ax, x[exact], y[exact], scale == "log", scale == "log")
    if scale == "log":
        log_axis(ax, "x")
        log_axis(ax, "y")


def _pairs(ax: Axes, table: pd.DataFrame, column: str, residual: str, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions and residuals that can be shown; the panel says how many cannot, or why there are none."""
    x, y = table[column].to_numpy(float), table[residual].to_numpy(float)
    shown = np.isfinite(x) & np.isfinite(y)
    if not shown.any():
        say(ax, f"no {residual}: the\nendpoint is\nnot normal" if len(table) else "no observation")
    elif scale == "log":
        positive = shown & (x > 0)
        note(ax, _hidden(int(shown.sum() - positive.sum())))
        shown = positive
    return x[shown], y[shown]


def _hidden(count: int) -> str:
    return f"{count} not positive, not shown" if count else ""


def _residuals(ax: Axes, table: pd.DataFrame, column: str, scale: str) -> None:
    ax.set_ylabel("CWRES")
    x, y = _pairs(ax, table, column, "CWRES", scale)
    if not len(x):
        return
    levels(ax, 0.0, Z95, -Z95)
    dots(ax, x, y)
    bound = max(4.0, 1.08 * float(np.abs(y).max()))
    ax.set_ylim(-bound, bound)
    smooth_line(ax, x, y, scale == "log")
    if scale == "log":
        log_axis(ax, "x")


def _absolute(ax: Axes, table: pd.DataFrame, scale: str) -> None:
    """The size of residuals: a slope says that the residual error depends on the prediction otherwise than assumed."""
    ax.set_ylabel("|IWRES|")
    x, y = _pairs(ax, table, "IPRED", "IWRES", scale)
    if not len(x):
        return
    y = np.abs(y)
    levels(ax, MEAN_ABSOLUTE, Z95)
    dots(ax, x, y)
    ax.set_ylim(0.0, max(3.0, 1.08 * float(y.max())))
    smooth_line(ax, x, y, scale == "log")
    if scale == "log":
        log_axis(ax, "x")


def _quantiles(ax: Axes, table: pd.DataFrame) -> None:
    """Ordered residuals against the normal quantiles (i - 1/2)/n, with the 95% range of each order statistic."""
    from scipy.special import betaincinv, ndtri

    ax.set_xlabel("N(0, 1) quantile")
    ax.set_ylabel("CWRES")
    y = np.sort(table["CWRES"].to_numpy(float))
    y = y[np.isfinite(y)]
    n = len(y)
    if n < 2:
        say(ax, "too few CWRES" if n or not len(table) else "no CWRES: the\nendpoint is\nnot normal")
        return
    half = np.unique(np.geomspace(1, max(n // 2, 1), 60).astype(int))
    rank = np.unique(np.concatenate([half, n + 1 - half]))
    ends = [ndtri(betaincinv(rank, n + 1 - rank, p)) for p in (0.025, 0.975)]
    at = ndtri((rank - 0.5) / n)
    ax.fill_between(at, *ends, color=GREY, alpha=0.25, lw=0, zorder=0, label="95% band")
    ax.plot(at[[0, -1]], at[[0, -1]], color=GREY, lw=0.8, zorder=1, label="identity")
    dots(ax, ndtri((np.arange(n) + 0.5) / n), y)
    note(ax, f"mean {round(y.mean(), 2) + 0.0:.2f}, sd {y.std(ddof=1):.2f}")
