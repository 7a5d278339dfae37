"""Sampling importance resampling where the law of the parameters is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from torch import exp

import deepnlme as dn
from dataset_files import dataset

QUIET = dn.Options(progress=False, covariance="R")
VALUES = np.random.default_rng(8).normal(0.0, 1.7, 9)


class Spread(dn.Model):
    """Independent observations around zero: flat on log sd, sum y^2 / sd^2 has the chi2 law with n degrees."""

    sd = dn.Positive(1.0)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(0 * x.time, theta.sd))


class Known(dn.Model):
    """A mean between subjects, all variances known: its likelihood is normal."""

    level = dn.Real(1.0)
    eta = dn.RandomEffects("level", omega=0.5, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(level=theta.level + eta.level)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.level + 0 * x.time, 0.3))


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


def population(subjects, per):
    rng = np.random.default_rng(4)
    y = 1.0 + rng.normal(0, 0.7, (subjects, 1)) + 0.3 * rng.standard_normal((subjects, per))
    return dn.read_nonmem(
        pd.DataFrame([dict(ID=i, TIME=float(t), DV=y[i, t]) for i in range(subjects) for t in range(per)])
    ), y


@pytest.fixture(scope="module")
def spread():
    frame = pd.DataFrame(dict(ID=np.arange(9) // 3 + 1, TIME=np.tile([0.0, 1.0, 2.0], 3), DV=VALUES))
    return dn.fit(Spread(), dn.read_nonmem(frame), options=QUIET)


@pytest.fixture(scope="module")
def theophylline():
    return dn.fit(Theophylline(), dn.read_nonmem(dataset("theophylline")), options=QUIET)


@pytest.mark.parametrize("inflation", [1.0, 2.0, 0.7])
def test_a_law_that_is_skewed(spread, inflation):
    """Whatever the proposal, the draws have the law of the likelihood; the normal one does not."""
    found = dn.sir(spread, 6000, 3000, inflation, seed=1, progress=False)
    exact = stats.chi2(9)
    scaled = (VALUES**2).sum() / found.draws["sd"].to_numpy() ** 2
    # as many independent draws as are effective, and no more than are drawn
    n = 1 / (1 / 3000 + 1 / found.effective_samples)
    assert stats.kstest(scaled, exact.cdf).statistic < 1.95 / np.sqrt(n)
    proposal = (VALUES**2).sum() / np.exp(2 * found.free[:, 0])
    assert stats.kstest(proposal, exact.cdf).statistic > 3 / np.sqrt(6000)
    low, high = np.sqrt((VALUES**2).sum() / exact.ppf([0.975, 0.025]))
    row = found.table().loc["sd"]
    assert row["CI95 low"] == pytest.approx(low, rel=0.05) and row["CI95 high"] == pytest.approx(high, rel=0.06)


def test_weights_are_the_ratio_of_the_densities(spread):
    found = dn.sir(spread, 50, 20, 1.5, progress=False)
    u = found.free[:, 0]
    log_likelihood = stats.norm(0, np.exp(u)[:, None]).logpdf(VALUES).sum(1)
    proposal = stats.norm(spread.free[0], np.sqrt(1.5 * spread.covariance.free[0, 0])).logpdf(u)
    expected = np.exp(log_likelihood - proposal)
    np.testing.assert_allclose(found.weights, expected / expected.sum(), rtol=1e-7)
    assert found.effective_samples == pytest.approx(expected.sum() ** 2 / (expected**2).sum(), rel=1e-7)


def test_a_normal_law_gives_equal_weights():
    data, y = population(12, 3)
    fit = dn.fit(Known(), data, options=QUIET)
    found = dn.sir(fit, 400, 200, progress=False)
    assert found.effective_samples == pytest.approx(400, rel=1e-6)
    assert len(np.unique(found.chosen)) == 200
    variance = (0.5 + 0.09 / 3) / 12
    expected = (found.draws["level"] - y.mean()) ** 2 / variance
    np.testing.assert_allclose(found.dofv[found.chosen], expected, rtol=1e-5, atol=1e-6)
    # the samples themselves are as a normal law has them
    assert stats.kstest((found.free[:, 0] - fit.free[0]) / np.sqrt(fit.covariance.free[0, 0]), "norm").pvalue > 1e-3


def test_resampling_is_in_proportion(spread):
    """Systematic resampling: every sample is drawn as often as expected, give or take one."""
    found = dn.sir(spread, 300, 300, 3.0, progress=False)
    times = np.bincount(found.chosen, minlength=300)
    assert (np.abs(times - 300 * found.weights) < 1 + 1e-6).all() and times.max() > 1


def test_theophylline(theophylline):
    found = dn.sir(theophylline, 1000, 500, progress=False)
    assert found.effective_samples > 300
    table, normal = found.table(), theophylline.table()
    assert list(found.draws.columns) == list(theophylline.se)
    for name in ("ka", "cl", "v", "add_sd"):
        width = np.log(normal.loc[name, "CI95 high"] / normal.loc[name, "CI95 low"])
        for end in ("CI95 low", "CI95 high"):
            assert abs(np.log(table.loc[name, end] / normal.loc[name, end])) < 0.15 * width, (name, end)
    # what the normal law does not have: variances have a long upper tail
    assert (table.loc[["omega[ka]", "omega[cl]", "omega[v]"], "Bias"] > 0).all()
    quantiles = found.dofv_table()
    np.testing.assert_allclose(quantiles.loc["50%"], stats.chi2(7).median(), rtol=0.15)
    assert quantiles.loc["mean", "chi2"] == 7 and (found.dofv > 0).all()
    one = dn.evaluate_ofv(Theophylline(), theophylline.population, at=found.draws.iloc[7].to_dict())
    assert one.ofv - theophylline.ofv == pytest.approx(found.dofv[found.chosen[7]], abs=1e-6)


def test_the_same_call_gives_the_same(spread):
    a, b = (dn.sir(spread, 40, 20, seed=s, progress=False) for s in (5, 5))
    np.testing.assert_array_equal(a.draws, b.draws)
    assert not np.isin(a.free, dn.sir(spread, 40, 20, seed=6, progress=False).free).any()


def test_a_poor_proposal_warns(spread):
    text = str(dn.sir(spread, 400, 20, 400.0, progress=False))
    assert "effective sample size" in text and "warning: few samples carry the weight" in text
    assert "chi2" in text and "CI95 low" in text


def test_a_proposal_from_elsewhere(spread):
    bare = replace(spread, covariance=None)
    boot = dn.bootstrap(bare, 30, progress=False)
    found = dn.sir(bare, 200, 100, proposal=boot, progress=False)
    sd = np.std(boot.free_draws[:, 0], ddof=1)
    white = (found.free[:, 0] - bare.free[0]) / sd
    given = dn.sir(bare, 200, 100, proposal=np.array([[sd**2]]), progress=False)
    np.testing.assert_allclose(given.free, found.free, rtol=1e-9)
    assert stats.kstest(white, "norm").pvalue > 1e-3


def test_refuses(spread, theophylline):
    with pytest.raises(dn.ModelError, match=r"got no covariance step\. The proposal comes from it\. Use fit\.with_cov"):
        dn.sir(replace(spread, covariance=None))
    failed = replace(spread, covariance=replace(spread.covariance, message="Covariance step failed: the R matrix."))
    with pytest.raises(dn.ModelError, match=r"got a failed covariance step\. Covariance step failed.* Use proposal="):
        dn.sir(failed)
    few = dn.fit(Theophylline(), theophylline.population[:4], options=dn.Options(progress=False))
    with pytest.raises(dn.ModelError, match=r"a singular matrix from the covariance step \(sandwich\)"):
        dn.sir(few)
    with pytest.raises(dn.ModelError, match=r"Invalid `resamples`: got 30\. There are 20 samples to choose from"):
        dn.sir(spread, 20, 30)
    for value in (0, -1.0, "2", np.inf):
        with pytest.raises(dn.ModelError, match="Invalid `inflation`"):
            dn.sir(spread, inflation=value)
    with pytest.raises(dn.ModelError, match=r"Invalid `proposal`: got shape \(2, 2\)"):
        dn.sir(spread, proposal=np.eye(2))
    with pytest.raises(dn.ModelError, match=r"Invalid `samples`: got 0\."):
        dn.sir(spread, samples=0)
    with pytest.raises(dn.ModelError, match="needs estimates"):
        dn.sir(dn.evaluate_ofv(Theophylline(), theophylline.population))
