"""Predictions for subjects, those of the fit or new ones: at their records, or at any times."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data import Population, Subject
from deepnlme.data.dense import requested, times_by_subject, with_times
from deepnlme.data.events import occasion_numbers
from deepnlme.data.layout import endpoint_index
from deepnlme.errors import DataError, invalid
from deepnlme.estimation.coding import coded
from deepnlme.estimation.individual_curves import Intervals, Places, predicted
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.posterior import own_posterior, posterior
from deepnlme.joint import Joint


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
    places = _places(fit, everyone, times)
    if own:
        occasions, found = fit.joint.occasions, own_posterior(fit).take(who)
    else:
        occasions = int(occasion_numbers(everyone.records).max()) + 1 if everyone.occasions else 1
        found = posterior(fit, everyone, occasions)
    table = places.table(predicted(fit, places, found, occasions, intervals), intervals)
    _warn(everyone.ids, found.status, table)
    return table


def _places(fit: Any, population: Population, times: Any) -> Places:
    """The places asked for, each endpoint of the model one."""
    joint = Joint(fit.model, population[:1])
    if times is None:
        request, source = requested(population, joint.endpoints, _wanted(population, joint))
        r = population.records
        return Places(request, joint.endpoints, np.where(r.observed, r.dv, np.nan)[source], {})
    dense = with_times(population, times)
    wanted = np.repeat(dense.asked[:, None], len(joint.endpoints), 1)
    request, source = requested(dense.population, joint.endpoints, wanted)
    return Places(request, joint.endpoints, None, {name: value[source] for name, value in dense.over.items()})


def _wanted(population: Population, joint: Joint) -> np.ndarray:
    """Endpoints to predict at each record with EVID=0: its own, or all if it observes none and names none, [N, E]."""
    r, names = population.records, joint.endpoints
    wanted = np.zeros((len(r), len(names)), dtype=bool)
    index = endpoint_index(population, joint.layout)
    seen = np.flatnonzero(index >= 0)
    wanted[seen, index[seen]] = True
    missing = (r.evid == 0) & ~r.observed
    for text in np.unique(r.endpoint[missing]):
        rows = np.flatnonzero(missing & (r.endpoint == text))
        if text in names:
            wanted[rows, names.index(text)] = True
        elif text.isdigit() and 1 <= int(text) <= len(names):
            wanted[rows, int(text) - 1] = True
        elif text in ("", "0") or len(names) == 1:
            wanted[rows] = True
        else:
            where = f"subject {population.ids[r.subject[rows[0]]]}, row {r.row[rows[0]]} (time {r.time[rows[0]]:g})"
            raise DataError(invalid("endpoint", repr(str(text)), f"The model has {', '.join(names)}", where))
    if not wanted.any():
        fix = "Give times=, or records with EVID=0 and MDV=1 where you want predictions"
        raise DataError(invalid("times", "None", "The population has no record with EVID=0 to predict", fix=fix))
    return wanted


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
