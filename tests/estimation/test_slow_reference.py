"""Every method equals a slow loop over subjects written from the formulas (see slow_likelihood.py)."""

import numpy as np
import pytest
from scipy.special import gammaln

import contract_models as cm
import deepnlme as dn
import slow_likelihood as slow

TIGHT = dn.Options(ebe_tolerance=1e-9)


def oral(t, dose, ka, cl, v):
    k = cl / v
    return dose / v * ka / (ka - k) * (np.exp(-k * t) - np.exp(-ka * t))


def by_subject(population):
    frame = population.to_frame()
    for _, rows in frame.groupby("ID", sort=False):
        seen = rows[rows["MDV"] == 0]
        yield seen["TIME"].to_numpy(float), seen["DV"].to_numpy(float), 100.0


def block(fit_values, t, y, dose):
    def moments(eta):
        f = oral(t, dose, 1.1 * np.exp(eta[0]), 2.7 * np.exp(eta[1]), 18.0 * np.exp(eta[2]))
        return f, np.sqrt(0.15**2 + (0.2 * f) ** 2)

    return slow.Subject(np.array(cm.Block().groups["eta"].omega), y=y, moments=moments)


def power_error(fit_values, t, y, dose):
    def moments(eta):
        f = oral(t, dose, 1.1, 2.7 * np.exp(eta[0]), 18.0)
        return f, 0.2 * np.exp(eta[1]) * f**0.45

    return slow.Subject(np.diag([0.1, 0.05]), y=y, moments=moments)


def log_normal(fit_values, t, y, dose):
    def moments(eta):
        f = oral(t, dose, 1.1 * np.exp(eta[0]), 2.7 * np.exp(eta[1]), 18.0 * np.exp(eta[2]))
        return np.log(f), 0.2 * np.ones_like(t)

    return slow.Subject(np.diag([0.2, 0.1, 0.05]), y=np.log(y), moments=moments, jacobian=2 * np.log(y).sum())


GAUSSIAN = {"block": (cm.Block, block), "power": (cm.PowerError, power_error), "log-normal": (cm.Logarithmic, log_normal)}


@pytest.fixture(params=GAUSSIAN, ids=list(GAUSSIAN))
def gaussian(request):
    model, make = GAUSSIAN[request.param]
    population = cm.plain()
    return model(), population, [make(None, *s) for s in by_subject(population)]


def test_first_order(gaussian):
    model, population, subjects = gaussian
    found = dn.evaluate_ofv(model, population, dn.FO())
    np.testing.assert_allclose(found.subject_ofv, [slow.fo(s) for s in subjects], rtol=1e-10)


@pytest.mark.parametrize("interaction", [True, False])
def test_conditional(gaussian, interaction):
    model, population, subjects = gaussian
    found = dn.evaluate_ofv(model, population, dn.FOCE(interaction), options=TIGHT)
    expected = [slow.foce(s, interaction) for s in subjects]
    np.testing.assert_allclose(found.subject_ofv, [v for v, _ in expected], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.ebes.eta, [e for _, e in expected], atol=1e-8)


def test_laplace(gaussian):
    model, population, subjects = gaussian
    found = dn.evaluate_ofv(model, population, dn.Laplace(), options=TIGHT)
    expected = [slow.laplace(s) for s in subjects]
    np.testing.assert_allclose(found.subject_ofv, [v for v, _ in expected], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.ebes.eta, [e for _, e in expected], atol=1e-8)


def counts(t, y):
    def density(eta):
        rate = 6.0 * np.exp(eta[0]) * np.exp((-0.2 + eta[1]) * t)
        return -2.0 * (y * np.log(rate) - rate - gammaln(y + 1)).sum()

    return slow.Subject(np.diag([0.2, 0.01]), density)


def binary(t, y):
    def density(eta):
        logit = -0.5 + eta[0] + 0.3 * t
        return -2.0 * (y * logit - np.log(1.0 + np.exp(logit))).sum()

    return slow.Subject(np.array([[0.7]]), density)


@pytest.mark.parametrize(
    ("kind", "model", "make"), [("counts", cm.Counts, counts), ("binary", cm.Binary, binary)], ids=["counts", "binary"]
)
def test_laplace_of_discrete_data(kind, model, make):
    population = cm.longitudinal(kind)
    subjects = [make(t, y) for t, y, _ in by_subject(population)]
    found = dn.evaluate_ofv(model(), population, dn.Laplace(), options=TIGHT)
    expected = [slow.laplace(s) for s in subjects]
    np.testing.assert_allclose(found.subject_ofv, [v for v, _ in expected], rtol=1e-9)
    np.testing.assert_allclose(found.ebes.eta, [e for _, e in expected], atol=1e-8)


@pytest.mark.parametrize("kind", ["below", "above", "interval"])
def test_laplace_of_censored_data(kind):
    """-2 log(Phi(b) - Phi(a)) with scipy's erf for complex numbers; no tail is extreme here."""
    from scipy.special import erf

    population = cm.censored(kind)
    frame = population.to_frame()
    omega = np.diag([0.2, 0.1, 0.05])

    def subject(rows):
        seen = rows[rows["MDV"] == 0]
        t, y, c = (seen[n].to_numpy(float) for n in ("TIME", "DV", "CENS"))
        limit = seen["LIMIT"].to_numpy(float) if "LIMIT" in seen else np.full(len(t), np.nan)

        def density(eta):
            f = oral(t, 100.0, 1.1 * np.exp(eta[0]), 2.7 * np.exp(eta[1]), 18.0 * np.exp(eta[2]))
            sd = np.sqrt(0.15**2 + (0.2 * f) ** 2)
            cdf = lambda v: 0.5 * (1 + erf((v - f) / sd / np.sqrt(2)))  # noqa: E731
            lower = np.where(np.isnan(limit), 0.0, cdf(np.nan_to_num(limit)))
            p = np.where(c == 1, cdf(y) - lower, np.where(c == -1, 1 - cdf(y), 1.0))
            plain = ((y - f) / sd) ** 2 + 2 * np.log(sd)
            return np.where(c == 0, plain, -2 * np.log(p)).sum()

        return slow.Subject(omega, density)

    subjects = [subject(rows) for _, rows in frame.groupby("ID", sort=False)]
    found = dn.evaluate_ofv(cm.Oral(), population, dn.Laplace(), options=TIGHT)
    expected = [slow.laplace(s) for s in subjects]
    np.testing.assert_allclose(found.subject_ofv, [v for v, _ in expected], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.ebes.eta, [e for _, e in expected], atol=1e-7)
