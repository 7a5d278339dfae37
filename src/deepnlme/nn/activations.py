"""Activation functions by name; every one can be differentiated as often as a likelihood needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepnlme.errors import ModelError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "sigmoid": torch.sigmoid,
    "swish": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "elu": torch.nn.functional.elu,
    "relu": torch.relu,
    "leaky_relu": torch.nn.functional.leaky_relu,
    "exp": torch.exp,
}
"""`relu`, `leaky_relu` and `elu` have kinks: fits with them end less exactly, smooth ones are better here."""

POSITIVE = {"softplus": math.log(2.0), "sigmoid": 0.5, "exp": 1.0}
"""Activations with positive values, and their value at zero."""


def activation(name: Any, argument: str) -> str:
    """The name, checked; None means identity.

    Raises:
        ModelError: There is no such activation.
    """
    if name is None:
        return "identity"
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ModelError(
            f"Invalid `{argument}`: got {name!r}, expected one of {', '.join(ACTIVATIONS)}. "
            "For any other function wrap a torch module: dn.Network(module, ...)."
        )
    return name
