"""Fixed effects: what a population parameter is, its starting value, its range and its prior."""

from __future__ import annotations

import copy
import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepnlme.errors import ModelError


def _unchecked(prior: torch.distributions.Distribution) -> torch.distributions.Distribution:
    """A copy that gives a number instead of raising where a value is outside the support."""
    new = copy.copy(prior)
    new.__dict__["_validate_args"] = False
    if isinstance(new, torch.distributions.TransformedDistribution):
        new.base_dist = _unchecked(new.base_dist)
    return new


@dataclass(frozen=True)
class Parameter(ABC):
    """A population parameter (theta) with its initial value.

    Use one of the final classes `Real`, `Positive`, `Bounded`.

    Args:
        value: Initial value on the natural scale, and the value itself if `fixed`.
        unit: Shown in tables and on axes.
        fixed: Keep the value; not estimated.
        prior: Anything with ``log_prob(value)`` (a torch distribution), a density of the natural value; makes the
            fit a maximum a posteriori fit.
    """

    value: float
    unit: str = ""
    fixed: bool = False
    prior: Any = None

    def __post_init__(self) -> None:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ModelError(
                f"Invalid value of a {type(self).__name__} parameter: got {value!r}, expected a finite number."
            )
        object.__setattr__(self, "value", float(value))
        if self.prior is not None and not hasattr(self.prior, "log_prob"):
            raise ModelError(
                f"Invalid prior: got {self.prior!r}, expected an object with log_prob(value). "
                "Use for example torch.distributions.Normal(1.0, 0.5)."
            )
        if not self.fixed and self.prior is not None:
            found = self.log_prior(torch.tensor(self.value, dtype=torch.float64))
            if found.numel() != 1 or not bool(torch.isfinite(found).all()):
                raise ModelError(
                    f"Invalid prior of a {type(self).__name__} parameter: got log density {found.tolist()} at the "
                    f"initial value {self.value:g}, expected one finite number. Start where the prior has a density."
                )
        if not self.contains(self.value):
            raise ModelError(
                f"Invalid value of a {type(self).__name__} parameter: got {self.value:g}, expected {self.range}."
            )

    def log_prior(self, value: Tensor) -> Tensor:
        """Log prior density of natural values; not finite outside the prior's support, whose check is switched off."""
        prior = self.prior
        if isinstance(prior, torch.distributions.Distribution):
            prior = _unchecked(prior)
        return torch.as_tensor(prior.log_prob(value), dtype=value.dtype, device=value.device) + 0.0 * value

    @property
    @abstractmethod
    def range(self) -> str:
        """The admissible values, in words."""

    @abstractmethod
    def contains(self, value: float) -> bool:
        """Whether a value is admissible."""

    @abstractmethod
    def to_free(self, value: float) -> float:
        """Natural value -> the unconstrained number that is optimised."""

    @abstractmethod
    def to_natural(self, free: Tensor) -> Tensor:
        """Unconstrained number -> natural value, differentiable."""


@dataclass(frozen=True)
class Real(Parameter):
    """Any real number; optimised in units of its initial magnitude."""

    @property
    def range(self) -> str:
        """Any finite number."""
        return "any finite number"

    @property
    def scale(self) -> float:
        """|initial value|, or 1 where that is zero."""
        return abs(self.value) or 1.0

    def contains(self, value: float) -> bool:
        """Every finite number is admissible."""
        return math.isfinite(value)

    def to_free(self, value: float) -> float:
        """value / scale."""
        return value / self.scale

    def to_natural(self, free: Tensor) -> Tensor:
        """free * scale."""
        return free * self.scale


@dataclass(frozen=True)
class Positive(Parameter):
    """A positive number; optimised as its logarithm."""

    @property
    def range(self) -> str:
        """Positive numbers."""
        return "a positive number"

    def contains(self, value: float) -> bool:
        """Positive and finite."""
        return math.isfinite(value) and value > 0

    def to_free(self, value: float) -> float:
        """log(value)."""
        return math.log(value)

    def to_natural(self, free: Tensor) -> Tensor:
        """exp(free)."""
        return torch.exp(free)


@dataclass(frozen=True)
class Bounded(Parameter):
    """A number strictly between `low` and `high`; optimised as the logit of its relative position."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ModelError(f"Invalid bounds: got low={self.low}, high={self.high}, expected finite low < high.")
        super().__post_init__()

    @property
    def range(self) -> str:
        """The open interval in words."""
        return f"a number strictly between {self.low:g} and {self.high:g}"

    def contains(self, value: float) -> bool:
        """Strictly inside the bounds."""
        return self.low < value < self.high

    def to_free(self, value: float) -> float:
        """Logit of (value - low)/(high - low)."""
        share = (value - self.low) / (self.high - self.low)
        return math.log(share / (1.0 - share))

    def to_natural(self, free: Tensor) -> Tensor:
        """Low + (high - low) * sigmoid(free)."""
        return self.low + (self.high - self.low) * torch.sigmoid(free)
