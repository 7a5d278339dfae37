"""A model evaluated for several copies of every subject, each with its own random effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from deepnlme.data.batch import Batch, Memory
from deepnlme.joint.density import Individual, Joint


def evaluated(
    joint: Joint,
    free: np.ndarray,
    z: np.ndarray,
    device: str = "cpu",
    near: Batch | None = None,
    change: Callable[[Batch], Batch] | None = None,
) -> tuple[Individual, Batch]:
    """Parameters, states and distributions for C copies of each subject, one subject after another: [1, S * C, N].

    Args:
        joint: S subjects.
        free: Free parameters, [P], or [C, P] with their own for each copy.
        z: Whitened random effects [S, C, k].
        device: Where to compute.
        near: The batch of another call, from the last copies of which solvers of differential equations start.
        change: What to change in the batch of all copies before it is evaluated.

    Returns:
        What was evaluated, without derivatives; and the batch.
    """
    s, copies, k = z.shape
    index = torch.arange(s).repeat_interleave(copies)
    parent = None
    if near is not None and near.memory is not None:
        last = near.rows // s - 1
        parent = (near.memory, (index * (last + 1) + last).to(near.device))
    batch = joint.batch.take(index).to(device)
    own = torch.arange(s * copies, device=batch.device)
    batch = replace(batch, memory=Memory(s * copies, parent=parent), place=own)
    batch = batch if change is None else change(batch)
    u = torch.tensor(free, dtype=torch.float64, device=batch.device)
    rows = u.expand(1, s * copies, -1) if u.dim() == 1 else u.repeat(s, 1).unsqueeze(0)
    with torch.no_grad():
        effects = torch.tensor(z.reshape(1, s * copies, k), device=batch.device)
        return joint.individuals(joint.space.values(rows), effects, batch, order=0), batch
