"""Exposures by arm or dose, and target attainment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError, invalid
from deepnlme.plots.panels import check_scale, label_groups, log_axis, note
from deepnlme.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SINGLE,
    SKY,
    VERMILION,
    axes_for,
    legend_above,
    row_height,
    style,
    with_unit,
)
from deepnlme.simulation import DoseFinding

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = (BLUE, VERMILION, GREEN, ORANGE, SKY, BLACK)
"""Colours of groups in one panel."""

COLUMNS = 3
"""Panels side by side."""

_SHOWN = ("PROPORTION", "LOW", "HIGH", "REP_LOW", "REP_HIGH")
"""Columns of percentages."""


def plot_exposure(
    exposures: pd.DataFrame,
    what: str | Sequence[str] = "AUC",
    *,
    by: str | None = "arm",
    target: tuple[float | None, float | None] | None = None,
    scale: str = "linear",
    units: Mapping[str, str] | None = None,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
    width: float = SINGLE,
) -> Figure:
    """Distributions of exposures by arm (or dose): boxes hold the middle half, whiskers 90% of the people.

    Args:
        exposures: What `deepnlme.exposure` returns, or the `exposures` of a `DoseFinding`; replicates are pooled.
        what: The measure, or measures, one panel each.
        by: Column whose values are told apart; "arm" only where there is one; None for all together.
        target: Ends of a range that is shaded, None for an open end.
        scale: "linear" or "log" of the values.
        units: Units by column ("AUC", "DOSE", ...).
        axes: Axes to draw into, one for each measure.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: An unknown column, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    check_scale(scale)
    if not isinstance(exposures, pd.DataFrame):
        raise ModelError(invalid("exposures", type(exposures).__name__, "It is the table that dn.exposure returns"))
    measures = [what] if isinstance(what, str) else list(what)
    by = None if by == "arm" and "arm" not in exposures.columns else by
    for name in (*measures, *([by] if by else [])):
        if name not in exposures.columns:
            expected = f"The table has {', '.join(map(str, exposures.columns))}"
            raise ModelError(invalid("what" if name in measures else "by", repr(name), expected))
    labels = list(dict.fromkeys(exposures[by])) if by else [""]
    units = units or {}
    with style():
        figure, panels = axes_for(axes, len(measures), COLUMNS, width, row_height(min(0.75 * width, 65.0)))
        for ax, name in zip(panels, measures, strict=True):
            values = [exposures.loc[exposures[by] == k, name] if by else exposures[name] for k in labels]
            if target is not None:
                _shade(ax, target)
            _boxes(ax, [v.dropna().to_numpy(float) for v in values], [text_of(k) for k in labels], scale)
            ax.set_ylabel(with_unit(name, units.get(name, "")))
            ax.set_xlabel(_along(by, units))
    return figure


def plot_target_attainment(
    attainment: pd.DataFrame | DoseFinding,
    *,
    probability: float | None = None,
    units: Mapping[str, str] | None = None,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
    width: float = SINGLE,
) -> Figure:
    """The share that meets a target, against dose or by arm.

    Bars are the Monte-Carlo interval (LOW, HIGH); the shaded band, or the thick grey bars by arm, what single trials
    show (REP_LOW, REP_HIGH), with ``uncertainty=True`` that of the parameters too.

    Args:
        attainment: What `deepnlme.target_attainment` or `deepnlme.find_dose` returns. Its first column is the axis: a
            number, or names. A second column of groups has a line for each.
        probability: Draw a line there; by default the probability of a `DoseFinding`.
        units: Units by column ("DOSE").
        axes: One pair of axes to draw into.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not such a table.
        MissingExtraError: matplotlib is not installed.
    """
    finding = attainment if isinstance(attainment, DoseFinding) else None
    table: Any = attainment if finding is None else finding.table
    keys = _keys(table)
    wanted = finding.probability if finding is not None and probability is None else probability
    numeric = pd.api.types.is_numeric_dtype(table[keys[0]].dtype)
    places = {k: i for i, k in enumerate(dict.fromkeys(table[keys[0]]))}
    lines = dict(list(table.groupby(keys[1], sort=False))) if len(keys) > 1 else {"": table}
    with style():
        figure, (ax,) = axes_for(axes, 1, 1, width, row_height(min(0.75 * width, 75.0)))
        for i, (label, rows) in enumerate(lines.items()):
            x = rows[keys[0]].to_numpy(float) if numeric else np.array([float(places[k]) for k in rows[keys[0]]])
            shift = 0.0 if numeric else 0.14 * (i - 0.5 * (len(lines) - 1))
            _attained(ax, x + shift, rows, GROUPS[i % len(GROUPS)], str(label), numeric)
        if wanted is not None:
            ax.axhline(100 * wanted, color=GREY, lw=0.8, ls="--", label=f"{100 * wanted:g}% wanted")
        if finding is not None and finding.recommended is not None:
            ax.axvline(finding.recommended, color=BLACK, lw=0.8, ls=":", label=f"recommended: {finding.recommended:g}")
        if not numeric:
            label_groups(ax, [text_of(k) for k in places])
            ax.set_xlim(-0.5, len(places) - 0.5)
        ax.set_ylim(-3, 103)
        ax.set_xlabel(_along(keys[0], units))
        ax.set_ylabel("Target attainment [%]" if finding is None else f"People with\n{finding.target} [%]")
        legend_above(figure, [ax], axes is None)
    return figure


def text_of(value: Any) -> str:
    """A value of a group as the label that it has in a picture."""
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def _along(name: str | None, units: Mapping[str, str] | None) -> str:
    """The label of an axis of groups; arms need none."""
    if name is None or name == "arm":
        return ""
    return with_unit(name.capitalize() if name.isupper() else name, (units or {}).get(name, ""))


def _shade(ax: Axes, target: tuple[float | None, float | None]) -> None:
    """The target as a band that reaches the edge of the panel where its end is open."""
    low, high = target
    for end in (low, high):
        if end is not None:
            ax.axhline(end, color=GREEN, lw=0.8, ls="--", zorder=0)
    if low is not None and high is not None:
        ax.axhspan(low, high, color=GREEN, alpha=0.12, lw=0, zorder=0)


def _boxes(ax: Axes, values: list[np.ndarray], labels: list[str], scale: str) -> None:
    if scale == "log":
        left_out = sum(int((v <= 0).sum()) for v in values)
        values = [v[v > 0] for v in values]
        note(ax, f"{left_out} not positive, not shown" if left_out else "")
    positions = np.arange(len(values))
    ax.boxplot(
        values, positions=positions, widths=0.55, whis=(5, 95), showfliers=False, patch_artist=True, manage_ticks=False,
        medianprops={"color": BLACK, "lw": 1.0}, whiskerprops={"lw": 0.8}, capprops={"lw": 0.8},
        boxprops={"facecolor": SKY, "alpha": 0.6, "lw": 0.6},
    )  # fmt: skip
    label_groups(ax, labels)
    ax.set_xlim(-0.6, len(values) - 0.4)
    if scale == "log":
        log_axis(ax, "y")


def _keys(table: Any) -> list[str]:
    """The columns of a table of attainments that name its groups."""
    if not isinstance(table, pd.DataFrame) or not {"N", "PROPORTION", "LOW", "HIGH"} <= set(table.columns):
        got = (
            f"columns {', '.join(map(str, table.columns))}" if isinstance(table, pd.DataFrame) else type(table).__name__
        )
        expected = "It is what dn.target_attainment or dn.find_dose returns"
        raise ModelError(invalid("attainment", got, expected))
    keys = [str(name) for name in table.columns[: list(table.columns).index("N")]]
    if not 1 <= len(keys) <= 2:
        got = f"{len(keys)} columns of groups"
        raise ModelError(invalid("attainment", got, "A picture has one for the axis, and at most one for lines"))
    return keys


def _attained(ax: Axes, x: np.ndarray, rows: pd.DataFrame, color: str, label: str, numeric: bool) -> None:
    """One line of attainments with both intervals."""
    column = {name: 100 * rows[name].to_numpy(float) for name in rows.columns if name in _SHOWN}
    if "REP_LOW" in column:
        band = "single trials" if not label else "_single"
        if numeric:
            ax.fill_between(x, column["REP_LOW"], column["REP_HIGH"], color=color, alpha=0.2, lw=0, label=band)
        else:
            ax.vlines(x, column["REP_LOW"], column["REP_HIGH"], color=GREY, lw=4, alpha=0.5, label=band)
    middle = column["PROPORTION"]
    bars = np.maximum([middle - column["LOW"], column["HIGH"] - middle], 0.0)
    ax.errorbar(
        x, middle, yerr=bars, color=color, fmt="o-" if numeric else "o", capsize=2, elinewidth=0.8, ms=3.5,
        label=label or "all together",
    )  # fmt: skip
