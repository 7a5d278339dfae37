"""First-order conditional estimation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepnlme.estimation.method import Method, Rows, Terms, individual_nll, jacobian, log_det
from deepnlme.joint import Prediction
from deepnlme.observation import censored_curvature


@dataclass(frozen=True)
class FOCE(Method):
    """First-order conditional estimation, with interaction (FOCEI) by default.

    -log L_i = l_i(eta_hat) + 1/2 log det H - (k/2) log 2 pi with l_i(eta) = -log p(y_i | eta) - log p(eta) and
    H = Omega^-1 + sum_j grad f grad f' / R + 1/2 grad R grad R' / R^2, at the minimum eta_hat of l_i.
    Without interaction the residual variance R is frozen at eta = 0, in l_i and in H.
    Censored observations (M3) enter H by `censored_curvature`.

    Args:
        interaction: Let the residual variance depend on eta.

    Source: Beal and Sheiner 1982; Wang 2007, J Pharmacokinet Pharmacodyn 34:575; Almquist 2015, ibid. 42:191.
    """

    interaction: bool = True

    inner = True
    gaussian = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """FOCEI or FOCE."""
        return "FOCEI" if self.interaction else "FOCE"

    def _frozen_sd(self, rows: Rows) -> Tensor | None:
        if self.interaction:
            return None
        return rows.predict(rows.zero()).sd

    def inner_nll(self, rows: Rows, z: Tensor) -> Tensor:
        """The inner problem; without interaction at the residual variance of eta = 0."""
        return individual_nll(rows.predict(z), z, self._frozen_sd(rows))

    def terms(self, rows: Rows, z: Tensor) -> Terms:
        """The terms at eta_hat."""
        prediction = rows.predict(z)
        frozen = self._frozen_sd(rows)
        sd = prediction.sd if frozen is None else frozen
        jf, js = jacobian([prediction.mean, sd], z)
        density = prediction.log_density(sd=sd)
        value = 0.5 * (z[0] * z[0]).sum(-1) - density[0].sum(-1)
        h = curvature(prediction, sd, jf, js, rows.joint.k)
        return Terms(value + 0.5 * log_det(h), _inner_gradient(prediction, sd, density, jf, js, z), h)


def curvature(prediction: Prediction, sd: Tensor, jf: Tensor | None, js: Tensor | None, k: int) -> Tensor:
    """H of FOCE in whitened random effects, I + sum_j ..., [R, k, k].

    Args:
        prediction: The observation model at eta_hat.
        sd: Residual standard deviation used.
        jf: d f / dz, [k, R, N], or None where f does not depend on z.
        js: d sd / dz, likewise.
        k: Number of random effects.
    """
    use = prediction.use
    inverse = torch.where(use, 1.0 / (sd[0] * sd[0]), torch.zeros_like(sd[0]))
    ff, fs, ss = inverse, None, 2.0 * inverse
    if bool((prediction.cens != 0).any()):
        cff, cfs, css = censored_curvature(prediction.mean[0], sd[0], prediction.y, prediction.limit, prediction.cens)
        hidden = prediction.cens != 0
        ff, ss = torch.where(hidden, cff, ff), torch.where(hidden, css, ss)
        fs = torch.where(hidden, cfs, torch.zeros_like(cfs))
    rows = use.shape[0]
    h = torch.eye(k, dtype=sd.dtype, device=sd.device).expand(rows, k, k)
    if jf is not None:
        h = h + torch.einsum("arn,brn->rab", jf * ff, jf)
    if js is not None:
        h = h + torch.einsum("arn,brn->rab", js * ss, js)
    if jf is not None and js is not None and fs is not None:
        cross = torch.einsum("arn,brn->rab", jf * fs, js)
        h = h + cross + cross.mT
    return h


def _inner_gradient(
    prediction: Prediction, sd: Tensor, density: Tensor, jf: Tensor | None, js: Tensor | None, z: Tensor
) -> Tensor:
    """d l / dz_a on copy a, [k, R], from the Jacobians at hand."""
    total = z.diagonal(dim1=0, dim2=2).mT
    along = [(prediction.mean, jf), (sd, js)]
    wanted = [(v, j) for v, j in along if j is not None]
    if wanted:
        slopes = torch.autograd.grad(density.sum(), [v for v, _ in wanted], create_graph=True)
        for slope, (_, j) in zip(slopes, wanted, strict=True):
            total = total - (slope * j).sum(-1)
    return total
