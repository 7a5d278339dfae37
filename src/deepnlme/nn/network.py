"""The interface of every network that a model may declare."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.errors import ModelError
from deepnlme.nn.activations import ACTIVATIONS, POSITIVE, activation
from deepnlme.nn.penalties import Penalty, Roles
from deepnlme.nn.scaling import Scaling, numbers_of

FIRST = 1
"""Part of the seed of first draws, so that those of further starts, which a fit's seed decides, are others."""


class NeuralNetwork(ABC):
    """A function of a model with weights to be estimated; use `MLP`, or `Network` for any torch module.

    Attributes:
        inputs, outputs: Their numbers.
        size: Number of weights W.
        shared: Whether all rows of a batch have the same weights: one tensor for all, instead of one per row as
            the other parameters have. Large networks do; then there are no derivatives by subject.
        scaling: Units of inputs and outputs.
        prior: `L1`, `L2`, a torch distribution of a single weight, or None.
        center: Weights [W] around which the prior holds, or None for zero; see `around`.
        fixed: The weights are kept.
    """

    inputs: int
    outputs: int
    shared: bool
    center: np.ndarray | None = None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        output_activation: str | None,
        prior: Any,
        typical: Any,
        input_center: Any,
        input_scale: Any,
        output_center: Any,
        output_scale: Any,
        weights: Any,
        seed: int,
        fixed: bool,
    ):
        self.inputs, self.outputs = whole(inputs, "inputs"), whole(outputs, "outputs")
        self.output_activation = activation(output_activation, "output_activation")
        self.prior = _checked_prior(prior)
        self.seed, self.fixed = whole(seed, "seed", 0), bool(fixed)
        self.scaling = Scaling(
            numbers_of(input_center, inputs, "input_center"),
            numbers_of(input_scale, inputs, "input_scale", positive=True),
            numbers_of(output_center, outputs, "output_center"),
            numbers_of(output_scale, outputs, "output_scale", positive=True),
        )
        self._set_typical(numbers_of(typical, outputs, "typical"))
        self.weights = None if weights is None else _numbers(weights)

    def _set_typical(self, typical: tuple[float, ...] | None) -> None:
        """Output units such that a network whose weights are zero returns `typical`."""
        at_zero = POSITIVE.get(self.output_activation, 0.0)
        if typical is not None:
            for name in ("output_center", "output_scale") if at_zero else ("output_center",):
                if getattr(self.scaling, name) is not None:
                    raise ModelError(
                        f"Invalid `typical`: got {typical} and `{name}`, which says it already (at zero weights the "
                        f"output is center + scale * {self.output_activation}(0)). Leave one of them out."
                    )
        if at_zero:
            self.scaling = self.scaling.filled(output_center=(0.0,) * self.outputs)
        if typical is None:
            return
        if at_zero:
            if min(typical) <= 0:
                raise ModelError(
                    f"Invalid `typical`: got {typical}, but {self.output_activation} has positive values only. "
                    "Use output_activation=None, or a positive value."
                )
            self.scaling = self.scaling.filled(output_scale=tuple(v / at_zero for v in typical))
        else:
            self.scaling = self.scaling.filled(output_center=typical)
            if all(typical):
                self.scaling = self.scaling.filled(output_scale=tuple(abs(v) for v in typical))

    def _checked_weights(self) -> None:
        if self.weights is not None and (self.weights.shape != (self.size,) or not np.isfinite(self.weights).all()):
            raise ModelError(f"Invalid `weights`: got shape {self.weights.shape}, expected {self.size} finite numbers.")

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of weights W."""

    @property
    @abstractmethod
    def roles(self) -> Roles:
        """What each weight is."""

    @abstractmethod
    def describe(self) -> str:
        """Architecture in a few words."""

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Random initial weights [W]: a small, smooth function around the typical value."""

    @abstractmethod
    def raw(self, x: Tensor, weights: Tensor) -> Tensor:
        """Outputs before the output activation, [K, R, T, outputs], from scaled inputs [K, R, T, inputs].

        Args:
            x: Scaled inputs.
            weights: [K, R, 1, W], or [1, 1, 1, W] if shared.
        """

    def initial(self, generator: np.random.Generator | None = None, number: int = 0) -> np.ndarray:
        """Initial weights [W]: those given, or drawn.

        Args:
            generator: Draw from it, whatever is given.
            number: Of the network in its model; together with its own seed it decides the draw without a generator.
        """
        if self.weights is not None and generator is None:
            return self.weights.copy()
        return self.draw(np.random.default_rng([self.seed, number, FIRST]) if generator is None else generator)

    def values(self, x: Tensor, weights: Tensor) -> Tensor:
        """Outputs [K, R, T, outputs] of inputs [K, R, T, inputs] in the units of the model."""
        s = self.scaling
        if s.input_center is not None:
            x = x - x.new_tensor(s.input_center)
        if s.input_scale is not None:
            x = x / x.new_tensor(s.input_scale)
        y = ACTIVATIONS[self.output_activation](self.raw(x, weights))
        if s.output_scale is not None:
            y = y * y.new_tensor(s.output_scale)
        if s.output_center is not None:
            y = y + y.new_tensor(s.output_center)
        return y

    def told(self, sizes: tuple[int, ...]) -> None:
        """How many inputs each argument of a call stands for, before `values`; for those who listen."""
        del sizes

    def log_prior(self, weights: Tensor) -> Tensor:
        """Log prior density [...] of weights [..., W], or of what they differ from `center`; 0 without a prior."""
        if self.prior is None:
            return weights.sum(-1) * 0.0
        if self.center is not None:
            weights = weights - weights.new_tensor(self.center)
        if isinstance(self.prior, Penalty):
            return self.prior.log_density(weights, self.roles)
        return self.prior.log_prob(weights).sum(-1)

    def scaled(self, scaling: Scaling) -> NeuralNetwork:
        """The same network with other units."""
        new = copy.copy(self)
        new.scaling = scaling
        return new

    def with_weights(self, weights: np.ndarray, fixed: bool = False) -> NeuralNetwork:
        """The same network that starts from, or (fixed) keeps, these weights [W]."""
        new = copy.copy(self)
        new.weights, new.fixed = _numbers(weights), fixed
        new._checked_weights()
        return new

    def around(self, weights: np.ndarray) -> NeuralNetwork:
        """The same network whose prior holds around these weights [W] instead of zero.

        The penalty then keeps the function near one that is known, instead of near a constant: log p(w - center).
        Weights name a function in certain units, so the network must have them: the one of a fit has,
        ``fit.model.networks["name"].around(fit.weights["name"])``.

        Raises:
            ModelError: Not as many numbers as weights, or units that are to be found from the data.
        """
        new = copy.copy(self)
        new.center = _numbers(weights)
        if new.center.shape != (self.size,) or not np.isfinite(new.center).all():
            got = f"shape {new.center.shape}"
            raise ModelError(f"Invalid `weights` of `around`: got {got}, expected {self.size} finite numbers.")
        if not self.scaling.complete:
            raise ModelError(
                "Invalid network for `around`: its units are found from the data, and weights say nothing without "
                "them. Take that of a fit, fit.model.networks[...], or give input_center, input_scale, output_center "
                "and output_scale."
            )
        return new

    def __repr__(self) -> str:
        around = "" if self.center is None else " around given weights"
        prior = "" if self.prior is None else f", prior={self.prior!r}{around}"
        return f"{self.describe()} ({self.size} weights{prior})"


def whole(value: Any, name: str, least: int = 1) -> int:
    """A whole number of at least `least`, checked."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ModelError(f"Invalid `{name}`: got {value!r}, expected a whole number of at least {least}.")
    return int(value)


def _numbers(weights: Any) -> np.ndarray:
    """Weights as an array; what is no array of numbers has no element, and is refused for that."""
    try:
        return np.array(weights, dtype=float)
    except (TypeError, ValueError):
        return np.zeros(0)


def _checked_prior(prior: Any) -> Any:
    if prior is None or isinstance(prior, Penalty):
        return prior
    if isinstance(prior, type) or not hasattr(prior, "log_prob"):
        raise ModelError(
            f"Invalid prior of a network: got {prior!r}, expected dn.L2(1.0), dn.L1(1.0) or a torch distribution."
        )
    try:
        found = torch.as_tensor(prior.log_prob(torch.zeros(2, 3, dtype=torch.float64)))
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"Invalid prior of a network: got {prior!r}, which has no density for weights of zero ({reason}). "
            "Expected the distribution of one weight, a real number of any sign."
        ) from error
    if found.shape != (2, 3) or getattr(prior, "batch_shape", ()):
        raise ModelError(
            f"Invalid prior of a network: got {prior!r}, expected the distribution of one weight, without batch or "
            "event shape."
        )
    return prior
