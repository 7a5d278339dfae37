"""Records packed for computation: padded tensors, one row per subject."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.data.events import (
    DOSE,
    END,
    MARK,
    PAD,
    RESET,
    STEADY,
    continuous_clock,
    expand_doses,
    occasion_numbers,
    order_events,
    padded_index,
    position_in_group,
)
from deepnlme.data.interpolation import interval_covariates
from deepnlme.data.layout import Layout, compartment_index, endpoint_index
from deepnlme.data.population import Population
from deepnlme.data.records import Records
from deepnlme.errors import DataError

__all__ = [
    "DOSE",
    "END",
    "MARK",
    "PAD",
    "RESET",
    "STEADY",
    "Batch",
    "Layout",
    "compartment_index",
    "endpoint_index",
    "pack",
]


@dataclass
class Memory:
    """What a solver keeps between evaluations of the same rows, by name.

    Attributes:
        size: Number of rows.
        values: By name.
        parent: The memory and its rows that this one starts from.
    """

    size: int
    values: dict[str, Any] = field(default_factory=dict)
    parent: tuple[Memory, Tensor] | None = None


@dataclass(frozen=True)
class Batch:
    """Padded tensors of a set of rows. Axes: R rows, T records, N slots, D doses, E events.

    A *slot* is a place where the observation model is evaluated; slots are grouped by endpoint. Padding repeats a
    valid entry, so that nothing infinite is computed there that is not elsewhere; `slot_valid` and `dose_valid` tell
    it apart. The slots of a subject without an observation of the endpoint are at its first record.

    Attributes:
        time: [R, T] time that never decreases within a row (a reset may restart the data's own clock).
        offset: [R, T] `time` minus the data's own time.
        segment: [R, T] number of resets at or before the record.
        slot_record: [R, N] record of each slot.
        y, limit: [R, N] observed value and censoring limit; cens: [R, N] 0 none, 1 below, -1 above.
        slot_row: [R, N] row of the source.
        slices: endpoint -> slots.
        dose_*: [R, D] every administration, additional doses expanded; `dose_record` is the record that gives it,
            `dose_effect` the first record at or after the time of the dose (its own for the doses of records).
        event_kind, event_ref: [R, E] the events in the order that decides ties; `event_ref` points to a record,
            dose or reset.
        reset_time, reset_record: [R, Z] times and records of resets; `reset_steady` whether a steady-state dose
            (SS=1) made them, which sets the state itself.
        covariates: name -> (at the record, over the interval ending at it), each [R, T] or [R, 1].
        tensors: name -> [R, 1, M], one array per subject flattened to M components.
        occasion: [R, T] of the record and of the interval that ends there, numbered from 0 within the subject.
    """

    subject: Tensor
    time: Tensor
    offset: Tensor
    segment: Tensor
    slot_record: Tensor
    slot_valid: Tensor
    slot_row: Tensor
    y: Tensor
    cens: Tensor
    limit: Tensor
    dose_record: Tensor
    dose_effect: Tensor
    dose_time: Tensor
    dose_amount: Tensor
    dose_rate: Tensor
    dose_duration: Tensor
    dose_cmt: Tensor
    dose_segment: Tensor
    dose_additional: Tensor
    dose_ss: Tensor
    dose_ii: Tensor
    dose_valid: Tensor
    event_kind: Tensor
    event_ref: Tensor
    reset_time: Tensor
    reset_record: Tensor
    reset_steady: Tensor
    occasion: Tensor
    covariates: dict[str, tuple[Tensor, Tensor]]
    slices: dict[str, slice] = field(metadata={"static": True})
    memory: Memory | None = field(default=None, metadata={"static": True}, repr=False, compare=False)
    place: Tensor | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict, metadata={"static": True}, repr=False, compare=False)

    @property
    def rows(self) -> int:
        """Number of rows R."""
        return self.subject.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.time.device

    def take(self, index: Tensor) -> Batch:
        """The rows at `index` (repetition allowed)."""
        return self._map(lambda x: x.index_select(0, index))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._map(lambda x: x.to(device))

    def tile(self, copies: int) -> Batch:
        """The rows repeated `copies` times, one block after another; remembered, since optimisers ask again."""
        if copies == 1:
            return self
        key = f"tile{copies}"
        if key not in self.cache:
            tiled = self.take(torch.arange(self.rows, device=self.device).repeat(copies))
            assert self.memory is not None and tiled.place is not None
            memory = Memory(tiled.rows, parent=(self.memory, tiled.place))
            self.cache[key] = replace(tiled, memory=memory, place=torch.arange(tiled.rows, device=self.device))
        return self.cache[key]

    def _map(self, function: Any) -> Batch:
        new: dict[str, Any] = {"cache": {}}
        for f in fields(self):
            if f.metadata.get("static"):
                continue
            value = getattr(self, f.name)
            if value is not None:
                new[f.name] = _each(function, value)
        return replace(self, **new)


def _each(function: Any, value: Any) -> Any:
    """A function of every tensor in a tensor, a tuple or a dict."""
    if isinstance(value, tuple):
        return tuple(_each(function, v) for v in value)
    if isinstance(value, dict):
        return {k: _each(function, v) for k, v in value.items()}
    return function(value)


def pack(population: Population, layout: Layout, slots: str = "observations") -> Batch:
    """Pack a population into padded float64 tensors.

    Args:
        population: The data.
        layout: What the model needs.
        slots: "observations": evaluate the observation model at observations only. "records": every record is a slot
            of its endpoint (of the first, where it is not an observation; not valid then). "any": as "records" but
            with a single endpoint, whatever the data say.

    Raises:
        DataError: A compartment, endpoint or covariate that the model and the data do not share.
    """
    r, starts, n = population.records, population.starts, len(population)
    missing = [c for c in layout.covariates if c not in r.covariates]
    if missing:
        raise DataError(
            f"Invalid covariate: the model reads cov.{missing[0]}, the population has "
            f"{', '.join(r.covariates) or '(none)'}. Read it with read_nonmem(..., covariates=[{missing[0]!r}])."
        )
    clock, offset = continuous_clock(r, starts)
    resets = np.isin(r.evid, (3, 4)) | (r.doses & (r.ss == 1))
    running = np.cumsum(resets)
    segment = running - (running - resets)[starts[:-1]][r.subject]
    cmt = compartment_index(population, layout) if slots != "any" else np.zeros(len(r.time), dtype=np.int64)
    doses = expand_doses(r, starts, cmt, segment, clock)

    rec, _ = padded_index(r.subject, n)
    slot_rec, slot_valid, slices = _slots(population, layout, slots)
    dose, dose_valid = padded_index(doses["subject"], n)
    reset_flat = np.flatnonzero(resets)
    reset, reset_valid = padded_index(r.subject[reset_flat], n)
    covariates = {c: _covariate(r, rec, c, population.interpolation[c]) for c in layout.covariates}
    varying = layout.occasions or any(v.shape[1] > 1 for pair in covariates.values() for v in pair)
    marked = np.ones(len(r.time), dtype=bool) if varying else np.zeros(len(r.time), dtype=bool)
    marked[(slot_rec + starts[:-1][:, None]).ravel()] = True
    infusion = (doses["rate"] != 0) | (doses["duration"] > 0) | layout.any_infusion
    kind, ref = order_events(r, n, starts, doses, infusion, reset_flat, np.flatnonzero(marked))
    occasion = occasion_numbers(r) if layout.occasions else np.zeros(len(r.time), dtype=np.int64)

    def real(x: np.ndarray) -> Tensor:
        return torch.tensor(np.ascontiguousarray(x), dtype=torch.float64)

    def whole(x: np.ndarray) -> Tensor:
        return torch.tensor(np.ascontiguousarray(x), dtype=torch.int64)

    def of_dose(key: str) -> np.ndarray:
        flat = doses[key]
        return flat[dose] if len(flat) else np.zeros((n, 0), dtype=flat.dtype)

    def of_reset(flat: np.ndarray) -> np.ndarray:
        return flat[reset_flat][reset] if len(reset_flat) else np.zeros((n, 0), dtype=flat.dtype)

    flat_slot = slot_rec + starts[:-1][:, None]
    amount = np.where(dose_valid, of_dose("amount"), 0.0)
    return Batch(
        subject=torch.arange(n),
        time=real(clock[rec]),
        offset=real(offset[rec]),
        segment=whole(segment[rec]),
        slot_record=whole(slot_rec),
        slot_valid=torch.tensor(slot_valid),
        slot_row=whole(r.row[flat_slot]),
        y=real(r.dv[flat_slot]),
        cens=whole(np.where(slot_valid, r.cens[flat_slot], 0)),
        limit=real(r.limit[flat_slot]),
        dose_record=whole(of_dose("record")),
        dose_effect=whole(of_dose("effect")),
        dose_time=real(of_dose("time")),
        dose_amount=real(amount),
        dose_rate=real(of_dose("rate")),
        dose_duration=real(of_dose("duration")),
        dose_cmt=whole(np.maximum(of_dose("cmt"), 0)),
        dose_segment=whole(of_dose("segment")),
        dose_additional=torch.tensor(of_dose("additional")),
        dose_ss=whole(np.where(dose_valid, of_dose("ss"), 0)),
        dose_ii=real(of_dose("ii")),
        dose_valid=torch.tensor(dose_valid),
        event_kind=whole(kind),
        event_ref=whole(ref),
        reset_time=real(np.where(reset_valid, of_reset(clock), np.inf)),
        reset_record=whole(np.where(reset_valid, of_reset(position_in_group(r.subject)), 0)),
        reset_steady=torch.tensor(of_reset(r.ss == 1) & reset_valid),
        occasion=whole(occasion[rec]),
        covariates=covariates,
        slices=slices,
        memory=Memory(n),
        place=torch.arange(n),
        tensors={name: real(population.tensors[name].reshape(n, 1, -1)) for name in layout.tensors},
    )


def _covariate(r: Records, rec: np.ndarray, name: str, rule: str) -> tuple[Tensor, Tensor]:
    """A covariate at the records and over the intervals that end there, [R, T], or [R, 1] if it never changes."""
    at_record = torch.tensor(r.covariates[name][rec])
    if bool((at_record == at_record[:, :1]).all()):
        return at_record[:, :1].contiguous(), at_record[:, :1].contiguous()
    over = at_record if rule == "nocb" else torch.tensor(interval_covariates(r, name, rule)[rec])
    return at_record, over


def _slots(population: Population, layout: Layout, slots: str) -> tuple[np.ndarray, np.ndarray, dict[str, slice]]:
    """Record (within its subject) of every slot, whether it is a valid observation, and each endpoint's slots."""
    r, starts, n = population.records, population.starts, len(population)
    endpoint = np.full(len(r.time), -1) if slots == "any" else endpoint_index(population, layout)
    if slots != "observations":
        endpoint = np.where(endpoint < 0, 0, endpoint)
    index, valid, slices, start = [], [], {}, 0
    for e, name in enumerate(layout.endpoints):
        flat = np.flatnonzero(endpoint == e)
        position, ok = padded_index(r.subject[flat], n)
        if len(flat):
            local = np.where(np.any(ok, axis=1, keepdims=True), flat[position] - starts[:-1][:, None], 0)
        else:
            local = np.zeros((n, 0), dtype=np.int64)
        ok = ok & r.observed[local + starts[:-1][:, None]] if local.shape[1] else ok
        index.append(local)
        valid.append(ok)
        slices[name] = slice(start, start + local.shape[1])
        start += local.shape[1]
    if not index:
        return np.zeros((n, 0), dtype=np.int64), np.zeros((n, 0), dtype=bool), slices
    return np.concatenate(index, 1), np.concatenate(valid, 1), slices
