"""The approximate marginal likelihood of a population as a function of the free parameters, with its exact gradient."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.data.batch import Batch
from deepnlme.estimation.inner import InnerOptions, find_modes, find_modes_from_many
from deepnlme.estimation.method import Method, Rows
from deepnlme.estimation.naive_pooled import NaivePooled
from deepnlme.estimation.options import Options
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
        subject_gradient: [B, S, Q] of those contributions, without the weights that all rows share (Q = P if none).
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

    def one(self, which: int) -> Evaluation:
        """The objective at one of the parameter vectors, B = 1."""
        return Evaluation(*(getattr(self, f)[which : which + 1] for f in Evaluation.__dataclass_fields__))


@dataclass
class _Warm:
    """Where the modes were last found and how they move with the parameters, on each of L lanes.

    Attributes:
        u: [L, Q] parameters.
        z: [L, S, k] modes there.
        slope: [L, S, k, Q] their derivative, or None.
    """

    u: Tensor
    z: Tensor
    slope: Tensor | None


@dataclass
class MarginalObjective:
    """-2 log L(u) by one method, with the gradient.

    Total derivative of a term: d/du = partial_u + partial_z dz/du with dz/du = -(d2 l/dz2)^-1 d2 l/(dz du), the exact
    derivative of the mode (Almquist 2015); both second derivatives of l come from one reverse pass. Several parameter
    vectors are evaluated in one batch, since rows carry their own parameters. Weights that all rows share have no
    derivative by row: theirs is that of sum(value - a inner_gradient) with a = (d2 l/dz2)^-1 partial_z held constant,
    and their vectors are evaluated one after the other.

    Searches that run side by side have a *lane* each, on which the modes are remembered.

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
    _known: Evaluation | None = None
    evaluations: int = 0

    def __post_init__(self) -> None:
        self.batch = self.joint.batch.to(self.device) if self.device != "cpu" else self.joint.batch
        self.subjects = self.batch.rows
        self.k = self.joint.k
        # without random effects every method is the likelihood itself
        self._terms = self.method.terms if self.k else NaivePooled().terms
        width = max(self.batch.slot_record.shape[1] * max(1, self.batch.dose_time.shape[1]), 1)
        if self.joint.model.is_linear:  # rows are solved in buckets by number of doses
            pairs = self.batch.slot_valid.sum(1) * self.batch.dose_valid.sum(1).clamp(min=1)
            width = min(width, max(int(pairs.to(torch.float64).mean()), 1))
        self.rows_per_chunk = max(8, self.budget // (max(self.k, 1) * min(width, 4096)))

    @classmethod
    def of(cls, joint: Joint, method: Method, options: Options, most: int | None = None) -> MarginalObjective:
        """The objective as the options of a fit want it, with at most so many iterations of the random effects."""
        inner = InnerOptions(options.ebe_tolerance, starts=options.ebe_starts, seed=options.seed)
        inner = inner if most is None else replace(inner, max_iterations=most)
        return cls(joint, method, inner, options.device, options.max_numbers)

    def __call__(self, u: np.ndarray, lanes: np.ndarray | None = None) -> Evaluation:
        """Evaluate at u [P] or [B, P]; the modes start from the last remembered point of each vector's lane [B].

        Asked again for the same, as a fit does after its start was checked, it answers from memory.
        """
        if lanes is None and self._known is not None and np.array_equal(np.atleast_2d(u), self._known.u):
            return self._known
        points = torch.tensor(np.atleast_2d(u), dtype=torch.float64, device=self.device)
        q = self.joint.space.row_size
        b = points.shape[0]
        rows_u = points[:, :q].repeat_interleave(self.subjects, 0)
        start = self._start(points[:, :q], lanes)
        total = b * self.subjects
        value = torch.empty(total, dtype=torch.float64, device=self.device)
        gradient = torch.empty(total, q, dtype=torch.float64, device=self.device)
        z = torch.empty(total, self.k, dtype=torch.float64, device=self.device)
        slope = torch.zeros(total, self.k, q, dtype=torch.float64, device=self.device)
        curvature = torch.empty(total, self.k, self.k, dtype=torch.float64, device=self.device)
        status = torch.zeros(total, dtype=torch.int64, device=self.device)
        shared = torch.zeros(b, points.shape[1] - q, dtype=torch.float64, device=self.device)
        for part, batch in self._chunks(b, lanes):
            here = part.start // self.subjects
            weights = points[here, q:] if shared.shape[1] else None
            rows = Rows(self.joint, batch, rows_u[part].unsqueeze(0), shared=weights)
            *found, of_shared = self._rows(rows, start[part])
            for whole, piece in zip((value, gradient, z, slope, curvature, status), found, strict=True):
                whole[part] = piece
            if weights is not None:
                shared[here] += of_shared
        self.evaluations += b
        found = self._collect(points, value, gradient, shared, z, slope, curvature, status)
        self._known = found if b == 1 and lanes is None else None
        return found

    def _chunks(self, b: int, lanes: np.ndarray | None) -> list[tuple[slice, Batch]]:
        """Consecutive row ranges with their batches; small problems are one chunk for all parameter vectors."""
        if lanes is not None and self._lanes > 1:
            return self._lane_chunks(lanes)
        total = b * self.subjects
        if total <= self.rows_per_chunk and (b == 1 or not self._has_shared):
            return [(slice(0, total), self.batch.tile(b))]
        out = []
        size = min(self.rows_per_chunk, self.subjects)
        pieces = self._pieces(size)
        for i in range(b):
            for part, batch in pieces:
                out.append((slice(i * self.subjects + part.start, i * self.subjects + part.stop), batch))
        return out

    def _lane_chunks(self, lanes: np.ndarray) -> list[tuple[slice, Batch]]:
        """The same where every lane has rows of its own, so that solvers remember each lane's solutions."""
        whole = self.batch.tile(self._lanes)
        s = self.subjects
        total = len(lanes) * s
        if total <= self.rows_per_chunk and not self._has_shared and len(lanes) == self._lanes:
            return [(slice(0, total), whole)]
        index = torch.tensor(lanes, device=self.device).repeat_interleave(s) * s
        index = index + torch.arange(s, device=self.device).repeat(len(lanes))
        block = s if self._has_shared else total  # a chunk never spans two sets of shared weights
        size = min(self.rows_per_chunk, block)
        begins = [e for first in range(0, total, block) for e in range(first, first + block, size)]
        return [(slice(a, e), whole.take(index[a:e])) for a, e in zip(begins, [*begins[1:], total], strict=True)]

    def lane_batch(self, lane: int) -> Batch:
        """The rows of one lane."""
        if self._lanes == 1:
            return self.batch
        first = lane * self.subjects
        return self.batch.tile(self._lanes).take(torch.arange(first, first + self.subjects, device=self.device))

    @cached_property
    def gaussian(self) -> bool:
        """Whether every endpoint is Gaussian."""
        with torch.no_grad():
            u = torch.tensor(self.joint.space.initial(), dtype=torch.float64, device=self.device)
            z = torch.zeros(1, self.subjects, self.k, dtype=torch.float64, device=self.device)
            values = self.joint.space.values(u.expand(1, self.subjects, -1))
            return bool(self.joint.predict(values, z, self.batch).gaussian.all())

    @property
    def _has_shared(self) -> bool:
        return self.joint.space.row_size < self.joint.space.size

    @property
    def _lanes(self) -> int:
        return 1 if self._warm is None else self._warm.z.shape[0]

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

    def _start(self, points: Tensor, lanes: np.ndarray | None) -> Tensor:
        """Starting points of the modes [B * S, k]: the last modes, moved along their derivative."""
        b = points.shape[0]
        if self._warm is None:
            return torch.zeros(b * self.subjects, self.k, dtype=torch.float64, device=self.device)
        lane = torch.zeros(b, dtype=torch.int64, device=self.device) if lanes is None else torch.tensor(lanes)
        z = self._warm.z[lane]
        if self._warm.slope is not None:
            move = points - self._warm.u[lane]
            shift = (self._warm.slope[lane] @ move[:, None, :, None]).squeeze(-1)
            far = shift.norm(dim=-1, keepdim=True)
            z = z + shift * torch.clamp(1.0 / far.clamp(min=1e-300), max=1.0)
        return z.reshape(b * self.subjects, self.k)

    def _rows(self, rows: Rows, start: Tensor) -> tuple[Any, ...]:
        """Value [R], gradient [R, Q], mode [R, k], its derivative [R, k, Q], curvature [R, k, k], status [R].

        Last comes the gradient of the sum of the values in the weights that all rows share.
        """
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
        leaf_shared = None if rows.shared is None else rows.shared.clone().requires_grad_()
        terms = self._terms(Rows(rows.joint, rows.batch, leaf_u, shared=leaf_shared), leaf_z)
        keep = terms.inner_gradient is not None or leaf_shared is not None
        explicit = (None, None)
        if terms.value.requires_grad:  # not where every parameter is fixed and there are no random effects
            explicit = torch.autograd.grad(terms.value.sum(), [leaf_u, leaf_z], retain_graph=keep, allow_unused=True)
        p = leaf_u.shape[-1]
        by_u = explicit[0].sum(0) if explicit[0] is not None else torch.zeros(r, p, dtype=z.dtype, device=z.device)
        slope = torch.zeros(r, k, p, dtype=z.dtype, device=z.device)
        through = terms.value.sum()
        if terms.inner_gradient is not None and k:
            retain = leaf_shared is not None
            mixed, hessian = torch.autograd.grad(
                terms.inner_gradient.sum(), [leaf_u, leaf_z], allow_unused=True, retain_graph=retain
            )
            h = hessian.transpose(0, 1)
            h = 0.5 * (h + h.mT)
            by_z = explicit[1].sum(0) if explicit[1] is not None else torch.zeros_like(z)
            if mixed is not None:  # None if every parameter of the rows is fixed
                slope = -_solve(h, mixed.transpose(0, 1))
            by_u = by_u + (by_z.unsqueeze(1) @ slope).squeeze(1)
            if leaf_shared is not None:
                through = through - (terms.inner_gradient * _solve(h, by_z.unsqueeze(-1)).squeeze(-1).mT).sum()
        of_shared = None
        if leaf_shared is not None:
            (of_shared,) = torch.autograd.grad(through, leaf_shared, allow_unused=True)
            of_shared = torch.zeros_like(leaf_shared) if of_shared is None else of_shared
        if terms.curvature is None:
            curvature = torch.eye(k, dtype=z.dtype, device=z.device).expand(r, k, k)
        else:
            curvature = terms.curvature.detach()
        return terms.value.detach(), by_u, z, slope, curvature, status, of_shared

    def _collect(
        self,
        points: Tensor,
        value: Tensor,
        gradient: Tensor,
        shared: Tensor,
        z: Tensor,
        slope: Tensor,
        curvature: Tensor,
        status: Tensor,
    ) -> Evaluation:
        q = gradient.shape[1]
        shape = (points.shape[0], self.subjects)
        subject = 2.0 * value.reshape(shape)
        subject_gradient = 2.0 * gradient.reshape(*shape, q)
        penalty, penalty_gradient = self._penalty(points)
        ofv = subject.sum(1)
        total = torch.cat([subject_gradient.sum(1), 2.0 * shared], 1) + penalty_gradient
        finite = torch.isfinite(ofv) & torch.isfinite(total).all(1)
        ofv = torch.where(finite, ofv, torch.full_like(ofv, torch.inf))
        self._last = _Warm(points[:, :q], z.reshape(*shape, self.k), slope.reshape(*shape, self.k, q))
        if self._warm is None and bool(finite[0]):
            self.remember(0)
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

    def penalty_gradient(self, u: np.ndarray) -> np.ndarray:
        """Gradient [P] of the penalty alone."""
        return self._penalty(torch.tensor(u, dtype=torch.float64, device=self.device).unsqueeze(0))[1][0].cpu().numpy()

    def part(self, index: np.ndarray) -> MarginalObjective:
        """The objective of some of the subjects, with their modes as remembered now."""
        rows = torch.tensor(index, device=self.device)
        new = copy.copy(self)
        new.batch, new.subjects, new._known = self.batch.take(rows), len(index), None
        if self._warm is not None:
            slope = None if self._warm.slope is None else self._warm.slope[:1, rows]
            new._warm = _Warm(self._warm.u[:1], self._warm.z[:1, rows], slope)
        return new

    def remember(self, which: int = 0) -> None:
        """Start the next searches from the modes of the last evaluation's vector `which`, on one lane."""
        last = self._last
        assert last.slope is not None
        self._warm = _Warm(*(v[which : which + 1].clone() for v in (last.u, last.z, last.slope)))

    def remember_lanes(self, lanes: np.ndarray, which: np.ndarray) -> None:
        """Keep, for each of the lanes, the modes of the last evaluation's vector `which`."""
        assert self._warm is not None and self._warm.slope is not None and self._last.slope is not None
        for lane, i in zip(lanes.tolist(), which.tolist(), strict=True):
            self._warm.u[lane], self._warm.z[lane] = self._last.u[i], self._last.z[i]
            self._warm.slope[lane] = self._last.slope[i]

    def open_lanes(self, lanes: int) -> None:
        """So many lanes, all from the first one's modes or, without them, from the origin."""
        self._known = None
        s, k, q = self.subjects, self.k, self.joint.space.row_size
        like = {"dtype": torch.float64, "device": self.device}
        u, z = torch.zeros(1, q, **like), torch.zeros(1, s, k, **like)
        if self._warm is not None:
            u, z = self._warm.u[:1], self._warm.z[:1]
        self._warm = _Warm(u.repeat(lanes, 1), z.repeat(lanes, 1, 1), torch.zeros(lanes, s, k, q, **like))

    def forget(self) -> None:
        """Start the next search from the origin."""
        self._warm = self._known = None

    def start_from(self, u: np.ndarray, z: np.ndarray) -> None:
        """Start the next searches from the modes `z` [S, k] found at `u` (used to resume)."""
        self._known = None
        self._warm = _Warm(
            torch.tensor(u[: self.joint.space.row_size], dtype=torch.float64, device=self.device).unsqueeze(0),
            torch.tensor(z, dtype=torch.float64, device=self.device).unsqueeze(0),
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
