"""Descent for models with networks: a trust region with the curvature of Gauss and Newton, from one or several starts.

The expected information (`information`) is nearly the Hessian while the residuals are explained step by step, and takes
a network in tens of iterations to where line searches take thousands. Once its steps achieve much less than they
promise, what it neglects matters; from there the curvature is improved by what the gradients show (damped BFGS).
A trust region, not a line search: one wild trial point in the weights can make a differential equation explode.

Several starts descend side by side, evaluated in one batch; the worse half of them is given up three times.

Source: Nocedal and Wright 2006, Numerical Optimization, chapters 4, 10 and 18 (damping); Fletcher and Xu 1987, IMA J
Numer Anal 7:371 (the switch).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from deepnlme.estimation.information import information, outer_products
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.estimation.watch import FitStatus, Watch

FLAT_STEPS = 10
"""A descent is flat when so many accepted steps improve the objective by less than `Options.flat`."""
PROMISE, PROMISE_STEPS = 0.3, 5
"""Share of the expected improvement that so many steps must achieve for the next to use the information again."""
HALVINGS = (15, 30, 45)
"""Iterations after which the worse half of the starts is given up."""
SMALLEST = 1e-8
"""Radius below which no step is accepted any more for rounding errors."""


@dataclass
class _Lane:
    """One descent.

    Attributes:
        number: Its lane.
        u: [P] where it is.
        evaluation: The objective there.
        flat: Improvement in `FLAT_STEPS` steps below which it ends [OFV units].
        tolerance: Expected improvement below which it ends [OFV units].
        radius: Of its trust region.
        curvature: [P, P] of the objective there, or None where it is to be computed.
        secant: Whether the curvature is updated instead of computed.
        values: The objective after every accepted step.
        status: How it ended, or None.
    """

    number: int
    u: np.ndarray
    evaluation: Evaluation
    flat: float
    tolerance: float
    radius: float = 1.0
    curvature: np.ndarray | None = None
    secant: bool = False
    values: list[float] = field(default_factory=list)
    decrement: float = math.inf
    status: FitStatus | None = None

    @property
    def value(self) -> float:
        return float(self.evaluation.value[0])

    def propose(self) -> tuple[np.ndarray, float]:
        """The step of the quadratic model within the radius, and the improvement that it promises."""
        assert self.curvature is not None
        g = self.evaluation.gradient[0]
        values, vectors = np.linalg.eigh(self.curvature)
        size = np.maximum(np.abs(values), 1e-8 * max(np.abs(values).max(), 1e-8))
        local = vectors.T @ g
        self.decrement = float(0.5 * np.sum(local**2 / np.maximum(size, 1e-6 * size.max())))
        step = -vectors @ (local / (size + _damping(local, size, self.radius)))
        return step, -float(g @ step + 0.5 * step @ self.curvature @ step)

    def take(self, step: np.ndarray, promised: float, new: Evaluation) -> bool:
        """Accept or refuse the step; whether it was accepted."""
        achieved = self.value - float(new.value[0])
        length = float(np.linalg.norm(step))
        share = achieved / max(promised, 1e-300)
        if not (math.isfinite(achieved) and share > 1e-4 and achieved > 0):
            self.radius = 0.25 * length
            if self.decrement < self.tolerance:
                self.status = FitStatus.CONVERGED
            elif self.radius < SMALLEST:
                self.status = FitStatus.PRECISION
            return False
        if share > 0.75:
            self.radius = max(self.radius, 2.0 * length)
        elif share < 0.25:
            self.radius = 0.5 * length
        if self.secant:
            assert self.curvature is not None
            self.curvature = damped_update(self.curvature, step, new.gradient[0] - self.evaluation.gradient[0])
        else:
            self.curvature = None
        self.u, self.evaluation = self.u + step, new
        self.values.append(self.value)
        self._judge()
        return True

    def _judge(self) -> None:
        """Leave the information behind where it does not keep its promises; stop on flat ground."""
        v = self.values
        if not self.secant and len(v) > PROMISE_STEPS and v[-1 - PROMISE_STEPS] - v[-1] < PROMISE * self.decrement:
            self.secant = True
        if self.decrement < self.tolerance:
            self.status = FitStatus.CONVERGED
        elif len(v) > FLAT_STEPS and v[-1 - FLAT_STEPS] - v[-1] < self.flat:
            self.status = FitStatus.FLAT


def _damping(local: np.ndarray, size: np.ndarray, radius: float) -> float:
    """The number that makes |local / (size + it)| equal to the radius; 0 where it is shorter."""

    def length(mu: float) -> float:
        return float(np.linalg.norm(local / (size + mu)))

    if length(0.0) <= radius:
        return 0.0
    high = float(np.linalg.norm(local)) / radius
    low = 0.0
    for _ in range(100):
        middle = math.sqrt(low * high) if low > 0 else 1e-3 * high
        low, high = (middle, high) if length(middle) > radius else (low, middle)
        if low > 0 and high < 1.01 * low:
            break
    return high


def damped_update(b: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """BFGS update of a curvature with the change of the gradient, damped so that it stays positive (Powell)."""
    along = b @ step
    curve = float(step @ along)
    if not curve > 0:
        return b
    found = float(step @ change)
    if found < 0.2 * curve:
        share = 0.8 * curve / (curve - found)
        change = share * change + (1.0 - share) * along
        found = float(step @ change)
    return b - np.outer(along, along) / curve + np.outer(change, change) / found


def descend(objective: MarginalObjective, starts: np.ndarray, watch: Watch) -> FitStatus:
    """Minimise from every start [L, P]; the watch keeps the best point and what all have reached.

    Returns:
        How the best of them ended.
    """
    lanes = _begin(objective, starts, watch)
    iteration = 0
    while any(lane.status is None for lane in lanes):
        iteration += 1
        running = [lane for lane in lanes if lane.status is None]
        for lane in running:
            if lane.curvature is None:
                lane.curvature = curvature(objective, lane.evaluation, lane.number)
        proposals = [lane.propose() for lane in running]
        points = np.stack([lane.u + step for lane, (step, _) in zip(running, proposals, strict=True)])
        numbers = np.array([lane.number for lane in running])
        together = objective(points, numbers if len(lanes) > 1 else None)
        accepted = [
            lane.take(step, promised, together.one(i))
            for i, (lane, (step, promised)) in enumerate(zip(running, proposals, strict=True))
        ]
        which = np.flatnonzero(accepted)
        if len(lanes) > 1:
            objective.remember_lanes(numbers[which], which)
        elif len(which):
            objective.remember(0)
        best = min(lanes, key=lambda lane: lane.value)
        watch.reached = tuple(lane.value for lane in lanes)
        watch.consider(best.u, best.evaluation, remember=False)
        watch.iteration(best.decrement, certain=False)
        if iteration in HALVINGS:
            _give_up(running)
    best = min(lanes, key=lambda lane: lane.value)
    assert best.status is not None
    return best.status


def _begin(objective: MarginalObjective, starts: np.ndarray, watch: Watch) -> list[_Lane]:
    """A lane for every start; those where the objective is not finite end at once."""
    many = len(starts) > 1
    numbers = np.arange(len(starts))
    if many:
        objective.open_lanes(len(starts))
    first = objective(starts, numbers if many else None)
    lanes = [
        _Lane(i, u.copy(), first.one(i), watch.options.flat, watch.options.tolerance) for i, u in enumerate(starts)
    ]
    if many:
        objective.remember_lanes(numbers, numbers)
    for lane in lanes:
        lane.values.append(lane.value)
        if not math.isfinite(lane.value):
            lane.status = FitStatus.NOT_FINITE
    best = min(lanes, key=lambda lane: lane.value)
    watch.consider(best.u, best.evaluation, remember=not many)
    return lanes


def _give_up(running: list[_Lane]) -> None:
    """The worse half of what still runs."""
    left = sorted((lane for lane in running if lane.status is None), key=lambda lane: lane.value)
    for lane in left[(len(left) + 1) // 2 :]:
        lane.status = FitStatus.GIVEN_UP


def curvature(objective: MarginalObjective, evaluation: Evaluation, lane: int = 0) -> np.ndarray:
    """Positive semidefinite approximation of the objective's Hessian, [P, P]: information and priors.

    Where observations are not Gaussian the subjects' outer products of gradients stand for the information.
    """
    found = information(objective, evaluation, lane) if objective.gaussian else outer_products(evaluation)
    if not np.isfinite(found).all():
        found = np.diag(np.abs(np.nan_to_num(evaluation.gradient[0])) + 1.0)
    return found + np.diag(prior_curvature(objective, evaluation.u[0]))


def prior_curvature(objective: MarginalObjective, u: np.ndarray) -> np.ndarray:
    """Diagonal of the Hessian of -2 log prior, [P], negative entries as zero; priors are of single parameters."""
    space = objective.joint.space
    if not space.has_priors:
        return np.zeros(len(u))
    leaf = torch.tensor(u, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(-2.0 * space.log_prior(leaf), leaf, create_graph=True)
    if not g.requires_grad:
        return np.zeros(len(u))
    (h,) = torch.autograd.grad(g.sum(), leaf, allow_unused=True)
    return np.zeros(len(u)) if h is None else np.nan_to_num(h.numpy(force=True)).clip(0.0)
