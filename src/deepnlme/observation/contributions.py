"""What each observation contributes to the log-likelihood and to its curvature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepnlme.numerics import log_normal_cdf, log_normal_cdf_difference, mills
from deepnlme.observation.likelihoods import Gaussian


def gaussian_log_density(mean: Tensor, sd: Tensor, y: Tensor) -> Tensor:
    """log N(y; mean, sd^2) without the constant -log(2 pi)/2."""
    residual = (y - mean) / sd
    return -0.5 * residual * residual - torch.log(sd)


def censored_log_probability(
    mean: Tensor, sd: Tensor, y: Tensor, limit: Tensor, cens: Tensor, positive: Tensor
) -> Tensor:
    """log P(observation in its interval), on the scale where it is normal.

    Args:
        mean: Mean.
        sd: Standard deviation.
        y: The limit of quantification (below it for cens = 1, above it for cens = -1).
        limit: The other end of the interval, not finite where there is none.
        cens: 1 or -1 (0 gives a harmless number).
        positive: M4: given that the observation is positive; booleans that broadcast.
    """
    z = (y - mean) / sd
    out = log_normal_cdf(torch.where(cens < 0, -z, z))
    nothing = torch.full_like(limit, -torch.inf)
    lower = torch.where(torch.isfinite(limit), limit, nothing)
    lower = torch.where(positive, torch.clamp(lower, min=0.0), lower)
    other = torch.where(cens > 0, lower, limit)
    bounded = (cens != 0) & torch.isfinite(other)
    if bool(bounded.any()):
        w = (torch.where(bounded, other, y - 1.0) - mean) / sd
        low, high = torch.where(cens > 0, w, z), torch.where(cens > 0, z, w)
        inside = log_normal_cdf_difference(torch.where(bounded, low, z - 1.0), torch.where(bounded, high, z))
        out = torch.where(bounded, inside, out)
    if bool(positive.any()):
        out = out - log_normal_cdf(torch.where(positive, mean / sd, torch.full_like(mean, 30.0)))
    return out


def censored_curvature(
    mean: Tensor, sd: Tensor, y: Tensor, limit: Tensor, cens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (ff, fs, ss) of a censored observation in the curvature of FOCE: Gauss-Newton in the standardised limits.

    -log P is convex in the standardised limits z = (L - f)/s, so its second derivatives there, carried to (f, s) by
    dz = -(df + z ds)/s, give a positive semidefinite contribution; the curvature of z itself is left out, as that of
    f is for the other observations.
    """
    z = (y - mean) / sd
    sign = torch.where(cens < 0, -torch.ones_like(z), torch.ones_like(z))
    m = mills(sign * z)
    c = m * (sign * z + m)
    inverse = 1.0 / (sd * sd)
    ff, fs, ss = c * inverse, c * z * inverse, c * z * z * inverse
    bounded = (cens != 0) & torch.isfinite(limit)
    if bool(bounded.any()):
        w = (torch.where(bounded, limit, y - 1.0) - mean) / sd
        low, high = torch.where(cens > 0, w, z), torch.where(cens > 0, z, w)
        log_p = log_normal_cdf_difference(torch.where(bounded, low, z - 1.0), torch.where(bounded, high, z))
        norm = 0.9189385332046727
        at_low = torch.exp(-0.5 * low * low - norm - log_p)
        at_high = torch.exp(-0.5 * high * high - norm - log_p)
        hh = at_high * high + at_high * at_high
        ll = -at_low * low + at_low * at_low
        hl = -at_low * at_high
        ff = torch.where(bounded, (hh + ll + 2 * hl) * inverse, ff)
        fs = torch.where(bounded, (hh * high + ll * low + hl * (high + low)) * inverse, fs)
        ss = torch.where(bounded, (hh * high**2 + ll * low**2 + 2 * hl * high * low) * inverse, ss)
    return ff, fs, ss


def is_gaussian(distribution: Any) -> bool:
    """Whether FO and FOCE can use it."""
    return isinstance(distribution, Gaussian)
