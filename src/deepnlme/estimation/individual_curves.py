"""Predictions at given places, for the EBEs and for draws around them, a chunk of subjects at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from deepnlme.data import Population
from deepnlme.data.batch import Batch, Memory
from deepnlme.data.events import padded_index
from deepnlme.dynamics import ParallelInTime
from deepnlme.errors import ModelError
from deepnlme.estimation.intervals import Drawn, Shape, curves
from deepnlme.estimation.posterior import Posterior, standard_draws
from deepnlme.joint import Joint
from deepnlme.joint.density import free_tensor
from deepnlme.observation import Gaussian

NUMBERS = 1_000_000
"""Numbers per tensor in one chunk of subjects and draws (bounds memory)."""
SAMPLES = 2_000
"""Observations drawn at every place, at least, from distributions that are not normal on some scale."""
FIXED = 2
"""Copies of a subject that are not draws: eta = 0 and the EBE."""


@dataclass(frozen=True)
class Intervals:
    """Which intervals are wanted.

    Args:
        level: Probability inside.
        draws: Draws of each subject's random effects; 0 for no intervals.
        residual: Also of what is observed.
        seed: Of the draws.
    """

    level: float = 0.95
    draws: int = 200
    residual: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.level, bool) or not isinstance(self.level, int | float) or not 0 < self.level < 1:
            raise ModelError(f"Invalid `level`: got {self.level!r}, expected a number between 0 and 1, such as 0.95.")
        for name in ("draws", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                fix = " Use draws=0 for no intervals." if name == "draws" else ""
                raise ModelError(f"Invalid `{name}`: got {value!r}, expected a whole number of at least 0.{fix}")
        if not isinstance(self.residual, bool | np.bool_):
            raise ModelError(f"Invalid `residual`: got {self.residual!r}, expected True or False.")

    @property
    def tails(self) -> tuple[float, float]:
        """Probabilities of the two ends."""
        return 0.5 * (1.0 - self.level), 0.5 * (1.0 + self.level)

    @property
    def samples(self) -> int:
        """Observations drawn for each draw of the random effects, where they must be."""
        return math.ceil(SAMPLES / max(self.draws, 1)) if self.residual else 0

    @property
    def columns(self) -> list[str]:
        """Columns of the table beyond those that say where."""
        individual = ["IPRED_LOW", "IPRED_HIGH"] if self.draws else []
        return ["PRED", "IPRED", *individual, *(["DV_LOW", "DV_HIGH"] if self.draws and self.residual else [])]


@dataclass(frozen=True)
class Places:
    """Where to predict.

    Attributes:
        population: One observation, of no meaning, for each place.
        endpoints: Of the model.
        dv: What was observed at each record, NaN if nothing (float64 [M]); None if the places are not of the data.
        over: Values of covariates over the intervals, where they are not those of the records (float64 [M]).
    """

    population: Population
    endpoints: tuple[str, ...]
    dv: np.ndarray | None
    over: dict[str, np.ndarray]

    def table(self, columns: dict[str, np.ndarray], intervals: Intervals) -> pd.DataFrame:
        """One row per place, in the order of the records, from values at the records [M]."""
        r = self.population.records
        rows = np.flatnonzero(r.observed)
        data: dict[str, Any] = {"ID": [self.population.ids[i] for i in r.subject[rows]], "TIME": r.time[rows]}
        if len(self.endpoints) > 1:
            data["DVID"] = r.endpoint[rows].astype(object)
        if self.dv is not None:
            data["DV"] = self.dv[rows]
        return pd.DataFrame(data | {name: columns[name][rows] for name in intervals.columns})

    def joint(self, model: Any, part: slice, occasions: int) -> Joint:
        """The model bound to some of the subjects."""
        population = self.population
        joint = Joint(model, population[part], occasions=occasions)
        if self.over:
            first = population.starts[part.start]
            index = padded_index(joint.population.records.subject, len(joint.population))[0] + first
            covariates = dict(joint.batch.covariates)
            for name, value in self.over.items():
                at, _ = covariates[name]
                if at.shape[1] > 1:
                    covariates[name] = (at, torch.tensor(value[index]))
            joint.batch = replace(joint.batch, covariates=covariates)
        return joint


def predicted(
    fit: Any, places: Places, found: Posterior, occasions: int, intervals: Intervals
) -> dict[str, np.ndarray]:
    """PRED, IPRED and the ends of the intervals at every place (NaN at other records), each [M]."""
    population = places.population
    out = {name: np.full(len(population.records), np.nan) for name in intervals.columns}
    standard = standard_draws(fit.model, occasions, intervals.draws, intervals.seed)
    some = _some(fit, population, occasions)
    places_of = np.bincount(population.records.subject[population.records.observed], minlength=len(population))
    cost = _cost(fit.model, population, some, places_of)
    size = np.maximum(cost * FIXED, places_of * (FIXED + intervals.draws))
    if intervals.draws and intervals.residual and not _normal(fit, some):
        size[:] = np.inf  # observations drawn for one subject must not depend on the others
    for part in _chunks(size):
        joint = places.joint(fit.model, part, occasions)
        own = found.take(np.arange(part.start, part.stop))
        rows = max(1, int(NUMBERS / (cost[part].max() * (part.stop - part.start))))
        columns = _columns(fit, joint, own.mode, own.draws(standard), intervals, rows)
        for name, sl in joint.batch.slices.items():
            valid = joint.batch.slot_valid[:, sl]
            starts = torch.tensor(population.starts[part]).unsqueeze(1)
            where = (joint.batch.slot_record[:, sl] + starts)[valid].numpy()
            for column, value in columns.get(name, {}).items():
                out[column][where] = value.cpu()[valid].numpy()
    return out


def _some(fit: Any, population: Population, occasions: int) -> Joint:
    """The model bound to a few subjects that have all the endpoints between them."""
    r = population.records
    places = np.flatnonzero(r.observed)
    first = np.unique(r.endpoint[places], return_index=True)[1]
    return Joint(fit.model, population[np.unique(r.subject[places[first]])], occasions=occasions)


def _normal(fit: Any, joint: Joint) -> bool:
    """Whether every endpoint is normal on some scale."""
    found, _ = _distributions(fit, joint, np.zeros((len(joint.population), 1, joint.k)))
    return all(isinstance(distribution, Gaussian) for distribution in found.values())


def _cost(model: Any, population: Population, joint: Joint, places: np.ndarray) -> np.ndarray:
    """Numbers in the largest tensor that one copy of each subject with so many places [S] needs, [S]."""
    r, s, places = population.records, len(population), np.maximum(places, 1)
    doses = np.bincount(r.subject[r.doses], weights=1 + r.addl[r.doses], minlength=s)
    if not model.is_ode:
        return places * np.maximum(doses, 1.0)
    size = len(joint.compartments)
    per_step = (model.solver.stages * size) ** 2 / 3 if isinstance(model.solver, ParallelInTime) else 10.0 * size
    return (places + doses) * per_step


def _chunks(size: np.ndarray) -> Iterator[slice]:
    """Consecutive subjects, few enough to keep tensors below NUMBERS, but at least one."""
    start, largest = 0, 0.0
    for i, own in enumerate(size):
        if i > start and max(largest, own) * (i + 1 - start) > NUMBERS:
            yield slice(start, i)
            start, largest = i, 0.0
        largest = max(largest, own)
    yield slice(start, len(size))


def _columns(
    fit: Any, joint: Joint, mode: np.ndarray, draws: np.ndarray, intervals: Intervals, copies: int
) -> dict[str, dict[str, Tensor]]:
    """By endpoint the columns, each [S, N].

    Args:
        fit: The fit.
        joint: S subjects.
        mode: [S, k].
        draws: [S, D, k].
        intervals: Which intervals.
        copies: Draws at a time.
    """

    def shape(name: str, copies: int) -> Shape:
        sl = joint.batch.slices[name]
        return len(mode), copies, sl.stop - sl.start

    fixed, batch = _distributions(fit, joint, np.stack([np.zeros_like(mode), mode], 1))
    drawn: dict[str, list[Drawn]] = {name: [] for name in fixed}
    for start in range(0, draws.shape[1], copies):
        z = draws[:, start : start + copies]
        for name, distribution in _distributions(fit, joint, z, batch)[0].items():
            part = Drawn.of(distribution, shape(name, z.shape[1]), intervals.samples, intervals.seed + start)
            drawn[name].append(part)
    out = {}
    for name, distribution in fixed.items():
        out[name] = dict(zip(("PRED", "IPRED"), curves(distribution, shape(name, FIXED)).unbind(1), strict=True))
        if drawn[name]:
            whole = Drawn.join(drawn[name])
            ends = [whole.individual(p) for p in intervals.tails]
            ends += [whole.observed(p) for p in intervals.tails] if intervals.residual else []
            out[name].update(zip(intervals.columns[FIXED:], ends, strict=True))
    return out


def _distributions(fit: Any, joint: Joint, z: np.ndarray, near: Batch | None = None) -> tuple[dict[str, Any], Batch]:
    """Distribution of every endpoint for C copies of each subject with random effects z [S, C, k]: [1, S * C, N].

    Args:
        fit: The fit.
        joint: S subjects.
        z: Whitened random effects.
        near: The batch of another call, from the last copies of which solvers of differential equations start.

    Returns:
        By name; and the batch.
    """
    s, copies, k = z.shape
    index = torch.arange(s).repeat_interleave(copies)
    parent = None
    if near is not None and near.memory is not None:
        last = near.rows // s - 1
        parent = (near.memory, (index * (last + 1) + last).to(near.device))
    batch = joint.batch.take(index).to(fit.options.device)
    own = torch.arange(s * copies, device=batch.device)
    batch = replace(batch, memory=Memory(s * copies, parent=parent), place=own)
    with torch.no_grad():
        values = joint.space.values(free_tensor(fit.free, s * copies).to(batch.device))
        effects = torch.tensor(z.reshape(1, s * copies, k), device=batch.device)
        return joint.individuals(values, effects, batch, order=0).distributions, batch
