"""Theophylline with a full Omega and combined error, set beside NONMEM 7.4.1.

Source of the numbers: a NONMEM 7.4.1 run on the 12-subject set with 320 mg for everyone and the observation at time 0
kept; OFV without constant. NONMEM's model is y = f + f eps1 + eps2, so its sigmas are the squares of b and a here.
"""

import numpy as np
import pandas as pd
import pytest
from torch import exp

import deepnlme as dn
import slow_likelihood as slow
from dataset_files import dataset


class Theophylline(dn.Model):
    ka = dn.Positive(2.0)
    v = dn.Positive(50.0)
    k = dn.Positive(0.1)
    a = dn.Positive(0.1**0.5)
    b = dn.Positive(0.1**0.5)
    eta = dn.RandomEffects("ka", "v", "k", omega=0.1 * np.ones((3, 3)) + 0.1 * np.eye(3), block=True)
    dynamics = dn.OneCompartment(absorption="first-order", parameters="rates")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), v=theta.v * exp(eta.v), k=theta.k * exp(eta.k))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.combined2(f, theta.a, theta.b)))


TIGHT = dn.Options(progress=False, tolerance=1e-10, ebe_tolerance=1e-8)
INITIAL = {"FO": 141.307552644370, "FOCEI": 192.650255559400, "Laplace": 194.101735812272}
OPTIMUM = {"FO": 57.321063706685, "FOCEI": 92.830869045516, "Laplace": 93.558703845501}
METHODS = {"FO": dn.FO(), "FOCEI": dn.FOCE(), "Laplace": dn.Laplace()}


@pytest.fixture(scope="module")
def population():
    frame = pd.read_csv(dataset("theophylline"))
    frame.loc[frame["EVID"] == 1, "AMT"] = 320.0
    return dn.read_nonmem(frame)


@pytest.fixture(scope="module")
def fits(population):
    made = {}

    def get(name):
        if name not in made:
            made[name] = dn.fit(Theophylline(), population, METHODS[name], options=TIGHT)
        return made[name]

    return get


def sigmas(fit):
    return fit.estimates["b"] ** 2, fit.estimates["a"] ** 2


@pytest.mark.parametrize("name", METHODS)
def test_initial_ofv(population, name):
    # asked for: 1e-5 relative; the source has 15 digits and its modes are found to about 1e-6
    assert dn.evaluate_ofv(Theophylline(), population, METHODS[name]).ofv == pytest.approx(INITIAL[name], rel=1e-8)


@pytest.mark.parametrize("name", METHODS)
def test_optimum(fits, name):
    fit = fits(name)
    assert fit.converged
    assert abs(fit.ofv - OPTIMUM[name]) < 1e-3
    # higher would not be a minimum; lower by no more than the other program's stopping rule allows
    assert -1e-6 < fit.ofv - OPTIMUM[name] < 1e-8


def test_first_order_estimates(fits, population):
    """NONMEM stopped a little early: it asks for three digits, and its OFV is 3.5e-7 above ours.

    At its thetas and sigmas (with our Omega, the source has none) the OFV is 5e-7 above the minimum, which is that
    flat: the last two of six printed digits are not determined, and 1e-4 is what can be asked for.
    """
    fit = fits("FO")
    theta = [fit.estimates[n] for n in ("ka", "v", "k")]
    np.testing.assert_allclose(theta, [3.16947, 38.2521, 0.105018], rtol=1e-4)
    np.testing.assert_allclose(sigmas(fit), [0.0120778, 0.0542743], rtol=1e-4)
    at = dict(ka=3.16947, v=38.2521, k=0.105018, b=0.0120778**0.5, a=0.0542743**0.5, eta=fit.omega.to_numpy())
    theirs = dn.evaluate_ofv(Theophylline(), population, dn.FO(), at=at)
    assert 0 < theirs.ofv - fit.ofv < 1e-6


def test_conditional_estimates(fits):
    fit = fits("FOCEI")
    theta = [fit.estimates[n] for n in ("ka", "v", "k")]
    np.testing.assert_allclose(theta, [1.49068, 32.4467, 0.0872896], rtol=5e-6)
    omega = fit.omega.to_numpy()[np.tril_indices(3)]
    np.testing.assert_allclose(omega, [0.43468, 0.056915, 0.019397, -0.006482, 0.012085, 0.020239], rtol=3e-5)
    # the additive part is the least determined: its sixth digit differs at a difference of 3e-7 in OFV
    np.testing.assert_allclose(sigmas(fit), [0.0170385, 0.0828489], rtol=1e-5)


def test_laplace_estimates(fits):
    fit = fits("Laplace")
    printed = [float(f"{fit.estimates[n]:.3g}") for n in ("ka", "v", "k")] + [float(f"{s:.3g}") for s in sigmas(fit)]
    assert printed == [1.51, 32.3, 0.0873, 0.0177, 0.0756]


NATURAL = ("ka", "v", "k", "omega[ka]", "omega[v,ka]", "omega[v]", "omega[k,ka]", "omega[k,v]", "omega[k]", "b", "a")
NONMEM_SE = np.array([0.301, 1.66, 0.00433, 0.222, 0.0360, 0.00854, 0.0220, 0.00763, 0.0201, 0.0118, 0.114])


def natural_errors(fit):
    """Standard errors in NONMEM's parameters: those of variances by the chain rule, 2 a se(a)."""
    factor = np.array([2 * fit.estimates[n] if n in "ab" else 1.0 for n in NATURAL])
    return factor * np.array([fit.se[n] for n in NATURAL])


def test_standard_errors(fits):
    """Within 2% but for three, which NONMEM's own numerical derivatives move: 2.2%, 2.7% and 4.4%.

    `test_standard_errors_by_differences` shows that ours are the right ones for this likelihood. Here R is
    ill-conditioned (correlation 1e4), and NONMEM differentiates numerically with one-sided steps: one-sided
    steps of only +-1% in its parameters move these standard errors by -3.5% to +8%, as large as the differences are.
    On phenobarbital, which is well-conditioned, the same step agrees with NONMEM's to 1e-3.
    """
    ratio = natural_errors(fits("FOCEI")) / NONMEM_SE
    hard = np.isin(NATURAL, ("k", "b", "a"))
    assert np.abs(ratio[~hard] - 1).max() < 0.02
    assert np.abs(ratio[hard] - 1).max() < 0.05


class Oracle:
    """The FOCEI objective of this model in numpy, from the natural parameters in NONMEM's order."""

    def __init__(self, population):
        frame = population.to_frame()
        seen = frame[frame["MDV"] == 0]
        self.t, self.y = (seen[n].to_numpy(float).reshape(12, 11) for n in ("TIME", "DV"))
        self.start = np.zeros((12, 3))

    def subjects(self, x):
        omega = np.zeros((3, 3))
        omega[np.tril_indices(3)] = x[3:9]
        omega = omega + np.tril(omega, -1).T
        precision = np.linalg.inv(omega)
        t, y = self.t, self.y

        def at(eta):
            ka, v, k = (q[:, None] for q in (x[:3] * np.exp(eta)).T)
            e1, e2 = np.exp(-k * t), np.exp(-ka * t)
            c = 320.0 / v * ka / (ka - k)
            f = c * (e1 - e2)
            g = np.stack([f - f * ka / (ka - k) + c * ka * t * e2, -f, f * k / (ka - k) - c * k * t * e1], 2)
            r, e, dr = x[10] + x[9] * f**2, y - f, 2 * x[9] * f
            slope = -2 * e / r + dr * (1 / r - e**2 / r**2)
            h = precision + np.einsum("sna,sn,snb->sab", g, 1 / r + 0.5 * dr**2 / r**2, g)
            value = (e**2 / r + np.log(r)).sum(1) + np.einsum("sa,ab,sb->s", eta, precision, eta)
            return value, 0.5 * np.einsum("sna,sn->sa", g, slope) + eta @ precision, h

        eta = self.start
        for _ in range(200):
            _, gradient, h = at(eta)
            move = -np.linalg.solve(h, gradient[..., None])[..., 0]
            eta = eta + move
            if np.abs(move).max() < 1e-12:
                break
        self.start = eta
        value, _, h = at(eta)
        return value + np.linalg.slogdet(h)[1] + np.linalg.slogdet(omega)[1]


def test_standard_errors_by_differences(fits, population):
    """R and S from second and first differences of an independent objective, in NONMEM's parameters."""
    fit, oracle = fits("FOCEI"), Oracle(population)
    x = np.array([fit.estimates[n] ** (2 if n in "ab" else 1) for n in NATURAL])
    assert oracle.subjects(x).sum() == pytest.approx(fit.ofv, abs=1e-8)
    np.testing.assert_allclose(oracle.subjects(x), fit.subject_ofv, atol=1e-8)
    # in steps relative to each parameter, so that one step size serves all
    relative = lambda s: x * (1.0 + s)  # noqa: E731
    zero, h = np.zeros(11), 1e-3
    up = np.array([oracle.subjects(relative(h * e)) for e in np.eye(11)])
    down = np.array([oracle.subjects(relative(-h * e)) for e in np.eye(11)])
    g = 0.5 * (up - down) / (2 * h)
    r = 0.5 * slow.hessian(lambda s: oracle.subjects(relative(s)).sum(), zero, step=1e-4)
    inverse = np.linalg.inv(r)
    expected = np.sqrt(np.diag(inverse @ (g @ g.T) @ inverse)) * np.abs(x)
    np.testing.assert_allclose(natural_errors(fit), expected, rtol=1e-3)
    by_r = fit.with_covariance("R")
    np.testing.assert_allclose(natural_errors(by_r), np.sqrt(np.diag(inverse)) * np.abs(x), rtol=1e-3)
    by_s = fit.with_covariance("S")
    np.testing.assert_allclose(natural_errors(by_s), np.sqrt(np.diag(np.linalg.inv(g @ g.T))) * np.abs(x), rtol=1e-3)


def test_shrinkage(population):
    sigma = dict(b=0.0170385**0.5, a=0.0828489**0.5)
    omega = np.array([[0.43468, 0.056915, -0.006482], [0.056915, 0.019397, 0.012085], [-0.006482, 0.012085, 0.020239]])
    at = dict(ka=1.49068, v=32.4467, k=0.0872896, **sigma, eta=omega)
    fit = dn.evaluate_ofv(Theophylline(), population, dn.FOCE(), at=at)
    np.testing.assert_allclose(list(fit.shrinkage.values()), [1.33, 1.62, 5.02], atol=0.0051)
    # NONMEM prints one value per eps and counts for eps1 the observations on which it has an effect: those with f > 0
    table = fit.predictions()
    influenced = table.loc[table["IPRED"] > 0, "IWRES"]
    assert len(influenced) == 120
    assert 100 * (1 - np.sqrt((influenced**2).mean())) == pytest.approx(7.95, abs=0.005)
    assert fit.epsilon_shrinkage == pytest.approx(100 * (1 - np.sqrt((table["IWRES"] ** 2).mean())), rel=1e-12)


def test_table(fits):
    expected = np.array(
        [
            [0.25, 2.84, 3.0330, -1.1234, 3.3795, -1.0866],
            [0.57, 6.57, 5.4884, 0.41271, 6.2604, 0.39660],
            [1.12, 10.5, 7.5272, 1.8057, 8.8829, 1.5852],
            [2.02, 9.66, 8.2665, 0.044093, 10.170, 0.062590],
            [3.82, 8.58, 7.4700, -0.38440, 9.6973, -0.25342],
        ]
    )
    table = fits("FOCEI").predictions()
    found = table.loc[(table["ID"] == 1) & (table["TIME"] > 0), ["TIME", "DV", "PRED", "WRES", "IPRED", "CWRES"]].head(
        5
    )
    np.testing.assert_allclose(found[["TIME", "DV"]], expected[:, :2])
    np.testing.assert_allclose(found["PRED"], expected[:, 2], rtol=2e-5)
    np.testing.assert_allclose(found["IPRED"], expected[:, 4], rtol=5e-5)
    np.testing.assert_allclose(found["WRES"], expected[:, 3], atol=3e-4)
    np.testing.assert_allclose(found["CWRES"], expected[:, 5], atol=3e-4)
