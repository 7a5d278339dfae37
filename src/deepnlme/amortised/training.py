"""Training of an encoder on people that the model itself makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from deepnlme.amortised.network import SetEncoder, negative_log_density
from deepnlme.amortised.views import Views, flat_rows
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.joint import Places, chunks, cost
from deepnlme.learning.descent import Part, descend
from deepnlme.learning.network import own_random
from deepnlme.learning.training import Training
from deepnlme.simulation.design import Design, Setting
from deepnlme.simulation.engine import Engine

NUMBERS = 1_000_000
"""Numbers per tensor in one chunk of subjects (bounds memory)."""
VALIDATION = 0.1
"""Share of the examples that decide which epoch is kept."""
BATCH = 256


@dataclass(frozen=True)
class Plan:
    """How an encoder is trained; the arguments of `deepnlme.amortise`.

    Attributes:
        times: Where the people are observed.
        until: Last time of an observation that is used; infinite for all.
        examples: Simulated subjects.
        thin: Share of them that lose some of their observations.
        width: Of the hidden layers.
        epochs: Passes through the examples.
        learning_rate: At the beginning; it falls to zero along a cosine.
        seed: Of everything random.
        progress: Show a progress bar.
    """

    times: Any
    until: float
    examples: int
    thin: float
    width: int
    epochs: int
    learning_rate: float
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        for name, least in (("examples", 100), ("width", 1), ("epochs", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ModelError(invalid(name, repr(value), f"It is a whole number of at least {least}"))
        number = int | float | np.integer | np.floating
        if isinstance(self.thin, bool) or not isinstance(self.thin, number) or not 0 <= self.thin <= 1:
            raise ModelError(invalid("thin", repr(self.thin), "It is a share of the examples, from 0 to 1"))
        if not isinstance(self.learning_rate, number) or not 0 < self.learning_rate < np.inf:
            raise ModelError(invalid("learning_rate", repr(self.learning_rate), "It is a number above 0"))
        if isinstance(self.until, bool) or not isinstance(self.until, number) or np.isnan(self.until):
            raise ModelError(invalid("until", repr(self.until), "It is a time on the clock of the data, or None"))


@dataclass(frozen=True)
class Examples:
    """Simulated subjects.

    Attributes:
        x: [M, inputs] what the network is given (see `views.flat_rows`).
        z: [M, k] their whitened random effects.
        features: Numbers that describe an observation.
    """

    x: Tensor
    z: Tensor
    features: int


def trained(setting: Setting, plan: Plan) -> tuple[SetEncoder, pd.DataFrame]:
    """An encoder's network, and EPOCH TRAIN VALIDATION RATE: the mean of -log q(z | data) after every epoch."""
    found = drawn(setting, plan)
    count = max(1, round(VALIDATION * len(found.x)))
    train, aside = _part(found, slice(count, None)), _part(found, slice(count))
    how = {"learning_rate": plan.learning_rate, "schedule": "cosine", "epochs": plan.epochs, "batch_size": BATCH}
    with own_random(plan.seed):
        network = SetEncoder(found.features, found.z.shape[1], plan.width).double()
        network.standardise(train.x)
        training = Training.of(network, how)
        rows = plan.epochs * len(train.x) + (plan.epochs + 1) * len(found.x)
        with tqdm(total=rows, desc="encoder", unit_scale=True, disable=not plan.progress, leave=False) as bar:
            path = descend(network, _counted(bar), train, aside, training, plan.seed)
    if not path.finite:
        fix = "Use a smaller one"
        raise ModelError(invalid("learning_rate", plan.learning_rate, f"Training {path.status}", fix=fix))
    columns = {"EPOCH": path.epoch, "TRAIN": path.train, "VALIDATION": path.validation, "RATE": path.rate}
    return network, pd.DataFrame(columns)


def _part(found: Examples, rows: slice) -> Part:
    x = found.x[rows]
    return Part(x, found.z[rows], torch.ones(len(x), 1, dtype=x.dtype))


def _counted(bar: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss, which also moves the progress bar on."""

    def values(outputs: Tensor, z: Tensor) -> Tensor:
        bar.update(len(z))
        return negative_log_density(outputs, z)

    return values


def drawn(setting: Setting, plan: Plan) -> Examples:
    """Subjects with random effects from the prior and observations from the model, in random order."""
    population = setting.population
    design = Design.of(setting, population, plan.times)
    count = -(-plan.examples // len(population))
    z = np.random.default_rng([plan.seed, 7]).standard_normal((count, len(population), design.k))
    dv = Engine(setting, design, setting.free, z, True, plan.seed).run()[1]
    assert dv is not None
    places = Places.find(population, setting.probe, plan.times)
    row = np.zeros(len(places.population.records), dtype=np.int64)
    row[places.rows] = np.arange(len(places.rows))
    random = np.random.default_rng([plan.seed, 8])
    size = cost(setting.model, len(setting.probe.compartments), places.population, places.counts)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in chunks(size * (2 * design.k + 1), NUMBERS):
        joint = places.joint(setting.model, part, design.occasions)
        batch, starts = joint.batch, places.population.starts[part]
        y = torch.tensor(dv[:, row[batch.slot_record.numpy() + starts[:, None]]])
        early = (batch.time - batch.offset).gather(1, batch.slot_record) <= plan.until
        there = batch.slot_valid & early & torch.tensor(_kept(y.shape, plan.thin, random))
        rows.append(Views.of(joint, setting.free, setting.device).rows(y, there))
    slots, features = max(tokens.shape[2] for tokens, _, _ in rows), rows[0][0].shape[3] - 1
    x = torch.cat([flat_rows(*part, slots=slots) for part in rows], 1)
    seen = torch.cat([tokens[..., 0].any(2) for tokens, _, _ in rows], 1)
    if not bool(seen.any()):
        first = min(population.records.time[population.starts[:-1]])
        expected = f"Nobody is observed until then; the earliest record is at {first:g}"
        raise DataError(invalid("until", f"{plan.until:g}", expected))
    order = random.permutation(int(seen.sum()))
    return Examples(x[seen][order], torch.tensor(z)[seen][order], features)


def _kept(shape: Any, thin: float, random: np.random.Generator) -> np.ndarray:
    """Which observations the examples keep, [R, S, N]: of a share `thin` of them each with a probability of its own."""
    r, s, n = shape
    probability = np.where(random.random((r, s, 1)) < thin, random.random((r, s, 1)), 1.0)
    return random.random((r, s, n)) < probability
