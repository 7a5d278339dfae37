"""Elementary functions that stay accurate, and differentiable to any order, where the textbook formula is 0/0."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def _moment_value(z: Tensor, order: int) -> Tensor:
    """int_0^1 u^order exp(u z) du without a graph: the upward recurrence, and the Taylor series near zero."""
    if order == 0:
        safe = torch.where(z == 0.0, torch.ones_like(z), z)
        return torch.where(z == 0.0, torch.ones_like(z), torch.expm1(safe) / safe)
    small = z.abs() < 2.0
    safe = torch.where(small, torch.full_like(z, -2.0), z)
    exponential = torch.exp(safe)
    value = torch.expm1(safe) / safe
    for m in range(1, order + 1):
        value = (exponential - m * value) / safe
    if not bool(small.any()):
        return value
    clipped = z.clamp(-2.0, 2.0)
    series = torch.full_like(z, 1.0 / (math.factorial(_TERMS) * (order + 1 + _TERMS)))
    for k in range(_TERMS - 1, -1, -1):
        series.mul_(clipped).add_(1.0 / (math.factorial(k) * (order + 1 + k)))
    return torch.where(small, series, value)


_TERMS = 24
"""Terms of the Taylor series sum_k z^k / (k! (order + 1 + k)): 2^24/24! is below rounding."""


class _Moment(torch.autograd.Function):
    """M_m(z) = int_0^1 u^m exp(u z) du, with M_m' = M_(m+1), so that every derivative is as accurate as the value."""

    @staticmethod
    def forward(ctx, z: Tensor, order: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(z)
        ctx.order = order
        return _moment_value(z, order)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (z,) = ctx.saved_tensors
        return grad * exponential_moment(z, ctx.order + 1), None


def exponential_moment(z: Tensor, order: int) -> Tensor:
    r"""M_m(z) = int_0^1 u^m exp(u z) du, the m-th derivative of (exp(z) - 1)/z; M_m(0) = 1/(m + 1).

    Args:
        z: Any shape.
        order: m >= 0.

    Returns:
        Same shape as z; accurate to a few units of rounding for m <= 4, as are its derivatives up to that order.
    """
    if not (torch.is_grad_enabled() and z.requires_grad):
        return _moment_value(z, order)
    return _Moment.apply(z, order)  # type: ignore[no-any-return]


def phi(z: Tensor, order: int = 1) -> Tensor:
    r"""The exponential integrator's function phi_k(z) = int_0^1 exp((1-s) z) s^(k-1)/(k-1)! ds.

    phi_1(z) = (exp(z) - 1)/z and phi_2(z) = (phi_1(z) - 1)/z; phi_k(0) = 1/k!.

    Args:
        z: Any shape.
        order: k, 1 or 2.

    Returns:
        Same shape as z; accurate to rounding for every z, as are its derivatives.

    Example:
        >>> phi(torch.tensor([0.0, 1.0], dtype=torch.float64))
        tensor([1.0000, 1.7183], dtype=torch.float64)
    """
    first = exponential_moment(z, 0)
    return first if order == 1 else first - exponential_moment(z, 1)


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
    int_0^1 g(a + s (b - a)) ds with g(r) = int_0^tau s exp(-r s) ds = tau^2 M_1(-r tau) (`exponential_moment`),
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
    near = (tau * tau).expand_as(gap) * (exponential_moment(z, 1) * w).sum(-1)
    return torch.where(close, near, plain)


def _gauss_legendre(n: int) -> tuple[list[float], list[float]]:
    x, w = np.polynomial.legendre.leggauss(n)
    return list((x + 1) / 2), list(w / 2)


_GAUSS_LEGENDRE = _gauss_legendre(8)
"""Nodes and weights on [0, 1]; 8 of them integrate exp over a unit of gap to 1e-16."""


class _TailRatio(torch.autograd.Function):
    """c_n(x) = n I_n(x)/I_(n-1)(x), I_n the n-th repeated integral of the normal tail; c_n' = c_n (c_n - c_(n+1)).

    The continued fraction c_n = n/(x + c_(n+1)); c_1 = m - x with m the ratio of density to tail.
    """

    @staticmethod
    def forward(ctx, x: Tensor, order: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.order = order
        far = x > 5.0
        near = torch.where(far, torch.zeros_like(x), x)
        value = _hazard(near) - near
        for n in range(1, order):
            value = n / value - near
        if not bool(far.any()):
            return value
        large = torch.where(far, x, torch.full_like(x, 5.0))
        tail = torch.zeros_like(x)
        for n in range(order + 24, order - 1, -1):
            tail = n / (large + tail)
        return torch.where(far, tail, value)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (x,) = ctx.saved_tensors
        here = _TailRatio.apply(x, ctx.order)
        return grad * here * (here - _TailRatio.apply(x, ctx.order + 1)), None


def _hazard(x: Tensor) -> Tensor:
    """Density over upper tail of the standard normal distribution, without a graph."""
    return math.sqrt(2.0 / math.pi) / torch.special.erfcx(x / math.sqrt(2.0))


class _Mills(torch.autograd.Function):
    """m(z) = phi(z)/Phi(z) (standard normal), with m' = -m (z + m)."""

    @staticmethod
    def forward(ctx, z: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(z)
        return _hazard(-z)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (z,) = ctx.saved_tensors
        return -grad * mills(z) * _TailRatio.apply(-z, 1)  # type: ignore[operator]


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
