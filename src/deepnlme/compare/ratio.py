"""The likelihood ratio test of nested models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scipy.stats import chi2

from deepnlme.compare.nested import Nesting, nesting
from deepnlme.compare.same import incomparable
from deepnlme.errors import ConvergenceError, ModelError
from deepnlme.estimation import Fit, FitStatus

SLACK = 0.01
"""By so much a full model may lie above the reduced one and still count as equal [OFV units]."""
AT_MAXIMUM = (FitStatus.CONVERGED, FitStatus.FLAT, FitStatus.PRECISION, FitStatus.NOTHING_TO_ESTIMATE)


@dataclass(frozen=True)
class LikelihoodRatio:
    """A likelihood ratio test.

    Attributes:
        dofv: -2 log L of the reduced model minus that of the full one.
        df: Parameters that the full model has more.
        boundary: Variances among them that the reduced model has at zero.
        p: Probability of so large a difference, or a larger one, if the reduced model is true; with more than one
            variance at zero an upper bound of it.
        reduced: Name of the reduced model.
        full: Name of the full model.
    """

    dofv: float
    df: int
    boundary: int
    p: float
    reduced: str = "reduced"
    full: str = "full"

    @property
    def distribution(self) -> str:
        """The distribution under the reduced model, in words."""
        if not self.boundary:
            return f"chi2({self.df})"
        bound = "at most " if self.boundary > 1 else ""
        return f"{bound}0.5 chi2({self.df - 1}) + 0.5 chi2({self.df})"

    def __str__(self) -> str:
        sign = "p <=" if self.boundary > 1 else "p ="
        return f"{self.reduced} in {self.full}: dOFV {self.dofv:.4f}, {self.distribution}, {sign} {self.p:.4g}"


def chi_bar_tail(dofv: float, df: int, boundary: int) -> float:
    """P(X >= dofv) under the reduced model.

    chi2(df) where no variance is at the boundary. With one variance at zero an equal mixture of chi2(df - 1) and
    chi2(df) (chi2(0) is a point at 0), whether or not its covariances are tested too. With more of them the weights
    depend on the information; the mixture is then an upper bound, since the weights of even and of odd degrees of
    freedom add up to one half each.

    Source: Self and Liang 1987, J Am Stat Assoc 82:605, cases 5 and 6; Stram and Lee 1994, Biometrics 50:1171.
    """
    if not boundary:
        return float(chi2.sf(dofv, df))
    lower = float(chi2.sf(dofv, df - 1)) if df > 1 else float(dofv <= 0.0)
    return 0.5 * lower + 0.5 * float(chi2.sf(dofv, df))


def likelihood_ratio(reduced: Fit, full: Fit, boundary: int | None = None) -> LikelihoodRatio:
    """Test a model against a fuller one in which it is nested.

    To call it is to say that the models are nested. Where both are instances of one class, their declarations are
    checked to be so. The approximation of the likelihood has to be the same, and the data.

    Args:
        reduced: Fit of the model with fewer parameters.
        full: Fit of the model with more.
        boundary: How many of the parameters that the reduced model lacks are variances, which it has at zero; None to
            find out from the declarations, which can be done for one class, and by the names of the variances.

    Returns:
        The difference, its degrees of freedom and p. Its accuracy is that of the approximation: with FO and sparse
        data p is much too small.

    Raises:
        ModelError: Other data or another approximation, models not nested, priors, networks, or `boundary` needed.
        ConvergenceError: One of the fits is not at its maximum.
    """
    for name, value in (("reduced", reduced), ("full", full)):
        if not isinstance(value, Fit):
            raise ModelError(f"Invalid `{name}`: got {type(value).__name__}, expected a Fit, as dn.fit returns it.")
    reason = refused(reduced, full)
    if reason:
        raise ModelError(f"Invalid likelihood ratio test: {reason}.")
    found = _nesting(reduced, full)
    if boundary is None and found.boundary < 0:
        raise ModelError(
            "Invalid `boundary`: got None, but the names of the random effects do not tell which variances the "
            "reduced model has at zero. Give their number: boundary=0, boundary=1, ..."
        )
    number = found.boundary if boundary is None else _number(boundary, found.df)
    return tested(reduced, full, Nesting(found.df, number))


def refused(reduced: Fit, full: Fit) -> str:
    """Why there can be no test, as a clause; empty if there can."""
    reason = incomparable(full, reduced)
    if reason:
        return f"the full fit has {reason}"
    for name, fit in (("reduced", reduced), ("full", full)):
        if fit.joint.space.weights:
            return (
                f"the {name} model has a network, whose weights are not identified one by one; "
                "use predictive distances on held-out subjects"
            )
        if fit.joint.space.has_priors:
            return f"the {name} model has priors, so that its OFV without the penalty is not at its minimum"
    return ""


def tested(reduced: Fit, full: Fit, found: Nesting, names: tuple[str, str] = ("reduced", "full")) -> LikelihoodRatio:
    """The test of two fits whose nesting is known.

    Raises:
        ConvergenceError: One of the fits is not at its maximum.
    """
    for name, fit in zip(names, (reduced, full), strict=True):
        if fit.status not in AT_MAXIMUM or fit.unconverged:
            how = fit.status.value if fit.status not in AT_MAXIMUM else "random effects not found for some subjects"
            raise ConvergenceError(f"No likelihood ratio test: {name} is not at its maximum ({how}).", fit)
    dofv = -2.0 * reduced.log_likelihood + 2.0 * full.log_likelihood
    if not math.isfinite(dofv) or dofv < -SLACK:
        raise ConvergenceError(
            f"No likelihood ratio test: {names[1]} has an OFV {-dofv:.4f} above that of {names[0]}, which is nested "
            "in it. It has not reached its minimum: start it from the reduced fit, dn.fit(model, population, "
            "start=reduced), or use Options(starts=...).",
            full,
        )
    dofv = max(dofv, 0.0)
    return LikelihoodRatio(dofv, found.df, found.boundary, chi_bar_tail(dofv, found.df, found.boundary), *names)


def _nesting(reduced: Fit, full: Fit) -> Nesting:
    """Degrees of freedom, and variances at zero (-1 if they cannot be told)."""
    df = full.n_parameters - reduced.n_parameters
    if df <= 0:
        raise ModelError(
            f"Invalid likelihood ratio test: the full model has {full.n_parameters} parameters, the reduced one "
            f"{reduced.n_parameters}. The full model needs more; are they exchanged?"
        )
    found = nesting(reduced.model, full.model)
    if found is not None:
        return found
    if type(reduced.model) is type(full.model):
        raise ModelError(
            f"Invalid likelihood ratio test: of these two {type(full.model).__name__} neither is the other with some "
            "parameters fixed. Compare their AIC instead."
        )
    theirs = _variances(full.joint.space.names)
    if not _variances(reduced.joint.space.names) <= theirs:
        return Nesting(df, -1)
    present = {n for n, value in reduced.estimates.items() if value > 0.0}
    return Nesting(df, len(theirs - present))


def _variances(names: Iterable[str]) -> set[str]:
    return {n for n in names if n.startswith("omega[") and "," not in n}


def _number(boundary: Any, df: int) -> int:
    if isinstance(boundary, bool) or not isinstance(boundary, int) or not 0 <= boundary <= df:
        raise ModelError(
            f"Invalid `boundary`: got {boundary!r}, expected the number of variances that the reduced model has at "
            f"zero, from 0 to {df}."
        )
    return boundary
