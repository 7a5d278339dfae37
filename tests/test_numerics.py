"""The elementary functions against mpmath: values and derivatives up to the third, over wide ranges."""

import mpmath
import numpy as np
import pytest
import torch

from deepnlme import numerics

RATES = [0.0, 1e-12, 1e-6, 0.01, 0.3, 1.0, 7.0, 60.0]


def derivatives(function, x, order=3):
    """Value and derivatives of a function of one tensor, each [N]."""
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    out = [function(x)]
    for _ in range(order):
        (d,) = torch.autograd.grad(out[-1].sum(), x, create_graph=True)
        out.append(d)
    return [o.detach().numpy() for o in out]


def exact(function, x, order):
    with mpmath.workdps(60):
        return np.array(
            [float(mpmath.diff(function, mpmath.mpf(v), order) if order else function(mpmath.mpf(v))) for v in x]
        )


def agree(ours, truth, x, rtol, atol=1e-300):
    for order, found in enumerate(derivatives(ours, x)):
        np.testing.assert_allclose(found, exact(truth, x, order), rtol=rtol, atol=atol, err_msg=f"derivative {order}")


Z = [-1e3, -90.0, -30.0, -7.3, -2.5, -2.0, -1.9, -1.0, -0.3, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.7, 1.99, 2.01, 9.0]


@pytest.mark.parametrize("order", [1, 2])
def test_phi(order):
    def truth(z):
        return mpmath.quad(lambda s: mpmath.exp((1 - s) * z) * s ** (order - 1), [0, 0.5, 0.9, 0.99, 1])

    def series(z):
        # (e^z - 1)/z and (phi_1 - 1)/z, as entire functions
        if abs(z) > 0.01:
            first = (mpmath.exp(z) - 1) / z
            return first if order == 1 else (first - 1) / z
        return mpmath.nsum(lambda k: z**k / mpmath.factorial(k + order), [0, 25])

    x = [z for z in Z if z not in (-1e3,)] if order == 2 else Z
    agree(lambda z: numerics.phi(z, order), series, x, 1e-13 if order == 1 else 1e-12)
    np.testing.assert_allclose(
        float(numerics.phi(torch.tensor(-0.7, dtype=torch.float64), order)), float(truth(-0.7)), rtol=1e-14
    )


def moment(z, order):
    return mpmath.quad(lambda u: u**order * mpmath.exp(u * z), np.linspace(0, 1, 21))


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_exponential_moment(order):
    with mpmath.workdps(40):
        truth = [float(moment(z, order)) for z in Z if z > -50]
    found = numerics.exponential_moment(torch.tensor([z for z in Z if z > -50], dtype=torch.float64), order)
    np.testing.assert_allclose(found.numpy(), truth, rtol=2e-14)


def chain(a, b, tau):
    return (mpmath.exp(-a * tau) - mpmath.exp(-b * tau)) / (b - a) if a != b else tau * mpmath.exp(-a * tau)


def chain_integral(a, b, tau):
    def once(r):
        return (1 - mpmath.exp(-r * tau)) / r if r else tau

    if a == b:
        return (1 - mpmath.exp(-a * tau) * (1 + a * tau)) / a**2 if a else tau**2 / 2
    return (once(a) - once(b)) / (b - a)


@pytest.mark.parametrize("tau", [1e-9, 0.1, 1.0, 30.0])
def test_chains_of_two_rates(tau):
    with mpmath.workdps(150):
        pairs = [(a, b) for a in RATES for b in [*RATES, a * (1 + 1e-12), a * (1 + 1e-6), a + 1e-9]]
        for ours, truth in (
            (numerics.exponential_difference, chain),
            (numerics.exponential_difference_integral, chain_integral),
        ):
            a, b = (torch.tensor(v, dtype=torch.float64) for v in zip(*pairs, strict=True))
            found = ours(a, b, torch.tensor(tau, dtype=torch.float64)).numpy()
            wanted = [float(truth(mpmath.mpf(x), mpmath.mpf(y), mpmath.mpf(tau))) for x, y in pairs]
            np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("b", [0.3, 0.3 + 1e-12, 0.30001, 0.33, 2.0, 40.0])
@pytest.mark.parametrize("name", ["exponential_difference", "exponential_difference_integral"])
def test_derivatives_of_chains(name, b):
    ours = getattr(numerics, name)
    truth = {"exponential_difference": chain, "exponential_difference_integral": chain_integral}[name]
    tau = 3.0

    def first(a):
        return ours(a, torch.full_like(a, b), torch.full_like(a, tau))

    with mpmath.workdps(90):

        def exact_chain(a):
            return truth(a, mpmath.mpf(b) + mpmath.mpf(10) ** -40, mpmath.mpf(tau))

        for order, found in enumerate(derivatives(first, [0.3, 0.3001, 1.1])):
            wanted = [
                float(mpmath.diff(exact_chain, mpmath.mpf(v), order, h=mpmath.mpf(10) ** -12))
                for v in (0.3, 0.3001, 1.1)
            ]
            np.testing.assert_allclose(found, wanted, rtol=2e-8, err_msg=f"derivative {order}")


def hazard(z):
    return mpmath.npdf(z) / mpmath.ncdf(z)


TAILS = [-300.0, -60.0, -30.0, -8.0, -5.1, -4.9, -2.0, -0.1, 0.0, 0.4, 3.0, 8.0, 20.0]


def test_mills():
    agree(numerics.mills, hazard, TAILS, 1e-10)


def test_log_normal_cdf():
    agree(
        numerics.log_normal_cdf,
        lambda z: mpmath.log(mpmath.ncdf(z)) if z < 0 else mpmath.log1p(-mpmath.ncdf(-z)),
        TAILS,
        1e-10,
    )


@pytest.mark.parametrize(
    ("low", "width"), [(-40.0, 0.5), (-3.0, 5.0), (-0.1, 0.3), (2.0, 0.01), (9.0, 2.0), (30.0, 1.0)]
)
def test_log_normal_cdf_difference(low, width):
    def ours(z):
        return numerics.log_normal_cdf_difference(z, z + width)

    def truth(z):
        # in the tail where both are small
        ends = (z, z + mpmath.mpf(width)) if low < 0 else (-z - mpmath.mpf(width), -z)
        return mpmath.log(mpmath.ncdf(ends[1]) - mpmath.ncdf(ends[0]))

    agree(ours, truth, [low], 1e-9, 1e-12)
