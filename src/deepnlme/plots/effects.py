"""Empirical Bayes estimates as pictures need them: by subject and occasion, beside Omega, shrinkage and covariates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepnlme.data import Population
from deepnlme.data.events import occasion_numbers
from deepnlme.errors import ModelError
from deepnlme.estimation import Fit
from deepnlme.plots.quantities import check_fit

SHRUNKEN = 30.0
"""Shrinkage [%] from which on EBEs can hide or invent a relation (Savic and Karlsson 2009, AAPS J 11:558)."""

MOST = 6
"""Effects, or covariates, that are drawn side by side by default."""

NARROWEST = 25.0
"""Width of a panel that is readable [mm]."""

FEW = 5
"""Different numbers of a covariate that are taken as codes of groups, if at least twice as many have them."""


@dataclass(frozen=True)
class Effects:
    """EBEs of every subject and occasion: M rows, those of a subject one after the other.

    Attributes:
        values: Name -> EBE (float64 [M]); those between subjects repeat over the occasions of a subject.
        record: The first record of the subject and occasion (int64 [M]).
        occasion: Number of the occasion within the subject, from 0 (int64 [M]).
        varying: Names of those that change with the occasion.
        omega: The estimated Omega by name.
        shrinkage: By name [%].
    """

    values: dict[str, np.ndarray]
    record: np.ndarray
    occasion: np.ndarray
    varying: frozenset[str]
    omega: pd.DataFrame
    shrinkage: dict[str, float]

    @classmethod
    def of(cls, fit: Fit) -> Effects:
        """The effects of a fit.

        Raises:
            ModelError: Not a fit, or there are none.
        """
        check_fit(fit)
        if not fit.joint.k or not fit.method.uses_omega:
            raise ModelError("Invalid `fit`: it has no random effects to show. Fit a model with dn.RandomEffects.")
        found = fit.ebes
        copies: dict[str, list[np.ndarray]] = {}
        for i, label in enumerate(found.names):
            copies.setdefault(label.partition("@")[0], []).append(found.eta[:, i])
        varying = frozenset(label.partition("@")[0] for label in found.names if "@" in label)
        r = fit.population.records
        number = occasion_numbers(r) if varying else np.zeros(len(r), dtype=np.int64)
        record = np.unique(np.stack([r.subject, number]), axis=1, return_index=True)[1]
        subject, occasion = r.subject[record], number[record]
        values = {
            name: np.stack(parts, 1)[subject, occasion if name in varying else 0] for name, parts in copies.items()
        }
        return cls(values, record, occasion, varying, fit.omega, fit.shrinkage)

    def rows(self, *names: str) -> np.ndarray:
        """Mask of the rows that count for some effects: all if one changes with the occasion, else one per subject."""
        return np.ones(len(self.record), dtype=bool) if self.varying & set(names) else self.occasion == 0

    def of_one(self, name: str) -> np.ndarray:
        """The EBEs of one effect, one per subject or per occasion of a subject."""
        return self.values[name][self.rows(name)]

    def reach(self, name: str) -> float:
        """How far an axis of an effect goes to both sides: three standard deviations, or all estimates."""
        sd = np.sqrt(max(float(self.omega.loc[name, name]), 0.0))
        return max(3.0 * sd, 1.05 * float(np.abs(self.values[name]).max()), 1e-3)

    def chosen(self, names: Sequence[str] | None, most: int = MOST) -> tuple[list[str], str]:
        """The effects to draw, and a remark if they are not all; six by default.

        Raises:
            ModelError: No such effect.
        """
        return chosen("effects", names, list(self.values), most)

    def title(self, name: str) -> tuple[str, str]:
        """What stands above a panel of an effect, and its weight: bold where shrinkage makes EBEs misleading."""
        shrinkage = self.shrinkage[name]
        if not np.isfinite(shrinkage):
            return "shrinkage unknown", "normal"
        return f"shrinkage {shrinkage:.0f}%", "bold" if shrinkage > SHRUNKEN else "normal"


def readable(width: float, axes: object) -> int:
    """How many panels can be read side by side: in a new figure [mm], or in axes of the caller."""
    return MOST if axes is not None else max(1, min(MOST, int(width // NARROWEST)))


def chosen(what: str, names: Sequence[str] | None, there: list[str], most: int = MOST) -> tuple[list[str], str]:
    """The names to draw, and a remark if by default not all of them are."""
    if names is None:
        rest = len(there) - most
        return there[:most], f"{most} of {len(there)} {what}; choose with `{what}`" if rest > 0 else ""
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        got = repr(unknown[0]) if unknown else "none"
        raise ModelError(f"Invalid `{what}`: got {got}, expected some of {', '.join(there) or '(none)'}.")
    return wanted, ""


@dataclass(frozen=True)
class Covariate:
    """One covariate at some places, for an axis.

    Attributes:
        name: Its name.
        values: At each place, numbers or codes (float64 [M]).
        groups: Value -> name of the group, in order; empty for a number on a continuous axis.
    """

    name: str
    values: np.ndarray
    groups: dict[float, str]

    @classmethod
    def of(cls, population: Population, name: str, records: np.ndarray) -> Covariate:
        """A covariate at some records; texts and numbers of few different values make groups."""
        values = population.records.covariates[name][records]
        labels = population.categories.get(name)
        different = np.unique(values)
        codes = len(different) <= min(FEW, len(values) / 2)
        if labels:
            return cls(name, values, {v: labels[int(v)] for v in different.tolist()})
        return cls(name, values, {v: f"{v:g}" for v in different.tolist()} if codes else {})
