"""Distributions of the empirical Bayes estimates against the estimated Omega."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.plots.style import BLACK, DOUBLE, SKY, VERMILION, axes_for, row_height, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TICKS = 500
"""Estimates beyond which single ones are not marked."""


def eta_distributions(fit: Fit, *, axes: Sequence[Axes] | np.ndarray | None = None, width: float = DOUBLE) -> Figure:
    """A histogram of the EBEs of each random effect, with N(0, omega) and the shrinkage.

    Bars show densities, ticks at the bottom the single estimates (up to 500), the line the normal density with the
    estimated variance. EBEs narrower than the line are shrunken: what they say about a distribution or a covariate is
    then weak. Effects by occasion are shown over all occasions of all subjects.

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
    samples = _samples(fit)
    if not samples:
        raise ModelError("Invalid `fit`: it has no random effects to show. Fit a model with dn.RandomEffects.")
    shrinkage, omega = fit.shrinkage, fit.omega
    with style():
        columns = (3 if len(samples) != 4 else 2) if width > 120 else 2
        figure, panels = axes_for(axes, len(samples), columns, width, row_height(0.30 * width))
        for ax, (name, values) in zip(panels, samples.items(), strict=True):
            _one(ax, values, float(omega.loc[name, name]))
            ax.set_xlabel(f"eta {name}")
            ax.set_title(f"shrinkage {shrinkage[name]:.0f}%", loc="right", color=BLACK)
        for ax in panels[:: min(columns, len(panels))]:
            ax.set_ylabel("Density")
    return figure


def _samples(fit: Fit) -> dict[str, np.ndarray]:
    """EBEs by effect; those by occasion of the occasions that a subject has."""
    if not fit.joint.k or not fit.method.uses_omega:
        return {}
    found = fit.ebes
    seen = fit.joint.batch.occasion.max(1).values.numpy()
    out: dict[str, list[np.ndarray]] = {}
    for i, label in enumerate(found.names):
        name, _, occasion = label.partition("@")
        values = found.eta[:, i]
        out.setdefault(name, []).append(values[seen >= int(occasion) - 1] if occasion else values)
    return {name: np.concatenate(parts) for name, parts in out.items()}


def _one(ax: Axes, values: np.ndarray, variance: float) -> None:
    bins = min(max(int(np.ceil(np.sqrt(len(values)))), 5), 40)
    ax.hist(values, bins=bins, density=True, color=SKY, alpha=0.7, edgecolor="white", linewidth=0.4, label="EBEs")
    few = values if len(values) <= MOST_TICKS else values[:0]
    ax.plot(few, np.full(len(few), 0.02), "|", color=BLACK, ms=5, mew=0.6, transform=ax.get_xaxis_transform())
    if variance > 0:
        sd = np.sqrt(variance)
        reach = max(3.0 * sd, float(np.abs(values).max()) * 1.05)
        grid = np.linspace(-reach, reach, 200)
        density = np.exp(-0.5 * (grid / sd) ** 2) / (sd * np.sqrt(2.0 * np.pi))
        ax.plot(grid, density, color=VERMILION, label="N(0, omega)")
