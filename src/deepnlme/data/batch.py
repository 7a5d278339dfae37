"""Records packed for computation: padded tensors, one row per subject."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.data.population import Population
from deepnlme.data.records import Records
from deepnlme.errors import DataError

MARK, DOSE, END, RESET, STEADY, PAD = 0, 1, 2, 3, 4, 5
"""What an event on the timeline is: a record, the start of a dose, the end of an infusion, a reset, the record of a
steady-state dose, nothing."""


@dataclass(frozen=True)
class Batch:
    """Padded tensors of a set of rows. Axes: R rows, T records, N slots, D doses, E events.

    A *slot* is a place where the observation model is evaluated; slots are grouped by endpoint. Padding repeats a
    valid entry, so that nothing infinite is ever computed there; `slot_valid` and `dose_valid` tell it apart.

    Attributes:
        time: [R, T] time that never decreases within a row (a reset may restart the data's own clock).
        offset: [R, T] `time` minus the data's own time.
        segment: [R, T] number of resets at or before the record.
        slot_record: [R, N] record of each slot.
        y, limit: [R, N] observed value and censoring limit; cens: [R, N] 0 none, 1 below, -1 above.
        slot_row: [R, N] row of the source.
        slices: endpoint -> slots.
        dose_*: [R, D] every administration, additional doses expanded.
        event_kind, event_ref: [R, E] the events in the order that decides ties; `event_ref` points to a record,
            dose or reset.
        reset_time: [R, Z] times of resets; reset_steady: whether a steady-state dose (SS=1) made them.
        covariates: name -> (at the record, over the interval ending at it), each [R, T] or [R, 1].
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
    reset_steady: Tensor
    occasion: Tensor
    covariates: dict[str, tuple[Tensor, Tensor]]
    slices: dict[str, slice] = field(metadata={"static": True})
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
            self.cache[key] = self.take(torch.arange(self.rows, device=self.device).repeat(copies))
        return self.cache[key]

    def _map(self, function: Any) -> Batch:
        new: dict[str, Any] = {"cache": {}}
        for f in fields(self):
            if f.metadata.get("static"):
                continue
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                new[f.name] = function(value)
            elif isinstance(value, tuple):
                new[f.name] = tuple(function(v) for v in value)
            else:
                new[f.name] = {k: tuple(function(v) for v in pair) for k, pair in value.items()}
        return replace(self, **new)


@dataclass(frozen=True)
class Layout:
    """What a model needs to know of the data to pack it.

    Attributes:
        compartments: Names, in the order of NONMEM's numbers.
        dose_compartment: Where doses without CMT go.
        endpoints: Names of the observed quantities.
        covariates: Names of the covariates to pack.
        occasions: Whether occasions matter.
        any_infusion: Whether doses without RATE may become infusions (a modelled duration).
    """

    compartments: tuple[str, ...]
    dose_compartment: int
    endpoints: tuple[str, ...]
    covariates: tuple[str, ...]
    occasions: bool = False
    any_infusion: bool = False


def _where(population: Population, record: int) -> str:
    r = population.records
    return f"subject {population.ids[r.subject[record]]}, row {r.row[record]} (time {r.time[record]:g})"


def compartment_index(population: Population, layout: Layout) -> np.ndarray:
    """Index of the compartment of every record's dose, [N_records]; -1 for records that do not dose."""
    r = population.records
    out = np.full(len(r.time), -1)
    dosing = np.isin(r.evid, (1, 4))
    for text in np.unique(r.cmt[dosing]):
        rows = np.flatnonzero(dosing & (r.cmt == text))
        number = int(text) if text.isdigit() else None
        if text in ("", "0"):
            index = layout.dose_compartment
        elif text in layout.compartments:
            index = layout.compartments.index(text)
        elif number is not None and 1 <= number <= len(layout.compartments):
            index = number - 1
        else:
            named = ", ".join(f"{i + 1} ({c})" for i, c in enumerate(layout.compartments)) or "(none)"
            raise DataError(
                f"Invalid `CMT`: got {text} for {_where(population, rows[0])}, expected one of {named}: "
                "the compartments of the model's dynamics."
            )
        out[rows] = index
    if dosing.any() and not layout.compartments:
        raise DataError(
            f"Invalid dose for {_where(population, int(np.flatnonzero(dosing)[0]))}: the model has no dynamics, so a "
            "dose has nowhere to go. Declare dynamics, or drop the dose records."
        )
    return out


def endpoint_index(population: Population, layout: Layout, anywhere: bool = False) -> np.ndarray:
    """Index of the endpoint of every observation, [N_records]; -1 for records that are not observations.

    Names are matched as they are; endpoints that are numbers 1, 2, ... are matched with the model's by position.
    """
    r = population.records
    out = np.full(len(r.time), -1)
    rows = np.flatnonzero(r.observed)
    found = list(np.unique(r.endpoint[rows]))
    numbered = all(t.isdigit() and 1 <= int(t) <= len(layout.endpoints) for t in found)
    for text in found:
        here = rows[r.endpoint[rows] == text]
        if text in layout.endpoints:
            index = layout.endpoints.index(text)
        elif len(layout.endpoints) == 1 and len(found) == 1:
            index = 0
        elif text != "" and numbered:
            index = int(text) - 1
        else:
            raise DataError(
                f"Invalid endpoint: got {text or '(none)'!r} for {_where(population, int(here[0]))}, expected one of "
                f"{', '.join(layout.endpoints)}: the names that the model's `observe` returns. "
                'Give read_nonmem endpoints={1: "%s", ...}, or select the records.' % layout.endpoints[0]
            )
        out[here] = index
    return out


def _clock(r: Records, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Time that never decreases within a subject, and what was added to reach it."""
    offset = np.zeros(len(r.time))
    back = np.flatnonzero((np.diff(r.time) < 0) & (np.diff(r.subject) == 0)) + 1
    for i in back:  # rare: only where a reset restarts the clock
        end = starts[r.subject[i] + 1]
        offset[i:end] += r.time[i - 1] - r.time[i]
    return r.time + offset, offset


def _position(groups: np.ndarray) -> np.ndarray:
    """Running number of each entry within its (contiguous, sorted) group."""
    if len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    first = np.r_[0, np.flatnonzero(np.diff(groups)) + 1]
    return np.arange(len(groups)) - np.repeat(first, np.diff(np.r_[first, len(groups)]))


def _padded(groups: np.ndarray, n_groups: int, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """[n_groups, width] positions into the entries, padded with the group's last one, and which are valid."""
    count = np.bincount(groups, minlength=n_groups)
    width = int(count.max(initial=0)) if width is None else width
    start = np.r_[0, np.cumsum(count)[:-1]]
    slot = np.arange(width)[None, :]
    valid = slot < count[:, None]
    index = start[:, None] + np.minimum(slot, np.maximum(count[:, None] - 1, 0))
    return np.minimum(index, max(len(groups) - 1, 0)), valid


def _expand_doses(r: Records, starts: np.ndarray, cmt: np.ndarray, segment: np.ndarray, clock: np.ndarray) -> dict:
    """Every administration, additional doses included, as flat arrays sorted by subject, record, number."""
    main = np.flatnonzero(np.isin(r.evid, (1, 4)))
    last = clock[starts[1:] - 1][r.subject[main]]
    # additional doses after the subject's last record have no effect on anything
    useful = np.zeros(len(main), dtype=np.int64)
    has = r.addl[main] > 0
    useful[has] = np.minimum(r.addl[main][has], np.floor((last[has] - clock[main][has]) / r.ii[main][has] + 1e-9))
    record = np.repeat(main, 1 + useful)
    number = np.arange(len(record)) - np.repeat(np.cumsum(1 + useful) - (1 + useful), 1 + useful)
    extra = number > 0
    return {
        "subject": r.subject[record],
        "record": record - starts[r.subject[record]],
        "time": clock[record] + np.where(extra, number * r.ii[record], 0.0),
        "amount": r.amt[record],
        "rate": r.rate[record],
        "duration": r.duration[record],
        "cmt": cmt[record],
        "segment": segment[record],
        "additional": extra,
        "ss": np.where(extra, 0, r.ss[record]),
        "ii": r.ii[record],
    }


def _interval_values(values: np.ndarray, subject: np.ndarray, rule: str) -> np.ndarray:
    """What holds over the interval that ends at each record."""
    if rule == "nocb":
        return values
    previous = values.copy()
    same = np.r_[False, np.diff(subject) == 0]
    previous[same] = values[:-1][same[1:]]
    return previous if rule == "locf" else 0.5 * (previous + values)


def _occasions(r: Records) -> np.ndarray:
    """Occasions numbered from 0 within each subject, in order of appearance."""
    change = np.r_[True, (np.diff(r.subject) != 0) | (np.diff(r.occasion) != 0)]
    out = np.zeros(len(r.subject), dtype=np.int64)
    seen: dict[tuple[int, int], int] = {}
    count: dict[int, int] = {}
    current = 0
    for i in np.flatnonzero(change):  # once per change of occasion, at packing only
        key = (int(r.subject[i]), int(r.occasion[i]))
        if key not in seen:
            seen[key] = count.get(key[0], 0)
            count[key[0]] = seen[key] + 1
        current = seen[key]
        out[i:] = current
    return out


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
    clock, offset = _clock(r, starts)
    resets = np.isin(r.evid, (3, 4)) | (np.isin(r.evid, (1, 4)) & (r.ss == 1))
    running = np.cumsum(resets)
    segment = running - (running - resets)[starts[:-1]][r.subject]
    cmt = compartment_index(population, layout) if slots != "any" else np.zeros(len(r.time), dtype=np.int64)
    doses = _expand_doses(r, starts, cmt, segment, clock)

    rec, _ = _padded(r.subject, n)
    slot_rec, slot_valid, slices = _slots(population, layout, slots)
    dose, dose_valid = _padded(doses["subject"], n)
    reset_flat = np.flatnonzero(resets)
    reset, reset_valid = _padded(r.subject[reset_flat], n)
    covariates = {}
    for name in layout.covariates:
        rule = population.interpolation[name]
        covariates[name] = _covariate(r, rec, r.covariates[name], rule)
    varying = layout.occasions or any(v.shape[1] > 1 for pair in covariates.values() for v in pair)
    marked = np.ones(len(r.time), dtype=bool) if varying else np.zeros(len(r.time), dtype=bool)
    marked[(slot_rec + starts[:-1][:, None]).ravel()] = True
    infusion = (doses["rate"] != 0) | (doses["duration"] > 0) | layout.any_infusion
    kind, ref = _events(r, n, starts, doses, infusion, reset_flat, np.flatnonzero(marked))
    occasion = _occasions(r) if layout.occasions else np.zeros(len(r.time), dtype=np.int64)

    def real(x: np.ndarray) -> Tensor:
        return torch.tensor(np.ascontiguousarray(x), dtype=torch.float64)

    def whole(x: np.ndarray) -> Tensor:
        return torch.tensor(np.ascontiguousarray(x), dtype=torch.int64)

    def of_dose(key: str) -> np.ndarray:
        flat = doses[key]
        return flat[dose] if len(flat) else np.zeros((n, 0), dtype=flat.dtype)

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
        reset_time=real(np.where(reset_valid, clock[reset_flat][reset], np.inf))
        if len(reset_flat)
        else real(np.zeros((n, 0))),
        reset_steady=torch.tensor((r.evid[reset_flat] == 1)[reset] & reset_valid)
        if len(reset_flat)
        else torch.zeros(n, 0, dtype=torch.bool),
        occasion=whole(occasion[rec]),
        covariates=covariates,
        slices=slices,
    )


def _covariate(r: Records, rec: np.ndarray, values: np.ndarray, rule: str) -> tuple[Tensor, Tensor]:
    at_record = torch.tensor(values[rec])
    if bool((at_record == at_record[:, :1]).all()):
        return at_record[:, :1].contiguous(), at_record[:, :1].contiguous()
    over = at_record if rule == "nocb" else torch.tensor(_interval_values(values, r.subject, rule)[rec])
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
        position, ok = _padded(r.subject[flat], n)
        if len(flat):
            local = np.where(ok.any(1)[:, None], flat[position] - starts[:-1][:, None], 0)
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


def _events(
    r: Records,
    n: int,
    starts: np.ndarray,
    doses: dict[str, np.ndarray],
    infusion: np.ndarray,
    resets: np.ndarray,
    marked: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Events of each row in the order that decides ties at equal times: see `deepnlme.dynamics.timeline`."""
    subject, key, kind, ref = [], [], [], []

    def add(who: np.ndarray, order: np.ndarray, what: int, index: np.ndarray) -> None:
        subject.append(who)
        key.append(order)
        kind.append(np.full(len(who), what))
        ref.append(index)

    record = np.arange(len(r.subject)) - starts[r.subject]
    index_in_row = _position(doses["subject"])
    add(doses["subject"][infusion], np.full(int(infusion.sum()), -2), END, index_in_row[infusion])
    add(doses["subject"], np.where(doses["additional"], -1, 4 * doses["record"] + 2), DOSE, index_in_row)
    steady = np.flatnonzero(doses["ss"] > 0)
    add(doses["subject"][steady], 4 * doses["record"][steady] + 1, STEADY, index_in_row[steady])
    add(r.subject[marked], 4 * record[marked] + 3, MARK, record[marked])
    add(r.subject[resets], 4 * record[resets], RESET, _position(r.subject[resets]))
    who, order = np.concatenate(subject), np.concatenate(key)
    rank = np.lexsort((order, who))
    position, valid = _padded(who[rank], n)
    kinds = np.where(valid, np.concatenate(kind)[rank][position], PAD)
    return kinds, np.where(valid, np.concatenate(ref)[rank][position], 0)
