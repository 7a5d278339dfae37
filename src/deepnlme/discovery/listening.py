"""A network that is listened to while the subjects of a fit are followed through time."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from deepnlme.axes import Names
from deepnlme.data import Population
from deepnlme.dynamics import gather_time
from deepnlme.dynamics.vector_field import VectorField
from deepnlme.estimation import Fit
from deepnlme.joint import Joint, Places
from deepnlme.joint.calling import model_arithmetic
from deepnlme.model import Model


@dataclass
class Ear:
    """Notes the calls of a network.

    Attributes:
        part: The method of the model that runs; "" while nothing is noted.
        heard: Part, inputs [1, R, T, inputs] and outputs [1, R, T, outputs] of every call.
    """

    part: str = ""
    heard: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)


def listening(model: Model, name: str, ear: Ear) -> Model:
    """The model with a network that tells the ear of every call."""
    network = model.networks[name]

    def values(x: Tensor, weights: Tensor) -> Tensor:
        y = network.values(x, weights)
        if ear.part:
            ear.heard.append((ear.part, x.detach(), y.detach()))
        return y

    spoken = copy.copy(network)
    spoken.values = values  # type: ignore[method-assign]
    probe = copy.copy(model)
    probe.declared = {**model.declared, name: spoken}
    return probe


@dataclass(frozen=True)
class Followed:
    """Some subjects of a fit at their EBEs.

    Attributes:
        fit: The fit.
        network: Name of the network.
        population: S of its subjects.
        mode: [S, k] whitened EBEs.
        points: Times of each subject, besides those of its observations.
    """

    fit: Fit
    network: str
    population: Population
    mode: np.ndarray
    points: int

    def tables(self, names: tuple[str, ...]) -> list[pd.DataFrame]:
        """One table for every call whose inputs are no plain numbers."""
        ear = Ear()
        probe = listening(self.fit.model, self.network, ear)
        places = Places.on_grids(self.population, Joint(probe, self.population[:1]), self._grids())
        joint = places.joint(probe, slice(0, len(self.population)), self.fit.joint.occasions)
        # the first subject once more, so that what is the same for all is told from what one subject has
        index = torch.tensor([*range(len(self.population)), 0])
        joint.batch = joint.batch.take(index)
        with torch.no_grad(), model_arithmetic():
            self._run(joint, torch.tensor(self.mode)[index].unsqueeze(0), ear)
        place = _Place.of(joint)
        tables = []
        for number, (part, x, y) in enumerate(ear.heard):
            if x.shape[1] > 1 or x.shape[2] > 1:
                tables.append(self._table(number + 1, part, x, y, place, names))
        return tables

    def _grids(self) -> list[np.ndarray]:
        """Times from the first record to the last observation, and those of the observations."""
        r, out = self.population.records, []
        for a, b in zip(self.population.starts[:-1], self.population.starts[1:], strict=True):
            seen = r.time[a:b][r.observed[a:b]]
            last = seen.max() if len(seen) else r.time[a:b].max()
            out.append(np.unique(np.concatenate([np.linspace(r.time[a], last, self.points), seen])))
        return out

    def _run(self, joint: Joint, z: Tensor, ear: Ear) -> None:
        """Every method of the model once, at the places."""
        batch, model = joint.batch, joint.model
        free = torch.tensor(self.fit.free, dtype=torch.float64).expand(1, batch.rows, -1)
        values = joint.space.values(free)
        states = joint.individuals(values, z, batch, order=0).states
        ear.part = "individual"
        theta, p, over, _ = joint.parameters(values, z, batch)
        if over is not p:  # the same once more, over the intervals between the records
            called = len(ear.heard)
            ear.heard = ear.heard[: called // 2]
        ear.part = "initial"
        joint.initial(theta, p)
        ear.part = "dosing"
        model.dosing(theta, p)
        sl = _places(joint)
        record = batch.slot_record[:, sl]
        time = (batch.time - batch.offset).gather(1, record).unsqueeze(0)
        x = {n: v[..., sl] for n, v in states.items()}
        ear.part = "observe"
        model.observe(theta, _gathered(p, record), Names("x", {**x, "time": time}))
        if model.is_ode:
            ear.part = "dynamics"
            field_ = VectorField(model.dynamics, theta, joint.compartments)
            field_(_gathered(over, record), time, torch.stack([x[n] for n in joint.compartments], -1))
        ear.part = ""

    def _table(
        self, number: int, part: str, x: Tensor, y: Tensor, place: _Place, names: tuple[str, ...]
    ) -> pd.DataFrame:
        """One call, a row for each place, or for each subject where nothing changes with time."""
        rows = len(self.population)
        constant = x.shape[2] == 1
        if not constant and x.shape[2] != place.record.shape[1]:  # at the records: individual, initial, dosing
            x, y = (_at(v, place.record) for v in (x, y))
        width = 1 if constant else place.record.shape[1]
        valid = torch.ones(rows, 1, dtype=torch.bool) if constant else place.valid[:rows]
        inputs, outputs = (v.expand(1, len(place.valid), width, v.shape[-1])[0, :rows][valid].numpy() for v in (x, y))
        who = np.repeat(np.arange(rows), width).reshape(rows, width)[valid.numpy()]
        time = np.full(rows, np.nan) if constant else place.time[:rows][valid].numpy()
        columns = {"ID": [self.population.ids[i] for i in who], "TIME": time, "OBSERVED": self._observed(who, time)}
        columns |= {"CALL": number, "PART": part}
        columns |= {name: inputs[:, i] for i, name in enumerate(names)}
        many = outputs.shape[1] > 1
        columns |= {f"OUTPUT{m + 1}" if many else "OUTPUT": outputs[:, m] for m in range(outputs.shape[1])}
        return pd.DataFrame(columns)

    def _observed(self, who: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Whether each subject [M] is observed at each time [M]; so is what is constant in time."""
        r = self.population.records
        seen = set(zip(r.subject[r.observed].tolist(), r.time[r.observed].tolist(), strict=True))
        return np.array([bool(np.isnan(t)) or (i, t) in seen for i, t in zip(who.tolist(), time.tolist(), strict=True)])


@dataclass(frozen=True)
class _Place:
    """The places of the first endpoint: whether each is one, its record and its time, [R, N]."""

    valid: Tensor
    record: Tensor
    time: Tensor

    @classmethod
    def of(cls, joint: Joint) -> _Place:
        batch, sl = joint.batch, _places(joint)
        record = batch.slot_record[:, sl]
        return cls(batch.slot_valid[:, sl], record, (batch.time - batch.offset).gather(1, record))


def _places(joint: Joint) -> slice:
    """Every endpoint is asked for at every time: the slots of one of them."""
    return next(sl for sl in joint.batch.slices.values() if sl.stop > sl.start)


def _gathered(p: Names, record: Tensor) -> Names:
    return Names("p", {k: gather_time(v, record) if v.shape[2] > 1 else v for k, v in p.items()})


def _at(value: Tensor, record: Tensor) -> Tensor:
    """What is at the records [1, R, T, M], at the places [1, R, N, M]."""
    rows = value.expand(1, len(record), *value.shape[2:])
    return torch.stack([part.gather(2, record.unsqueeze(0)) for part in rows.unbind(-1)], -1)
