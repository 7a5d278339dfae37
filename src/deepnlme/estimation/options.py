"""How a fit is carried out, as opposed to what is fitted."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from deepnlme.data import Population
from deepnlme.errors import ModelError

OPTIMISERS = ("auto", "newton", "bfgs", "gauss-newton", "l-bfgs", "adam")


@dataclass(frozen=True)
class Options:
    """Settings of `fit`.

    Args:
        max_iterations: Outer iterations; None for 200, or 500 with networks.
        tolerance: Stop when the expected further improvement, half of g'H^-1 g, is below this [OFV units].
        starts: Number of fits from different initial values (the given ones, and draws around them); the best is kept.
            In models with networks the further starts have other initial weights and run side by side.
        start_spread: Standard deviation of those draws on the scale of the free parameters (about a relative one);
            weights are drawn anew instead.
        ebe_starts: Starting points of each subject's random effects at the first evaluation (more than 1 for models
            with several modes, as lag times have).
        ebe_tolerance: Length of the last Newton step of the random effects.
        seed: Of everything random.
        time_limit: Seconds after which the best fit so far is returned; all starts and stages together.
        checkpoint: File that keeps the best fit so far; a fit of the same model and data resumes from it.
        progress: Show a progress line.
        device: "cpu" or "cuda".
        covariance: "sandwich", "R", "S", or None for no standard errors; "auto" means the sandwich without networks
            and none with them.
        optimiser: "newton", "bfgs", "gauss-newton" (networks), "l-bfgs", "adam" (thousands of weights); "auto" chooses.
        pooled_first: Fit without random effects first, and start from there; for networks.
        held_out: Share of the subjects, or a population, kept aside for early stopping: the fit is the one of the path
            that is best for them.
        flat: A model with networks is fitted until ten steps in a row improve the objective by less than this [OFV
            units]; "adam" until twenty epochs do.
        patience: Iterations without improvement of the held-out subjects after which training stops.
        batch_size: Subjects per step of "adam".
        learning_rate: Of "adam", in units of the free parameters; it falls to zero in the course of the fit.
        max_newton: Use Newton's method up to this many parameters, a quasi-Newton method beyond.
        max_numbers: Numbers per tensor in one chunk of subjects (bounds memory).
    """

    max_iterations: int | None = None
    tolerance: float = 1e-8
    starts: int = 1
    start_spread: float = 0.5
    ebe_starts: int = 1
    ebe_tolerance: float = 1e-5
    seed: int = 0
    time_limit: float = math.inf
    checkpoint: str | Path | None = None
    progress: bool = True
    device: str = "cpu"
    covariance: str | None = "auto"
    optimiser: str = "auto"
    pooled_first: bool = False
    held_out: float | Population | None = None
    flat: float = 0.2
    patience: int = 20
    batch_size: int = 32
    learning_rate: float = 0.01
    max_newton: int = 40
    max_numbers: int = 60_000

    def __post_init__(self) -> None:
        for name in ("max_iterations", "starts", "ebe_starts", "max_numbers", "patience", "batch_size"):
            value = getattr(self, name)
            if value is None and name == "max_iterations":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"Invalid `{name}`: got {value!r}, expected a whole number of at least 1.")
        for name in ("tolerance", "ebe_tolerance", "time_limit", "start_spread", "learning_rate", "flat"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ModelError(f"Invalid `{name}`: got {value!r}, expected a positive number.")
        for name in ("seed", "max_newton"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ModelError(f"Invalid `{name}`: got {value!r}, expected a whole number of at least 0.")
        if self.covariance not in ("auto", "sandwich", "R", "S", None):
            raise ModelError(
                f'Invalid `covariance`: got {self.covariance!r}, expected "auto", "sandwich", "R", "S" or None.'
            )
        if self.optimiser not in OPTIMISERS:
            raise ModelError(f"Invalid `optimiser`: got {self.optimiser!r}, expected one of {', '.join(OPTIMISERS)}.")
        if self.held_out is not None and not isinstance(self.held_out, Population):
            share = self.held_out
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
                raise ModelError(
                    f"Invalid `held_out`: got {share!r}, expected a share of the subjects between 0 and 1, or a "
                    "population."
                )

    def since(self, began: float) -> Options:
        """The same with what is left of the time limit for work that began at this reading of `time.perf_counter`."""
        if math.isinf(self.time_limit):
            return self
        return replace(self, time_limit=max(self.time_limit - (time.perf_counter() - began), 1e-9))
