"""A network that says nothing and listens: how the units of the others are found."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deepnlme.nn.network import NeuralNetwork
from deepnlme.nn.penalties import Roles


class Silent(NeuralNetwork):
    """A network that returns its typical value whatever its inputs, and notes what it was given.

    Attributes:
        seen: Inputs [K, R, T, inputs] of every call.
        sizes: How many inputs each argument of a call stands for: 1, or the components of a vector.
        pushes: What was added to the outputs of every call: zeros, to be differentiated.
    """

    shared = True
    size = 0  # type: ignore[assignment]

    def __init__(self, network: NeuralNetwork):
        self.inner = network
        self.inputs, self.outputs = network.inputs, network.outputs
        self.output_activation, self.scaling = network.output_activation, network.scaling
        self.prior, self.fixed, self.weights, self.seed = None, True, None, 0
        self.seen: list[Tensor] = []
        self.sizes: tuple[int, ...] = (1,) * network.inputs
        self.pushes: list[Tensor] = []

    @property
    def roles(self) -> Roles:
        """It has no weights."""
        return Roles(*(np.zeros(0, dtype=bool) for _ in range(3)))

    def describe(self) -> str:
        """As the network that it stands for."""
        return self.inner.describe()

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """It has no weights."""
        del generator
        return np.zeros(0)

    def raw(self, x: Tensor, weights: Tensor) -> Tensor:
        """Zero."""
        del weights
        return x.new_zeros(*x.shape[:-1], self.outputs)

    def told(self, sizes: tuple[int, ...]) -> None:
        """Note the sizes."""
        self.sizes = sizes

    def values(self, x: Tensor, weights: Tensor) -> Tensor:
        """The typical value."""
        self.seen.append(x.detach())
        self.pushes.append(x.new_zeros(*x.shape[:-1], self.outputs).requires_grad_())
        return super().values(x.detach(), weights) + self.pushes[-1]
