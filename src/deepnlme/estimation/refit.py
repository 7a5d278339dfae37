"""A fit repeated on other subjects: from its estimates, with its method and its options."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from deepnlme.data import Population
from deepnlme.errors import DeepNLMEError, ModelError, invalid
from deepnlme.estimation.inner import EBEStatus
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.optimiser import optimise
from deepnlme.estimation.result import Fit
from deepnlme.estimation.watch import FitStatus
from deepnlme.joint import Joint

CLOSE = 1e-2
"""Expected improvement [OFV units] below which a fit that rounding errors stopped counts as converged."""

_GOOD = (FitStatus.CONVERGED, FitStatus.FLAT)


@dataclass(frozen=True)
class Refit:
    """Estimates of one refit.

    Attributes:
        free: [P] on the free scale; NaN if there are none.
        ofv: The OFV there.
        status: "converged", or in words what went wrong.
        objective: What was minimised, with the modes found; None if it could not be made.
    """

    free: np.ndarray
    ofv: float
    status: str
    objective: MarginalObjective | None = None

    @property
    def ok(self) -> bool:
        """Whether it converged."""
        return self.status == "converged"


def require_estimates(fit: Fit, purpose: str) -> None:
    """Refuse what is not a fit, and a fit without estimates.

    Raises:
        ModelError: With advice.
    """
    if not isinstance(fit, Fit):
        got = f"the class {fit.__name__}" if isinstance(fit, type) else type(fit).__name__
        raise ModelError(invalid("fit", got, f"{purpose} takes a fit", fix="Use the result of dn.fit"))
    if fit.status is FitStatus.EVALUATED or not len(fit.free):
        got = "a model evaluated at given values" if len(fit.free) else "a fit without a free parameter"
        raise ModelError(invalid("fit", got, f"{purpose} needs estimates", fix="Use the result of dn.fit"))


def refit(fit: Fit, population: Population, modes: np.ndarray) -> Refit:
    """Fit the model of `fit` to other subjects, starting at its estimates.

    Args:
        fit: The fit.
        population: The subjects, with covariates coded as those of the fit.
        modes: [S, k] where the whitened random effects of those subjects start.

    Returns:
        The refit; an error of the model or the data is its status.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    options = replace(fit.options, progress=False, checkpoint=None, held_out=None, covariance=None)
    nothing = np.full(len(fit.free), math.nan)
    try:
        joint = Joint(fit.model, population, occasions=fit.joint.occasions)
        joint.check_data()
        objective = MarginalObjective.of(joint, fit.method, options)
        if fit.method.inner and joint.k:
            objective.start_from(fit.free, modes)
        best = optimise(objective, fit.free, options)
    except (DeepNLMEError, np.linalg.LinAlgError) as error:  # one sample must not sink the others
        return Refit(nothing, math.nan, str(error))
    if best.status is FitStatus.INTERRUPTED:
        raise KeyboardInterrupt("interrupted in a refit")
    status = best.status.value
    if best.status in _GOOD or (best.status is FitStatus.PRECISION and best.decrement < CLOSE):
        lost = int((best.evaluation.status != EBEStatus.CONVERGED).sum())
        status = f"random effects not found for {lost} subjects" if lost else "converged"
    objective.start_from(best.u, best.evaluation.z[0])
    return Refit(best.u, float(best.evaluation.ofv[0]), status, objective)
