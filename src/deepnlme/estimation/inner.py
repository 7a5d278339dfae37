"""The inner problem: the mode of every subject's random effects, all rows at once."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from deepnlme.estimation.method import Method, Rows, diagonal


class EBEStatus(enum.IntEnum):
    """How the search for a row's mode ended; `message` is what the user reads."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    NOT_FINITE = 2

    @property
    def message(self) -> str:
        """The status in words."""
        return {
            EBEStatus.CONVERGED: "converged",
            EBEStatus.MAX_ITERATIONS: "the mode of the random effects was not found within the iteration limit",
            EBEStatus.NOT_FINITE: "the individual likelihood is not finite",
        }[self]


@dataclass(frozen=True)
class Modes:
    """Modes of R rows.

    Attributes:
        z: [R, k] whitened random effects at the mode.
        status: [R] an `EBEStatus`.
        iterations: Evaluations of the derivatives.
    """

    z: Tensor
    status: Tensor
    iterations: int


@dataclass(frozen=True)
class InnerOptions:
    """Newton's method with a damping per row.

    Args:
        tolerance: Stop when the Newton step is shorter than this in the metric of the Hessian; that last step is
            still taken, which leaves an error of the order of its square.
        max_iterations: Evaluations of the derivatives.
        starts: Number of starting points at the first evaluation; more than one for models with several modes (lag
            times).
        seed: Of the further starting points.
    """

    tolerance: float = 1e-5
    max_iterations: int = 60
    starts: int = 1
    seed: int = 0


def derivatives(method: Method, rows: Rows, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value [R], gradient [R, k] and exact Hessian [R, k, k] of the inner problem: two reverse passes.

    Every row is copied once per direction; the derivative of copy a in direction a, differentiated again, gives row a
    of every Hessian in one pass.
    """
    k = z.shape[-1]
    copies = z.detach().unsqueeze(0).expand(k, -1, -1).clone().requires_grad_()
    nll = method.inner_nll(rows, copies)
    (g,) = torch.autograd.grad(nll.sum(), copies, create_graph=True)
    (h,) = torch.autograd.grad(diagonal(g).sum(), copies)
    hessian = h.transpose(0, 1)
    return nll[0].detach(), g[0].detach(), 0.5 * (hessian + hessian.mT)


def newton_step(g: Tensor, h: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """-(H + mu I)^-1 g, and its squared length in that metric; indefinite Hessians by the size of their eigenvalues."""
    k = g.shape[-1]
    damped = h + damping[:, None, None] * torch.eye(k, dtype=h.dtype, device=h.device)
    finite = torch.isfinite(damped).flatten(1).all(1) & torch.isfinite(g).all(1)
    damped = torch.where(finite[:, None, None], damped, torch.eye(k, dtype=h.dtype, device=h.device))
    factor, info = torch.linalg.cholesky_ex(damped)
    step = -torch.cholesky_solve(g.unsqueeze(-1), factor).squeeze(-1)
    bad = torch.nonzero((info > 0) & finite).flatten()
    if len(bad):
        values, vectors = torch.linalg.eigh(damped[bad])
        size = values.abs().clamp(min=1e-3)
        local = (vectors.mT @ g[bad].unsqueeze(-1)).squeeze(-1) / size
        step = step.index_copy(0, bad, -(vectors @ local.unsqueeze(-1)).squeeze(-1))
    step = torch.where(finite.unsqueeze(-1), step, torch.zeros_like(step))
    return step, -(step * g).sum(-1)


def find_modes(method: Method, rows: Rows, start: Tensor, options: InnerOptions) -> Modes:
    """Minimise the inner problem of every row from `start` [R, k].

    A step that makes a row's value larger, or not finite, is taken back and its damping raised; rows that have
    converged leave the computation once they are the majority.
    """
    total = start.shape[0]
    z_all = start.detach().clone()
    status = torch.full((total,), int(EBEStatus.MAX_ITERATIONS), device=start.device)
    index = torch.arange(total, device=start.device)
    z, damping = z_all.clone(), torch.zeros(total, dtype=start.dtype, device=start.device)
    best = torch.full_like(damping, torch.inf)
    kept = z.clone()
    g_kept, h_kept = torch.zeros_like(z), torch.eye(z.shape[-1], dtype=z.dtype, device=z.device).repeat(total, 1, 1)
    first = True
    iteration = 0
    while iteration < options.max_iterations and len(index):
        iteration += 1
        value, g, h = derivatives(method, rows, z)
        slack = 1e-10 * (1.0 + best.abs()).nan_to_num(posinf=0.0)
        better = torch.isfinite(value) & torch.isfinite(g).all(-1) & ((value <= best + slack) | first)
        first = False
        kept = torch.where(better.unsqueeze(-1), z, kept)
        best = torch.where(better, value, best)
        g_kept = torch.where(better.unsqueeze(-1), g, g_kept)
        h_kept = torch.where(better[:, None, None], h, h_kept)
        damping = torch.where(better, torch.where(damping < 1e-3, torch.zeros_like(damping), damping * 0.1), damping)
        damping = torch.where(better, damping, torch.clamp(damping * 10.0, min=1.0))
        step, decrement = newton_step(g_kept, h_kept, damping)
        # damping shortens the step and the decrement, which would be at most 1 + mu times larger without it
        small = (decrement >= 0) & (decrement * (1.0 + damping) <= options.tolerance**2) & torch.isfinite(best)
        stuck = (damping > 1e12) & ~small
        done = small | stuck
        length = step.norm(dim=-1, keepdim=True)
        z = kept + step * torch.clamp(5.0 / length.clamp(min=1e-300), max=1.0)
        if bool(done.any()):
            where = index[done]
            z_all[where] = torch.where(small[done].unsqueeze(-1), z[done], kept[done])
            verdict = torch.where(
                small[done],
                int(EBEStatus.CONVERGED),
                torch.where(torch.isfinite(best[done]), int(EBEStatus.MAX_ITERATIONS), int(EBEStatus.NOT_FINITE)),
            )
            status[where] = verdict
        left = torch.nonzero(~done).flatten()
        if len(left) == 0:
            return Modes(z_all, status, iteration)
        if len(left) <= 0.5 * len(index) or len(left) <= len(index) - 512:
            rows, index = rows.take(left), index[left]
            z, kept, best, damping, g_kept, h_kept = (v[left] for v in (z, kept, best, damping, g_kept, h_kept))
        elif bool(done.any()):
            # converged rows stay where they are until enough of them can be dropped
            z = torch.where(done.unsqueeze(-1), kept, z)
    z_all[index] = torch.where((status[index] == EBEStatus.CONVERGED).unsqueeze(-1), z_all[index], kept)
    status[index] = torch.where(
        (status[index] == EBEStatus.MAX_ITERATIONS) & ~torch.isfinite(best), int(EBEStatus.NOT_FINITE), status[index]
    )
    return Modes(z_all, status, iteration)


def find_modes_from_many(method: Method, rows: Rows, start: Tensor, options: InnerOptions) -> Modes:
    """The best of several starting points: the one given, the origin, and standard normal draws."""
    generator = torch.Generator().manual_seed(options.seed)
    candidates = [start]
    if options.starts > 1 and bool((start != 0).any()):
        candidates.append(torch.zeros_like(start))
    while len(candidates) < options.starts:
        draw = torch.randn(start.shape[-1], generator=generator, dtype=start.dtype)
        candidates.append(draw.to(start.device).expand_as(start))
    best: Modes | None = None
    lowest = torch.full(start.shape[:1], torch.inf, dtype=start.dtype, device=start.device)
    for candidate in candidates:
        found = find_modes(method, rows, candidate, options)
        if len(candidates) == 1:
            return found
        with torch.no_grad():
            value = method.inner_nll(rows, found.z.unsqueeze(0))[0].nan_to_num(torch.inf)
        if best is None:
            best, lowest = found, value
            continue
        better = value < lowest - 1e-9
        best = Modes(
            torch.where(better.unsqueeze(-1), found.z, best.z),
            torch.where(better, found.status, best.status),
            best.iterations + found.iterations,
        )
        lowest = torch.minimum(lowest, value)
    assert best is not None
    return best
