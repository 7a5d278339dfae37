"""Rows with about as many doses each, so that a few with a thousand do not make all others as wide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.data.batch import Batch
from deepnlme.dynamics.administration import Administered

LEAST = 20_000
"""Pairs of a slot and a dose in a padded batch below which it is left whole."""
GAIN = 2.0
"""How many times fewer pairs there have to be in buckets."""

Solve = Callable[[Names, Batch, Administered, Mapping[int, Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Bucket:
    """Some rows of a batch without the padding that only others need.

    Attributes:
        rows: [B] their positions.
        place: [N] the slot of the bucket that has each slot of the batch; slots that repeat the one before are one.
        doses: Number of doses.
        batch: The rows.
    """

    rows: Tensor
    place: Tensor
    doses: int
    batch: Batch

    @classmethod
    def of(cls, batch: Batch, rows: Tensor) -> Bucket:
        """The bucket of some rows."""
        own = batch.take(rows)
        d = int(own.dose_valid.sum(1).max())
        record = own.slot_record
        new = torch.ones(record.shape[1], dtype=torch.bool, device=record.device)
        new[1:] = (record[:, 1:] != record[:, :-1]).any(0)
        named = {name: getattr(own, name)[:, :d] for name in vars(own) if name.startswith("dose_")}
        return cls(rows, torch.cumsum(new, 0) - 1, d, replace(own, slot_record=record[:, new], cache={}, **named))

    def administered(self, doses: Administered) -> Administered:
        """The doses of these rows."""
        parts = {
            name: value[:, :, : self.doses] if value.shape[2] > 1 else value
            for name in ("start", "lag", "amount", "duration", "rate")
            for value in [_of_rows(getattr(doses, name), self.rows)]
        }
        return replace(doses, **parts)


def _of_rows(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] > 1:
        return value.index_select(1, rows)
    return value


def buckets(batch: Batch) -> list[Bucket] | None:
    """Rows put together by number of doses, in powers of two; None where that saves too little."""
    if "buckets" not in batch.cache:
        batch.cache["buckets"] = _cut(batch)
    return batch.cache["buckets"]


def _cut(batch: Batch) -> list[Bucket] | None:
    slots, doses = batch.slot_record.shape[1], batch.dose_time.shape[1]
    whole = batch.rows * slots * doses
    if whole < LEAST:
        return None
    count = batch.dose_valid.sum(1)
    level = torch.ceil(torch.log2(count.clamp(min=1).to(torch.float64))).to(torch.int64)
    saved = int((slots * 2**level).sum())
    if whole < GAIN * saved:
        return None
    return [Bucket.of(batch, torch.nonzero(level == i).flatten()) for i in torch.unique(level).tolist()]


def by_buckets(
    parts: list[Bucket], solve: Solve, p: Names, doses: Administered, initial: Mapping[int, Tensor]
) -> list[Tensor]:
    """Amounts at every slot [K, R, N] of each compartment, bucket by bucket.

    Args:
        parts: The buckets.
        solve: What gives the amounts of a whole batch.
        p: Individual parameters.
        doses: Effective doses [K, R, D].
        initial: Compartment index -> initial amount.
    """
    found = []
    for part in parts:
        own_p = Names("p", {name: _of_rows(value, part.rows) for name, value in p.items()})
        own_initial = {i: _of_rows(value, part.rows) for i, value in initial.items()}
        states = solve(own_p, part.batch, part.administered(doses), own_initial)
        found.append([state.index_select(2, part.place) for state in states])
    order = torch.argsort(torch.cat([part.rows for part in parts]))
    out = []
    for pieces in zip(*found, strict=True):
        k = max(piece.shape[0] for piece in pieces)
        out.append(torch.cat([piece.expand(k, -1, -1) for piece in pieces], 1).index_select(1, order))
    return out
