"""The networks that attribution learns: each output sees some of the inputs, the others being held at their center."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from deepnlme.nn import Network, NeuralNetwork
from deepnlme.nn.penalties import Roles

HIDDEN = 4
"""Hidden units of the network that is used where none is given."""
PENALTIES = (8.0, 30.0)
"""Strengths of L2 that are tried for it."""


class Curved(nn.Module):
    """y = A x + a + B tanh(C x + c), with A and a zero at first: a penalty can remove the curved part alone."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        first = torch.randn(HIDDEN, inputs, generator=generator, dtype=torch.float64) / math.sqrt(inputs)
        last = 0.3 * torch.randn(outputs, HIDDEN, generator=generator, dtype=torch.float64) / math.sqrt(HIDDEN)
        self.straight = nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros(outputs, dtype=torch.float64))
        self.first, self.last = nn.Parameter(first), nn.Parameter(last)
        self.threshold = nn.Parameter(torch.zeros(HIDDEN, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [N, outputs] of inputs [N, inputs]."""
        hidden = torch.tanh(x @ self.first.T + self.threshold)
        return x @ self.straight.T + self.offset + hidden @ self.last.T


def default_network(inputs: int, outputs: int) -> NeuralNetwork:
    """The network that is used where none is given."""
    return Network(Curved(inputs, outputs), inputs=inputs, outputs=outputs)


class Masked(NeuralNetwork):
    """A network of which each output sees some of the inputs, the others being held at their center.

    Args:
        network: The network; its weights are shared by all outputs.
        seen: [outputs, inputs] which inputs an output sees.
    """

    shared = True

    def __init__(self, network: NeuralNetwork, seen: np.ndarray):
        s, n = network.scaling, network
        units = s.input_center, s.input_scale, s.output_center, s.output_scale
        super().__init__(n.inputs, n.outputs, n.output_activation, n.prior, None, *units, n.weights, n.seed, n.fixed)
        self.network, self.seen, self.center = network, seen, network.center
        distinct, which = np.unique(seen, axis=0, return_inverse=True)
        self._distinct, self._which = torch.tensor(distinct.astype(float)), which.reshape(-1)

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.network.size

    @property
    def roles(self) -> Roles:
        """What each weight is."""
        return self.network.roles

    def describe(self) -> str:
        """As the network."""
        return self.network.describe()

    def initial(self, generator: np.random.Generator | None = None, number: int = 0) -> np.ndarray:
        """Initial weights: its own, or those of the network."""
        if self.weights is not None and generator is None:
            return self.weights.copy()
        return self.network.initial(generator, number)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """As the network."""
        return self.network.draw(generator)

    def raw(self, x: Tensor, weights: Tensor) -> Tensor:
        """The network once for every set of inputs that outputs see."""
        found = [self.network.raw(x * seen, weights) for seen in self._distinct]
        if len(found) == 1:
            return found[0]
        return torch.stack([found[which][..., i] for i, which in enumerate(self._which)], -1)

    def only(self, output: int) -> Masked:
        """The same weights and units, with all outputs seeing what one sees: its value costs one pass."""
        new = Masked(self.network, np.broadcast_to(self.seen[output], self.seen.shape))
        new.scaling, new.weights = self.scaling, self.weights
        return new
