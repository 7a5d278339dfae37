"""The loop: epochs of steps, with the best weights kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepnlme.learning.network import outputs_of
from deepnlme.learning.training import Training

STILL = 1e-10
"""With l-bfgs: the largest change of a weight, relative to the largest weight, below which a step has ended it."""

Values = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """Rows on the learning scale: inputs, targets and weights."""

    x: Tensor
    y: Tensor
    w: Tensor

    def loss(self, module: nn.Module, values: Values) -> float:
        """Weighted mean loss, without penalties, as the network predicts."""
        module.eval()
        with torch.no_grad():
            each = values(outputs_of(module, self.x), self.y)
            return float((each * self.w).sum() / self.w.expand_as(each).sum())


@dataclass
class Descent:
    """What a training did.

    Attributes:
        epoch: 0 for the initial weights.
        train: Mean loss of the training rows after each of them, on the learning scale.
        validation: The same for the validation rows, NaN where there are none.
        rate: Learning rate that led there.
        best: The epoch whose weights were kept.
        status: Why it ended.
        finite: Whether all losses were finite.
    """

    epoch: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    best: int = 0
    status: str = ""
    finite: bool = True

    def note(self, train: float, validation: float, rate: float) -> None:
        """One more epoch."""
        self.epoch.append(len(self.epoch))
        self.train.append(train)
        self.validation.append(validation)
        self.rate.append(rate)


def descend(
    module: nn.Module, values: Values, train: Part, validation: Part | None, settings: Training, seed: int
) -> Descent:
    """Train the module in place; it ends with the weights of the best epoch.

    With validation rows the best epoch has their least loss; without, it is the last whose loss is finite.
    """
    optimiser = settings.make([p for p in module.parameters() if p.requires_grad])
    scheduler = settings.scheduler(optimiser)
    path, order = Descent(), np.random.default_rng([seed, 13])
    kept, least = deepcopy(module.state_dict()), math.inf
    for epoch in range(settings.epochs + 1):
        before = _flat(module) if settings.optimiser == "l-bfgs" else None
        rate = optimiser.param_groups[0]["lr"]
        if epoch:
            module.train()
            for rows in _batches(len(train.x), settings.batch_size, order):
                _step(module, optimiser, values, train, rows, settings)
        aside = math.nan if validation is None else validation.loss(module, values)
        path.note(train.loss(module, values), aside, rate)
        judged = path.train[-1] if validation is None else aside
        if not (math.isfinite(path.train[-1]) and math.isfinite(judged)):
            path.finite, path.status = False, f"stopped: the loss is not finite after epoch {epoch}"
            break
        if validation is None or judged < least:
            kept, least, path.best = deepcopy(module.state_dict()), judged, epoch
        if settings.patience is not None and epoch - path.best >= settings.patience:
            path.status = f"stopped early: no better for {settings.patience} epochs"
            break
        if before is not None and epoch and _still(before, _flat(module)):
            path.status = "converged"
            break
        if epoch and scheduler is not None:
            scheduler.step(*([judged] if settings.schedule == "plateau" else []))
    module.load_state_dict(kept)
    module.eval()
    path.status = path.status or f"all {settings.epochs} epochs"
    return path


def penalty(module: nn.Module, l1: float, l2: float) -> Tensor | float:
    """l1 sum |w| + l2 sum w^2 over matrices and filters; biases and factors of normalisations go free."""
    weights = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
    total: Tensor | float = 0.0
    if l1:
        total = total + l1 * torch.stack([w.abs().sum() for w in weights]).sum()
    if l2:
        total = total + l2 * torch.stack([(w**2).sum() for w in weights]).sum()
    return total


def _step(
    module: nn.Module, optimiser: Any, values: Values, train: Part, rows: Tensor | None, settings: Training
) -> None:
    """One step; weights of the rows have a mean of one, so that batches are unbiased."""
    x, y, w = (a if rows is None else a[rows] for a in (train.x, train.y, train.w))

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = (values(outputs_of(module, x), y) * w).mean() + penalty(module, settings.l1, settings.l2)
        loss.backward()
        return loss

    optimiser.step(objective)


def _batches(count: int, size: int | None, order: np.random.Generator) -> list[Tensor | None]:
    """Rows of each step in random order; a last single row joins the batch before it."""
    if size is None or size >= count:
        return [None]
    parts = list(torch.from_numpy(order.permutation(count)).split(size))
    if len(parts[-1]) == 1 and size > 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return list(parts)


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).clone()


def _still(before: Tensor, after: Tensor) -> bool:
    return bool((after - before).abs().max() <= STILL * after.abs().max().clamp(min=1e-3))
