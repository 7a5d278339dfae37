"""The expected information of the free parameters from first derivatives: the curvature that Gauss and Newton use.

Linearised at the modes, a subject's observations are normal with mean f - G z and covariance C = G G' + R, where G is
df/dz. The information of the parameters u in them is

    J' C^-1 J + 2 sum_j d log sd_j / du (d log sd_j / du)' + variances' own,     J = df/du at the mode,

and twice that approximates the Hessian of the OFV. One copy of the rows per observation and one reverse pass give J,
whatever the number of parameters: for networks this is what makes a second-order method cheap.

Source: Almquist et al. 2015, J Pharmacokinet Pharmacodyn 42:191 (the linearised model); Bates and Watts 1988.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from deepnlme.estimation.method import Rows, jacobian
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.joint import Prediction
from deepnlme.observation import censored_curvature


def information(objective: MarginalObjective, evaluation: Evaluation, lane: int = 0) -> np.ndarray:
    """Approximate Hessian of the OFV in the parameters of rows, [Q, Q], positive semidefinite.

    Args:
        objective: The objective; every endpoint Gaussian.
        evaluation: Where (B = 1).
        lane: On which lane of the objective.
    """
    joint, device = objective.joint, objective.device
    q = joint.space.row_size
    total = torch.zeros(q, q, dtype=torch.float64, device=device)
    u = torch.tensor(evaluation.u[0], dtype=torch.float64, device=device)
    z = torch.tensor(evaluation.z[0], dtype=torch.float64, device=device)
    shared = u[q:] if len(u) > q else None
    slots = max(objective.batch.slot_record.shape[1], 1)
    size = max(1, objective.rows_per_chunk * max(objective.k, 1) // slots)
    batch = objective.lane_batch(lane)
    for start in range(0, objective.subjects, size):
        index = torch.arange(start, min(start + size, objective.subjects), device=device)
        rows = Rows(joint, batch.take(index), u[:q].expand(1, len(index), -1), 1, shared)
        total += _of_rows(rows, z[index], objective.method.uses_omega)
    return 2.0 * total.cpu().numpy() + np.diag(_of_variances(objective, evaluation))


def _of_rows(rows: Rows, z: Tensor, varying: bool) -> Tensor:
    """Information in some rows, [Q, Q]; `varying` if the random effects are part of the likelihood."""
    n = max(rows.batch.slot_record.shape[1], 1)
    by_u, sd, by_sd, prediction = _slopes(rows, z, n)
    use = prediction.use & prediction.gaussian
    weight, of_sd = 1.0 / sd**2, 2.0 / sd**2
    if bool((prediction.cens != 0).any()):
        hidden, mean = prediction.cens != 0, prediction.mean[0].detach()
        cff, _, css = censored_curvature(mean, sd, prediction.y, prediction.limit, prediction.cens)
        weight, of_sd = torch.where(hidden, cff.clamp(min=0.0), weight), torch.where(hidden, css.clamp(min=0.0), of_sd)
    weight, of_sd = (torch.where(use, w, torch.zeros_like(w)) for w in (weight, of_sd))
    scaled = by_u * weight.unsqueeze(-1)
    found = torch.einsum("rnp,rnq->pq", scaled, by_u)
    if z.shape[-1] and varying:
        g = _in_z(rows, z)
        if g is not None:
            gw = g * weight
            h = torch.einsum("arn,brn->rab", gw, g) + torch.eye(len(g), dtype=g.dtype, device=g.device)
            across = torch.einsum("arn,rnp->rap", gw, by_u)
            found = found - torch.einsum("rap,raq->pq", across, torch.linalg.solve(h, across))
    if by_sd is not None:
        found = found + torch.einsum("rnp,rnq->pq", by_sd * of_sd.unsqueeze(-1), by_sd)
    return found


def _slopes(rows: Rows, z: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor | None, Prediction]:
    """Derivative of the mean [R, N, Q], the sd [R, N] and its derivative (None if it has none), and all predictions."""
    leaf = rows.u.expand(n, -1, -1).clone().requires_grad_()
    prediction = replace(rows, u=leaf, order=1).predict(z.unsqueeze(0).expand(n, -1, -1))
    use = prediction.use & prediction.gaussian

    def slope(value: Tensor) -> Tensor | None:
        """Copy n of the rows has the derivative of observation n."""
        if not value.requires_grad or value.shape[0] != n:
            return None
        own = value.expand(n, use.shape[0], n).diagonal(dim1=0, dim2=2)
        (found,) = torch.autograd.grad(own.sum(), leaf, retain_graph=True, allow_unused=True)
        if found is None:
            return None
        return torch.where(use.unsqueeze(-1), found.transpose(0, 1), 0.0)

    by_mean = slope(prediction.mean)
    if by_mean is None:
        by_mean = torch.zeros(*use.shape, leaf.shape[-1], dtype=z.dtype, device=z.device)
    return by_mean, prediction.sd[0].detach().expand_as(use), slope(prediction.sd), prediction


def _in_z(rows: Rows, z: Tensor) -> Tensor | None:
    """df/dz, [k, R, N]."""
    k = z.shape[-1]
    leaf = z.unsqueeze(0).expand(k, -1, -1).clone().requires_grad_()
    prediction = replace(rows, u=rows.u.expand(k, -1, -1), order=2).predict(leaf)
    (g,) = jacobian([prediction.mean], leaf)
    if g is None:
        return None
    return torch.where(prediction.use & prediction.gaussian, g.detach(), torch.zeros_like(g))


def _of_variances(objective: MarginalObjective, evaluation: Evaluation) -> np.ndarray:
    """Information of the numbers of every Omega, [Q]: 2 per subject and effect that is not shrunk."""
    space = objective.joint.space
    out = np.zeros(space.row_size)
    if not objective.k or not objective.method.uses_omega:
        return out
    if not objective.method.inner:  # FO has no curvature to tell the shrinkage
        out[len(space.free_theta) : space.structural] = objective.subjects
        return out
    kept = 1.0 - np.linalg.inv(evaluation.curvature[0]).diagonal(axis1=1, axis2=2).clip(0.0, 1.0)
    each = 2.0 * 2.0 * (kept**2).sum(0).mean()
    out[len(space.free_theta) : space.structural] = each
    return out


def outer_products(evaluation: Evaluation) -> np.ndarray:
    """Sum over subjects of g_i g_i' / 2: the Hessian's expectation, positive semidefinite."""
    g = np.nan_to_num(evaluation.subject_gradient[0])
    return 0.5 * g.T @ g
