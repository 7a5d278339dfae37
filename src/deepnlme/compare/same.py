"""Whether the likelihoods of two fits may be compared: the same data, the same approximation, the same observations."""

from __future__ import annotations

import numpy as np
import torch

from deepnlme.data import Population
from deepnlme.estimation import Fit
from deepnlme.observation import Gaussian

COLUMNS = {
    "time": "TIME",
    "evid": "EVID",
    "observed": "MDV",
    "dv": "DV",
    "amt": "AMT",
    "rate": "RATE",
    "duration": "DUR",
    "ii": "II",
    "addl": "ADDL",
    "ss": "SS",
    "cens": "CENS",
    "limit": "LIMIT",
}
"""What has to be the same in every record; covariates may differ, since a model need not read them all."""


def incomparable(fit: Fit, reference: Fit) -> str:
    """Why OFV, AIC and BIC of a fit must not be set beside those of the reference; empty if they may.

    Compared are the records (doses, observations, censoring), the approximation, the number of observations in the
    likelihood, and whether each endpoint has a density or probabilities.
    """
    return (
        other_data(fit.population, reference.population)
        or _other_method(fit, reference)
        or _other_observations(fit, reference)
    )


def other_data(population: Population, reference: Population) -> str:
    """In which way the records differ, as a sentence; empty if they do not."""
    if population is reference:
        return ""
    if set(population.ids) != set(reference.ids):
        ours, theirs = len(population), len(reference)
        common = len(set(population.ids) & set(reference.ids))
        return f"other subjects: {ours} against {theirs}, {common} of them in both"
    if population.ids != reference.ids:
        population = population.select(ids=reference.ids)
    a, b = population.records, reference.records
    if not np.array_equal(population.starts, reference.starts):
        return f"other records: {len(a)} against {len(b)}"
    for name, column in COLUMNS.items():
        ours, theirs = getattr(a, name), getattr(b, name)
        used = a.observed if name == "dv" and np.array_equal(a.observed, b.observed) else np.ones(len(a), dtype=bool)
        differ = used & (ours != theirs) & ~((ours != ours) & (theirs != theirs))
        if differ.any():
            return _named(column, reference, ours, theirs, differ, used)
    return _other_endpoints(a.endpoint[a.observed], b.endpoint[b.observed])


def _named(
    column: str, population: Population, ours: np.ndarray, theirs: np.ndarray, differ: np.ndarray, used: np.ndarray
) -> str:
    """The first record in which a column differs."""
    first = int(np.flatnonzero(differ)[0])
    who = population.ids[int(population.records.subject[first])]
    if column == "DV":
        for one, other, fix in ((ours, theirs, "its"), (theirs, ours, "the reference's")):
            if (other[used] > 0).all() and np.allclose(one[used], np.log(other[used]), rtol=1e-4, atol=1e-4):
                return f"{fix} DV is the logarithm of the other's; fit the untransformed data with dn.LogNormal"
    values = f"{float(ours[first]):g} against {float(theirs[first]):g}"
    return f"{column} differs in {int(differ.sum())} records, first for subject {who}: {values}"


def _other_endpoints(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Whether observations belong to other endpoints, where both name them alike."""
    if set(ours) != set(theirs):
        return ""
    differ = ours != theirs
    return f"DVID differs in {int(differ.sum())} observations" if differ.any() else ""


def _other_method(fit: Fit, reference: Fit) -> str:
    """Other approximations; without random effects every one is the likelihood itself."""
    if fit.method == reference.method or not (fit.joint.k and reference.joint.k):
        return ""
    return f"another approximation of the likelihood: {fit.method.name} against {reference.method.name}"


def _other_observations(fit: Fit, reference: Fit) -> str:
    ours, theirs = fit.n_observations, reference.n_observations
    if ours != theirs:
        why = ' (blq="M1" leaves censored ones out)' if fit.population.records.cens.any() else ""
        return f"other observations in the likelihood: {ours} against {theirs}{why}"
    if discrete(fit) != discrete(reference):
        return "a density of the observations against probabilities: they have different units"
    return ""


def discrete(fit: Fit) -> int:
    """How many observations have a probability instead of a density."""
    joint = fit.joint
    with torch.no_grad():
        u = torch.tensor(fit.free, dtype=torch.float64).expand(1, joint.batch.rows, -1)
        z = torch.zeros(1, joint.batch.rows, joint.k, dtype=torch.float64)
        found = joint.individuals(joint.space.values(u), z, joint.batch, order=0).distributions
    count = 0
    for name, distribution in found.items():
        if not isinstance(distribution, Gaussian) and _is_discrete(distribution):
            count += int(joint.batch.slot_valid[:, joint.batch.slices[name]].sum())
    return count


def _is_discrete(distribution: object) -> bool:
    try:
        return bool(distribution.support.is_discrete)  # type: ignore[attr-defined]
    except (AttributeError, NotImplementedError):
        return False


def shared_subjects(population: Population, fitted: Population) -> list:
    """Ids of subjects of the first that the second has too: the observations of one are all among the other's."""

    def content(p: Population) -> dict:
        r, starts = p.records, p.starts
        return {
            id: set(zip(r.time[a:b][seen].tolist(), r.dv[a:b][seen].tolist(), strict=True))
            for id, a, b in zip(p.ids, starts[:-1], starts[1:], strict=True)
            for seen in [r.observed[a:b]]
        }

    theirs = content(fitted)
    return [
        id
        for id, own in content(population).items()
        if own and theirs.get(id) and (own <= theirs[id] or own >= theirs[id])
    ]
