"""Normalised prediction distribution errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from deepnlme.diagnostics import NPDE
from deepnlme.diagnostics.arguments import check_level
from deepnlme.diagnostics.cells import Cells, quantile_table
from deepnlme.errors import ModelError, invalid
from deepnlme.plots.bands import declared_units, quantile_bands
from deepnlme.plots.panels import note
from deepnlme.plots.style import (
    BLACK,
    BLUE,
    DOUBLE,
    GREY,
    MANY,
    SKY,
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

QUANTILES = np.array([0.05, 0.5, 0.95])
"""Percentiles of the errors that are compared with their intervals."""


def plot_npde(
    npde: NPDE,
    *,
    endpoint: str | None = None,
    bins: int | str = "auto",
    level: float = 0.95,
    units: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Four panels: quantiles against those of N(0, 1), histogram, errors against time and against EPRED.

    Bands and boxes are intervals of the same quantity over simulated sets; those against time and EPRED are of the 5th,
    50th and 95th percentile in each bin.

    Args:
        npde: What `dn.npde` returned.
        endpoint: Name of the endpoint, the first in the table by default.
        bins: As in `vpc`, against time and EPRED.
        level: Of the intervals.
        units: Units by "time" and "dv", where the declarations do not tell them.
        axes: Four axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not an NPDE; unknown endpoint or unit; too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(npde, NPDE):
        expected = "It is what dn.npde(...) returns"
        raise ModelError(invalid("npde", type(npde).__name__, expected, "", "plot_npde(dn.npde(fit))"))
    check_level(level)
    names = npde.tests["ENDPOINT"].tolist()
    name = names[0] if endpoint is None else endpoint
    if name not in names:
        raise ModelError(invalid("endpoint", repr(endpoint), f"The endpoints are {', '.join(names)}"))
    mine = (npde.table["DVID"] == name).to_numpy() if "DVID" in npde.table else np.ones(len(npde.table), dtype=bool)
    table, sets = npde.table.loc[mine], npde.simulated[:, mine]
    values = table[npde.column].to_numpy(float)
    unit = declared_units(npde.model, npde.endpoints, name, units)
    with style():
        figure, panels = axes_for(axes, 4, 2, width, row_height(max(0.36 * width, 52.0)))
        _quantiles(panels[0], values, sets, npde.column, level)
        _histogram(panels[1], values, npde.column)
        for ax, column, label in (
            (panels[2], "TIME", with_unit("Time", unit["time"])),
            (panels[3], "EPRED", with_unit("EPRED", unit["dv"])),
        ):
            _against(ax, table[column].to_numpy(float), values, sets, bins, level)
            ax.set_xlabel(label)
            ax.set_ylabel(npde.column)
        p = npde.tests.loc[npde.tests["ENDPOINT"] == name, "GLOBAL_P"].iloc[0]
        note(panels[1], f"global p {p:.3g}" if npde.column == "NPDE" else "")
        legend_above(figure, panels, axes is None)
    return figure


def _quantiles(ax: Axes, values: np.ndarray, sets: np.ndarray, column: str, level: float) -> None:
    n = len(values)
    expected = ndtri((np.arange(n) + 0.5) / n)
    tail = 0.5 * (1.0 - level)
    low, high = np.quantile(np.sort(sets, axis=1), [tail, 1.0 - tail], axis=0)
    ax.fill_between(expected, low, high, color=SKY, alpha=0.4, lw=0, label="simulated")
    ax.plot(expected, expected, color=GREY, lw=0.8)
    ax.plot(expected, np.sort(values), "o", color=BLUE, alpha=0.5, mew=0, rasterized=n > MANY, label="data")
    ax.set_xlabel("Quantile of N(0, 1)")
    ax.set_ylabel(column)


def _histogram(ax: Axes, values: np.ndarray, column: str) -> None:
    reach = max(3.5, 1.05 * float(np.abs(values).max()))
    number = min(max(int(np.ceil(np.sqrt(len(values)))), 5), 40)
    ax.hist(
        values, bins=np.linspace(-reach, reach, number).tolist(), density=True, color=SKY, alpha=0.7, edgecolor="white"
    )
    grid = np.linspace(-reach, reach, 200)
    ax.plot(grid, np.exp(-0.5 * grid**2) / np.sqrt(2.0 * np.pi), color=VERMILION, label="N(0, 1)")
    ax.set_xlabel(column)
    ax.set_ylabel("Density")


def _against(ax: Axes, x: np.ndarray, values: np.ndarray, sets: np.ndarray, bins: int | str, level: float) -> None:
    cells = Cells.of(x, ("",), np.zeros(len(x), dtype=int), bins)
    quantile_bands(ax, quantile_table(cells, values, sets, QUANTILES, level))
    ax.plot(x, values, "o", color=BLUE, alpha=0.4, ms=2.5, mew=0, rasterized=len(x) > MANY, zorder=1.5, label="data")
    ax.axhline(0.0, color=BLACK, lw=0.4, zorder=1)
