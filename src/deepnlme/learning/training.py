"""How a network is trained: the settings and the optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import lr_scheduler

from deepnlme.errors import ModelError, invalid

OPTIMISERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    "sgd": (torch.optim.SGD, 1e-2),
    "momentum": (torch.optim.SGD, 1e-2),
    "rmsprop": (torch.optim.RMSprop, 1e-2),
    "rprop": (torch.optim.Rprop, 1e-2),
    "adam": (torch.optim.Adam, 1e-3),
    "adamw": (torch.optim.AdamW, 1e-3),
    "l-bfgs": (torch.optim.LBFGS, 1.0),
}
"""Class and default learning rate; all other settings are torch's."""

FULL = ("rprop", "l-bfgs")
"""They compare gradients of successive steps, which must be of the same rows."""
NO_DECAY = ("rprop", "l-bfgs")
SCHEDULES = ("constant", "cosine", "step", "exponential", "plateau")
BATCH = 32


@dataclass(frozen=True)
class Training:
    """Settings of `learn`.

    Attributes:
        optimiser: sgd, momentum, rmsprop, rprop, adam, adamw or l-bfgs; None for adam, and l-bfgs for the baselines
            linear and logistic.
        learning_rate: Of the optimiser; None for its usual one.
        schedule: "constant"; "cosine" to zero; "step", a tenth after each third; "exponential" to a hundredth;
            "plateau", halved after ten epochs without improvement; or a function of the epoch, 0, 1, ..., that returns
            a factor.
        epochs: Passes through the training rows, at most; with l-bfgs its steps.
        batch_size: Rows of a step; None for all with rprop and l-bfgs, and for 32 with others.
        momentum: Of the optimiser `momentum`.
        weight_decay: Of the optimiser, on all parameters; with adamw decoupled.
        l1: Adds l1 * sum |w| over weights (not biases) to the mean loss.
        l2: Adds l2 * sum w^2 likewise.
        validation: Fraction of the training subjects kept aside to decide when to stop, where the split has no
            validation part.
        patience: Epochs without improvement of the validation loss after which it stops; None for never.
        standardise: Whether inputs and quantities as targets are standardised.
        missing: None, "mean" or "median" (of the training rows) for missing inputs.
        dtype: "float64" or "float32".
    """

    optimiser: str | None = None
    learning_rate: float | None = None
    schedule: str | Callable[[int], float] = "constant"
    epochs: int = 500
    batch_size: int | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    validation: float = 0.0
    patience: int | None = None
    standardise: bool = True
    missing: str | None = None
    dtype: str = "float64"

    @classmethod
    def of(cls, network: Any, settings: Mapping[str, Any]) -> Training:
        """From keyword arguments, with the defaults that depend on the network.

        Raises:
            ModelError: Unknown names or values without a meaning.
        """
        known = [f.name for f in fields(cls)]
        for name in settings:
            if name not in known:
                raise ModelError(invalid(name, repr(settings[name]), f"Settings are {', '.join(known)}"))
        made = cls(**settings)
        if made.optimiser is None:
            made = replace(made, optimiser="l-bfgs" if network in ("linear", "logistic") else "adam")
        made._check()
        if made.batch_size is None and made.optimiser not in FULL:
            made = replace(made, batch_size=BATCH)
        if made.learning_rate is None:
            assert made.optimiser is not None
            made = replace(made, learning_rate=OPTIMISERS[made.optimiser][1])
        return made

    def _check(self) -> None:
        for name, known in (("optimiser", OPTIMISERS), ("dtype", ("float64", "float32"))):
            if getattr(self, name) not in known:
                raise ModelError(invalid(name, repr(getattr(self, name)), f"It is one of {', '.join(known)}"))
        if not callable(self.schedule) and self.schedule not in SCHEDULES:
            expected = f"It is one of {', '.join(SCHEDULES)}, or a function of the epoch"
            raise ModelError(invalid("schedule", repr(self.schedule), expected))
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            wrong = isinstance(value, bool) or not isinstance(value, int) or value < 1
            if wrong and (name == "epochs" or value is not None):
                raise ModelError(invalid(name, repr(value), "It is a whole number of at least 1"))
        for name in ("learning_rate", "momentum", "weight_decay", "l1", "l2"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ModelError(invalid(name, repr(value), "It is a finite number of at least 0"))
        if not 0.0 <= self.validation < 1.0:
            raise ModelError(invalid("validation", self.validation, "It is a fraction, from 0 to below 1"))
        if self.batch_size is not None and self.optimiser in FULL:
            expected = f"{self.optimiser} compares gradients of all rows"
            raise ModelError(invalid("batch_size", self.batch_size, expected, fix="Leave it out, or use adam"))
        if self.weight_decay and self.optimiser in NO_DECAY:
            expected = f"{self.optimiser} has none"
            raise ModelError(invalid("weight_decay", self.weight_decay, expected, fix="Use l2="))

    def make(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimiser."""
        assert self.optimiser is not None
        more: dict[str, Any] = {} if self.optimiser in NO_DECAY else {"weight_decay": self.weight_decay}
        if self.optimiser == "momentum":
            more["momentum"] = self.momentum
        if self.optimiser == "l-bfgs":
            more = {"max_iter": 1, "max_eval": 25, "line_search_fn": "strong_wolfe", "tolerance_grad": 0.0}
            more["tolerance_change"] = 0.0
        return OPTIMISERS[self.optimiser][0](parameters, lr=self.learning_rate, **more)

    def scheduler(self, optimiser: torch.optim.Optimizer) -> Any:
        """What changes the learning rate after every epoch, or None."""
        n = self.epochs
        if callable(self.schedule):
            return lr_scheduler.LambdaLR(optimiser, self.schedule)
        return {
            "constant": lambda: None,
            "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimiser, n),
            "step": lambda: lr_scheduler.StepLR(optimiser, max(1, -(-n // 3)), 0.1),
            "exponential": lambda: lr_scheduler.ExponentialLR(optimiser, 0.01 ** (1.0 / n)),
            "plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=10),
        }[self.schedule]()
