"""Stochastic descent for thousands of weights: Adam on a few subjects at a time."""

from __future__ import annotations

import math

import numpy as np
import torch

from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.watch import FitStatus, Watch

FLAT_EPOCHS = 20
"""Epochs over which the objective must still improve."""


def adam(objective: MarginalObjective, start: np.ndarray, watch: Watch) -> FitStatus:
    """Minimise from `start` [P].

    An iteration is an epoch: every subject once, in batches drawn without replacement. A batch's gradient is that of
    its own OFV times the number of batches, plus that of the penalty; torch's Adam makes the step, with a rate that
    falls to zero over the iterations along a cosine. After each epoch the whole objective is evaluated.

    Source: Kingma and Ba 2015; Loshchilov and Hutter 2017 (the rate).
    """
    options = watch.options
    generator = np.random.default_rng(options.seed)
    size = min(options.batch_size, objective.subjects)
    u = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.Adam([u], lr=options.learning_rate)
    steps = watch.limit * math.ceil(objective.subjects / size)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(descent, steps)
    watch.consider(start, objective(start))
    values: list[float] = []
    while True:
        order = generator.permutation(objective.subjects)
        for first in range(0, len(order), size):
            part = objective.part(np.sort(order[first : first + size]))
            gradient = _gradient(objective, part, u.detach().numpy())
            if np.isfinite(gradient).all():
                u.grad = torch.tensor(gradient)
                descent.step()
            rate.step()
            watch.check_time()
        whole = objective(u.detach().numpy())
        if np.isfinite(whole.value[0]):  # modes found at a wild point would spoil all later searches
            objective.remember(0)
        watch.consider(u.detach().numpy(), whole)
        assert watch.best is not None
        values.append(watch.best[0])
        gain = values[-1 - FLAT_EPOCHS] - values[-1] if len(values) > FLAT_EPOCHS else math.inf
        watch.iteration(gain, certain=False)
        if gain < options.flat:
            return FitStatus.FLAT


def _gradient(objective: MarginalObjective, part: MarginalObjective, u: np.ndarray) -> np.ndarray:
    """Estimate of the whole gradient from a part of the subjects."""
    evaluation = part(u)
    penalty = objective.penalty_gradient(u)
    return penalty + (evaluation.gradient[0] - penalty) * (objective.subjects / part.subjects)
