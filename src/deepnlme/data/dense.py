"""More records for a population: at times where a model is to be predicted, without changing what it says before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnlme.data.interpolation import interval_covariates
from deepnlme.data.population import Population
from deepnlme.data.records import OBSERVATION, OTHER, RESET, Records
from deepnlme.data.subject import check_id
from deepnlme.errors import DataError, invalid


@dataclass(frozen=True)
class Dense:
    """A population with records added.

    Attributes:
        population: All records, the added ones with EVID=2.
        asked: Which of them are at the times asked for (bool [N]).
        over: Covariates interpolated linearly: the value that holds on the interval that ends at each record
            (float64 [N]). It is that of the original interval, which a record put inside does not split.
    """

    population: Population
    asked: np.ndarray
    over: dict[str, np.ndarray]


def with_times(population: Population, times: Any) -> Dense:
    """The population with a record at every time asked for.

    A time at which the subject has records comes after all of them (after a dose, and with their occasion and
    covariates). Between two records the occasion is that of the later one and covariates follow their rule; after
    the last record its own remain. The system starts at the first record: at times before it, it is in its initial
    state, whatever its equations (such a time is a reset, EVID=3, and so is then the first record).

    Args:
        population: S subjects.
        times: Increasing times on the clock of the data, for all subjects, or a dict id -> times for some of them.

    Raises:
        DataError: Times that are not finite, negative or do not increase; an unknown subject; a subject whose clock
            goes back at a reset, so that a time may mean two things.
    """
    return with_grids(population, times_by_subject(population, times))


def with_grids(population: Population, grids: Sequence[np.ndarray]) -> Dense:
    """As `with_times`, with the checked times of every subject ([S] arrays, some may be empty)."""
    r, starts = population.records, population.starts
    counts = np.array([len(grid) for grid in grids])
    _check_clocks(population, counts > 0)
    subject, time = np.repeat(np.arange(len(grids)), counts), np.concatenate(grids)
    position = _places_after(r, subject, time)
    first = r.time[starts[:-1]]
    # a reset before each early record, and one before the first record of the data
    early = np.flatnonzero(time < first[subject])
    late = np.unique(subject[early])
    new = [
        np.concatenate([subject, subject[early], late]),
        np.concatenate([position, position[early], starts[late]]),
        np.concatenate([time, time[early], first[late]]),
        np.concatenate([np.full(len(time), OTHER), np.full(len(early) + len(late), RESET)]),
    ]
    if len(early):
        order = np.lexsort((new[3] != RESET, new[2], new[1], new[0]))
        new = [column[order] for column in new]
    return insert(population, *new)


def _places_after(r: Records, subject: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The record that comes next after all those of the subject up to the time, for each time (int64 [M])."""
    new = np.concatenate([np.zeros(len(r), dtype=bool), np.ones(len(time), dtype=bool)])
    order = np.lexsort((new, np.concatenate([r.time, time]), np.concatenate([r.subject, subject])))
    before = np.cumsum(~new[order])
    out = np.empty(len(new), dtype=np.int64)
    out[order] = before
    return out[new]


def insert(
    population: Population, subject: np.ndarray, position: np.ndarray, time: np.ndarray, evid: np.ndarray | None = None
) -> Dense:
    """Put records that give no dose and observe nothing between the others; covariates stay what they were.

    Args:
        population: N records.
        subject: Index of the subject that each new record belongs to, in order (int64 [M]).
        position: The record of the population that it comes before; starts[i + 1] is the end of subject i (int64 [M]).
        time: Its time, between those of its neighbours (float64 [M]).
        evid: Its EVID, 2 by default (int64 [M]).
    """
    r, n = population.records, len(population.records)
    place = _Place.of(population, subject, position, time)
    order = np.argsort(np.concatenate([2 * np.arange(n) + 1, 2 * position]), kind="stable")
    # where two subjects meet, the end of the one comes before the beginning of the other
    order = order[np.argsort(np.concatenate([r.subject, subject])[order], kind="stable")]
    source, new = np.concatenate([np.arange(n), place.own])[order], order >= n
    columns = {name: column[source] for name, column in r.columns()}
    columns["time"] = np.concatenate([r.time, time])[order]
    kind = np.full(len(time), OTHER) if evid is None else evid
    columns["evid"] = np.concatenate([r.evid, kind])[order]
    for names, nothing in _NOTHING.items():
        for name in names:
            columns[name] = np.where(new, nothing, columns[name])
    covariates, over = {}, {}
    for name, values in r.covariates.items():
        rule = population.interpolation[name]
        mine = place.covariate(values, rule)
        covariates[name] = np.concatenate([values, mine])[order]
        if rule == "linear":
            interval = interval_covariates(r, name, rule)
            over[name] = np.concatenate([interval, np.where(place.inside, interval[place.after], mine)])[order]
    records = Records(**columns, covariates=covariates)
    return Dense(population.with_records(records), new & (columns["evid"] == OTHER), over)


_NOTHING = {
    ("observed", "amt", "rate", "duration", "ii", "addl", "ss", "cens"): 0,
    ("dv", "limit"): np.nan,
    ("cmt", "endpoint"): "",
}
"""What stands in the columns of a record that gives no dose and observes nothing."""


@dataclass(frozen=True)
class _Place:
    """Neighbours of M new records among the old ones; one that has a single neighbour has it on both sides.

    Attributes:
        before, after: The neighbours (int64 [M]).
        own: The record whose items it takes: the one before at the same time or at the end, else the one after.
        inside: Whether it lies between two records, at another time than the one before (bool [M]).
        part: How far it lies from `before` to `after`, 0 to 1 (float64 [M]).
    """

    before: np.ndarray
    after: np.ndarray
    own: np.ndarray
    inside: np.ndarray
    part: np.ndarray

    @classmethod
    def of(cls, population: Population, subject: np.ndarray, position: np.ndarray, time: np.ndarray) -> _Place:
        """The places of records that come before the records `position`."""
        clock, starts = population.records.time, population.starts
        before = np.where(position > starts[subject], position - 1, position)
        after = np.where(position < starts[subject + 1], position, before)
        inside = (before != after) & (clock[before] != time)
        length = np.where(inside, clock[after] - clock[before], 1.0)
        return cls(before, after, np.where(inside, after, before), inside, (time - clock[before]) / length)

    def covariate(self, values: np.ndarray, rule: str) -> np.ndarray:
        """A covariate at the new records, given its values at the old ones."""
        if rule == "linear":
            between = values[self.before] + self.part * (values[self.after] - values[self.before])
            return np.where(self.inside, between, values[self.own])
        return values[self.before if rule == "locf" else self.own]


def requested(population: Population, names: Sequence[str], wanted: np.ndarray) -> tuple[Population, np.ndarray]:
    """The population with nothing observed but the places where a model is to be predicted.

    Args:
        population: N records.
        names: The endpoints of the model ([E]).
        wanted: Which of them to predict at each record; a record with any must have EVID 0 or 2 (bool [N, E]).

    Returns:
        The population with one observation (of value 1, which means nothing) for every endpoint wanted of a record, one
        after the other; and the record that each of its records comes from (int64 [M]).
    """
    r = population.records
    listed = wanted.copy()
    listed[~wanted.any(1), 0] = True
    source, which = np.nonzero(listed)
    observed = wanted[source, which]
    columns = {name: column[source] for name, column in r.columns()}
    columns["evid"] = np.where(observed, OBSERVATION, columns["evid"])
    columns["observed"], columns["dv"] = observed, np.where(observed, 1.0, np.nan)
    columns["endpoint"] = np.where(observed, np.array(names)[which], "")
    columns["cens"], columns["limit"] = np.zeros(len(source), dtype=np.int64), np.full(len(source), np.nan)
    records = Records(**columns, covariates={name: values[source] for name, values in r.covariates.items()})
    return population.with_records(records), source


def times_by_subject(population: Population, times: Any) -> list[np.ndarray]:
    """The times of each subject, checked; none for those that a dict leaves out.

    Raises:
        DataError: See `with_times`.
    """
    if not isinstance(times, Mapping):
        return [_checked_times(times, "")] * len(population)
    found = {check_id(id): _checked_times(given, f"subject {id}") for id, given in times.items()}
    unknown = [id for id in found if id not in population.ids]
    if unknown:
        expected = f"The {len(population)} subjects are {', '.join(map(str, population.ids[:5]))}"
        more = ", ..." if len(population) > 5 else ""
        raise DataError(invalid("times", f"subject {unknown[0]!r}", expected + more, fix="Correct the identifier"))
    if not found:
        raise DataError(invalid("times", "an empty dict", "It gives times by subject", fix="Name at least one subject"))
    return [found.get(id, np.zeros(0)) for id in population.ids]


def _checked_times(times: Any, where: str) -> np.ndarray:
    fix = "Give for example numpy.linspace(0, 48, 97)"
    try:
        found = np.atleast_1d(np.asarray(times, dtype=np.float64))
    except (TypeError, ValueError):
        raise DataError(invalid("times", repr(times), "It takes numbers", where, fix)) from None
    if found.ndim != 1 or not len(found):
        raise DataError(invalid("times", f"shape {found.shape}", "It takes a sequence of times", where, fix))
    bad = found[~np.isfinite(found)]
    if len(bad):
        raise DataError(invalid("times", bad[0], "A time is a finite number", where))
    if found.min() < 0:
        raise DataError(invalid("times", found.min(), "Times are not negative, as those of records are not", where))
    back = np.flatnonzero(np.diff(found) <= 0)
    if len(back):
        got = f"{found[back[0] + 1]:g} after {found[back[0]]:g}"
        raise DataError(invalid("times", got, "Times increase", where, "Use numpy.unique(times)"))
    return found


def _check_clocks(population: Population, wanted: np.ndarray) -> None:
    """Refuse subjects of those wanted (bool [S]) whose clock goes back."""
    r = population.records
    back = np.flatnonzero((np.diff(r.time) < 0) & (np.diff(r.subject) == 0) & wanted[r.subject[1:]])
    if len(back):
        at = back[0] + 1
        where = f"subject {population.ids[r.subject[at]]}, row {r.row[at]} (EVID={r.evid[at]})"
        expected = f"The clock goes back there, from {r.time[at - 1]:g} to {r.time[at]:g}, so that a time may mean two"
        fix = "Use times=None and records with EVID=0 and MDV=1 where you want predictions"
        raise DataError(invalid("times", "times of a clock that restarts", expected, where, fix))
