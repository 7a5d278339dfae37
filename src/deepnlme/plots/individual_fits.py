"""Data, population and individual predictions of single subjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepnlme.data import Population
from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.plots.curves import Curve, curves
from deepnlme.plots.quantities import endpoint_of, name_of, observations_of, units_of
from deepnlme.plots.style import (
    BLACK,
    BLUE,
    DOUBLE,
    ORANGE,
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
"""Dose marks of one subject at most; beyond they are a black bar."""


def individual_fits(
    fit: Fit,
    subjects: int | Sequence[Any] = 9,
    *,
    endpoint: str | None = None,
    scale: str = "linear",
    units: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """One panel for each subject: observations, PRED and IPRED on a dense grid of times, marks where doses begin.

    Args:
        fit: The fit.
        subjects: How many, the first ones; or their ids.
        endpoint: Name of the endpoint, the first by default.
        scale: "linear" or "log" for the observed quantity.
        units: Units by "time" and "dv", where the declarations do not tell them.
        axes: Axes to draw into, one for each subject.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Unknown subject, endpoint, unit or scale, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    if scale not in ("linear", "log"):
        raise ModelError(f'Invalid `scale`: got {scale!r}, expected "linear" or "log".')
    endpoint = endpoint_of(fit, endpoint)
    unit = units_of(fit, endpoint, units)
    positions = _positions(fit, subjects)
    table = observations_of(fit, endpoint)
    with style():
        columns = {1: 1, 2: 2, 4: 2}.get(len(positions), 3) if width > 120 else 2
        figure, panels = axes_for(axes, len(positions), columns, width, row_height(0.28 * width))
        drawn = zip(panels, positions, curves(fit, positions, endpoint), strict=True)
        for ax, position, curve in drawn:
            id = fit.population.ids[position]
            _panel(ax, table.loc[table["ID"] == id], curve, _dose_times(fit.population, position), scale)
            ax.set_title(f"ID {id}", loc="left")
        columns = min(columns, len(panels))
        for i, ax in enumerate(panels):
            if i % columns == 0 or axes is not None:
                ax.set_ylabel(with_unit(name_of(fit, endpoint), unit["dv"]))
            if i + columns >= len(panels) or axes is not None:
                ax.set_xlabel(with_unit("Time", unit["time"]))
        legend_above(figure, panels, axes is None)
    return figure


def _positions(fit: Fit, subjects: int | Sequence[Any]) -> np.ndarray:
    ids = fit.population.ids
    if isinstance(subjects, int | np.integer):
        if subjects < 1:
            raise ModelError(f"Invalid `subjects`: got {subjects}, expected at least 1.")
        return np.arange(min(int(subjects), len(ids)))
    where = {id: i for i, id in enumerate(ids)}
    unknown = [s for s in subjects if s not in where]
    if unknown or not len(subjects):
        got = repr(unknown[0]) if unknown else "none"
        raise ModelError(f"Invalid `subjects`: got {got}, expected ids of the {len(ids)} subjects of the fit.")
    return np.array([where[s] for s in subjects])


def _dose_times(population: Population, position: int) -> np.ndarray:
    """Times at which the doses of a subject begin (lag times apart), additional ones up to its last record."""
    r = population[int(position)].records
    times = [r.time[i] + np.arange(r.addl[i] + 1) * r.ii[i] for i in np.flatnonzero(r.doses)]
    flat = np.concatenate(times) if times else np.empty(0)
    return np.unique(flat[flat <= r.time.max()])


def _panel(ax: Axes, table: pd.DataFrame, curve: Curve, doses: np.ndarray, scale: str) -> None:
    censored = table["CENS"].to_numpy() != 0 if "CENS" in table else np.zeros(len(table), dtype=bool)
    time, dv = table["TIME"].to_numpy(float), table["DV"].to_numpy(float)
    pred, ipred = curve.pred, curve.ipred
    if scale == "log":
        ax.set_yscale("log")
        lowest = dv[dv > 0].min(initial=np.inf)
        # a curve that starts at zero would stretch a logarithmic axis without end
        pred, ipred = (np.where(v > 0.1 * min(lowest, 1e300), v, np.nan) for v in (pred, ipred))
    ax.plot(curve.time, pred, color=ORANGE, ls="--", lw=1.0, label="PRED")
    ax.plot(curve.time, ipred, color=BLUE, label="IPRED")
    ax.plot(time[~censored], dv[~censored], "o", mfc="white", mec=BLACK, mew=0.8, label="observed")
    if censored.any():
        ax.plot(time[censored], dv[censored], "v", mfc="none", mec=BLACK, mew=0.6, label="censored")
    if len(doses):
        ax.plot(
            doses[:MOST_DOSES], np.full(len(doses[:MOST_DOSES]), 0.97), marker="v", ls="none", color=VERMILION, ms=4,
            mew=0, clip_on=False, transform=ax.get_xaxis_transform(), label="dose", zorder=3,
        )  # fmt: skip
    ax.margins(y=0.15)  # room for the doses above the highest concentration
    if scale == "linear" and (dv >= 0).all() and (curve.ipred >= 0).all():
        ax.set_ylim(bottom=0.0)
