"""Which subjects decide on the estimates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.diagnostics import Influence
from deepnlme.errors import ModelError, invalid
from deepnlme.plots.style import BLUE, DOUBLE, GREY, MANY, VERMILION, axes_for, row_height, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_SE = 1.0
"""Change of a parameter [SE] at the dotted lines."""
NEAR = 1.5
"""The limit of Cook's distance is drawn up to so many times the largest distance."""


def plot_influence(
    found: Influence,
    *,
    labels: int = 3,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Cook's distance of every subject, and the change of every parameter without it.

    The dashed line of the first panel is where the estimates leave their 50% confidence region (a number in the corner
    where it is far above); the dotted ones of the second are one standard error. The subjects with the largest
    distances have their id, in the second panel where they move a parameter most.

    Args:
        found: What `dn.influence` gives.
        labels: How many subjects to name.
        axes: Two axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not an influence, no finite distance, or fewer than two axes.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(found, Influence):
        fix = "Use the result of dn.influence(fit)"
        raise ModelError(invalid("found", type(found).__name__, "It is an influence", fix=fix))
    known = np.flatnonzero(np.isfinite(found.cook))
    if not len(known):
        raise ModelError(invalid("found", "no finite distance", "There is nothing to draw"))
    order = known[np.argsort(-found.cook[known], kind="stable")]
    named = order[: max(0, labels)]
    with style():
        columns = 2 if width > 120 else 1
        height = max(row_height(0.40 * width), 5.0 * found.dfbetas.shape[1] + 20.0)
        figure, (left, right) = axes_for(axes, 2, columns, width, height)
        _distances(left, found, known, named)
        _changes(right, found, named)
    return figure


def _distances(ax: Axes, found: Influence, known: np.ndarray, named: np.ndarray) -> None:
    order = {who: i + 1 for i, who in enumerate(found.fit.population.ids)}
    place, limit, top = np.array([order[who] for who in found.ids]), found.limit, float(found.cook[known].max())
    raster = len(known) > MANY
    ax.vlines(place[known], 0.0, found.cook[known], color=GREY, lw=0.6, rasterized=raster)
    for where, color in ((np.setdiff1d(known, named), BLUE), (named, VERMILION)):
        ax.plot(place[where], found.cook[where], "o", color=color, rasterized=raster)
    shown = limit < NEAR * top
    if shown:
        ax.axhline(limit, color=GREY, ls="--", lw=0.8, zorder=1)
    else:
        text = f"50% region: {limit:.3g}"
        ax.text(0.98, 0.98, text, ha="right", va="top", transform=ax.transAxes, fontsize=7)
    for i in named:
        _name(ax, str(found.ids[i]), float(place[i]), float(found.cook[i]))
    ax.set_ylim(0.0, 1.2 * max(top, limit if shown else 0.0, 1e-12))
    ax.set_xlabel("Subject (order in the data)")
    ax.set_ylabel("Cook's distance")
    ax.locator_params(axis="x", integer=True)


def _changes(ax: Axes, found: Influence, named: np.ndarray) -> None:
    values = found.dfbetas.to_numpy()
    n, p = values.shape
    rows = np.arange(p)[::-1]
    special = np.zeros(n, dtype=bool)
    special[named] = True
    for mask, color in ((~special, BLUE), (special, VERMILION)):
        y = np.broadcast_to(rows, values[mask].shape)
        ax.plot(values[mask].ravel(), y.ravel(), "o", color=color, alpha=0.7, rasterized=values.size > MANY)
    for i in named:
        j = int(np.nanargmax(np.abs(values[i])))
        _name(ax, str(found.ids[i]), float(values[i, j]), float(rows[j]))
    for x in (-ONE_SE, 0.0, ONE_SE):
        ax.axvline(x, color=GREY, lw=0.8, ls="-" if x == 0 else ":", zorder=0)
    ax.set_yticks(rows, list(found.dfbetas.columns))
    ax.set_ylim(-0.7, p - 0.3)
    reach = 1.1 * max(float(np.nanmax(np.abs(values))), ONE_SE)
    ax.set_xlim(-reach, reach)
    ax.set_xlabel(f"Change without the subject [SE, {found.standard_errors}]")


def _name(ax: Axes, text: str, x: float, y: float) -> None:
    ax.annotate(text, (x, y), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=7)
