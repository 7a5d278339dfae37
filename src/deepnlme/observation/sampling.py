"""Draws from what `observe` returns."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from deepnlme.axes import SCALAR_NDIM
from deepnlme.errors import ModelError
from deepnlme.observation.likelihoods import Gaussian

FAR = 30.0
"""Standard deviations below zero beyond which Phi has no digits left."""


def sample(distribution: Any, shape: tuple[int, ...], copies: int = 1) -> Tensor:
    """Independent draws for every element of a shape that the distribution broadcasts to, [copies, *shape].

    A distribution whose parameters are the same along an axis is drawn from once for each element of the axis.
    Where a parameter is NaN, so are the draws. They come from torch's generator.

    Args:
        distribution: With ``sample(sample_shape)``, as torch's distributions have.
        shape: The shape, at least as large as the distribution's own.
        copies: Draws for each element.

    Raises:
        ModelError: It has no ``sample``.
    """
    distribution, lost = _without_nan(distribution)
    try:
        own = tuple(getattr(distribution, "batch_shape", None) or distribution.sample().shape)
        own = (1,) * (len(shape) - len(own)) + own
        missing = tuple(n if m == 1 else 1 for n, m in zip(shape, own, strict=True))
        drawn = distribution.sample((copies, *missing))
    except (AttributeError, NotImplementedError):
        raise ModelError(
            f"Invalid `residual`: got True, but {type(distribution).__name__} has no `sample`. "
            "Use residual=False for the individual curves alone, or give it sample(sample_shape)."
        ) from None
    # [copies, missing of every axis, own of every axis] -> the two of an axis side by side -> one
    n = len(shape)
    whole = drawn.to(torch.float64)
    whole = (whole if lost is None else whole.masked_fill(lost, torch.nan)).reshape(copies, *missing, *own)
    order = [0, *(axis for i in range(n) for axis in (1 + i, 1 + n + i))]
    return whole.permute(order).reshape(copies, *shape)


def normal_sample(distribution: Gaussian, mean: Tensor, sd: Tensor, standard: Tensor) -> Tensor:
    """Observations made of standard normal numbers: mean + sd e on the scale where they are normal.

    Under M4 an observation is positive: e is carried to the normal distribution above zero that the likelihood has,
    z = -Phi^-1(Phi(-e) Phi(mean/sd)).

    Args:
        distribution: Whose scale and treatment of limits hold.
        mean: Its mean, arranged as the numbers are.
        sd: Its standard deviation, likewise.
        standard: The numbers.
    """
    if distribution.blq == "M4":
        at_zero = mean / sd
        above = torch.special.log_ndtr(-standard)
        far = -at_zero - above / at_zero.abs()  # there the tail is exponential
        near = -torch.special.ndtri(torch.exp(above + torch.special.log_ndtr(at_zero)))
        standard = torch.where(at_zero < -FAR, far, near)
    return distribution.natural(mean + sd * standard)


def _without_nan(distribution: Any) -> tuple[Any, Tensor | None]:
    """The distribution with another number for every parameter that is NaN, and where they were; torch refuses them."""
    size = len(getattr(distribution, "batch_shape", (1,) * SCALAR_NDIM))
    replaced, lost = {}, None
    for name, value in getattr(distribution, "__dict__", {}).items():
        if isinstance(value, Tensor) and bool((nan := torch.isnan(value)).any()):
            replaced[name] = value.masked_fill(nan, 0.5)
            nan = nan.flatten(size).any(-1) if nan.dim() > size else nan
            lost = nan if lost is None else lost | nan
    if lost is None:
        return distribution, None
    clean = copy.copy(distribution)
    vars(clean).update(replaced)
    return clean, lost
