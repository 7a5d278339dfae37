"""Goodness of fit: observations against predictions, residuals against time and prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.plots.quantities import endpoint_of, name_of, observations_of, units_of
from deepnlme.plots.smooth import local_linear
from deepnlme.plots.style import (
    BLACK,
    BLUE,
    DOUBLE,
    GREY,
    MANY,
    VERMILION,
    axes_for,
    legend_above,
    row_height,
    style,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Z95 = 1.959964
"""Standard normal residuals lie within +-Z95 with probability 0.95."""


def goodness_of_fit(
    fit: Fit,
    *,
    endpoint: str | None = None,
    scale: str = "linear",
    units: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """DV against PRED and IPRED, CWRES against TIME and PRED.

    Dots are observations, hollow triangles the limits of censored ones (which have no residual). The red line is a
    local linear smooth; the grey ones are identity, zero and the 95% range of a standard normal residual.

    Args:
        fit: The fit.
        endpoint: Name of the endpoint, the first by default.
        scale: "linear" or "log" for observations and predictions. On "log", pairs that are not positive are not
            shown; the panel says how many.
        units: Units by "time" and "dv", where the declarations do not tell them.
        axes: Four axes to draw into, in the order above.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Unknown endpoint, unit or scale, or fewer than four axes.
        MissingExtraError: matplotlib is not installed.
    """
    if scale not in ("linear", "log"):
        raise ModelError(f'Invalid `scale`: got {scale!r}, expected "linear" or "log".')
    endpoint = endpoint_of(fit, endpoint)
    unit = units_of(fit, endpoint, units)
    table = observations_of(fit, endpoint)
    with style():
        figure, panels = axes_for(axes, 4, 2, width, row_height(0.36 * width))
        for ax, column in ((panels[0], "PRED"), (panels[1], "IPRED")):
            _against_prediction(ax, table, column, scale)
            ax.set_xlabel(with_unit(column, unit["dv"]))
            ax.set_ylabel(with_unit(name_of(fit, endpoint), unit["dv"]))
        _residuals(panels[2], table, "TIME", "linear")
        panels[2].set_xlabel(with_unit("Time", unit["time"]))
        _residuals(panels[3], table, "PRED", scale)
        panels[3].set_xlabel(with_unit("PRED", unit["dv"]))
        legend_above(figure, panels, axes is None)
    return figure


def _censored(table: pd.DataFrame) -> np.ndarray:
    return table["CENS"].to_numpy() != 0 if "CENS" in table else np.zeros(len(table), dtype=bool)


def _against_prediction(ax: Axes, table: pd.DataFrame, column: str, scale: str) -> None:
    x, y, censored = table[column].to_numpy(float), table["DV"].to_numpy(float), _censored(table)
    shown = np.isfinite(x) & np.isfinite(y)
    if scale == "log":
        shown &= (x > 0) & (y > 0)
        ax.set_xscale("log")
        ax.set_yscale("log")
        _say_hidden(ax, len(x) - int(shown.sum()))
    ax.plot(
        x[shown & ~censored],
        y[shown & ~censored],
        "o",
        color=BLUE,
        alpha=0.5,
        mew=0,
        rasterized=len(x) > MANY,
        label="observed",
    )
    if censored.any():
        which = shown & censored
        ax.plot(x[which], y[which], "v", mfc="none", mec=BLACK, mew=0.6, label="censored")
    if shown.any():
        both = np.concatenate([x[shown], y[shown]])
        ends = np.array([both.min(), both.max()])
        ax.plot(ends, ends, color=GREY, lw=0.8, zorder=1, label="identity")
    _smooth(ax, x[shown & ~censored], y[shown & ~censored], scale, both_scaled=True)


def _residuals(ax: Axes, table: pd.DataFrame, column: str, scale: str) -> None:
    x, y = table[column].to_numpy(float), table["CWRES"].to_numpy(float)
    shown = np.isfinite(x) & np.isfinite(y)
    ax.set_ylabel("CWRES")
    if not shown.any():
        ax.text(0.5, 0.5, "no CWRES: the endpoint is not normal", transform=ax.transAxes, ha="center", va="center")
        return
    if scale == "log":
        positive = shown & (x > 0)
        ax.set_xscale("log")
        _say_hidden(ax, int(shown.sum() - positive.sum()))
        shown = positive
    for level, dashes in ((0.0, "-"), (Z95, "--"), (-Z95, "--")):
        ax.axhline(level, color=GREY, lw=0.8, ls=dashes, zorder=1)
    ax.plot(x[shown], y[shown], "o", color=BLUE, alpha=0.5, mew=0, rasterized=len(x) > MANY, label="observed")
    bound = max(4.0, 1.08 * float(np.abs(y[shown]).max(initial=0.0)))
    ax.set_ylim(-bound, bound)
    _smooth(ax, x[shown], y[shown], scale, both_scaled=False)


def _say_hidden(ax: Axes, hidden: int) -> None:
    if hidden:
        ax.text(
            0.98, 0.02, f"{hidden} not positive, not shown", transform=ax.transAxes, ha="right", va="bottom",
            fontsize=6, color=GREY,
        )  # fmt: skip


def _smooth(ax: Axes, x: np.ndarray, y: np.ndarray, scale: str, both_scaled: bool) -> None:
    if len(np.unique(x)) < 5:
        return
    log = scale == "log"
    u, v = (np.log(x) if log else x), (np.log(y) if log and both_scaled else y)
    at = np.linspace(u.min(), u.max(), 100)
    line = local_linear(u, v, at)
    ax.plot(np.exp(at) if log else at, np.exp(line) if log and both_scaled else line, color=VERMILION, label="smooth")
