"""The Laplace approximation with the true Hessian."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deepnlme.estimation.method import Method, Rows, Terms, diagonal, individual_nll, log_det


@dataclass(frozen=True)
class Laplace(Method):
    """-log L_i = l_i(eta_hat) + 1/2 log det(d2 l_i / d eta2) - (k/2) log 2 pi, with the exact second derivative.

    Works with every likelihood: counts, categories, Student t, censored data.

    Source: Wolfinger 1993, Biometrika 80:791; Almquist 2015, J Pharmacokinet Pharmacodyn 42:191.
    """

    name = "Laplace"
    inner = True
    gaussian = False

    def terms(self, rows: Rows, z: Tensor) -> Terms:
        """The terms at eta_hat."""
        nll = individual_nll(replace(rows, order=3).predict(z), z)
        (g,) = torch.autograd.grad(nll.sum(), z, create_graph=True)
        along = diagonal(g)
        (h,) = torch.autograd.grad(along.sum(), z, create_graph=True)
        hessian = h.transpose(0, 1)
        return Terms(nll[0] + 0.5 * log_det(hessian), along, hessian)
