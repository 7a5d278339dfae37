"""The path of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.plots.style import BLUE, DOUBLE, GREY, VERMILION, axes_for, row_height, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def convergence(fit: Fit, *, axes: Sequence[Axes] | np.ndarray | None = None, width: float = DOUBLE) -> Figure:
    """OFV and expected further improvement, per iteration.

    The second panel has a logarithmic axis and the tolerance of the fit as a dashed line: the fit ends where the
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
    path = fit.trace
    if not path.ofv:
        raise ModelError("Invalid `fit`: it has no iterations (it was only evaluated). Use the result of dn.fit.")
    iteration = np.arange(1, len(path.ofv) + 1)
    with style():
        figure, (left, right) = axes_for(axes, 2, 2 if width > 120 else 1, width, row_height(0.36 * width))
        left.plot(iteration, path.ofv, "o-", color=BLUE, label=fit.method.name)
        left.set_ylabel(f"OFV ({fit.method.name})")
        left.ticklabel_format(axis="y", useOffset=False)
        right.plot(iteration, np.maximum(path.decrement, 1e-300), "o-", color=VERMILION, label="expected improvement")
        right.axhline(fit.options.tolerance, color=GREY, ls="--", lw=0.8, zorder=1, label="tolerance")
        right.set_yscale("log")
        right.set_ylabel("Improvement to go")
        right.legend()
        for ax in (left, right):
            ax.set_xlabel("Iteration")
            ax.locator_params(axis="x", integer=True)
    return figure
