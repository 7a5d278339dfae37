"""Any torch module as a network of a model."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from deepnlme.errors import ModelError
from deepnlme.nn.network import NeuralNetwork
from deepnlme.nn.penalties import Roles


class Network(NeuralNetwork):
    """Any `torch.nn.Module` that maps [batch, inputs] to [batch, outputs].

    The module is a declaration too: a copy of its parameters is the start, they are fitted in float64 and never written
    back. Layers with random or running state (dropout, batch normalisation) are used as in evaluation.

    Args:
        module: The module.
        inputs, outputs: Their numbers.
        seed: Of the weights of further starts: the module's own initial weights are the first.

    The other arguments are those of `MLP`.

    Raises:
        ModelError: Not a module, a module without weights, weights that are no floating-point numbers.

    Example:
        >>> layers = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> Network(layers, inputs=2).size
        33
    """

    shared = True

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: int,
        outputs: int = 1,
        *,
        output_activation: str | None = None,
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
        if isinstance(module, type) or not isinstance(module, torch.nn.Module):
            raise ModelError(f"Invalid `module`: got {module!r}, expected a torch.nn.Module, an instance.")
        parameters = dict(module.named_parameters())
        if not parameters:
            raise ModelError(f"Invalid `module`: {type(module).__name__} has no parameters. Write it as a function.")
        for name, value in parameters.items():
            if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise ModelError(f"Invalid `module`: its parameter {name} ({value.dtype}) must be finite real numbers.")
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
        self.module = module
        self._evaluated = copy.deepcopy(module).eval()
        self.shapes = {name: tuple(value.shape) for name, value in parameters.items()}
        self.counts = {name: value.numel() for name, value in parameters.items()}
        self._own = np.concatenate([v.detach().double().cpu().numpy().ravel() for v in parameters.values()])
        self._buffers = {
            name: value.double() if value.is_floating_point() else value for name, value in module.named_buffers()
        }
        self._checked_weights()

    @property
    def size(self) -> int:
        """Number of weights."""
        return len(self._own)

    @property
    def roles(self) -> Roles:
        """First and last are the first and last parameters that are matrices; vectors are biases."""
        matrices = [name for name, shape in self.shapes.items() if len(shape) > 1]
        first, last, bias = [], [], []
        for name, shape in self.shapes.items():
            n = self.counts[name]
            first += [bool(matrices) and name == matrices[0]] * n
            last += [bool(matrices) and name == matrices[-1]] * n
            bias += [len(shape) < 2] * n
        return Roles(np.array(first), np.array(last), np.array(bias))

    def describe(self) -> str:
        """The module's name with inputs and outputs."""
        return f"{type(self.module).__name__} {self.inputs} -> {self.outputs}"

    def initial(self, generator: np.random.Generator | None = None, number: int = 0) -> np.ndarray:
        """The module's own weights, or drawn ones."""
        if generator is None and self.weights is None:
            return self._own.copy()
        return super().initial(generator, number)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Matrices N(0, 1/fan-in); vectors as the module has them."""
        parts, start = [], 0
        for name, shape in self.shapes.items():
            own = self._own[start : start + self.counts[name]]
            start += self.counts[name]
            fan = math.prod(shape[1:])
            parts.append(generator.standard_normal(len(own)) / math.sqrt(fan) if len(shape) > 1 else own)
        return np.concatenate(parts)

    def raw(self, x: Tensor, weights: Tensor) -> Tensor:
        """The module on all points as one batch."""
        flat = weights[0, 0, 0]
        parts = flat.split(list(self.counts.values()))
        state: dict[str, Tensor] = {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        state |= {name: value.to(x.device) for name, value in self._buffers.items()}
        y = functional_call(self._evaluated, state, (x.reshape(-1, self.inputs),))
        if not isinstance(y, Tensor) or y.shape != (x[..., 0].numel(), self.outputs):
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ModelError(
                f"Invalid network: {type(self.module).__name__} gave {got} for inputs "
                f"{(x[..., 0].numel(), self.inputs)}, expected {(x[..., 0].numel(), self.outputs)}."
            )
        return y.reshape(*x.shape[:-1], self.outputs)
