"""The interface of every estimation method, and what they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deepnlme.data.batch import Batch
from deepnlme.errors import ModelError
from deepnlme.joint import Joint, Prediction
from deepnlme.model import Model
from deepnlme.parameters import RandomEffects


@dataclass(frozen=True)
class Rows:
    """Rows under their population parameters: one term of the marginal likelihood each.

    Attributes:
        joint: Model and data.
        batch: R rows.
        u: [1, R, P] free parameters of each row, or [K, R, P] as leaves of a graph.
        order: Highest derivative of the predictions that will be taken.
        shared: Weights of networks that all rows share, or None without such.
    """

    joint: Joint
    batch: Batch
    u: Tensor
    order: int = 2
    shared: Tensor | None = None

    def take(self, index: Tensor) -> Rows:
        """Some of the rows."""
        return replace(self, batch=self.batch.take(index), u=self.u.index_select(1, index))

    def predict(self, z: Tensor) -> Prediction:
        """The observation model at z [K, R, k]."""
        return self.joint.predict(self.joint.space.values(self.u, self.shared), z, self.batch, self.order)

    def zero(self) -> Tensor:
        """z = 0, [1, R, k]."""
        return torch.zeros(1, self.batch.rows, self.joint.k, dtype=self.u.dtype, device=self.u.device)


@dataclass(frozen=True)
class Terms:
    """Minus log marginal likelihood of each row, and what it needs to be differentiated.

    Attributes:
        value: [R].
        inner_gradient: [K, R] the derivative of the inner problem in direction a, on copy a of the rows; None for
            methods without an inner problem.
        curvature: [R, k, k] the Hessian H that the approximation uses; None likewise.
    """

    value: Tensor
    inner_gradient: Tensor | None = None
    curvature: Tensor | None = None


def estimated_groups(model: Model) -> dict[str, RandomEffects]:
    """The random effects of a model, as declared before a fit that does not use Omega kept it."""
    before = model.__dict__.get("groups_before", {})
    kept = {n: before[n][1] for n, g in model.groups.items() if n in before and before[n][0] is g}
    return {**model.groups, **kept}


class Method(ABC):
    """An approximation of the marginal likelihood; final classes are frozen dataclasses.

    Attributes:
        name: Named in every table.
        inner: Whether empirical Bayes estimates are needed.
        gaussian: Whether every endpoint must be Normal or LogNormal.
        uses_omega: Whether Omega enters at all.
    """

    name: str
    inner: bool
    gaussian: bool
    uses_omega: bool = True

    def taking(self, model: Model) -> Model:
        """The model as this method fits it: where Omega does not enter it is kept; see `estimated_groups`."""
        if self.uses_omega or not model.groups:
            return model
        fixed = {n: g.as_fixed() for n, g in model.groups.items()}
        new = model.replace(**fixed)
        new.__dict__["groups_before"] = {n: (fixed[n], g) for n, g in estimated_groups(model).items()}
        return new

    @abstractmethod
    def terms(self, rows: Rows, z: Tensor) -> Terms:
        """The terms at z [K, R, k] with `rows.u` [K, R, P], as a graph; K is at least the number of directions."""

    def inner_nll(self, rows: Rows, z: Tensor) -> Tensor:
        """The inner problem, -log p(y | z) - log p(z) up to a constant, [K, R]."""
        return individual_nll(rows.predict(z), z)

    def check(self, joint: Joint) -> None:
        """Refuse models that the method cannot fit.

        Raises:
            ModelError: With the method to use instead.
        """
        if not self.gaussian:
            return
        with torch.no_grad():
            z = torch.zeros(1, joint.batch.rows, joint.k, dtype=torch.float64)
            rows = Rows(joint, joint.batch, torch.tensor(joint.space.initial()).expand(1, joint.batch.rows, -1))
            prediction = rows.predict(z)
        for name, sl in joint.batch.slices.items():
            if sl.stop > sl.start and not bool(prediction.gaussian[sl].all()):
                raise ModelError(
                    f"Invalid method: {self.name} needs Normal or LogNormal observations, `{name}` is not. "
                    "Use dn.Laplace()."
                )
        self.check_censoring(prediction)

    def check_censoring(self, prediction: Prediction) -> None:
        """Refuse censored data that the method cannot use."""
        if bool((prediction.positive & prediction.use).any()):
            raise ModelError(f'Invalid method: {self.name} cannot use blq="M4". Use dn.Laplace(), or blq="M3".')


def individual_nll(prediction: Prediction, z: Tensor, sd: Tensor | None = None) -> Tensor:
    """z'z/2 - log p(y | z), [K, R]; without the Gaussian constants."""
    return 0.5 * (z * z).sum(-1) - prediction.log_density(sd=sd).sum(-1)


def diagonal(g: Tensor) -> Tensor:
    """[K, R, K] -> [K, R]: component a on copy a."""
    return g.diagonal(dim1=0, dim2=2).mT


def jacobian(outputs: list[Tensor], z: Tensor) -> list[Tensor | None]:
    """d outputs / dz of every row at once, with a graph.

    Copy a of the rows carries direction a. Reverse mode gives J'v, which is linear in v; differentiating it once more,
    with respect to v, gives J times the direction.

    Args:
        outputs: Each [K, R, N] (or [1, R, N] where it does not depend on z).
        z: [K, R, K], a leaf or with a graph.

    Returns:
        For each output [K, R, N], direction first; None where it does not depend on z.
    """
    dependent = [o for o in outputs if o.requires_grad and o.shape[0] == z.shape[0]]
    if not dependent:
        return [None] * len(outputs)
    seeds = [torch.ones_like(o, requires_grad=True) for o in dependent]
    (back,) = torch.autograd.grad(dependent, z, seeds, create_graph=True, allow_unused=True)
    if back is None:
        return [None] * len(outputs)
    along = torch.autograd.grad(diagonal(back).sum(), seeds, create_graph=True, allow_unused=True)
    found: dict[int, Any] = {id(o): a for o, a in zip(dependent, along, strict=True)}
    return [found.get(id(o)) for o in outputs]


def log_det(h: Tensor) -> Tensor:
    """log det of positive definite matrices [R, k, k]; NaN where they are not."""
    factor, info = torch.linalg.cholesky_ex(h)
    value = 2.0 * torch.log(factor.diagonal(dim1=-2, dim2=-1)).sum(-1)
    return torch.where(info == 0, value, torch.full_like(value, torch.nan))
