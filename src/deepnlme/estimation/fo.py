"""The first-order approximation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnlme.errors import ModelError
from deepnlme.estimation.method import Method, Rows, Terms, jacobian, log_det
from deepnlme.joint import Prediction


@dataclass(frozen=True)
class FO(Method):
    """First order: y_i ~ N(f(0), G Omega G' + R(0)) with G = df/d eta at eta = 0.

    Source: Sheiner, Rosenberg and Melmon 1972; Beal and Sheiner 1982, Crit Rev Biomed Eng 8:195.
    """

    name = "FO"
    inner = False
    gaussian = True

    def check_censoring(self, prediction: Prediction) -> None:
        """FO has no likelihood for a censored observation."""
        if bool((prediction.cens != 0).any()) or bool((prediction.positive & prediction.use).any()):
            raise ModelError(
                'Invalid method: FO cannot use censored observations. Use dn.FOCE(), or blq="M1" to leave them out.'
            )

    def terms(self, rows: Rows, z: Tensor) -> Terms:
        """The terms at eta = 0 (z must be zero)."""
        prediction = rows.predict(z)
        (g,) = jacobian([prediction.mean], z)
        use = prediction.use
        residual = torch.where(use, prediction.y - prediction.mean[0], torch.zeros_like(prediction.y))
        variance = torch.where(use, prediction.sd[0] ** 2, torch.ones_like(prediction.y))
        jacobian_sum = torch.where(use, prediction.jacobian, torch.zeros_like(prediction.y)).sum(-1)
        if g is None:
            value = 0.5 * (residual**2 / variance + torch.log(variance)).sum(-1)
            return Terms(value - jacobian_sum)
        # C = G G' + R by its k x k complement (Woodbury): H = I + G' R^-1 G
        g = torch.where(use, g, torch.zeros_like(g))
        scaled = g / variance
        h = torch.einsum("arn,brn->rab", scaled, g) + torch.eye(g.shape[0], dtype=g.dtype, device=g.device)
        b = (scaled * residual).sum(-1).mT
        quadratic = (residual**2 / variance).sum(-1) - (b * torch.linalg.solve(h, b.unsqueeze(-1)).squeeze(-1)).sum(-1)
        value = 0.5 * (quadratic + torch.log(variance).sum(-1) + log_det(h))
        return Terms(value - jacobian_sum)
