"""What `observe` returns: densities against scipy, the error models, what is refused."""

import numpy as np
import pytest
import torch
from scipy import stats

import deepnlme as dn
from deepnlme.observation import gaussian_log_density, is_gaussian

F = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64).reshape(1, 1, 3)
Y = torch.tensor([0.7, 1.5, 9.0], dtype=torch.float64).reshape(1, 3)
CONSTANT = 0.5 * np.log(2 * np.pi)


def log_density(distribution):
    """With the constant that the OFV leaves out, in the units of the data."""
    plain = gaussian_log_density(distribution.mean, distribution.sd, distribution.scale(Y)) - CONSTANT
    return (plain + distribution.log_jacobian(Y)).numpy().ravel()


def test_normal():
    expected = stats.norm(F.numpy(), 0.3).logpdf(Y.numpy()).ravel()
    np.testing.assert_allclose(log_density(dn.Normal(F, 0.3)), expected, rtol=1e-13)
    np.testing.assert_allclose(log_density(dn.Normal(F, torch.tensor(0.3, dtype=torch.float64))), expected, rtol=1e-13)


def test_log_normal_has_its_jacobian():
    expected = stats.lognorm(0.3, scale=F.numpy()).logpdf(Y.numpy()).ravel()
    np.testing.assert_allclose(log_density(dn.LogNormal(F, 0.3)), expected, rtol=1e-13)


def test_log_normal_is_normal_on_the_logarithm():
    d = dn.LogNormal(F, 0.3)
    torch.testing.assert_close(d.natural(d.mean), F)
    torch.testing.assert_close(d.natural(d.scale(Y)), Y)
    assert d.support() == (0.0, "LogNormal")
    assert dn.Normal(F, 0.3).support()[0] == -np.inf


def test_student_t():
    expected = stats.t(4.0, F.numpy(), 0.3).logpdf(Y.numpy())
    np.testing.assert_allclose(dn.StudentT(F, 0.3, 4.0).log_prob(Y), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("sd", "expected"),
    [
        (dn.proportional(F, 0.2), 0.2 * F),
        (dn.combined1(F, 0.3, 0.2), 0.3 + 0.2 * F),
        (dn.combined2(F, 0.3, 0.2), torch.sqrt(0.09 + 0.04 * F**2)),
        (dn.power(F, 0.2, 0.7), 0.2 * F**0.7),
        (dn.proportional(-F, 0.2), 0.2 * F),
        (dn.combined1(-F, 0.3, 0.2), 0.3 + 0.2 * F),
        (dn.power(-F, 0.2, 0.7), 0.2 * F**0.7),
    ],
)
def test_error_models(sd, expected):
    torch.testing.assert_close(torch.as_tensor(sd), expected)


def test_parts_of_the_residual():
    """Their squares add up to the variance; only `combined2` has more than one."""
    d = dn.Normal(F, dn.combined2(F, 0.3, 0.2))
    assert len(d.parts) == 2
    torch.testing.assert_close(sum(v**2 for v in d.parts), d.sd**2)
    for sd in (0.3, dn.proportional(F, 0.2), dn.combined1(F, 0.3, 0.2), 2.0 * dn.combined2(F, 0.3, 0.2)):
        d = dn.Normal(F, sd)
        assert len(d.parts) == 1
        torch.testing.assert_close(d.parts[0], d.sd)


def test_shapes_broadcast():
    a = torch.full((2, 4, 1), 0.3, dtype=torch.float64)
    d = dn.Normal(torch.ones(1, 4, 3, dtype=torch.float64), a)
    assert d.mean.shape == d.sd.shape == (2, 4, 3)
    assert dn.Normal(1.0, 2.0).mean.shape == (1, 1, 1)


def test_blq_is_one_of_three():
    for kind in (dn.Normal, dn.LogNormal):
        with pytest.raises(dn.ModelError, match="Invalid `blq`: got 'M2', expected one of M1, M3, M4"):
            kind(F, 0.3, blq="M2")
    # a log-normal observation is positive anyway
    assert dn.LogNormal(F, 0.3, blq="M4").blq == "M3"


def test_what_can_be_linearised():
    assert is_gaussian(dn.Normal(F, 1.0)) and is_gaussian(dn.LogNormal(F, 1.0))
    assert not is_gaussian(dn.StudentT(F, 1.0, 4.0))
    assert not is_gaussian(torch.distributions.Poisson(F))
