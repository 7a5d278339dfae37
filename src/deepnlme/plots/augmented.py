"""What covariates say about random effects beside what the data say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnlme.covariates import Augmented
from deepnlme.errors import ModelError, invalid
from deepnlme.plots.effects import chosen
from deepnlme.plots.panels import note, remark, say
from deepnlme.plots.style import (
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
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12
"""Effects that are drawn unless more are asked for."""
LITTLE = 2.0
"""A subject is left out if the data's standard error exceeds this many standard deviations of the effect."""


def plot_augmented(
    augmented: Augmented,
    *,
    effects: Sequence[str] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Random effects that the data say against those expected from the covariates, and the variances that are left.

    One panel for each effect, with the subjects learned from: what a subject's data say about it, without a prior on it
    and with the other effects where they are expected (up and down one standard error), against g(covariates); the line
    on which they are equal, and dashed one standard deviation of the residual effect on both sides. Subjects whose
    standard error exceeds two standard deviations of the effect are left out and counted. The last panel has the
    variance of each effect with covariates (that of subjects left out, where there was cross-validation) as a share of
    that without.

    Args:
        augmented: What `augment` returns.
        effects: Names of the effects, by default the first twelve of those predicted.
        axes: Axes to draw into, one for each effect and one for the variances.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not a result of `augment`, no such effect, too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(augmented, Augmented):
        raise ModelError(invalid("augmented", type(augmented).__name__, "It is what dn.augment returns"))
    names, rest = chosen("effects", effects, list(augmented.predicted), MOST)
    table, variances = augmented.to_frame(), augmented.explained
    with style():
        columns = min(len(names) + 1, 3 if width > 120.0 else 2)
        height = row_height(min(max(0.9 * width / columns, 44.0), 60.0))
        figure, panels = axes_for(axes, len(names) + 1, columns, width, height)
        for ax, name in zip(panels, names, strict=False):
            _effect(ax, name, table, variances.loc[name])
        _variances(panels[-1], variances.loc[list(names)])
        legend_above(figure, panels, axes is None)
        remark(figure, panels, rest, axes is None)
    return figure


def _effect(ax: Axes, name: str, table: Any, variance: Any) -> None:
    """One effect: the estimates of the data against the expectation."""
    g, y, error = (table[f"{kind}_{name}"].to_numpy(float) for kind in ("G", "Y", "SE_Y"))
    shown = np.isfinite(y) & (error <= LITTLE * np.sqrt(variance["OMEGA_BEFORE"]))
    ax.set_xlabel(f"g(covariates), {name}")
    ax.set_ylabel(f"Data alone, eta {name}")
    if not shown.any():
        say(ax, "no subject's data\nsay enough")
        return
    g, y, error = g[shown], y[shown], error[shown]
    many = len(g) > MANY
    ax.vlines(g, y - error, y + error, color=SKY, lw=0.6, zorder=1.5, rasterized=many)
    ax.plot(g, y, "o", color=BLUE, alpha=0.6, mew=0, rasterized=many, label="subjects", zorder=2)
    pad = 0.05 * max(float(np.ptp(g)), 1e-3 * np.sqrt(variance["OMEGA_BEFORE"]))
    ends = np.array([g.min() - pad, g.max() + pad])
    sd = np.sqrt(variance["OMEGA_AFTER"])
    ax.plot(ends, ends, color=VERMILION, label="equal", zorder=3)
    for sign in (-1.0, 1.0):
        label = "residual SD" if sign > 0 else "_"
        ax.plot(ends, ends + sign * sd, color=VERMILION, ls="--", lw=0.8, label=label, zorder=3)
    ax.set_xlim(*ends)
    ax.locator_params(axis="x", nbins=3)
    note(ax, f"{len(g)} of {len(shown)} subjects")


def _variances(ax: Axes, variances: Any) -> None:
    """Variance with covariates as a share of that without, one bar for each effect."""
    share = 100.0 * variances["OMEGA_AFTER"] / variances["OMEGA_BEFORE"]
    at = np.arange(len(share))
    ax.barh(at, np.full(len(share), 100.0), height=0.7, color=GREY, alpha=0.35, label="without covariates")
    ax.barh(at, share, height=0.7, color=BLUE, label="with covariates")
    pairs = zip(variances.index, variances["OMEGA_BEFORE"], variances["OMEGA_AFTER"], strict=True)
    ax.set_yticks(at, [f"{name}\n{before:.2g} to {after:.2g}" for name, before, after in pairs], fontsize=6)
    ax.set_ylim(len(share) - 0.5, -0.5)
    ax.set_xlim(0.0, max(105.0, 1.05 * float(share.max())))
    ax.set_xlabel("Variance left [%]")
