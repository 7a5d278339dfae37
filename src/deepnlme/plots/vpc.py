"""Visual predictive checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepnlme.diagnostics import VPC
from deepnlme.errors import ModelError, invalid
from deepnlme.plots.bands import UNKNOWN, declared_units, quantile_bands, share_bands
from deepnlme.plots.panels import check_scale, log_axis, note
from deepnlme.plots.style import (
    BLACK,
    DOUBLE,
    GREY,
    MANY,
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

COLUMNS = 3
"""Panels side by side."""

LOWEST = 58.0
"""Least height of a row of panels [mm]: the legend stands above, and labels of the axes may be long."""


def plot_vpc(
    vpc: VPC,
    *,
    scale: str = "linear",
    points: bool = True,
    units: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """Observed quantiles over the intervals of simulated ones; shares of categories; or survival curves.

    Boxes are the intervals over the simulated sets, each as wide as its bin, with the simulated median as a line; black
    lines are the observed values at the middle of the bins, and hollow diamonds those outside their interval. Dots are
    observations, hollow triangles censored ones. Where observations are censored a second row of panels has their
    shares.

    Args:
        vpc: What `dn.vpc` returned.
        scale: "linear" or "log", of the observations.
        points: Whether observations are drawn.
        units: Units by "time" and "dv", where the declarations do not tell them.
        axes: Axes to draw into, one for each stratum (and one more for each with censored observations; for categories
            one for each stratum and category).
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: Not a VPC; unknown scale or unit; too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    if not isinstance(vpc, VPC):
        raise ModelError(
            invalid("vpc", type(vpc).__name__, "It is what dn.vpc(...) returns", "", "plot_vpc(dn.vpc(fit))")
        )
    check_scale(scale)
    unit = declared_units(vpc.model, vpc.endpoints, vpc.endpoint, units)
    panels = _panels(vpc)
    across = min(len(vpc.strata), COLUMNS) if vpc.kind != "categorical" else min(len(panels), COLUMNS)
    height = row_height(min(max(0.55 * width / across, LOWEST), 75.0))
    with style():
        figure, flat = axes_for(axes, len(panels), across, width, height)
        for ax, (label, what, table) in zip(flat, panels, strict=True):
            ax.set_title(label, loc="left")
            _panel(ax, vpc, what, table, scale, points, unit)
        legend_above(figure, flat, axes is None)
    return figure


def _panels(vpc: VPC) -> list[tuple[str, str, pd.DataFrame]]:
    """Title, what is drawn, and the rows of the table, for every panel."""
    out = []
    for label in vpc.strata:
        table = vpc.table.loc[vpc.table["STRATUM"] == label]
        if vpc.kind != "categorical":
            out.append((label, vpc.kind, table))
            continue
        for category in table["CATEGORY"].unique():
            title = f"{vpc.endpoint} {category}" if str(category)[0] in "<>" else f"{vpc.endpoint} = {category}"
            title = f"{title}, {label}" if label else title
            out.append((title, "share", table.loc[table["CATEGORY"] == category]))
    if vpc.blq is not None:
        for side in vpc.blq["LIMIT"].unique():
            own = vpc.blq.loc[vpc.blq["LIMIT"] == side]
            out += [(label, side, own.loc[own["STRATUM"] == label]) for label in vpc.strata]
    return out


def _panel(
    ax: Axes, vpc: VPC, what: str, table: pd.DataFrame, scale: str, points: bool, unit: Mapping[str, str]
) -> None:
    ax.set_xlabel(_along(vpc, unit))
    if what == "continuous":
        own = vpc.observed.loc[vpc.observed["STRATUM"] == table["STRATUM"].iloc[0]]
        _continuous(ax, vpc, table, own, scale, points)
        name = "DV" if vpc.endpoint == "dv" and len(vpc.endpoints) == 1 else vpc.endpoint
        corrected = {"": "", "prediction": "pred.-corrected "}.get(vpc.corrected, "pred.- and var.-corrected ")
        ax.set_ylabel(with_unit(corrected + name, unit["dv"]))
    elif what == "event":
        _survival(ax, table, vpc.observed.loc[vpc.observed["STRATUM"] == table["STRATUM"].iloc[0]])
        ax.set_xlabel(with_unit("Time", unit["dv"] or unit["time"]))
        ax.set_ylabel("Share without event")
    else:
        share_bands(ax, table, ("_simulated", "_observed") if what in ("below", "above") else ("simulated", "observed"))
        names = {"below": "Share below LLOQ", "above": "Share above ULOQ"}
        ax.set_ylabel(names.get(what, "Share of observations"))


def _along(vpc: VPC, unit: Mapping[str, str]) -> str:
    names = {"TIME": ("Time", "time"), "TAD": ("Time after dose", "time"), "PRED": ("PRED", "dv")}
    name, kind = names[vpc.x]
    return with_unit(name, unit[kind])


def _continuous(ax: Axes, vpc: VPC, table: pd.DataFrame, own: pd.DataFrame, scale: str, points: bool) -> None:
    x, y, censored = own["X"].to_numpy(float), own["DV"].to_numpy(float), own["CENS"].to_numpy() != 0
    least, shown = -np.inf, np.ones(len(y), dtype=bool)
    if scale == "log":
        shown = y > 0
        values = np.concatenate([y, table[["OBSERVED", "SIM_MEDIAN"]].to_numpy(float).ravel()])
        positive = values[np.isfinite(values) & (values > 0)]
        least = 0.7 * float(positive.min()) if len(positive) else 1e-3
    quantile_bands(ax, table, vpc.limits if not vpc.corrected else UNKNOWN, least)
    if points:
        here = shown & ~censored
        ax.plot(
            x[here], y[here], "o", color=GREY, alpha=0.5, ms=2.5, mew=0, rasterized=len(x) > MANY, zorder=1.5,
            label="data",
        )  # fmt: skip
        if (shown & censored).any():
            ax.plot(
                x[shown & censored], y[shown & censored], "v", mfc="none", mec=GREY, ms=2.5, mew=0.4, zorder=1.5,
                label="censored",
            )  # fmt: skip
    if not vpc.corrected:
        for limit, label in zip(vpc.limits, ("LLOQ", "ULOQ"), strict=True):
            if np.isfinite(limit):
                ax.axhline(limit, color=GREY, lw=0.8, ls=":", label=label)
    if scale == "log":
        log_axis(ax, "y")
        if points and not shown.all():
            note(ax, f"{int((~shown).sum())} not positive, not shown")


def _survival(ax: Axes, table: pd.DataFrame, own: pd.DataFrame) -> None:
    column: dict[str, Any] = {name: table[name].to_numpy(float) for name in table.columns if name != "STRATUM"}
    time = column["TIME"]
    ax.fill_between(
        time, column["SIM_LOW"], column["SIM_HIGH"], step="post", color=SKY, alpha=0.4, lw=0, label="simulated"
    )
    ax.step(time, column["SIM_MEDIAN"], where="post", color=SKY, lw=0.8)
    ax.step(time, column["OBSERVED"], where="post", color=BLACK, label="observed")
    censored = own.loc[own["CENS"] != 0, "DV"].to_numpy(float)
    if len(censored):
        height = column["OBSERVED"][np.searchsorted(time, censored, side="right") - 1]
        ax.plot(censored, height, "|", color=BLACK, ms=5, mew=0.8, ls="none", label="censored")
    outside = table["OUTSIDE"].to_numpy(bool)
    if outside.any():
        hit = np.where(outside, column["OBSERVED"], np.nan)
        ax.step(time, hit, where="post", color=VERMILION, lw=2.0, label="outside")
    ax.set_ylim(-0.03, 1.03)
