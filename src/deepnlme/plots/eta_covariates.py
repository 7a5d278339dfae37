"""Empirical Bayes estimates, and residuals, against covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deepnlme.data import Population
from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.plots.effects import Covariate, Effects, chosen, readable
from deepnlme.plots.panels import boxes, correlation, dots, levels, note, remark, smooth_line
from deepnlme.plots.style import DOUBLE, axes_for, legend_above, row_height, style, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_eta_covariates(
    fit: Fit,
    covariates: Sequence[str] | None = None,
    *,
    effects: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    axes: Sequence[Axes] | np.ndarray | None = None,
    width: float = DOUBLE,
) -> Figure:
    """EBEs of each random effect (rows) against each covariate (columns): what the model has not explained yet.

    Numbers are a scatter with a local linear smooth and the correlation; texts, and numbers of at most five different
    values, boxes (quartiles; whiskers of 1.5 interquartile ranges) with the number of subjects. Of a covariate that
    changes, the value at the first record of the subject is taken, for effects by occasion that of the occasion.
    Where shrinkage is above 30% (bold) the EBEs may hide a relation or show one that is not there.

    Args:
        fit: A fit of a model with random effects, by a method that uses Omega.
        covariates: Names of covariates of the fit's population, whether the model uses them or not; by default the
            first six, or as many as `width` has room for (25 mm each).
        effects: Names of the effects, the first six by default.
        units: Units of covariates by name.
        axes: Axes to draw into, row by row, one for each effect and covariate.
        width: Width of a new figure [mm].

    Returns:
        The figure.

    Raises:
        ModelError: There are no random effects or covariates, no such name, or too few axes.
        MissingExtraError: matplotlib is not installed.
    """
    found = Effects.of(fit)
    rows, rest = found.chosen(effects)
    columns, more = _covariates(fit.population, covariates, units, readable(width, axes))
    with style():
        height = row_height(min(0.75 * width / len(columns), 50.0))
        figure, panels = axes_for(axes, len(rows) * len(columns), len(columns), width, height)
        for place, ax in enumerate(panels):
            i, j = divmod(place, len(columns))
            counts = found.rows(rows[i])
            covariate = Covariate.of(fit.population, columns[j], found.record[counts])
            values = found.values[rows[i]][counts]
            _panel(ax, covariate, values)
            bound = 1.1 * float(np.abs(values).max()) or 1.0
            ax.set_ylim(-bound, bound)
            ax.tick_params(labelleft=j == 0 or axes is not None)
            if j == 0 or axes is not None:
                title, weight = found.title(rows[i])
                ax.set_ylabel(f"eta {rows[i]}\n{title}", fontweight=weight)
            ax.tick_params(labelbottom=i == len(rows) - 1 or axes is not None or bool(found.varying))
            if i == len(rows) - 1 or axes is not None:
                ax.set_xlabel(with_unit(columns[j], (units or {}).get(columns[j], "")))
        legend_above(figure, panels, axes is None)
        remark(figure, panels, "; ".join(text for text in (rest, more) if text), axes is None)
    return figure


def _covariates(
    population: Population, names: Sequence[str] | None, units: Mapping[str, str] | None, most: int
) -> tuple[list[str], str]:
    there = list(population.covariates)
    if not there:
        raise ModelError(
            "Invalid `fit`: its population has no covariates. Read them with read_nonmem(..., covariates=[...])."
        )
    unknown = [name for name in units or {} if name not in there]
    if unknown:
        raise ModelError(f"Invalid `units`: got {unknown[0]!r}, expected covariates: {', '.join(there)}.")
    return chosen("covariates", names, there, most)


def _panel(ax: Axes, covariate: Covariate, values: np.ndarray) -> None:
    """One effect against one covariate at the same places."""
    levels(ax, 0.0)
    x = covariate.values
    if covariate.groups:
        boxes(ax, [values[x == value] for value in covariate.groups], list(covariate.groups.values()))
        return
    dots(ax, x, values, "EBEs")
    smooth_line(ax, x, values)
    note(ax, correlation(x, values))
