"""Which subjects decide on the estimates: what changes if one of them is left out.

Source: Cook, Weisberg 1982, Residuals and influence in regression; Pregibon 1981, Ann Statist 9:705 (one step).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2
from tqdm.auto import tqdm

from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.estimation.covariance import hessian
from deepnlme.estimation.draws import natural_draws
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.refit import refit, require_estimates

METHODS = ("approximate", "refit")
STEP = 1e-4
"""Step of the differences of gradients that make Hessians, relative to max(1, |u|)."""


@dataclass(frozen=True)
class Influence:
    """How the fit changes when subjects are left out one at a time. `print(influence)` shows the most influential.

    Attributes:
        fit: The fit of all subjects.
        method: "approximate" or "refit".
        ids: [n] subjects left out.
        free: [n, P] estimates without each, on the free scale; NaN where there are none.
        dofv: [n] OFV of the subject at the estimates without it, less that at the estimates of all.
        cook: [n] Cook's distance.
        covariance_ratio: [n] generalised variance of the estimates without the subject over that with it.
        dfbetas: Change of each parameter in standard errors, one row per subject.
        status: [n] "converged", or what went wrong.
        standard_errors: Which covariance matrix is the yardstick: "sandwich", "R" or "S".
    """

    fit: Fit
    method: str
    ids: tuple[Any, ...]
    free: np.ndarray
    dofv: np.ndarray
    cook: np.ndarray
    covariance_ratio: np.ndarray
    dfbetas: pd.DataFrame
    status: tuple[str, ...]
    standard_errors: str

    @property
    def estimates(self) -> pd.DataFrame:
        """The estimates without each subject on the natural scale, one row per subject."""
        return natural_draws(self.fit.joint.space, self.free).set_index(pd.Index(self.ids, name="ID"))

    def table(self) -> pd.DataFrame:
        """ID, COOK, DOFV, COVRATIO and the dfbetas, in the order of the data; STATUS if not all converged."""
        head = pd.DataFrame(
            {"ID": list(self.ids), "COOK": self.cook, "DOFV": self.dofv, "COVRATIO": self.covariance_ratio}
        )
        found = pd.concat([head, self.dfbetas.reset_index(drop=True)], axis=1)
        return found if all(s == "converged" for s in self.status) else found.assign(STATUS=list(self.status))

    @property
    def limit(self) -> float:
        """Cook's distance at which the estimates leave their 50% confidence region: the median of chi2 with P."""
        return float(chi2.ppf(0.5, len(self.fit.free)))

    def __str__(self) -> str:
        way = "one Newton step from the estimates" if self.method == "approximate" else "fitted again without each"
        table = self.table().sort_values("COOK", ascending=False).head(10)
        beyond = [str(i) for i, c in zip(self.ids, self.cook, strict=True) if c > self.limit]
        failed = [str(i) for i, s in zip(self.ids, self.status, strict=True) if s != "converged"]
        lines = [
            f"Influence of {len(self.ids)} subjects on {self.fit!r}: {way}",
            f"changes of parameters in standard errors ({self.standard_errors})",
            f"Cook's distance beyond {self.limit:.3g}: {', '.join(beyond) or 'nobody'}",
        ]
        if failed:
            lines.append(f"not converged without subjects {', '.join(failed[:5])}{' ...' if len(failed) > 5 else ''}")
        shown = table.to_string(index=False, float_format=lambda v: f"{v:.3g}", na_rep="")
        return "\n".join(lines) + "\n\n" + shown

    def __repr__(self) -> str:
        return f"<Influence of {len(self.ids)} subjects, {self.method}>"


def influence(fit: Fit, method: str = "approximate", subjects: Any = None, *, progress: bool = True) -> Influence:
    """Leave out every subject in turn and measure what changes.

    With f = -log L - log prior and its part f_i of subject i, "approximate" takes one Newton step from the estimates,
    d_i = (H - H_i)^-1 g_i, with gradient g_i and Hessian H_i of f_i (without what couples variances of random effects
    and other parameters, zero in expectation); "refit" fits again, starting at the estimates. In either way, with C the
    covariance matrix of the estimates on the free scale,

    - COOK = d_i' C^-1 d_i: how far the estimates move, as a square in standard errors in all directions;
    - DOFV = OFV_i(estimates without i) - OFV_i(estimates of all): how much worse i is described by what others say;
    - COVRATIO = det(H) / det(H - H_i), for "refit" det(H) / det(its H): the generalised variance of the estimates
      without the subject, above one where the subject makes them more precise;
    - dfbetas: (estimate without i - estimate) / SE for each natural parameter.

    C is that of the fit's covariance step, or H^-1 where the fit has none that could be inverted.

    Args:
        fit: The fit.
        method: "approximate" (a few evaluations of the OFV) or "refit" (as many fits as subjects).
        subjects: Ids of the subjects to leave out, or one id; all by default.
        progress: Show a progress bar.

    Returns:
        The measures; Ctrl-C returns those of the subjects done.

    Raises:
        ModelError: Not a fit with estimates, or a minimum that is not one in every direction.
        DataError: No such subject.
    """
    require_estimates(fit, "Influence")
    if method not in METHODS:
        raise ModelError(invalid("method", repr(method), f"It is one of {', '.join(METHODS)}"))
    space = fit.joint.space
    if space.row_size < space.size:
        fix = "Look at subject_ofv, or use a network of at most 600 weights"
        raise ModelError(invalid("fit", "weights that all subjects share", "Influence needs Hessians", fix=fix))
    if len(fit.population) < 2:
        raise DataError(invalid("population", "1 subject", "Influence compares fits without one of several"))
    which = _positions(fit, subjects)
    whole = _Whole.of(fit)
    done = _one_step(whole, which) if method == "approximate" else _refitted(whole, which, progress)
    return _measured(whole, method, which[: len(done)], done)


@dataclass(frozen=True)
class _Whole:
    """The fit of all subjects and its derivatives there.

    Attributes:
        fit: The fit.
        objective: Of all subjects, its modes remembered.
        g: [S, P] gradients of -log L by subject.
        h: [P, P] Hessian of -log L - log prior.
        h_of: [S, P, P] the part of each subject.
    """

    fit: Fit
    objective: MarginalObjective
    g: np.ndarray
    h: np.ndarray
    h_of: np.ndarray

    @classmethod
    def of(cls, fit: Fit) -> _Whole:
        """By central differences of the exact gradients, in one batch of 2P + 1 vectors."""
        objective, u = fit.objective(), fit.free
        objective(u)
        objective.remember()
        step = STEP * np.maximum(1.0, np.abs(u))
        found = objective(np.concatenate([u[None], u + np.diag(step), u - np.diag(step)]))
        n = len(u)
        of = 0.25 * (found.subject_gradient[1 : n + 1] - found.subject_gradient[n + 1 :]) / step[:, None, None]
        of = of.transpose(1, 0, 2)
        all_ = 0.25 * (found.gradient[1 : n + 1] - found.gradient[n + 1 :]) / step[:, None]
        h = 0.5 * (all_ + all_.T)
        if not np.isfinite(h).all() or not _definite(h):
            fix = "Look for a parameter that the data do not determine (fit.with_covariance('R') names it)"
            expected = "Influence needs a minimum in every direction"
            raise ModelError(invalid("fit", "a Hessian that is not positive definite", expected, fix=fix))
        objective.start_from(u, found.z[0])
        return cls(fit, objective, 0.5 * found.subject_gradient[0], h, 0.5 * (of + of.mT))

    def without(self, subject: int) -> np.ndarray:
        """Hessian of -log L - log prior without one subject, [P, P].

        What couples its variances of random effects with other parameters is left as it is: zero in expectation, and
        in the Hessian of an outlier so large that a step would go far too far.
        """
        space = self.fit.joint.space
        variances = np.zeros(len(self.h), dtype=bool)
        variances[len(space.free_theta) : space.structural] = True
        own = np.where(variances[:, None] == variances[None, :], self.h_of[subject], 0.0)
        return self.h - own

    @property
    def yardstick(self) -> tuple[np.ndarray, np.ndarray, str]:
        """Covariance matrix on the free scale, standard errors of the natural parameters, its kind."""
        found = self.fit.covariance
        if found is not None and found.ok and not found.warning and _definite(found.free):
            return found.free, found.se, found.kind
        space = self.fit.joint.space
        jacobian, free = space.natural_jacobian(self.fit.free), np.linalg.inv(self.h)
        m = space.structural
        return free, np.sqrt(np.diag(jacobian @ free[:m, :m] @ jacobian.T)), "R"


@dataclass(frozen=True)
class _Without:
    """The fit without one subject: estimates [P], Hessian there [P, P] or None, status."""

    free: np.ndarray
    h: np.ndarray | None
    status: str


def _definite(matrix: np.ndarray) -> bool:
    """Whether a symmetric matrix, scaled to a unit diagonal, is positive definite beyond rounding errors."""
    diagonal = np.diag(matrix)
    if not np.isfinite(matrix).all() or diagonal.min() <= 0:
        return False
    return bool(np.linalg.eigvalsh(matrix / np.sqrt(np.outer(diagonal, diagonal))).min() > 1e-10)


def _positions(fit: Fit, subjects: Any) -> np.ndarray:
    ids = list(fit.population.ids)
    if subjects is None:
        return np.arange(len(ids))
    wanted: list[Any] = [subjects] if np.ndim(subjects) == 0 else list(subjects)
    unknown = [i for i in wanted if i not in ids]
    if unknown or not wanted:
        shown = ", ".join(str(i) for i in ids[:5]) + (" ..." if len(ids) > 5 else "")
        raise DataError(invalid("subjects", repr(unknown[0]) if unknown else "none", f"They are among {shown}"))
    return np.array([ids.index(i) for i in wanted])


def _one_step(whole: _Whole, which: np.ndarray) -> list[_Without]:
    """The Newton step without each subject; by the Hessian of all where that of the others has no minimum."""
    out = []
    for i in which:
        rest, status = whole.without(i), "converged"
        if not _definite(rest):
            rest, status = whole.h, "the others do not determine every parameter; a step with the Hessian of all"
        step = np.linalg.solve(rest, whole.g[i])
        out.append(_Without(whole.fit.free + step, rest if status == "converged" else None, status))
    return out


def _refitted(whole: _Whole, which: np.ndarray, progress: bool) -> list[_Without]:
    fit, out = whole.fit, []
    everyone = np.arange(len(fit.population))
    try:
        for i in tqdm(which, disable=not progress, desc="influence", leave=False):
            rest = np.delete(everyone, i)
            found = refit(fit, fit.population[rest], fit.evaluation.z[0][rest])
            h = None if found.objective is None else 0.5 * hessian(found.objective, found.free)
            out.append(_Without(found.free, h if h is not None and _definite(h) else None, found.status))
    except KeyboardInterrupt:
        if not out:
            raise
    return out


def _measured(whole: _Whole, method: str, which: np.ndarray, done: list[_Without]) -> Influence:
    fit, space = whole.fit, whole.fit.joint.space
    covariance, se, kind = whole.yardstick
    free = np.stack([d.free for d in done])
    moved = free - fit.free
    cook = np.einsum("np,np->n", moved, np.linalg.solve(covariance, moved.T).T)
    volume = np.linalg.slogdet(whole.h)[1]
    ratio = [math.exp(volume - np.linalg.slogdet(d.h)[1]) if d.h is not None else math.nan for d in done]
    dofv = np.array([_own_ofv(whole, i, d.free) for i, d in zip(which, done, strict=True)])
    ids = tuple(fit.population.ids[i] for i in which)
    here = natural_draws(space, fit.free[None])
    change = (natural_draws(space, free) - here.iloc[0]) / se
    change.index = pd.Index(ids, name="ID")
    return Influence(fit, method, ids, free, dofv, cook, np.array(ratio), change, tuple(d.status for d in done), kind)


def _own_ofv(whole: _Whole, subject: int, free: np.ndarray) -> float:
    """How much the OFV of one subject rises at other estimates."""
    if not np.isfinite(free).all():
        return math.nan
    own = whole.objective.part(np.array([subject]))
    there = float(own(free).ofv[0])
    return there - float(whole.fit.evaluation.subject[0][subject])
