"""Solution of linear dynamics: superposition of doses, and a scan over the timeline where parameters vary in time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.data.batch import Batch
from deepnlme.dynamics.administration import Administered
from deepnlme.dynamics.buckets import buckets, by_buckets
from deepnlme.dynamics.compartments import CompartmentModel, Entries
from deepnlme.dynamics.modal import Given, has_modes, modal_amounts
from deepnlme.dynamics.steady_linear import (
    LinearDynamics,
    apply_entries,
    dose_columns,
    has_steady_doses,
    remembered,
    steady_parts,
    steady_state,
)
from deepnlme.dynamics.timeline import build_timeline, gather_time, initial_states


def _lift(p: Mapping[str, Any]) -> Names:
    """The same parameters with one more axis beside the slots, for the doses; a vector's own axis stays the last."""
    lifted = {}
    for name, value in p.items():
        is_tensor = isinstance(value, Tensor) and value.dim() >= 3
        lifted[name] = value.unsqueeze(3) if is_tensor else value
    return Names("p", lifted)


def _slot_places(batch: Batch) -> tuple[Tensor, Tensor]:
    """Time and segment of each slot, [R, N]."""
    return batch.time.gather(1, batch.slot_record), batch.segment.gather(1, batch.slot_record)


def superposition(
    dynamics: LinearDynamics, p: Names, batch: Batch, doses: Administered, initial: Mapping[int, Tensor]
) -> list[Tensor]:
    """Amounts at every slot as the sum of what each dose contributed; parameters constant within a row.

    x(t_j) = sum_d E((s - D_d)+) Q(min(s, D_d)) r_d over the doses given since the last reset, with s = t_j - start_d;
    a bolus is the limit E(s) a_d. Steady-state doses contribute the state they imply at their record.

    Args:
        dynamics: The linear system.
        p: Individual parameters, each [K, R, 1].
        batch: Packed records.
        doses: Effective doses [K, R, D].
        initial: Compartment index -> initial amount at the records, [K, R, 1 or T] (also set by a reset).

    Returns:
        One tensor [K, R, N] per compartment.
    """
    parts = buckets(batch)
    if parts is not None:
        return by_buckets(parts, partial(_superposed, dynamics), p, doses, initial)
    return _superposed(dynamics, p, batch, doses, initial)


def _superposed(
    dynamics: LinearDynamics, p: Names, batch: Batch, doses: Administered, initial: Mapping[int, Tensor]
) -> list[Tensor]:
    """The same for all rows at once."""
    n = len(dynamics.compartments)
    slot_time, slot_segment = remembered(batch, "slot_places", lambda: _slot_places(batch))
    zero = torch.zeros_like(slot_time).unsqueeze(0)
    total: dict[int, Tensor] = {}

    def add(parts: dict[int, Tensor]) -> None:
        for i, value in parts.items():
            summed = value.squeeze(-1) if value.shape[-1] == 1 else value.sum(-1)
            total[i] = total[i] + summed if i in total else summed

    wide = _lift(p)
    if batch.dose_time.shape[1]:
        add(_dose_part(dynamics, wide, batch, doses, slot_time, slot_segment))
        if has_steady_doses(batch):
            for part in steady_parts(dynamics, wide, p, batch, doses, slot_time, slot_segment):
                add(part)
    if initial:
        add(_initial_part(dynamics, wide, batch, initial, slot_time, slot_segment))
    return [total.get(i, zero) for i in range(n)]


def _elapsed(batch: Batch, doses: Administered, slot_time: Tensor, slot_segment: Tensor) -> tuple[Tensor, Tensor]:
    """Time since each dose began [K, R, N, D] (0 where inactive), and whether the dose is in effect.

    A dose acts before its own record is read, as in NONMEM.
    """
    key = "elapsed"
    if not doses.moving and key in batch.cache:
        return batch.cache[key]
    before, same = remembered(batch, "dose_order", lambda: _dose_order(batch, slot_segment))
    s = slot_time[None, :, :, None] - doses.start[:, :, None, :]
    active = same & ((s > 0) | ((s == 0) & before))
    result = torch.where(active, s, torch.zeros_like(s)), active
    if not doses.moving:
        batch.cache[key] = result
    return result


def _dose_order(batch: Batch, slot_segment: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each dose acts before each slot at the same time, and whether both are of one segment, [R, N, D]."""
    before = batch.dose_additional[:, None, :] | (batch.dose_record[:, None, :] <= batch.slot_record[:, :, None])
    same = batch.dose_valid[:, None, :] & (batch.dose_segment[:, None, :] == slot_segment[:, :, None])
    return before, same


def _dose_part(
    dynamics: LinearDynamics, p: Names, batch: Batch, doses: Administered, slot_time: Tensor, slot_segment: Tensor
) -> dict[int, Tensor]:
    s, active = _elapsed(batch, doses, slot_time, slot_segment)
    columns = dose_columns(batch)
    n = len(dynamics.compartments)
    single = len(columns) == 1
    into = {c: None if single else (batch.dose_cmt == c)[None, :, None, :] for c in columns}
    if has_modes(dynamics, columns, doses):
        return modal_amounts(cast("CompartmentModel", dynamics), p, Given(s, active, doses, into, batch))

    def each(value: Tensor) -> dict[int, Tensor]:
        return {c: value if here is None else value * here for c, here in into.items()}

    amount = torch.where(active, doses.amount[:, :, None, :], torch.zeros_like(s[..., :1, :1]))
    if not doses.infusions:
        return apply_entries(dynamics.transfer(p, s, columns), each(amount), n)
    duration = doses.duration[:, :, None, :]
    infused = duration > 0
    during = torch.minimum(s, duration)
    rate = torch.where(active & infused, doses.rate[:, :, None, :], torch.zeros_like(amount))
    state = apply_entries(dynamics.forced(p, during, columns), each(rate), n)
    for c, bolus in each(torch.where(infused, torch.zeros_like(amount), amount)).items():
        state[c] = state[c] + bolus if c in state else bolus
    return apply_entries(dynamics.transfer(p, s - during, tuple(range(n))), state, n)


def _initial_part(
    dynamics: LinearDynamics,
    p: Names,
    batch: Batch,
    initial: Mapping[int, Tensor],
    slot_time: Tensor,
    slot_segment: Tensor,
) -> dict[int, Tensor]:
    """The initial state, carried on from the start and again from every reset (EVID 3 and 4)."""
    s, active = remembered(batch, "since_reset", lambda: _since_reset(batch, slot_time, slot_segment))
    every = initial_states(initial, len(dynamics.compartments), batch).unsqueeze(2)
    vector = {i: torch.where(active, every[..., i], torch.zeros_like(s)) for i in sorted(initial)}
    return apply_entries(dynamics.transfer(p, s, tuple(vector)), vector, len(dynamics.compartments))


def _since_reset(batch: Batch, slot_time: Tensor, slot_segment: Tensor) -> tuple[Tensor, Tensor]:
    """Time since the start and since each reset [1, R, N, 1 + Z] (0 where another one holds), and which one holds.

    None holds where a steady-state dose (SS=1) set the state itself.
    """
    starts = torch.cat([batch.time[:, :1], batch.reset_time], 1)
    active = slot_segment[:, :, None] == torch.arange(starts.shape[1], device=starts.device)
    s = slot_time[:, :, None] - starts[:, None, :]
    s = torch.where(active, s, torch.zeros_like(s)).unsqueeze(0)
    free = torch.cat([batch.reset_steady.new_ones(batch.rows, 1), ~batch.reset_steady], 1)
    return s, active & free[:, None, :]


def scan(
    dynamics: LinearDynamics,
    p_interval: Names,
    p_record: Names,
    batch: Batch,
    doses: Administered,
    initial: Mapping[int, Tensor],
) -> list[Tensor]:
    """Amounts at every slot by composing the affine maps of all events; parameters may change at every record.

    Every stretch of the timeline and every event is a map x -> A x + b; the maps of a whole row are composed by a
    parallel prefix scan, log2(E) batched products instead of a loop over events.

    Args:
        dynamics: The linear system.
        p_interval: Individual parameters over the interval that ends at each record, [K, R, 1 or T].
        p_record: The same at each record (steady-state doses use these).
        batch: Packed records.
        doses: Effective doses [K, R, D].
        initial: Compartment index -> initial amount at the records, [K, R, 1 or T].

    Returns:
        One tensor [K, R, N] per compartment.
    """
    n = len(dynamics.compartments)
    every = tuple(range(n))
    overlap, steady = None, None
    if has_steady_doses(batch):
        at_dose = Names("p", {k: gather_time(v, batch.dose_record) for k, v in p_record.items()})
        overlap, states = steady_state(dynamics, at_dose, batch, doses)
        steady = torch.stack(torch.broadcast_tensors(*states), -1)
    start = initial_states(initial, n, batch)
    line = build_timeline(batch, doses, n, start, overlap, steady)
    p = Names("p", {k: gather_time(v, line.record) for k, v in p_interval.items()})
    a = _as_matrix(dynamics.transfer(p, line.dt, every), n)
    b = line.add
    if line.rate is not None:
        forced = _as_matrix(dynamics.forced(p, line.dt, every), n)
        b = b + line.keep.unsqueeze(-1) * (forced @ line.rate.unsqueeze(-1)).squeeze(-1)
    a = a * line.keep[..., None, None]
    x = affine_scan(a, b, start[:, :, 0])
    return [gather_time(v, line.slot) for v in x.unbind(-1)]


def _as_matrix(entries: Entries, n: int) -> Tensor:
    lead = np.broadcast_shapes(*(v.shape for v in entries.values()))
    zero = next(iter(entries.values())).new_zeros(()).expand(lead)
    rows = [torch.stack([entries.get((i, j), zero).expand(lead) for j in range(n)], -1) for i in range(n)]
    return torch.stack(rows, -2)


def affine_scan(a: Tensor, b: Tensor, start: Tensor) -> Tensor:
    """States x_e = A_e x_(e-1) + b_e for e = 1..E, all at once.

    Args:
        a: [..., E, n, n].
        b: [..., E, n].
        start: [..., n] x_0.

    Returns:
        [..., E, n]; the recursion doubles its reach log2(E) times (Hillis and Steele 1986).
    """
    lead = np.broadcast_shapes(a.shape[:-3], b.shape[:-2], start.shape[:-1])
    events, n = a.shape[-3], a.shape[-1]
    a = a.expand(*lead, events, n, n)
    b = b.expand(*lead, events, n)
    first = b[..., :1, :] + (a[..., :1, :, :] @ start.expand(*lead, n)[..., None, :, None]).squeeze(-1)
    b = torch.cat([first, b[..., 1:, :]], -2)
    reach = 1
    while reach < events:
        moved = (a[..., reach:, :, :] @ b[..., :-reach, :].unsqueeze(-1)).squeeze(-1)
        b = torch.cat([b[..., :reach, :], b[..., reach:, :] + moved], -2)
        if 2 * reach < events:
            a = torch.cat([a[..., :reach, :, :], a[..., reach:, :, :] @ a[..., :-reach, :, :]], -3)
        reach *= 2
    return b
