"""A learned function along its inputs, and the formulas that do the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.discovery import Distillation, EffectCurves
from deepnlme.errors import ModelError, invalid
from deepnlme.plots.panels import log_axis
from deepnlme.plots.style import (
    BLACK,
    BLUE,
    DOUBLE,
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

MOST = 50
"""Individual curves that are drawn, at most: of the first subjects."""


def plot_effect_curves(
    curves: EffectCurves, *, axes: Axes | Sequence[Axes] | np.ndarray | None = None, width: float = DOUBLE
) -> Figure:
    """The average curve along each input with its band, individual curves, and where the data have been.

    Ticks at the bottom are values that the network saw (at most 200 of them, evenly through the data).

    Args:
        curves: From `effect_curves`.
        axes: Axes to draw into, one for each input.
        width: Width of a new figure [mm].

    Raises:
        ModelError: Not effect curves, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(curves, EffectCurves):
        raise ModelError(invalid("curves", type(curves).__name__, "They are what dn.effect_curves returns"))
    what = (
        f"{100 * curves.level:g} % of subjects" if curves.band == "subjects" else f"{100 * curves.level:g} % interval"
    )
    with style():
        count = len(curves.inputs)
        columns = min(count, 3 if width > 120 else 2)
        figure, panels = axes_for(axes, count, columns, width, row_height(0.36 * width if count == 1 else 0.30 * width))
        for i, (name, ax) in enumerate(zip(curves.inputs, panels, strict=True)):
            _individuals(ax, curves, name)
            where = (curves.average["INPUT"] == name).to_numpy()
            wanted = ("VALUE", "EFFECT", "LOW", "HIGH")
            value, effect, low, high = (curves.average[c].to_numpy(float)[where] for c in wanted)
            if (high > low).any():
                ax.fill_between(value, low, high, color=SKY, alpha=0.4, lw=0, label=what, zorder=2)
            ax.plot(value, effect, color=BLUE, label="average", zorder=3)
            seen = np.sort(curves.visited[name].to_numpy(float))
            seen = seen[np.unique(np.linspace(0, len(seen) - 1, min(len(seen), 200)).astype(int))]
            ax.plot(seen, np.zeros(len(seen)), "|", color=BLACK, ms=5, mew=0.4, alpha=0.6, label="seen",
                    transform=ax.get_xaxis_transform(), clip_on=False, zorder=4)  # fmt: skip
            ax.set_xlabel(name)
            ax.set_ylabel(curves.network if i % columns == 0 else "")
            ax.locator_params(axis="x", nbins=5)
        legend_above(figure, panels, axes is None)
    return figure


def _individuals(ax: Axes, curves: EffectCurves, name: str) -> None:
    """The curves of the first subjects; none where all subjects have the same."""
    where = (curves.individual["INPUT"] == name).to_numpy()
    value, effect = (curves.individual[c].to_numpy(float)[where] for c in ("VALUE", "EFFECT"))
    x = np.unique(value)
    own = effect.reshape(-1, len(x))[:MOST]
    if np.ptp(own, axis=0).max() > 0:
        ax.plot(x, own[0], color=GREY, lw=0.5, alpha=0.6, label="one subject", zorder=1)
        ax.plot(x, own[1:].T, color=GREY, lw=0.5, alpha=0.6, zorder=1)


def plot_distillation(
    distillation: Distillation, *, axes: Axes | Sequence[Axes] | np.ndarray | None = None, width: float = DOUBLE
) -> Figure:
    """Error and complexity of every formula, and the network beside the formula of the knee.

    Left the formulas, their Pareto front and its knee, with the tolerance as a line; errors below 0.01 % are drawn
    there. Right the network along its input where the data have been, with the formula; for several inputs the formula
    against the network at the same places.

    Args:
        distillation: From `distil`.
        axes: Two axes to draw into.
        width: Width of a new figure [mm].

    Raises:
        ModelError: Not a distillation, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(distillation, Distillation):
        raise ModelError(invalid("distillation", type(distillation).__name__, "It is what dn.distil returns"))
    with style():
        columns = 2 if width > 120 else 1
        figure, (left, right) = axes_for(
            axes, 2, columns, width, row_height(0.36 * width if columns == 2 else 0.7 * width)
        )
        _front(left, distillation)
        _function(right, distillation)
        if axes is None:
            legend_above(figure, [left, right], True)
        else:
            left.legend()
            right.legend()
    return figure


def _front(ax: Axes, distillation: Distillation) -> None:
    def at(some: list) -> tuple[list[float], list[float]]:
        return [float(c.complexity) for c in some], [max(100.0 * c.error, 0.01) for c in some]

    candidates = [c for c in distillation if np.isfinite(c.error)]
    ax.plot(*at([c for c in candidates if not c.pareto]), "o", color=GREY, label="formula")
    ax.plot(*at(list(distillation.front)), "o-", color=BLUE, label="Pareto front")
    ax.plot(*at([distillation.knee]), "D", color=VERMILION, ms=6, label="knee", zorder=3)
    ax.axhline(100.0 * distillation.tolerance, color=BLACK, lw=0.8, ls=":", label="tolerance", zorder=1)
    log_axis(ax, "y")
    ax.set(xlabel="Complexity", ylabel="Error [% of the spread]")


def _function(ax: Axes, distillation: Distillation) -> None:
    points, knee = distillation.points, distillation.knee.formula
    fitted = points.values(knee)
    name = f"{distillation.network} less baseline"
    name = distillation.network if points.baseline is None else name
    if len(points.names) == 1:
        order = np.argsort(points.x[:, 0])
        x = points.x[order, 0]
        ax.plot(x, points.y[order], "o", color=ORANGE, ms=2.5, label="network")
        ax.plot(x, fitted[order], color=VERMILION, label=knee.form if knee.form != "found" else knee.valued())
        ax.set(xlabel=points.names[0], ylabel=name)
        return
    ends = [float(min(points.y.min(), fitted.min())), float(max(points.y.max(), fitted.max()))]
    ax.plot(points.y, fitted, "o", color=ORANGE, ms=2.5, label="network")
    ax.plot(ends, ends, color=BLACK, lw=0.8, ls="--", label="identity", zorder=1)
    ax.set(xlabel=name, ylabel="Formula of the knee")
