"""Empirical Bayes estimates of several random effects against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.estimation import Fit
from deepnlme.plots.effects import Effects, readable
from deepnlme.plots.panels import correlation, dots, histogram, note, remark
from deepnlme.plots.style import DOUBLE, GREY, VERMILION, axes_for, legend_above, row_height, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHI2_95 = 5.991465
"""95% of a bivariate normal distribution lie within this squared Mahalanobis distance."""


def plot_eta_pairs(
    fit: Fit,
    effects: Sequence[str] | None = None,
    *,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """EBEs of random effects in pairs: what a correlation in Omega, or a missing one, looks like.

    On the diagonal the histograms of `plot_eta_distributions` with the shrinkage (above 30% bold: EBEs then hide and
    invent relations). Below it each pair, with the correlation of the EBEs, the one that Omega has, and the ellipse
    that holds 95% of N(0, Omega). Effects by occasion have a point for each occasion.

    Args:
        fit: A fit of a model with random effects, by a method that uses Omega.
        effects: Names of the effects; by default the first six, or as many as `width` has room for (25 mm each).
        axes: q * q axes to draw into, row by row, for q effects; those above the diagonal are switched off.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: There are no random effects, no effect of that name, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    found = Effects.of(fit)
    names, rest = found.chosen(effects, readable(width, axes))
    q = len(names)
    with style():
        figure, panels = axes_for(axes, q * q, q, width, 0.9 * row_height(width / q) if q < 4 else 0.9 * width / q)
        for place, ax in enumerate(panels):
            row, column = divmod(place, q)
            if column > row:
                ax.set_axis_off()
                continue
            if column == row:
                _single(ax, found, names[row])
            else:
                _pair(ax, found, names[column], names[row])
                ax.tick_params(labelleft=column == 0 or axes is not None)
                ax.set_ylabel(f"eta {names[row]}" if column == 0 or axes is not None else "")
            ax.tick_params(labelbottom=row == q - 1 or axes is not None)
            ax.set_xlabel(f"eta {names[column]}" if row == q - 1 or axes is not None else "")
        legend_above(figure, panels, axes is None)
        remark(figure, panels, rest, axes is None)
    return figure


def _single(ax: Axes, found: Effects, name: str) -> None:
    histogram(ax, found.of_one(name), float(found.omega.loc[name, name]))
    text, weight = found.title(name)
    note(ax, text, weight)
    ax.set_xlim(-found.reach(name), found.reach(name))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def _pair(ax: Axes, found: Effects, x: str, y: str) -> None:
    rows = found.rows(x, y)
    a, b = found.values[x][rows], found.values[y][rows]
    ax.axhline(0.0, color=GREY, lw=0.6, zorder=0)
    ax.axvline(0.0, color=GREY, lw=0.6, zorder=0)
    omega = found.omega.loc[[x, y], [x, y]].to_numpy(float)
    text = correlation(a, b)
    if (np.diag(omega) > 0).all():
        angle = np.linspace(0.0, 2.0 * np.pi, 121)
        values, vectors = np.linalg.eigh(omega)
        root = vectors * np.sqrt(CHI2_95 * values.clip(0.0))
        ellipse = root @ np.stack([np.cos(angle), np.sin(angle)])
        ax.plot(*ellipse, color=VERMILION, lw=0.9, label="95% of N(0, omega)")
        if omega[0, 1]:
            text += f", omega {omega[0, 1] / np.sqrt(omega[0, 0] * omega[1, 1]):.2f}"
    dots(ax, a, b, "EBEs")
    ax.set_xlim(-found.reach(x), found.reach(x))
    ax.set_ylim(-found.reach(y), found.reach(y))
    note(ax, text)
