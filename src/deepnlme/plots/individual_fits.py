"""Data, population and individual predictions of single subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.plots.curves import Curve, bands, curves
from deepnlme.plots.doses import Doses
from deepnlme.plots.panels import check_scale, limits, log_axis
from deepnlme.plots.quantities import censoring, endpoint_of, name_of, observations_of, units_of
from deepnlme.plots.style import (
    BLACK,
    BLUE,
    DOUBLE,
    ORANGE,
    SKY,
    VERMILION,
    axes_for,
    legend_above,
    row_height,
    style,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DOSES = 500
"""Dose marks of one subject at most; of more doses every second, third, ... is marked, which looks the same."""

ROOM = 0.15
"""Room above the highest concentration, for the doses, as a share of the height of what is drawn."""

TOP = 0.97
"""Where doses are marked, as a share of the height of a panel."""


def plot_individual_fits(
    fit: Fit,
    subjects: int | Sequence[Any] = 9,
    *,
    page: int = 1,
    endpoint: str | None = None,
    interval: float | None = None,
    scale: str = "linear",
    units: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """One panel for each subject: observations, PRED and IPRED on a dense grid of times, marks where doses are given.

    A triangle at the top marks the time at which a dose is given (its effect may begin after a lag time), a line from
    it the time during which an infusion, or an absorption of order zero, enters; modelled rates, durations and lag
    times are those at the subject's EBEs.

    Args:
        fit: The fit.
        subjects: How many on a page; or the ids of those to draw.
        page: Which page of the subjects of the fit, from 1, where `subjects` is a number.
        endpoint: Name of the endpoint, the first by default.
        interval: Probability inside two shaded bands, e.g. 0.9: a dark one for the subject's curve, a light one for
            its observations (`Fit.predict`); None for none.
        scale: "linear" or "log" for the observed quantity.
        units: Units by "time" and "dv", where the declarations do not tell them.
        axes: Axes to draw into, one for each subject.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not a fit; unknown subject, page, endpoint, unit or scale, or too few axes.
        DataError: Bands for a subject whose clock goes back at a reset.
        MissingExtraError: matplotlib is not installed.
    """
    check_scale(scale)
    endpoint = endpoint_of(fit, endpoint)
    unit = units_of(fit, endpoint, units)
    positions = _positions(fit, subjects, page)
    ids = [fit.population.ids[i] for i in positions]
    table = observations_of(fit, endpoint)
    drawn = curves(fit, positions, endpoint)
    shades = bands(fit, ids, endpoint, drawn, interval) if interval is not None else [None] * len(ids)
    with style():
        columns = {1: 1, 2: 2, 4: 2}.get(len(positions), 3) if width > 120 else 2
        figure, panels = axes_for(axes, len(positions), columns, width, row_height(0.28 * width))
        for ax, id, curve, shade in zip(panels, ids, drawn, shades, strict=True):
            if shade is not None:
                _bands(ax, shade, interval)
            _panel(ax, table.loc[table["ID"] == id], curve, scale)
            ax.set_title(f"ID {id}", loc="left")
        columns = min(columns, len(panels))
        for i, ax in enumerate(panels):
            if i % columns == 0 or axes is not None:
                ax.set_ylabel(with_unit(name_of(fit, endpoint), unit["dv"]))
            if i + columns >= len(panels) or axes is not None:
                ax.set_xlabel(with_unit("Time", unit["time"]))
        legend_above(figure, panels, axes is None)
    return figure


def _positions(fit: Fit, subjects: int | Sequence[Any], page: int) -> np.ndarray:
    ids = fit.population.ids
    if isinstance(subjects, int | np.integer):
        if subjects < 1:
            raise ModelError(f"Invalid `subjects`: got {subjects}, expected at least 1.")
        pages = -(-len(ids) // int(subjects))
        if isinstance(page, bool) or not isinstance(page, int | np.integer) or not 1 <= page <= pages:
            raise ModelError(
                f"Invalid `page`: got {page!r}, expected 1 to {pages}: {len(ids)} subjects, {subjects} on a page."
            )
        return np.arange((page - 1) * int(subjects), min(page * int(subjects), len(ids)))
    if page != 1:
        raise ModelError(f"Invalid `page`: got {page!r} beside ids. Give a number of subjects, or only the ids.")
    where = {id: i for i, id in enumerate(ids)}
    unknown = [s for s in subjects if s not in where]
    if unknown or not len(subjects):
        got = repr(unknown[0]) if unknown else "none"
        raise ModelError(f"Invalid `subjects`: got {got}, expected ids of the {len(ids)} subjects of the fit.")
    return np.array([where[s] for s in subjects])


def _bands(ax: Axes, shade: pd.DataFrame, level: float | None) -> None:
    for column, alpha, what in (("DV", 0.2, "observations"), ("IPRED", 0.5, "IPRED")):
        low, high = shade[f"{column}_LOW"].to_numpy(float), shade[f"{column}_HIGH"].to_numpy(float)
        label = f"{100 * (level or 0.0):g}% of {what}"
        ax.fill_between(shade["TIME"], low, high, color=SKY, alpha=alpha, lw=0, zorder=0, label=label)


def _panel(ax: Axes, table: pd.DataFrame, curve: Curve, scale: str) -> None:
    cens = censoring(table)
    time, dv = table["TIME"].to_numpy(float), table["DV"].to_numpy(float)
    back = np.flatnonzero(np.diff(curve.time) < 0) + 1  # a reset may turn the clock back: the curve begins anew
    clock, pred, ipred = (np.insert(v, back, np.nan) for v in (curve.time, curve.pred, curve.ipred))
    if scale == "log":
        lowest = dv[dv > 0].min() if (dv > 0).any() else 0.1 * np.nanmax(ipred, initial=0.0)
        # a curve that starts at zero would stretch a logarithmic axis without end
        pred, ipred = (np.where(v > 0.1 * lowest, v, np.nan) for v in (pred, ipred))
    ax.plot(clock, pred, color=ORANGE, ls="--", lw=1.0, label="PRED")
    ax.plot(clock, ipred, color=BLUE, label="IPRED")
    ax.plot(time[cens == 0], dv[cens == 0], "o", mfc="white", mec=BLACK, mew=0.8, label="observed")
    limits(ax, time, dv, cens)
    _doses(ax, curve.doses)
    if scale == "log":
        _log(ax, pred, ipred, dv)
        return
    ax.margins(y=ROOM)
    top = ax.dataLim.y1
    if (dv >= 0).all() and (curve.ipred >= 0).all() and top > 0:
        ax.set_ylim(0.0, (1.0 + ROOM) * top)


def _log(ax: Axes, *drawn: np.ndarray) -> None:
    """A logarithmic axis for what is drawn; bands that go down to zero do not stretch it."""
    values = np.concatenate(drawn)
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) and values.min() < values.max():
        room = (values.max() / values.min()) ** 0.15
        ax.set_ylim(values.min() / room, values.max() * room)
    log_axis(ax, "y")


def _doses(ax: Axes, doses: Doses) -> None:
    """Triangles where doses are given, lines while they last."""
    if not len(doses.given):
        return
    across = ax.get_xaxis_transform()
    given = doses.given[:: -(-len(doses.given) // MOST_DOSES)]
    ax.plot(
        given, np.full(len(given), TOP), marker="v", ls="none", color=VERMILION, ms=4, mew=0, clip_on=False,
        transform=across, label="dose", zorder=3,
    )  # fmt: skip
    if len(doses.start):
        ax.hlines(
            np.full(len(doses.start), TOP), doses.start, doses.end, color=VERMILION, lw=1.6, transform=across,
            label="input", zorder=3,
        )  # fmt: skip
