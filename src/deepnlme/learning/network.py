"""Feedforward networks to learn with, and the baselines that go by a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from deepnlme.errors import ModelError, invalid
from deepnlme.nn.activations import ACTIVATIONS
from deepnlme.nn.activations import activation as checked_activation

BASELINES = ("linear", "logistic", "perceptron")
NORMALISATIONS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class FeedForward(nn.Module):
    """Layers of h' = dropout(activation(normalisation(W h + b))), and a linear output.

    Made by `deepnlme.feedforward`, which describes the arguments.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        activation: str,
        dropout: float,
        normalisation: str | None,
        skip: bool,
    ) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {
            "inputs": inputs,
            "hidden": list(hidden),
            "outputs": outputs,
            "activation": activation,
            "dropout": dropout,
            "normalisation": normalisation,
            "skip": skip,
        }
        widths = [inputs, *hidden]
        pairs = list(pairwise(widths))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.norms = nn.ModuleList(NORMALISATIONS[normalisation](b) for _, b in pairs) if normalisation else None
        self.shortcuts = (
            nn.ModuleList(nn.Identity() if a == b else nn.Linear(a, b, bias=False) for a, b in pairs) if skip else None
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(widths[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [N, outputs] of inputs [N, inputs]."""
        function = ACTIVATIONS[self.architecture["activation"]]
        for i, layer in enumerate(self.layers):
            h = layer(x)
            if self.norms is not None:
                h = self.norms[i](h)
            h = self.dropout(function(h))
            x = h if self.shortcuts is None else h + self.shortcuts[i](x)
        return self.output(x)


def feedforward(
    inputs: int,
    hidden: Sequence[int] | int,
    outputs: int,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    normalisation: str | None = None,
    skip: bool = False,
    seed: int = 0,
) -> FeedForward:
    """A fully connected network, in torch, with weights drawn as torch does.

    Args:
        inputs: Number of inputs.
        hidden: Sizes of the hidden layers; () for a linear function.
        outputs: Number of outputs: one per target; two with the loss `gaussian`, one per class with `multiclass`.
        activation: Of the hidden layers: relu, tanh, swish, gelu, elu, softplus, leaky_relu, sigmoid, exp, identity.
        dropout: Probability with which a hidden unit is dropped while learning.
        normalisation: None, "batch" or "layer", before the activation.
        skip: Add the input of every hidden layer to its output, through a matrix where the sizes differ.
        seed: Of the weights; torch's own random numbers are left as they are.

    Returns:
        The module.

    Raises:
        ModelError: Sizes that are not whole numbers, an unknown activation or normalisation, a wrong probability.

    Example:
        >>> sum(p.numel() for p in feedforward(4, (16, 16), 1).parameters())
        369
    """
    sizes = [hidden] if isinstance(hidden, int) else list(hidden)
    for name, value in (("inputs", inputs), *(("hidden", h) for h in sizes), ("outputs", outputs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(invalid(name, repr(value), "It is a whole number of at least 1"))
    if isinstance(dropout, bool) or not 0.0 <= dropout < 1.0:
        raise ModelError(invalid("dropout", repr(dropout), "It is a probability, from 0 to below 1"))
    if normalisation is not None and normalisation not in NORMALISATIONS:
        raise ModelError(invalid("normalisation", repr(normalisation), "It is None, 'batch' or 'layer'"))
    name = checked_activation(activation, "activation")
    with own_random(seed):
        return FeedForward(inputs, sizes, outputs, name, float(dropout), normalisation, skip)


@contextmanager
def own_random(seed: int) -> Iterator[None]:
    """Torch's random numbers from a seed, for a `with` block; afterwards they go on as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def baseline(name: str, inputs: int, outputs: int) -> nn.Linear:
    """A linear function, zero everywhere."""
    if name not in BASELINES:
        expected = f"It is a torch module, a function that makes one, or one of {', '.join(BASELINES)}"
        raise ModelError(invalid("network", repr(name), expected))
    made = nn.Linear(inputs, outputs)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


def made(network: Any, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A network of one's own: a copy of a module, what a function makes, or a baseline by name.

    Args:
        network: Module, function without arguments that makes one, or a name.
        shape: Of one row of inputs.
        outputs: How many outputs the loss needs.
    """
    if isinstance(network, str):
        if len(shape) != 1:
            raise ModelError(invalid("network", repr(network), f"It takes columns; a row of inputs is {shape}"))
        return baseline(network, shape[0], outputs)
    module = deepcopy(network) if isinstance(network, nn.Module) else network() if callable(network) else None
    if not isinstance(module, nn.Module):
        expected = f"It is a torch module, a function that makes one, or one of {', '.join(BASELINES)}"
        got = type(network).__name__ if module is None else f"a function that makes {type(module).__name__}"
        raise ModelError(invalid("network", got, expected))
    if not any(p.requires_grad for p in module.parameters()):
        raise ModelError(invalid("network", type(module).__name__, "It has weights to learn"))
    return module


def outputs_of(module: nn.Module, x: Tensor) -> Tensor:
    """Outputs [N, O]; axes of a single output or a single row may be missing."""
    out = module(x)
    return out.reshape(len(x), -1) if isinstance(out, Tensor) and out.dim() < 2 and out.numel() else out


def check_outputs(module: nn.Module, x: Tensor, outputs: int, loss: str) -> None:
    """Try the network on a few rows.

    Raises:
        ModelError: It fails on them, or has another number of outputs than the loss needs.
    """
    few = x[: min(4, len(x))]
    module.eval()
    try:
        with torch.no_grad():
            out = outputs_of(module, few)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        rule = f"It takes inputs of shape {list(few.shape)} ({str(error).splitlines()[0]})"
        raise ModelError(invalid("network", type(module).__name__, rule)) from error
    got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if got != (len(few), outputs):
        rule = f"The loss {loss} needs {outputs} outputs a row: {(len(few), outputs)} for {len(few)} rows"
        raise ModelError(invalid("network", f"outputs {got}", rule, fix=f"Give it {outputs} outputs"))
