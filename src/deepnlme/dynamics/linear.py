"""Solution of linear dynamics: superposition of doses, and a scan over the timeline where parameters vary in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.data.batch import Batch
from deepnlme.dynamics.administration import Administered, steady_dosing
from deepnlme.dynamics.compartments import Entries
from deepnlme.dynamics.timeline import build_timeline, gather_time, implied_infusions


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


def _apply(entries: Entries, vector: Mapping[int, Tensor], n: int) -> dict[int, Tensor]:
    """Matrix times vector, entry by entry; missing entries are zero."""
    out: dict[int, Tensor] = {}
    for (i, j), value in entries.items():
        if j in vector:
            product = value * vector[j]
            out[i] = out[i] + product if i in out else product
    return out


def _lift(p: Mapping[str, Any]) -> Names:
    """The same parameters with one more axis at the end (doses beside slots)."""
    return Names("p", {k: v.unsqueeze(-1) if isinstance(v, Tensor) and v.dim() == 3 else v for k, v in p.items()})


def _dose_columns(batch: Batch) -> tuple[int, ...]:
    if "dose_columns" not in batch.cache:
        batch.cache["dose_columns"] = tuple(torch.unique(batch.dose_cmt[batch.dose_valid]).tolist())
    return batch.cache["dose_columns"]


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
        initial: Compartment index -> initial amount [K, R, 1] (also after a reset).

    Returns:
        One tensor [K, R, N] per compartment.
    """
    n = len(dynamics.compartments)
    slot_time = batch.time.gather(1, batch.slot_record)
    slot_segment = batch.segment.gather(1, batch.slot_record)
    zero = torch.zeros_like(slot_time).unsqueeze(0)
    total: dict[int, Tensor] = {}

    def add(parts: dict[int, Tensor]) -> None:
        for i, value in parts.items():
            summed = value.sum(-1)
            total[i] = total[i] + summed if i in total else summed

    wide = _lift(p)
    if batch.dose_time.shape[1]:
        add(_dose_part(dynamics, wide, batch, doses, slot_time, slot_segment))
        if bool_cached(batch, "any_ss", lambda: (batch.dose_ss > 0).any()):
            for part in _steady_parts(dynamics, wide, p, batch, doses, slot_time, slot_segment):
                add(part)
    if initial:
        add(_initial_part(dynamics, wide, batch, initial, slot_time, slot_segment))
    return [total.get(i, zero) for i in range(n)]


def bool_cached(batch: Batch, key: str, compute: Any) -> bool:
    """A flag of the batch, computed once."""
    if key not in batch.cache:
        batch.cache[key] = bool(compute())
    return batch.cache[key]


def _elapsed(
    batch: Batch, doses: Administered, slot_time: Tensor, slot_segment: Tensor
) -> tuple[Tensor, Tensor]:
    """Time since each dose began [K, R, N, D] (0 where inactive), and whether the dose is in effect."""
    key = "elapsed"
    if not doses.moving and key in batch.cache:
        return batch.cache[key]
    s = slot_time[None, :, :, None] - doses.start[:, :, None, :]
    before = batch.dose_additional[:, None, :] | (batch.dose_record[:, None, :] < batch.slot_record[:, :, None])
    same = batch.dose_valid[:, None, :] & (batch.dose_segment[:, None, :] == slot_segment[:, :, None])
    active = same & ((s > 0) | ((s == 0) & before))
    result = torch.where(active, s, torch.zeros_like(s)), active
    if not doses.moving:
        batch.cache[key] = result
    return result


def _dose_part(
    dynamics: LinearDynamics, p: Names, batch: Batch, doses: Administered, slot_time: Tensor, slot_segment: Tensor
) -> dict[int, Tensor]:
    s, active = _elapsed(batch, doses, slot_time, slot_segment)
    columns = _dose_columns(batch)
    n = len(dynamics.compartments)
    amount = torch.where(active, doses.amount[:, :, None, :], torch.zeros_like(s[..., :1, :1]))
    into = {c: (batch.dose_cmt == c)[None, :, None, :] for c in columns}
    single = len(columns) == 1
    if not doses.infusions:
        vector = {c: amount if single else amount * into[c] for c in columns}
        return _apply(dynamics.transfer(p, s, columns), vector, n)
    duration = doses.duration[:, :, None, :]
    infused = duration > 0
    during = torch.minimum(s, duration)
    rate = torch.where(active & infused, doses.rate[:, :, None, :], torch.zeros_like(amount))
    vector = {c: rate if single else rate * into[c] for c in columns}
    state = _apply(dynamics.forced(p, during, columns), vector, n)
    bolus = torch.where(infused, torch.zeros_like(amount), amount)
    for c in columns:
        value = bolus if single else bolus * into[c]
        state[c] = state[c] + value if c in state else value
    after = s - during
    return _apply(dynamics.transfer(p, after, tuple(range(n))), state, n)


def _initial_part(
    dynamics: LinearDynamics,
    p: Names,
    batch: Batch,
    initial: Mapping[int, Tensor],
    slot_time: Tensor,
    slot_segment: Tensor,
) -> dict[int, Tensor]:
    """The initial state, carried on from the start and again from every reset (EVID 3 and 4)."""
    starts = torch.cat([batch.time[:, :1], batch.reset_time], 1)
    s = slot_time[:, :, None] - starts[:, None, :]
    number = torch.arange(starts.shape[1], device=s.device)
    active = slot_segment[:, :, None] == number
    steady = _steady_segments(batch, starts.shape[1])
    active = active & ~steady[:, None, :]
    s = torch.where(active, s, torch.zeros_like(s)).unsqueeze(0)
    vector = {i: torch.where(active, v.unsqueeze(-1), torch.zeros_like(s)) for i, v in initial.items()}
    return _apply(dynamics.transfer(p, s, tuple(sorted(vector))), vector, len(dynamics.compartments))


def _steady_segments(batch: Batch, count: int) -> Tensor:
    """[R, count] whether a segment was opened by a steady-state dose (SS=1), which sets the state itself."""
    opened = torch.zeros(batch.rows, count, dtype=torch.bool, device=batch.device)
    ss = batch.dose_valid & (batch.dose_ss == 1)
    index = torch.where(ss, batch.dose_segment, torch.zeros_like(batch.dose_segment))
    return opened.scatter(1, index, ss) if index.shape[1] else opened


def steady_state(dynamics: LinearDynamics, p: Names, batch: Batch, doses: Administered) -> tuple[Tensor, list[Tensor]]:
    """The state at the record of each steady-state dose, had the dose been given every II forever before.

    The fixed point at an arrival of the implied doses (see `SteadyState`) is
    x = (I - E(II))^-1 (response over one interval); from there the state moves to the record, II - lag later.
    A constant infusion (AMT = 0, II = 0) is at its equilibrium Q(infinity) r. A lag of II or more has no such state
    and gives NaN.

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
    columns = _dose_columns(batch)
    into = {c: (batch.dose_cmt == c)[None].to(doses.amount.dtype) for c in columns}
    high = {c: doses.rate * (overlap + 1.0) * into[c] for c in columns}
    low = {c: doses.rate * overlap * into[c] for c in columns}
    bolus = {c: torch.where(doses.duration > 0, torch.zeros_like(doses.amount), doses.amount) * into[c] for c in columns}

    def flow(state: dict[int, Tensor], tau: Tensor, rate: dict[int, Tensor]) -> dict[int, Tensor]:
        moved = _apply(dynamics.transfer(p, tau, tuple(sorted(state))), state, n)
        if doses.infusions:
            for i, v in _apply(dynamics.forced(p, tau, columns), rate, n).items():
                moved[i] = moved[i] + v if i in moved else v
        return moved

    cycle = flow(flow(dict(bolus), first, high), period - first, low)
    whole = dynamics.transfer(p, period, every)
    lead = torch.broadcast_shapes(*(v.shape for v in (*whole.values(), *cycle.values())))
    zero = torch.zeros(lead, dtype=period.dtype, device=period.device)
    matrix = torch.stack(
        [torch.stack([(float(i == j) - whole.get((i, j), zero)).expand(lead) for j in every], -1) for i in every], -2
    )
    right = torch.stack([cycle.get(i, zero).expand(lead) for i in every], -1)
    fixed = torch.linalg.solve(matrix, right.unsqueeze(-1)).squeeze(-1)
    at_arrival = {i: fixed[..., i] + (bolus[i] if i in bolus else 0.0) for i in every}
    tail = torch.clamp(period - doses.lag, min=0.0)
    tail_first = torch.minimum(tail, first)
    state = flow(flow(at_arrival, tail_first, high), tail - tail_first, low)
    if bool_cached(batch, "constant_ss", plan.constant.any):
        flat = _apply(dynamics.equilibrium(p, columns), {c: batch.dose_rate * into[c] for c in columns}, n)
        state = {i: torch.where(plan.constant, flat.get(i, zero), state.get(i, zero)) for i in every}
    invalid = plan.active & ~plan.constant & (doses.lag >= period)
    state = {i: torch.where(invalid, torch.full_like(v, torch.nan), v) for i, v in state.items()}
    return overlap, [torch.where(plan.active, state.get(i, zero), zero) for i in every]


def _steady_parts(
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
        & ((s[0] > 0) | ((s[0] == 0) & (batch.dose_record[:, None, :] < batch.slot_record[:, :, None])))
    )
    s = torch.where(active, s, torch.zeros_like(s))
    vector = {i: torch.where(active, v.unsqueeze(-2), torch.zeros_like(s)) for i, v in enumerate(state)}
    parts = [_apply(dynamics.transfer(wide, s, tuple(range(n))), vector, n)]
    if not doses.infusions:
        return parts
    columns = _dose_columns(batch)
    left, running = implied_infusions(batch, doses, overlap)
    if left is None or running is None:
        return parts
    for time_left, on in zip(left.unbind(-1), running.unbind(-1), strict=True):
        during = torch.minimum(s, time_left[:, :, None, :])
        rate = torch.where(active & on[:, :, None, :], doses.rate[:, :, None, :], torch.zeros_like(s))
        into = {c: rate * (batch.dose_cmt == c)[None, :, None, :] for c in columns}
        infused = _apply(dynamics.forced(wide, during, columns), into, n)
        parts.append(_apply(dynamics.transfer(wide, s - during, tuple(sorted(infused))), infused, n))
    return parts


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
        initial: Compartment index -> initial amount [K, R, 1].

    Returns:
        One tensor [K, R, N] per compartment.
    """
    n = len(dynamics.compartments)
    every = tuple(range(n))
    overlap, steady = None, None
    if bool_cached(batch, "any_ss", lambda: (batch.dose_ss > 0).any()):
        at_dose = Names("p", {k: gather_time(v, batch.dose_record) for k, v in p_record.items()})
        overlap, states = steady_state(dynamics, at_dose, batch, doses)
        steady = torch.stack(torch.broadcast_tensors(*states), -1)
    start = _initial_vector(initial, n, batch)
    line = build_timeline(batch, doses, n, start, overlap, steady)
    p = Names("p", {k: gather_time(v, line.record) for k, v in p_interval.items()})
    a = _as_matrix(dynamics.transfer(p, line.dt, every), n)
    b = line.add
    if line.rate is not None:
        forced = _as_matrix(dynamics.forced(p, line.dt, every), n)
        b = b + line.keep.unsqueeze(-1) * (forced @ line.rate.unsqueeze(-1)).squeeze(-1)
    a = a * line.keep[..., None, None]
    x = affine_scan(a, b, start)
    return [gather_time(v, line.slot) for v in x.unbind(-1)]


def _initial_vector(initial: Mapping[int, Tensor], n: int, batch: Batch) -> Tensor:
    """Initial amounts as a vector, [K, R, n]."""
    zero = torch.zeros(1, batch.rows, 1, dtype=batch.time.dtype, device=batch.device)
    parts = torch.broadcast_tensors(*[initial.get(i, zero) + zero for i in range(n)])
    return torch.cat(parts, -1)


def _as_matrix(entries: Entries, n: int) -> Tensor:
    lead = torch.broadcast_shapes(*(v.shape for v in entries.values()))
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
    lead = torch.broadcast_shapes(a.shape[:-3], b.shape[:-2], start.shape[:-1])
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
