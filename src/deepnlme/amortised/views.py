"""What a model expects of observations before they are seen, and what observations then say: the encoder's inputs.

The whitened random effects z have the prior N(0, I). For every observation the model is evaluated at 2k + 1 points: at
z = 0 and one standard deviation to either side of it along each axis. That is all the encoder learns of a person's
doses, times and covariates, so that it reads designs it was not trained on in the same terms. With the residual r and
the slope g of an observation in units of its residual standard deviation, the posterior of a linear model would be

    z | y ~ N(m, (A'A)^-1)        A'A = I + sum g g'        A'A m = sum g r

(the update of a Kalman filter with sigma points: Julier and Uhlmann, Proc. IEEE 92 (2004) 401). It is where the network
starts from; the curvatures tell it what the straight lines leave out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepnlme.joint import Joint, evaluated
from deepnlme.observation import Gaussian

LARGEST = 1e4
"""Residuals and slopes are cut here, in standard deviations."""
FARTHEST = 4.0
"""The linear posterior's mean is cut here, in standard deviations of the prior."""


@dataclass(frozen=True)
class Views:
    """What a model expects of the observations of S subjects, at N slots each.

    Attributes:
        center: [S, N] expected value at z = 0, on the scale where the observation is normal.
        sd: [S, N] residual standard deviation, the mean over the points.
        slope, curvature, spread: [S, k, N] along every axis: half the change of the expected value from one side to the
            other, half its second difference, both divided by sd, and half the change of log sd.
        endpoint: [S, N, E] which endpoint a slot is of, as zeros and ones; E = 0 for a single one.
        scales: Slots and distribution of every endpoint, which says on what scale it is normal.
    """

    center: Tensor
    sd: Tensor
    slope: Tensor
    curvature: Tensor
    spread: Tensor
    endpoint: Tensor
    scales: tuple[tuple[slice, Any], ...]

    @classmethod
    def of(cls, joint: Joint, free: np.ndarray, device: str) -> Views:
        """Evaluate a model at the 2k + 1 points."""
        k = joint.k
        points = np.concatenate([np.zeros((1, k)), np.eye(k), -np.eye(k)])
        s = len(joint.population)
        found, _ = evaluated(joint, free, np.broadcast_to(points, (s, *points.shape)).copy(), device)
        mean, sd = (torch.cat(parts, -1) for parts in zip(*_moments(found.distributions, joint, s), strict=True))
        # beyond what the equations can do: no slope
        mean, sd = (torch.where(torch.isfinite(v), v, v[:, :1]) for v in (mean, sd))
        scale = sd.mean(1).clamp(min=1e-300)
        up, down, log_sd = mean[:, 1 : k + 1], mean[:, k + 1 :], torch.log(sd.clamp(min=1e-300))
        slices = list(joint.batch.slices.values())
        kind = torch.zeros(s, mean.shape[-1], len(slices) if len(slices) > 1 else 0, dtype=mean.dtype)
        for e in range(kind.shape[-1]):
            kind[:, slices[e], e] = 1.0
        return cls(
            center=mean[:, 0],
            sd=scale,
            slope=_cut(0.5 * (up - down) / scale[:, None]),
            curvature=_cut(0.5 * (up + down - 2.0 * mean[:, :1]) / scale[:, None]),
            spread=_cut(0.5 * (log_sd[:, 1 : k + 1] - log_sd[:, k + 1 :])),
            endpoint=kind,
            scales=tuple((joint.batch.slices[name], d) for name, d in found.distributions.items()),
        )

    def rows(self, y: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The encoder's inputs for R sets of observations.

        Args:
            y: [R, S, N] observations.
            there: [R, S, N] which of them there are.

        Returns:
            Observations [R, S, N, 1 + F], first whether there is one, then the features; mean m [R, S, k] and factor A
            [R, S, k, k], upper triangular, of the linear posterior.
        """
        y = torch.cat([d.scale(y[..., sl]) if isinstance(d, Gaussian) else y[..., sl] for sl, d in self.scales], -1)
        there = there & torch.isfinite(y) & torch.isfinite(self.center)
        seen = there.to(torch.float64)
        residual = torch.where(there, _cut((y - self.center) / self.sd), torch.zeros_like(y))
        fixed = [torch.asinh(self.slope), torch.asinh(self.curvature), self.spread]
        design = torch.cat([*(part.transpose(1, 2) for part in fixed), self.endpoint], -1)
        tokens = torch.cat([torch.asinh(residual)[..., None], design.expand(len(y), *design.shape)], -1)
        tokens = torch.cat([seen[..., None], tokens * seen[..., None]], -1)
        k = self.slope.shape[1]
        counted = self.slope * seen.unsqueeze(2)
        precision = torch.eye(k, dtype=y.dtype) + torch.einsum("rsin,sjn->rsij", counted, self.slope)
        lower = torch.linalg.cholesky(precision)
        toward = torch.einsum("sin,rsn->rsi", self.slope, residual)
        mean = torch.cholesky_solve(toward.unsqueeze(-1), lower).squeeze(-1)
        return tokens, mean.clamp(-FARTHEST, FARTHEST), lower.mT


def flat_rows(tokens: Tensor, mean: Tensor, factor: Tensor, slots: int | None = None) -> Tensor:
    """One row per set of observations, as the network takes it: [..., N (1 + F) + k + k^2], N filled up to `slots`."""
    if slots is not None:
        tokens = torch.nn.functional.pad(tokens, (0, 0, 0, slots - tokens.shape[-2]))
    return torch.cat([tokens.flatten(-2), mean, factor.flatten(-2)], -1)


def _moments(distributions: dict[str, Any], joint: Joint, s: int) -> list[tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every endpoint, each [S, C, n]."""
    out = []
    for name, d in distributions.items():
        sl = joint.batch.slices[name]
        copies = 2 * joint.k + 1
        shape = (1, s * copies, sl.stop - sl.start)
        mean, sd = (d.mean, d.sd) if isinstance(d, Gaussian) else (d.mean, torch.sqrt(d.variance))
        mean, sd = (v.expand(shape).reshape(s, copies, -1).cpu() for v in (mean, sd))
        if not isinstance(d, Gaussian):  # a category has no mean, a heavy tail no variance
            mean, sd = mean.nan_to_num(0.0, 0.0, 0.0), torch.where(torch.isfinite(sd) & (sd > 0), sd, 1.0)
        out.append((mean, sd))
    return out


def _cut(value: Tensor) -> Tensor:
    return value.nan_to_num(0.0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
