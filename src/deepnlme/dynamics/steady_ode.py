"""The steady state that a steady-state dose implies, for differential equations.

The explicit time of the equations runs on from the record during the cycles before it (NONMEM: from 0): a steady state
exists only for equations that do not depend on time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.data.batch import Batch
from deepnlme.dynamics.administration import Administered, SteadyState, steady_dosing
from deepnlme.dynamics.solver import Pieces, Solver
from deepnlme.dynamics.timeline import gather_time
from deepnlme.dynamics.vector_field import VectorField

_CYCLES, _NEWTON, _CHORD_STEPS = 3, 50, 3
_LARGEST = 1e10
"""Number of dosing intervals to reach the steady state, above which there is none."""


def steady_states(
    field: VectorField, solver: Solver, p: Names, batch: Batch, doses: Administered, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Earlier infusions still running, and the state at each steady-state dose's record, [K, R, D, n]."""
    plan = steady_dosing(batch, doses)
    lead, n = start.shape[:2], start.shape[-1]
    states = [torch.zeros(*lead, n, dtype=start.dtype, device=start.device)] * batch.dose_ss.shape[1]
    for d in torch.nonzero((batch.dose_ss > 0).any(0)).flatten().tolist():
        states[d] = _steady_state(field, solver, p, batch, doses, plan, d, start)
    return plan.overlap, torch.stack([s.expand(*lead, n) for s in states], 2)


def _steady_state(
    field: VectorField,
    solver: Solver,
    p: Names,
    batch: Batch,
    doses: Administered,
    plan: SteadyState,
    d: int,
    start: Tensor,
) -> Tensor:
    """The state at the record of the d-th dose of each row, [K, R, n]; zero where it is no steady-state dose."""
    record = batch.dose_record[:, d : d + 1]
    at = Names("p", {k: gather_time(v, record) for k, v in p.items()})
    into = torch.nn.functional.one_hot(batch.dose_cmt[:, d], start.shape[-1]).to(start.dtype)

    def of(value: Tensor) -> Tensor:
        return value[..., d : d + 1]

    active, constant = of(plan.active), of(plan.constant)
    # rows without such a dose stand still; the length of a cycle does not matter to a constant infusion
    span = (batch.time[:, -1:] - batch.time[:, :1]).clamp(min=1.0)
    period = torch.where(constant, span, of(plan.period)) * active
    first = torch.where(constant | ~active, torch.zeros_like(period), of(plan.first))
    rate = torch.where(constant, batch.dose_rate[:, d : d + 1], of(doses.rate))
    overlap = torch.where(constant, torch.ones_like(rate), of(plan.overlap))
    is_bolus = active & ~constant & (of(doses.duration) <= 0)
    bolus = torch.where(is_bolus, of(doses.amount), torch.zeros_like(rate)) * into
    high, low = (overlap + 1.0) * rate * into, overlap * rate * into
    move = _Mover(field, solver, at, (of(batch.dose_time) - batch.offset.gather(1, record)).unsqueeze(0))

    def cycle(x: Tensor) -> Tensor:
        return move(move(x + bolus, first, high), period - first, low)

    lead = start.shape[:2]
    arrival = _fixed_point(cycle, start, active.expand(*lead, 1), solver.tolerance)
    tail = torch.where(constant, torch.zeros_like(period), period - of(doses.lag))
    # amounts of a drug are not negative; a root of the equations that is, is not reached by giving doses
    value = arrival.detach()
    negative = ((value < -1e-6 * value.abs().amax(-1, keepdim=True)) & (into > 0)).any(-1, keepdim=True)
    impossible = active & ((tail < 0) | (negative & (start >= 0).all(-1, keepdim=True)))
    arrival = torch.where(impossible, torch.full_like(arrival, torch.nan), arrival)
    tail = torch.where(active, tail.clamp(min=0.0), torch.zeros_like(tail))
    before = torch.minimum(tail, first)
    state = move(move(arrival + bolus, before, high), tail - before, low)
    return torch.where(active, state, torch.zeros_like(state))


@dataclass(frozen=True)
class _Mover:
    """Moves a state along the vector field for a time [K, R, 1] at a constant input."""

    field: VectorField
    solver: Solver
    p: Names
    begin: Tensor

    def __call__(self, x: Tensor, tau: Tensor, rate: Tensor) -> Tensor:
        if not bool((tau > 0).any()):
            return x
        lead = np.broadcast_shapes(x.shape[:2], tau.shape[:2], rate.shape[:2], self.begin.shape[:2])
        x = x.expand(*lead, x.shape[-1])
        pieces = Pieces(self.field, [self.p], self.begin, tau, rate.unsqueeze(2))
        return self.solver.flow(pieces, x, 0, 0)[0]


def _fixed_point(cycle: Callable[[Tensor], Tensor], start: Tensor, active: Tensor, tolerance: float) -> Tensor:
    """x = cycle(x), differentiable to third order.

    A few cycles and then Newton's method without a graph find the value. Three chord steps
    x <- x + (I - J)^-1 (cycle(x) - x) with the constant J then leave the value as it is and make one more order of
    derivatives exact each. Rows that do not settle (no steady state exists) become NaN.
    """
    n = start.shape[-1]
    eye = torch.eye(n, dtype=start.dtype, device=start.device)
    x, inverse = start.detach(), eye
    with torch.no_grad():
        for _ in range(_CYCLES):
            x = cycle(x)
    settled = torch.zeros_like(active)
    for _ in range(_NEWTON):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = cycle(leaf)
            rows = [torch.autograd.grad(value[..., i].sum(), leaf, retain_graph=i + 1 < n)[0] for i in range(n)]
        residual = (value - leaf).detach()
        matrix = torch.where(active.unsqueeze(-1), eye - torch.stack(rows, -2), eye)
        inverse = torch.linalg.inv_ex(matrix).inverse
        step = torch.where(active, (inverse @ residual.unsqueeze(-1)).squeeze(-1), torch.zeros_like(residual))
        x = x + step
        scale = x.abs().amax(-1, keepdim=True)
        settled = (step.abs() <= 10.0 * tolerance * scale + 1e-12).all(-1, keepdim=True)
        if bool((settled | ~torch.isfinite(step).all(-1, keepdim=True)).all()):
            break
    # a state that keeps growing has no steady state, though rounding may give it one
    settled = settled & (inverse.abs().amax((-2, -1)).unsqueeze(-1) < _LARGEST)
    x = torch.where(settled, x, torch.full_like(x, torch.nan))
    for _ in range(_CHORD_STEPS):
        x = x + torch.where(active, (inverse @ (cycle(x) - x).unsqueeze(-1)).squeeze(-1), torch.zeros_like(x))
    return x
