"""A network together with its weights, as a model sees it: ``theta.response(...)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deepnlme.axes import SCALAR_NDIM
from deepnlme.errors import ModelError
from deepnlme.nn.network import NeuralNetwork


@dataclass(frozen=True)
class BoundNetwork:
    """A network with weights; call it with scalars and vectors.

    Attributes:
        name: Its name in the model.
        network: The declaration.
        weights: [K, R, 1, W], or [1, 1, 1, W] if all rows share them.
        checked: Look at every value that comes out (used before a fit).
    """

    name: str
    network: NeuralNetwork
    weights: Tensor
    checked: bool = False

    @property
    def shape(self) -> torch.Size:
        """Shape of the weights; the first two axes are direction and row."""
        return self.weights.shape

    @property
    def requires_grad(self) -> bool:
        """Whether the weights are differentiated."""
        return self.weights.requires_grad

    def map(self, function: Callable[[Tensor], Tensor]) -> BoundNetwork:
        """The same with `function` applied to the weights."""
        return replace(self, weights=function(self.weights))

    def __call__(self, *inputs: Any) -> Any:
        """The output [K, R, T], or a tuple of them.

        Args:
            *inputs: Scalars, or vectors whose components are inputs; numbers are constants.

        Raises:
            ModelError: Another number of inputs than declared, inputs that are not real numbers, values that are not
                finite although all inputs are.
        """
        y = self.vector(*inputs)
        return y[..., 0] if self.network.outputs == 1 else y.unbind(-1)

    def vector(self, *inputs: Any) -> Tensor:
        """All outputs as a vector, [K, R, T, outputs]."""
        x = self._stacked(inputs)
        y = self.network.values(x, self.weights)
        if self.checked:
            self._check(x, y)
        return y

    def _stacked(self, inputs: tuple[Any, ...]) -> Tensor:
        parts = [self._input(i, value) for i, value in enumerate(inputs)]
        found = sum(p.shape[-1] for p in parts)
        if found != self.network.inputs:
            shown = ", ".join("1" if p.shape[-1] == 1 else f"a vector of {p.shape[-1]}" for p in parts)
            raise ModelError(
                f"Invalid call of the network `{self.name}`: got {found} inputs ({shown or 'none'}), expected "
                f"{self.network.inputs}. Correct the call, or declare "
                f"{type(self.network).__name__}(inputs={found}, ...)."
            )
        self.network.told(tuple(p.shape[-1] for p in parts))
        lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
        return torch.cat([p.expand(*lead, p.shape[-1]) for p in parts], -1)

    def _input(self, position: int, value: Any) -> Tensor:
        """One input with its components on the last axis."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self.weights.new_full((1, 1, 1, 1), float(value))
        where = f"input {position + 1} of the network `{self.name}`"
        if not isinstance(value, Tensor):
            raise ModelError(
                f"Invalid {where}: got {type(value).__name__}, expected a batch of scalars such as x.central or "
                "theta.ka, a vector such as eta.latent, or a number."
            )
        if not value.is_floating_point():
            raise ModelError(f"Invalid {where}: got {value.dtype}, expected real numbers. Use .double() on it.")
        if value.dim() not in (SCALAR_NDIM, SCALAR_NDIM + 1):
            raise ModelError(
                f"Invalid {where}: got shape {tuple(value.shape)}, expected a batch of scalars or a vector as they "
                "come from theta, eta, cov, p, t and x."
            )
        return value.unsqueeze(-1) if value.dim() == SCALAR_NDIM else value

    def _check(self, x: Tensor, y: Tensor) -> None:
        wrong = ~torch.isfinite(y).all(-1) & torch.isfinite(x).all(-1)
        if bool(wrong.any()):
            at = tuple(int(i) for i in torch.nonzero(wrong)[0])
            shown = ", ".join(f"{float(v):g}" for v in x[at])
            raise ModelError(
                f"Invalid network `{self.name}`: it returned {[float(v) for v in y[at]]} for the inputs ({shown}), "
                "expected finite numbers. Look for log, sqrt or division in it, or set its input_scale."
            )
