"""Empirical Bayes estimates and the table of predictions and residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from deepnlme.axes import SCALAR_NDIM
from deepnlme.data import Population
from deepnlme.data.batch import endpoint_index
from deepnlme.data.events import occasion_numbers
from deepnlme.errors import DataError
from deepnlme.estimation.method import jacobian
from deepnlme.joint import Joint, Prediction, assemble, chunks, cost
from deepnlme.joint.calling import model_arithmetic
from deepnlme.model import Model
from deepnlme.observation import Gaussian

NUMBERS = 2_000_000
"""Numbers per tensor in one chunk of subjects, with the copies that derivatives take."""


@dataclass(frozen=True)
class Ebes:
    """Empirical Bayes estimates of the random effects on their own scale.

    Attributes:
        names: Of the random effects; those by occasion carry the occasion's number, ``iov_cl@2``.
        eta: [S, k].
        covariance: [S, k, k] inverse of the Hessian at the mode.
    """

    names: tuple[str, ...]
    eta: np.ndarray
    covariance: np.ndarray

    def to_frame(self, ids: tuple) -> pd.DataFrame:
        """One row per subject: ID, ETA and its standard error for each effect."""
        columns: dict[str, object] = {"ID": list(ids)}
        for i, name in enumerate(self.names):
            columns[f"ETA_{name}"] = self.eta[:, i]
        for i, name in enumerate(self.names):
            columns[f"SE_{name}"] = np.sqrt(self.covariance[:, i, i])
        return pd.DataFrame(columns)


def block_cholesky(joint: Joint, free: np.ndarray) -> np.ndarray:
    """L of all random effects of a subject, [k, k], block diagonal; occasions repeat their group's block."""
    values = joint.space.values(torch.tensor(free, dtype=torch.float64))
    blocks = []
    for name, group in joint.model.groups.items():
        copies = joint.occasions if group.by == "occasion" else 1
        blocks += [values.cholesky[name].numpy()] * copies
    out = np.zeros((joint.k, joint.k))
    at = 0
    for block in blocks:
        n = len(block)
        out[at : at + n, at : at + n] = block
        at += n
    return out


def effect_names(joint: Joint) -> tuple[str, ...]:
    """Names of all random effects of a subject."""
    names: list[str] = []
    for attribute, group in joint.model.groups.items():
        labels = group.labels(attribute)
        if group.by == "occasion":
            names += [f"{label}@{o + 1}" for o in range(joint.occasions) for label in labels]
        else:
            names += labels
    return tuple(names)


def individual_parameters(joint: Joint, free: np.ndarray, z: np.ndarray, subject: Any) -> dict[str, Any]:
    """Individual parameters of one subject at z [S, k], at its first record where they change with time."""
    ids = list(joint.population.ids)
    if subject not in ids:
        shown = ", ".join(str(i) for i in ids[:5]) + (" ..." if len(ids) > 5 else "")
        raise DataError(f"Invalid subject: got {subject!r}, expected one of {shown}.")
    index = torch.tensor([ids.index(subject)])
    batch = joint.batch.take(index)
    values = joint.space.values(torch.tensor(free, dtype=torch.float64).expand(1, 1, -1))
    with torch.no_grad(), model_arithmetic():
        _, p, _, _ = joint.parameters(values, torch.tensor(z)[index].unsqueeze(0), batch)
    return {n: float(v[0, 0, 0]) if v.dim() == SCALAR_NDIM else v[0, 0, 0].numpy() for n, v in p.items()}


def ebes(joint: Joint, free: np.ndarray, z: np.ndarray, curvature: np.ndarray) -> Ebes:
    """eta = L z with covariance L H^-1 L'."""
    lower = block_cholesky(joint, free)
    inverse = np.linalg.inv(curvature) if joint.k else np.zeros((len(z), 0, 0))
    return Ebes(effect_names(joint), z @ lower.T, lower @ inverse @ lower.T)


def prediction_table(
    model: Model, population: Population, free: np.ndarray, z: np.ndarray, interaction: bool, all_records: bool
) -> pd.DataFrame:
    """Predictions and residuals, one row per observation (or record).

    PRED = f(eta = 0), RES = DV - PRED; IPRED = f(eta_hat), IRES = DV - IPRED, IWRES = IRES / sd(eta_hat);
    WRES = C0^(-1/2) (DV - PRED) with C0 = G0 Omega G0' + R0 at eta = 0, and with interaction also the variance that the
    residual's own dependence on eta adds to first order, diag(sum_m dh_m Omega dh_m') over the independent parts h_m of
    the residual (sd itself; a and b f of `combined2`). That is NONMEM's WRES, with and without INTERACTION.
    CPRED = f(eta_hat) - G eta_hat and CWRES = C^(-1/2) (DV - CPRED) with C = G Omega G' + R at eta_hat (R at eta = 0
    without interaction). Symmetric square roots; all observations of a subject together. For log-normal endpoints
    residuals other than RES and IRES are those of log DV, and predictions are medians; other distributions have their
    mean, and no weighted residuals.

    Args:
        model: The model.
        population: The data.
        free: [P].
        z: [S, k] whitened random effects.
        interaction: Whether R depends on eta: for WRES and CWRES.
        all_records: One row per record instead of per observation.
    """
    frames = []
    occasions = int(occasion_numbers(population.records).max()) + 1 if population.occasions else 1
    r = population.records
    listed = np.ones(len(r), dtype=bool) if all_records else r.observed
    slots = np.bincount(r.subject[listed], minlength=len(population))
    copies = max(z.shape[1], 1)
    compartments = len(Joint(model, population[:1], occasions=occasions).compartments)
    for part in chunks(copies * cost(model, compartments, population, slots), NUMBERS):
        own = population[part]
        kind = "observations" if own.observations and not all_records else "records"
        joint = Joint(model, own, slots=kind, occasions=occasions)
        frames.append(_table(joint, free, z[part], interaction))
    table: pd.DataFrame = pd.concat(frames, ignore_index=True)
    if not (population.records.cens != 0).any():
        table = table.drop(columns="CENS")
    if not all_records:
        table = table.loc[table["MDV"] == 0].drop(columns=["EVID", "MDV"])
    return table.reset_index(drop=True)


def _table(joint: Joint, free: np.ndarray, z: np.ndarray, interaction: bool) -> pd.DataFrame:
    batch = joint.batch
    zero = _moments(joint, free, np.zeros_like(z))
    hat = _moments(joint, free, z)
    y = hat.prediction.y
    frozen = hat.prediction.sd[0] if interaction else zero.prediction.sd[0]
    usable = hat.prediction.use & (hat.prediction.cens == 0) & hat.prediction.gaussian
    spread = zero.prediction.sd[0] ** 2 + (zero.interaction if interaction else 0.0)
    wres = _decorrelated(y - zero.mean, zero.g, torch.sqrt(spread), usable)
    cpred = hat.mean - torch.einsum("arn,ra->rn", hat.g, torch.tensor(z))
    cwres = _decorrelated(y - cpred, hat.g, frozen, usable)
    iwres = (y - hat.mean) / hat.prediction.sd[0]
    missing = torch.full_like(y, torch.nan)
    dv = torch.where(batch.slot_valid, batch.y, missing)
    columns = {
        "DV": dv,
        "PRED": zero.natural,
        "RES": dv - zero.natural,
        "WRES": torch.where(usable, wres, missing),
        "IPRED": hat.natural,
        "IRES": dv - hat.natural,
        "IWRES": torch.where(usable, iwres, missing),
        "CPRED": torch.where(hat.prediction.gaussian, _back(joint, cpred), missing),
        "CWRES": torch.where(usable, cwres, missing),
    }
    return _ordered(joint, columns, z, free)


def _ordered(joint: Joint, columns: dict[str, Tensor], z: np.ndarray, free: np.ndarray) -> pd.DataFrame:
    """Slots as rows, in the order of the source."""
    batch, population = joint.batch, joint.population
    records = population.records
    flat = (batch.slot_record + torch.tensor(population.starts[:-1]).unsqueeze(1)).numpy()
    names = np.concatenate([np.full(sl.stop - sl.start, name, dtype=object) for name, sl in batch.slices.items()])
    first = np.zeros(flat.shape, dtype=bool)
    for sl in batch.slices.values():
        local = batch.slot_record[:, sl].numpy()
        first[:, sl] = np.diff(local, axis=1, prepend=-1) > 0
    expected = np.zeros(flat.shape, dtype=bool)
    for name, sl in batch.slices.items():
        expected[:, sl] = _belongs(joint, name, flat[:, sl])
    keep = first & expected
    r, c = np.nonzero(keep)
    order = np.argsort(flat[r, c], kind="stable")
    r, c = r[order], c[order]
    source = flat[r, c]
    data: dict[str, object] = {
        "ID": [population.ids[i] for i in r],
        "TIME": records.time[source],
        "EVID": records.evid[source],
        "MDV": np.where(records.observed[source], 0, 1),
    }
    if len(batch.slices) > 1:
        data["DVID"] = np.where(records.observed[source], names[c], "")
    data.update({k: v.numpy()[r, c] for k, v in columns.items()})
    data["CENS"] = records.cens[source]
    eta = z @ block_cholesky(joint, free).T
    for i, name in enumerate(effect_names(joint)):
        data[f"ETA_{name}"] = eta[r, i]
    return pd.DataFrame(data)


def _belongs(joint: Joint, name: str, flat: np.ndarray) -> np.ndarray:
    """Whether a record is listed under this endpoint (records that are not observations under the first)."""
    index = endpoint_index(joint.population, joint.layout)
    mine = joint.layout.endpoints.index(name)
    return np.where(index[flat] < 0, 0, index[flat]) == mine


@dataclass(frozen=True)
class _Moments:
    """The observation model linearised at one z.

    Attributes:
        prediction: At z.
        mean: [R, N].
        g: [k, R, N] derivative of the mean.
        natural: [R, N] prediction on the scale of the data.
        interaction: [R, N] variance of the residual's standard deviation, part by part, to first order.
    """

    prediction: Prediction
    mean: Tensor
    g: Tensor
    natural: Tensor
    interaction: Tensor


def _moments(joint: Joint, free: np.ndarray, z: np.ndarray) -> _Moments:
    rows, k = z.shape
    copies = max(k, 1)
    u = torch.tensor(free, dtype=torch.float64).expand(copies, rows, -1)
    leaf = torch.tensor(z, dtype=torch.float64).expand(copies, rows, k).clone().requires_grad_()
    found = joint.individuals(joint.space.values(u), leaf, joint.batch).distributions
    prediction = assemble(found, joint.batch)
    parts = _parts(joint, found, copies)
    slopes = jacobian([prediction.mean, *parts], leaf) if k else [None] * (1 + len(parts))
    g, *along = (
        torch.zeros(copies, *prediction.y.shape, dtype=torch.float64) if s is None else s.detach() for s in slopes
    )
    interaction = torch.stack([(s * s).sum(0) for s in along]).sum(0)
    natural = [
        (d.natural(d.mean) if isinstance(d, Gaussian) else d.mean).detach()[0].expand(rows, sl.stop - sl.start)
        for d, sl in ((d, joint.batch.slices[name]) for name, d in found.items())
    ]
    return _Moments(_detached(prediction), prediction.mean[0].detach(), g[:k], torch.cat(natural, -1), interaction)


def _parts(joint: Joint, found: dict[str, Any], copies: int) -> list[Tensor]:
    """The independent parts of the residual at every slot, each [K, R, N]; zero where an endpoint has fewer."""
    most = max((len(d.parts) for d in found.values() if isinstance(d, Gaussian)), default=1)
    out = []
    for i in range(most):
        pieces = []
        for name, d in found.items():
            shape = (copies, joint.batch.rows, joint.batch.slices[name].stop - joint.batch.slices[name].start)
            there = isinstance(d, Gaussian) and i < len(d.parts)
            pieces.append(d.parts[i].expand(shape) if there else torch.zeros(shape, dtype=torch.float64))
        out.append(torch.cat(pieces, -1))
    return out


def _detached(prediction: Prediction) -> Prediction:
    values = {f: getattr(prediction, f) for f in Prediction.__dataclass_fields__}
    return Prediction(**{f: v.detach() if isinstance(v, Tensor) else v for f, v in values.items()})


def _back(joint: Joint, value: Tensor) -> Tensor:
    """From the scale where an endpoint is normal to that of the data."""
    with torch.no_grad():
        z = torch.zeros(1, joint.batch.rows, joint.k, dtype=torch.float64)
        u = torch.tensor(joint.space.initial()).expand(1, joint.batch.rows, -1)
        found = joint.individuals(joint.space.values(u), z, joint.batch).distributions
    out = value.clone()
    for name, distribution in found.items():
        sl = joint.batch.slices[name]
        if isinstance(distribution, Gaussian):
            out[:, sl] = distribution.natural(value[:, sl])
    return out


def _decorrelated(residual: Tensor, g: Tensor, sd: Tensor, usable: Tensor) -> Tensor:
    """C^(-1/2) residual with C = G G' + diag(sd^2), symmetric root; observations that do not count are left out.

    A row whose C is not finite (a subject without a steady state) becomes NaN, and only that row.
    """
    g = torch.where(usable, g, torch.zeros_like(g))
    variance = torch.where(usable, sd * sd, torch.ones_like(sd))
    c = torch.einsum("arn,arm->rnm", g, g) + torch.diag_embed(variance)
    whole = torch.isfinite(c).flatten(1).all(1)
    c = torch.where(whole[:, None, None], c, torch.eye(c.shape[-1], dtype=c.dtype, device=c.device))
    values, vectors = torch.linalg.eigh(c)
    residual = torch.where(whole.unsqueeze(-1), residual, torch.full_like(residual, torch.nan))
    local = (vectors.mT @ torch.where(usable, residual, torch.zeros_like(residual)).unsqueeze(-1)).squeeze(-1)
    return (vectors @ (local / torch.sqrt(values)).unsqueeze(-1)).squeeze(-1)
