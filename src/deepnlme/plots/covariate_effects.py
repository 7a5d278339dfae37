"""A forest plot of covariate effects."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError, invalid
from deepnlme.plots.style import BLACK, BLUE, DOUBLE, GREY, MM_PER_INCH, axes_for, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ["COVARIATE", "VALUE", "PARAMETER", "RATIO", "LOW", "HIGH"]
"""Of the table that is drawn."""
TICKS = np.array([m * 10.0**e for e in range(-6, 7) for m in (1.0, 1.25, 2.0, 2.5, 5.0, 8.0)])
"""Ratios that are numbers on the axis where they fit: 0.8 and 1.25 among them."""
ROW = 4.4
"""Height of a row [mm]."""


def plot_covariate_effects(
    table: pd.DataFrame,
    *,
    band: tuple[float, float] | None = (0.8, 1.25),
    units: Mapping[str, str] | None = None,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Forest plot: how much each value of each covariate changes each parameter, with its uncertainty.

    A dot is the ratio to the reference subject, a line its interval, both are written at the right. The shaded band
    holds ratios that are commonly taken as not relevant. The axis is logarithmic.

    Args:
        table: What `deepnlme.covariate_effects` returns, or some of its rows.
        band: Ends of the shaded band; None for none.
        units: Units of covariates by name.
        axes: One pair of axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: A table without the columns or rows, a ratio that is not positive, or a wrong band.
        MissingExtraError: matplotlib is not installed.
    """
    _check(table, band)
    groups = {str(name): rows for name, rows in table.groupby("PARAMETER", sort=False)}
    with style():
        height = ROW * (len(table) + len(groups)) + 20.0
        figure, (ax,) = axes_for(axes, 1, 1, width, height)
        if band is not None:
            ax.axvspan(*band, color=GREY, alpha=0.2, lw=0, zorder=0)
        ax.axvline(1.0, color=BLACK, lw=0.6, zorder=1)
        labels, y = [], 0.0
        for name, rows in groups.items():
            labels.append((y, name))
            for row in rows.to_dict("records"):
                y += 1.0
                _row(ax, y, row)
                labels.append((y, _label(row, units or {})))
            y += 1.0
        ax.set_yticks([place for place, _ in labels], [text for _, text in labels])
        for text, (_, name) in zip(ax.get_yticklabels(), labels, strict=True):
            text.set_fontweight("bold" if name in groups else "normal")
        ax.set_ylim(y - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        _ratio_axis(ax, table, band, width if axes is None else figure.get_figwidth() * MM_PER_INCH)
        ax.set_xlabel(_reference(table, units or {}, width))
    return figure


def _check(table: Any, band: Any) -> None:
    if not isinstance(table, pd.DataFrame) or not set(COLUMNS) <= set(table.columns) or not len(table):
        got = f"a table with {', '.join(map(str, table.columns))}" if isinstance(table, pd.DataFrame) else type(table)
        got = "no rows" if isinstance(table, pd.DataFrame) and not len(table) else got
        expected = f"It has rows and the columns {', '.join(COLUMNS)}"
        raise ModelError(invalid("table", got, expected, fix="Use dn.covariate_effects(fit)"))
    numbers = table[["RATIO", "LOW", "HIGH"]].to_numpy(float)
    if bool((numbers <= 0).any()) or bool(np.isnan(numbers[:, 0]).any()):
        raise ModelError(invalid("table", "ratios that are not positive", "The axis is logarithmic"))
    if band is not None and not (np.shape(band) == (2,) and 0 < band[0] < band[1]):
        raise ModelError(invalid("band", repr(band), "It has two positive ends, the lower one first", fix="Use None"))


def _row(ax: Axes, y: float, row: Mapping[str, Any]) -> None:
    """One ratio with its interval, and its numbers at the right."""
    text = f"{row['RATIO']:.2f}"
    if np.isfinite(row["LOW"]) and np.isfinite(row["HIGH"]):
        ax.plot([row["LOW"], row["HIGH"]], [y, y], color=BLUE, lw=1.2, solid_capstyle="butt", label="interval")
        text += f" ({row['LOW']:.2f}-{row['HIGH']:.2f})"
    ax.plot([row["RATIO"]], [y], "o", color=BLUE, ms=4, mew=0, label="ratio")
    ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", ha="left", fontsize=7)


def _label(row: Mapping[str, Any], units: Mapping[str, str]) -> str:
    return _value(row["COVARIATE"], row["VALUE"], units)


def _value(name: str, value: Any, units: Mapping[str, str]) -> str:
    number = f"{value:.3g}" if isinstance(value, int | float | np.number) else str(value)
    return " ".join(part for part in (name, number, units.get(name, "")) if part)


def _ratio_axis(ax: Axes, table: pd.DataFrame, band: tuple[float, float] | None, width: float) -> None:
    """A logarithmic axis from the lowest to the highest end, with as many numbers as there is room for."""
    from matplotlib.ticker import NullFormatter, NullLocator

    ends = np.concatenate([table[["RATIO", "LOW", "HIGH"]].to_numpy(float).ravel(), [1.0], band or ()])
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = (high / low) ** 0.06
    ax.set_xscale("log")
    ax.set_xlim(low / room, high * room)
    shown = TICKS[(low / room * 0.999 <= TICKS) & (high * room * 1.001 >= TICKS)]
    # by importance: one, the ends of the usual band, then the others that keep their distance
    gap = np.log(high / low * room**2) / max(0.5 * width / 6.5, 2.0)
    kept: list[float] = []
    for tick in sorted(shown, key=lambda t: (t != 1.0, t not in (0.8, 1.25), t not in (0.5, 2.0), abs(np.log(t)))):
        if all(abs(np.log(tick / other)) >= gap for other in kept):
            kept.append(float(tick))
    ax.set_xticks(sorted(kept), [f"{tick:g}" for tick in sorted(kept)])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())


def _reference(table: pd.DataFrame, units: Mapping[str, str], width: float) -> str:
    """The label of the axis: the reference subject and what the intervals are, as far as the table tells."""
    known = table.attrs.get("reference", {})
    there = set(table["COVARIATE"])
    subject = ", ".join(_value(name, value, units) for name, value in known.items() if name in there)
    text = "Ratio to the reference" + (f": {subject}" if subject else "")
    if "level" in table.attrs and np.isfinite(table["LOW"].to_numpy(float)).any():
        what = "of subjects" if table.attrs.get("between") else "confidence interval"
        text += f" ({100 * table.attrs['level']:g}% {what})"
    return textwrap.fill(text, max(int(width / 2.2), 25))
