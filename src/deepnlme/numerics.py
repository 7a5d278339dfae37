"""Elementary functions that stay accurate, and differentiable to any order, where the textbook formula is 0/0."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def _phi_value(z: Tensor, order: int) -> Tensor:
    """phi_order(z) without a graph: expm1(z)/z, then the upward recurrence, and the Taylor series near zero."""
    small = z.abs() < 1.0
    any_small = bool(small.any()) if order > 1 else False
    safe = torch.where(z == 0.0 if order == 1 else small, torch.ones_like(z), z)
    value = torch.expm1(safe) / safe
    if order == 1:
        return torch.where(z == 0.0, torch.ones_like(z), value)
    for k in range(1, order):
        value = (value - 1.0 / math.factorial(k)) / safe
    if not any_small:
        return value
    series = torch.full_like(z, 1.0 / math.factorial(order + 18))
    clipped = z.clamp(-1.0, 1.0)
    for k in range(order + 17, order - 1, -1):
        series = series * clipped + 1.0 / math.factorial(k)
    return torch.where(small, series, value)


class _Phi(torch.autograd.Function):
    """phi_k with d phi_k / dz = phi_k - k phi_(k+1), so that every derivative is as accurate as the value."""

    @staticmethod
    def forward(ctx, z: Tensor, order: int) -> Tensor:  # type: ignore[override]
        value = _phi_value(z, order)
        ctx.save_for_backward(z)
        ctx.order = order
        return value

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (z,) = ctx.saved_tensors
        k = ctx.order
        return grad * (phi(z, k) - k * phi(z, k + 1)), None


def phi(z: Tensor, order: int = 1) -> Tensor:
    r"""The exponential integrator's function phi_k(z) = int_0^1 exp((1-s) z) s^(k-1)/(k-1)! ds.

    phi_1(z) = (exp(z) - 1)/z, phi_2(z) = (phi_1(z) - 1)/z, ...; phi_k(0) = 1/k!.

    Args:
        z: Any shape.
        order: k >= 1.

    Returns:
        Same shape as z; accurate to rounding for every z, as are its derivatives.

    Example:
        >>> phi(torch.tensor([0.0, 1.0], dtype=torch.float64))
        tensor([1.0000, 1.7183], dtype=torch.float64)
    """
    if not (torch.is_grad_enabled() and z.requires_grad):
        return _phi_value(z, order)
    return _Phi.apply(z, order)  # type: ignore[no-any-return]


def exponential_difference(a: Tensor, b: Tensor, tau: Tensor) -> Tensor:
    r"""int_0^tau exp(-a (tau - s)) exp(-b s) ds = (exp(-a tau) - exp(-b tau)) / (b - a).

    The transfer of a chain of two first-order processes (absorption at rate a, elimination at rate b). Symmetric in
    a and b; exact when they are equal (flip-flop kinetics passes through that point).

    Args:
        a: First rate [1/time].
        b: Second rate [1/time].
        tau: Elapsed time [time], not negative.
    """
    low = torch.where(a < b, a, b)
    high = torch.where(a < b, b, a)
    return tau * torch.exp(-low * tau) * phi((low - high) * tau)


def exponential_integral(a: Tensor, tau: Tensor) -> Tensor:
    r"""int_0^tau exp(-a s) ds = (1 - exp(-a tau)) / a, also for a = 0.

    Args:
        a: Rate [1/time].
        tau: Elapsed time [time].
    """
    return tau * phi(-a * tau)


def exponential_difference_integral(a: Tensor, b: Tensor, tau: Tensor) -> Tensor:
    r"""int_0^tau of `exponential_difference` over its time: ((1-exp(-a tau))/a - (1-exp(-b tau))/b) / (b - a).

    Computed as an integral over the segment between the two rates,
    int_0^1 g(a + s (b - a)) ds with g(r) = int_0^tau s exp(-r s) ds = tau^2 (phi_1(-r tau) - phi_2(-r tau)),
    where they are close, and by the formula elsewhere.

    Args:
        a: First rate [1/time].
        b: Second rate [1/time].
        tau: Elapsed time [time], not negative.
    """
    gap = (b - a) * tau
    close = gap.abs() < 1.0
    safe = torch.where(close, torch.ones_like(gap), gap)
    plain = tau * tau * (phi(-a * tau) - phi(-b * tau)) / safe
    if not bool(close.any()):
        return plain
    nodes, weights = _GAUSS_LEGENDRE
    shape = (*([1] * gap.dim()), -1)
    s = torch.tensor(nodes, dtype=gap.dtype, device=gap.device).view(shape)
    w = torch.tensor(weights, dtype=gap.dtype, device=gap.device).view(shape)
    inner = torch.where(close, gap, torch.zeros_like(gap)).unsqueeze(-1)
    z = -((a * tau).expand_as(gap).unsqueeze(-1) + s * inner)
    near = (tau * tau).expand_as(gap) * ((phi(z) - phi(z, 2)) * w).sum(-1)
    return torch.where(close, near, plain)


def _gauss_legendre(n: int) -> tuple[list[float], list[float]]:
    x, w = np.polynomial.legendre.leggauss(n)
    return list((x + 1) / 2), list(w / 2)


_GAUSS_LEGENDRE = _gauss_legendre(8)
"""Nodes and weights on [0, 1]; 8 of them integrate exp over a unit of gap to 1e-16."""


class _Mills(torch.autograd.Function):
    """m(z) = phi(z)/Phi(z) (standard normal), with m' = -m (z + m)."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:  # type: ignore[override]
        value = torch.exp(-0.5 * z * z - torch.special.log_ndtr(z)) / math.sqrt(2.0 * math.pi)
        # far below, where both factors vanish, m(z) = -z + 1/(-z) - ...
        far = z < -1e3
        value = torch.where(far, -z - 1.0 / torch.where(far, z, -torch.ones_like(z)), value)
        ctx.save_for_backward(z)
        return value

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (z,) = ctx.saved_tensors
        m = mills(z)
        return -grad * m * (z + m)


class _LogNormalCdf(torch.autograd.Function):
    """log Phi(z) with derivative m(z); torch's own overflows in its second derivative."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(z)
        return torch.special.log_ndtr(z)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (z,) = ctx.saved_tensors
        return grad * mills(z)


def mills(z: Tensor) -> Tensor:
    """Standard normal density over distribution function, phi(z)/Phi(z); differentiable to any order."""
    return _Mills.apply(z)  # type: ignore[no-any-return]


def log_normal_cdf(z: Tensor) -> Tensor:
    """log of the standard normal distribution function, differentiable to any order."""
    return _LogNormalCdf.apply(z)  # type: ignore[no-any-return]


def log_normal_cdf_difference(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)) for low < high, without cancellation in either tail; differentiable to any order."""
    flip = low > 0
    a = torch.where(flip, -high, low)
    b = torch.where(flip, -low, high)
    upper = log_normal_cdf(b)
    return upper + torch.log(-torch.expm1(log_normal_cdf(a) - upper))
