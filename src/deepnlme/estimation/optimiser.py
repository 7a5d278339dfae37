"""The outer problem: minimise the objective over the free parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from deepnlme.errors import ModelError
from deepnlme.estimation.adam import adam
from deepnlme.estimation.information import outer_products
from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.estimation.options import Options
from deepnlme.estimation.trust_region import FLAT_STEPS, descend
from deepnlme.estimation.watch import FitStatus, Stop, Trace, Watch

ENOUGH = 1e-3
"""Improvement [OFV units] below which BFGS hands over to Newton's method."""

MAX_LIMITED_MEMORY = 5_000
"""Parameters, the weights of large networks among them, up to which L-BFGS is used instead of Adam."""

STEP = 1e-5
"""Step of the difference of gradients that makes the Hessian, relative to max(1, |u|)."""


@dataclass
class Optimum:
    """The best point found.

    Attributes:
        u: [P].
        evaluation: The objective there (B = 1).
        status: How it ended.
        decrement: Expected further improvement [OFV units].
        trace: The path.
        hessian: [P, P] of the objective there, or None if it was not computed.
        reached: The values that starts side by side have reached.
        held_out: OFV of the subjects kept aside, or None.
    """

    u: np.ndarray
    evaluation: Evaluation
    status: FitStatus
    decrement: float
    trace: Trace
    hessian: np.ndarray | None = None
    reached: tuple[float, ...] = ()
    held_out: float | None = None

    @property
    def rank(self) -> float:
        """What the best of several starts is the lowest of: the held-out OFV where there is one."""
        return float(self.evaluation.value[0]) if self.held_out is None else self.held_out


def steps(u: np.ndarray) -> np.ndarray:
    """Step in each parameter for differences of gradients."""
    return STEP * np.maximum(1.0, np.abs(u))


def with_hessian(objective: MarginalObjective, u: np.ndarray) -> tuple[Evaluation, np.ndarray]:
    """The objective and its Hessian by forward differences of the exact gradient, in one batch of P + 1 vectors."""
    h = steps(u)
    evaluation = objective(np.concatenate([u[None], u + np.diag(h)]))
    g = evaluation.gradient
    hessian = (g[1:] - g[0]) / h[:, None]
    hessian = 0.5 * (hessian + hessian.T)
    if not np.isfinite(hessian).all():
        hessian = outer_products(evaluation)
    return evaluation, hessian


def newton_decrement(gradient: np.ndarray, hessian: np.ndarray) -> float:
    """g' |H|^-1 g / 2, the improvement that a quadratic model expects [OFV units]; flat directions do not count."""
    if not len(gradient):
        return 0.0
    values, vectors = np.linalg.eigh(hessian)
    local = vectors.T @ gradient
    size = np.maximum(np.abs(values), 1e-8 * max(1.0, np.abs(values).max()))
    return float(0.5 * np.sum(local**2 / size))


def optimise(
    objective: MarginalObjective,
    starts: np.ndarray,
    options: Options,
    save: Callable[[np.ndarray, Evaluation], None] = lambda u, e: None,
    held_out: MarginalObjective | None = None,
) -> Optimum:
    """Minimise from `starts` [P] or, where they run side by side, [L, P].

    Args:
        objective: The objective.
        starts: Where to start; several at once only with `together`.
        options: Its `optimiser` chooses the way; see `docs/methods.md`.
        save: Called with the best point after every iteration.
        held_out: The objective of subjects kept aside, for early stopping.
    """
    watch = Watch(objective, options, save, held_out)
    starts = np.atleast_2d(starts)
    try:
        if starts.shape[1] == 0:
            watch.consider(starts[0], objective(starts[0]))
            status = FitStatus.NOTHING_TO_ESTIMATE
            watch.decrement = 0.0
        elif together(objective, options):
            status = descend(objective, starts, watch)
        else:
            status = WAYS[way(objective, options)](objective, starts[0], watch)
        watch.look_aside_at_the_end()
    except Stop as stop:
        status = stop.status
        watch.look_aside_at_the_end()
    except KeyboardInterrupt:
        status = FitStatus.INTERRUPTED
    finally:
        watch.bar.close()
    if watch.best is None and status is not FitStatus.INTERRUPTED:
        raise ModelError(
            "Invalid start: the OFV is not finite there. It comes from a fit without random effects (pooled_first) or "
            "from a checkpoint: leave that out, or start from other values."
        )
    if watch.best is None:
        raise KeyboardInterrupt("interrupted before the first evaluation had ended")
    _, u, evaluation = watch.best
    if watch.best_held_out is not None and not np.array_equal(watch.best_held_out[2], u):
        _, _, u, evaluation = watch.best_held_out
        status = FitStatus.EARLY if status in (FitStatus.CONVERGED, FitStatus.FLAT, FitStatus.PRECISION) else status
    known = watch.hessian[1] if watch.hessian is not None and watch.hessian[0] == u.tobytes() else None
    aside = None if watch.best_held_out is None else watch.best_held_out[0]
    return Optimum(u, evaluation, status, watch.decrement, watch.trace, known, watch.reached, aside)


def way(objective: MarginalObjective, options: Options) -> str:
    """The optimiser that "auto" means for this problem."""
    space = objective.joint.space
    if options.optimiser != "auto":
        if space.row_size < space.size and options.optimiser not in ("l-bfgs", "adam"):
            raise ModelError(
                f'Invalid `optimiser`: got "{options.optimiser}", but the model has a network whose '
                f"{space.size - space.row_size} weights all subjects share (an MLP of more than 600, or dn.Network). "
                'Use "l-bfgs" or "adam".'
            )
        return options.optimiser
    if space.weights and space.row_size == space.size:
        return "gauss-newton"
    if space.weights and space.size > MAX_LIMITED_MEMORY:
        return "adam"
    if space.weights:
        return "l-bfgs"
    return "newton" if space.size <= options.max_newton else "bfgs"


def together(objective: MarginalObjective, options: Options) -> bool:
    """Whether several starts run side by side."""
    return way(objective, options) == "gauss-newton"


def _newton(objective: MarginalObjective, start: np.ndarray, watch: Watch) -> FitStatus:
    """Newton's method in an exact trust region (scipy's trust-exact).

    Value, gradient and Hessian come from one batch of P + 1 parameter vectors. Where that batch is larger than a chunk,
    BFGS comes first, started from the subjects' outer products of gradients.
    """
    if (len(start) + 1) * objective.subjects > objective.rows_per_chunk:
        _quasi_newton(objective, start, watch, ENOUGH)
    return _trust_region(objective, start if watch.best is None else watch.best[1], watch)


def _bfgs(objective: MarginalObjective, start: np.ndarray, watch: Watch) -> FitStatus:
    return _quasi_newton(objective, start, watch, watch.options.tolerance)


def _limited_memory(objective: MarginalObjective, start: np.ndarray, watch: Watch) -> FitStatus:
    """L-BFGS: no matrix of the weights. It stops where ten iterations improve by less than `Options.flat`."""
    values: list[float] = []

    def look(u: np.ndarray) -> tuple[float, np.ndarray]:
        evaluation = objective(u)
        watch.consider(u, evaluation)
        value = float(evaluation.value[0])
        return (value, evaluation.gradient[0]) if math.isfinite(value) else (1e300, np.zeros_like(u))

    def callback(intermediate_result):  # type: ignore[no-untyped-def]
        assert watch.best is not None
        del intermediate_result
        values.append(watch.best[0])
        gain = values[-1 - FLAT_STEPS] - values[-1] if len(values) > FLAT_STEPS else math.inf
        watch.iteration(gain, certain=False)
        if gain < watch.options.flat:
            raise Stop(FitStatus.FLAT)

    options = {"maxcor": 30, "ftol": 0.0, "gtol": 1e-10, "maxiter": 10**6, "maxfun": 10**7}
    minimize(look, start, jac=True, method="L-BFGS-B", callback=callback, options=options)
    return FitStatus.PRECISION


def _trust_region(objective: MarginalObjective, start: np.ndarray, watch: Watch) -> FitStatus:
    memory: dict[bytes, tuple[float, np.ndarray, np.ndarray]] = {}

    def look(u: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        key = u.tobytes()
        if key not in memory:
            evaluation, hessian = with_hessian(objective, u)
            watch.consider(u, evaluation)
            if watch.best is not None and watch.best[1].tobytes() == key:
                watch.hessian = (key, hessian)
            memory.clear()
            memory[key] = (float(evaluation.value[0]), evaluation.gradient[0], hessian)
        return memory[key]

    def callback(intermediate_result):  # type: ignore[no-untyped-def]
        _, gradient, hessian = look(intermediate_result.x)
        watch.iteration(newton_decrement(gradient, hessian))

    first = look(start)
    decrement = newton_decrement(first[1], first[2])
    if decrement < watch.options.tolerance:
        watch.iteration(decrement)
    minimize(
        lambda u: look(u)[0],
        start,
        jac=lambda u: look(u)[1],
        hess=lambda u: look(u)[2],
        method="trust-exact",
        callback=callback,
        options={"initial_trust_radius": 0.5, "max_trust_radius": 4.0, "gtol": 1e-300, "maxiter": 10**6},
    )
    return FitStatus.PRECISION


def _quasi_newton(objective: MarginalObjective, start: np.ndarray, watch: Watch, enough: float) -> FitStatus:
    """BFGS until two iterations in a row improve the objective by less than `enough`."""
    values: list[float] = []

    def look(u: np.ndarray) -> tuple[float, np.ndarray]:
        evaluation = objective(u)
        watch.consider(u, evaluation)
        value = float(evaluation.value[0])
        gradient = evaluation.gradient[0]
        return (value, gradient) if math.isfinite(value) else (1e300, np.zeros_like(gradient))

    def metric() -> np.ndarray:
        assert watch.best is not None
        b = outer_products(watch.best[2])
        return b + 1e-3 * np.diag(np.maximum(np.diag(b), 1e-3 * max(np.diag(b).max(), 1e-8)))

    def callback(intermediate_result):  # type: ignore[no-untyped-def]
        assert watch.best is not None
        del intermediate_result
        watch.iteration(newton_decrement(watch.best[2].gradient[0], metric()), certain=False)
        values.append(watch.best[0])
        if len(values) > 2 and values[-3] - values[-1] < enough:
            raise StopIteration

    look(start)
    options = {"hess_inv0": _symmetric_inverse(metric()), "gtol": 1e-12, "maxiter": 10**6}
    result = minimize(look, start, jac=True, method="BFGS", callback=callback, options=options)
    return FitStatus.CONVERGED if result.status == 99 else FitStatus.PRECISION


def _symmetric_inverse(matrix: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(matrix)
    return 0.5 * (inverse + inverse.T)


WAYS = {"newton": _newton, "bfgs": _bfgs, "l-bfgs": _limited_memory, "adam": adam}
"""Optimisers from one start, by name; "gauss-newton" is `descend`."""
