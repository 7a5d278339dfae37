"""What every solution of linear dynamics shares: the systems' interface, and steady-state dosing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.data.batch import Batch
from deepnlme.dynamics.administration import Administered, steady_dosing
from deepnlme.dynamics.compartments import Entries
from deepnlme.dynamics.timeline import implied_infusions


class LinearDynamics(Protocol):
    """A linear system that knows its own transition matrices."""

    compartments: tuple[str, ...]
    requires: tuple[str, ...]
    absorption: str | None

    def transfer(self, p: Any, tau: Tensor, columns: tuple[int, ...]) -> Entries:
        """E(tau)."""
        ...

    def forced(self, p: Any, tau: Tensor, columns: tuple[int, ...]) -> Entries:
        """Q(tau), the integral of E."""
        ...

    def equilibrium(self, p: Any, columns: tuple[int, ...]) -> Entries:
        """Q(infinity)."""
        ...


def apply_entries(entries: Entries, vector: Mapping[int, Tensor], n: int) -> dict[int, Tensor]:
    """Matrix times vector, entry by entry; missing entries are zero."""
    out: dict[int, Tensor] = {}
    for (i, j), value in entries.items():
        if j in vector:
            product = value * vector[j]
            out[i] = out[i] + product if i in out else product
    return out


def remembered(batch: Batch, key: str, compute: Callable[[], Any]) -> Any:
    """What depends on the packed data alone, computed once per batch."""
    if key not in batch.cache:
        batch.cache[key] = compute()
    return batch.cache[key]


def dose_columns(batch: Batch) -> tuple[int, ...]:
    """Compartments that doses go to."""
    return remembered(batch, "dose_columns", lambda: tuple(torch.unique(batch.dose_cmt[batch.dose_valid]).tolist()))


def has_steady_doses(batch: Batch) -> bool:
    """Whether any dose is a steady-state dose."""
    return remembered(batch, "any_ss", lambda: bool((batch.dose_ss > 0).any()))


def steady_state(dynamics: LinearDynamics, p: Names, batch: Batch, doses: Administered) -> tuple[Tensor, list[Tensor]]:
    """The state at the record of each steady-state dose, had the dose been given every II forever before.

    The fixed point at an arrival of the implied doses (see `SteadyState`) is
    x = (I - E(II))^-1 (response over one interval); from there the state moves to the record, II - lag later.
    A constant infusion (AMT = 0, II = 0) is at its equilibrium Q(infinity) r. The lag does not
    apply to it. A lag of more than II has no such state and gives NaN, as does a system that loses nothing.

    Args:
        dynamics: The linear system.
        p: Individual parameters at the record of each dose, [K, R, 1 or D].
        batch: Packed records.
        doses: Effective doses [K, R, D].

    Returns:
        The number of earlier infusions overlapping the start of each interval [K, R, D], and per compartment the
        state [K, R, D] (zero for doses without SS).
    """
    n = len(dynamics.compartments)
    every = tuple(range(n))
    plan = steady_dosing(batch, doses)
    period, overlap, first = plan.period, plan.overlap, plan.first
    columns = dose_columns(batch)
    into = {c: (batch.dose_cmt == c)[None].to(doses.amount.dtype) for c in columns}
    high = {c: doses.rate * (overlap + 1.0) * into[c] for c in columns}
    low = {c: doses.rate * overlap * into[c] for c in columns}
    bolus = {
        c: torch.where(doses.duration > 0, torch.zeros_like(doses.amount), doses.amount) * into[c] for c in columns
    }

    def flow(state: dict[int, Tensor], tau: Tensor, rate: dict[int, Tensor]) -> dict[int, Tensor]:
        moved = apply_entries(dynamics.transfer(p, tau, tuple(sorted(state))), state, n)
        if doses.infusions:
            for i, v in apply_entries(dynamics.forced(p, tau, columns), rate, n).items():
                moved[i] = moved[i] + v if i in moved else v
        return moved

    cycle = flow(flow(dict(bolus), first, high), period - first, low)
    whole = dynamics.transfer(p, period, every)
    lead = np.broadcast_shapes(*(v.shape for v in (*whole.values(), *cycle.values())))
    zero = torch.zeros(lead, dtype=period.dtype, device=period.device)
    matrix = torch.stack(
        [torch.stack([(float(i == j) - whole.get((i, j), zero)).expand(lead) for j in every], -1) for i in every], -2
    )
    right = torch.stack([cycle.get(i, zero).expand(lead) for i in every], -1)
    fixed = torch.linalg.solve_ex(matrix, right.unsqueeze(-1)).result.squeeze(-1)
    at_arrival = {i: fixed[..., i] + bolus.get(i, 0.0) for i in every}
    tail = torch.clamp(period - doses.lag, min=0.0)
    tail_first = torch.minimum(tail, first)
    state = flow(flow(at_arrival, tail_first, high), tail - tail_first, low)
    if remembered(batch, "constant_ss", lambda: bool(plan.constant.any())):
        flat = apply_entries(dynamics.equilibrium(p, columns), {c: batch.dose_rate * into[c] for c in columns}, n)
        state = {i: torch.where(plan.constant, flat.get(i, zero), state.get(i, zero)) for i in every}
    invalid = plan.active & ~plan.constant & (doses.lag > period)
    state = {i: torch.where(invalid, torch.full_like(v, torch.nan), v) for i, v in state.items()}
    return overlap, [torch.where(plan.active, state.get(i, zero), zero) for i in every]


def steady_parts(
    dynamics: LinearDynamics,
    wide: Names,
    p: Names,
    batch: Batch,
    doses: Administered,
    slot_time: Tensor,
    slot_segment: Tensor,
) -> list[dict[int, Tensor]]:
    """What steady-state doses add beside the dose itself: the implied state, and infusions still running."""
    overlap, state = steady_state(dynamics, p, batch, doses)
    n = len(dynamics.compartments)
    record_time = batch.dose_time
    s = slot_time[None, :, :, None] - record_time[None, :, None, :]
    active = (
        (batch.dose_ss > 0)[:, None, :]
        & (batch.dose_segment[:, None, :] == slot_segment[:, :, None])
        & ((s[0] > 0) | ((s[0] == 0) & (batch.dose_record[:, None, :] <= batch.slot_record[:, :, None])))
    )
    s = torch.where(active, s, torch.zeros_like(s))
    vector = {i: torch.where(active, v.unsqueeze(-2), torch.zeros_like(s)) for i, v in enumerate(state)}
    parts = [apply_entries(dynamics.transfer(wide, s, tuple(range(n))), vector, n)]
    if not doses.infusions:
        return parts
    columns = dose_columns(batch)
    left, running = implied_infusions(batch, doses, overlap)
    if left is None or running is None:
        return parts
    for time_left, on in zip(left.unbind(-1), running.unbind(-1), strict=True):
        during = torch.minimum(s, time_left[:, :, None, :])
        rate = torch.where(active & on[:, :, None, :], doses.rate[:, :, None, :], torch.zeros_like(s))
        into = {c: rate * (batch.dose_cmt == c)[None, :, None, :] for c in columns}
        infused = apply_entries(dynamics.forced(wide, during, columns), into, n)
        parts.append(apply_entries(dynamics.transfer(wide, s - during, tuple(sorted(infused))), infused, n))
    return parts
