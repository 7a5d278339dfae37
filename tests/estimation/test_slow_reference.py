"""Every method equals a slow loop over subjects written from the formulas (see slow_likelihood.py)."""

import numpy as np
import pytest
from scipy.special import erf, gammaln

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


GAUSSIAN = {
    "block": (cm.Block, block),
    "power": (cm.PowerError, power_error),
    "log-normal": (cm.Logarithmic, log_normal),
}


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


def normal_cdf(x):
    """For complex numbers too; no tail is extreme here."""
    return 0.5 * (1 + erf(x / np.sqrt(2)))


def censored_subjects(kind, positive=False):
    """Subjects of `cm.Oral`; with `positive` those of `cm.Positive4`."""
    for _, rows in cm.censored(kind).to_frame().groupby("ID", sort=False):
        seen = rows[rows["MDV"] == 0]
        t, y, c = (seen[n].to_numpy(float) for n in ("TIME", "DV", "CENS"))
        limit = seen["LIMIT"].to_numpy(float) if "LIMIT" in seen else np.full(len(t), np.nan)
        if positive:
            limit = np.where(c == 1, np.fmax(limit, 0.0), limit)

        def moments(eta, t=t):
            f = oral(t, 100.0, 1.1 * np.exp(eta[0]), 2.7 * np.exp(eta[1]), 18.0 * np.exp(eta[2]))
            return f, 0.15 + 0.2 * f if positive else np.sqrt(0.15**2 + (0.2 * f) ** 2)

        def density(eta, y=y, c=c, limit=limit, moments=moments):
            f, sd = moments(eta)
            lower = np.where(np.isnan(limit), 0.0, normal_cdf((np.nan_to_num(limit) - f) / sd))
            p = np.where(c == 1, normal_cdf((y - f) / sd) - lower, np.where(c == -1, 1 - normal_cdf((y - f) / sd), 1.0))
            plain = ((y - f) / sd) ** 2 + 2 * np.log(sd)
            given = 2 * np.log(normal_cdf(f / sd)) if positive else 0.0
            return (np.where(c == 0, plain, -2 * np.log(p)) + given).sum()

        yield slow.Subject(np.diag([0.2, 0.1, 0.05]), density), (t, y, c, limit, moments)


@pytest.mark.parametrize(
    ("kind", "positive"), [("below", False), ("above", False), ("interval", False), ("below", True), ("interval", True)]
)
def test_laplace_of_censored_data(kind, positive):
    model = cm.Positive4() if positive else cm.Oral()
    found = dn.evaluate_ofv(model, cm.censored(kind), dn.Laplace(), options=TIGHT)
    expected = [slow.laplace(s) for s, _ in censored_subjects(kind, positive)]
    np.testing.assert_allclose(found.subject_ofv, [v for v, _ in expected], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.ebes.eta, [e for _, e in expected], atol=1e-7)


@pytest.mark.parametrize("kind", ["below", "above", "interval"])
def test_conditional_method_with_censored_data(kind):
    """H adds J' B J for a censored observation, B the second derivatives of -log P in its standardised limits."""
    found = dn.evaluate_ofv(cm.Oral(), cm.censored(kind), dn.FOCE(), options=TIGHT)
    for i, (s, (_, y, c, limit, moments)) in enumerate(censored_subjects(kind)):
        eta = s.mode()
        f, sd = moments(eta)
        jf, js = (slow.jacobian(lambda e, n=n, moments=moments: moments(e)[n], eta) for n in (0, 1))
        h = np.linalg.inv(s.omega)
        for j in range(len(y)):
            if c[j] == 0:
                h = h + np.outer(jf[j], jf[j]) / sd[j] ** 2 + 2 * np.outer(js[j], js[j]) / sd[j] ** 2
                continue
            ends = np.array([y[j]] if np.isnan(limit[j]) else sorted([y[j], limit[j]]))
            z = (ends - f[j]) / sd[j]

            def minus_log_p(z, cens=c[j]):
                p = normal_cdf(z[1]) - normal_cdf(z[0]) if len(z) == 2 else normal_cdf(cens * z[0])
                return -np.log(p)

            slope = -(jf[j] + z[:, None] * js[j]) / sd[j]
            h = h + slope.T @ slow.hessian(minus_log_p, z) @ slope
        np.testing.assert_allclose(found.ebes.eta[i], eta, atol=1e-7)
        assert found.subject_ofv.iloc[i] == pytest.approx(s.joint(eta) + np.linalg.slogdet(h)[1], rel=1e-6, abs=1e-6)


def test_m1_leaves_censored_observations_out():
    class Without(cm.Oral):
        def observe(self, theta, p, x):
            f = x.central / p.v
            return dict(dv=dn.Normal(f, dn.combined2(f, theta.a, theta.b), blq="M1"))

    frame = cm.censored("below").to_frame()
    kept = dn.read_nonmem(frame[frame["CENS"] == 0])
    for method in cm.GAUSSIAN:
        a, b = dn.evaluate_ofv(Without(), cm.censored("below"), method), dn.evaluate_ofv(cm.Oral(), kept, method)
        assert a.ofv == pytest.approx(b.ofv, rel=1e-9)
        assert a.n_observations == b.n_observations
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-9)
