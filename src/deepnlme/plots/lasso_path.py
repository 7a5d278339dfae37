"""The path of a lasso: how relations enter as the penalty falls, and what decides where to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnlme.covariates import Selection
from deepnlme.errors import ModelError, invalid
from deepnlme.plots.style import (
    BLACK,
    BLUE,
    DOUBLE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    axes_for,
    legend_above,
    row_height,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, SKY, BLACK)
STYLES = ("-", "--", ":", "-.")
CRITERIA = {"HELD OUT": "OFV of those kept aside", "EBIC": "EBIC", "BIC": "BIC"}
"""What may have decided, the first that is there, and its name on the axis."""
TICKS = 6
"""Penalties on the axis."""


def plot_lasso_path(
    selection: Selection, *, axes: Axes | Sequence[Axes] | np.ndarray | None = None, width: float = DOUBLE
) -> Figure:
    """Coefficients along the path, and what decided where to stop.

    The points of the path stand at equal distances, from no relation on the left; the ticks say the penalty. It falls,
    but may rise for a while where effects are so large that Omega falls. One panel has the coefficients on the free
    scale (of the logarithm of the parameter, per standard deviation of the covariate; of a category its logarithm):
    those of the relations chosen in colours, the others grey. The other one has the criterion of every set of
    relations, where the set is met first. A dashed line is where the set chosen is.

    Args:
        selection: What `dn.lasso` returned.
        axes: Two pairs of axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not a selection by the lasso.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(selection, Selection) or selection.path is None or selection.steps is None:
        got = selection.method if isinstance(selection, Selection) else type(selection).__name__
        raise ModelError(invalid("selection", got, "It is what dn.lasso returned"))
    with style():
        columns = 2 if width >= 0.75 * DOUBLE else 1
        figure, panels = axes_for(axes, 2, columns, width, row_height(0.68 * width / columns))
        _coefficients(panels[0], selection)
        _criterion(panels[1], selection)
        which = selection.steps["DECISION"].tolist().index("chosen")
        chosen = _points(selection, selection.steps)[which]
        penalties = selection.path["LAMBDA"].to_numpy(float)
        ticks = np.unique(np.linspace(0, len(penalties) - 1, TICKS).round().astype(int))
        for ax in panels:
            ax.axvline(chosen, color=GREY, ls="--", lw=0.8, zorder=1, label="chosen")
            ax.set_xlim(-0.02 * len(penalties), 1.02 * len(penalties) - 1.0)
            ax.set_xticks(ticks, [f"{penalties[i]:.2g}" for i in ticks])
            ax.set_xlabel("Penalty, relative to that at the beginning")
        legend_above(figure, panels, own=axes is None)
    return figure


def _points(selection: Selection, rows: Any) -> np.ndarray:
    """Which points of the path the rows of a table of it are."""
    assert selection.path is not None
    return np.searchsorted(selection.path["SIZE"].to_numpy(float), rows["SIZE"].to_numpy(float))


def _coefficients(ax: Axes, selection: Selection) -> None:
    path = selection.path
    assert path is not None
    own = {name: i for i, term in enumerate(selection.terms) for name in term.names}
    others = [name for name in path.columns[3:] if name not in own]
    for k, name in enumerate(others):
        label = "not chosen" if k == 0 else None
        ax.plot(path.index, path[name], color=GREY, lw=0.7, label=label, gid=name)
    for name, i in own.items():
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "ls": STYLES[i // len(COLOURS) % len(STYLES)]}
        term = selection.terms[i]
        label = f"{term.parameter} ~ {term.covariate}" if name == term.names[0] else None
        ax.plot(path.index, path[name], label=label, gid=name, **look)
    ax.axhline(0.0, color=BLACK, lw=0.5, zorder=1)
    ax.set_ylabel("Coefficient (per SD, or of a category)")


def _criterion(ax: Axes, selection: Selection) -> None:
    steps = selection.steps
    assert steps is not None
    name = next(name for name in CRITERIA if name in steps)
    there = steps[np.isfinite(steps[name].to_numpy(float))]
    ax.plot(_points(selection, there), there[name], color=BLUE, marker="o", lw=0.8)
    ax.set_ylabel(CRITERIA[name])
