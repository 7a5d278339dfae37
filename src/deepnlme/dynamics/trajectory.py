"""A whole trajectory: the vector field on every stretch between events, and what the events do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.data.batch import Memory
from deepnlme.dynamics.vector_field import VectorField


def at_places(names: Names, kind: str, index: Tensor) -> Names:
    """Values [K, R, E] at the places `index` [R, G]; values constant in time as they are."""
    return Names(kind, {k: gather_places(v, index) if v.shape[2] > 1 else v for k, v in names.items()})


def mapped(names: Names, kind: str, function: Callable[[Tensor], Tensor]) -> Names:
    """Every tensor through `function`, those of networks included."""
    return Names(kind, {k: function(v) if isinstance(v, Tensor) else v.map(function) for k, v in names.items()})


def gather_places(value: Tensor, index: Tensor) -> Tensor:
    """Entries of [K, R, E, ...] at `index` [R, G]."""
    k, tail = value.shape[0], value.shape[3:]
    wide = index.reshape(1, *index.shape, *([1] * len(tail))).expand(k, *index.shape, *tail)
    return value.expand(k, index.shape[0], *value.shape[2:]).gather(2, wide)


@dataclass(frozen=True)
class Trajectory:
    """E stretches of time, each followed by an event.

    Attributes:
        field: The vector field.
        p: Individual parameters, each [K, R, 1] or [K, R, E].
        begin: [K, R, E] the data's time at which each stretch begins.
        length: [K, R, E] its length.
        rate: [K, R, E, n] infusion rate on it, or None.
        keep: [K, R, E] 0 where the event wipes the state, else 1.
        add: [K, R, E, n] what the event adds.
        start: [K, R, n] the state at the beginning.
        memory: Where meshes and states of these rows are kept between evaluations, or None.
        places: [R] their rows in the memory.
    """

    field: VectorField
    p: Names
    begin: Tensor
    length: Tensor
    rate: Tensor | None
    keep: Tensor
    add: Tensor
    start: Tensor
    memory: Memory | None = None
    places: Tensor | None = None

    @property
    def requires_grad(self) -> bool:
        """Whether anything here is differentiated."""
        tensors = [self.begin, self.length, self.add, self.start, *self.field.theta.values(), *self.p.values()]
        if self.rate is not None:
            tensors.append(self.rate)
        return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)

    def first_copy(self) -> Trajectory:
        """The rows once (all copies have the same values), detached."""

        def one(x: Tensor) -> Tensor:
            return x[:1].detach()

        theta = mapped(self.field.theta, "theta", one)
        return Trajectory(
            VectorField(self.field.dynamics, theta, self.field.compartments),
            Names("p", {k: one(v) for k, v in self.p.items()}),
            one(self.begin),
            one(self.length),
            None if self.rate is None else one(self.rate),
            one(self.keep),
            one(self.add),
            one(self.start),
            self.memory,
            self.places,
        )

    def take(self, index: Tensor) -> Trajectory:
        """Some of the rows."""

        def some(x: Tensor) -> Tensor:
            return x if x.shape[1] == 1 else x.index_select(1, index)

        theta = mapped(self.field.theta, "theta", some)
        return Trajectory(
            VectorField(self.field.dynamics, theta, self.field.compartments),
            Names("p", {k: some(v) for k, v in self.p.items()}),
            some(self.begin),
            some(self.length),
            None if self.rate is None else some(self.rate),
            some(self.keep),
            some(self.add),
            some(self.start),
        )
