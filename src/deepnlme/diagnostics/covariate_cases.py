"""Subjects that differ from a reference subject in one covariate each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnlme.data import Population, Records
from deepnlme.diagnostics.arguments import check_mapping
from deepnlme.errors import DataError, invalid

FEW = 5
"""Different numbers of a covariate that are taken as codes, if at least twice as many subjects have them."""


@dataclass(frozen=True)
class Case:
    """One covariate at one value.

    Attributes:
        covariate: Its name.
        code: The number that the model sees.
        value: What is shown: the number, or the label that it stands for.
    """

    covariate: str
    code: float
    value: float | str


def _baseline(population: Population, name: str) -> tuple[np.ndarray, bool]:
    """Values of a covariate at the first record of each subject, and whether they are levels rather than numbers."""
    values = population.records.covariates[name][population.starts[:-1]]
    few = len(np.unique(values)) <= min(FEW, len(values) / 2)
    return values, name in population.categories or few


def reference_of(population: Population, given: Mapping[str, Any]) -> dict[str, float]:
    """Codes of the reference subject by name: values given, else medians and most frequent levels.

    Raises:
        DataError: An unknown covariate, or a value that it cannot have.
    """
    check_mapping("reference", given, '{"wt": 70}')
    out = {}
    for name in population.covariates:
        values, levels = _baseline(population, name)
        different, count = np.unique(values, return_counts=True)
        out[name] = float(different[count.argmax()] if levels else np.median(values))
    return {**out, **{name: _code(population, name, value, "reference") for name, value in given.items()}}


def _code(population: Population, name: str, value: Any, what: str) -> float:
    """The number that stands for a value of a covariate."""
    _check_name(population, name, what)
    levels = population.categories.get(name)
    if levels:
        if value not in levels:
            raise DataError(invalid(what, repr(value), f"It is one of {', '.join(levels)}", f"covariate {name}"))
        return float(levels.index(value))
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not np.isfinite(value):
        raise DataError(invalid(what, repr(value), "It is a finite number", f"covariate {name}"))
    return float(value)


def cases_of(population: Population, covariates: Any, basis: Mapping[str, float]) -> list[Case]:
    """The cases asked for: names, values by name, or None for all covariates (see `covariate_effects`).

    Raises:
        DataError: An unknown covariate, a value that it cannot have, or nothing to show.
    """
    if covariates is None or isinstance(covariates, str):
        covariates = list(population.covariates) if covariates is None else [covariates]
    if not isinstance(covariates, Iterable):
        raise DataError(invalid("covariates", repr(covariates), 'It is names, or values by name: {"wt": [50, 90]}'))
    given = dict(covariates) if isinstance(covariates, Mapping) else dict.fromkeys(covariates)
    cases = []
    for name, values in given.items():
        _check_name(population, name, "covariates")
        if values is None:
            codes = _default(population, name, basis[name])
        else:
            each = [values] if isinstance(values, str) or np.ndim(values) == 0 else list(values)
            codes = [_code(population, name, value, "covariates") for value in each]
        labels = population.categories.get(name)
        cases += [Case(name, code, labels[int(code)] if labels else code) for code in codes]
    if not cases:
        fix = 'Read them with read_nonmem(..., covariates=["wt"]), or give values: covariates={"wt": [50, 90]}'
        raise DataError(invalid("covariates", "nothing to vary", "At least one covariate has a value to show", fix=fix))
    return cases


def _check_name(population: Population, name: Any, what: str) -> None:
    if name not in population.covariates:
        there = ", ".join(population.covariates) or 'none: use read_nonmem(..., covariates=["wt"])'
        raise DataError(invalid(what, repr(name), f"The covariates of the fit's population are {there}"))


def _default(population: Population, name: str, basis: float) -> list[float]:
    values, levels = _baseline(population, name)
    found = np.unique(values) if levels else np.unique(np.quantile(values, [0.05, 0.95]))
    return [float(value) for value in found if value != basis]


def shown(population: Population, basis: Mapping[str, float]) -> dict[str, Any]:
    """A subject's covariates as a reader knows them: texts, not codes."""
    labels = population.categories
    return {name: labels[name][int(code)] if name in labels else code for name, code in basis.items()}


def virtual_subjects(population: Population, basis: Mapping[str, float], cases: Sequence[Case]) -> Population:
    """The reference subject and one subject for each case, each with one record that observes nothing."""
    n = 1 + len(cases)
    covariates = {name: np.full(n, code) for name, code in basis.items()}
    for i, case in enumerate(cases):
        covariates[case.covariate][i + 1] = case.code
    return Population.from_records(
        Records.build(np.zeros(n), subject=np.arange(n), observed=False, covariates=covariates),
        list(range(1, n + 1)),
        categories=population.categories,
        occasions=population.occasions,
        interpolation=population.interpolation,
        tensors={name: np.stack([np.median(v, axis=0)] * n) for name, v in population.tensors.items()},
    )
