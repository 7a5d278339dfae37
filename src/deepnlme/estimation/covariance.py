"""The covariance step: how well the parameters are determined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepnlme.errors import ModelError
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.estimation.optimiser import STEP


@dataclass(frozen=True)
class Covariance:
    """Result of the covariance step.

    With R = Hessian of -log L (and of -log prior) and S = sum_i g_i g_i' over the subjects' gradients of -log L, both
    on the free scale: sandwich R^-1 S R^-1, "R" R^-1, "S" S^-1; carried to the natural scale by the Jacobian.
    Weights of networks count as parameters, but are left out of the natural scale.

    Attributes:
        kind: "sandwich", "R" or "S".
        r, s: [P, P] on the free scale.
        free: [P, P] covariance on the free scale; NaN if the step failed.
        natural: [P, P] covariance of the natural parameters.
        message: Empty, or what failed and what to do.
        subjects: Number of subjects in S; 0 where it is not known.
    """

    kind: str
    r: np.ndarray
    s: np.ndarray
    free: np.ndarray
    natural: np.ndarray
    message: str
    subjects: int = 0

    @property
    def warning(self) -> str:
        """What to doubt about the standard errors of a step that did not fail; empty if nothing is known."""
        if not self.ok or self.kind != "sandwich" or not 0 < self.subjects <= len(self.free):
            return ""
        return (
            f"warning: {self.subjects} subjects for {len(self.free)} parameters: S is singular, some combinations "
            'of parameters get a standard error of zero, all are unreliable; use fit.with_covariance("R")'
        )

    @property
    def ok(self) -> bool:
        """Whether there are standard errors."""
        return not self.message

    @property
    def se(self) -> np.ndarray:
        """Standard errors of the natural parameters, [P]."""
        return np.sqrt(np.diag(self.natural)) if len(self.natural) else np.zeros(0)

    @property
    def correlation(self) -> np.ndarray:
        """Correlation of the natural parameters, [P, P]."""
        se = self.se
        return self.natural / np.outer(se, se)

    @property
    def condition_number(self) -> float:
        """Largest over smallest eigenvalue of the correlation matrix."""
        if not self.ok or not len(self.natural):
            return float("nan")
        values = np.linalg.eigvalsh(self.correlation)
        return float(values.max() / values.min()) if values.min() > 0 else float("inf")


def hessian(objective: MarginalObjective, u: np.ndarray) -> np.ndarray:
    """Hessian of the objective by central differences of its exact gradient, one batch of 2P vectors, [P, P]."""
    h = 10.0 * STEP * np.maximum(1.0, np.abs(u))
    points = np.concatenate([u + np.diag(h), u - np.diag(h)])
    g = objective(points).gradient
    n = len(u)
    out = (g[:n] - g[n:]) / (2.0 * h[:, None])
    return 0.5 * (out + out.T)


def covariance(
    objective: MarginalObjective, u: np.ndarray, evaluation: Evaluation, kind: str, known: np.ndarray | None = None
) -> Covariance:
    """The covariance step at the estimates.

    Args:
        objective: The objective, remembering the modes at `u`.
        u: [P] estimates on the free scale.
        evaluation: The objective there.
        kind: "sandwich", "R" or "S".
        known: [P, P] Hessian of the objective that the fit has left, by forward differences; taken unless its
            condition would magnify their error, when central differences replace it.
    """
    space = objective.joint.space
    if space.row_size < space.size:
        raise ModelError(
            f"Invalid covariance step: the model has {space.size - space.row_size} weights that all subjects share, "
            "too many for standard errors. Use a bootstrap, or a network of at most 600 weights."
        )
    if not space.size:
        nothing = np.zeros((0, 0))
        return Covariance(kind, nothing, nothing, nothing, nothing, "")
    g = 0.5 * evaluation.subject_gradient[0]
    s = g.T @ g
    if known is None or _ill_conditioned(known):
        known = hessian(objective, u)
    r = 0.5 * known
    n = len(u)
    failed = np.full((n, n), np.nan)
    weights = [f"{name}[{i}]" for name, sl in space.weights.items() for i in range(sl.stop - sl.start)]
    names = (*space.names, *weights)
    message = _failure(s, "S", names) if kind == "S" else _failure(r, "R", names)
    if message:
        nothing = failed[: space.structural, : space.structural]
        return Covariance(kind, r, s, failed, nothing, message)
    if kind == "R":
        free = np.linalg.inv(r)
    elif kind == "S":
        free = np.linalg.inv(s)
    else:
        inverse = np.linalg.inv(r)
        free = inverse @ s @ inverse
    free = 0.5 * (free + free.T)
    jacobian, m = space.natural_jacobian(u), space.structural
    return Covariance(kind, r, s, free, jacobian @ free[:m, :m] @ jacobian.T, "", len(g))


def _ill_conditioned(matrix: np.ndarray) -> bool:
    """Whether the matrix, scaled to a unit diagonal, is indefinite or has a condition number above 1e4."""
    diagonal = np.diag(matrix)
    if not np.isfinite(matrix).all() or diagonal.min() <= 0:
        return True
    values = np.linalg.eigvalsh(matrix / np.sqrt(np.outer(diagonal, diagonal)))
    return bool(values.min() <= 1e-4 * values.max())


def _failure(matrix: np.ndarray, name: str, parameters: tuple[str, ...]) -> str:
    """Why a matrix cannot be inverted, in words; empty if it can."""
    if not np.isfinite(matrix).all():
        return f"Covariance step failed: the {name} matrix has entries that are not finite."
    values, vectors = np.linalg.eigh(matrix)
    if values.min() > 1e-10 * max(values.max(), 1e-300):
        return ""
    worst = vectors[:, 0]
    order = np.argsort(-np.abs(worst))[:3]
    involved = ", ".join(parameters[i] for i in order if abs(worst[i]) > 0.1)
    shown = values if len(values) <= 20 else np.concatenate([values[:10], values[-10:]])
    listed = ", ".join(f"{v:.3g}" for v in shown)
    return (
        f"Covariance step failed: the {name} matrix is not positive definite (eigenvalues {listed}); the direction "
        f"that the data do not determine is mostly {involved}. Fix or drop a parameter there (a variance near zero?), "
        "start from other values, or use a bootstrap or sampling importance resampling for the uncertainty."
    )
