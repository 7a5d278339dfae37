"""Forms of a relation between an individual parameter and a covariate, fixed by numbers of a population.

A relation multiplies a parameter by a factor of the covariate x with median m over the subjects and coefficients b:

    power        (x / m)^b                     linear       1 + b (x - m)
    exponential  exp(b (x - m))                piecewise    1 + b_low (x - m) below the median, 1 + b_high (x - m) above
    categorical  b_level at each level other than the most frequent one, 1 there

Source: Jonsson, Karlsson 1998, Pharm Res 15:1463 (the forms of stepwise covariate modelling).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.data import Population
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.parameters import Parameter, Positive

FORMS = ("power", "linear", "piecewise", "exponential", "categorical")
FEW_LEVELS = 2
"""Distinct values of a number up to which it is categorical unless another form is asked for."""
MAX_LEVELS = 20
"""Levels up to which a covariate can be categorical."""


@dataclass(frozen=True)
class Relation:
    """A relation that is wanted: the covariate, and how it acts on the parameter.

    Args:
        covariate: Its name in the population.
        form: "power", "linear", "piecewise", "exponential" or "categorical"; "auto" is "categorical" for texts and
            for numbers with two values, "power" for other numbers that are positive, else "exponential".

    Raises:
        ModelError: An unknown form.
    """

    covariate: str
    form: str = "auto"

    def __post_init__(self) -> None:
        if self.form not in (*FORMS, "auto"):
            expected = f"It is one of {', '.join(FORMS)}, auto"
            raise ModelError(invalid("form", repr(self.form), expected, f"covariate {self.covariate}"))


@dataclass(frozen=True)
class Coefficient(Parameter):
    """A real coefficient, optimised in units of `size`, the change that matters; its natural start is 0."""

    size: float = 1.0

    @property
    def range(self) -> str:
        """Any finite number."""
        return "any finite number"

    def contains(self, value: float) -> bool:
        """Every finite number is admissible."""
        return math.isfinite(value)

    def to_free(self, value: float) -> float:
        """value / size."""
        return value / self.size

    def to_natural(self, free: Tensor) -> Tensor:
        """free * size."""
        return free * self.size


@dataclass(frozen=True)
class Term:
    """A relation with the numbers that it needs; new populations are related to the same median and levels.

    Attributes:
        parameter: The individual parameter.
        covariate: The covariate.
        form: One of `FORMS`.
        center: The median over the subjects (first records); the code of the reference level of a categorical one.
        size: One over the standard deviation of x (of log x for "power") over the subjects; over all records if all
            subjects begin with the same value.
        low, high: 5th and 95th percentile over the same.
        levels: Of a categorical covariate, label and code of every level but the reference.
        labels: Of a text covariate, those of all its codes.
    """

    parameter: str
    covariate: str
    form: str
    center: float
    size: float
    low: float
    high: float
    levels: tuple[tuple[str, float], ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def relation(self) -> Relation:
        """What was asked for."""
        return Relation(self.covariate, self.form)

    @property
    def label(self) -> str:
        """Parameter, covariate and form, as in tables."""
        return f"{self.parameter} ~ {self.covariate} ({self.form})"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coefficients."""
        stem = f"{self.parameter}_{self.covariate}"
        if self.form == "piecewise":
            return f"{stem}_low", f"{stem}_high"
        if self.form == "categorical":
            labels = [re.sub(r"\W", "_", label) for label, _ in self.levels]
            clear = labels if len(set(labels)) == len(labels) else [f"level{i + 1}" for i in range(len(labels))]
            return tuple(f"{stem}_{label}" for label in clear)
        return (stem,)

    @property
    def formula(self) -> str:
        """The factor in words, with its numbers."""
        x, center, names = self.covariate, f"{self.center:.6g}", self.names
        if self.form == "power":
            return f"({x} / {center})^{names[0]}"
        away = f"({x} - {center})"
        if self.form == "exponential":
            return f"exp({names[0]} {away})"
        if self.form == "linear":
            return f"1 + {names[0]} {away}"
        if self.form == "piecewise":
            return f"1 + {names[0]} {away} below {center}, 1 + {names[1]} {away} above"
        each = [f"{name} if {x} = {label}" for name, (label, _) in zip(names, self.levels, strict=True)]
        reference = self.labels[int(self.center)] if self.labels else center
        return ", ".join([*each, f"1 if {x} = {reference}"])

    @property
    def null(self) -> float:
        """The value of every coefficient that means no effect."""
        return 1.0 if self.form == "categorical" else 0.0

    def declarations(self) -> dict[str, Parameter]:
        """The coefficients, at no effect."""
        if self.form == "categorical":
            return {name: Positive(1.0) for name in self.names}
        return {name: Coefficient(0.0, size=self.size) for name in self.names}

    def factor(self, theta: Mapping[str, Any], x: Tensor) -> Tensor:
        """What the parameter is multiplied by.

        Args:
            theta: Coefficients by name; batches of scalars.
            x: The covariate, a batch of scalars that broadcasts against them.
        """
        b = [theta[name] for name in self.names]
        if self.form == "power":
            return torch.exp(b[0] * torch.log(x / self.center))
        away = x - self.center
        if self.form == "exponential":
            return torch.exp(b[0] * away)
        if self.form == "linear":
            return 1.0 + b[0] * away
        if self.form == "piecewise":
            return 1.0 + torch.where(away > 0, b[1], b[0]) * away
        out = torch.ones_like(x)
        for coefficient, (_, code) in zip(b, self.levels, strict=True):
            out = torch.where(x == code, coefficient, out)
        return out

    def design(self, x: np.ndarray) -> np.ndarray:
        """d log factor / d free coefficient at no effect, [n, coefficients], for regressions on log parameters.

        Args:
            x: [n] values of the covariate.
        """
        if self.form == "categorical":
            return np.stack([(x == code).astype(float) for _, code in self.levels], axis=1)
        away = (np.log(x / self.center) if self.form == "power" else x - self.center) * self.size
        if self.form == "piecewise":
            return np.stack([np.minimum(away, 0.0), np.maximum(away, 0.0)], axis=1)
        return away[:, None]

    def check(self, population: Population) -> None:
        """Refuse people that the relation cannot take.

        Raises:
            DataError: Texts coded otherwise, an unknown level, a power of what is not positive.
        """
        x = population.records.covariates.get(self.covariate)
        if x is None:  # as for any name that a model reads
            return
        check_codes(population, self.covariate, self.labels)
        if self.form == "categorical":
            if population.interpolation.get(self.covariate) == "linear" and self._changes(population):
                fix = f"Choose another rule for it: interpolation={{{self.covariate!r}: 'nocb', ...}}"
                raise DataError(
                    invalid("interpolation", "'linear'", "Levels that change have no mean", self.label, fix)
                )
            known = [self.center, *(code for _, code in self.levels)]
            bad, expected = ~np.isin(x, known), f"It knows the levels {', '.join(map(self._level, sorted(known)))}"
        elif self.form == "power":
            bad, expected = x <= 0, "A power needs a positive covariate"
        else:
            return
        if bad.any():
            at = int(np.argmax(bad))
            where = f"subject {population.ids[population.records.subject[at]]}, the relation of {self.parameter}"
            raise DataError(invalid(self.covariate, self._level(float(x[at])), expected, where, "Leave them out"))

    def _changes(self, population: Population) -> bool:
        x = population.records.covariates[self.covariate]
        return bool(np.any(x != subject_values(population, self.covariate)[population.records.subject]))

    def _level(self, code: float) -> str:
        return repr(self.labels[int(code)]) if 0 <= code < len(self.labels) else f"{code:g}"


def check_codes(population: Population, name: str, labels: Sequence[str]) -> None:
    """Refuse a text covariate whose labels have other codes than those that a model was made with.

    Raises:
        DataError: Naming the label.
    """
    here = population.categories.get(name, ())
    if not labels or not here or here[: len(labels)] == tuple(labels)[: len(here)]:
        return
    for code in np.unique(population.records.covariates[name]).astype(int):
        if code >= len(labels) or labels[code] != here[code]:
            got = f"the label {here[code]!r} with the code {code}"
            expected = "The model was made with " + ", ".join(f"{label} = {i}" for i, label in enumerate(labels))
            fix = "Read it with covariates=population.reading() of the people that the model was made with"
            raise DataError(invalid(name, got, expected, fix=fix))


def subject_values(population: Population, covariate: str) -> np.ndarray:
    """The covariate on the first record of every subject, [S]."""
    return population.records.covariates[covariate][population.starts[:-1]]


def bound(parameter: str, relation: Relation | str, population: Population) -> Term:
    """The relation with the numbers of a population.

    Args:
        parameter: The individual parameter.
        relation: The relation, or the name of a covariate.
        population: Where median, spread and levels are taken from.

    Raises:
        DataError: No such covariate, one that is the same for all subjects, or one that the form cannot take.
    """
    if not isinstance(relation, Relation):
        relation = Relation(relation) if isinstance(relation, str) else _refuse(relation)
    name, where = relation.covariate, f"the relation of {parameter}"
    if name not in population.covariates:
        expected = f"The population's covariates are {', '.join(population.covariates) or '(none)'}"
        fix = f'Read it with read_nonmem(..., covariates=["{name}"])'
        raise DataError(invalid("covariate", repr(name), expected, where, fix))
    x, every = subject_values(population, name), population.records.covariates[name]
    found = np.unique(every)
    if len(found) < 2:
        fix = "Leave it out"
        raise DataError(invalid(name, "one value for all subjects", "A covariate must differ between them", where, fix))
    form = relation.form
    if form == "auto":
        numeric = name not in population.categories and len(found) > FEW_LEVELS
        positive = bool((every > 0).all())
        form = ("power" if positive else "exponential") if numeric else "categorical"
    if form == "categorical":
        return _categorical(parameter, name, population, found, found[np.argmax([np.sum(x == v) for v in found])])
    if name in population.categories:
        raise DataError(invalid("form", repr(form), "A text covariate is categorical", f"{where} to {name}"))
    if form == "power" and every.min() <= 0:
        got = f"{every.min():g}"
        fix = "Use exponential or linear"
        raise DataError(invalid(name, got, "A power needs a positive covariate", where, fix))
    center = float(np.median(x))
    x = x if np.ptp(x) > 0 else every  # the same for all at first, and changes later
    spread = float(np.std(np.log(x) if form == "power" else x))
    low, high = np.quantile(x, [0.05, 0.95])
    return Term(parameter, name, form, center, 1.0 / spread, float(low), float(high))


def _categorical(parameter: str, name: str, population: Population, found: np.ndarray, reference: float) -> Term:
    if len(found) > MAX_LEVELS:
        got, where = f"{len(found)} levels", f"the relation of {parameter}"
        fix = "Use another form, or join levels"
        raise DataError(invalid(name, got, f"A categorical one has at most {MAX_LEVELS}", where, fix))
    labels = population.categories.get(name)
    named = [(labels[int(code)] if labels else f"{code:g}", float(code)) for code in found if code != reference]
    ends = float(found[0]), float(found[-1])
    return Term(parameter, name, "categorical", float(reference), 1.0, *ends, tuple(named), tuple(labels or ()))


def _refuse(relation: Any) -> Relation:
    expected = 'It is a dn.Relation("wt", "power") or the name of a covariate'
    raise ModelError(invalid("relation", repr(relation), expected))
