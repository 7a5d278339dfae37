"""Doses by a person's covariates: per kilogram, by bands of a covariate, and rules in rules."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepnlme.data import Dose, Regimen
from deepnlme.errors import DataError, invalid
from deepnlme.simulation.covariate_draws import People

COLUMNS = ("time", "evid", "amt", "rate", "duration", "ii", "addl", "ss", "cmt")
"""What makes a dose record."""

Doses = dict[str, np.ndarray]
"""Dose records: `COLUMNS` and `subject`, sorted by subject and time ([M] each)."""


class DoseRule(ABC):
    """Abstract: what each person is given, by covariates."""

    @abstractmethod
    def doses(self, people: People) -> Doses:
        """The dose records of these people."""

    @abstractmethod
    def scale(self, factor: float) -> DoseRule:
        """The same rule with all doses times `factor`; caps and rounding stay."""


@dataclass(frozen=True)
class PerCovariate(DoseRule):
    """Doses in proportion to a covariate, such as mg/kg.

    amount = value of the covariate * amount of the regimen, then rounded, then capped. A rate is scaled with its
    amount, so that an infusion lasts as long as before; times stay.

    Args:
        covariate: A number covariate, positive in every person.
        regimen: Doses per unit of the covariate [amount / unit of the covariate]; a `Dose`, a `Regimen` or a rule.
        cap: Greatest amount of one dose.
        round_to: Amounts become the nearest multiple of this (half of it is rounded up), such as the strength of a
            tablet.

    Raises:
        DataError: On use, when a person has no such covariate, or a dose would be rounded to nothing.

    Example:
        >>> PerCovariate("wt", Dose(5.0, ii=24, addl=6), cap=400, round_to=50)
        PerCovariate(covariate='wt', regimen=Dose(5.0, ii=24, addl=6), cap=400, round_to=50)
    """

    covariate: str
    regimen: Any
    cap: float | None = None
    round_to: float | None = None

    def __post_init__(self) -> None:
        check_plan(self.regimen, "regimen")
        if self.regimen is None:
            raise DataError(
                invalid("regimen", "None", "PerCovariate scales doses", f"PerCovariate({self.covariate!r})")
            )
        for name in ("cap", "round_to"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and np.isfinite(value) and value > 0):
                where = f"PerCovariate({self.covariate!r})"
                raise DataError(invalid(name, repr(value), "It is a positive amount, or None", where))

    def doses(self, people: People) -> Doses:
        """The dose records of these people."""
        values = numbers_of(people, self.covariate, "PerCovariate")
        low = np.flatnonzero(values <= 0)
        if len(low):
            got, where = f"{values[low[0]]:g}", f"person {low[0] + 1}"
            raise DataError(invalid(self.covariate, got, "Doses are in proportion to a positive covariate", where))
        found = dict(doses_of(self.regimen, people))
        factor = values[found["subject"]]
        before = found["amt"]
        amount = self._adjusted(before, before * factor)
        ratio = np.divide(amount, before, out=factor.copy(), where=before > 0)
        found["rate"] = np.where(found["rate"] > 0, found["rate"] * ratio, found["rate"])
        found["amt"] = amount
        return found

    def _adjusted(self, before: np.ndarray, amount: np.ndarray) -> np.ndarray:
        if self.cap is None and self.round_to is None:
            return amount
        where = f"PerCovariate({self.covariate!r})"
        if np.any(before == 0):
            expected = "Only amounts are capped and rounded"
            got = "a constant infusion or a reset, which has no amount"
            raise DataError(invalid("regimen", got, expected, where, "Leave out cap and round_to"))
        if self.round_to is not None:
            rounded = np.floor(amount / self.round_to + 0.5) * self.round_to
            nothing = np.flatnonzero(rounded == 0)
            if len(nothing):
                got = f"{self.round_to:g}, which rounds a dose of {amount[nothing[0]]:.4g} to nothing"
                raise DataError(invalid("round_to", got, "Every dose is at least half of it", where, "Make it smaller"))
            amount = rounded
        return amount if self.cap is None else np.minimum(amount, self.cap)

    def scale(self, factor: float) -> PerCovariate:
        """The same rule with all doses times `factor`; cap and rounding stay."""
        return replace(self, regimen=scaled(self.regimen, factor))


@dataclass(frozen=True)
class Bands(DoseRule):
    """A regimen for each band of a covariate, such as weight bands.

    Band k holds edges[k-1] <= value < edges[k]: a value equal to an edge belongs to the band above it. The first band
    is open below, the last one above.

    Args:
        covariate: A number covariate.
        edges: Where the next band begins, increasing ([k], unit of the covariate).
        regimens: One for each band ([k+1]): `Dose`, `Regimen`, a rule, or None for no dose.

    Raises:
        DataError: The edges do not increase, or there is not one regimen more than edges.

    Example:
        >>> bands = Bands("wt", [50, 90], [Dose(200), Dose(300), PerCovariate("wt", Dose(4.0))])
        >>> len(bands.regimens)
        3
    """

    covariate: str
    edges: Sequence[float]
    regimens: Sequence[Any]

    def __post_init__(self) -> None:
        where = f"Bands({self.covariate!r})"
        try:
            edges = np.atleast_1d(np.asarray(self.edges, dtype=np.float64))
        except (TypeError, ValueError):
            edges = np.array([])
        if edges.ndim != 1 or not len(edges) or not np.isfinite(edges).all() or np.any(np.diff(edges) <= 0):
            raise DataError(invalid("edges", repr(self.edges), "Edges of bands are numbers that increase", where))
        if isinstance(self.regimens, Dose | Regimen | DoseRule) or len(self.regimens) != len(edges) + 1:
            one = isinstance(self.regimens, Dose | Regimen | DoseRule)
            got = "one regimen" if one else f"{len(self.regimens)} regimens"
            raise DataError(invalid("regimens", got, f"{len(edges)} edges make {len(edges) + 1} bands", where))
        for plan in self.regimens:
            check_plan(plan, "regimens")
        object.__setattr__(self, "edges", tuple(edges.tolist()))
        object.__setattr__(self, "regimens", tuple(self.regimens))

    def doses(self, people: People) -> Doses:
        """The dose records of these people."""
        band = np.searchsorted(self.edges, numbers_of(people, self.covariate, "Bands"), side="right")
        parts = []
        for k, plan in enumerate(self.regimens):
            members = np.flatnonzero(band == k)
            if len(members):
                found = dict(doses_of(plan, people.take(members)))
                parts.append({**found, "subject": members[found["subject"]]})
        return joined(parts)

    def scale(self, factor: float) -> Bands:
        """The same bands with all doses times `factor`."""
        return replace(self, regimens=tuple(scaled(plan, factor) for plan in self.regimens))


def check_plan(plan: Any, what: str) -> None:
    """Raise DataError unless this says what is given: a `Dose`, a `Regimen`, a rule or None."""
    if plan is not None and not isinstance(plan, Dose | Regimen | DoseRule):
        expected = "It is a dn.Dose, a dn.Regimen, a rule (dn.PerCovariate, dn.Bands), or None for no dose"
        raise DataError(invalid(what, repr(plan), expected))


def scaled(plan: Any, factor: float) -> Any:
    """The plan with all doses times `factor`."""
    if plan is None:
        return None
    return (Regimen(plan) if isinstance(plan, Dose) else plan).scale(factor)


def doses_of(plan: Any, people: People) -> Doses:
    """The dose records that a plan means for these people."""
    if isinstance(plan, DoseRule):
        return plan.doses(people)
    template = None if plan is None else (Regimen(plan) if isinstance(plan, Dose) else plan).records()
    if template is None:
        return joined([])
    count = len(template)
    found = {name: np.tile(getattr(template, name), people.n) for name in COLUMNS}
    return {**found, "subject": np.repeat(np.arange(people.n), count)}


def joined(parts: Sequence[Doses]) -> Doses:
    """Dose records of different people together, in order of the subject."""
    if not parts:
        texts = ("cmt",)
        empty = {n: np.empty(0, dtype="<U1" if n in texts else np.float64) for n in COLUMNS}
        return {**empty, "subject": np.empty(0, dtype=np.int64)}
    merged = {name: np.concatenate([part[name] for part in parts]) for name in (*COLUMNS, "subject")}
    order = np.argsort(merged["subject"], kind="stable")
    return {name: column[order] for name, column in merged.items()}


def numbers_of(people: People, name: str, rule: str) -> np.ndarray:
    """The values of a number covariate of all people ([n])."""
    if name not in people.values:
        expected = f"The covariates of the virtual population are {', '.join(people.values) or 'none'}"
        fix = f"Add it: covariates={{{name!r}: dn.LogNormal(...)}}"
        raise DataError(invalid("covariate", repr(name), expected, f"{rule}({name!r})", fix))
    if name in people.labels:
        expected = "Doses go by a covariate that is a number"
        raise DataError(invalid("covariate", f"the text covariate {name!r}", expected, rule))
    return people.values[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
