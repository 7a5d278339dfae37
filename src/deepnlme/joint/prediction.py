"""The observation model of a batch, all endpoints put together slot by slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepnlme.data.batch import Batch
from deepnlme.numerics import log_normal_cdf
from deepnlme.observation import Gaussian, censored_log_probability, gaussian_log_density


@dataclass(frozen=True)
class Prediction:
    """The observation model at every slot, [K, R, N].

    Attributes:
        mean, sd: Of the Gaussian endpoints on their scale (1 elsewhere).
        y, limit: Observations and censoring limits on that scale.
        log_prob: Log-density of the endpoints that are not Gaussian (0 elsewhere), or None.
        jacobian: [R, N] log-Jacobian of the scale.
        positive: [N] slots under M4.
        use: [R, N] slots that count: valid, and not censored under M1.
        gaussian: [N] whether the slot's endpoint is Gaussian.
    """

    mean: Tensor
    sd: Tensor
    y: Tensor
    limit: Tensor
    cens: Tensor
    jacobian: Tensor
    positive: Tensor
    use: Tensor
    gaussian: Tensor
    log_prob: Tensor | None

    def log_density(self, mean: Tensor | None = None, sd: Tensor | None = None) -> Tensor:
        """Log-density of every slot [K, R, N], 0 where there is no observation; without -log(2 pi)/2 if Gaussian."""
        mean = self.mean if mean is None else mean
        sd = self.sd if sd is None else sd
        plain = gaussian_log_density(mean, sd, self.y) + self.jacobian
        if bool(self.positive.any()):
            from_positive = torch.where(self.positive, mean / sd, torch.full_like(mean, 30.0))
            plain = plain - log_normal_cdf(from_positive)
        if bool((self.cens != 0).any()):
            positive = self.positive.expand_as(self.cens)
            plain = torch.where(
                self.cens != 0, censored_log_probability(mean, sd, self.y, self.limit, self.cens, positive), plain
            )
        if self.log_prob is not None:
            plain = torch.where(self.gaussian, plain, self.log_prob)
        return torch.where(self.use, plain, torch.zeros_like(plain))


def assemble(found: Mapping[str, Any], batch: Batch) -> Prediction:
    """The distributions of the endpoints, put together slot by slot."""
    static = _static(found, batch)
    mean, sd, log_prob = [], [], []
    for name, distribution in found.items():
        sl = batch.slices[name]
        width = sl.stop - sl.start
        if isinstance(distribution, Gaussian):
            mean.append(distribution.mean.expand(*distribution.mean.shape[:1], batch.rows, width))
            sd.append(distribution.sd.expand(*distribution.sd.shape[:1], batch.rows, width))
            log_prob.append(None)
        else:
            y = torch.where(batch.slot_valid[:, sl], batch.y[:, sl], torch.ones_like(batch.y[:, sl]))
            value = distribution.log_prob(y.unsqueeze(0))
            log_prob.append(value.expand(*value.shape[:1], batch.rows, width))
            mean.append(None)
            sd.append(None)
    means, sds = _concatenate(mean, found, batch), _concatenate(sd, found, batch)
    if batch.cache["dropped"]:
        # a record left out (M1) may have a prediction without a density, which must not reach the derivatives
        means = torch.where(static["use"], means, torch.ones_like(means))
        sds = torch.where(static["use"], sds, torch.ones_like(sds))
    return Prediction(
        means,
        sds,
        log_prob=_concatenate(log_prob, found, batch, optional=True),
        **static,
    )


def _static(found: Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
    """The parts of a `Prediction` that depend on the data alone; computed once per batch."""
    if "static" in batch.cache:
        return batch.cache["static"]
    y, limit, jacobian = [], [], []
    n = batch.y.shape[1]
    positive = torch.zeros(n, dtype=torch.bool, device=batch.device)
    gaussian = torch.zeros(n, dtype=torch.bool, device=batch.device)
    use = batch.slot_valid.clone()
    for name, distribution in found.items():
        sl = batch.slices[name]
        valid = batch.slot_valid[:, sl]
        value = torch.where(valid, batch.y[:, sl], torch.ones_like(batch.y[:, sl]))
        bound = batch.limit[:, sl]
        if isinstance(distribution, Gaussian):
            gaussian[sl] = True
            positive[sl] = distribution.blq == "M4"
            if distribution.blq == "M1":
                use[:, sl] &= batch.cens[:, sl] == 0
            y.append(distribution.scale(value))
            scaled = distribution.scale(torch.where(torch.isfinite(bound), bound, torch.ones_like(bound)))
            limit.append(torch.where(torch.isfinite(bound), scaled, torch.full_like(bound, torch.nan)))
            jacobian.append(distribution.log_jacobian(value))
        else:
            y.append(value)
            limit.append(bound)
            jacobian.append(torch.zeros_like(value))
    static = {
        "y": torch.cat(y, -1),
        "limit": torch.cat(limit, -1),
        "jacobian": torch.cat(jacobian, -1),
        "cens": torch.where(use, batch.cens, torch.zeros_like(batch.cens)),
        "positive": positive,
        "use": use,
        "gaussian": gaussian,
    }
    batch.cache["static"] = static
    batch.cache["dropped"] = bool((use != batch.slot_valid).any())
    return static


def _concatenate(parts: list[Tensor | None], found: Mapping[str, Any], batch: Batch, optional: bool = False) -> Any:
    """Join the endpoints along the slots, in the order of their slices; neutral numbers fill missing parts."""
    if optional and all(p is None for p in parts):
        return None
    if len(parts) == 1 and parts[0] is not None:
        return parts[0]
    k = max(p.shape[0] for p in parts if p is not None) if any(p is not None for p in parts) else 1
    out = []
    for part, name in zip(parts, found, strict=True):
        sl = batch.slices[name]
        if part is None:
            fill = 0.0 if optional else 1.0
            part = torch.full((k, batch.rows, sl.stop - sl.start), fill, dtype=batch.y.dtype, device=batch.device)
        out.append(part.expand(k, *part.shape[1:]))
    return torch.cat(out, -1)
