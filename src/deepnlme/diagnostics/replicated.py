"""Observations of one endpoint beside their simulated replicates: what every check by simulation reads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepnlme.data import Records
from deepnlme.diagnostics.arguments import check_whole
from deepnlme.diagnostics.time_after_dose import time_after_dose
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.simulation import Simulation, simulate
from deepnlme.simulation.simulate import typical


@dataclass(frozen=True, eq=False)
class Replicated:
    """N observations of one endpoint and R simulated sets of them.

    Attributes:
        simulation: Of the same people at the same records.
        endpoint: Name of the endpoint.
        rows: Positions of the observations in the simulation's rows (int64 [N]).
        subject: Position of the subject (int64 [N], increasing).
        time: Time (float [N]).
        y: Observations (float [N]); where censored, the limit.
        simulated: Simulated observations (float [R, N]).
        cens: 1 below a limit, -1 above it, else 0 (int64 [N]).
        lower: Limit of quantification, -inf where there is none (float [N]); see `with_limits`.
        upper: Upper limit, inf where there is none (float [N]).
    """

    simulation: Simulation
    endpoint: str
    rows: np.ndarray
    subject: np.ndarray
    time: np.ndarray
    y: np.ndarray
    simulated: np.ndarray
    cens: np.ndarray
    lower: np.ndarray
    upper: np.ndarray

    @property
    def records(self) -> Records:
        """The records of the population."""
        return self.simulation.population.records

    @property
    def record(self) -> np.ndarray:
        """The record that each observation stands in (int64 [N])."""
        assert self.simulation.record is not None
        return self.simulation.record[self.rows]

    @property
    def ids(self) -> np.ndarray:
        """Identifier of the subject of each observation (object [N])."""
        return np.array(self.simulation.population.ids, dtype=object)[self.subject]

    @property
    def replicates(self) -> int:
        """Number of simulated sets."""
        return len(self.simulated)

    def with_limits(self, blq: float | str | None = None) -> Replicated:
        """The same with the limits of quantification that hold for each observation, and for its simulated values.

        Observations beyond them count as censored.

        Args:
            blq: The lower limit of records that are not censored: a number, the name of a covariate that has it at
                each record, or None for what the censored records say.

        Raises:
            ModelError: The limit of some observation is not known, or is no limit.
        """
        lower, upper = limits(self.simulation, self.record, blq)
        cens = np.where(self.cens != 0, self.cens, np.where(self.y < lower, 1, np.where(self.y > upper, -1, 0)))
        y = np.where(cens > 0, lower, np.where(cens < 0, upper, self.y))
        return replace(self, y=y, cens=cens, lower=lower, upper=upper)

    def coded(self) -> tuple[np.ndarray, np.ndarray]:
        """Observations [N] and simulated values [R, N], -inf below and inf above the limits."""
        y = np.where(self.cens > 0, -np.inf, np.where(self.cens < 0, np.inf, self.y))
        if not (np.isfinite(self.lower).any() or np.isfinite(self.upper).any()):
            return y, self.simulated
        coded = np.where(self.simulated < self.lower, -np.inf, self.simulated)
        return y, np.where(self.simulated > self.upper, np.inf, coded)

    @property
    def discrete(self) -> bool:
        """Whether all values, observed and simulated, are whole numbers: counts or categories."""
        return bool((self.y == np.round(self.y)).all() and (self.simulated == np.round(self.simulated)).all())

    def position(self, x: str) -> np.ndarray:
        """What stands on the axis: "TIME", "TAD" (time after dose) or "PRED" (float [N])."""
        if x == "TIME":
            return self.time
        if x == "TAD":
            return time_after_dose(self.records)[self.record]
        if x == "PRED":
            pred = self.pred()
            if not np.isfinite(pred).all():
                expected = "There is one for every observation; categories have no mean"
                raise ModelError(invalid("x", "'PRED'", expected, f"endpoint {self.endpoint}", "Use x='TIME'"))
            return pred
        raise ModelError(invalid("x", repr(x), 'The axis is "TIME", "TAD" (time after dose) or "PRED"'))

    def pred(self) -> np.ndarray:
        """PRED, the prediction at eta = 0 and the estimates (float [N])."""
        return typical(self.simulation)[self.rows]


def replicated(source: Any, endpoint: str | None = None, replicates: int = 500, seed: int = 0) -> Replicated:
    """Observations and simulated sets of one endpoint, limits of quantification not yet considered.

    Args:
        source: A fit, which is simulated here; or a simulation of the data's own design.
        endpoint: Name of the endpoint, the first by default.
        replicates: Simulated sets, for a fit.
        seed: Of the simulation, for a fit.

    Raises:
        ModelError: A source or endpoint that does not suit.
    """
    simulation = simulated(source, replicates, seed)
    names = simulation.endpoints
    if endpoint is not None and endpoint not in names:
        raise ModelError(invalid("endpoint", repr(endpoint), f"The endpoints are {', '.join(names)}"))
    name = names[0] if endpoint is None else endpoint
    assert simulation.record is not None and simulation.dv is not None and simulation.observed is not None
    rows = np.flatnonzero((simulation.endpoint == names.index(name)) & np.isfinite(simulation.observed))
    if not len(rows):
        raise ModelError(invalid("endpoint", repr(name), "The data have no observation of it"))
    none = np.full(len(rows), np.inf)
    return Replicated(
        simulation,
        name,
        rows,
        simulation.subject[rows],
        simulation.time[rows],
        simulation.observed[rows],
        _finite(simulation, rows),
        simulation.population.records.cens[simulation.record[rows]],
        -none,
        none,
    )


def _finite(simulation: Simulation, rows: np.ndarray) -> np.ndarray:
    """Simulated values [R, N] of the replicates in which all of them are numbers."""
    assert simulation.dv is not None
    values = simulation.dv[:, rows]
    good = np.isfinite(values).all(axis=1)
    if good.all():
        return values
    first = int(rows[np.flatnonzero(~np.isfinite(values).all(0))[0]])
    where = f"subject {simulation.population.ids[simulation.subject[first]]} at time {simulation.time[first]:g}"
    lost = f"{len(values) - good.sum()} of {len(values)} replicates have a value that is not a number, {where} for one"
    if good.sum() < 0.5 * len(values) or good.sum() < 2:
        expected = "A check needs numbers in most replicates"
        fix = "Look at simulation.individuals(): which random effects have no solution?"
        raise ModelError(invalid("simulation", lost, expected, "", fix))
    warnings.warn(f"{lost}; they are left out of the check.", stacklevel=4)
    return values[good]


def simulated(source: Any, replicates: int, seed: int) -> Simulation:
    """The simulation given, checked; or that of a fit.

    Raises:
        ModelError: Neither, or a simulation without data, residual error or replicates.
    """
    if isinstance(source, Fit):
        check_whole("replicates", replicates, 2)
        return simulate(source, source.population, replicates=int(replicates), seed=seed)
    if not isinstance(source, Simulation):
        expected = "Give a fit, or a simulation of its data: dn.simulate(fit, fit.population, replicates=500)"
        raise ModelError(invalid("source", type(source).__name__, expected))
    if source.record is None or source.observed is None:
        fix = "Leave `times` out: dn.simulate(fit, fit.population, replicates=500)"
        raise ModelError(
            invalid("source", "a simulation at times of its own", "A check needs the data's design", "", fix)
        )
    if source.doses is not None or source.dropout is not None:
        expected = "A check needs the doses and records of the data"
        raise ModelError(invalid("source", "a simulation that adapts doses", expected, "", "Leave `adapt` out"))
    if source.dv is None:
        expected = "A check needs simulated observations"
        raise ModelError(invalid("source", "a simulation without residual error", expected, "", "Use residual=True"))
    if source.replicates < 2:
        fix = "Use replicates=500 in dn.simulate"
        raise ModelError(invalid("source", "a simulation with 1 replicate", "A check needs many", "", fix))
    return source


def limits(simulation: Simulation, record: np.ndarray, blq: float | str | None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limit of quantification that holds for each observation, [N] each.

    A censored record has its own. For the others it is that of the subject's censored records, or else of the
    endpoint's; `blq` overrides the lower one of records that are not censored.
    """
    records = simulation.population.records
    cens, dv, subject = records.cens[record], records.dv[record], records.subject[record]
    if isinstance(blq, str):
        known = [name for name in records.covariates if name not in simulation.population.categories]
        if blq not in known:
            expected = f"It is a number, or a covariate with the limit: {', '.join(known) or '(none in the data)'}"
            raise ModelError(invalid("blq", repr(blq), expected))
        lower = np.where(cens > 0, dv, records.covariates[blq][record])
    elif blq is not None:
        if isinstance(blq, bool) or not isinstance(blq, int | float | np.number) or not np.isfinite(blq):
            raise ModelError(invalid("blq", repr(blq), "It is a number, the name of a covariate, or None"))
        lower = np.where(cens > 0, dv, float(blq))
    else:
        lower = _inferred(cens > 0, dv, subject, -np.inf, simulation)
    return lower, _inferred(cens < 0, dv, subject, np.inf, simulation)


def _inferred(
    censored: np.ndarray, dv: np.ndarray, subject: np.ndarray, none: float, simulation: Simulation
) -> np.ndarray:
    if not censored.any():
        return np.full(len(dv), none)
    everywhere = np.unique(dv[censored])
    if len(everywhere) == 1:
        return np.full(len(dv), everywhere[0])
    least, most = np.full(subject.max() + 1, np.inf), np.full(subject.max() + 1, -np.inf)
    np.minimum.at(least, subject[censored], dv[censored])
    np.maximum.at(most, subject[censored], dv[censored])
    out = np.where(least == most, least, np.nan)[subject]
    out[censored] = dv[censored]
    open_ = np.flatnonzero(np.isnan(out))
    if len(open_):
        shown = ", ".join(f"{v:g}" for v in everywhere[:5]) + (", ..." if len(everywhere) > 5 else "")
        where = f"subject {simulation.population.ids[subject[open_[0]]]}"
        expected = "It must be known which limit holds for the values that are not censored"
        fix = "Give it: blq=0.1, or blq='lloq' for a covariate that has it at each record"
        raise ModelError(invalid("blq", f"no limit of its own, others have {shown}", expected, where, fix))
    return out
