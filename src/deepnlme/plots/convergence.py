"""The path of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.plots.quantities import check_fit
from deepnlme.plots.style import BLUE, DOUBLE, GREY, VERMILION, axes_for, row_height, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_convergence(fit: Fit, *, axes: Sequence[Axes] | np.ndarray | None = None, width: float = DOUBLE) -> Figure:
    """The learning curve: OFV and expected further improvement, per iteration.

    With subjects kept aside (`Options.held_out`) the first panel shows the OFV per subject of those fitted and of those
    kept aside: where the second rises, the model learns the noise of the first. With priors it also shows the penalised
    OFV. The second panel has a logarithmic axis and the tolerance of the fit as a dashed line: the fit ends where the
    improvement that a quadratic model still expects falls below it.

    Args:
        fit: A fit with iterations.
        axes: Two axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: The fit has no iterations, or fewer than two axes are given.
        MissingExtraError: matplotlib is not installed.
    """
    check_fit(fit)
    path = fit.trace
    if not path.ofv:
        raise ModelError("Invalid `fit`: it has no iterations (it was only evaluated). Use the result of dn.fit.")
    iteration = np.arange(1, len(path.ofv) + 1)
    with style():
        figure, (left, right) = axes_for(axes, 2, 2 if width > 120 else 1, width, row_height(0.36 * width))
        _ofv(left, fit, iteration)
        expected = np.array(path.decrement)
        right.plot(
            iteration, np.where(expected > 0, expected, np.nan), "o-", color=VERMILION, label="expected improvement"
        )
        right.axhline(fit.options.tolerance, color=GREY, ls="--", lw=0.8, zorder=1, label="tolerance")
        right.set_yscale("log")
        right.set_ylabel("Improvement to go")
        right.legend()
        for ax in (left, right):
            ax.set_xlabel("Iteration")
            ax.locator_params(axis="x", integer=True)
    return figure


def _ofv(ax: Axes, fit: Fit, iteration: np.ndarray) -> None:
    """The OFV along the path, per subject where others were kept aside."""
    path, method = fit.trace, fit.method.name
    ofv, ax_label = np.array(path.ofv), f"OFV ({method})"
    if fit.held_out is not None and len(path.held_out):
        aside = np.array(path.held_out) / len(fit.held_out)
        seen = np.isfinite(aside)
        ax.plot(iteration, ofv / len(fit.population), "o-", color=BLUE, label="fitted")
        ax.plot(iteration[: len(aside)][seen], aside[seen], "s-", color=VERMILION, label="kept aside")
        ax_label = f"OFV per subject ({method})"
        ax.legend()
    else:
        ax.plot(iteration, ofv, "o-", color=BLUE, label=method)
        if any(path.penalty):
            ax.plot(iteration, ofv + np.array(path.penalty), "-", color=GREY, label=f"{method} + penalty")
            ax.legend()
    ax.set_ylabel(ax_label)
    ax.ticklabel_format(axis="y", useOffset=False)
