"""Look before the leap: the contributions at the initial values, and what is wrong where one is not finite."""

from __future__ import annotations

import numpy as np
import torch

from deepnlme.errors import ModelError
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.joint import Joint


def check_start(objective: MarginalObjective, u: np.ndarray) -> Evaluation:
    """Evaluate at the initial values and refuse what is not finite, naming subject, record and parameter.

    Raises:
        ModelError: The first contribution that is not finite, and why.
    """
    check_priors(objective.joint, u)
    check_typical(objective.joint, u)
    evaluation = objective(u)
    if np.isfinite(evaluation.value[0]):
        return evaluation
    check_censored(objective.joint, u)
    population = objective.joint.population
    bad = np.flatnonzero(~np.isfinite(evaluation.subject[0]))
    if len(bad):
        status = EBEStatus(int(evaluation.status[0][bad[0]]))
        reason = (
            f"its random effects: {status.message}"
            if status is not EBEStatus.CONVERGED
            else ("the Hessian of its random effects is not positive definite")
        )
        raise ModelError(
            f"Invalid initial values: the OFV is not finite for subject {population.ids[bad[0]]} "
            f"(and {len(bad) - 1} more); {reason}. Start closer to the data, or from smaller variances."
        )
    for i, name in enumerate(objective.joint.space.names):
        wrong = np.flatnonzero(~np.isfinite(evaluation.subject_gradient[0, :, i]))
        if len(wrong):
            raise ModelError(
                f"Invalid model: the derivative of the OFV in `{name}` is not finite for subject "
                f"{population.ids[wrong[0]]}. Look for sqrt, log or a power of zero in the model."
            )
    raise ModelError("Invalid initial values: the OFV is not finite. Start from other values.")


def check_priors(joint: Joint, u: np.ndarray) -> None:
    """Refuse initial values where a prior has no density."""
    values = joint.space.as_dict(u)
    for name in joint.space.free_theta:
        declared = joint.space.parameters[name]
        if declared.prior is None:
            continue
        found = declared.log_prior(torch.tensor(values[name], dtype=torch.float64))
        if not bool(torch.isfinite(found)):
            raise ModelError(
                f"Invalid prior of `{name}`: its log density at the initial value {values[name]:g} is "
                f"{float(found):g}. Start where the prior has a density."
            )


def check_typical(joint: Joint, u: np.ndarray) -> None:
    """Refuse a model whose individual parameters, predictions or densities are not finite at eta = 0."""
    batch = joint.batch
    with torch.no_grad():
        values = joint.space.values(torch.tensor(u, dtype=torch.float64).expand(1, batch.rows, -1))
        z = torch.zeros(1, batch.rows, joint.k, dtype=torch.float64)
        individual = joint.individuals(values, z, batch)
        for name, value in individual.p.items():
            bad = torch.nonzero(~torch.isfinite(value).flatten(2).all(2)[0].expand(batch.rows)).flatten()
            if len(bad):
                raise ModelError(
                    f"Invalid individual parameter `{name}`: not finite at the initial values for subject "
                    f"{joint.population.ids[int(bad[0])]}. Check the covariates and the initial values it is made of."
                )
        prediction = joint.predict(values, z, batch)
        density = prediction.log_density()[0]
    wrong = torch.nonzero(~torch.isfinite(density))
    if len(wrong) == 0:
        return
    r, c = (int(i) for i in wrong[0])
    why = joint.explain(values, z, batch, r)
    if why:
        raise ModelError(f"Invalid initial values for subject {joint.population.ids[r]}: {why}.")
    y, mean, sd = (float(v[r, c]) for v in (prediction.y, prediction.mean[0], prediction.sd[0]))
    if bool(prediction.gaussian[c]):
        detail = f"prediction {mean:g}, residual sd {sd:g}, observation {y:g}"
        if sd == 0:
            detail += "; a residual sd of zero: add an additive part to the error model, or set MDV=1 on that record"
        elif mean != mean:
            detail += (
                "; look for a negative lag, bioavailability, rate or duration, and a steady state that does not exist"
            )
    else:
        detail = f"observation {y:g} has no density under the model there"
    raise ModelError(
        f"Invalid initial values: the log-likelihood is not finite for {joint.where(r, c)} "
        f"({len(wrong)} such observations): {detail}."
    )


def check_censored(joint: Joint, u: np.ndarray) -> None:
    """Refuse censored records whose likelihood has no derivative: the prediction or its sd is degenerate there."""
    batch = joint.batch
    with torch.no_grad():
        values = joint.space.values(torch.tensor(u, dtype=torch.float64).expand(1, batch.rows, -1))
        prediction = joint.predict(values, torch.zeros(1, batch.rows, joint.k, dtype=torch.float64), batch)
    mean, sd = prediction.mean[0].expand_as(batch.y), prediction.sd[0].expand_as(batch.y)
    hidden = batch.slot_valid & (batch.cens != 0) & prediction.gaussian
    wrong = torch.nonzero(hidden & ~(torch.isfinite(mean) & torch.isfinite(sd) & (sd > 0)))
    if len(wrong):
        r, c = (int(i) for i in wrong[0])
        raise ModelError(
            f"Invalid censored observation for {joint.where(r, c)} ({len(wrong)} such records): the prediction there "
            f"is {float(mean[r, c]):g}, the residual sd {float(sd[r, c]):g} (on the logarithm for LogNormal). Set "
            "MDV=1 on that record, as on one before the first dose, or add an additive part to the error model."
        )
