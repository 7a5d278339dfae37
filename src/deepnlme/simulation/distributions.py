"""Distributions of one covariate, drawn by their quantile function: F^-1(u) for u uniform between 0 and 1."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri

from deepnlme.data.labels import MISSING
from deepnlme.errors import DataError, invalid
from deepnlme.observation import Gaussian

LEAST_SHARE = 1e-10
"""Least probability that a truncation may leave: below it, quantiles are no longer accurate."""

KINDS = (
    "It is a number, a text, dn.Normal, dn.LogNormal, a distribution of torch or scipy, dn.Truncated, "
    "{value: probability}, a sequence with one value per person, or a function of the covariates before it"
)


@dataclass(frozen=True)
class Truncated:
    """A distribution of a covariate, given that its value lies between `low` and `high` (both included).

    Args:
        distribution: `dn.Normal`, `dn.LogNormal`, a distribution of scipy, or one of torch that has `cdf` and `icdf`.
        low: Least value [unit of the covariate].
        high: Greatest value [unit of the covariate].

    Raises:
        DataError: The bounds are not in order, or leave (next to) nothing of the distribution.

    Example:
        >>> from deepnlme.observation import Normal
        >>> from deepnlme.simulation import virtual_population
        >>> people = virtual_population(1000, covariates={"age": Truncated(Normal(50, 20), 18, 80)})
        >>> age = people.records.covariates["age"]
        >>> bool(age.min() >= 18 and age.max() <= 80)
        True
    """

    distribution: Any
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if not _is_number(value) or np.isnan(value):
                raise DataError(invalid(name, repr(value), "A bound of Truncated is a number"))
        if not self.low < self.high:
            got = f"low={self.low}, high={self.high}"
            raise DataError(invalid("Truncated", got, "The lower bound is below the upper one"))


class Margin(ABC):
    """Abstract: the distribution of one covariate.

    Attributes:
        labels: Texts that the values are positions in; empty for numbers.
    """

    labels: tuple[str, ...] = ()

    @abstractmethod
    def quantile(self, u: np.ndarray) -> np.ndarray:
        """F^-1(u) for 0 < u < 1 (float64 [n])."""

    def interval(self, low: float, high: float) -> tuple[float, float]:
        """P(X < low) and P(X <= high).

        Raises:
            NotImplementedError: The distribution has no cumulative function.
        """
        raise NotImplementedError


class _Levels(Margin):
    """Values or texts, each with a probability."""

    def __init__(self, values: np.ndarray, probabilities: np.ndarray, labels: tuple[str, ...] = ()):
        self.values, self.labels = values, labels
        self.cumulative = np.cumsum(probabilities)[:-1]

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return self.values[np.searchsorted(self.cumulative, u, side="right")]


class _Normal(Margin):
    """Normal on the natural or on the logarithmic scale."""

    def __init__(self, distribution: Gaussian, mean: float, sd: float):
        self.distribution, self.mean, self.sd = distribution, mean, sd

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return self.distribution.natural(torch.from_numpy(self.mean + self.sd * ndtri(u))).numpy()

    def interval(self, low: float, high: float) -> tuple[float, float]:
        bound = self.distribution.support()[0]
        scaled = [
            float(self.distribution.scale(torch.tensor(x, dtype=torch.float64))) if x > bound else -np.inf
            for x in (low, high)
        ]
        below, up_to = (float(ndtr((x - self.mean) / self.sd)) for x in scaled)
        return below, up_to


class _Scipy(Margin):
    """A distribution of scipy.stats with its parameters given."""

    def __init__(self, distribution: Any):
        self.distribution = distribution

    def quantile(self, u: np.ndarray) -> np.ndarray:
        inverse = getattr(self.distribution, "ppf", None) or self.distribution.icdf
        return np.asarray(inverse(u), dtype=np.float64)

    def interval(self, low: float, high: float) -> tuple[float, float]:
        at = float(self.distribution.pmf(low)) if hasattr(self.distribution, "pmf") and np.isfinite(low) else 0.0
        return float(self.distribution.cdf(low)) - at, float(self.distribution.cdf(high))


class _Torch(Margin):
    """A distribution of torch that has a quantile function."""

    def __init__(self, distribution: torch.distributions.Distribution):
        self.distribution = distribution

    def quantile(self, u: np.ndarray) -> np.ndarray:
        return self.distribution.icdf(torch.from_numpy(u)).numpy().astype(np.float64)

    def interval(self, low: float, high: float) -> tuple[float, float]:
        support = self.distribution.support
        found = []
        for x, outside in ((low, 0.0), (high, 1.0)):
            value = torch.tensor(x, dtype=torch.float64)
            inside = np.isfinite(x) and (support is None or bool(support.check(value)))
            if inside:
                found.append(float(self.distribution.cdf(value)))
            else:
                middle = float(self.distribution.icdf(torch.tensor(0.5, dtype=torch.float64)))
                found.append(outside if not np.isfinite(x) else float(x > middle))
        return found[0], found[1]


class _Within(Margin):
    """A margin between two bounds."""

    def __init__(self, inner: Margin, spec: Truncated, shares: tuple[float, float]):
        self.inner, self.spec, self.shares = inner, spec, shares

    def quantile(self, u: np.ndarray) -> np.ndarray:
        low, high = self.shares
        return np.clip(self.inner.quantile(low + u * (high - low)), self.spec.low, self.spec.high)


def margin(what: str, spec: Any) -> Margin:
    """The margin that a covariate's specification means.

    Args:
        what: How messages call it.
        spec: A number, a text, `Normal`, `LogNormal`, a distribution of torch or scipy, `Truncated`, or a dict of
            values or texts with their probabilities.

    Raises:
        DataError: It is none of these, or has values that make no distribution.
    """
    if isinstance(spec, Truncated):
        return _truncated(what, spec)
    if isinstance(spec, Mapping):
        return _levels(what, spec)
    if isinstance(spec, str):
        return _Levels(np.zeros(1), np.ones(1), (check_label(what, spec),))
    if _is_number(spec):
        if not np.isfinite(spec):
            raise DataError(invalid(what, spec, "A covariate is a finite number"))
        return _Levels(np.array([float(spec)]), np.ones(1))
    if isinstance(spec, Gaussian):
        return _gaussian(what, spec)
    if isinstance(spec, torch.distributions.Distribution):
        return _of_torch(what, spec)
    if hasattr(spec, "cdf") and (hasattr(spec, "ppf") or hasattr(spec, "icdf")):
        return _Scipy(spec)
    raise DataError(invalid(what, repr(spec), KINDS))


def check_label(what: str, label: Any) -> str:
    """The label of a level of a text covariate, if it is one; else raise DataError."""
    if not isinstance(label, str) or label.strip() != label or label.lower() in MISSING or not label.isprintable():
        raise DataError(invalid(what, repr(label), "A label is a text that is not empty and does not mean 'missing'"))
    return label


def _truncated(what: str, spec: Truncated) -> Margin:
    inner = margin(what, spec.distribution)
    try:
        shares = inner.interval(float(spec.low), float(spec.high))
    except NotImplementedError:
        got = f"Truncated of {spec.distribution!r}"
        expected = "Only a distribution with a cumulative function can be truncated"
        raise DataError(invalid(what, got, expected, fix="Use dn.Normal, dn.LogNormal or one of scipy.stats")) from None
    if not shares[1] - shares[0] > LEAST_SHARE:
        got = f"bounds {spec.low} and {spec.high}"
        expected = f"They leave a probability of {shares[1] - shares[0]:.2g} of the distribution"
        raise DataError(invalid(what, got, expected, fix="Check the bounds and the distribution's unit"))
    return _Within(inner, spec, shares)


def _levels(what: str, spec: Mapping[Any, Any]) -> Margin:
    texts = [isinstance(key, str) for key in spec]
    if not spec or any(texts) != all(texts) or not all(t or _is_number(k) for t, k in zip(texts, spec, strict=True)):
        raise DataError(invalid(what, dict(spec), "A dict has texts, or numbers, as keys and their probabilities"))
    if not all(_is_number(p) and 0 <= p <= 1 for p in spec.values()):
        bad = next(k for k, p in spec.items() if not (_is_number(p) and 0 <= p <= 1))
        raise DataError(invalid(what, f"{spec[bad]!r} for {bad!r}", "A probability is a number between 0 and 1"))
    probabilities = np.array([float(p) for p in spec.values()])
    if abs(probabilities.sum() - 1.0) > 1e-8:
        got = f"probabilities {', '.join(f'{p:g}' for p in probabilities)} that add up to {probabilities.sum():g}"
        raise DataError(invalid(what, got, "They add up to 1"))
    if all(texts):
        labels = tuple(check_label(what, key) for key in spec)
        return _Levels(np.arange(len(labels), dtype=float), probabilities, labels)
    values = np.array([float(key) for key in spec])
    if not np.isfinite(values).all():
        raise DataError(invalid(what, dict(spec), "A covariate is a finite number"))
    return _Levels(values, probabilities)


def _gaussian(what: str, spec: Gaussian) -> Margin:
    name = type(spec).__name__
    if spec.mean.numel() != 1 or spec.sd.numel() != 1:
        raise DataError(invalid(what, f"{name} of shape {tuple(spec.mean.shape)}", "It has one mean and one sd"))
    mean, sd = float(spec.mean), float(spec.sd)
    if not (np.isfinite(sd) and sd > 0):
        raise DataError(invalid(what, f"{name} with sd {sd:g}", "A standard deviation is positive"))
    if not np.isfinite(mean):
        raise DataError(
            invalid(what, f"{name} whose mean on its scale is {mean:g}", "A median of LogNormal is positive")
        )
    return _Normal(spec, mean, sd)


def _of_torch(what: str, spec: torch.distributions.Distribution) -> Margin:
    if spec.batch_shape.numel() != 1 or spec.event_shape.numel() != 1:
        raise DataError(invalid(what, repr(spec), "A covariate has the distribution of one number"))
    try:
        spec.icdf(torch.tensor(0.5, dtype=torch.float64))
        spec.cdf(spec.icdf(torch.tensor(0.5, dtype=torch.float64)))
    except NotImplementedError:
        expected = "This distribution of torch has no quantile function"
        raise DataError(invalid(what, repr(spec), expected, fix="Use the same one of scipy.stats")) from None
    return _Torch(spec)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
