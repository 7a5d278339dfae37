"""Priors of the weights of a network: what keeps it from following the noise."""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepnlme.errors import ModelError


@dataclass(frozen=True)
class Penalty(ABC):
    """A prior of the weights, up to a constant.

    Args:
        weight: Its strength.
        input, output: Whether weights of the first and of the last layer are penalised.
        bias: Whether biases are.
    """

    weight: float = 1.0
    input: bool = True
    output: bool = True
    bias: bool = True

    def __post_init__(self) -> None:
        weight = self.weight
        number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise ModelError(
                f"Invalid weight of {type(self).__name__}: got {weight!r}, expected a number of at least 0."
            )
        for name in ("input", "output", "bias"):
            if not isinstance(getattr(self, name), bool):
                raise ModelError(f"Invalid `{name}`: got {getattr(self, name)!r}, expected True or False.")

    def chosen(self, roles: Roles) -> np.ndarray:
        """Which weights are penalised, [W] of 0 and 1."""
        keep = np.ones(len(roles.first), dtype=bool)
        if not self.input:
            keep &= ~(roles.first & ~roles.bias)
        if not self.output:
            keep &= ~(roles.last & ~roles.bias)
        if not self.bias:
            keep &= ~roles.bias
        return keep.astype(float)

    def log_density(self, weights: Tensor, roles: Roles) -> Tensor:
        """Log prior density [...] of weights [..., W], up to a constant."""
        chosen = torch.as_tensor(self.chosen(roles), dtype=weights.dtype, device=weights.device)
        return -self.weight * (self.cost(weights) * chosen).sum(-1)

    @abstractmethod
    def cost(self, weights: Tensor) -> Tensor:
        """What one weight costs."""


@dataclass(frozen=True)
class Roles:
    """What each weight of a network is: of the first layer, of the last one, a bias; each [W]."""

    first: np.ndarray
    last: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class L2(Penalty):
    """-log p(w) = weight/2 sum w^2: every weight is N(0, 1/weight). Small weights, a smooth function.

    Example:
        >>> L2(2.0, bias=False)
        L2(weight=2.0, input=True, output=True, bias=False)
    """

    def cost(self, weights: Tensor) -> Tensor:
        """w^2 / 2."""
        return 0.5 * weights * weights


@dataclass(frozen=True)
class L1(Penalty):
    """-log p(w) = weight sum |w|: every weight is Laplace(0, 1/weight). Many weights near zero.

    The corner of |w| is rounded, sqrt(w^2 + s^2) - s with s = 1e-3, so that exact second derivatives exist.
    """

    ROUNDING = 1e-3

    def cost(self, weights: Tensor) -> Tensor:
        """|w|, rounded at zero."""
        return torch.sqrt(weights * weights + self.ROUNDING**2) - self.ROUNDING
