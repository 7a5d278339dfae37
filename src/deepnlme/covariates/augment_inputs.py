"""Covariates as the inputs of a network: numbers as they are, text covariates as zeros and ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.covariates.distinct import say_the_same
from deepnlme.covariates.forms import check_codes
from deepnlme.data import Population
from deepnlme.errors import DataError, ModelError, invalid

IMPUTE = (
    "Fill it in before: the median, a prediction from the other covariates, or several imputations and a fit of each; "
    "or leave the subject or the covariate out"
)


@dataclass(frozen=True)
class Column:
    """One input.

    Attributes:
        covariate: Its covariate.
        code: The label's code for a text covariate, None for a number.
        name: For tables, ``wt`` or ``race=asian``.
        average: Mean over the subjects; a label that none of them had stands at the average of all labels.
    """

    covariate: str
    code: int | None
    name: str
    average: float


@dataclass(frozen=True)
class Inputs:
    """How covariates become inputs: the value at a subject's first record.

    A number is one input; a text covariate with two labels is one (0 for the first label, 1 for the other), with more
    labels one for each.

    Attributes:
        columns: The inputs.
        known: Codes that each text covariate had.
        labels: Of all codes of each text covariate.
    """

    columns: tuple[Column, ...]
    known: dict[str, tuple[int, ...]]
    labels: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the inputs."""
        return tuple(column.name for column in self.columns)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates."""
        return tuple(dict.fromkeys(column.covariate for column in self.columns))

    def matrix(self, population: Population) -> np.ndarray:
        """The inputs of S subjects, [S, columns]."""
        raw = baseline(population, self.covariates)
        values = [self._encoded(column, torch.tensor(raw[column.covariate])) for column in self.columns]
        return torch.stack(values, -1).numpy()

    def check(self, population: Population) -> None:
        """Refuse text covariates with other codes than here.

        Raises:
            DataError: Naming the label.
        """
        for name, labels in self.labels.items():
            if name in population.covariates:
                check_codes(population, name, labels)

    def tensors(self, cov: Mapping[str, Any]) -> list[Tensor]:
        """The inputs inside a model, each [1, R, 1]."""
        return [self._encoded(column, cov[column.covariate][..., :1]) for column in self.columns]

    def _encoded(self, column: Column, value: Tensor) -> Tensor:
        if column.code is None:
            return value
        seen = torch.zeros_like(value)
        for code in self.known[column.covariate]:
            seen = seen + (value == code).to(value.dtype)
        return (value == column.code).to(value.dtype) + (1.0 - seen) * column.average


def baseline(population: Population, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Covariates at each subject's first record, [S] each.

    Raises:
        DataError: An unknown name, or a subject without a value.
    """
    out = {}
    for name in names:
        if name not in population.covariates:
            there = ", ".join(population.covariates) or "none"
            fix = f'Read it with read_nonmem(..., covariates=["{name}"]), or correct the spelling'
            raise DataError(invalid("covariates", repr(name), f"The population has {there}", fix=fix))
        values = population.records.covariates[name][population.starts[:-1]]
        missing = np.flatnonzero(~np.isfinite(values))
        if len(missing):
            who = ", ".join(str(population.ids[i]) for i in missing[:5]) + (" ..." if len(missing) > 5 else "")
            where = f"{len(missing)} of {len(population)} subjects ({who})"
            raise DataError(invalid(name, "no value", "A covariate has a value for every subject", where, IMPUTE))
        out[name] = values
    return out


def inputs_of(population: Population, names: Sequence[str] | None) -> Inputs:
    """The inputs that covariates make, checked.

    Raises:
        DataError: No, unknown, missing, constant or duplicated covariates.
    """
    if isinstance(names, str):
        raise ModelError(invalid("covariates", repr(names), "It is a list of names", fix=f'Write ["{names}"]'))
    chosen = tuple(population.covariates if names is None else dict.fromkeys(str(n) for n in names))
    if not chosen:
        fix = 'Read them with read_nonmem(..., covariates=["wt"])'
        raise DataError(invalid("covariates", "none", "There is something to learn from one or more", fix=fix))
    raw = baseline(population, chosen)
    columns: list[Column] = []
    known: dict[str, tuple[int, ...]] = {}
    for name in chosen:
        values = raw[name]
        if np.ptp(values) <= 1e-12 * max(np.abs(values).max(), 1e-300):
            labels = population.categories.get(name)
            shown = repr(str(labels[int(values[0])])) if labels else f"{values[0]:g}"
            expected = "A constant covariate explains no difference between subjects"
            raise DataError(invalid(name, f"{shown} for all {len(values)} subjects", expected, fix="Leave it out"))
        if name not in population.categories:
            columns.append(Column(name, None, name, float(values.mean())))
            continue
        codes = [int(code) for code in np.unique(values)]
        known[name] = tuple(codes)
        for code in codes[1:] if len(codes) == 2 else codes:
            label = population.categories[name][code]
            columns.append(Column(name, code, f"{name}={label}", float(np.mean(values == code))))
    found = Inputs(tuple(columns), known, {name: population.categories[name] for name in known})
    _check_duplicates(found, found.matrix(population))
    return found


def _check_duplicates(inputs: Inputs, matrix: np.ndarray) -> None:
    """Refuse a covariate that is a linear function of one other; labels may coincide as long as others do not."""
    own = {name: [i for i, c in enumerate(inputs.columns) if c.covariate == name] for name in inputs.covariates}
    for one, other in combinations(own, 2):
        if say_the_same(matrix[:, own[one]], matrix[:, own[other]]):
            expected = "Two covariates that say the same have no effects that could be told apart"
            got = f"values that are those of `{one}` up to a factor and a constant"
            raise DataError(invalid(other, got, expected, fix=f"Leave `{one}` or `{other}` out"))


def check_counts(inputs: Inputs, subjects: int, penalised: bool) -> None:
    """Refuse, or with a penalty warn of, as many inputs as subjects."""
    n = len(inputs.names)
    if n < subjects:
        return
    got = f"{n} inputs for {subjects} subjects"
    if not penalised:
        fix = "Give fewer covariates, or a network whose weights are penalised: penalties=[1, 10, 100]"
        raise DataError(
            invalid("covariates", got, "Without a penalty there must be more subjects than inputs", fix=fix)
        )
    warnings.warn(f"{got}: the penalty alone decides between covariates.", RuntimeWarning, stacklevel=3)
