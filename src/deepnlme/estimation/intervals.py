"""Intervals of predictions from draws of the random effects: of the individual curve, and of what is observed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import ndtri
from torch import Tensor

from deepnlme.observation import Gaussian
from deepnlme.observation.sampling import sample

Shape = tuple[int, int, int]
"""(S, C, N): subjects, copies of each, places."""


def curves(distribution: Any, shape: Shape) -> Tensor:
    """Predictions on the scale of the data, [S, C, N]: means, but medians of log-normal endpoints.

    Args:
        distribution: Of an endpoint at [1, S * C, N].
        shape: (S, C, N).
    """
    mean = distribution.natural(distribution.mean) if isinstance(distribution, Gaussian) else distribution.mean
    return _arranged(mean, shape)


def _arranged(value: Tensor, shape: Shape) -> Tensor:
    return value.expand(1, shape[0] * shape[1], shape[2]).reshape(shape)


@dataclass(frozen=True)
class Drawn:
    """An endpoint under D draws of the random effects.

    Attributes:
        curve: [S, D, N] predictions.
        mean, sd: [S, D, N] on the scale where observations are normal; None where there is no such scale.
        natural: From that scale to that of the data.
        sample: [S, M, N] observations, as many for each draw, where they are not normal; or None.
        discrete: Whether they are discrete.
    """

    curve: Tensor
    mean: Tensor | None = None
    sd: Tensor | None = None
    natural: Callable[[Tensor], Tensor] | None = None
    sample: Tensor | None = None
    discrete: bool = False

    @classmethod
    def of(cls, distribution: Any, shape: Shape, samples: int, seed: int) -> Drawn:
        """From the distribution at [1, S * D, N]; `samples` for each draw, 0 if observations are not asked for."""
        curve = curves(distribution, shape)
        if samples == 0:
            return cls(curve)
        if isinstance(distribution, Gaussian):
            mean, sd = _arranged(distribution.mean, shape), _arranged(distribution.sd, shape)
            return cls(curve, mean, sd, distribution.natural)
        discrete = bool(getattr(getattr(distribution, "support", None), "is_discrete", False))
        return cls(curve, sample=_sampled(distribution, shape, samples, seed), discrete=discrete)

    @staticmethod
    def join(parts: Sequence[Drawn]) -> Drawn:
        """All draws of several parts together."""

        def whole(name: str) -> Tensor | None:
            return None if getattr(parts[0], name) is None else torch.cat([getattr(p, name) for p in parts], 1)

        curve = torch.cat([p.curve for p in parts], 1)
        return Drawn(curve, whole("mean"), whole("sd"), parts[0].natural, whole("sample"), parts[0].discrete)

    def individual(self, probability: float) -> Tensor:
        """Quantile of the curves, [S, N]."""
        return quantile(self.curve, probability)

    def observed(self, probability: float) -> Tensor:
        """Quantile of an observation, [S, N]: of the mixture of the draws' distributions.

        A mixture of normal distributions is inverted exactly, others are represented by `sample`.
        """
        if self.mean is not None and self.sd is not None and self.natural is not None:
            return self.natural(normal_mixture_quantile(self.mean, self.sd, probability))
        assert self.sample is not None
        return quantile(self.sample, probability, self.discrete)


def _sampled(distribution: Any, shape: Shape, samples: int, seed: int) -> Tensor:
    """Observations [S, samples * D, N], the same for the same seed and shape."""
    s, d, n = shape
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = sample(distribution, (1, s * d, n), samples)
    return drawn.reshape(samples, s, d, n).transpose(0, 1).reshape(s, samples * d, n)


def quantile(values: Tensor, probability: float, discrete: bool = False) -> Tensor:
    """Quantile over the second axis, [S, D, N] -> [S, N]; NaN where a draw is.

    The i-th of D sorted draws stands for the probability (i - 1/2) / D, and what lies between is interpolated; discrete
    values are not: the quantile is the smallest value that the probability does not exceed.
    """
    ordered = torch.sort(values, 1).values
    d = values.shape[1]
    place = math.ceil(probability * d) - 1.0 if discrete else probability * d - 0.5
    place = min(max(place, 0.0), d - 1.0)
    low = math.floor(place)
    below, above = ordered[:, low], ordered[:, min(low + 1, d - 1)]
    between = torch.where(below == above, below, below + (place - low) * (above - below))
    return torch.where(torch.isnan(values).any(1), torch.nan, between)


def normal_mixture_quantile(mean: Tensor, sd: Tensor, probability: float) -> Tensor:
    """The q with average over d of Phi((q - mean_d) / sd_d) = probability, [S, D, N] -> [S, N].

    Newton's method in an interval that is known to hold q: between the smallest and the largest of the parts' own
    quantiles.
    """
    score = float(ndtri(probability))
    own = mean + score * sd
    low, high = own.amin(1), own.amax(1)
    alike = low == high  # also minus infinity, the logarithm of zero
    spread = torch.sqrt(mean.var(1, correction=0) + (sd * sd).mean(1))
    near = 1e-6 * sd.mean(1)  # where Newton's method is this close, its last step leaves an error of about the square
    sd = sd.clamp(min=1e-300)
    q = torch.minimum(torch.maximum(mean.mean(1) + score * spread, low), high)
    for _ in range(100):
        u = (q.unsqueeze(1) - mean) / sd
        excess = torch.special.ndtr(u).mean(1) - probability
        slope = (torch.exp(-0.5 * u * u) / sd).mean(1) / math.sqrt(2.0 * math.pi)
        low, high = torch.where(excess < 0, q, low), torch.where(excess > 0, q, high)
        new = q - excess / slope
        inside = ((new > low) & (new < high)) | ((new - q).abs() <= near)
        new = torch.where(alike, q, torch.where(inside, new, 0.5 * (low + high)))
        moved = (new - q).abs()
        q = new
        if not bool((moved > near).any()):
            break
    return torch.where(alike, own.amin(1), q)
