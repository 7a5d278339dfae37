"""Predictions at given places, for the EBEs and for draws around them, a chunk of subjects at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.errors import ModelError
from deepnlme.estimation.intervals import Drawn, Shape, curves
from deepnlme.estimation.posterior import Posterior, standard_draws
from deepnlme.joint import Joint, Places, chunks, cost, evaluated
from deepnlme.observation import Gaussian

NUMBERS = 1_000_000
"""Numbers per tensor in one chunk of subjects and draws (bounds memory)."""
SAMPLES = 2_000
"""Observations drawn at every place, at least, from distributions that are not normal on some scale."""
FIXED = 2
"""Copies of a subject that are not draws: eta = 0 and the EBE."""


@dataclass(frozen=True)
class Intervals:
    """Which intervals are wanted.

    Args:
        level: Probability inside.
        draws: Draws of each subject's random effects; 0 for no intervals.
        residual: Also of what is observed.
        seed: Of the draws.
    """

    level: float = 0.95
    draws: int = 200
    residual: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.level, bool) or not isinstance(self.level, int | float) or not 0 < self.level < 1:
            raise ModelError(f"Invalid `level`: got {self.level!r}, expected a number between 0 and 1, such as 0.95.")
        for name in ("draws", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                fix = " Use draws=0 for no intervals." if name == "draws" else ""
                raise ModelError(f"Invalid `{name}`: got {value!r}, expected a whole number of at least 0.{fix}")
        if not isinstance(self.residual, bool | np.bool_):
            raise ModelError(f"Invalid `residual`: got {self.residual!r}, expected True or False.")

    @property
    def tails(self) -> tuple[float, float]:
        """Probabilities of the two ends."""
        return 0.5 * (1.0 - self.level), 0.5 * (1.0 + self.level)

    @property
    def samples(self) -> int:
        """Observations drawn for each draw of the random effects, where they must be."""
        return math.ceil(SAMPLES / max(self.draws, 1)) if self.residual else 0

    @property
    def columns(self) -> list[str]:
        """Columns of the table beyond those that say where."""
        individual = ["IPRED_LOW", "IPRED_HIGH"] if self.draws else []
        return ["PRED", "IPRED", *individual, *(["DV_LOW", "DV_HIGH"] if self.draws and self.residual else [])]


def predicted(
    fit: Any, places: Places, found: Posterior, occasions: int, intervals: Intervals
) -> dict[str, np.ndarray]:
    """PRED, IPRED and the ends of the intervals at every place (NaN at other records), each [M]."""
    population = places.population
    out = {name: np.full(len(population.records), np.nan) for name in intervals.columns}
    standard = standard_draws(fit.model, occasions, intervals.draws, intervals.seed)
    some, counts = places.some(fit.model, occasions), places.counts
    numbers = cost(fit.model, len(some.compartments), population, counts)
    size = np.maximum(numbers * FIXED, counts * (FIXED + intervals.draws))
    if intervals.draws and intervals.residual and not _normal(fit, some):
        size[:] = np.inf  # observations drawn for one subject must not depend on the others
    for part in chunks(size, NUMBERS):
        joint = places.joint(fit.model, part, occasions)
        own = found.take(np.arange(part.start, part.stop))
        rows = max(1, int(NUMBERS / (numbers[part].max() * (part.stop - part.start))))
        columns = _columns(fit, joint, own.mode, own.draws(standard), intervals, rows)
        for name, sl in joint.batch.slices.items():
            valid = joint.batch.slot_valid[:, sl]
            starts = torch.tensor(population.starts[part]).unsqueeze(1)
            where = (joint.batch.slot_record[:, sl] + starts)[valid].numpy()
            for column, value in columns.get(name, {}).items():
                out[column][where] = value.cpu()[valid].numpy()
    return out


def _normal(fit: Any, joint: Joint) -> bool:
    """Whether every endpoint is normal on some scale."""
    found, _ = evaluated(joint, fit.free, np.zeros((len(joint.population), 1, joint.k)), fit.options.device)
    return all(isinstance(distribution, Gaussian) for distribution in found.distributions.values())


def _columns(
    fit: Any, joint: Joint, mode: np.ndarray, draws: np.ndarray, intervals: Intervals, copies: int
) -> dict[str, dict[str, Tensor]]:
    """By endpoint the columns, each [S, N].

    Args:
        fit: The fit.
        joint: S subjects.
        mode: [S, k].
        draws: [S, D, k].
        intervals: Which intervals.
        copies: Draws at a time.
    """

    def shape(name: str, copies: int) -> Shape:
        sl = joint.batch.slices[name]
        return len(mode), copies, sl.stop - sl.start

    first, batch = evaluated(joint, fit.free, np.stack([np.zeros_like(mode), mode], 1), fit.options.device)
    fixed = first.distributions
    drawn: dict[str, list[Drawn]] = {name: [] for name in fixed}
    for start in range(0, draws.shape[1], copies):
        z = draws[:, start : start + copies]
        found, _ = evaluated(joint, fit.free, z, fit.options.device, batch)
        for name, distribution in found.distributions.items():
            part = Drawn.of(distribution, shape(name, z.shape[1]), intervals.samples, intervals.seed + start)
            drawn[name].append(part)
    out = {}
    for name, distribution in fixed.items():
        out[name] = dict(zip(("PRED", "IPRED"), curves(distribution, shape(name, FIXED)).unbind(1), strict=True))
        if drawn[name]:
            whole = Drawn.join(drawn[name])
            ends = [whole.individual(p) for p in intervals.tails]
            ends += [whole.observed(p) for p in intervals.tails] if intervals.residual else []
            out[name].update(zip(intervals.columns[FIXED:], ends, strict=True))
    return out
