"""The likelihood ratio test: its p by hand, what is nested in what, and what is refused."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2
from torch import exp

import deepnlme as dn
from dataset_files import dataset
from deepnlme.compare.nested import nesting
from deepnlme.compare.ratio import chi_bar_tail

QUIET = dn.Options(progress=False)


class Theophylline(dn.Model):
    ka = dn.Positive(1.5)
    cl = dn.Positive(2.7)
    v = dn.Positive(31.0)
    wt = dn.Real(0.5)
    sd = dn.Positive(0.7)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        cl = theta.cl * (cov.wt / 70.0) ** theta.wt
        return dict(ka=theta.ka * exp(eta.ka), cl=cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


class WithoutWeight(Theophylline):
    """Another class: what is nested cannot be seen."""

    wt = None

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))


class Renamed(WithoutWeight):
    eta = dn.RandomEffects("absorption", "cl", omega=[0.4, 0.07])

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.absorption), cl=theta.cl * exp(eta.cl), v=theta.v)


NO_WEIGHT = dn.Real(0.0, fixed=True)
NO_V = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.0], fixed=["v"])
BLOCK = dn.RandomEffects("ka", "cl", "v", omega=np.diag([0.4, 0.07, 0.02]), block=True)


@pytest.fixture(scope="module")
def population():
    return dn.read_nonmem(dataset("theophylline"), covariates=["wt"])


@pytest.fixture(scope="module")
def fits(population):
    models = {
        "full": Theophylline(),
        "no weight": Theophylline(wt=NO_WEIGHT),
        "no eta": Theophylline(eta=NO_V),
        "neither": Theophylline(wt=NO_WEIGHT, eta=NO_V),
        "other class": WithoutWeight(),
        "block": Theophylline(eta=BLOCK),
    }
    return {name: dn.fit(model, population, options=QUIET) for name, model in models.items()}


# ---- p ----------------------------------------------------------------------------------------------------------


def test_tail_is_that_of_the_truncated_normal():
    """One variance at zero: the signed root of the difference is a normal truncated at zero, max(0, Z)^2."""
    z = np.random.default_rng(3).standard_normal((2, 1_000_000))
    for df, draws in ((1, np.maximum(z[0], 0) ** 2), (2, np.maximum(z[0], 0) ** 2 + z[1] ** 2)):
        for x in (0.5, 2.7, 6.0):
            share = (draws >= x).mean()
            assert chi_bar_tail(x, df, 1) == pytest.approx(share, abs=4 * np.sqrt(share / 1e6))


def test_tail_of_several_variances_is_a_bound():
    """Two independent variances: weights 1/4, 1/2, 1/4."""
    for x in (0.5, 2.7, 6.0, 12.0):
        exact = 0.5 * chi2.sf(x, 1) + 0.25 * chi2.sf(x, 2)
        assert exact < chi_bar_tail(x, 2, 2) < chi2.sf(x, 2)


def test_tail_at_zero():
    assert chi_bar_tail(0.0, 1, 0) == 1.0 and chi_bar_tail(0.0, 1, 1) == 1.0
    # the point mass at zero counts only there
    assert chi_bar_tail(1e-12, 1, 1) == pytest.approx(0.5, abs=1e-5)


def test_nested_pairs(fits):
    full = fits["full"]
    expected = {
        ("no weight", "full"): (1, 0, "chi2(1)"),
        ("no eta", "full"): (1, 1, "0.5 chi2(0) + 0.5 chi2(1)"),
        ("neither", "full"): (2, 1, "0.5 chi2(1) + 0.5 chi2(2)"),
        ("neither", "no eta"): (1, 0, "chi2(1)"),
        ("neither", "no weight"): (1, 1, "0.5 chi2(0) + 0.5 chi2(1)"),
        ("full", "block"): (3, 0, "chi2(3)"),
        # V alone of three: one variance and its two covariances
        ("no eta", "block"): (4, 1, "0.5 chi2(3) + 0.5 chi2(4)"),
    }
    for (reduced, larger), (df, boundary, words) in expected.items():
        a, b = fits[reduced], fits[larger]
        found = dn.likelihood_ratio(a, b)
        dofv = a.ofv - b.ofv
        upper = chi2.sf(dofv, df)
        lower = chi2.sf(dofv, df - 1) if df > 1 else 0.0
        assert found.dofv == pytest.approx(dofv, abs=1e-9) and dofv > 0
        assert found.p == pytest.approx(0.5 * (upper + lower) if boundary else upper, rel=1e-9)
        assert (found.df, found.boundary, found.distribution) == (df, boundary, words)
    assert "chi2(1)" in str(dn.likelihood_ratio(fits["no weight"], full))


def test_declared_by_the_caller(fits):
    """Another class: df from the counts, variances from their names."""
    a, b = fits["other class"], fits["full"]
    found = dn.likelihood_ratio(a, b)
    assert (found.df, found.boundary) == (1, 0)
    assert found.dofv == pytest.approx(dn.likelihood_ratio(fits["no weight"], b).dofv, abs=1e-4)
    assert dn.likelihood_ratio(a, b, boundary=1).p == pytest.approx(0.5 * chi2.sf(found.dofv, 1))


def test_variances_by_name(fits, population):
    class NoV(WithoutWeight):
        eta = dn.RandomEffects("ka", "cl", omega=[0.4, 0.07])

        def individual(self, theta, eta, cov):
            return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v)

    found = dn.likelihood_ratio(dn.fit(NoV(), population, options=QUIET), fits["other class"])
    assert (found.df, found.boundary) == (1, 1)
    assert found.dofv == pytest.approx(dn.likelihood_ratio(fits["neither"], fits["no weight"]).dofv, abs=1e-4)


# ---- nesting ----------------------------------------------------------------------------------------------------


def effects(omega, **how):
    return Theophylline(eta=dn.RandomEffects("ka", "cl", "v", omega=omega, **how))


FREE = [0.4, 0.07, 0.02]
SINGULAR = np.outer([1.0, 2.0, 0.0], [1.0, 2.0, 0.0])


@pytest.mark.parametrize(
    ("reduced", "full", "expected"),
    [
        (Theophylline(wt=0.1), Theophylline(wt=0.2), (0, 0)),
        (Theophylline(wt=NO_WEIGHT), Theophylline(), (1, 0)),
        (Theophylline(), Theophylline(wt=NO_WEIGHT), None),
        (Theophylline(wt=NO_WEIGHT), Theophylline(wt=dn.Real(1.0, fixed=True)), None),
        (Theophylline(wt=NO_WEIGHT), Theophylline(wt=dn.Bounded(0.5, low=0.1, high=1.0)), None),
        (Theophylline(wt=NO_WEIGHT), Theophylline(wt=dn.Bounded(0.5, low=-1.0, high=1.0)), (1, 0)),
        (Theophylline(), Theophylline(wt=dn.Bounded(0.5, low=-1.0, high=1.0)), None),
        (effects([0.4, 0.0, 0.0], fixed=["cl", "v"]), Theophylline(), (2, 2)),
        (effects([0.4, 0.07, 0.5], fixed=["v"]), Theophylline(), (1, 0)),
        (Theophylline(), effects([0.4, 0.07, 0.5], fixed=["v"]), None),
        (effects([0.4, 0.07, 0.0], fixed=["v"]), effects([0.4, 0.07, 0.5], fixed=["v"]), None),
        (effects([0.4, 0.0, 0.5], fixed=["cl", "v"]), effects([0.4, 0.07, 0.5], fixed=["v"]), (1, 1)),
        (Theophylline(), effects(FREE, block=True), (3, 0)),
        (effects(FREE, block=True), Theophylline(), None),
        (effects([0.4, 0.0, 0.0], fixed=["cl", "v"]), effects(FREE, block=True), (5, 2)),
        (effects(np.diag(FREE), block=True, fixed=True), effects(FREE, block=True), (6, 0)),
        (effects(SINGULAR, block=True, fixed=True), effects(FREE, block=True), (6, 2)),
        (effects(SINGULAR, block=True, fixed=True), effects(SINGULAR, block=True, fixed=True), (0, 0)),
        (effects(FREE, fixed=True), effects(SINGULAR, block=True, fixed=True), None),
        (effects(FREE, by="occasion"), Theophylline(), None),
        (WithoutWeight(), Theophylline(), None),
    ],
)
def test_nesting(reduced, full, expected):
    found = nesting(reduced, full)
    assert (None if found is None else (found.df, found.boundary)) == expected


def test_equations_of_an_instance_count():
    class Configured(Theophylline):
        def __init__(self, power, **changes):
            self.power = power
            super().__init__(**changes)

    assert nesting(Configured(1.0, wt=NO_WEIGHT), Configured(1.0)) is not None
    assert nesting(Configured(1.0, wt=NO_WEIGHT), Configured(2.0)) is None


# ---- refusals ---------------------------------------------------------------------------------------------------


def test_refuses_what_is_no_fit(fits):
    with pytest.raises(dn.ModelError, match="Invalid `full`: got Theophylline, expected a Fit"):
        dn.likelihood_ratio(fits["full"], Theophylline())


def test_refuses_exchanged_fits(fits):
    with pytest.raises(dn.ModelError, match=r"the full model has 7 parameters, the reduced one 8.*exchanged"):
        dn.likelihood_ratio(fits["full"], fits["no weight"])


def test_refuses_what_is_not_nested(fits, population):
    other = dn.fit(Theophylline(wt=dn.Bounded(0.4, low=0.3, high=0.9)), population, options=QUIET)
    with pytest.raises(dn.ModelError, match="neither is the other with some parameters fixed"):
        dn.likelihood_ratio(fits["no weight"], other)


def test_refuses_other_data_and_methods(fits, population):
    part = dn.fit(Theophylline(), population[:11], options=QUIET)
    with pytest.raises(dn.ModelError, match="other subjects: 11 against 12, 11 of them in both"):
        dn.likelihood_ratio(fits["no weight"], part)
    laplace = dn.fit(Theophylline(), population, dn.Laplace(), options=QUIET)
    with pytest.raises(dn.ModelError, match="another approximation of the likelihood: Laplace against FOCEI"):
        dn.likelihood_ratio(fits["no weight"], laplace)


def test_refuses_priors_and_networks(fits, population):
    prior = torch.distributions.Normal(0.5, 0.1)
    penalised = dn.fit(Theophylline(wt=dn.Real(0.5, prior=prior)), population, options=QUIET)
    with pytest.raises(dn.ModelError, match="the full model has priors, so that its OFV without the penalty"):
        dn.likelihood_ratio(fits["no weight"], penalised)

    class Learned(Theophylline):
        net = dn.MLP(inputs=1, hidden=(2,), outputs=1)

        def individual(self, theta, eta, cov):
            cl = theta.cl * exp(theta.net(cov.wt) + eta.cl)
            return dict(ka=theta.ka * exp(eta.ka), cl=cl, v=theta.v * exp(eta.v))

    short = dataclasses.replace(QUIET, max_iterations=2)
    with pytest.raises(dn.ModelError, match="the full model has a network"):
        dn.likelihood_ratio(fits["no weight"], dn.fit(Learned(), population, options=short))


def test_refuses_fits_that_are_not_at_their_maximum(fits, population):
    there = dn.evaluate_ofv(Theophylline(), population, at={"cl": 4.0})
    with pytest.raises(
        dn.ConvergenceError, match=r"full is not at its maximum .evaluated at the values given"
    ) as error:
        dn.likelihood_ratio(fits["no weight"], there)
    assert error.value.result is there
    worse = dataclasses.replace(there, status=dn.FitStatus.CONVERGED)
    assert worse.ofv > fits["no weight"].ofv + 1
    difference = f"{worse.ofv - fits['no weight'].ofv:.4f}"
    with pytest.raises(dn.ConvergenceError, match=f"full has an OFV {difference} above that of reduced.*start=reduced"):
        dn.likelihood_ratio(fits["no weight"], worse)


def test_a_difference_within_rounding_is_zero(fits):
    full, reduced = fits["full"], fits["no weight"]
    same = dataclasses.replace(full, evaluation=dataclasses.replace(full.evaluation, ofv=reduced.evaluation.ofv + 1e-3))
    found = dn.likelihood_ratio(reduced, same)
    assert found.dofv == 0.0 and found.p == 1.0


def test_asks_for_the_boundary(fits, population):
    renamed = dn.fit(Renamed(), population, options=QUIET)
    with pytest.raises(dn.ModelError, match=r"Invalid `boundary`: got None.*boundary=0, boundary=1"):
        dn.likelihood_ratio(renamed, fits["full"])
    assert dn.likelihood_ratio(renamed, fits["full"], boundary=1).df == 2
    for wrong in (-1, 3, True, "v"):
        with pytest.raises(dn.ModelError, match=r"Invalid `boundary`: got .*from 0 to 2"):
            dn.likelihood_ratio(renamed, fits["full"], boundary=wrong)


class OneWay(dn.Model):
    m = dn.Real(0.1)
    sd = dn.Positive(1.0)
    eta = dn.RandomEffects("m", omega=0.2)

    def individual(self, theta, eta, cov):
        return dict(m=theta.m + eta.m)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.m + 0.0 * x.time, theta.sd))


def test_one_way_layout_in_closed_form():
    """Data without variation between subjects, two observations each: the estimated variance is often zero."""
    at_zero = 0
    for y in np.random.default_rng(5).standard_normal((6, 40, 2)):
        frame = pd.DataFrame(dict(ID=np.repeat(np.arange(40), 2), TIME=np.tile([0.0, 1.0], 40), DV=y.ravel()))
        population = dn.read_nonmem(frame)
        reduced = dn.fit(OneWay(eta=dn.RandomEffects("m", omega=0.0, fixed=True)), population, options=QUIET)
        found = dn.likelihood_ratio(reduced, dn.fit(OneWay(), population, options=QUIET))
        between = 2 * ((y.mean(1) - y.mean()) ** 2).sum() / 40
        within = ((y - y.mean(1, keepdims=True)) ** 2).sum() / 40
        assert found.boundary == found.df == 1
        if between <= within:
            at_zero += 1
            assert found.dofv == pytest.approx(0.0, abs=1e-3)
            assert found.p > 0.48
        else:
            dofv = 80 * np.log((between + within) / 2) - 40 * np.log(between) - 40 * np.log(within)
            assert found.dofv == pytest.approx(dofv, abs=1e-6)
            assert found.p == pytest.approx(0.5 * chi2.sf(dofv, 1), rel=1e-5)
    assert 0 < at_zero < 6
