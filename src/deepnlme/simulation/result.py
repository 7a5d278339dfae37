"""What a simulation returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data import Population
from deepnlme.errors import ModelError
from deepnlme.model import Model


@dataclass(frozen=True, eq=False)
class Simulation:
    """R replicates of a trial with S subjects and M rows each: one row for each subject, time and endpoint.

    Attributes:
        model: The model.
        population: The subjects, with their doses and covariates.
        endpoints: Names of the endpoints.
        subject: [M] position of the subject.
        time: [M] time, on the clock of the data.
        endpoint: [M] position of the endpoint.
        ipred: [R, M] prediction for the individual: the mean of the observation, the median of log-normal ones.
        dv: [R, M] simulated observation, with residual error; None without.
        eta: [R, S, k] random effects, those of every occasion side by side.
        effects: Their names.
        individual: By name [R, S] individual parameters (at the first record, where they change with time).
        parameters: Population parameters of each replicate, one row each.
        free: [P] estimates (or initial values) on the free scale, around which `parameters` may vary.
        observed, cens, limit: [M] what the data have there (NaN: nothing), if the design is that of the data.
        record: [M] the record of the population that a row stands for, likewise.
        varying: By name [M] covariates that change within a subject.
        dropout: [R, S] time at which a subject left an adaptive trial, infinite if it stayed; None for other trials.
        doses: Doses given in an adaptive trial: REP ID TIME AMT ...; None for other trials.
        seed: Of everything random.
        versions: Of Python and the packages that matter.
    """

    model: Model
    population: Population
    endpoints: tuple[str, ...]
    subject: np.ndarray
    time: np.ndarray
    endpoint: np.ndarray
    ipred: np.ndarray
    dv: np.ndarray | None
    eta: np.ndarray
    effects: tuple[str, ...]
    individual: dict[str, np.ndarray]
    parameters: pd.DataFrame
    free: np.ndarray
    observed: np.ndarray | None = None
    cens: np.ndarray | None = None
    limit: np.ndarray | None = None
    record: np.ndarray | None = None
    varying: dict[str, np.ndarray] = field(default_factory=dict)
    dropout: np.ndarray | None = None
    doses: pd.DataFrame | None = None
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def replicates(self) -> int:
        """Number of replicates R."""
        return len(self.ipred)

    def __repr__(self) -> str:
        r, n, m = self.replicates, len(self.population), len(self.time)
        return (
            f"<Simulation of {type(self.model).__name__}: {r} replicate{'s' * (r != 1)}, {n} subject{'s' * (n != 1)}, "
            f"{m} row{'s' * (m != 1)} each>"
        )

    def covariates(self, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Every covariate at the rows (all by default) of one replicate; text covariates as text.

        Args:
            rows: Positions of rows.
        """
        subject = self.subject if rows is None else self.subject[rows]
        out = {}
        for name, value in self.baseline().items():
            if name in self.varying:
                codes = self.varying[name] if rows is None else self.varying[name][rows]
                labels = self.population.categories.get(name)
                out[name] = codes if labels is None else np.array(labels, dtype=object)[codes.astype(int)]
            else:
                out[name] = value[subject]
        return out

    def baseline(self) -> dict[str, np.ndarray]:
        """Every covariate at the first record of each subject, [S]; text covariates as text."""
        return baseline(self.population)

    def table(self, replicates: int | slice | None = None) -> pd.DataFrame:
        """One row for each replicate, subject, time and endpoint: REP ID TIME [DVID] IPRED [DV] and the covariates.

        REP counts from 1. With dropout (an adaptive trial) rows after it have no DV.

        Args:
            replicates: Position of one replicate, a slice of them, or None for all.
        """
        chosen = np.arange(self.replicates)[slice(None) if replicates is None else replicates].reshape(-1)
        r, m = len(chosen), len(self.time)
        ids = np.array(self.population.ids, dtype=object if isinstance(self.population.ids[0], str) else None)
        data: dict[str, Any] = {"REP": np.repeat(chosen + 1, m), "ID": np.tile(ids[self.subject], r)}
        data["TIME"] = np.tile(self.time, r)
        if len(self.endpoints) > 1:
            data["DVID"] = np.tile(np.array(self.endpoints, dtype=object)[self.endpoint], r)
        data["IPRED"] = self.ipred[chosen].ravel()
        if self.dv is not None:
            data["DV"] = self.dv[chosen].ravel()
        data |= {name: np.tile(value, r) for name, value in self.covariates().items()}
        return pd.DataFrame(data)

    def etas(self) -> pd.DataFrame:
        """The random effects, one row for each replicate and subject: REP ID ETA_..."""
        names = [f"ETA_{name}" for name in self.effects]
        return self._by_subject(dict(zip(names, np.moveaxis(self.eta, 2, 0), strict=True)))

    def individuals(self) -> pd.DataFrame:
        """The individual parameters and covariates, one row for each replicate and subject: REP ID ..."""
        baseline = {n: np.broadcast_to(v, (self.replicates, len(v))) for n, v in self.baseline().items()}
        return self._by_subject({**self.individual, **{n: v for n, v in baseline.items() if n not in self.individual}})

    def _by_subject(self, columns: dict[str, np.ndarray]) -> pd.DataFrame:
        r, s = self.replicates, len(self.population)
        data: dict[str, Any] = {"REP": np.repeat(np.arange(r) + 1, s), "ID": list(self.population.ids) * r}
        return pd.DataFrame(data | {name: value.reshape(-1) for name, value in columns.items()})

    def values(self, what: str = "ipred", endpoint: str | None = None) -> np.ndarray:
        """Curves as an array [R, S, T], where all subjects have the same number of times.

        Args:
            what: "ipred" or "dv".
            endpoint: Name of the endpoint, the first by default.

        Raises:
            ModelError: No such values or endpoint, or subjects with different numbers of times.
        """
        if what not in ("ipred", "dv") or (what == "dv" and self.dv is None):
            raise ModelError(
                f'Invalid `what`: got {what!r}, expected "ipred"' + (' or "dv".' if self.dv is not None else
                ": the simulation has no residual error, use residual=True for observations.")
            )  # fmt: skip
        rows = self.rows(endpoint)
        counts = np.bincount(self.subject[rows], minlength=len(self.population))
        if len(set(counts.tolist())) != 1:
            raise ModelError(
                f"Invalid request: subjects have between {counts.min()} and {counts.max()} times. "
                "Simulate with the same times for all, or use table()."
            )
        found = self.ipred if what == "ipred" else self.dv
        assert found is not None
        return found[:, rows].reshape(self.replicates, len(counts), -1)

    def times(self, endpoint: str | None = None) -> np.ndarray:
        """Times [S, T] of `values`."""
        return self.time[self.rows(endpoint)].reshape(len(self.population), -1)

    def rows(self, endpoint: str | None = None) -> np.ndarray:
        """Positions of the rows of an endpoint, the first by default, [.].

        Raises:
            ModelError: No such endpoint.
        """
        name = self.endpoints[0] if endpoint is None else endpoint
        if name not in self.endpoints:
            raise ModelError(f"Invalid `endpoint`: got {endpoint!r}, expected one of {', '.join(self.endpoints)}.")
        return np.flatnonzero(self.endpoint == self.endpoints.index(name))


def baseline(population: Population) -> dict[str, np.ndarray]:
    """Every covariate at the first record of each subject, [S]; text covariates as text."""
    first, out = population.starts[:-1], {}
    for name, values in population.records.covariates.items():
        labels = population.categories.get(name)
        at = values[first]
        out[name] = at if labels is None else np.array(labels, dtype=object)[at.astype(int)]
    return out
