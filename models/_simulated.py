"""What the scripts on simulated data share: people drawn from a true model, distances to the truth, and pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

import deepnlme as dn
from _script import save
from deepnlme.plots.panels import log_axis
from deepnlme.plots.quantities import name_of, units_of
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


@dataclass(frozen=True)
class Trial:
    """People simulated from a model whose parameters are known.

    Attributes:
        model: The true model; its declared values are the truth.
        population: The people with their noisy observations.
        eta: [S, k] true random effects.
        truth: [N] the observed quantity without noise, in the order of the observations.
        sd: [N] standard deviation of the noise.
    """

    model: dn.Model
    population: dn.Population
    eta: np.ndarray
    truth: np.ndarray
    sd: np.ndarray

    def distance(self, table: pd.DataFrame, column: str = "IPRED") -> float:
        """Root mean square of (prediction - truth), each divided by the standard deviation of the noise there."""
        return float(np.sqrt(np.mean(((table[column].to_numpy(float) - self.truth) / self.sd) ** 2)))

    def own_predictions(self, method: dn.Method) -> pd.DataFrame:
        """Predictions of the true model, its random effects estimated from the same noisy data: the best there is."""
        return dn.evaluate_ofv(self.model, self.population, method).predictions()

    def curves(self, times: np.ndarray) -> pd.DataFrame:
        """The truth at other times: ID TIME TRUTH, for everybody."""
        table = _without_noise(self.model, _at_times(self.population, times), self.eta)
        return pd.DataFrame({"ID": table["ID"], "TIME": table["TIME"], "TRUTH": table["IPRED"]})


def simulate(
    model: dn.Model,
    times: Sequence[np.ndarray],
    generator: np.random.Generator,
    *,
    doses: Sequence[dn.Regimen | None] | None = None,
    covariates: pd.DataFrame | None = None,
    additive: float = 0.0,
    proportional: float = 0.0,
    first_id: int = 1,
) -> Trial:
    """Draw people, their random effects and their noise.

    Args:
        model: The true model.
        times: Times of observation of each of the S subjects.
        generator: Of everything random; random effects first, then the noise.
        doses: What each is given; None for nothing.
        covariates: One row per subject.
        additive: Standard deviation a of the noise; in all sd^2 = a^2 + b^2 f^2.
        proportional: Its part b relative to the truth f.
        first_id: Identifier of the first subject; the others follow.
    """
    given = list(doses) if doses is not None else [None] * len(times)
    rows: list[Any] = [None] * len(times) if covariates is None else covariates.to_dict("records")
    people = list(zip(range(first_id, first_id + len(times)), given, times, rows, strict=True))
    bare = dn.Population(dn.Subject(i, d, (t, None), c) for i, d, t, c in people)
    eta = _draw(model, len(times), generator)
    truth = _without_noise(model, bare, eta)["IPRED"].to_numpy(float)
    sd = np.sqrt(additive**2 + (proportional * truth) ** 2)
    values = np.split(truth + sd * generator.standard_normal(len(truth)), np.cumsum([len(t) for t in times])[:-1])
    noisy = [dn.Subject(i, d, (t, v), c) for (i, d, t, c), v in zip(people, values, strict=True)]
    return Trial(model, dn.Population(noisy), eta, truth, sd)


def _draw(model: dn.Model, subjects: int, generator: np.random.Generator) -> np.ndarray:
    parts = [
        generator.standard_normal((subjects, group.size)) @ np.linalg.cholesky(group.omega).T
        for group in model.groups.values()
    ]
    return np.concatenate(parts, 1) if parts else np.zeros((subjects, 0))


def _without_noise(model: dn.Model, population: dn.Population, eta: np.ndarray) -> pd.DataFrame:
    table = dn.predict(model, population, eta=eta, all_records=True)
    return table.loc[table["EVID"] == 0].reset_index(drop=True)


def _at_times(population: dn.Population, times: np.ndarray) -> dn.Population:
    """The same people and doses, with records at `times` and no observation."""
    people = []
    for subject in population:
        r = subject.records
        doses = [dn.Dose(float(r.amt[i]), float(r.time[i]), ii=float(r.ii[i]), addl=int(r.addl[i]))
                 for i in np.flatnonzero(r.doses)]  # fmt: skip
        constant = {name: float(values[0]) for name, values in r.covariates.items()}
        people.append(dn.Subject(subject.id, dn.Regimen(*doses) if doses else None, (times, None), constant))
    return dn.Population(people)


# ---- what fits found -----------------------------------------------------------------------------------------------


def comparison(fits: Mapping[str, dn.Fit], trials: Mapping[str, Trial], truth: dn.Method | None = None) -> pd.DataFrame:
    """Distances of the individual predictions to the truth, one row per fit and one column per trial.

    Args:
        fits: By name.
        trials: People to predict, by name; random effects are estimated from their own data.
        truth: Method for the true model's random effects, whose row then comes first.
    """
    rows = {}
    if truth is not None:
        rows["true model"] = {name: trial.distance(trial.own_predictions(truth)) for name, trial in trials.items()}
    for name, fit in fits.items():
        rows[name] = {where: trial.distance(fit.predict(trial.population, draws=0)) for where, trial in trials.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def held_out(fit: dn.Fit, population: dn.Population) -> dn.Fit:
    """The fitted model evaluated for other people, at the estimates."""
    return dn.evaluate_ofv(fit.model, population, fit.method, at=fit, options=fit.options)


# ---- pictures ------------------------------------------------------------------------------------------------------


@contextmanager
def picture(args: argparse.Namespace, name: str, panels: int, columns: int = 3, aspect: float = 0.8) -> Iterator[Any]:
    """The axes of a picture two journal columns wide; it is written as PNG at the end of the `with` block.

    Args:
        args: The script's options.
        name: Of the file.
        panels: Number of panels.
        columns: Panels side by side.
        aspect: Height of a panel relative to its width.
    """
    import matplotlib

    matplotlib.use("Agg")

    with style():
        figure, axes = axes_for(None, panels, columns, DOUBLE, row_height(aspect * DOUBLE / columns))
        yield axes
        legend_above(figure, axes, own=True)
    save(args, {name: figure})


def shade(position: float) -> Any:
    """A colour between dark blue at -1 and light yellow-green at 1, for families of curves."""
    import matplotlib

    return matplotlib.colormaps["viridis"](0.45 + 0.42 * position)


def draw_people(
    args: argparse.Namespace,
    name: str,
    fit: dn.Fit,
    trial: Trial,
    times: np.ndarray,
    people: int = 6,
    log: bool = False,
) -> None:
    """The first people of a trial: truth, observations, PRED and IPRED."""
    if args.pictures is None:
        return
    shown = trial.population[:people]
    table, truth = fit.predict(shown, times=times, draws=0), trial.curves(times)
    endpoint = fit.joint.endpoints[0]
    unit = units_of(fit, endpoint, None)
    with picture(args, f"{name}_people", len(shown)) as panels:
        for ax, subject in zip(panels, shown, strict=True):
            draw_person(ax, subject, table.loc[table["ID"] == subject.id], truth.loc[truth["ID"] == subject.id])
            if log:
                log_axis(ax, "y")
            ax.set_title(f"ID {subject.id}", loc="left")
        for ax in panels[::3]:
            ax.set_ylabel(with_unit(name_of(fit, endpoint), unit["dv"]))
        for ax in panels[-3:]:
            ax.set_xlabel(with_unit("Time", unit["time"]))


def draw_person(
    ax: Any, subject: dn.Subject, table: pd.DataFrame, truth: pd.DataFrame, individual: bool = True
) -> None:
    """One person's truth, observations and predictions; PRED alone for a model without random effects."""
    seen = subject.observed
    ax.plot(subject.time[seen], subject.dv[seen], "o", mfc="white", mec=BLACK, mew=0.6, ms=3, label="observed")
    ax.plot(truth["TIME"], truth["TRUTH"], color=VERMILION, lw=1.0, label="truth")
    if individual:
        ax.plot(table["TIME"], table["PRED"], color=ORANGE, ls="--", lw=1.0, label="PRED (eta = 0)")
        ax.plot(table["TIME"], table["IPRED"], color=BLUE, label="IPRED")
    else:
        ax.plot(table["TIME"], table["PRED"], color=BLUE, label="PRED")
