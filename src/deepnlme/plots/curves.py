"""Predicted curves of single subjects on a dense grid of times."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepnlme.data import Population, Records
from deepnlme.data.dense import insert
from deepnlme.estimation import Fit
from deepnlme.joint import Joint
from deepnlme.model import Model
from deepnlme.observation import Gaussian
from deepnlme.plots.doses import Doses, doses_of


@dataclass(frozen=True)
class Curve:
    """One subject's predictions of one endpoint.

    Attributes:
        time: [T], in the order of the records (a reset may turn it back).
        pred: [T] at eta = 0.
        ipred: [T] at the empirical Bayes estimates.
        doses: Of the subject, at the empirical Bayes estimates.
    """

    time: np.ndarray
    pred: np.ndarray
    ipred: np.ndarray
    doses: Doses


def curves(fit: Fit, positions: np.ndarray, endpoint: str, points: int = 200) -> list[Curve]:
    """The curves of the subjects at `positions`.

    Between the records of a subject more records with EVID=2 are put, which change nothing; covariates and occasions on
    them are those that hold on the interval, so that the model sees the same subject. Where a covariate
    is interpolated linearly and changes, more records would change it: the curve then has the record times only.

    Args:
        fit: The fit.
        positions: Positions of the subjects in the population.
        endpoint: Name of the endpoint.
        points: About how many times there are for each subject.
    """
    population = fit.population[positions]
    dense = _dense(population, points)
    joint = Joint(_only(fit.model, endpoint), dense, slots="records")
    z = _whitened(fit, joint, positions)
    values = joint.space.values(torch.tensor(fit.free, dtype=torch.float64).expand(1, len(dense), -1))
    at, zero = torch.tensor(z).unsqueeze(0), torch.zeros(1, *z.shape, dtype=torch.float64)
    ipred, pred = _at_records(joint, values, at, endpoint), _at_records(joint, values, zero, endpoint)
    starts, time, doses = dense.starts, dense.records.time, doses_of(joint, values, at)
    return [
        Curve(time[a:b], pred[i, : b - a], ipred[i, : b - a], doses[i]) for i, (a, b) in enumerate(pairwise(starts))
    ]


def bands(fit: Fit, ids: Sequence[Any], endpoint: str, drawn: Sequence[Curve], level: float) -> list[pd.DataFrame]:
    """TIME IPRED_LOW IPRED_HIGH DV_LOW DV_HIGH of each subject, at the times of its curve (`Fit.predict`).

    A dose makes a step: there is a time just before it.

    Raises:
        DataError: A subject whose clock goes back at a reset.
        ModelError: A level out of range.
    """
    times = {}
    for id, curve in zip(ids, drawn, strict=True):
        grid = np.unique(curve.time)
        steps = curve.doses.given[np.isin(curve.doses.given, grid[1:])]
        times[id] = np.unique(np.concatenate([grid, steps - 1e-7 * (grid[-1] - grid[0])]))
    table = fit.predict(times=times, level=level)
    if "DVID" in table:
        table = table.loc[table["DVID"] == endpoint]
    return [table.loc[table["ID"] == id] for id in ids]


def _only(model: Model, endpoint: str) -> Model:
    """The model with one endpoint, under which then every record is listed."""
    new = copy.copy(model)
    new.observe = lambda theta, p, x: {endpoint: model.observe(theta, p, x)[endpoint]}  # type: ignore[method-assign]
    return new


def _at_records(joint: Joint, values: object, z: torch.Tensor, endpoint: str) -> np.ndarray:
    """Predictions on the scale of the data at every record, [S, T]."""
    with torch.no_grad():
        found = joint.individuals(values, z, joint.batch).distributions[endpoint]  # type: ignore[arg-type]
        value = found.natural(found.mean) if isinstance(found, Gaussian) else found.mean
        sl = joint.batch.slices[endpoint]
        return value[0].expand(joint.batch.rows, sl.stop - sl.start).numpy()


def _whitened(fit: Fit, joint: Joint, positions: np.ndarray) -> np.ndarray:
    """z of the EBEs for the subjects drawn; their occasions may be fewer than the population's."""
    eta, parts, at = fit.ebes.eta[positions], [], 0
    whole = fit.joint
    values = whole.space.values(torch.tensor(fit.free, dtype=torch.float64))
    for name, group in fit.model.groups.items():
        copies = whole.occasions if group.by == "occasion" else 1
        used = joint.occasions if group.by == "occasion" else 1
        inverse = np.linalg.pinv(values.cholesky[name].numpy())
        for occasion in range(copies):
            if occasion < used:
                parts.append(eta[:, at : at + group.size] @ inverse.T)
            at += group.size
    return np.concatenate(parts, 1) if parts else np.zeros((len(positions), 0))


def _dense(population: Population, points: int) -> Population:
    """The population with records added, every record listed under no endpoint so that each has its slot."""
    r = population.records
    columns = {n: c for n, c in r.columns() if n not in ("dv", "observed", "endpoint", "cens", "limit")}
    bare = population.with_records(Records.build(**columns, covariates=r.covariates, observed=False))
    linear = any(
        rule == "linear" and bool((np.diff(r.covariates[name])[np.diff(r.subject) == 0] != 0).any())
        for name, rule in population.interpolation.items()
    )
    if linear:
        return bare
    subject, position, time = _more(r, points)
    return insert(bare, subject, position, time).population


def _more(r: Records, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times to add: their subject, the record that they come before, and the times themselves."""
    span = np.zeros(r.n_subjects)
    np.maximum.at(span, r.subject, r.time)
    position: list[int] = []
    time: list[float] = []
    for i in np.flatnonzero(np.diff(r.subject) == 0) + 1:
        extra = _between(r, int(i), float(span[r.subject[i]]) / points)
        position += [int(i)] * len(extra)
        time += extra
    before = np.array(position, dtype=np.int64)
    return r.subject[before], before, np.array(time)


def _between(r: Records, i: int, step: float) -> list[float]:
    """Times to add between record i - 1 and record i."""
    a, b = float(r.time[i - 1]), float(r.time[i])
    if b < a:
        return []
    inner = list(np.linspace(a, b, max(int(np.ceil((b - a) / step)), 1) + 1)[1:-1]) if step > 0 and b > a else []
    # the state just before a dose, so that the curve jumps instead of sloping
    return [*inner, b] if r.doses[i] and b > a else inner
