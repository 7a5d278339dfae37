"""Trials whose doses depend on what was observed: titration and dropout, decided at visits by a user's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepnlme.data import Population
from deepnlme.data.batch import Batch
from deepnlme.errors import DataError, ModelError, invalid


@dataclass(frozen=True)
class History:
    """Observations of an endpoint before a visit.

    Attributes:
        subject: [M] position of the subject.
        time: [M].
        dv: [R, M].
    """

    subject: np.ndarray
    time: np.ndarray
    dv: np.ndarray


@dataclass(frozen=True)
class Visit:
    """What is known at a visit, for every replicate and subject; the argument of the rule of `Adaptive`.

    Attributes:
        time: Time of the visit.
        number: Its position among the visits, from 0.
        dv: By endpoint [R, S] the last observation before the visit, NaN where there is none.
        ipred: Likewise the individual prediction, which nobody sees in a real trial.
        factor: [R, S] factor by which the doses were multiplied until now.
        active: [R, S] whether the subject is still in the trial.
        covariates: By name [S] the baseline covariates, text ones as text.
        random: A generator for rules that draw; its numbers depend on the seed alone.
        history: By endpoint all observations before the visit.
    """

    time: float
    number: int
    dv: dict[str, np.ndarray]
    ipred: dict[str, np.ndarray]
    factor: np.ndarray
    active: np.ndarray
    covariates: dict[str, np.ndarray]
    random: np.random.Generator
    history: dict[str, History]


@dataclass(frozen=True)
class Adaptive:
    """Visits at which a rule changes the doses to come, or takes subjects out of the trial.

    The rule gets a `Visit` and returns a dict with any of

    - ``factor`` [R, S]: the doses from the visit on are those of the regimen times this (infusions last as long as
      before), until another visit changes it; 0 stops dosing. Not cumulative: ``visit.factor * 1.5`` raises by half.
    - ``dropout`` [R, S] bool: the subject leaves. It gets no more doses and is not observed from the visit on.

    A rule sees observations before the visit; one at the time of the visit is taken after the dose that is given then.

    Args:
        times: Increasing times of the visits, on the clock of the data.
        rule: The function.

    Raises:
        ModelError: Times that do not increase, or no function.
    """

    times: Sequence[float]
    rule: Callable[[Visit], Mapping[str, Any]]

    def __post_init__(self) -> None:
        try:
            times = np.atleast_1d(np.asarray(self.times, dtype=float))
        except (TypeError, ValueError):
            times = np.full(1, np.nan)
        if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise ModelError(f"Invalid `times`: got {self.times!r}, expected increasing times of visits.")
        if not callable(self.rule):
            raise ModelError(f"Invalid `rule`: got {self.rule!r}, expected a function of a Visit that returns a dict.")
        object.__setattr__(self, "times", tuple(times.tolist()))

    def decide(self, visit: Visit) -> tuple[np.ndarray, np.ndarray]:
        """Checked answer of the rule: factor and dropout, [R, S] each."""
        found = self.rule(visit)
        where = f"the visit at time {visit.time:g}"
        if not isinstance(found, Mapping) or set(found) - {"factor", "dropout"}:
            got = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
            raise ModelError(
                invalid("rule", got, "It returns a dict with `factor`, `dropout` or both; {} for no change", where)
            )
        shape = visit.factor.shape
        factor = _array("factor", found.get("factor", visit.factor), shape, where)
        leaving = _array("dropout", found.get("dropout", False), shape, where)
        bad = ~np.isfinite(factor) | (factor < 0)
        if bad.any():
            fix = "A comparison with a missing observation (NaN) is False: say what then happens"
            raise ModelError(invalid("factor", factor[bad][0], "A factor is a number of at least 0", where, fix))
        if not np.isin(leaving, (0.0, 1.0)).all():
            raise ModelError(invalid("dropout", leaving.max(), "It is True or False for each subject", where))
        return factor, leaving.astype(bool)


def _array(name: str, value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        return np.broadcast_to(np.asarray(value, dtype=float), shape).copy()
    except (TypeError, ValueError):
        got = f"shape {np.shape(value)}"
        raise ModelError(invalid(name, got, f"It has the shape {shape}: replicates by subjects", where)) from None


def check_clock(population: Population) -> None:
    """Refuse subjects whose clock goes back: a visit would have two meanings."""
    r = population.records
    back = np.flatnonzero((np.diff(r.time) < 0) & (np.diff(r.subject) == 0))
    if len(back):
        where = f"subject {population.ids[r.subject[back[0] + 1]]}, row {r.row[back[0] + 1]}"
        raise DataError(invalid("adapt", "visits on a clock that goes back", "Visits need one clock", where))


class Doses:
    """Factors of the doses of every replicate and subject between visits.

    Attributes:
        visits: [V] their times.
        factor: [R, S, V + 1] factor before the first visit, after it, ...
    """

    def __init__(self, visits: Sequence[float], replicates: int, subjects: int):
        self.visits = np.array(visits)
        self.factor = np.ones((replicates, subjects, len(self.visits) + 1))

    def set(self, number: int, factor: np.ndarray) -> None:
        """The factor [R, S] from a visit on."""
        self.factor[:, :, number + 1 :] = factor[:, :, None]

    def part(self, replicates: slice, first: int, subjects: int) -> Any:
        """A function that changes the doses of a batch: the copies [S * C] of some subjects."""
        own = np.moveaxis(self.factor[replicates, first : first + subjects], 0, 1)
        own = torch.tensor(own.reshape(-1, own.shape[2]))

        def change(batch: Batch) -> Batch:
            stage = torch.searchsorted(torch.tensor(self.visits), batch.dose_time.cpu().contiguous(), right=True)
            factor = own.gather(1, stage).to(batch.device)
            # an infusion keeps its duration; one that is not given (factor 0) keeps its rate for no time
            scaled = (batch.dose_rate > 0) & ((factor > 0) | (batch.dose_amount == 0))
            rate = torch.where(scaled, batch.dose_rate * factor, batch.dose_rate)
            return replace(batch, dose_amount=batch.dose_amount * factor, dose_rate=rate, cache={})

        return change


def dose_table(population: Population, doses: Doses) -> pd.DataFrame:
    """The doses given: REP ID TIME AMT FACTOR, additional ones one by one."""
    r = population.records
    rows = np.flatnonzero(r.doses)
    repeat = r.addl[rows] + 1
    record = np.repeat(rows, repeat)
    number = np.arange(len(record)) - np.repeat(np.cumsum(repeat) - repeat, repeat)
    time = r.time[record] + number * r.ii[record]
    subject = r.subject[record]
    stage = np.searchsorted(doses.visits, time, side="right")
    factor = doses.factor[:, subject, stage]
    frames = {
        "REP": np.repeat(np.arange(len(factor)) + 1, len(record)),
        "ID": np.tile(np.array(population.ids, dtype=object)[subject], len(factor)),
        "TIME": np.tile(time, len(factor)),
        "AMT": (factor * r.amt[record]).ravel(),
        "FACTOR": factor.ravel(),
    }
    return pd.DataFrame(frames).sort_values(["REP", "ID", "TIME"], kind="stable", ignore_index=True)


def visit_of(
    number: int, time: float, rows: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], ipred: np.ndarray,
    dv: np.ndarray, subjects: int, **state: Any,
) -> Visit:  # fmt: skip
    """What is known at a visit.

    Args:
        number: Of the visit.
        time: Of the visit.
        rows: By endpoint, positions of its rows, their subjects and times.
        ipred: [R, M].
        dv: [R, M].
        subjects: S.
        **state: The other attributes of `Visit`.
    """
    last_dv, last_ipred, history = {}, {}, {}
    for name, (row, subject, when) in rows.items():
        before = when < time
        row, subject, when = row[before], subject[before], when[before]
        latest = np.full(subjects, -1)
        latest[subject] = row  # rows are in order of time: the last one stays
        known = latest >= 0
        last_dv[name] = np.where(known, dv[:, latest], np.nan)
        last_ipred[name] = np.where(known, ipred[:, latest], np.nan)
        history[name] = History(subject, when, dv[:, row])
    return Visit(time=time, number=number, dv=last_dv, ipred=last_ipred, history=history, **state)
