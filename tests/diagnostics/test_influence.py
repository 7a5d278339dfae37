"""Influence beside case deletion in closed form, and the approximation beside fits without each subject.

The closed form is that of a random intercept with T observations for everyone, whose estimates are those of the
analysis of variance: level = mean of means, sd^2 = within / (S (T - 1)), omega = mean (mean_i - level)^2 - sd^2 / T.
"""

import math
import sys

import numpy as np
import pandas as pd
import pytest
from torch import exp

import contract_models as contract
import deepnlme as dn
from dataset_files import dataset

QUIET = dn.Options(progress=False, tolerance=1e-10)
T = 5


class Level(dn.Model):
    """Random intercept."""

    level = dn.Real(2.0)
    sd = dn.Positive(0.5)
    eta = dn.RandomEffects("level", omega=0.6)

    def individual(self, theta, eta, cov):
        return dict(level=theta.level + eta.level)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.level + 0 * x.time, theta.sd))


class Theophylline(dn.Model):
    ka = dn.Positive(1.59)
    cl = dn.Positive(2.75)
    v = dn.Positive(31.8)
    add_sd = dn.Positive(0.69)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.add_sd))


def observations(subjects=40, seed=3):
    rng = np.random.default_rng(seed)
    return 2.0 + rng.normal(0, 0.8, (subjects, 1)) + 0.5 * rng.standard_normal((subjects, T))


def population(y):
    rows = [dict(ID=f"s{i}", TIME=float(t), DV=y[i, t]) for i in range(len(y)) for t in range(T)]
    return dn.read_nonmem(pd.DataFrame(rows))


def closed_form(y):
    """level, sd, omega."""
    means = y.mean(1)
    level = means.mean()
    variance = ((y - means[:, None]) ** 2).sum() / (len(y) * (T - 1))
    return np.array([level, math.sqrt(variance), np.mean((means - level) ** 2) - variance / T])


def ofv(y, estimates):
    """-2 log L without constant of one subject's observations."""
    level, sd, omega = estimates
    c = sd**2 * np.eye(T) + omega
    return np.linalg.slogdet(c)[1] + (y - level) @ np.linalg.solve(c, y - level)


@pytest.fixture(scope="module")
def y():
    return observations()


@pytest.fixture(scope="module")
def fit(y):
    return dn.fit(Level(), population(y), options=QUIET)


@pytest.fixture(scope="module")
def theophylline():
    return dn.fit(Theophylline(), dn.read_nonmem(dataset("theophylline")), options=QUIET)


@pytest.fixture(scope="module")
def both(theophylline):
    return dn.influence(theophylline), dn.influence(theophylline, "refit", progress=False)


def test_refits_are_the_closed_form(fit, y):
    which = ["s7", "s0", "s39"]
    found = dn.influence(fit, "refit", subjects=which, progress=False)
    assert found.ids == tuple(which) and set(found.status) == {"converged"}
    whole = closed_form(y)
    np.testing.assert_allclose(list(fit.estimates.values()), whole, rtol=1e-6)
    for row, i in enumerate((7, 0, 39)):
        without = closed_form(np.delete(y, i, 0))
        np.testing.assert_allclose(found.estimates.loc[which[row]], without, rtol=1e-6)
        se = np.array(list(fit.se.values()))
        np.testing.assert_allclose(found.dfbetas.loc[which[row]], (without - whole) / se, atol=2e-6)
        assert found.dofv[row] == pytest.approx(ofv(y[i], without) - ofv(y[i], whole), abs=1e-5)
        # the free scale: level, log sd, log of the standard deviation of the effect (or of omega, up to a factor)
        free = found.free[row] - fit.free
        assert found.cook[row] == pytest.approx(free @ np.linalg.solve(fit.covariance.free, free), rel=1e-6)


def test_the_generalised_variance_without_a_subject(fit, y):
    """det of the covariance matrix of level, log sd and log omega by finite differences of the closed form's OFV."""

    def volume(values):
        at = closed_form(values)
        u = np.array([at[0], math.log(at[1]), math.log(at[2])])

        def f(v):
            return 0.5 * sum(ofv(row, (v[0], math.exp(v[1]), math.exp(v[2]))) for row in values)

        e = 1e-4 * np.eye(3)
        h = [[f(u + a + b) - f(u + a - b) - f(u - a + b) + f(u - a - b) for b in e] for a in e]
        return -np.linalg.slogdet(np.array(h) / 4e-8)[1]

    refitted = dn.influence(fit, "refit", subjects=["s3", "s5"], progress=False)
    step = dn.influence(fit, subjects=["s3", "s5"])
    for row, i in enumerate((3, 5)):
        expected = math.exp(volume(np.delete(y, i, 0)) - volume(y))
        assert refitted.covariance_ratio[row] == pytest.approx(expected, rel=1e-3)
    np.testing.assert_allclose(step.covariance_ratio, refitted.covariance_ratio, rtol=0.05)


def test_one_step_is_close_to_the_closed_form(fit, y):
    found = dn.influence(fit)
    whole = closed_form(y)
    exact = np.array([closed_form(np.delete(y, i, 0)) for i in range(len(y))])
    # as many observations for everyone: the step of the level is exact, but for what couples it with the residual sd
    moved = np.abs(exact[:, 0] - whole[0]).max()
    np.testing.assert_allclose(found.estimates["level"], exact[:, 0], atol=2e-3 * moved)
    change = (exact - whole) / np.array(list(fit.se.values()))
    np.testing.assert_allclose(found.dfbetas, change, atol=0.1 * np.abs(change).max())
    expected = [ofv(y[i], exact[i]) - ofv(y[i], whole) for i in range(len(y))]
    np.testing.assert_allclose(found.dofv, expected, atol=0.1 * np.max(expected))


def test_approximation_and_refits_on_theophylline(both):
    step, refitted = both
    assert set(refitted.status) == set(step.status) == {"converged"}
    assert np.corrcoef(step.cook, refitted.cook)[0, 1] > 0.97
    assert np.corrcoef(step.dofv, refitted.dofv)[0, 1] > 0.99
    assert np.corrcoef(step.dfbetas.to_numpy().ravel(), refitted.dfbetas.to_numpy().ravel())[0, 1] > 0.99
    # an eighth of a standard error, where subjects move the estimates by up to one
    assert np.abs(step.dfbetas - refitted.dfbetas).to_numpy().max() < 0.125 < np.abs(refitted.dfbetas).to_numpy().max()
    assert list(np.argsort(-step.cook)[:2]) == list(np.argsort(-refitted.cook)[:2])


def test_a_refit_is_a_fit_without_the_subject(theophylline, both):
    without = dn.fit(Theophylline(), theophylline.population[np.delete(np.arange(12), 8)], options=QUIET)
    found = both[1]
    assert found.ids[8] == 9
    for name, value in without.estimates.items():
        assert found.estimates.loc[9, name] == pytest.approx(value, rel=1e-5)
    own = dn.evaluate_ofv(Theophylline(), theophylline.population[8:9], at=without.estimates)
    assert found.dofv[8] == pytest.approx(own.ofv - theophylline.subject_ofv[9], abs=1e-4)


def test_a_planted_outlier_is_found(y):
    planted = y.copy()
    planted[11] += 8.0
    found = dn.influence(dn.fit(Level(), population(planted), options=QUIET))
    order = np.argsort(-found.cook)
    assert order[0] == np.argmax(found.dofv) == 11
    assert found.cook[11] > 5 * found.cook[order[1]]
    assert found.dfbetas.loc["s11", "level"] < 0 > found.dfbetas.loc["s11", "omega[level]"]
    assert "s11" in str(found).split("\n\n")[1].splitlines()[1]


def test_other_likelihoods_and_priors():
    """Counts, whose information is not that of normal observations, and a prior in the objective."""
    for model, data, method in (
        (contract.Counts(), contract.longitudinal("counts", subjects=30), dn.Laplace()),
        (contract.Heavy(df=dn.Positive(4.0, fixed=True)), many(), dn.Laplace()),
        (contract.Priors(), many(), dn.FOCE()),
    ):
        fit = dn.fit(model, data, method, options=QUIET)
        who = [fit.population.ids[i] for i in (0, 2, 4)]
        step, refitted = dn.influence(fit, subjects=who), dn.influence(fit, "refit", subjects=who, progress=False)
        difference = np.abs(step.dfbetas - refitted.dfbetas).to_numpy()
        assert difference.max() < 0.25 * max(1.0, np.abs(refitted.dfbetas).to_numpy().max()), type(model)


def many():
    return dn.read_nonmem(contract.records([[0.5, 1.0, 3.0, 8.0], [0.3, 2.0, 6.0], [1.0, 4.0, 9.0]] * 6, seed=5))


def test_without_standard_errors_the_hessian_is_the_yardstick(theophylline):
    bare = dn.fit(Theophylline(), theophylline.population, options=dn.Options(progress=False, covariance=None))
    found = dn.influence(bare)
    expected = dn.influence(theophylline.with_covariance("R"))
    assert found.standard_errors == expected.standard_errors == "R"
    np.testing.assert_allclose(found.cook, expected.cook, rtol=1e-3)
    np.testing.assert_allclose(found.dfbetas, expected.dfbetas, rtol=1e-3, atol=1e-4)


def test_the_table(both):
    table = both[0].table()
    assert list(table.columns[:4]) == ["ID", "COOK", "DOFV", "COVRATIO"]
    assert list(table.columns[4:]) == list(both[0].fit.se) and list(table["ID"]) == list(range(1, 13))
    assert "Cook's distance beyond 6.35: nobody" in str(both[0])


def test_interruption_returns_what_there_is(theophylline, monkeypatch):
    module = sys.modules["deepnlme.diagnostics.influence"]
    real, calls = module.refit, []

    def interrupted(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(module, "refit", interrupted)
    found = dn.influence(theophylline, "refit", progress=False)
    assert found.ids == (1, 2) and len(found.table()) == 2


def test_one_subject_may_be_named_alone(theophylline, both):
    for name in (9, np.int64(9), 9.0, np.array([9])):
        found = dn.influence(theophylline, subjects=name)
        assert found.ids == (9,)
        np.testing.assert_allclose(found.cook, both[0].cook[8], rtol=1e-10)


def test_refuses(theophylline):
    with pytest.raises(dn.ModelError, match=r"Invalid `method`: got 'exact'\. It is one of approximate, refit\."):
        dn.influence(theophylline, "exact")
    with pytest.raises(dn.DataError, match=r"Invalid `subjects`: got 99\. They are among 1, 2, 3, 4, 5 \.\.\."):
        dn.influence(theophylline, subjects=[3, 99])
    evaluated = dn.evaluate_ofv(Theophylline(), theophylline.population)
    with pytest.raises(dn.ModelError, match=r"got a model evaluated at given values. Influence needs estimates"):
        dn.influence(evaluated)
    with pytest.raises(dn.ModelError, match=r"got Theophylline. Influence takes a fit"):
        dn.influence(Theophylline())
    with pytest.raises(dn.DataError, match=r"got 1 subject"):
        dn.influence(dn.fit(Theophylline(), theophylline.population[:1], dn.NaivePooled(), options=QUIET))
