"""Draws from what `observe` returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepnlme.errors import ModelError


def sample(distribution: Any, shape: tuple[int, ...], copies: int = 1) -> Tensor:
    """Independent draws for every element of a shape that the distribution broadcasts to, [copies, *shape].

    A distribution whose parameters are the same along an axis is drawn from once for each element of the axis.
    The draws come from torch's generator.

    Args:
        distribution: With ``sample(sample_shape)``, as torch's distributions have.
        shape: The shape, at least as large as the distribution's own.
        copies: Draws for each element.

    Raises:
        ModelError: It has no ``sample``.
    """
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
    whole = drawn.to(torch.float64).reshape(copies, *missing, *own)
    order = [0, *(axis for i in range(n) for axis in (1 + i, 1 + n + i))]
    return whole.permute(order).reshape(copies, *shape)
