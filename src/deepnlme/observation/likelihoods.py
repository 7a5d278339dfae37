"""What `observe` returns: the distribution of an observation given the individual prediction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepnlme.errors import ModelError

BLQ_METHODS = ("M1", "M3", "M4")


class Gaussian(ABC):
    """Abstract: a distribution that is normal, N(mean, sd^2), on some scale of the observation.

    These are the ones that FO and FOCE can linearise. `mean` and `sd` are on that scale; `parts` are the standard
    deviations of the independent parts of the residual, whose squares add up to sd^2.
    """

    mean: Tensor
    sd: Tensor
    blq: str
    parts: tuple[Tensor, ...]

    @abstractmethod
    def scale(self, y: Tensor) -> Tensor:
        """The observation on the scale where it is normal."""

    @abstractmethod
    def log_jacobian(self, y: Tensor) -> Tensor:
        """log |d scale / d y|."""

    @abstractmethod
    def natural(self, value: Tensor) -> Tensor:
        """Back to the scale of the data."""

    @abstractmethod
    def support(self) -> tuple[float, str]:
        """Lower bound of admissible observations, and its name for messages."""


def _tensors(*values: Any) -> list[Tensor]:
    """Everything as tensors of one shape."""
    first = next((v for v in values if isinstance(v, Tensor)), None)
    if first is None:
        return [torch.as_tensor(v, dtype=torch.float64).reshape(1, 1, 1) for v in values]
    return list(torch.broadcast_tensors(*[torch.as_tensor(v, dtype=first.dtype, device=first.device) for v in values]))


def _parts(mean: Tensor, sd: Any, whole: Tensor) -> tuple[Tensor, ...]:
    """What `combined2` says about the parts of its result; otherwise the residual is one whole."""
    parts = getattr(sd, "parts", None)
    if parts is None:
        return (whole,)
    return tuple(torch.as_tensor(v, dtype=mean.dtype, device=mean.device).expand_as(mean) for v in parts)


def _check_blq(blq: str) -> None:
    if blq not in BLQ_METHODS:
        raise ModelError(f"Invalid `blq`: got {blq!r}, expected one of {', '.join(BLQ_METHODS)}.")


@dataclass(frozen=True, init=False)
class Normal(Gaussian):
    """y ~ N(mean, sd^2).

    Args:
        mean: Individual prediction f [unit of the data].
        sd: Residual standard deviation: additive a, or `proportional`, `combined1`, `combined2`, `power` of f.
        blq: What to do with records that have CENS: "M1" leaves them out, "M3" (default) uses the probability of
            being below the limit, "M4" does so given that the observation is positive (Beal 2001).
    """

    mean: Tensor
    sd: Tensor
    blq: str = "M3"
    parts: tuple[Tensor, ...] = ()

    def __init__(self, mean: Any, sd: Any, blq: str = "M3"):
        _check_blq(blq)
        mean, whole = _tensors(mean, sd)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "sd", whole)
        object.__setattr__(self, "blq", blq)
        object.__setattr__(self, "parts", _parts(mean, sd, whole))

    def scale(self, y: Tensor) -> Tensor:
        """Y itself."""
        return y

    def log_jacobian(self, y: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(y)

    def natural(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def support(self) -> tuple[float, str]:
        """Every number."""
        return -torch.inf, "Normal"


@dataclass(frozen=True, init=False)
class LogNormal(Gaussian):
    """log y ~ N(log median, sd^2); the density includes the Jacobian 1/y.

    Args:
        median: Individual prediction f > 0 [unit of the data].
        sd: Standard deviation of log y.
        blq: As in `Normal` ("M4" is the same as "M3": y is always positive).
    """

    mean: Tensor
    sd: Tensor
    blq: str = "M3"
    parts: tuple[Tensor, ...] = ()

    def __init__(self, median: Any, sd: Any, blq: str = "M3"):
        _check_blq(blq)
        median, whole = _tensors(median, sd)
        object.__setattr__(self, "mean", torch.log(median))
        object.__setattr__(self, "sd", whole)
        object.__setattr__(self, "parts", _parts(median, sd, whole))
        object.__setattr__(self, "blq", "M3" if blq == "M4" else blq)

    def scale(self, y: Tensor) -> Tensor:
        """Log y."""
        return torch.log(y)

    def log_jacobian(self, y: Tensor) -> Tensor:
        """-log y."""
        return -torch.log(y)

    def natural(self, value: Tensor) -> Tensor:
        """Exp."""
        return torch.exp(value)

    def support(self) -> tuple[float, str]:
        """Positive numbers."""
        return 0.0, "LogNormal"


class StudentT(torch.distributions.StudentT):
    """y = mean + scale * t, with t of Student's distribution; robust against outliers. Needs Laplace.

    Args:
        mean: Individual prediction f [unit of the data].
        scale: Scale [unit of the data] (the standard deviation is scale sqrt(df/(df-2))).
        df: Degrees of freedom.
    """

    def __init__(self, mean: Any, scale: Any, df: Any):
        location, spread, freedom = _tensors(mean, scale, df)
        super().__init__(freedom, location, spread, validate_args=False)


def proportional(f: Tensor, b: Any) -> Tensor:
    """sd = b |f|."""
    return b * torch.abs(f)


def combined1(f: Tensor, a: Any, b: Any) -> Tensor:
    """sd = a + b |f|: standard deviations add (Monolix's combined1)."""
    return a + b * torch.abs(f)


def combined2(f: Tensor, a: Any, b: Any) -> Tensor:
    """sd = sqrt(a^2 + b^2 f^2): variances add (NONMEM's y = f + f eps1 + eps2, Monolix's combined2)."""
    sd = torch.sqrt(a * a + (b * f) ** 2)
    vars(sd)["parts"] = (a, b * f)
    return sd


def power(f: Tensor, b: Any, c: Any) -> Tensor:
    """sd = b |f|^c."""
    return b * torch.abs(f) ** c
