"""What panels are made of: points, smooth lines, notes, densities and boxes, drawn the same way everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepnlme.errors import ModelError
from deepnlme.plots.smooth import local_linear
from deepnlme.plots.style import BLACK, BLUE, GREY, MANY, SKY, VERMILION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Z95 = 1.959964
"""Standard normal residuals lie within +-Z95 with probability 0.95."""

FEWEST = 5
"""Different positions that a smooth line needs, and values that a box needs."""

CHARACTER = 0.06
"""Width of a letter of a tick label [inches], generously."""

MOST_TICKS = 500
"""Values beyond which single ones are not marked below a histogram."""


def check_scale(scale: Any) -> None:
    """Raise ModelError unless a scale is "linear" or "log"."""
    if scale not in ("linear", "log"):
        raise ModelError(f'Invalid `scale`: got {scale!r}, expected "linear" or "log".')


def log_axis(ax: Axes, which: str) -> None:
    """Make an axis ("x" or "y") logarithmic, with plain numbers (0.5, 20) at its ticks where it spans few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    getattr(ax, f"set_{which}scale")("log")
    axis = getattr(ax, f"{which}axis")
    low, high = sorted(getattr(ax, f"get_{which}lim")())
    decades = np.log10(high / low)
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 0.7 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    narrow = decades < 0.45  # may lie between two of these
    axis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]) if narrow else LogLocator(subs=subs, numticks=8))
    if decades < 4.5:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def dots(ax: Axes, x: np.ndarray, y: np.ndarray, label: str = "observed") -> None:
    """Points; very many of them are an image also in a vector format."""
    ax.plot(x, y, "o", color=BLUE, alpha=0.5, mew=0, rasterized=len(x) > MANY, label=label)


def limits(ax: Axes, x: np.ndarray, y: np.ndarray, cens: np.ndarray, color: str = BLACK) -> None:
    """Hollow triangles at the limits y of censored observations: downwards below a limit, upwards above one."""
    for side, marker, label in ((cens > 0, "v", "censored"), (cens < 0, "^", "censored above")):
        if side.any():
            ax.plot(x[side], y[side], marker, mfc="none", mec=color, mew=0.6, rasterized=len(x) > MANY, label=label)


def smooth_line(ax: Axes, x: np.ndarray, y: np.ndarray, log_x: bool = False, log_y: bool = False) -> None:
    """A local linear smooth, made on the scale of the axes; nothing where there are too few positions."""
    if len(np.unique(x)) < FEWEST:
        return
    u, v = (np.log(x) if log_x else x), (np.log(y) if log_y else y)
    at = np.linspace(u.min(), u.max(), 100)
    line = local_linear(u, v, at)
    ax.plot(np.exp(at) if log_x else at, np.exp(line) if log_y else line, color=VERMILION, label="smooth")


def levels(ax: Axes, solid: float, *dashed: float) -> None:
    """Grey horizontal lines: what is expected, and the limits of its range."""
    ax.axhline(solid, color=GREY, lw=0.8, zorder=1)
    for level in dashed:
        ax.axhline(level, color=GREY, lw=0.8, ls="--", zorder=1)


def say(ax: Axes, text: str) -> None:
    """Say in the middle of a panel why it is empty."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=7)
    ax.set_xticks([])
    ax.set_yticks([])


def note(ax: Axes, text: str, weight: str = "normal") -> None:
    """A small remark above a panel, nothing for an empty text."""
    if text:
        ax.text(
            1.0, 1.01, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=6, fontweight=weight,
            color="#333333",
        )  # fmt: skip


def remark(figure: Figure, panels: Sequence[Axes], text: str, own: bool) -> None:
    """A small remark on the whole picture: below the panels of a figure of our own, else above the last one."""
    if text and own:
        figure.supxlabel(text, x=0.99, ha="right", fontsize=6, color="#333333")
    elif text:
        note(panels[-1], text)


def histogram(ax: Axes, values: np.ndarray, variance: float, label: str = "EBEs") -> None:
    """Density of values [N] as bars, single values as ticks below, and the density of N(0, variance)."""
    bins = min(max(int(np.ceil(np.sqrt(len(values)))), 5), 40)
    ax.hist(values, bins=bins, density=True, color=SKY, alpha=0.7, edgecolor="white", linewidth=0.4, label=label)
    few = values if len(values) <= MOST_TICKS else values[:0]
    ax.plot(few, np.full(len(few), 0.02), "|", color=BLACK, ms=5, mew=0.6, transform=ax.get_xaxis_transform())
    if variance > 0:
        sd = np.sqrt(variance)
        reach = max(3.0 * sd, float(np.abs(values).max()) * 1.05)
        grid = np.linspace(-reach, reach, 200)
        density = np.exp(-0.5 * (grid / sd) ** 2) / (sd * np.sqrt(2.0 * np.pi))
        ax.plot(grid, density, color=VERMILION, label="N(0, omega)")


def boxes(ax: Axes, groups: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Values by group: a box (quartiles, whiskers of 1.5 interquartile ranges) where there are five, and the points.

    Args:
        ax: Where.
        groups: Values of each group.
        names: Of the groups; the number of values is written below each.
    """
    generator = np.random.default_rng([len(groups), 0])
    for i, values in enumerate(groups):
        if len(values) >= FEWEST:
            ax.boxplot(
                [values], positions=[i], widths=0.6, showfliers=False, manage_ticks=False,
                medianprops={"color": VERMILION}, boxprops={"linewidth": 0.8}, whiskerprops={"linewidth": 0.8},
                capprops={"linewidth": 0.8},
            )  # fmt: skip
        dots(ax, i + generator.uniform(-0.15, 0.15, len(values)), values, "EBEs" if i == 0 else "_more")
    label_groups(ax, [f"{n}\n({len(g)})" for n, g in zip(names, groups, strict=True)])
    ax.set_xlim(-0.6, len(groups) - 0.4)


def label_groups(ax: Axes, names: Sequence[str]) -> None:
    """Names below positions 0, 1, ...; slanted, on one line, where they would run into each other."""
    room = ax.get_position().width * ax.get_figure(root=True).get_figwidth() / len(names)  # type: ignore[union-attr]
    if max(len(part) for name in names for part in name.split("\n")) * CHARACTER > room:
        names = [name.replace("\n", " ") for name in names]
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    else:
        ax.set_xticks(range(len(names)), names)


def correlation(x: np.ndarray, y: np.ndarray) -> str:
    """The correlation of two samples as text, empty where there is none."""
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return ""
    return f"r {round(float(np.corrcoef(x, y)[0, 1]), 2) + 0.0:.2f}"
