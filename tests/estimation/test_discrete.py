"""Counts and yes/no data: parameters are recovered, and Laplace lies as near to quadrature as it should."""

import numpy as np
import pytest
import torch
from scipy.special import gammaln

import contract_models as cm
import deepnlme as dn
from quadrature import marginal

OPTIONS = dn.Options(progress=False)


@pytest.fixture(scope="module")
def counts():
    population = cm.longitudinal("counts", subjects=150, per=8, seed=11)
    return population, dn.fit(cm.Counts(rate=4.0, slope=-0.1), population, dn.Laplace(), options=OPTIONS)


@pytest.fixture(scope="module")
def binary():
    population = cm.longitudinal("binary", subjects=300, per=10, seed=12)
    return population, dn.fit(cm.Binary(level=0.2, slope=0.1), population, dn.Laplace(), options=OPTIONS)


def exact(fit, population, density, omega, nodes):
    """-2 log L by quadrature, per subject."""
    frame, out = population.to_frame(), []
    for i, (_, rows) in enumerate(frame.groupby("ID", sort=False)):
        t, y = rows["TIME"].to_numpy(float), rows["DV"].to_numpy(float)

        def twice_joint(eta, t=t, y=y):
            prior = (eta**2 / omega).sum(1) + np.log(omega).sum() + len(omega) * np.log(2 * np.pi)
            return -2 * density(eta, t, y).sum(1) + prior

        out.append(marginal(twice_joint, fit.ebes.eta[i], np.linalg.inv(fit.ebes.covariance[i]), nodes))
    return np.array(out)


def counts_density(values):
    def density(eta, t, y):
        log_rate = np.log(values["rate"]) + eta[:, :1] + (values["slope"] + eta[:, 1:]) * t
        return y * log_rate - np.exp(log_rate) - gammaln(y + 1)

    return density


def binary_density(values):
    def density(eta, t, y):
        logit = values["level"] + eta + values["slope"] * t
        return y * logit - np.logaddexp(0.0, logit)

    return density


def test_counts_recover_the_truth(counts):
    _, fit = counts
    assert fit.converged
    for name, truth in {"rate": 6.0, "slope": -0.2, "omega[rate]": 0.2, "omega[slope]": 0.01}.items():
        assert abs(fit.estimates[name] - truth) < 3 * fit.se[name], name
        assert fit.se[name] < 0.5 * abs(truth)


def test_yes_or_no_recovers_the_truth(binary):
    _, fit = binary
    assert fit.converged
    for name, truth in {"level": -0.5, "slope": 0.3}.items():
        assert abs(fit.estimates[name] - truth) < 3 * fit.se[name], name
    # Laplace's known bias for yes/no data makes the variance too small, here by less than its error
    assert 0.3 < fit.estimates["omega[level]"] < 1.1


def test_counts_against_quadrature(counts):
    population, fit = counts
    omega = np.array([fit.estimates["omega[rate]"], fit.estimates["omega[slope]"]])
    reference = exact(fit, population, counts_density(fit.estimates), omega, 15)
    again = exact(fit, population, counts_density(fit.estimates), omega, 25)
    np.testing.assert_allclose(reference, again, atol=1e-7)
    # the error of Laplace is of the order of one over the number of counts of a subject
    assert np.abs(fit.subject_ofv - reference).max() < 0.05
    assert abs(fit.ofv - reference.sum()) < 0.01 * len(population)
    # -2LL is the whole thing: no constant is left out of a density that is not Gaussian
    assert fit.ofv == pytest.approx(-2 * fit.log_likelihood, rel=1e-12)


def test_yes_or_no_against_quadrature(binary):
    population, fit = binary
    omega = np.array([fit.estimates["omega[level]"]])
    reference = exact(fit, population, binary_density(fit.estimates), omega, 30)
    np.testing.assert_allclose(reference, exact(fit, population, binary_density(fit.estimates), omega, 50), atol=1e-7)
    assert np.abs(fit.subject_ofv - reference).max() < 0.1
    assert abs(fit.ofv - reference.sum()) < 0.03 * len(population)


def test_checks_of_torch_s_distributions_do_not_end_a_search():
    """A distribution that validates its arguments raises where the search only has to step back."""

    class Checked(cm.Counts):
        def observe(self, theta, p, x):
            rate = p.rate * (p.slope * x.time).exp()
            return dict(dv=torch.distributions.Poisson(torch.where(theta.rate > 9.0, torch.nan, rate)))

    population = cm.longitudinal("counts", subjects=20)
    fit = dn.fit(Checked(rate=2.0), population, dn.Laplace(), options=OPTIONS)
    plain = dn.fit(cm.Counts(rate=2.0), population, dn.Laplace(), options=OPTIONS)
    assert fit.ofv == pytest.approx(plain.ofv, abs=1e-4)
    # what is wrong from the start is still an error of ours, and torch's default is as it was
    with pytest.raises(dn.ModelError, match=r"not finite for subject 1, row 2"):
        dn.fit(Checked(rate=9.5), population, dn.Laplace(), options=OPTIONS)
    with pytest.raises(ValueError, match="constraint"):
        torch.distributions.Poisson(torch.tensor(-1.0))


def test_many_counts_make_laplace_exact():
    population = cm.longitudinal("counts", subjects=3, per=8, seed=2)
    frame = population.to_frame()
    frame["DV"] = np.round(400 * np.exp(-0.2 * frame["TIME"]))
    model = cm.Counts(rate=400.0)
    found = dn.evaluate_ofv(model, dn.read_nonmem(frame), dn.Laplace())
    omega = np.array([0.2, 0.01])
    reference = exact(found, dn.read_nonmem(frame), counts_density(found.estimates), omega, 15)
    np.testing.assert_allclose(found.subject_ofv, reference, atol=2e-3)
