"""A network after the fit: a function of numbers and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deepnlme.errors import ModelError
from deepnlme.joint.calling import model_arithmetic
from deepnlme.nn import NeuralNetwork
from deepnlme.nn.penalties import Penalty


@dataclass(frozen=True)
class FittedNetwork:
    """A network with fitted weights; call it as the model does, with numbers or numpy arrays that broadcast.

    Attributes:
        name: Its name in the model.
        network: The declaration, with the units of inputs and outputs that were used.
        weights: [W].
        given: Inputs that are fixed; they come last.
    """

    name: str
    network: NeuralNetwork
    weights: np.ndarray
    given: tuple[float, ...] = ()

    @property
    def inputs(self) -> int:
        """Number of inputs that are left."""
        return self.network.inputs - len(self.given)

    def fix(self, *values: Any) -> FittedNetwork:
        """The function of the first inputs that is left when the last ones have these values.

        Args:
            *values: Numbers or one-dimensional arrays, such as one subject's random effects.

        Raises:
            ModelError: More values than inputs.

        Example:
            ``curve = fit.networks["response"].fix(fit.individual(7)["z"]); curve(cp, r)``
        """
        flat = tuple(float(v) for value in values for v in np.ravel(np.asarray(value, dtype=float)))
        if len(flat) > self.inputs:
            raise ModelError(
                f"Invalid `fix` of the network `{self.name}`: got {len(flat)} values, it has {self.inputs} inputs."
            )
        return FittedNetwork(self.name, self.network, self.weights, (*flat, *self.given))

    def __call__(self, *inputs: Any) -> Any:
        """The output, shaped as the inputs are together, or a tuple of outputs.

        Args:
            *inputs: One number or array for every input; arrays broadcast. Where there are fewer, the last axis of the
                last one holds the rest (``network(cp, r, z)`` with z [3]).

        Raises:
            ModelError: Another number of inputs.
        """
        arrays = [np.asarray(value, dtype=float) for value in inputs]
        if (
            arrays
            and len(arrays) < self.inputs
            and arrays[-1].ndim
            and len(arrays) - 1 + arrays[-1].shape[-1] == self.inputs
        ):
            arrays = [*arrays[:-1], *np.moveaxis(arrays[-1], -1, 0)]
        if len(arrays) != self.inputs:
            raise ModelError(
                f"Invalid call of the network `{self.name}`: got {len(arrays)} inputs, expected {self.inputs}"
                + (f" besides the {len(self.given)} that are fixed." if self.given else ".")
            )
        shape = np.broadcast_shapes(*(a.shape for a in arrays)) if arrays else ()
        columns = [np.broadcast_to(a, shape).ravel() for a in arrays]
        count = int(np.prod(shape))
        columns += [np.full(count, value) for value in self.given]
        x = torch.tensor(np.stack(columns, -1)).reshape(1, 1, count, len(columns))
        with torch.no_grad(), model_arithmetic():
            y = self.network.values(x, torch.tensor(self.weights).reshape(1, 1, 1, -1))
        out = [y[0, 0, :, m].numpy().reshape(shape) for m in range(self.network.outputs)]
        out = [float(v) if v.ndim == 0 else v for v in out]
        return out[0] if len(out) == 1 else tuple(out)

    def __repr__(self) -> str:
        fixed = f", {len(self.given)} inputs fixed" if self.given else ""
        return f"<{self.network.describe()} `{self.name}`{fixed}>"


def summary(networks: Mapping[str, NeuralNetwork], weights: Mapping[str, np.ndarray]) -> str:
    """A line per network: architecture, number of weights, their norm, what they cost."""
    lines = []
    for name, net in networks.items():
        line = f"{name}: {net.describe()}, {net.size} weights{' FIX' if net.fixed else ''}"
        line += f", norm {np.linalg.norm(weights[name]):.3g}"
        if net.prior is not None and not net.fixed:
            cost = -2.0 * float(net.log_prior(torch.tensor(weights[name])))
            line += f", penalty {cost:.4g} ({penalty_name(net)})"
        lines.append(line)
    return "\n".join(lines)


def penalty_name(network: NeuralNetwork) -> str:
    """The prior of a network in few characters."""
    prior, around = network.prior, "" if network.center is None else " around given weights"
    if isinstance(prior, Penalty):
        off = "".join(f", {n}=False" for n in ("input", "output", "bias") if not getattr(prior, n))
        return f"{type(prior).__name__}({prior.weight:g}{off}){around}"
    return f"{type(prior).__name__}{around}"
