"""How a fit is carried out, as opposed to what is fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from deepnlme.errors import ModelError


@dataclass(frozen=True)
class Options:
    """Settings of `fit`.

    Args:
        max_iterations: Outer iterations.
        tolerance: Stop when the expected further improvement, half of g'H^-1 g, is below this [OFV units].
        starts: Number of fits from different initial values (the given ones, and draws around them); the best is kept.
        start_spread: Standard deviation of those draws on the scale of the free parameters (about a relative one).
        ebe_starts: Starting points of each subject's random effects at the first evaluation (more than 1 for models
            with several modes, as lag times have).
        ebe_tolerance: Length of the last Newton step of the random effects.
        seed: Of everything random.
        time_limit: Seconds after which the best fit so far is returned.
        checkpoint: File that keeps the best fit so far; a fit of the same model and data resumes from it.
        progress: Show a progress line.
        device: "cpu" or "cuda".
        covariance: "sandwich", "R", "S", or None for no standard errors.
        max_newton: Use Newton's method up to this many parameters, a quasi-Newton method beyond.
        max_numbers: Numbers per tensor in one chunk of subjects (bounds memory).
    """

    max_iterations: int = 200
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
    covariance: str | None = "sandwich"
    max_newton: int = 40
    max_numbers: int = 60_000

    def __post_init__(self) -> None:
        for name in ("max_iterations", "starts", "ebe_starts", "max_numbers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"Invalid `{name}`: got {value!r}, expected a whole number of at least 1.")
        for name in ("tolerance", "ebe_tolerance", "time_limit", "start_spread"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ModelError(f"Invalid `{name}`: got {value!r}, expected a positive number.")
        for name in ("seed", "max_newton"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ModelError(f"Invalid `{name}`: got {value!r}, expected a whole number of at least 0.")
        if self.covariance not in ("sandwich", "R", "S", None):
            raise ModelError(f'Invalid `covariance`: got {self.covariance!r}, expected "sandwich", "R", "S" or None.')
