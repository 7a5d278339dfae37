"""What is simulated and where: the model with its parameters, and the rows of one replicate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from deepnlme.data import Population, Subject
from deepnlme.data.dense import times_by_subject
from deepnlme.data.events import occasion_numbers
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.estimation.coding import coded
from deepnlme.joint import Joint, Places, calibrated, chunks, cost
from deepnlme.model import Model

NUMBERS = 200_000
"""Numbers per tensor in one chunk of subjects and replicates (bounds memory); fits the cache of a processor."""
EQUATIONS = 5
"""Times as many with differential equations, whose every solution has a fixed cost."""


def budget(model: Model) -> int:
    """Numbers per tensor in one chunk."""
    return NUMBERS * (EQUATIONS if model.is_ode else 1)


@dataclass(frozen=True)
class Setting:
    """What is simulated.

    Attributes:
        model: The model.
        population: Its text covariates coded as the model knows them.
        free: [P] its parameters.
        probe: The model bound to one subject.
        device: Where to compute.
    """

    model: Model
    population: Population
    free: np.ndarray
    probe: Joint
    device: str

    @classmethod
    def of(cls, source: Any, population: Any, at: Mapping[str, Any] | None, device: str | None) -> Setting:
        """Checked arguments of `simulate`."""
        if not isinstance(source, Fit | Model):
            got = f"the class {source.__name__}" if isinstance(source, type) else type(source).__name__
            raise ModelError(
                f"Invalid `source`: got {got}, expected a Fit or a Model, such as dn.fit(...) or MyModel()."
            )
        if not isinstance(population, Population):
            fix = (
                "dn.Population([subject])"
                if isinstance(population, Subject)
                else "for example dn.virtual_population(...)"
            )
            got = type(population).__name__
            raise DataError(invalid("population", got, "It is a Population", fix=f"Use {fix}"))
        if isinstance(source, Fit):
            if at is not None:
                raise ModelError("Invalid `at`: got values for a fit, which has its estimates. Give its model instead.")
            population = coded(population, source.population)
            probe = Joint(source.model, population[:1])
            return cls(source.model, population, source.free, probe, device or source.options.device)
        model = calibrated(source, population) if source.networks else source
        probe = Joint(model, population[:1])
        return cls(model, population, probe.space.initial(at), probe, device or "cpu")


class Design:
    """The rows of one replicate.

    Attributes:
        setting: What is simulated.
        occasions: Number of occasions.
        k: Number of random effects of a subject.
        rows: Number of rows M.
    """

    def __init__(self, setting: Setting, grids: list[np.ndarray] | None, places: Places | None):
        population = setting.population
        self.setting, self.grids, self.places = setting, grids, places
        self.occasions = int(occasion_numbers(population.records).max()) + 1 if population.occasions else 1
        groups = setting.model.groups.values()
        self.k = sum(g.size * (self.occasions if g.by == "occasion" else 1) for g in groups)
        endpoints = len(setting.probe.endpoints)
        if places is not None:
            self.counts = places.counts
        else:
            assert grids is not None
            self.counts = endpoints * np.array([len(grid) for grid in grids])
        self.rows = int(self.counts.sum())
        self._varying: dict[str, list[np.ndarray]] = {name: [] for name in changing(population)}

    @classmethod
    def of(cls, setting: Setting, population: Population, times: Any) -> Design:
        """From the argument `times` of `simulate`."""
        if times is None:
            return cls(setting, None, Places.find(setting.population, setting.probe))
        return cls(setting, times_by_subject(population, times), None)

    def parts(self) -> Iterator[tuple[int, int, Places]]:
        """Chunks of subjects, small enough for one replicate: first subject, first row, and their places."""
        setting, starts = self.setting, np.cumsum([0, *self.counts])
        size = cost(setting.model, len(setting.probe.compartments), setting.population, self.counts)
        cut = list(chunks(size, budget(setting.model)))
        self._varying = {name: [] for name in self._varying}
        for part in tqdm(cut, desc="simulating", unit="part", delay=2.0, leave=False):
            population = setting.population[part]
            if self.grids is None:
                places = Places.at_records(population, setting.probe)
            else:
                places = Places.on_grids(population, setting.probe, self.grids[part])
            for name, values in self._varying.items():
                values.append(places.population.records.covariates[name][places.rows])
            yield part.start, int(starts[part.start]), places

    def columns(self) -> dict[str, Any]:
        """Columns of the rows, as `Simulation` takes them."""
        names = self.setting.probe.endpoints
        out: dict[str, Any] = {"subject": np.repeat(np.arange(len(self.counts)), self.counts)}
        if self.places is None:
            assert self.grids is not None
            out["time"] = np.repeat(np.concatenate(self.grids), len(names))
            out["endpoint"] = np.tile(np.arange(len(names)), self.rows // len(names))
        else:
            assert self.places.source is not None
            r, rows = self.places.population.records, self.places.rows
            own, record = self.setting.population.records, self.places.source[rows]
            order = np.argsort(names)
            out["time"] = r.time[rows]
            out["endpoint"] = order[np.searchsorted(np.array(names)[order], r.endpoint[rows])]
            out["record"] = record
            out["observed"] = np.where(own.observed[record], own.dv[record], np.nan)
            out["cens"], out["limit"] = own.cens[record], own.limit[record]
        out["varying"] = {name: np.concatenate(values) for name, values in self._varying.items()}
        return out


def changing(population: Population) -> list[str]:
    """Names of the covariates that change within a subject."""
    r = population.records
    same = np.diff(r.subject) == 0
    return [name for name, value in r.covariates.items() if (np.diff(value)[same] != 0).any()]
