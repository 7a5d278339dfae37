"""The approximate marginal likelihood of a population as a function of the free parameters, with its exact gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from deepnlme.data.batch import Batch
from deepnlme.estimation.inner import InnerOptions, find_modes, find_modes_from_many
from deepnlme.estimation.method import Method, Rows
from deepnlme.estimation.naive_pooled import NaivePooled
from deepnlme.joint import Joint


@dataclass(frozen=True)
class Evaluation:
    """The objective at B parameter vectors for S subjects.

    Attributes:
        u: [B, P] free parameters.
        ofv: [B] -2 log L without the constant of the Gaussian observations; infinite where it is not finite.
        penalty: [B] -2 log prior.
        gradient: [B, P] of ofv + penalty.
        subject: [B, S] contributions to the OFV.
        subject_gradient: [B, S, P] of those contributions.
        z: [B, S, k] modes of the whitened random effects.
        curvature: [B, S, k, k] the Hessian that the approximation uses there (identity without random effects).
        status: [B, S] an `EBEStatus` each.
    """

    u: np.ndarray
    ofv: np.ndarray
    penalty: np.ndarray
    gradient: np.ndarray
    subject: np.ndarray
    subject_gradient: np.ndarray
    z: np.ndarray
    curvature: np.ndarray
    status: np.ndarray

    @property
    def value(self) -> np.ndarray:
        """What is minimised, ofv + penalty, [B]."""
        return self.ofv + self.penalty


@dataclass
class _Warm:
    """Where the modes were last found and how they move with the parameters."""

    u: Tensor
    z: Tensor
    slope: Tensor | None


@dataclass
class MarginalObjective:
    """-2 log L(u) by one method, with the gradient.

    Total derivative of a term: d/du = partial_u + partial_z dz/du with dz/du = -(d2 l/dz2)^-1 d2 l/(dz du), the exact
    derivative of the mode (Almquist 2015); both second derivatives of l come from one reverse pass. Several parameter
    vectors are evaluated in one batch, since rows carry their own parameters.

    Args:
        joint: Model and data.
        method: The approximation.
        inner: Options of the inner problem.
        device: Where to compute.
        budget: Numbers per tensor that a chunk of rows may have; bounds memory and keeps work in the cache.
    """

    joint: Joint
    method: Method
    inner: InnerOptions = field(default_factory=InnerOptions)
    device: str = "cpu"
    budget: int = 60_000
    _warm: _Warm | None = None
    evaluations: int = 0

    def __post_init__(self) -> None:
        self.batch = self.joint.batch.to(self.device) if self.device != "cpu" else self.joint.batch
        self.subjects = self.batch.rows
        self.k = self.joint.k
        # without random effects every method is the likelihood itself
        self._terms = self.method.terms if self.k else NaivePooled().terms
        width = max(self.batch.slot_record.shape[1] * max(1, self.batch.dose_time.shape[1]), 1)
        self.rows_per_chunk = max(8, self.budget // (max(self.k, 1) * min(width, 4096)))

    def __call__(self, u: np.ndarray) -> Evaluation:
        """Evaluate at u [P] or [B, P]; the modes start from the last remembered point."""
        points = torch.tensor(np.atleast_2d(u), dtype=torch.float64, device=self.device)
        b, p = points.shape
        rows_u = points.repeat_interleave(self.subjects, 0)
        start = self._start(points)
        total = b * self.subjects
        value = torch.empty(total, dtype=torch.float64, device=self.device)
        gradient = torch.empty(total, p, dtype=torch.float64, device=self.device)
        z = torch.empty(total, self.k, dtype=torch.float64, device=self.device)
        slope = torch.zeros(total, self.k, p, dtype=torch.float64, device=self.device)
        curvature = torch.empty(total, self.k, self.k, dtype=torch.float64, device=self.device)
        status = torch.zeros(total, dtype=torch.int64, device=self.device)
        for part, batch in self._chunks(b):
            rows = Rows(self.joint, batch, rows_u[part].unsqueeze(0))
            found = self._rows(rows, start[part])
            for whole, piece in zip((value, gradient, z, slope, curvature, status), found, strict=True):
                whole[part] = piece
        self.evaluations += b
        return self._collect(points, value, gradient, z, slope, curvature, status)

    def _chunks(self, b: int) -> list[tuple[slice, Batch]]:
        """Consecutive row ranges with their batches; small problems are one chunk for all parameter vectors."""
        total = b * self.subjects
        if total <= self.rows_per_chunk:
            return [(slice(0, total), self.batch.tile(b))]
        out = []
        size = min(self.rows_per_chunk, self.subjects)
        pieces = self._pieces(size)
        for i in range(b):
            for part, batch in pieces:
                out.append((slice(i * self.subjects + part.start, i * self.subjects + part.stop), batch))
        return out

    def _pieces(self, size: int) -> list[tuple[slice, Batch]]:
        key = f"pieces{size}"
        if key not in self.batch.cache:
            pieces = []
            for start in range(0, self.subjects, size):
                part = slice(start, min(start + size, self.subjects))
                index = torch.arange(part.start, part.stop, device=self.batch.device)
                pieces.append((part, self.batch.take(index)))
            self.batch.cache[key] = pieces
        return self.batch.cache[key]

    def _start(self, points: Tensor) -> Tensor:
        """Starting points of the modes [B * S, k]: the last modes, moved along their derivative."""
        b = points.shape[0]
        if self._warm is None:
            return torch.zeros(b * self.subjects, self.k, dtype=torch.float64, device=self.device)
        z = self._warm.z.repeat(b, 1)
        if self._warm.slope is None:
            return z
        move = (points - self._warm.u).repeat_interleave(self.subjects, 0)
        shift = (self._warm.slope.repeat(b, 1, 1) @ move.unsqueeze(-1)).squeeze(-1)
        far = shift.norm(dim=-1, keepdim=True)
        return z + shift * torch.clamp(1.0 / far.clamp(min=1e-300), max=1.0)

    def _rows(self, rows: Rows, start: Tensor) -> tuple[Tensor, ...]:
        """Value [R], gradient [R, P], mode [R, k], its derivative [R, k, P], curvature [R, k, k], status [R]."""
        r, k = rows.batch.rows, self.k
        if self.method.inner and k:
            search = find_modes if self._warm is not None else find_modes_from_many
            modes = search(self.method, rows, start, self.inner)
            z, status = modes.z, modes.status
        else:
            z = torch.zeros(r, k, dtype=torch.float64, device=rows.u.device)
            status = torch.zeros(r, dtype=torch.int64, device=rows.u.device)
        copies = max(k, 1)
        leaf_u = rows.u.expand(copies, r, -1).clone().requires_grad_()
        leaf_z = z.unsqueeze(0).expand(copies, r, k).clone().requires_grad_()
        terms = self._terms(Rows(rows.joint, rows.batch, leaf_u), leaf_z)
        explicit = torch.autograd.grad(
            terms.value.sum(), [leaf_u, leaf_z], retain_graph=terms.inner_gradient is not None, allow_unused=True
        )
        p = leaf_u.shape[-1]
        by_u = explicit[0].sum(0) if explicit[0] is not None else torch.zeros(r, p, dtype=z.dtype, device=z.device)
        slope = torch.zeros(r, k, p, dtype=z.dtype, device=z.device)
        if terms.inner_gradient is not None and k:
            mixed, hessian = torch.autograd.grad(terms.inner_gradient.sum(), [leaf_u, leaf_z], allow_unused=True)
            h = hessian.transpose(0, 1)
            if mixed is not None:  # None if every parameter is fixed
                slope = -_solve(0.5 * (h + h.mT), mixed.transpose(0, 1))
            by_z = explicit[1].sum(0) if explicit[1] is not None else torch.zeros_like(z)
            by_u = by_u + (by_z.unsqueeze(1) @ slope).squeeze(1)
        if terms.curvature is None:
            curvature = torch.eye(k, dtype=z.dtype, device=z.device).expand(r, k, k)
        else:
            curvature = terms.curvature.detach()
        return terms.value.detach(), by_u, z, slope, curvature, status

    def _collect(
        self,
        points: Tensor,
        value: Tensor,
        gradient: Tensor,
        z: Tensor,
        slope: Tensor,
        curvature: Tensor,
        status: Tensor,
    ) -> Evaluation:
        b, p = points.shape
        shape = (b, self.subjects)
        subject = 2.0 * value.reshape(shape)
        subject_gradient = 2.0 * gradient.reshape(*shape, p)
        penalty, penalty_gradient = self._penalty(points)
        ofv = subject.sum(1)
        total = subject_gradient.sum(1) + penalty_gradient
        finite = torch.isfinite(ofv) & torch.isfinite(total).all(1)
        ofv = torch.where(finite, ofv, torch.full_like(ofv, torch.inf))
        if self._warm is None and bool(finite[0]):
            self._warm = _Warm(points[0], z[: self.subjects], slope[: self.subjects])
        self._last = (points, z.reshape(*shape, self.k), slope.reshape(*shape, self.k, p))
        return Evaluation(
            *(
                v.cpu().numpy()
                for v in (
                    points,
                    ofv,
                    penalty,
                    total,
                    subject,
                    subject_gradient,
                    z.reshape(*shape, self.k),
                    curvature.reshape(*shape, self.k, self.k),
                )
            ),
            status=status.reshape(shape).cpu().numpy(),
        )

    def _penalty(self, points: Tensor) -> tuple[Tensor, Tensor]:
        if not self.joint.space.has_priors:
            return torch.zeros(len(points), dtype=torch.float64, device=self.device), torch.zeros_like(points)
        leaf = points.clone().requires_grad_()
        value = -2.0 * self.joint.space.log_prior(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        # outside the support of a prior
        return torch.where(torch.isfinite(value), value, torch.inf).detach(), gradient

    def remember(self, which: int = 0) -> None:
        """Start the next searches from the modes of the last evaluation's vector `which`."""
        points, z, slope = self._last
        self._warm = _Warm(points[which].clone(), z[which].clone(), slope[which].clone())

    def forget(self) -> None:
        """Start the next search from the origin."""
        self._warm = None

    def start_from(self, u: np.ndarray, z: np.ndarray) -> None:
        """Start the next searches from the modes `z` [S, k] found at `u` (used to resume)."""
        self._warm = _Warm(
            torch.tensor(u, dtype=torch.float64, device=self.device),
            torch.tensor(z, dtype=torch.float64, device=self.device),
            None,
        )


def _solve(h: Tensor, right: Tensor) -> Tensor:
    """H^-1 right for every row; a singular H gives NaN there only."""
    factor, info = torch.linalg.cholesky_ex(h)
    solution = torch.cholesky_solve(right, factor)
    bad = torch.nonzero(info > 0).flatten()
    if len(bad):
        general, fault = torch.linalg.solve_ex(h[bad], right[bad])
        general = torch.where((fault > 0)[:, None, None], torch.full_like(general, torch.nan), general)
        solution = solution.index_copy(0, bad, general)
    return solution
