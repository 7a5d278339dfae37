"""What a trained network says of people, and how it compares with the true joint density."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from deepnlme.amortised.network import SetEncoder
from deepnlme.amortised.views import Views, flat_rows
from deepnlme.data import Population, Records
from deepnlme.errors import DataError, invalid
from deepnlme.estimation import EBEStatus
from deepnlme.estimation.posterior import Posterior, standard_draws
from deepnlme.joint import Joint, assemble, chunks, cost, evaluated
from deepnlme.simulation.design import Setting

NUMBERS = 1_000_000
"""Numbers per tensor in one chunk of subjects and draws (bounds memory)."""
LOW = 0.1
"""Share of the draws below which an effective sample size is too small."""


@dataclass(frozen=True)
class Encoded:
    """Normal distributions of the random effects of S people.

    Attributes:
        ids: Of the people.
        names: Of the random effects; those by occasion carry the occasion's number, ``iov_cl@2``.
        mean: [S, k].
        covariance: [S, k, k].
        observations: [S] number that was read.
        ess: [S] effective sample size of the weighted draws, or None.
    """

    ids: tuple
    names: tuple[str, ...]
    mean: np.ndarray
    covariance: np.ndarray
    observations: np.ndarray
    ess: np.ndarray | None

    def to_frame(self) -> pd.DataFrame:
        """One row per person: ID OBSERVATIONS ETA_... SD_... and ESS."""
        sd = np.sqrt(np.einsum("sii->si", self.covariance))
        columns: dict[str, Any] = {"ID": list(self.ids), "OBSERVATIONS": self.observations}
        columns |= {f"ETA_{name}": self.mean[:, i] for i, name in enumerate(self.names)}
        columns |= {f"SD_{name}": sd[:, i] for i, name in enumerate(self.names)}
        return pd.DataFrame(columns if self.ess is None else columns | {"ESS": self.ess})


@dataclass(frozen=True)
class Whitened:
    """The same for whitened random effects, with the draws that were weighted.

    Attributes:
        mean: [S, k] of q.
        factor: [S, k, k] with the covariance factor factor'.
        observations: [S].
        draws: [S, D, k] from q; D = 0 without correction.
        weights: [S, D] of the draws, with a sum of one.
    """

    mean: np.ndarray
    factor: np.ndarray
    observations: np.ndarray
    draws: np.ndarray
    weights: np.ndarray

    @property
    def ess(self) -> np.ndarray | None:
        """[S] effective sample sizes."""
        return 1.0 / (self.weights**2).sum(1) if self.weights.shape[1] else None

    def take(self, subjects: np.ndarray) -> Whitened:
        """Some of the people."""
        return Whitened(*(getattr(self, name)[subjects] for name in Whitened.__dataclass_fields__))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [S, k] and covariance [S, k, k]: of the weighted draws, or of q without them."""
        if not self.weights.shape[1]:
            return self.mean, self.factor @ self.factor.swapaxes(1, 2)
        mean = np.einsum("sd,sdi->si", self.weights, self.draws)
        off = self.draws - mean[:, None]
        return mean, np.einsum("sd,sdi,sdj->sij", self.weights, off, off)

    def natural(self, ids: tuple, names: tuple[str, ...], lower: np.ndarray) -> Encoded:
        """On the scale of eta = L z."""
        mean, covariance = self.moments()
        return Encoded(ids, names, mean @ lower.T, lower @ covariance @ lower.T, self.observations, self.ess)

    def normal(self) -> Posterior:
        """N(m, C) as predictions take it."""
        return Posterior(self.mean, self.factor, np.full(len(self.mean), int(EBEStatus.CONVERGED)))

    def warn(self, ids: tuple, stacklevel: int) -> None:
        """Say for whom the network is not to be trusted, where draws were weighted."""
        ess, draws = self.ess, self.weights.shape[1]
        if ess is None:
            return
        low = np.flatnonzero(~(ess >= LOW * draws))
        if len(low):
            shown = ", ".join(f"{ids[i]} ({ess[i]:.0f})" for i in low[:5]) + (", ..." if len(low) > 5 else "")
            warnings.warn(
                f"{len(low)} of {len(ids)} people have an effective sample size below {LOW:.0%} of {draws} draws: "
                f"subject {shown}. They are unlike those that the encoder was trained on, or it was trained too "
                "little: use fit.predict and EBEs for them, or train it on people like them.",
                RuntimeWarning,
                stacklevel=stacklevel,
            )


@dataclass(frozen=True)
class Sampled:
    """Draws in the place of a normal distribution, as predictions take it.

    Attributes:
        mode: [S, k].
        sample: [S, D, k].
        status: [S].
    """

    mode: np.ndarray
    sample: np.ndarray
    status: np.ndarray

    def take(self, subjects: np.ndarray) -> Sampled:
        """Some of the people."""
        return Sampled(self.mode[subjects], self.sample[subjects], self.status[subjects])

    def draws(self, standard: np.ndarray) -> np.ndarray:
        """The draws [S, D, k], whatever the standard normal ones are."""
        return self.sample


def resampled(found: Whitened, draws: int, seed: int) -> Sampled:
    """Draws of equal weight from weighted ones, by systematic resampling at (i + u) / D of the cumulated weights."""
    random = np.random.default_rng([seed, 9])
    position = (np.arange(draws) + random.random()) / max(draws, 1)
    index = np.array([np.searchsorted(np.cumsum(w), position * w.sum()) for w in found.weights])
    sample = np.take_along_axis(found.draws, index.clip(max=found.weights.shape[1] - 1)[..., None], 1)
    return Sampled(found.moments()[0], sample, np.full(len(found.mean), int(EBEStatus.CONVERGED)))


def encoded(
    setting: Setting, network: SetEncoder, people: Population, occasions: int, until: float, draws: int
) -> Whitened:
    """The network's answer for people; one without an observation has the prior, N(0, I).

    Args:
        setting: The model.
        network: The network.
        people: S people, coded as the model knows them.
        occasions: Number of occasions.
        until: Last time of an observation that counts.
        draws: Draws that are weighted by the joint density, for each person.
    """
    early, counts = _early(people, until)
    k = network.effects
    standard = standard_draws(setting.model, occasions, draws, 0)
    mean, factor = np.zeros((len(people), k)), np.broadcast_to(np.eye(k), (len(people), k, k)).copy()
    drawn = np.broadcast_to(standard, (len(people), draws, k)).copy()
    weights = np.full((len(people), draws), 1.0 / max(draws, 1))
    informed = np.flatnonzero(counts)
    if len(informed):
        some = early[informed]
        size = cost(setting.model, len(setting.probe.compartments), some, counts[informed])
        for part in chunks(size * max(draws, 2 * k + 1), NUMBERS):
            who, joint = informed[part], Joint(setting.model, some[part], occasions=occasions)
            joint.check_data()
            mean[who], factor[who] = _answer(setting, network, joint)
            if draws:
                drawn[who] = mean[who][:, None] + np.einsum("sab,db->sda", factor[who], standard)
                weights[who] = _weights(setting, joint, drawn[who], standard)
    return Whitened(mean, factor, counts, drawn, weights)


def _early(people: Population, until: float) -> tuple[Population, np.ndarray]:
    """The people with the observations that count, and how many each has.

    Raises:
        DataError: A censored observation among them.
    """
    r = people.records
    seen = r.observed & (r.time <= until)
    bad = np.flatnonzero(seen & (r.cens != 0))
    if len(bad):
        where = f"subject {people.ids[r.subject[bad[0]]]}, row {r.row[bad[0]]} (time {r.time[bad[0]]:g})"
        fix = "Set MDV=1 on such records, or use fit.predict, whose likelihood knows limits"
        raise DataError(invalid("cens", r.cens[bad[0]], "An encoder reads values, not limits", where, fix))
    later = {"cens": np.where(seen, r.cens, 0), "limit": np.where(seen, r.limit, np.nan)}
    records = Records(**{**dict(r.columns()), "observed": seen, **later}, covariates=r.covariates)
    return people.with_records(records), np.bincount(r.subject[seen], minlength=len(people))


def warn_of_clock(people: Population, until: float, stacklevel: int) -> None:
    """Say so where people begin when the encoder has stopped reading: their clock is probably another one."""
    first = people.records.time[people.starts[:-1]]
    late = np.flatnonzero(first > until)
    if len(late):
        warnings.warn(
            f"{len(late)} of {len(people)} people have their first record after {until:g}, where the encoder stops "
            f"reading: subject {people.ids[late[0]]} at {first[late[0]]:g}. They have the prior. Is their clock that "
            "of the training?",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def _answer(setting: Setting, network: SetEncoder, joint: Joint) -> tuple[np.ndarray, np.ndarray]:
    """Mean [S, k] and factor [S, k, k] of q."""
    batch, views = joint.batch, Views.of(joint, setting.free, setting.device)
    x = flat_rows(*views.rows(batch.y[None], batch.slot_valid[None]))[0]
    k = network.effects
    with torch.no_grad():
        out = network(x)
    upper = out[:, k:].unflatten(1, (k, k))
    inverse = torch.linalg.solve_triangular(upper, torch.eye(k, dtype=upper.dtype).expand_as(upper), upper=True)
    return out[:, :k].numpy(), inverse.numpy()


def _weights(setting: Setting, joint: Joint, draws: np.ndarray, standard: np.ndarray) -> np.ndarray:
    """p(y | z) p(z) / q(z | y) of the draws [S, D, k], with a sum of one for each person.

    log w = log p(y | z) - |z|^2 / 2 + |e|^2 / 2 up to a constant, where z = m + F e.
    """
    s, d, _ = draws.shape
    found, batch = evaluated(joint, setting.free, draws, setting.device)
    log_p: Tensor = assemble(found.distributions, batch).log_density().sum(-1).reshape(s, d).cpu()
    log_w = log_p.numpy() - 0.5 * (draws**2).sum(-1) + 0.5 * (standard**2).sum(-1)
    log_w = np.where(np.isfinite(log_w), log_w, -np.inf)
    top = log_w.max(1, keepdims=True)
    w = np.exp(log_w - np.where(np.isfinite(top), top, 0.0))
    total = w.sum(1, keepdims=True)
    first = np.eye(1, d)  # no draw is possible: an effective sample size of one
    return np.where(total > 0, w / np.where(total > 0, total, 1.0), first)
