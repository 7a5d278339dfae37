"""Integrated gradients: which inputs make a prediction differ from that of a reference.

    IG_j(x) = (x_j - r_j) int_0^1 dg/dx_j (r + t (x - r)) dt        sum_j IG_j(x) = g(x) - g(r)  (completeness)

The integral is taken by Gauss-Legendre quadrature: to rounding for smooth activations, while the gradient of rectified
units jumps, and completeness holds to some per cent of the spread of g. Times d log p / d eta, 1 for a log-normal
parameter, IG_j is how much of log(p/p_r) comes from input j.

Source: Sundararajan, Taly, Yan 2017, ICML (axiomatic attribution for deep networks).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from deepnlme.covariates.augment_inputs import Inputs

NODES = 24
"""Of the quadrature."""


def integrated_gradients(function: Callable[[Tensor], Tensor], x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Contribution of every input to function(x) - function(reference), [S, n].

    Args:
        function: From inputs [N, n] to values [N], each of its own row.
        x: [S, n].
        reference: [n].
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    t, away = 0.5 * (nodes + 1.0), x - reference
    path = torch.tensor(reference + t[:, None, None] * away, requires_grad=True)
    (slope,) = torch.autograd.grad(function(path.flatten(0, 1)).sum(), path)
    return away * np.einsum("t,tsn->sn", 0.5 * weights, slope.numpy())


def median_subject(inputs: Inputs, x: np.ndarray) -> np.ndarray:
    """Medians of numbers and the most frequent labels, as inputs [n]."""
    out = np.median(x, axis=0)
    for covariate, codes in inputs.known.items():
        own = [i for i, column in enumerate(inputs.columns) if column.covariate == covariate]
        if len(codes) > 2:
            out[own] = np.eye(len(own))[int(np.argmax(x[:, own].sum(0)))]
        else:
            out[own] = float(x[:, own].mean() > 0.5)
    return out
