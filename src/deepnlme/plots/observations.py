"""The observations against time, those of a subject joined by a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepnlme.estimation import Fit
from deepnlme.plots.panels import check_scale, limits, log_axis, note
from deepnlme.plots.quantities import censoring, endpoint_of, name_of, observations_of, units_of
from deepnlme.plots.style import BLUE, DOUBLE, MANY, VERMILION, axes_for, legend_above, row_height, style, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINT = 30
"""Subjects from which on their lines are fainter, so that many of them can be seen."""


def plot_observations(
    fit: Fit,
    *,
    endpoint: str | None = None,
    scale: str = "linear",
    units: Mapping[str, str] | None = None,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Every observation against time, those of a subject joined by a line: the data before any model.

    Hollow triangles are the limits of censored observations. A line is broken where the clock turns back (a reset).

    Args:
        fit: The fit, for its data.
        endpoint: Name of the endpoint, the first by default.
        scale: "linear" or "log" for the observed quantity; on "log" values that are not positive are not shown, and
            the panel says how many.
        units: Units by "time" and "dv", where the declarations do not tell them.
        axes: One pair of axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not a fit; unknown endpoint, unit or scale.
        MissingExtraError: matplotlib is not installed.
    """
    check_scale(scale)
    endpoint = endpoint_of(fit, endpoint)
    unit = units_of(fit, endpoint, units)
    table = observations_of(fit, endpoint)
    table = table.loc[np.isfinite(table["DV"].to_numpy(float))]
    with style():
        figure, (ax,) = axes_for(axes, 1, 1, width, row_height(0.42 * width))
        shown = table.loc[table["DV"] > 0] if scale == "log" else table
        _lines(ax, shown)
        hidden = len(table) - len(shown)
        note(ax, f"{hidden} not positive, not shown" if hidden else "")
        ax.set_xlabel(with_unit("Time", unit["time"]))
        ax.set_ylabel(with_unit(name_of(fit, endpoint), unit["dv"]))
        if scale == "log" and len(shown):
            log_axis(ax, "y")
        elif len(table) and (table["DV"] >= 0).all():
            ax.set_ylim(bottom=0.0)
        legend_above(figure, [ax], axes is None)
    return figure


def _lines(ax: Axes, table: pd.DataFrame) -> None:
    """One line with gaps for all subjects, and the points."""
    subject = pd.factorize(table["ID"])[0]
    order = np.argsort(subject, kind="stable")
    subject = subject[order]
    time, dv = table["TIME"].to_numpy(float)[order], table["DV"].to_numpy(float)[order]
    cens = censoring(table)[order]
    breaks = np.flatnonzero((np.diff(subject) != 0) | (np.diff(time) < 0)) + 1
    many, faint = len(table) > MANY, len(np.unique(subject)) > FAINT
    ax.plot(
        np.insert(time, breaks, np.nan), np.insert(dv, breaks, np.nan), "-", color=BLUE, lw=0.7,
        alpha=0.25 if faint else 0.5, rasterized=many, label="one subject",
    )  # fmt: skip
    ax.plot(
        time[cens == 0], dv[cens == 0], "o", color=BLUE, ms=2.5, mew=0, alpha=0.4 if faint else 0.7, rasterized=many,
        label="observed",
    )  # fmt: skip
    limits(ax, time, dv, cens, VERMILION)
