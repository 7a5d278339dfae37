"""Each row's own timeline: its events in order, and what every engine needs to move along it.

Ties at equal times are decided as follows, for every engine: infusions end first; then additional doses (ADDL) act;
then the records act in the order of the file, a reset before the dose of the same record, and the record itself is read
last: at a dose record the state includes the dose. A dose that lag time moves to the time of a record acts before that
record. Doses given before a reset or a steady-state dose with SS=1 (their infusions, lagged and additional doses too)
have no effect after it. The semantics are those of NONMEM's PREDPP (Users Guide VI, chapter V; help on DOSE, SS, ADDL),
but for what docs/events.md lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepnlme.data.batch import DOSE, END, MARK, PAD, RESET, STEADY, Batch
from deepnlme.dynamics.administration import Administered


def gather_time(value: Tensor, index: Tensor) -> Tensor:
    """Entries of [K, R, T] at `index` [R, N] or [K, R, N]; values constant in time ([K, R, 1]) stay as they are."""
    if not isinstance(value, Tensor) or value.dim() < 3 or value.shape[2] == 1:
        return value
    index = index if index.dim() == 3 else index.unsqueeze(0)
    lead = np.broadcast_shapes(value.shape[:2], index.shape[:2])
    tail = value.shape[3:]
    wide = index.expand(*lead, -1)
    wide = wide.reshape(*wide.shape, *([1] * len(tail))).expand(*wide.shape, *tail)
    return value.expand(*lead, *value.shape[2:]).gather(2, wide)


@dataclass(frozen=True)
class Timeline:
    """Events in order. Axes: K directions, R rows, E events, n compartments.

    Attributes:
        dt: [K, R, E] time since the previous event.
        time: [K, R, E] time of the event.
        keep: [K, R, E] 0 where the event wipes the state, else 1.
        add: [K, R, E, n] what the event adds to the state.
        jump: [K, R, E] whether the event may change the state (also where it happens to add nothing).
        rate: [K, R, E, n] infusion rate over the stretch that ends at the event, or None without infusions.
        record: [K, R, E] record whose interval parameters hold over that stretch.
        slot: [K, R, N] event at which each slot is read.
    """

    dt: Tensor
    time: Tensor
    keep: Tensor
    add: Tensor
    jump: Tensor
    rate: Tensor | None
    record: Tensor
    slot: Tensor


@dataclass(frozen=True)
class _Events:
    """Events while they are being sorted: all [K, R, E]."""

    time: Tensor
    kind: Tensor
    ref: Tensor

    def join(self, other: _Events) -> _Events:
        """These events, then the others."""
        k = max(self.time.shape[0], other.time.shape[0])
        pairs = ((self.time, other.time), (self.kind, other.kind), (self.ref, other.ref))
        return _Events(*(torch.cat([a.expand(k, *a.shape[1:]), b.expand(k, *b.shape[1:])], -1) for a, b in pairs))

    def sort(self) -> _Events:
        """In order of time; equal times keep their order."""
        order = torch.sort(self.time.detach(), dim=-1, stable=True).indices
        return _Events(*(v.expand_as(self.time).gather(-1, order) for v in (self.time, self.kind, self.ref)))


def build_timeline(
    batch: Batch,
    doses: Administered,
    n: int,
    initial: Tensor,
    overlap: Tensor | None = None,
    steady: Tensor | None = None,
) -> Timeline:
    """Sort the events of every row by time and turn doses into jumps and rates.

    Args:
        batch: Packed records, events in tie order.
        doses: Effective doses [K, R, D].
        n: Number of compartments.
        initial: [K, R, 1 or 1 + Z, n] the state at the start and set by each reset.
        overlap: [K, R, D] number of earlier infusions still running at a steady-state dose; with `steady`.
        steady: [K, R, D, n] the state at each steady-state dose's record.
    """
    events = _Events(_event_times(batch, doses), batch.event_kind.unsqueeze(0), batch.event_ref.unsqueeze(0))
    running = None
    if overlap is not None and doses.infusions:
        left, implied = implied_infusions(batch, doses, overlap)
        if left is not None and implied is not None:
            running = implied.sum(-1)
            events = _implied_ends(batch, left, implied).join(events)
    events = events.sort()
    # from the first record on, although the first event (a lagged dose, a marked record) may come later
    begin = batch.time[:, :1].expand(events.time.shape[0], -1, -1)
    dt = torch.diff(events.time, dim=-1, prepend=begin)
    is_reset = events.kind == RESET
    segment = torch.cumsum(is_reset.to(torch.int64), -1)
    add = _reset_states(initial, is_reset, events.ref)
    add = torch.where(is_reset.unsqueeze(-1), add, torch.zeros_like(add))
    jump = is_reset
    rate = None
    if batch.reset_steady.shape[1] and steady is not None:
        by_ss = _at(batch.reset_steady, torch.where(is_reset, events.ref, torch.zeros_like(events.ref))) & is_reset
        add = torch.where(by_ss.unsqueeze(-1), torch.zeros_like(add), add)
    if batch.dose_time.shape[1]:
        given, acts, change = _dose_effects(batch, doses, n, events, segment, running, steady)
        add, jump = add + given, jump | acts
        rate = _rates(*change, is_reset) if change is not None else None
    is_mark = events.kind == MARK
    record = torch.where(is_mark, events.ref, torch.full_like(events.ref, batch.time.shape[1] - 1))
    record = torch.flip(torch.cummin(torch.flip(record, (-1,)), -1).values, (-1,))
    keep = 1.0 - is_reset.to(dt.dtype)
    return Timeline(dt, events.time, keep, add, jump, rate, record, _slot_events(batch, is_mark, events.ref))


def initial_states(initial: Mapping[int, Tensor], n: int, batch: Batch) -> Tensor:
    """State at the start and after each reset, [K, R, 1 + Z, n], or [K, R, 1, n] where all are equal.

    Args:
        initial: Compartment index -> amount at the records, [K, R, 1 or T].
        n: Number of compartments.
        batch: Packed records.
    """
    zero = torch.zeros(1, batch.rows, 1, dtype=batch.time.dtype, device=batch.device)
    when = torch.cat([batch.reset_record.new_zeros(batch.rows, 1), batch.reset_record], 1)
    parts = torch.broadcast_tensors(*[gather_time(initial[i], when) + zero if i in initial else zero for i in range(n)])
    return torch.stack(parts, -1)


def _reset_states(initial: Tensor, is_reset: Tensor, ref: Tensor) -> Tensor:
    """The state that each reset sets, [K, R, E, n] (anything elsewhere)."""
    if initial.shape[2] == 1:
        return initial
    index = torch.where(is_reset, ref + 1, torch.zeros_like(ref))
    k = max(initial.shape[0], index.shape[0])
    index = index.expand(k, -1, -1).unsqueeze(-1).expand(-1, -1, -1, initial.shape[-1])
    return initial.expand(k, *initial.shape[1:]).gather(2, index)


def _at(value: Tensor, index: Tensor) -> Tensor:
    """Entries of [R, M] or [K, R, M] at `index` [K, R, E]."""
    value = value if value.dim() == 3 else value.unsqueeze(0)
    k = max(value.shape[0], index.shape[0])
    return value.expand(k, *value.shape[1:]).gather(-1, index.expand(k, *index.shape[1:]))


def _event_times(batch: Batch, doses: Administered) -> Tensor:
    """[K, R, E] time of every event: of its record, dose start, dose end or reset."""
    parts = [batch.time, doses.start, doses.start + doses.duration, batch.reset_time, batch.dose_time]
    parts = [v if v.dim() == 3 else v.unsqueeze(0) for v in parts]
    k = max(v.shape[0] for v in parts)
    every = torch.cat([v.expand(k, *v.shape[1:]) for v in parts], -1)
    t, d, z = batch.time.shape[1], batch.dose_time.shape[1], batch.reset_time.shape[1]
    kind, ref = batch.event_kind, batch.event_ref
    base = torch.zeros_like(ref)
    for what, start in ((DOSE, t), (END, t + d), (RESET, t + 2 * d), (STEADY, t + 2 * d + z)):
        base = torch.where(kind == what, torch.full_like(base, start), base)
    index = torch.where(kind == PAD, torch.full_like(base, t - 1), base + ref)
    return every.gather(-1, index.expand(k, -1, -1))


def implied_infusions(batch: Batch, doses: Administered, overlap: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Infusions of the doses before a steady-state dose that are still running at its record.

    Returns:
        Time left of the j-th one, and whether it is running, each [K, R, D, J]; None where there are none.
    """
    earlier = torch.ceil(doses.lag.detach() / batch.dose_ii.clamp(min=1e-300)).nan_to_num(0.0, 0.0, 0.0)
    repeated = (batch.dose_ss > 0) & (batch.dose_ii > 0)
    count = int(torch.where(repeated, overlap + earlier, torch.zeros_like(overlap)).max())
    if count == 0:
        return None, None
    j = torch.arange(1, count + 1, device=batch.device)
    left = (doses.lag + doses.duration).unsqueeze(-1) - j * batch.dose_ii.unsqueeze(-1)
    running = repeated.unsqueeze(-1) & (left > 0) & (doses.duration > 0).unsqueeze(-1)
    return torch.where(running, left, torch.zeros_like(left)), running


def _implied_ends(batch: Batch, left: Tensor, running: Tensor) -> _Events:
    """Ends of the implied infusions as events; those that are not stand at the row's last record, as padding does."""
    nowhere = batch.time[:, -1:, None].expand_as(left)
    time = torch.where(running, batch.dose_time.unsqueeze(-1) + left, nowhere).flatten(-2)
    dose = torch.arange(left.shape[-2], device=left.device).repeat_interleave(left.shape[-1]).expand_as(time)
    return _Events(time, torch.where(running.flatten(-2), END, PAD).expand_as(time), dose)


def _dose_effects(
    batch: Batch,
    doses: Administered,
    n: int,
    events: _Events,
    segment: Tensor,
    running: Tensor | None,
    steady: Tensor | None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """What each event does.

    Returns:
        What it adds to the state [K, R, E, n]; whether it acts on the state [K, R, E]; what it adds to the number of
        running infusions and to their total rate, each [K, R, E, n], or None without infusions.
    """
    kind = events.kind
    of_dose = (kind == DOSE) | (kind == END) | (kind == STEADY)
    dose = torch.where(of_dose, events.ref, torch.zeros_like(events.ref))
    active = of_dose & _at(batch.dose_valid, dose) & (_at(batch.dose_segment, dose) == segment)
    into = torch.nn.functional.one_hot(_at(batch.dose_cmt, dose), n).to(events.time.dtype)
    infused = _at(doses.duration, dose) > 0
    start, end, implied = active & (kind == DOSE), active & (kind == END), active & (kind == STEADY)
    amount = _at(doses.amount, dose)
    bolus = start & ~infused
    jump = torch.where(bolus, amount, torch.zeros_like(amount)).unsqueeze(-1) * into
    if steady is not None:
        k = max(steady.shape[0], dose.shape[0])
        index = dose.expand(k, -1, -1).unsqueeze(-1).expand(-1, -1, -1, n)
        state = steady.expand(k, *steady.shape[1:]).gather(2, index)
        jump = jump + torch.where(implied.unsqueeze(-1), state, torch.zeros_like(state))
    if not doses.infusions:
        return jump, bolus | implied, None
    sign = (start & infused).to(amount.dtype) - (end & infused).to(amount.dtype)
    if running is not None:
        sign = sign + implied.to(amount.dtype) * _at(running.to(amount.dtype), dose)
    count = sign.unsqueeze(-1) * into
    rate = torch.where(sign != 0, _at(doses.rate, dose), torch.zeros_like(sign))
    return jump, bolus | implied, (count, count * rate.unsqueeze(-1))


def _slot_events(batch: Batch, is_mark: Tensor, ref: Tensor) -> Tensor:
    """Event index of each slot's record, [K, R, N]."""
    events = torch.arange(ref.shape[-1], device=ref.device).expand_as(ref)
    t = batch.time.shape[1]
    where = torch.zeros(*ref.shape[:2], t + 1, dtype=torch.int64, device=ref.device)
    where = where.scatter(-1, torch.where(is_mark, ref, torch.full_like(ref, t)), events)
    return where.gather(-1, batch.slot_record.expand(ref.shape[0], -1, -1))


def _rates(count: Tensor, change: Tensor, is_reset: Tensor) -> Tensor:
    """Infusion rate over the stretch that ends at each event, [K, R, E, n]; a reset stops every infusion.

    It is exactly zero where no infusion runs, whatever rounding left of the sum of rates.
    """
    events = torch.arange(is_reset.shape[-1], device=change.device).expand_as(is_reset)
    opened = torch.cummax(torch.where(is_reset, events, torch.zeros_like(events)), -1).values
    index = opened.expand(change.shape[0], -1, -1).unsqueeze(-1).expand_as(change)
    has = (torch.cumsum(is_reset.to(torch.int64), -1) > 0).unsqueeze(-1)

    def since_reset(step: Tensor) -> Tensor:
        total = torch.cumsum(step.expand_as(change), 2)
        return total - torch.where(has, total.gather(2, index), torch.zeros_like(total))

    running = torch.where(since_reset(count) > 0.5, since_reset(change), torch.zeros_like(change))
    return torch.cat([torch.zeros_like(running[:, :, :1]), running[:, :, :-1]], 2)
