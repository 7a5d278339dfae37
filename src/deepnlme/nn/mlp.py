"""The multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from deepnlme.nn.activations import ACTIVATIONS, activation
from deepnlme.nn.network import NeuralNetwork, whole
from deepnlme.nn.penalties import Roles

MAX_PER_ROW = 600
"""Weights up to which a network's weights are carried by row, as other parameters are."""
OUTPUT_SPREAD = 0.1
"""Initial weights of the last layer, relative to the usual ones: the function starts near its typical value."""


class MLP(NeuralNetwork):
    """A fully connected network: layers h' = activation(W h / sqrt(n) + b) of n inputs each, and an output layer.

    With the factor 1/sqrt(n) weights of order one make a smooth function whatever the size of a layer, and a penalty of
    given strength means the same for all of them (Neal 1996).

    In a model it is called as ``theta.name(...)`` with as many scalars as it has inputs; vectors (``eta.latent``) count
    with each of their components. With one output it gives a scalar, with several a tuple of scalars.

    Args:
        inputs: Number of inputs.
        hidden: Sizes of the hidden layers; () for a linear function.
        outputs: Number of outputs.
        activation: Of the hidden layers: tanh, softplus, swish, sigmoid, gelu, elu, relu, leaky_relu, exp, identity.
        output_activation: Of the outputs, None for any real number; softplus or exp for positive ones, sigmoid for a
            fraction (of `output_scale`).
        bias: Whether hidden layers have biases.
        output_bias: Whether the output layer has them; as `bias` by default.
        prior: `L2(1.0)`, `L1(1.0)`, a torch distribution of one weight, or None.
        typical: Value of the outputs at which the network starts.
        input_center, input_scale: Inputs enter as (input - center) / scale; found from the data by default.
        output_center, output_scale: Outputs are center + scale * activation; found from the data by default.
        weights: Initial weights [W]; drawn by default.
        seed: Of the initial weights.
        fixed: Keep the weights.

    Raises:
        ModelError: Sizes that are not whole numbers, an unknown activation, units that are not numbers.

    Example:
        >>> MLP(inputs=5, hidden=(7, 7), outputs=1, activation="tanh").size
        106
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int] | int = (6, 6),
        outputs: int = 1,
        *,
        activation: str = "tanh",
        output_activation: str | None = None,
        bias: bool = True,
        output_bias: bool | None = None,
        prior: Any = None,
        typical: Any = None,
        input_center: Any = None,
        input_scale: Any = None,
        output_center: Any = None,
        output_scale: Any = None,
        weights: Any = None,
        seed: int = 0,
        fixed: bool = False,
    ):
        super().__init__(
            inputs,
            outputs,
            output_activation,
            prior,
            typical,
            input_center,
            input_scale,
            output_center,
            output_scale,
            weights,
            seed,
            fixed,
        )
        self.activation = _named(activation)
        sizes = tuple(hidden) if isinstance(hidden, Iterable) else (hidden,)
        self.widths = (self.inputs, *(whole(h, "hidden") for h in sizes), self.outputs)
        last = bool(bias) if output_bias is None else bool(output_bias)
        self.biases = (*(bool(bias) for _ in sizes), last)
        self._checked_weights()

    @property
    def _layers(self) -> list[tuple[int, int, bool]]:
        """Inputs, outputs and whether there is a bias, layer by layer."""
        return list(zip(self.widths[:-1], self.widths[1:], self.biases, strict=True))

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(a * b + (b if bias else 0) for a, b, bias in self._layers)

    @property
    def shared(self) -> bool:  # type: ignore[override]
        """Large networks have one set of weights for all rows."""
        return self.size > MAX_PER_ROW

    @property
    def roles(self) -> Roles:
        """What each weight is."""
        first, last, bias = [], [], []
        for i, (a, b, has) in enumerate(self._layers):
            n = a * b + (b if has else 0)
            first += [i == 0] * n
            last += [i == len(self._layers) - 1] * n
            bias += [False] * (a * b) + [True] * (b if has else 0)
        return Roles(np.array(first), np.array(last), np.array(bias))

    def describe(self) -> str:
        """For example ``MLP 5-7-7-1 tanh``."""
        out = "" if self.output_activation == "identity" else f" -> {self.output_activation}"
        return f"MLP {'-'.join(str(w) for w in self.widths)} {self.activation}{out}"

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Weights N(0, 1), biases N(0, 1/4); the last layer smaller, its biases zero."""
        parts = []
        for i, (a, b, bias) in enumerate(self._layers):
            end = i == len(self._layers) - 1
            parts.append(generator.standard_normal(a * b) * (OUTPUT_SPREAD if end else 1.0))
            if bias:
                parts.append(np.zeros(b) if end else 0.5 * generator.standard_normal(b))
        return np.concatenate(parts)

    def raw(self, x: Tensor, weights: Tensor) -> Tensor:
        """The layers, one product each; with weights by row features stand before time, which multiplies faster."""
        one = weights.shape[0] == weights.shape[1] == 1
        function, start = ACTIVATIONS[self.activation], 0
        x = x if one else x.mT
        for i, (a, b, bias) in enumerate(self._layers):
            matrix = weights[..., 0, start : start + a * b].unflatten(-1, (a, b)) / math.sqrt(a)
            x = x @ matrix[0, 0] if one else matrix.mT @ x
            start += a * b
            if bias:
                own = weights[..., start : start + b]
                x = x + (own if one else own.mT)
                start += b
            if i < len(self._layers) - 1:
                x = function(x)
        return x if one else x.mT


def _named(name: Any) -> str:
    return activation(name, "activation")
