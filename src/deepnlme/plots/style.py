"""What all pictures share: colours, sizes, fonts, and the way to get axes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnlme.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#999999",
)  # fmt: skip
"""The colours of Okabe and Ito (2008), and a grey."""

SINGLE, DOUBLE = 85.0, 180.0
"""Width of one and of two columns of a journal [mm]."""

MM_PER_INCH = 25.4

MANY = 5_000
"""Points beyond which they are drawn as an image, also in a vector format."""

_SETTINGS = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "figure.titlesize": 9.0,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "savefig.dpi": 300,
    "figure.dpi": 150,
    "pdf.fonttype": 42,
}


def pyplot() -> Any:
    """matplotlib.pyplot.

    Raises:
        MissingExtraError: matplotlib is not installed; names the extra.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    return plt


def style() -> AbstractContextManager[None]:
    """The settings of the pictures, for a `with` block; nothing outside it changes."""
    return pyplot().rc_context(_SETTINGS)


def axes_for(
    given: Axes | Sequence[Axes] | np.ndarray | None, panels: int, columns: int, width: float, height: float
) -> tuple[Figure, list[Axes]]:
    """The axes to draw into: those given, or a new figure's.

    Args:
        given: Axes of the caller, at least as many as there are panels, or None.
        panels: Number of panels.
        columns: Panels side by side in a new figure.
        width: Width of a new figure [mm].
        height: Height of one row of panels [mm].

    Returns:
        The figure, and as many axes as there are panels.

    Raises:
        ModelError: Fewer axes than panels.
    """
    if given is not None:
        flat = list(np.atleast_1d(np.asarray(given, dtype=object)).ravel())
        if len(flat) < panels:
            raise ModelError(f"Invalid `axes`: got {len(flat)}, expected {panels}: one for each panel.")
        return flat[0].figure, flat[:panels]
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure, grid = pyplot().subplots(
        rows,
        columns,
        figsize=(width / MM_PER_INCH, rows * height / MM_PER_INCH),
        layout="constrained",
        squeeze=False,
    )
    flat = list(grid.ravel())
    for unused in flat[panels:]:
        unused.remove()
    return figure, flat[:panels]


def row_height(wanted: float) -> float:
    """Height of a row of panels [mm], at least what axes with labels need."""
    return max(wanted, 40.0)


def legend_above(figure: Figure, panels: Sequence[Axes], own: bool) -> None:
    """One legend for all panels: above them in a figure of our own, else in the first panel."""
    entries: dict[str, Any] = {}
    for ax in panels:
        handles, labels = ax.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            entries.setdefault(label, handle)
    if own:
        inches = figure.get_figwidth()
        columns = max(1, min(len(entries), int(inches / 0.9)))
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=columns, columnspacing=1.2)
    else:
        panels[0].legend(entries.values(), entries.keys())


def with_unit(name: str, unit: str) -> str:
    """The label of an axis: the name and, where known, the unit."""
    return f"{name} [{unit}]" if unit else name
