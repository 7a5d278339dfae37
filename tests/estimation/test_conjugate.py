"""A linear mixed model: every approximation is exact, the density is a multivariate normal one."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

import deepnlme as dn

OMEGA = np.array([[0.5, 0.1], [0.1, 0.3]])
METHODS = [dn.FO(), dn.FOCE(), dn.FOCE(interaction=False), dn.Laplace()]


class Line(dn.Model):
    """Random intercept and slope."""

    level = dn.Real(2.0)
    slope = dn.Real(-0.4)
    sd = dn.Positive(0.6)
    eta = dn.RandomEffects("level", "slope", omega=OMEGA, block=True)

    def individual(self, theta, eta, cov):
        return dict(level=theta.level + eta.level, slope=theta.slope + eta.slope)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.level + p.slope * x.time, theta.sd))


class LogLine(Line):
    """The same on the logarithm: the density of y has the Jacobian 1/y."""

    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal((p.level + p.slope * x.time).exp(), theta.sd))


def frame(log: bool) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for i, n in enumerate((5, 1, 3, 7)):
        t = np.sort(rng.uniform(0, 4, n))
        y = 2.0 + rng.normal(0, 0.7) + (-0.4 + rng.normal(0, 0.5)) * t + 0.6 * rng.standard_normal(n)
        rows += [dict(ID=i, TIME=s, DV=np.exp(v) if log else v) for s, v in zip(t, y)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("log", [False, True], ids=["normal", "log-normal"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_is_exact(method, log):
    data = frame(log)
    found = dn.evaluate_ofv(LogLine() if log else Line(), dn.read_nonmem(data), method)
    expected = []
    for _, rows in data.groupby("ID"):
        t, y = rows["TIME"].to_numpy(), rows["DV"].to_numpy()
        z = np.stack([np.ones_like(t), t], 1)
        c = z @ OMEGA @ z.T + 0.36 * np.eye(len(t))
        density = multivariate_normal(2.0 - 0.4 * t, c).logpdf(np.log(y) if log else y)
        expected.append(density - (np.log(y).sum() if log else 0.0))
    np.testing.assert_allclose(found.log_likelihood, sum(expected), rtol=1e-10)
    n = data.groupby("ID").size().to_numpy()
    np.testing.assert_allclose(
        found.subject_ofv, -2 * np.array(expected) - n * np.log(2 * np.pi), rtol=1e-10, atol=1e-10
    )
    assert found.ofv == pytest.approx(-2 * sum(expected) - n.sum() * np.log(2 * np.pi), rel=1e-10)
    assert found.aic == pytest.approx(-2 * sum(expected) + 2 * 6, rel=1e-10)
    assert found.bic == pytest.approx(-2 * sum(expected) + 6 * np.log(n.sum()), rel=1e-10)


def test_random_effects_are_the_conditional_mean_and_variance():
    data = frame(False)
    found = dn.evaluate_ofv(Line(), dn.read_nonmem(data))
    for i, (_, rows) in enumerate(data.groupby("ID")):
        t, y = rows["TIME"].to_numpy(), rows["DV"].to_numpy()
        z = np.stack([np.ones_like(t), t], 1)
        gain = OMEGA @ z.T @ np.linalg.inv(z @ OMEGA @ z.T + 0.36 * np.eye(len(t)))
        np.testing.assert_allclose(found.ebes.eta[i], gain @ (y - 2.0 + 0.4 * t), rtol=1e-10)
        np.testing.assert_allclose(found.ebes.covariance[i], OMEGA - gain @ z @ OMEGA, rtol=1e-10)


def test_weighted_residuals_are_white_and_equal_for_a_linear_model():
    data = frame(False)
    table = dn.evaluate_ofv(Line(), dn.read_nonmem(data)).predictions()
    np.testing.assert_allclose(table["WRES"], table["CWRES"], rtol=1e-9, atol=1e-12)
    for who, rows in data.groupby("ID"):
        t, y = rows["TIME"].to_numpy(), rows["DV"].to_numpy()
        z = np.stack([np.ones_like(t), t], 1)
        c = z @ OMEGA @ z.T + 0.36 * np.eye(len(t))
        values, vectors = np.linalg.eigh(c)
        white = vectors @ np.diag(values**-0.5) @ vectors.T @ (y - 2.0 + 0.4 * t)
        np.testing.assert_allclose(table.loc[table["ID"] == who, "WRES"], white, rtol=1e-9, atol=1e-12)


def test_fit_equals_maximum_of_the_exact_likelihood():
    from scipy.optimize import minimize

    data = frame(False)
    groups = [(r["TIME"].to_numpy(), r["DV"].to_numpy()) for _, r in data.groupby("ID")]

    def minus_two_log_likelihood(u):
        root = np.array([[np.exp(u[3]), 0.0], [u[4], np.exp(u[5])]])
        total = 0.0
        for t, y in groups:
            z = np.stack([np.ones_like(t), t], 1) @ root
            c = z @ z.T + np.exp(2 * u[2]) * np.eye(len(t))
            total -= 2 * multivariate_normal(u[0] + u[1] * t, c).logpdf(y)
        return total

    fit = dn.fit(Line(), dn.read_nonmem(data), dn.FOCE(), options=dn.Options(progress=False))
    best = minimize(minus_two_log_likelihood, [2.0, -0.4, -0.5, -0.3, 0.1, -0.6], method="BFGS", tol=1e-8)
    assert fit.converged
    assert -2 * fit.log_likelihood == pytest.approx(best.fun, abs=1e-5)
    assert fit.estimates["level"] == pytest.approx(best.x[0], abs=1e-3)
    assert fit.estimates["sd"] == pytest.approx(np.exp(best.x[2]), abs=1e-3)
