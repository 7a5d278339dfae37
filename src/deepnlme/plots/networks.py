"""What fitted networks do: their outputs along each input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.plots.effects import MOST
from deepnlme.plots.panels import note
from deepnlme.plots.quantities import check_fit
from deepnlme.plots.style import BLUE, DOUBLE, GREEN, GREY, ORANGE, VERMILION, axes_for, legend_above, row_height, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 0.01
"""Height of a panel relative to the size of the output, at least: below it a line looks as flat as it is."""

REACH = 2.0
"""How far an input is varied to both sides, in its own units (the standard deviation of what the network has seen)."""

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, GREY)
"""Of the outputs."""


def plot_network(
    fit: Fit, name: str | None = None, *, axes: Sequence[Axes] | np.ndarray | None = None, width: float = DOUBLE
) -> Figure:
    """The outputs of a fitted network along each of its inputs, the other inputs at their centers.

    Each input goes from two units below its center to two above, center and unit being those with which it enters the
    network (the mean and standard deviation over the data, unless they were declared). Lines that are flat belong to
    inputs without influence; the curves say nothing about interactions of inputs.

    Args:
        fit: The fit of a model with networks.
        name: Of the network, the first by default.
        axes: Axes to draw into, one for each input (the first six).
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not a fit, no such network, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    check_fit(fit)
    names = list(fit.model.networks)
    if not names or (name is not None and name not in names):
        raise ModelError(invalid("name", repr(name), f"The networks of the model are {', '.join(names) or '(none)'}"))
    name = names[0] if name is None else name
    network = fit.networks[name]
    count = min(network.inputs, MOST)
    scaling = network.network.scaling
    center = np.array(scaling.input_center or (0.0,) * network.inputs, dtype=float)
    unit = np.array(scaling.input_scale or (1.0,) * network.inputs, dtype=float)
    with style():
        columns = min(count, 3 if width > 120 else 2)
        figure, panels = axes_for(axes, count, columns, width, row_height(0.30 * width))
        for i, ax in enumerate(panels):
            at = np.repeat(center[:, None], 101, 1)
            at[i] = center[i] + unit[i] * np.linspace(-REACH, REACH, 101)
            found = network(*at)
            for m, values in enumerate(found if isinstance(found, tuple) else (found,)):
                label = name if not isinstance(found, tuple) else f"{name} output {m + 1}"
                ax.plot(at[i], values, color=COLOURS[m % len(COLOURS)], label=label)
            _settled(ax)
            ax.axvline(center[i], color=GREY, lw=0.8, ls="--", zorder=1)
            ax.set_xlabel(f"Input {i + 1}")
            ax.set_ylabel("Output" if i % columns == 0 else "")
            ax.locator_params(axis="x", nbins=5)
        if network.inputs > MOST:
            note(panels[-1], f"{MOST} of {network.inputs} inputs")
        legend_above(figure, panels, axes is None)
    return figure


def _settled(ax: Axes) -> None:
    """Plain numbers, and a range that does not magnify what is flat."""
    low, high = ax.get_ylim()
    middle = 0.5 * (low + high)
    half = 0.5 * LEAST * abs(middle)
    if high - low < 2.0 * half:
        ax.set_ylim(middle - half, middle + half)
    ax.ticklabel_format(axis="y", useOffset=False)
