"""The vector field of a model's ``dynamics`` method, on stacked states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.errors import ModelError


@dataclass(frozen=True)
class VectorField:
    """dx/dt = f(theta, p, t, x).

    Attributes:
        dynamics: The model's method, which returns derivatives by name.
        theta: Fixed effects, each [K, R, 1].
        compartments: Names of the states, in their order.
    """

    dynamics: Any
    theta: Names
    compartments: tuple[str, ...]

    def __call__(self, p: Names, t: Tensor, x: Tensor, theta: Names | None = None) -> Tensor:
        """Derivatives at one place in time, x [K, R, n] with t [K, R, 1], or at M of them, [K, R, M, n] and [K, R, M].

        Raises:
            ModelError: Derivatives of other states than those of the first call.
        """
        many = x.dim() == 4
        parts = x.unbind(-1) if many else x.split(1, -1)
        states = Names("x", dict(zip(self.compartments, parts, strict=True)))
        rates = self.dynamics(self.theta if theta is None else theta, p, t, states)
        if rates.keys() != set(self.compartments):
            raise ModelError(
                f"Invalid `dynamics`: it returned derivatives of {', '.join(rates)}, "
                f"expected {', '.join(self.compartments)}."
            )
        shape = parts[0].shape
        slopes = [rates[name] for name in self.compartments]
        slopes = [s if isinstance(s, Tensor) else torch.as_tensor(s, dtype=x.dtype, device=x.device) for s in slopes]
        if any(s.shape != shape for s in slopes):
            shape = np.broadcast_shapes(shape, *(s.shape for s in slopes))
            slopes = [s.expand(shape) for s in slopes]
        return torch.stack(slopes, -1) if many else torch.cat(slopes, -1)
