"""Simulated curves over time, by arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnlme.data import Population
from deepnlme.data.layout import Layout, endpoint_index
from deepnlme.errors import ModelError, invalid
from deepnlme.plots.attainment import GROUPS, text_of
from deepnlme.plots.bands import declared_units
from deepnlme.plots.panels import check_scale, log_axis, note
from deepnlme.plots.style import BLUE, DOUBLE, GREY, MANY, axes_for, legend_above, row_height, style, with_unit
from deepnlme.simulation import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12
"""Groups that can be drawn."""

OVERLAID = 3
"""Groups whose bands can still be told apart in one panel."""

COLUMNS = 3
"""Panels side by side."""


def plot_simulation(
    sim: Simulation,
    *,
    endpoint: str | None = None,
    of: str = "ipred",
    by: str | None = "arm",
    interval: float = 0.9,
    together: bool | None = None,
    observed: Population | None = None,
    scale: str = "linear",
    units: Mapping[str, str] | None = None,
    axes: Axes | Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Simulated curves over time: the median of all subjects and replicates, and the band that holds most of them.

    Args:
        sim: A simulation whose subjects have the same times.
        endpoint: The endpoint, the first by default.
        of: "ipred" for individual curves (variability between people), "dv" for observations (and residual error).
        by: Covariate whose values are told apart; "arm" only where there is one; None for all together.
        interval: Share of the values at each time that is inside the band.
        together: All groups in one panel, or one panel for each; by default together up to 3 groups.
        observed: Data to draw as dots; those of an arm into its panel if they have the covariate `by`.
        scale: "linear" or "log" of the values.
        units: Units by "time" and "dv", where the declarations do not tell them.
        axes: Axes to draw into, one for each panel.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: No such endpoint, values or covariate, different times, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    check_scale(scale)
    if not isinstance(interval, float) or not 0 < interval < 1:
        raise ModelError(invalid("interval", repr(interval), "It is a share between 0 and 1"))
    name = sim.endpoints[0] if endpoint is None else endpoint
    curves, times = sim.values(of, endpoint), sim.times(endpoint)
    if bool((times != times[0]).any()):
        fix = "Simulate on a grid: times=np.linspace(0, 24, 49)"
        raise ModelError(invalid("sim", "subjects with different times", "A band needs the same for all", fix=fix))
    groups = _members(sim, by)
    unit = declared_units(sim.model, sim.endpoints, name, units)
    together = len(groups) <= OVERLAID if together is None else together
    tails = [0.5 * (1 - interval), 0.5, 0.5 * (1 + interval)]
    count, share = 1 if together else len(groups), f"{100 * interval:g}% of values"
    with style():
        height = row_height(0.5 * width if count == 1 else 0.36 * width)
        figure, panels = axes_for(axes, count, 2 if count == 4 else COLUMNS, width, min(height, 75.0))
        for i, (label, members) in enumerate(groups.items()):
            ax, color = (panels[0], GROUPS[i % len(GROUPS)]) if together else (panels[i], BLUE)
            values = curves[:, members].reshape(-1, times.shape[1])
            bands = (np.nanquantile if np.isnan(values).any() else np.quantile)(values, tails, axis=0)
            names = (label, None) if together and label else ("median", share)
            _band(ax, times[0], bands, color, names, scale)
            if not together:
                ax.set_title(label, loc="left")
        if together and "" not in groups:
            panels[0].fill_between([], [], [], color=GREY, alpha=0.4, lw=0, label=share)
        if observed is not None:
            index = endpoint_index(observed, Layout((), 0, sim.endpoints, ()))
            shown = index == sim.endpoints.index(name)
            _dots(panels, list(groups) if not together else [""], observed, shown, by, scale)
        for ax in panels:
            if scale == "log":
                log_axis(ax, "y")
            ax.set_xlabel(with_unit("Time", unit["time"]))
            ax.set_ylabel(with_unit(of.upper() if name == "dv" and len(sim.endpoints) == 1 else name, unit["dv"]))
        _same_limits(panels)
        legend_above(figure, panels, axes is None)
    return figure


def _members(sim: Simulation, by: str | None) -> dict[str, np.ndarray]:
    """Positions of the subjects of each group, in order of appearance."""
    known = sim.baseline()
    if by is None or (by == "arm" and by not in known):
        return {"": np.arange(len(sim.population))}
    if by not in known:
        raise ModelError(invalid("by", repr(by), f"The covariates are {', '.join(known) or 'none'}"))
    values = np.array([text_of(k) for k in known[by].tolist()])
    found = list(dict.fromkeys(values.tolist()))
    if len(found) > MOST:
        got, fix = f"{by!r}, which has {len(found)} values", "Make a covariate of few groups"
        raise ModelError(invalid("by", got, f"A picture has at most {MOST} groups", fix=fix))
    return {k: np.flatnonzero(values == k) for k in found}


def _band(ax: Axes, time: np.ndarray, bands: np.ndarray, color: str, names: tuple[Any, Any], scale: str) -> None:
    if scale == "log":
        bands = np.where(bands > 0, bands, np.nan)
        if np.isnan(bands[1]).all():
            note(ax, "not positive" if names[1] else f"{names[0]}: not positive")
    low, middle, high = bands
    floor = np.nanmin(bands) if scale == "log" and np.isfinite(bands).any() else low
    low = np.where(np.isnan(low) & ~np.isnan(high), floor, low)
    ax.fill_between(time, low, high, color=color, alpha=0.2, lw=0, label=names[1])
    for edge in (low, high):
        ax.plot(time, edge, color=color, lw=0.5, alpha=0.7, label="_edge")
    ax.plot(time, middle, color=color, label=names[0])


def _dots(
    panels: list[Axes], labels: list[str], data: Population, shown: np.ndarray, by: str | None, scale: str
) -> None:
    """The observations `shown` [N] into the panels; those of a group into its own where the data know it."""
    records = data.records
    here = shown & (records.cens == 0) & ((records.dv > 0) | (scale != "log"))
    levels = data.categories.get(by or "")
    group = None
    if by in records.covariates and by is not None:
        codes = records.covariates[by]
        group = np.array([text_of(k) for k in (np.array(levels, dtype=object)[codes.astype(int)] if levels else codes)])
    for ax, label in zip(panels, labels, strict=True):
        mine = here & (group == label) if group is not None and label else here
        ax.plot(
            records.time[mine], records.dv[mine], "o", color=GREY, ms=2.5, mew=0, alpha=0.6, zorder=1.5,
            label="data", rasterized=int(mine.sum()) > MANY,
        )  # fmt: skip


def _same_limits(panels: list[Axes]) -> None:
    """Panels side by side are compared: one range for all."""
    if len(panels) < 2:
        return
    low, high = min(ax.get_ylim()[0] for ax in panels), max(ax.get_ylim()[1] for ax in panels)
    for ax in panels:
        ax.set_ylim(low, high)
