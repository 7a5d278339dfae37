"""Predictions for subjects, those of the fit or new ones: at their records, or at any times."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data import Population, Subject
from deepnlme.data.dense import times_by_subject
from deepnlme.data.events import occasion_numbers
from deepnlme.errors import DataError, invalid
from deepnlme.estimation.coding import coded
from deepnlme.estimation.individual_curves import Intervals, predicted
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.posterior import own_posterior, posterior
from deepnlme.joint import Joint, Places


def predict_subjects(fit: Any, population: Population | None, times: Any, intervals: Intervals) -> pd.DataFrame:
    """The table of `Fit.predict`.

    Args:
        fit: The fit.
        population: Subjects, or None for those of the fit.
        times: None for the records with EVID=0, or times as `with_times` takes them.
        intervals: Which intervals.

    Raises:
        DataError: A population or times that do not fit the model.
        ModelError: Settings out of range.
    """
    own = population is None or population is fit.population
    everyone = fit.population if population is None else coded(_checked(population), fit.population)
    who = np.arange(len(everyone))
    if isinstance(times, Mapping):
        who = np.flatnonzero([len(grid) > 0 for grid in times_by_subject(everyone, times)])
        everyone = everyone[who]
    places = Places.find(everyone, Joint(fit.model, everyone[:1]), times)
    if own:
        occasions, found = fit.joint.occasions, own_posterior(fit).take(who)
    else:
        occasions = int(occasion_numbers(everyone.records).max()) + 1 if everyone.occasions else 1
        found = posterior(fit, everyone, occasions)
    table = _table(everyone, places, predicted(fit, places, found, occasions, intervals), fit.joint.endpoints)
    _warn(everyone.ids, found.status, table)
    return table


def _table(population: Population, places: Places, columns: dict[str, np.ndarray], endpoints: tuple) -> pd.DataFrame:
    """One row per place, in the order of the records, from values at the records [M]."""
    r, rows = places.population.records, places.rows
    data: dict[str, Any] = {"ID": [population.ids[i] for i in r.subject[rows]], "TIME": r.time[rows]}
    if len(endpoints) > 1:
        data["DVID"] = r.endpoint[rows].astype(object)
    if places.source is not None:
        own = population.records
        data["DV"] = np.where(own.observed, own.dv, np.nan)[places.source[rows]]
    return pd.DataFrame(data | {name: column[rows] for name, column in columns.items()})


def _checked(population: Any) -> Population:
    if isinstance(population, Population):
        return population
    fix = "Use dn.Population([subject])" if isinstance(population, Subject) else "Use for example dn.read_nonmem(...)"
    raise DataError(invalid("population", type(population).__name__, "It is a Population", fix=fix))


def _warn(ids: tuple, status: np.ndarray, table: pd.DataFrame) -> None:
    """Say for whom the numbers are not what they should be."""
    for code in (EBEStatus.MAX_ITERATIONS, EBEStatus.NOT_FINITE):
        bad = [str(ids[i]) for i in np.flatnonzero(status == code)]
        if bad:
            warnings.warn(f"Subject {_few(bad)}: {code.message}.", stacklevel=4)
    low = [name for name in ("IPRED_LOW", "DV_LOW") if name in table]
    if low:
        lost = table[low].isna().any(axis=1) & table["IPRED"].notna()
        bad = [str(id) for id in dict.fromkeys(table.loc[lost, "ID"].tolist())]
        if bad:
            message = "no interval, because the model has no value for some draws of the random effects"
            warnings.warn(f"Subject {_few(bad)}: {message}.", stacklevel=4)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
