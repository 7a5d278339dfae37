"""The arrays of a simulation, filled a chunk of subjects and replicates at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deepnlme.axes import SCALAR_NDIM
from deepnlme.estimation.individuals import effect_names
from deepnlme.joint import Individual, Joint, Places, cost, evaluated
from deepnlme.observation import Gaussian
from deepnlme.observation.sampling import normal_sample, sample
from deepnlme.simulation.adaptive import Doses
from deepnlme.simulation.design import Design, Setting, budget


class Engine:
    """Simulates all rows of a design, a chunk of subjects and replicates at a time.

    Args:
        setting: What is simulated.
        design: The rows of one replicate.
        free: [P], or [R, P] with other parameters in every replicate.
        z: [R, S, k] whitened random effects.
        residual: Whether to draw observations.
        seed: Of the observations.

    Attributes:
        eta: [R, S, k].
        effects: Names of the random effects.
        individual: By name [R, S] individual parameters.
    """

    def __init__(self, setting: Setting, design: Design, free: np.ndarray, z: np.ndarray, residual: bool, seed: int):
        self.setting, self.design, self.free, self.z = setting, design, free, z
        self.residual, self.seed = residual, seed
        self.eta, self.effects = np.zeros(z.shape), ()
        self.individual: dict[str, np.ndarray] = {}

    def run(self, doses: Doses | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Predictions and observations, [R, M] each; observations are None if they are not asked for.

        Args:
            doses: Factors of the doses.
        """
        shape = (len(self.z), self.design.rows)
        self.ipred, self.dv = np.full(shape, np.nan), None
        if self.residual:  # standard normal numbers, which become observations in their place
            self.dv = np.random.default_rng([self.seed, 1]).standard_normal(shape)
        for first, start, places in self.design.parts():
            self._part(places, first, start, doses)
        return self.ipred, self.dv

    def _part(self, places: Places, first: int, start: int, doses: Doses | None) -> None:
        """Simulate the subjects of `places`: from subject `first` on, whose rows begin at `start`."""
        setting, s = self.setting, len(places.population)
        joint = places.joint(setting.model, slice(0, s), self.design.occasions)
        self.effects = effect_names(joint)
        size = cost(setting.model, len(joint.compartments), places.population, places.counts)
        at_once = max(1, int(budget(setting.model) / (size.max() * s)))
        if self.free.ndim > 1 and joint.space.row_size < joint.space.size:
            at_once = 1  # the rows of a batch share the weights of a module
        rank = np.cumsum(places.population.records.observed) - 1
        starts, near = places.population.starts[:-1, None], None
        for begin in range(0, len(self.z), at_once):
            part = slice(begin, min(begin + at_once, len(self.z)))
            free = self.free if self.free.ndim == 1 else self.free[part]
            z = np.moveaxis(self.z[part, first : first + s], 0, 1)
            change = None if doses is None else doses.part(part, first, s)
            found, batch = evaluated(joint, free, z, setting.device, near, change)
            near = near or batch
            self._effects(joint, free, z, part, first)
            self._parameters(found, s, part, first)
            for name, distribution in found.distributions.items():
                sl = joint.batch.slices[name]
                valid = joint.batch.slot_valid[:, sl].numpy()
                rows = start + rank[(joint.batch.slot_record[:, sl].numpy() + starts)[valid]]
                self._observe(distribution, valid, part, rows, [self.seed, begin, start, joint.endpoints.index(name)])

    def _observe(self, distribution: Any, valid: np.ndarray, part: slice, rows: np.ndarray, key: list[int]) -> None:
        copies = part.stop - part.start
        shape = (1, len(valid) * copies, valid.shape[1])

        def arranged(value: torch.Tensor) -> np.ndarray:
            """[1, S * C, N] -> [C, rows]."""
            whole = value.expand(shape).reshape(len(valid), copies, -1).cpu().numpy()
            return np.moveaxis(whole, 1, 0)[:, valid]

        normal = isinstance(distribution, Gaussian)
        self.ipred[part, rows] = arranged(distribution.natural(distribution.mean) if normal else distribution.mean)
        if self.dv is None:
            return
        if normal:
            mean, sd = (torch.from_numpy(arranged(value)) for value in (distribution.mean, distribution.sd))
            drawn = normal_sample(distribution, mean, sd, torch.from_numpy(self.dv[part, rows]))
            self.dv[part, rows] = drawn.numpy()
        else:
            with torch.random.fork_rng():
                torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
                self.dv[part, rows] = arranged(sample(distribution, shape)[0])

    def _effects(self, joint: Joint, free: np.ndarray, z: np.ndarray, part: slice, first: int) -> None:
        """eta = L z of every copy."""
        values = joint.space.values(torch.tensor(np.atleast_2d(free)))
        at = 0
        for name, group in joint.model.groups.items():
            lower = values.cholesky[name].numpy()
            for _ in range(joint.occasions if group.by == "occasion" else 1):
                here = slice(at, at + group.size)
                eta = np.einsum("cab,scb->csa", np.broadcast_to(lower, (z.shape[1], *lower.shape[1:])), z[:, :, here])
                self.eta[part, first : first + len(z), here] = eta
                at += group.size

    def _parameters(self, found: Individual, s: int, part: slice, first: int) -> None:
        copies = part.stop - part.start
        for name, value in found.p.items():
            if value.dim() != SCALAR_NDIM:
                continue
            whole = self.individual.setdefault(name, np.full(self.z.shape[:2], np.nan))
            whole[part, first : first + s] = value[0, :, 0].expand(s * copies).reshape(s, copies).T.cpu().numpy()
