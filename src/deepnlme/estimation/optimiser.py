"""The outer problem: minimise the objective over the free parameters."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize
from tqdm.auto import tqdm

from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.estimation.options import Options

ENOUGH = 1e-3
"""Improvement [OFV units] below which BFGS hands over to Newton's method."""

STEP = 1e-5
"""Step of the difference of gradients that makes the Hessian, relative to max(1, |u|)."""


class FitStatus(enum.Enum):
    """How a fit ended; the value is what the user reads."""

    CONVERGED = "converged"
    PRECISION = "stopped where rounding errors hide any further improvement; check the gradient"
    MAX_ITERATIONS = "not converged: iteration limit reached; raise max_iterations or start from these estimates"
    TIME_LIMIT = "not converged: time limit reached; the best fit so far"
    INTERRUPTED = "not converged: interrupted; the best fit so far"
    NOTHING_TO_ESTIMATE = "evaluated; no parameter is free"
    EVALUATED = "evaluated at the values given, not fitted"


@dataclass
class Trace:
    """The path of a fit, one entry per iteration."""

    ofv: list[float] = field(default_factory=list)
    decrement: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


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
    """

    u: np.ndarray
    evaluation: Evaluation
    status: FitStatus
    decrement: float
    trace: Trace
    hessian: np.ndarray | None = None


class _Stop(Exception):
    def __init__(self, status: FitStatus):
        self.status = status


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


def outer_products(evaluation: Evaluation) -> np.ndarray:
    """Sum over subjects of g_i g_i' / 2: the Hessian's expectation, positive semidefinite."""
    g = np.nan_to_num(evaluation.subject_gradient[0])
    return 0.5 * g.T @ g


def newton_decrement(gradient: np.ndarray, hessian: np.ndarray) -> float:
    """g' |H|^-1 g / 2, the improvement that a quadratic model expects [OFV units]; flat directions do not count."""
    if not len(gradient):
        return 0.0
    values, vectors = np.linalg.eigh(hessian)
    local = vectors.T @ gradient
    size = np.maximum(np.abs(values), 1e-8 * max(1.0, np.abs(values).max()))
    return float(0.5 * np.sum(local**2 / size))


class _Watch:
    """Remembers the best point, shows progress, and stops on time, tolerance or request."""

    def __init__(self, objective: MarginalObjective, options: Options, save: Callable[[np.ndarray, Evaluation], None]):
        self.objective, self.options, self.save = objective, options, save
        self.started = time.perf_counter()
        self.trace = Trace()
        self.best: tuple[float, np.ndarray, Evaluation] | None = None
        self.decrement = math.inf
        self.hessian: tuple[bytes, np.ndarray] | None = None
        self.bar = tqdm(
            total=100,
            disable=not options.progress,
            leave=False,
            bar_format="{desc} {bar} {percentage:3.0f}% [{elapsed}<{remaining}]",
        )

    def consider(self, u: np.ndarray, evaluation: Evaluation) -> None:
        value = float(evaluation.value[0])
        if math.isfinite(value) and (self.best is None or value < self.best[0]):
            first = Evaluation(*(getattr(evaluation, f)[:1] for f in Evaluation.__dataclass_fields__))
            self.best = (value, u.copy(), first)
            self.objective.remember(0)
        self.check_time()

    def check_time(self) -> None:
        if time.perf_counter() - self.started > self.options.time_limit:
            raise _Stop(FitStatus.TIME_LIMIT)

    def iteration(self, decrement: float, certain: bool = True) -> None:
        """Record an iteration; `certain` if the decrement is that of the true Hessian, so that it may end the fit."""
        assert self.best is not None
        value, u, evaluation = self.best
        self.decrement = decrement
        self.trace.ofv.append(float(evaluation.ofv[0]))
        self.trace.decrement.append(decrement)
        self.trace.gradient_norm.append(float(np.linalg.norm(evaluation.gradient[0])))
        self.trace.seconds.append(time.perf_counter() - self.started)
        self.save(u, evaluation)
        top = max(self.trace.decrement)
        share = math.log(top / max(decrement, 1e-300)) / math.log(max(top / self.options.tolerance, 10.0))
        self.bar.n = int(100 * min(max(share, 0.0), 1.0))
        self.bar.set_description_str(
            f"{self.objective.method.name} iteration {len(self.trace.ofv)}  OFV {value:.3f}  to go {decrement:.2g}"
        )
        self.bar.refresh()
        if certain and decrement < self.options.tolerance:
            raise _Stop(FitStatus.CONVERGED)
        if len(self.trace.ofv) >= self.options.max_iterations:
            raise _Stop(FitStatus.MAX_ITERATIONS)


def optimise(
    objective: MarginalObjective,
    start: np.ndarray,
    options: Options,
    save: Callable[[np.ndarray, Evaluation], None] = lambda u, e: None,
) -> Optimum:
    """Minimise from `start` [P].

    Newton's method in an exact trust region (scipy's trust-exact), with value, gradient and Hessian from one batch of
    P + 1 parameter vectors. Where that batch is larger than a chunk, BFGS comes first, started from the subjects' outer
    products of gradients, and Newton's method ends the fit. Beyond `max_newton` parameters BFGS alone.
    """
    watch = _Watch(objective, options, save)
    try:
        if len(start) == 0:
            evaluation = objective(start)
            watch.consider(start, evaluation)
            status = FitStatus.NOTHING_TO_ESTIMATE
            watch.decrement = 0.0
        else:
            small = len(start) <= options.max_newton
            batch = (len(start) + 1) * objective.subjects
            status = FitStatus.PRECISION
            if not small or batch > objective.rows_per_chunk:
                status = _quasi_newton(objective, start, watch, ENOUGH if small else options.tolerance)
            if small:
                status = _trust_region(objective, start if watch.best is None else watch.best[1], watch)
    except _Stop as stop:
        status = stop.status
    except KeyboardInterrupt:
        status = FitStatus.INTERRUPTED
    finally:
        watch.bar.close()
    if watch.best is None:
        raise KeyboardInterrupt("interrupted before the first evaluation had ended")
    _, u, evaluation = watch.best
    known = watch.hessian[1] if watch.hessian is not None and watch.hessian[0] == u.tobytes() else None
    return Optimum(u, evaluation, status, watch.decrement, watch.trace, known)


def _trust_region(objective: MarginalObjective, start: np.ndarray, watch: _Watch) -> FitStatus:
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


def _quasi_newton(objective: MarginalObjective, start: np.ndarray, watch: _Watch, enough: float) -> FitStatus:
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
