"""Censored observations: probabilities, their derivatives and their curvature, in the bulk and far out."""

import numpy as np
import pytest
import torch
from mpmath import mp

from deepnlme.observation import censored_curvature, censored_log_probability

mp.dps = 60
NAN = float("nan")


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def probability(mean, sd, y, limit, cens, positive=False):
    out = censored_log_probability(
        tensor(mean), tensor(sd), tensor(y), tensor(limit), torch.tensor([cens]), torch.tensor([positive])
    )
    return float(out)


def exact(mean, sd, y, limit, cens, positive=False):
    cdf = lambda v: mp.ncdf((mp.mpf(v) - mp.mpf(mean)) / mp.mpf(sd))  # noqa: E731
    if cens == 1:
        lower = mp.mpf("-inf") if np.isnan(limit) else mp.mpf(limit)
        if positive:
            lower = max(lower, mp.mpf(0))
        p = cdf(y) - (cdf(lower) if lower > mp.mpf("-inf") else 0)
        if lower > mean:  # both in the upper tail, where the difference of the two would cancel
            p = mp.ncdf(-(lower - mean) / sd) - mp.ncdf(-(mp.mpf(y) - mean) / sd)
    else:
        # the upper tail by symmetry, so that nothing cancels
        above = lambda v: mp.ncdf(-(mp.mpf(v) - mp.mpf(mean)) / mp.mpf(sd))  # noqa: E731
        p = above(y) - (0 if np.isnan(limit) else above(limit))
    out = mp.log(p)
    if positive:
        out -= mp.log(mp.ncdf(mp.mpf(mean) / mp.mpf(sd)))
    return float(out)


CASES = [
    (1.0, 0.5, 0.8, NAN, 1),
    (1.0, 0.5, 0.8, NAN, -1),
    (1.0, 0.5, 0.8, 0.2, 1),
    (1.0, 0.5, 0.8, 1.4, -1),
    (9.0, 0.5, 0.8, NAN, 1),
    (9.0, 0.5, 0.8, 0.2, 1),
    (-9.0, 0.5, 0.8, NAN, -1),
    (-9.0, 0.5, 0.8, 1.2, -1),
    (1.0, 0.5, 30.0, NAN, 1),
    (1.0, 0.5, 30.0, 29.0, 1),
    (1.0, 0.5, 0.8, 0.7999999, 1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_probability(case):
    assert probability(*case) == pytest.approx(exact(*case), rel=1e-10, abs=1e-15)


@pytest.mark.parametrize(
    "case", [(1.0, 0.5, 0.8, NAN, 1), (1.0, 0.5, 0.8, 0.2, 1), (1.0, 0.5, 0.8, -0.2, 1), (0.2, 0.5, 0.8, NAN, 1),
             (1.0, 0.5, 0.8, NAN, -1), (-3.0, 0.5, 0.8, NAN, 1), (8.0, 0.5, 0.8, NAN, 1)], ids=str,
)  # fmt: skip
def test_probability_given_that_it_is_positive(case):
    assert probability(*case, positive=True) == pytest.approx(exact(*case, positive=True), rel=1e-10, abs=1e-14)


def test_mixed_rows_at_once():
    """Each element for itself: kinds, limits and methods may differ within a tensor."""
    rows = [(*c, p) for c in CASES[:8] for p in (False, True) if not (p and c[0] < -8)]
    columns = [torch.tensor([r[i] for r in rows], dtype=torch.float64) for i in range(4)]
    cens, positive = torch.tensor([r[4] for r in rows]), torch.tensor([r[5] for r in rows])
    found = censored_log_probability(*columns, cens, positive)
    np.testing.assert_allclose(found, [probability(*r) for r in rows], rtol=1e-14)
    np.testing.assert_allclose(found, [exact(*r) for r in rows], rtol=1e-9)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("case", [c for c in CASES[:8] if c[0] > -8], ids=str)
def test_derivatives(case, positive):
    """Three of them, in the mean and the sd: what gradients of Laplace need."""
    mean, sd, y, limit, cens = case

    def function(m, s):
        return censored_log_probability(
            m, s, tensor(y), tensor(limit), torch.tensor([cens]), torch.tensor([positive])
        ).sum()

    m, s = tensor(mean).requires_grad_(), tensor(sd).requires_grad_()
    assert torch.autograd.gradcheck(function, (m, s), eps=1e-6, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(function, (m, s), eps=1e-6, atol=1e-4, rtol=1e-5)
    (g,) = torch.autograd.grad(function(m, s), m, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), m, create_graph=True)
    (third,) = torch.autograd.grad(h.sum(), m)
    assert torch.isfinite(third).all()


@pytest.mark.parametrize("case", CASES[:10], ids=str)
def test_curvature_of_foce(case):
    """Second derivatives of -log P in the standardised limits, carried to (f, s) by their first derivatives."""
    mean, sd, y, limit, cens = case
    limits = [y] if np.isnan(limit) else [limit, y] if cens == 1 else [y, limit]
    z = np.array([(v - mean) / sd for v in limits])

    n, h = len(z), mp.mpf("1e-10")
    second = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            four = []
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                point = [mp.mpf(float(v)) + h * (a * (k == i) + b * (k == j)) for k, v in enumerate(z)]
                four.append(_exact_minus_log_p(point, cens))
            second[i, j] = float((four[0] - four[1] - four[2] + four[3]) / (4 * h * h))
    by_f, by_s = np.full(n, -1.0 / sd), -z / sd
    ff, fs, ss = (
        float(v) for v in censored_curvature(*(tensor(v) for v in (mean, sd, y, limit)), torch.tensor([cens]))
    )
    scale = abs(second).max() / sd**2 * max(1.0, (z**2).max())
    np.testing.assert_allclose(
        [ff, fs, ss], [by_f @ second @ by_f, by_f @ second @ by_s, by_s @ second @ by_s], rtol=1e-6, atol=1e-9 * scale
    )
    matrix = np.array([[ff, fs], [fs, ss]])
    assert np.linalg.eigvalsh(matrix).min() >= -1e-9 * scale


def _exact_minus_log_p(z, cens):
    if len(z) == 2:
        p = mp.ncdf(z[1]) - mp.ncdf(z[0]) if z[0] < 0 else mp.ncdf(-z[0]) - mp.ncdf(-z[1])
    else:
        p = mp.ncdf(z[0]) if cens == 1 else mp.ncdf(-z[0])
    return -mp.log(p)
