"""The network of an encoder: from a set of observations to a normal distribution of the random effects."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

FLAT = 0.05
"""Least scale of a feature; they are of the order of one, and one that hardly varies in training may vary later."""
TOKENS = 100_000
"""Observations that are looked at together, where nothing is learned (bounds memory)."""
FAR = 8.0
"""Standardised features are cut here."""


class SetEncoder(nn.Module):
    """q(z | observations) = N(m, (A'A)^-1) with a full upper triangular A, whatever the observations' number and order.

    Every observation becomes a vector, is looked at once more beside the mean of all, and their sums decide how m and A
    differ from those of the linear posterior (Zaheer et al., Deep Sets, NeurIPS 2017):

        m = m0 + d        A = T A0        T upper triangular with a positive diagonal

    With its first weights the network returns the linear posterior: d = 0 and T = I.

    Args:
        features: Numbers that describe an observation.
        effects: Number k of random effects.
        width: Of the hidden layers.
    """

    def __init__(self, features: int, effects: int, width: int) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {"features": features, "effects": effects, "width": width}
        self.features, self.effects = features, effects
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.each = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.beside = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU())
        self.together = nn.Sequential(
            nn.Linear(2 * width + 2 * effects, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.output = nn.Linear(width, 2 * effects + effects * (effects - 1) // 2)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def standardise(self, x: Tensor) -> None:
        """Center and scale of the features from rows of inputs."""
        tokens = self._parts(x)[0]
        values = tokens[tokens[..., 0] > 0][:, 1:]
        sd = values.std(0, correction=0)
        self.center, self.scale = values.mean(0), sd.clamp(min=FLAT)

    def forward(self, x: Tensor) -> Tensor:
        """m and A, [N, k + k^2], of rows [N, J (1 + features) + k + k^2] (see `views.flat_rows`)."""
        k = self.effects
        tokens, mean, factor = self._parts(x)
        rows = max(1, TOKENS // max(tokens.shape[1], 1))
        if not self.training and len(x) > rows:
            return torch.cat([self(part) for part in x.split(rows)])
        there = tokens[..., :1]
        count = there.sum(1).clamp(min=1.0)
        features = ((tokens[..., 1:] - self.center) / self.scale).clamp(-FAR, FAR)
        each = self.each(features) * there
        average = each.sum(1) / count
        beside = self.beside(torch.cat([each, average[:, None].expand_as(each)], -1)) * there
        information = torch.log(factor.diagonal(dim1=-2, dim2=-1))
        out = self.output(self.together(torch.cat([beside.sum(1), average, mean, information], -1)))
        change = torch.diag_embed(torch.exp(out[:, k : 2 * k]))
        row, column = torch.triu_indices(k, k, 1)
        change[:, row, column] = out[:, 2 * k :]
        return torch.cat([mean + out[:, :k], (change @ factor).flatten(1)], -1)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [N, J, 1 + features], m0 [N, k] and A0 [N, k, k]."""
        k = self.effects
        tokens, mean, factor = x.split([x.shape[1] - k - k * k, k, k * k], 1)
        return tokens.unflatten(1, (-1, 1 + self.features)), mean, factor.unflatten(1, (k, k))


def negative_log_density(outputs: Tensor, z: Tensor) -> Tensor:
    """-log q(z) of every row, [N, 1]: |A (z - m)|^2 / 2 - log det A + k log(2 pi) / 2."""
    k = z.shape[1]
    mean, factor = outputs[:, :k], outputs[:, k:].unflatten(1, (k, k))
    off = (factor @ (z - mean).unsqueeze(-1)).squeeze(-1)
    log_det = torch.log(factor.diagonal(dim1=-2, dim2=-1)).sum(1)
    return (0.5 * (off * off).sum(1) - log_det + 0.5 * k * math.log(2.0 * math.pi)).unsqueeze(1)
