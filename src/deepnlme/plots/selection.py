"""What several searches for covariates have found, side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnlme.covariates import Selection
from deepnlme.errors import ModelError, invalid
from deepnlme.plots.style import BLACK, BLUE, DOUBLE, MM_PER_INCH, VERMILION, axes_for, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = tuple[str, str]
"""Parameter and covariate."""
ROW = 4.6
"""Height of a row [mm]."""
DARK = 0.75
"""Share of the largest effect beyond which numbers are white."""
EMPTY = "#E5E5E5"
"""Colour of a relation that a method has not tried or could not fit."""


def plot_selection(
    selections: Selection | Sequence[Selection] | Mapping[str, Selection],
    *,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Effects of all candidate relations by all methods: a table in colours.

    Each cell has the effect: the ratio of the parameter at the 95th percentile of the covariate to that at the 5th (of
    categories the factor furthest from 1). The relations that a method has selected are framed and bold; those
    that a method has not tried are empty. Relations that more methods have selected, and with larger effects, come
    first.

    Args:
        selections: What `scm`, `screen`, `lasso`, `attribute` return, one or several; a mapping gives them names. Of
            several forms of one relation the one ranked first is shown.
        axes: One pair of axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: No selection.
        MissingExtraError: matplotlib is not installed.
    """
    named = _named(selections)
    cells = {name: _cells(selection) for name, selection in named.items()}
    rows = _ordered(cells)
    values = np.array([[cells[name].get(row, (math.nan, False))[0] for name in named] for row in rows])
    with style():
        figure, (ax,) = axes_for(axes, 1, 1, width, ROW * len(rows) + 24.0)
        log = np.log(np.where(values > 0, values, math.nan))
        finite = np.abs(log[np.isfinite(log)])
        most = max(float(finite.max()) if len(finite) else 0.0, math.log(1.1))
        image = ax.imshow(log, cmap=_colours(), vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
        for i, row in enumerate(rows):
            for j, name in enumerate(named):
                if row in cells[name]:
                    _cell(ax, i, j, *cells[name][row], dark=abs(log[i, j]) > DARK * most)
        ax.set_yticks(range(len(rows)), [f"{parameter} ~ {covariate}" for parameter, covariate in rows])
        room = max(int(width * 0.45 / len(named)), 8)
        ax.set_xticks(range(len(named)), [textwrap.fill(name, room) for name in named])
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        _bar(figure, ax, image, most, width if axes is None else figure.get_figwidth() * MM_PER_INCH)
    return figure


def _named(selections: Any) -> dict[str, Selection]:
    if isinstance(selections, Selection):
        selections = [selections]
    if not isinstance(selections, Mapping):
        given = list(selections) if isinstance(selections, Sequence) else [selections]
        names = [s.method if isinstance(s, Selection) else "" for s in given]
        again = [name if names.count(name) == 1 else f"{name} {i + 1}" for i, name in enumerate(names)]
        selections = dict(zip(again, given, strict=True))
    if not selections or not all(isinstance(s, Selection) for s in selections.values()):
        got = next((type(s).__name__ for s in selections.values() if not isinstance(s, Selection)), "none")
        raise ModelError(invalid("selections", got, "They are what dn.scm, dn.screen, dn.lasso or dn.attribute return"))
    return {str(name): s for name, s in selections.items()}


def _cells(selection: Selection) -> dict[Row, tuple[float, bool]]:
    """Effect and whether it was selected, by relation; of several forms the one ranked first."""
    out: dict[Row, tuple[float, bool]] = {}
    for row in selection.table.to_dict("records"):
        out.setdefault((row["PARAMETER"], row["COVARIATE"]), (float(row["EFFECT"]), bool(row["SELECTED"])))
    return out


def _ordered(cells: Mapping[str, Mapping[Row, tuple[float, bool]]]) -> list[Row]:
    """Relations by how many methods selected them, then by the size of the effect."""
    rows = list(dict.fromkeys(row for found in cells.values() for row in found))

    def importance(row: Row) -> tuple[int, float]:
        seen = [found[row] for found in cells.values() if row in found]
        sizes = [abs(math.log(effect)) for effect, _ in seen if effect > 0]
        return sum(on for _, on in seen), float(np.mean(sizes)) if sizes else 0.0

    return sorted(rows, key=importance, reverse=True)


def _colours() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("ratio", [BLUE, "#FFFFFF", VERMILION])
    colours.set_bad(EMPTY)
    return colours


def _cell(ax: Axes, i: int, j: int, effect: float, selected: bool, dark: bool) -> None:
    """The number of a cell, and its frame if it was selected."""
    from matplotlib.patches import Rectangle

    text = f"{effect:.2f}" if math.isfinite(effect) else "-"
    weight, colour = "bold" if selected else "normal", "white" if dark else BLACK
    ax.text(j, i, text, ha="center", va="center", fontsize=7, fontweight=weight, color=colour)
    if selected:
        ax.add_patch(Rectangle((j - 0.47, i - 0.43), 0.94, 0.86, fill=False, ec=BLACK, lw=1.0, label="selected"))


def _bar(figure: Figure, ax: Axes, image: Any, most: float, width: float) -> None:
    """The scale of the colours."""
    text = "Ratio over the 5th to 95th percentile (categories: largest factor); framed: selected"
    bar = figure.colorbar(image, ax=ax, location="bottom", aspect=40, fraction=0.06, pad=0.02)
    top = math.exp(most)
    near = (0.67, 0.8, 1.0, 1.25, 1.5) if top < 2.0 else (0.1, 0.2, 0.33, 0.5, 0.67, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
    ticks = [t for t in near if 1 / top <= t <= top]
    bar.set_ticks([math.log(t) for t in ticks], labels=[f"{t:g}" for t in ticks])
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label(textwrap.fill(text, max(int(width / 1.6), 30)))
