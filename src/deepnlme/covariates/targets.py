"""What the data of each subject say about its random effects, with the prior taken out again.

An EBE is shrunk: with the prior N(0, Omega) and the posterior N(m_i, C_i), data that say little leave m_i near zero,
and a regression of EBEs on covariates finds effects that are too small. The data alone say eta_i ~ N(y_i, V_i) with

    P_i = V_i^-1 = C_i^-1 - Omega^-1        h_i = P_i y_i = C_i^-1 m_i

kept as P_i and h_i because V_i is infinite in the directions of which the data say nothing. Under the model
eta_i ~ N(g(x_i), Omega_r) the log-likelihood of g and Omega_r = L L' is then, up to a constant, the sum of

    log N(y_i; g, Omega_r + V_i) = g'h - g'P g / 2 + s'M^-1 s / 2 - log det(M) / 2
                                   M = I + L'P L,   s = L'(h - P g)

It is exact where the model is linear in the random effects and Gaussian; otherwise as good as the normal approximation
of the posterior.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from torch import Tensor

from deepnlme.data import Population
from deepnlme.data.events import occasion_numbers
from deepnlme.errors import ModelError, invalid
from deepnlme.estimation import EBEStatus, Fit
from deepnlme.estimation.posterior import own_posterior, posterior
from deepnlme.parameters import RandomEffects

NOTHING = 1e-10
"""Information relative to the prior's below which data say nothing."""
LEAST, MOST = -3.5, 1.0
"""Bounds of a residual standard deviation, in units of its logarithm around that of the fit."""


@dataclass(frozen=True)
class Block:
    """The effects of one group that vary between subjects.

    Attributes:
        attribute: Name of the group in the model.
        labels: Of the effects.
        position: Of each in its group.
        effects: The effects as a group of their own, nothing of it fixed.
    """

    attribute: str
    labels: tuple[str, ...]
    position: tuple[int, ...]
    effects: RandomEffects


@dataclass(frozen=True)
class EffectTargets:
    """What the data of S subjects say about k random effects between subjects.

    Attributes:
        blocks: The groups that the effects belong to.
        ids: Of the subjects.
        precision: [S, k, k] P, the information in the data.
        information: [S, k] h = P y.
        mode: [S, k] the EBEs.
        sd: [S, k] standard deviations of the posterior.
    """

    blocks: tuple[Block, ...]
    ids: tuple
    precision: np.ndarray
    information: np.ndarray
    mode: np.ndarray
    sd: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """Of the effects."""
        return tuple(label for block in self.blocks for label in block.labels)

    @property
    def omega(self) -> np.ndarray:
        """[k, k] Omega of the fit."""
        out = np.zeros((len(self.names),) * 2)
        at = 0
        for block in self.blocks:
            n = len(block.labels)
            out[at : at + n, at : at + n] = block.effects.omega
            at += n
        return out

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, subjects: np.ndarray) -> EffectTargets:
        """Some of the subjects."""
        return replace(
            self,
            ids=tuple(self.ids[int(i)] for i in subjects),
            precision=self.precision[subjects],
            information=self.information[subjects],
            mode=self.mode[subjects],
            sd=self.sd[subjects],
        )

    @cached_property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """P and h."""
        return torch.tensor(self.precision), torch.tensor(self.information)

    def unshrunk(self) -> tuple[np.ndarray, np.ndarray]:
        """y and the diagonal of V, both [S, k]; where the data say nothing, 0 and a million times Omega."""
        lower = np.linalg.cholesky(self.omega)
        whitened = lower.T @ self.precision @ lower + 1e-6 * np.eye(len(lower))
        v = lower @ np.linalg.inv(whitened) @ lower.T
        return (v @ self.information[..., None])[..., 0], np.einsum("sii->si", v)

    def given_others(self, g: np.ndarray, omega: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the data say about each effect, no prior on it and the others ~ N(g, omega): y and its variance, [S, k].

        Where the data do not tell effects apart, `unshrunk` has infinite variances; these are finite. NaN and infinity
        where the data say nothing of the effect.

        Args:
            g: [S, k] expected effects.
            omega: [k, k] variance around them.
        """
        y, v = np.full(g.shape, np.nan), np.full(g.shape, np.inf)
        for j in range(g.shape[1]):
            rest = np.delete(np.arange(g.shape[1]), j)
            prior = np.linalg.inv(omega[np.ix_(rest, rest)])
            others = self.precision[:, rest][:, :, rest] + prior
            right = self.information[:, rest] + g[:, rest] @ prior
            weight = np.linalg.solve(others, self.precision[:, rest, j][..., None])[..., 0]
            precision = self.precision[:, j, j] - np.einsum("sr,sr->s", weight, self.precision[:, rest, j])
            known = precision * self.omega[j, j] > NOTHING
            along = self.information[:, j] - np.einsum("sr,sr->s", weight, right)
            y[known, j], v[known, j] = along[known] / precision[known], 1.0 / precision[known]
        return y, v

    def log_density(self, g: Tensor, lower: Tensor) -> Tensor:
        """log N(y; g, L L' + V) of every subject up to a constant, [S].

        Args:
            g: [S, k] expected effects.
            lower: [k, k] L.
        """
        p, h = self.tensors
        pg = (p @ g.unsqueeze(-1)).squeeze(-1)
        root = torch.linalg.cholesky(torch.eye(len(lower), dtype=p.dtype) + lower.mT @ p @ lower)
        s = torch.linalg.solve_triangular(root, lower.mT @ (h - pg).unsqueeze(-1), upper=False).squeeze(-1)
        half_log_det = torch.log(root.diagonal(dim1=-2, dim2=-1)).sum(-1)
        return (g * h).sum(-1) - 0.5 * (g * pg).sum(-1) + 0.5 * (s * s).sum(-1) - half_log_det

    # ---- Omega of the residual effects --------------------------------------------------------------------------

    @cached_property
    def start(self) -> np.ndarray:
        """Omega of the fit as free numbers."""
        return np.concatenate([block.effects.to_free(block.effects.omega) for block in self.blocks])

    @cached_property
    def units(self) -> np.ndarray:
        """Of the free numbers: 1 for logarithms, the size of the effect for what is off the diagonal of a factor."""
        out = []
        for block in self.blocks:
            sd = np.diag(np.linalg.cholesky(block.effects.omega))
            row, column = np.tril_indices(len(sd)) if block.effects.block else (np.arange(len(sd)),) * 2
            out.append(np.where(row == column, 1.0, sd[row]))
        return np.concatenate(out)

    @property
    def bounds(self) -> list[tuple[float | None, float | None]]:
        """Of the free numbers."""
        out: list[tuple[float | None, float | None]] = []
        at = 0
        for block in self.blocks:
            n = block.effects.size
            logs = [i == j for i in range(n) for j in range(i + 1)] if block.effects.block else [True] * n
            for log in logs:
                out.append((self.start[at] + LEAST, self.start[at] + MOST) if log else (None, None))
                at += 1
        return out

    def lower(self, free: Tensor) -> Tensor:
        """L [k, k] of free numbers."""
        parts, at = [], 0
        for block in self.blocks:
            n = block.effects.free_size
            parts.append(block.effects.cholesky(free[at : at + n]))
            at += n
        return torch.block_diag(*parts)

    def residual(self, g: np.ndarray) -> tuple[np.ndarray, float]:
        """The most likely Omega_r [k, k] given expected effects g [S, k], and the log-likelihood there."""
        expected, units = torch.tensor(g), torch.tensor(self.units)

        def cost(free: np.ndarray) -> tuple[float, np.ndarray]:
            leaf = torch.tensor(free, requires_grad=True)
            value = -self.log_density(expected, self.lower(leaf * units)).sum()
            value.backward()
            assert leaf.grad is not None
            return float(value.detach()), leaf.grad.numpy()

        found = minimize(cost, self.start / self.units, jac=True, method="L-BFGS-B", bounds=self.bounds)
        lower = self.lower(torch.tensor(found.x) * units).numpy()
        return lower @ lower.T, -float(found.fun)

    def to_frame(self) -> pd.DataFrame:
        """One row per subject: ID, the EBE, its standard error, the unshrunk estimate Y_ and its standard error."""
        y, v = self.unshrunk()
        nothing = v > 1e4 * np.diag(self.omega)
        y, v = np.where(nothing, np.nan, y), np.where(nothing, np.inf, v)
        columns: dict[str, object] = {"ID": list(self.ids)}
        for i, name in enumerate(self.names):
            columns |= {f"ETA_{name}": self.mode[:, i], f"SE_{name}": self.sd[:, i]}
            columns |= {f"Y_{name}": y[:, i], f"SE_Y_{name}": np.sqrt(v[:, i])}
        return pd.DataFrame(columns)


def effect_targets(fit: Fit, population: Population | None = None) -> EffectTargets:
    """What the data say about the random effects between subjects, those by occasion integrated out.

    Args:
        fit: A fit.
        population: Other people, whose random effects are found at the estimates of the fit.

    Raises:
        ModelError: A fit without random effects between subjects.
    """
    if not isinstance(fit, Fit):
        raise ModelError(invalid("fit", type(fit).__name__, "It is a fit, as dn.fit(...) returns"))
    occasions = fit.joint.occasions
    if population is not None and population.occasions:
        occasions = max(occasions, int(occasion_numbers(population.records).max()) + 1)
    blocks, columns = _blocks(fit, occasions)
    if not fit.method.uses_omega or not blocks:
        why = "naive pooling has none" if not fit.method.uses_omega else "the model declares none with a variance"
        expected = f"Covariates explain random effects between subjects, and {why}"
        raise ModelError(
            invalid("fit", repr(fit), expected, fix="Declare dn.RandomEffects(...) and fit with dn.FOCE()")
        )
    found = own_posterior(fit) if population is None else posterior(fit, population, occasions)
    ids = (fit.population if population is None else population).ids
    factor = found.factor[:, columns]
    usable = np.isfinite(factor).all((1, 2)) & (found.status == EBEStatus.CONVERGED)
    if not usable.all():
        names = ", ".join(str(ids[i]) for i in np.flatnonzero(~usable)[:5])
        warnings.warn(
            f"The random effects of {int((~usable).sum())} subjects ({names}) were not found; they do not count.",
            RuntimeWarning,
            stacklevel=2,
        )
    covariance = np.where(usable[:, None, None], factor @ factor.swapaxes(1, 2), np.eye(len(columns)))
    mode = np.where(usable[:, None], found.mode[:, columns], 0.0)
    return _of_whitened(blocks, tuple(ids), mode, covariance)


def _of_whitened(blocks: tuple[Block, ...], ids: tuple, mode: np.ndarray, covariance: np.ndarray) -> EffectTargets:
    """From the posterior of z = L^-1 eta, whose prior is N(0, I)."""
    values, vectors = np.linalg.eigh(covariance)
    informed = 1.0 / values - 1.0
    informed = np.where(informed > NOTHING, informed, 0.0)
    along = np.where(informed > 0, np.einsum("sij,si->sj", vectors, mode) / values, 0.0)
    precision = np.einsum("sij,sj,skj->sik", vectors, informed, vectors)
    information = np.einsum("sij,sj->si", vectors, along)
    bare = EffectTargets(blocks, ids, precision, information, mode, mode)
    lower = np.linalg.cholesky(bare.omega)
    inverse = np.linalg.inv(lower)
    return EffectTargets(
        blocks,
        ids,
        inverse.T @ precision @ inverse,
        information @ inverse,
        mode @ lower.T,
        np.sqrt(np.einsum("ij,sjk,ik->si", lower, covariance, lower)),
    )


def _blocks(fit: Fit, occasions: int) -> tuple[tuple[Block, ...], list[int]]:
    """The groups with effects between subjects whose variance is not zero, and the effects' columns."""
    blocks, columns, at = [], [], 0
    omega = fit.joint.space.omega_matrices(fit.free)
    for attribute, group in fit.model.groups.items():
        matrix = omega[attribute]
        if group.by == "subject":
            kept = np.flatnonzero(np.diag(matrix) > 0)
            part = matrix[np.ix_(kept, kept)]
            if group.block and np.linalg.eigvalsh(part).min() <= 1e-12 * np.trace(part):
                expected = "Its covariance matrix must be positive definite"
                raise ModelError(
                    invalid("omega", f"a singular matrix for `{attribute}`", expected, fix="Fit it diagonal")
                )
            if len(kept):
                labels = tuple(group.labels(attribute)[i] for i in kept)
                effects = RandomEffects(len(kept), omega=part, block=group.block)
                blocks.append(Block(attribute, labels, tuple(int(i) for i in kept), effects))
                columns += [at + int(i) for i in kept]
        at += group.size * (occasions if group.by == "occasion" else 1)
    return tuple(blocks), columns
