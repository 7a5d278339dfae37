"""Distributions of the empirical Bayes estimates against the estimated Omega."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.estimation import Fit
from deepnlme.plots.effects import Effects
from deepnlme.plots.panels import histogram
from deepnlme.plots.style import DOUBLE, axes_for, legend_above, row_height, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_eta_distributions(
    fit: Fit, *, axes: Sequence[Axes] | np.ndarray | None = None, width: float = DOUBLE
) -> Figure:
    """A histogram of the EBEs of each random effect, with N(0, omega) and the shrinkage.

    Bars show densities, ticks at the bottom the single estimates (up to 500), the line the normal density with the
    estimated variance. EBEs narrower than the line are shrunken: what they say about a distribution or a covariate is
    then weak (shrinkage above 30% is bold). Effects by occasion are shown over all occasions of all subjects.

    Args:
        fit: A fit of a model with random effects, by a method that uses Omega.
        axes: Axes to draw into, one for each random effect.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: There are no random effects, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    effects = Effects.of(fit)
    count = len(effects.values)
    with style():
        columns = (3 if count != 4 else 2) if width > 120 else 2
        figure, panels = axes_for(axes, count, columns, width, row_height(0.30 * width))
        for ax, name in zip(panels, effects.values, strict=True):
            histogram(ax, effects.of_one(name), float(effects.omega.loc[name, name]))
            ax.set_xlabel(f"eta {name}")
            title, weight = effects.title(name)
            ax.set_title(title, loc="right", fontweight=weight)
        for ax in panels[:: min(columns, len(panels))]:
            ax.set_ylabel("Density")
        legend_above(figure, panels, axes is None)
    return figure
