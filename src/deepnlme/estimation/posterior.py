"""The random effects of subjects given their data: modes, and a normal approximation around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from deepnlme.data import Population
from deepnlme.estimation.foce import FOCE
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.joint import Joint
from deepnlme.model import Model


@dataclass(frozen=True)
class Posterior:
    """z | y ~ N(mode, factor factor') for the whitened random effects of S subjects.

    Attributes:
        mode: [S, k].
        factor: [S, k, k], NaN where the curvature is not positive definite.
        status: [S] an `EBEStatus` each.
    """

    mode: np.ndarray
    factor: np.ndarray
    status: np.ndarray

    def take(self, subjects: np.ndarray) -> Posterior:
        """Some of the subjects."""
        return Posterior(self.mode[subjects], self.factor[subjects], self.status[subjects])

    def draws(self, standard: np.ndarray) -> np.ndarray:
        """mode + factor e for standard normal e [D, k], the same for all subjects: [S, D, k]."""
        return self.mode[:, None, :] + np.einsum("sab,db->sda", self.factor, standard)


def standard_draws(model: Model, occasions: int, draws: int, seed: int) -> np.ndarray:
    """Standard normal draws [D, k], stratified in every coordinate (a Latin hypercube).

    Each coordinate takes every one of the quantiles (i + 1/2) / D once, in an order of its own; the number of occasions
    changes nothing for the first ones.
    """
    quantiles = ndtri((np.arange(draws) + 0.5) / max(draws, 1))
    columns = []
    for number, group in enumerate(model.groups.values()):
        for occasion in range(occasions if group.by == "occasion" else 1):
            generator = np.random.default_rng([seed, number, occasion])
            columns += [generator.permutation(quantiles) for _ in range(group.size)]
    return np.stack(columns, 1) if columns else np.zeros((draws, 0))


def own_posterior(fit: Any) -> Posterior:
    """The posterior of the subjects that a fit was made with, at its own modes."""
    mode, curvature = fit._modes
    factor = _factor(curvature) if fit.method.uses_omega else np.zeros_like(curvature)
    return Posterior(mode, factor, fit.evaluation.status[0])


def posterior(fit: Any, population: Population, occasions: int) -> Posterior:
    """The posterior of other subjects at the estimates of a fit, each from its own observations.

    The inner problem and its curvature are those of the fit's method; after FO those of FOCE without interaction
    (NONMEM's POSTHOC). A subject without observations has the prior, N(0, I); naive pooling has no random effects.

    Args:
        fit: The fit.
        population: S subjects.
        occasions: At least so many occasions for each subject.
    """
    s = len(population)
    k = sum(g.size * (occasions if g.by == "occasion" else 1) for g in fit.model.groups.values())
    mode, status = np.zeros((s, k)), np.full(s, int(EBEStatus.CONVERGED))
    curvature = np.broadcast_to(np.eye(k), (s, k, k)).copy()
    r = population.records
    informed = np.unique(r.subject[r.observed])
    if not fit.method.uses_omega:
        return Posterior(mode, np.zeros_like(curvature), status)
    if len(informed):
        joint = Joint(fit.model, population[informed], occasions=occasions)
        joint.check_data()
        method = fit.method if fit.method.inner else FOCE(interaction=False)
        method.check(joint)
        if k:
            found = MarginalObjective.of(joint, method, fit.options)(fit.free)
            mode[informed], curvature[informed], status[informed] = found.z[0], found.curvature[0], found.status[0]
    return Posterior(mode, _factor(curvature), status)


def _factor(curvature: np.ndarray) -> np.ndarray:
    """F with F F' = H^-1: the inverse transpose of the Cholesky factor of H [S, k, k]."""
    h = torch.tensor(curvature)
    whole = torch.isfinite(h).flatten(1).all(1)
    identity = torch.eye(h.shape[-1], dtype=h.dtype)
    lower, info = torch.linalg.cholesky_ex(torch.where(whole[:, None, None], 0.5 * (h + h.mT), identity))
    good = (info == 0) & whole
    lower = torch.where(good[:, None, None], lower, identity)
    factor = torch.linalg.solve_triangular(lower.mT, identity.expand_as(lower), upper=True)
    return torch.where(good[:, None, None], factor, torch.full_like(factor, torch.nan)).numpy()
