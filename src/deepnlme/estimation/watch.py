"""What is kept of a running fit: the best point, the path, progress, and when to stop."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from deepnlme.estimation.objective import Evaluation, MarginalObjective
from deepnlme.estimation.options import Options

ITERATIONS, ITERATIONS_OF_NETWORKS = 200, 500
"""Outer iterations without and with networks, where the options do not say."""
LOOK_ASIDE = 3
"""Iterations from one look at the held-out subjects to the next."""


class FitStatus(enum.Enum):
    """How a fit ended; the value is what the user reads."""

    CONVERGED = "converged"
    FLAT = "converged: the objective hardly improves any more (networks have flat directions; see Options.flat)"
    EARLY = "stopped early: further training does not improve the held-out subjects; the best fit for them"
    PRECISION = "stopped where rounding errors hide any further improvement; check the gradient"
    MAX_ITERATIONS = "not converged: iteration limit reached; raise max_iterations or start from these estimates"
    TIME_LIMIT = "not converged: time limit reached; the best fit so far"
    INTERRUPTED = "not converged: interrupted; the best fit so far"
    NOTHING_TO_ESTIMATE = "evaluated; no parameter is free"
    GIVEN_UP = "given up: other starts were better"
    NOT_FINITE = "not converged: the objective is not finite there"
    EVALUATED = "evaluated at the values given, not fitted"


@dataclass
class Trace:
    """The path of a fit, one entry per iteration: its learning curve.

    Attributes:
        ofv: The best OFV so far.
        penalty: -2 log prior there.
        decrement: Expected further improvement.
        gradient_norm: Length of the gradient.
        seconds: Since the beginning.
        held_out: OFV of the held-out subjects; NaN where it was not computed.
    """

    ofv: list[float] = field(default_factory=list)
    decrement: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)


class Stop(Exception):
    """Ends a search."""

    def __init__(self, status: FitStatus):
        self.status = status


class Watch:
    """Remembers the best point, shows progress, and stops on time, tolerance or request.

    Args:
        objective: What is minimised.
        options: When to stop.
        save: Called with the best point after every iteration.
        held_out: The objective of subjects kept aside, or None; with it the point that is best for them is remembered,
            and the search ends once it has not become better for `options.patience` iterations.
    """

    def __init__(
        self,
        objective: MarginalObjective,
        options: Options,
        save: Callable[[np.ndarray, Evaluation], None],
        held_out: MarginalObjective | None = None,
    ):
        self.held_out = held_out
        self.best_held_out: tuple[float, int, np.ndarray, Evaluation] | None = None
        self.objective, self.options, self.save = objective, options, save
        self.started = time.perf_counter()
        self.trace = Trace()
        self.best: tuple[float, np.ndarray, Evaluation] | None = None
        self.decrement = math.inf
        self.reached: tuple[float, ...] = ()
        self.hessian: tuple[bytes, np.ndarray] | None = None
        self.bar = tqdm(
            total=100,
            disable=not options.progress,
            leave=False,
            bar_format="{desc} {bar} {percentage:3.0f}% [{elapsed}<{remaining}]",
        )

    def consider(self, u: np.ndarray, evaluation: Evaluation, remember: bool = True) -> None:
        """Keep the point if it is the best so far, and the modes for the next search."""
        value = float(evaluation.value[0])
        if math.isfinite(value) and (self.best is None or value < self.best[0]):
            self.best = (value, u.copy(), evaluation.one(0))
            if remember:
                self.objective.remember(0)
        self.check_time()

    def check_time(self) -> None:
        """Stop when the time is over."""
        if time.perf_counter() - self.started > self.options.time_limit:
            raise Stop(FitStatus.TIME_LIMIT)

    def iteration(self, decrement: float, certain: bool = True) -> None:
        """Record an iteration; `certain` if the decrement is that of the true Hessian, so that it may end the fit."""
        assert self.best is not None
        _, u, evaluation = self.best
        self.decrement = decrement
        self.trace.ofv.append(float(evaluation.ofv[0]))
        self.trace.decrement.append(decrement)
        self.trace.gradient_norm.append(float(np.linalg.norm(evaluation.gradient[0])))
        self.trace.seconds.append(time.perf_counter() - self.started)
        self.trace.penalty.append(float(evaluation.penalty[0]))
        self._look_aside(u, evaluation)
        self.save(u, evaluation)
        self._show(float(evaluation.ofv[0]), decrement)
        if certain and decrement < self.options.tolerance:
            raise Stop(FitStatus.CONVERGED)
        if len(self.trace.ofv) >= self.limit:
            raise Stop(FitStatus.MAX_ITERATIONS)

    def _show(self, ofv: float, decrement: float) -> None:
        """The progress line; nothing is done as long as the expected improvement is not known."""
        known = [d for d in self.trace.decrement if math.isfinite(d)]
        share = 0.0
        if known and math.isfinite(decrement):
            top = max(known)
            share = math.log(max(top, 1e-300) / max(decrement, 1e-300))
            share /= math.log(max(top / self.options.tolerance, 10.0))
        self.bar.n = int(100 * min(max(share, 0.0), 1.0))
        self.bar.set_description_str(
            f"{self.objective.method.name} iteration {len(self.trace.ofv)}  OFV {ofv:.3f}  to go {decrement:.2g}"
        )
        self.bar.refresh()

    @property
    def limit(self) -> int:
        """Iterations allowed."""
        if self.options.max_iterations is not None:
            return self.options.max_iterations
        return ITERATIONS_OF_NETWORKS if self.objective.joint.space.weights else ITERATIONS

    def _look_aside(self, u: np.ndarray, evaluation: Evaluation) -> None:
        """The held-out subjects, every few iterations."""
        if self.held_out is None:
            return
        now = len(self.trace.ofv)
        self.trace.held_out.append(math.nan)
        if now % LOOK_ASIDE != 1:
            return
        self._see(u, evaluation)
        assert self.best_held_out is not None
        if now - self.best_held_out[1] > self.options.patience:
            raise Stop(FitStatus.EARLY)

    def look_aside_at_the_end(self) -> None:
        """The held-out subjects at the best point, unless they were just looked at."""
        if self.best is not None and self.trace.held_out and math.isnan(self.trace.held_out[-1]):
            self._see(self.best[1], self.best[2])

    def _see(self, u: np.ndarray, evaluation: Evaluation) -> None:
        assert self.held_out is not None
        found = self.held_out(u)
        value = float(found.ofv[0])
        if math.isfinite(value):
            self.held_out.remember(0)
        self.trace.held_out[-1] = value
        if self.best_held_out is None or value < self.best_held_out[0]:
            self.best_held_out = (value, len(self.trace.ofv), u.copy(), evaluation)
