"""Places where a model is evaluated: one for every subject, time and endpoint asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from deepnlme.data import Population
from deepnlme.data.dense import requested, times_by_subject, with_grids
from deepnlme.data.events import padded_index
from deepnlme.data.layout import Layout, endpoint_index
from deepnlme.dynamics import ParallelInTime
from deepnlme.errors import DataError, invalid
from deepnlme.joint.density import Joint
from deepnlme.model import Model


@dataclass(frozen=True)
class Places:
    """Where to evaluate a model.

    Attributes:
        population: One observation, of no meaning, for each place.
        source: The record of the original population that each record stands for (int64 [N]); None if the places are
            not of the data.
        over: Values of covariates over the intervals, where they are not those of the records (float64 [N]).
    """

    population: Population
    source: np.ndarray | None
    over: dict[str, np.ndarray]

    @classmethod
    def find(cls, population: Population, probe: Joint, times: Any = None) -> Places:
        """The places of every endpoint.

        Args:
            population: S subjects.
            probe: The model bound to any of them.
            times: None for the records with EVID=0, each for its own endpoint, or for all if it observes none and names
                none; or times as `deepnlme.data.dense.with_times` takes them, for all endpoints.

        Raises:
            DataError: Times or endpoints that do not fit.
        """
        if times is not None:
            return cls.on_grids(population, probe, times_by_subject(population, times))
        found = cls.at_records(population, probe)
        if not found.counts.any():
            fix = "Give times=, or records with EVID=0 and MDV=1 where you want predictions"
            raise DataError(invalid("times", "None", "The population has no record with EVID=0 to predict", fix=fix))
        return found

    @classmethod
    def at_records(cls, population: Population, probe: Joint) -> Places:
        """The records with EVID=0, each for its own endpoint, or for all; a part of a population may have none."""
        return cls(*requested(population, probe.endpoints, wanted(population, probe.layout)), {})

    @classmethod
    def on_grids(cls, population: Population, probe: Joint, grids: Sequence[np.ndarray]) -> Places:
        """The places of every endpoint at the checked times of every subject."""
        dense = with_grids(population, grids)
        asked = np.repeat(dense.asked[:, None], len(probe.endpoints), 1)
        request, source = requested(dense.population, probe.endpoints, asked)
        return cls(request, None, {name: value[source] for name, value in dense.over.items()})

    @property
    def rows(self) -> np.ndarray:
        """The records that are places, in order (int64 [M])."""
        return np.flatnonzero(self.population.records.observed)

    @property
    def counts(self) -> np.ndarray:
        """Places of every subject, [S]."""
        r = self.population.records
        return np.bincount(r.subject[r.observed], minlength=len(self.population))

    def some(self, model: Model, occasions: int) -> Joint:
        """The model bound to a few subjects that have all the endpoints between them."""
        r = self.population.records
        rows = self.rows
        first = np.unique(r.endpoint[rows], return_index=True)[1]
        return Joint(model, self.population[np.unique(r.subject[rows[first]])], occasions=occasions)

    def joint(self, model: Model, part: slice, occasions: int) -> Joint:
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


def wanted(population: Population, layout: Layout) -> np.ndarray:
    """Endpoints to predict at each record with EVID=0: its own, or all if it observes none and names none, [N, E]."""
    r, names = population.records, layout.endpoints
    out = np.zeros((len(r), len(names)), dtype=bool)
    index = endpoint_index(population, layout)
    seen = np.flatnonzero(index >= 0)
    out[seen, index[seen]] = True
    missing = (r.evid == 0) & ~r.observed
    for text in np.unique(r.endpoint[missing]):
        rows = np.flatnonzero(missing & (r.endpoint == text))
        if text in names:
            out[rows, names.index(text)] = True
        elif text.isdigit() and 1 <= int(text) <= len(names):
            out[rows, int(text) - 1] = True
        elif text in ("", "0") or len(names) == 1:
            out[rows] = True
        else:
            where = f"subject {population.ids[r.subject[rows[0]]]}, row {r.row[rows[0]]} (time {r.time[rows[0]]:g})"
            raise DataError(invalid("endpoint", repr(str(text)), f"The model has {', '.join(names)}", where))
    return out


def cost(model: Model, compartments: int, population: Population, places: np.ndarray) -> np.ndarray:
    """Numbers in the largest tensor that one copy of each subject with so many places [S] needs, [S]."""
    r, s, places = population.records, len(population), np.maximum(places, 1)
    doses = np.bincount(r.subject[r.doses], weights=1 + r.addl[r.doses], minlength=s)
    if not model.is_ode:
        return places * np.maximum(doses, 1.0)
    solver = model.solver
    per_step = (solver.stages * compartments) ** 2 / 3 if isinstance(solver, ParallelInTime) else 10.0 * compartments
    return (places + doses) * per_step


def chunks(size: np.ndarray, numbers: float) -> Iterator[slice]:
    """Consecutive subjects, few enough to keep tensors below so many numbers, but at least one.

    Args:
        size: Numbers that each subject needs, [S].
        numbers: The most in a chunk.
    """
    start, largest = 0, 0.0
    for i, own in enumerate(size):
        if i > start and max(largest, own) * (i + 1 - start) > numbers:
            yield slice(start, i)
            start, largest = i, 0.0
        largest = max(largest, own)
    yield slice(start, len(size))
