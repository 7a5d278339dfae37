"""Simulated people are those of the model: closed forms of moments and quantiles, predictions subject by subject."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import exp

import contract_models as cm
import deepnlme as dn
from deepnlme.joint import Joint
from deepnlme.simulation import design

QUIET = dn.Options(progress=False)


class Line(dn.Model):
    """y = a + b t + eta_a + eta_b t + eps, all normal: everything about it is known."""

    a = dn.Real(2.0)
    b = dn.Real(-0.5)
    sd = dn.Positive(0.3)
    eta = dn.RandomEffects("a", "b", omega=[[0.4, 0.1], [0.1, 0.2]], block=True)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a, b=theta.b + eta.b)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a + p.b * x.time, theta.sd))


class Bolus(dn.Model):
    """Log-normal volume and clearance."""

    cl = dn.Positive(2.0)
    v = dn.Positive(20.0)
    sd = dn.Positive(0.2)
    eta = dn.RandomEffects("cl", "v", omega=[0.09, 0.04])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(cp=dn.LogNormal(x.central / p.v, theta.sd))


def people(n, dose=100.0, **covariates):
    return dn.Population([dn.Subject(i + 1, dn.Dose(dose), covariates=covariates) for i in range(n)])


def undosed(n):
    return dn.Population([dn.Subject(i + 1, observations=([0.0], None)) for i in range(n)])


def within(found, expected, error, z=4.5):
    """Monte-Carlo estimates within z standard errors."""
    np.testing.assert_array_less(np.abs(np.asarray(found) - expected), z * np.asarray(error))


# ---- closed forms -------------------------------------------------------------------------------------------------


def test_moments_of_a_linear_model():
    times = np.array([0.0, 1.0, 4.0])
    n = 20_000
    y = dn.simulate(Line(), undosed(4), times, replicates=n // 4, seed=3).values("dv").reshape(n, 3)
    z = np.stack([np.ones(3), times], 1)
    omega = np.array([[0.4, 0.1], [0.1, 0.2]])
    covariance = z @ omega @ z.T + 0.09 * np.eye(3)
    within(y.mean(0), 2.0 - 0.5 * times, np.sqrt(np.diag(covariance) / n))
    error = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
    within(np.cov(y.T), covariance, error)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (y - (2.0 - 0.5 * times)).T)
    assert stats.kstest(whitened.ravel(), "norm").pvalue > 1e-3


def test_quantiles_of_log_normal_parameters():
    """C(0) = D/v is log-normal with variance omega2_v; observed, sd^2 adds to it; cl/v sets the slope of log C."""
    sim = dn.simulate(Bolus(), people(10), [0.0, 5.0], replicates=4_000, seed=1)
    assert sim.dv is not None
    first = sim.values("ipred")[:, :, 0].ravel()
    n = first.size
    for q in (0.05, 0.25, 0.5, 0.95):
        sd = 0.2
        expected = np.log(5.0) + sd * stats.norm.ppf(q)
        error = np.sqrt(q * (1 - q) / n) / stats.norm.pdf(stats.norm.ppf(q)) * sd
        within(np.log(np.quantile(first, q)), expected, error)
    observed = np.log(sim.values("dv")[:, :, 0].ravel())
    within(observed.var(), 0.04 + 0.04, 0.08 * np.sqrt(2 / n))
    slope = (np.log(sim.values("ipred")[:, :, 1]) - np.log(sim.values("ipred")[:, :, 0])).ravel() / -5.0
    within(np.log(slope).mean(), np.log(0.1), np.sqrt(0.13 / n))
    within(np.log(slope).var(), 0.13, 0.13 * np.sqrt(2 / n))
    table = sim.individuals()
    np.testing.assert_allclose(table["cl"] / table["v"], slope.reshape(4_000, 10).ravel(), rtol=1e-8)


# ---- against predictions subject by subject -----------------------------------------------------------------------


@pytest.mark.parametrize("case", cm.CASES, ids=lambda c: c.name)
def test_each_curve_is_the_prediction_at_its_random_effects(case):
    """`predict` of one subject of its own, with the eta that were drawn, for every kind of model."""
    model, population = case.model(), case.population()
    sim = dn.simulate(model, population, replicates=2, seed=4)
    assert sim.record is not None and sim.observed is not None
    for i in (0, len(population) - 1):
        rows = np.flatnonzero(sim.subject == i)
        eta = sim.eta[1, i]
        alone = population[[i]]
        table = dn.predict(model, alone, eta=eta[None, : Joint(model, alone).k])
        np.testing.assert_allclose(sim.ipred[1, rows], table["IPRED"], rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(sim.observed[rows], table["DV"])
        np.testing.assert_array_equal(sim.time[rows], table["TIME"])


class Everything(dn.Model):
    """Lag, bioavailability, occasions, a covariate and two endpoints, in closed form or as differential equations."""

    ka = dn.Positive(1.0)
    cl = dn.Positive(2.0)
    v = dn.Positive(20.0)
    lag = dn.Positive(0.3)
    f = dn.Bounded(0.7)
    sd = dn.Positive(0.2)
    eta = dn.RandomEffects("cl", "v", omega=0.09)
    iov = dn.RandomEffects("iov_ka", omega=0.2, by="occasion")
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        cl = theta.cl * (cov.wt / 70) ** 0.75 * exp(eta.cl)
        return dict(ka=theta.ka * exp(eta.iov_ka), cl=cl, v=theta.v * exp(eta.v), lag=theta.lag, f=theta.f)

    def dosing(self, theta, p):
        return dict(depot=dn.Dosing(lag=p.lag, bioavailability=p.f))

    def observe(self, theta, p, x):
        c = x.central / p.v
        return dict(cp=dn.Normal(c, theta.sd * (0.1 + c)), effect=dn.Normal(10 - c, theta.sd))


class EverythingODE(Everything):
    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - p.cl / p.v * x.central)


def dosed():
    """Additional and steady-state doses, infusions into the other compartment, a reset and a weight that changes."""
    one = dn.Regimen(dn.Dose(100, ii=12, addl=3), dn.Dose(50, time=20, duration=3.0, cmt="central"))
    two = dn.Regimen(dn.Dose(80, ii=8, ss=1), dn.Dose(60, time=30, cmt="central", rate=20.0, ss=2, ii=12))
    three = dn.Regimen(dn.Dose(120), dn.Dose(0, time=24, evid=3), dn.Dose(90, time=26))
    return dn.Population(
        [
            dn.Subject(
                i, regimen, ([1.0, 13.0, 40.0], None), {"wt": ([0.0, 13.0], [60.0 + i, 66.0])}, occasions=[0, 13]
            )
            for i, regimen in enumerate((one, two, three), 1)
        ]
    )


@pytest.mark.parametrize("model", [Everything, EverythingODE])
def test_any_times_under_every_kind_of_dose(model):
    """Times of a grid, against records with EVID=0 at these times in a population of its own."""
    population, times = dosed(), [0.5, 12.5, 13.0, 22.0, 25.0, 47.0]
    sim = dn.simulate(model(), population, times, replicates=3, seed=2)
    assert sim.values("dv", "effect").shape == (3, 3, 6)
    rest = dict(rtol=1e-6, atol=1e-9) if model is EverythingODE else dict(rtol=1e-10)
    for i in range(3):
        for name in sim.endpoints:
            expected = dn.predict(
                model(), *[with_records(population[[i]], times)], eta=sim.eta[2, [i]], all_records=True
            )  # fmt: skip
            at = expected[(expected["EVID"] == 0) & expected["TIME"].isin(times)].drop_duplicates("TIME", keep="last")
            value = at["IPRED"] if name == "cp" else 10 - at["IPRED"]
            np.testing.assert_allclose(sim.values("ipred", name)[2, i], value, **rest)


def with_records(population, times):
    frame = population.to_frame()
    more = pd.DataFrame({"ID": population.ids[0], "TIME": times, "EVID": 0, "MDV": 1})
    more = more[~more["TIME"].isin(frame.loc[frame["EVID"] == 0, "TIME"])]
    more["OCC"] = np.where(more["TIME"] <= 1, "1", "2")  # that of the next record
    more["wt"] = 66.0  # the value of the next record
    frame = (
        pd.concat([frame, more]).sort_values("TIME", kind="stable").fillna({"AMT": 0, "RATE": 0, "II": 0, "ADDL": 0})
    )
    return dn.read_nonmem(frame, covariates=["wt"])


def test_occasions_have_effects_of_their_own():
    sim = dn.simulate(Everything(), dosed(), replicates=2_000, seed=5)
    kappa = sim.eta[:, :, 2:].reshape(-1, 2)
    assert sim.effects == ("cl", "v", "iov_ka@1", "iov_ka@2")
    n = len(kappa)
    within(kappa.var(0), 0.2, 0.2 * np.sqrt(2 / n))
    within(np.corrcoef(kappa.T)[0, 1], 0.0, 1 / np.sqrt(n))
    assert list(sim.etas()) == ["REP", "ID", "ETA_cl", "ETA_v", "ETA_iov_ka@1", "ETA_iov_ka@2"]


# ---- residuals ----------------------------------------------------------------------------------------------------


def test_residuals_are_independent_and_have_their_variance():
    sim = dn.simulate(Everything(), dosed(), [1.0, 5.0, 9.0], replicates=2_000, seed=6)
    c = sim.values("ipred", "cp")
    eps = (sim.values("dv", "cp") - c) / (0.2 * (0.1 + c))
    other = (sim.values("dv", "effect") - sim.values("ipred", "effect")) / 0.2
    both = np.concatenate([eps, other], 2).reshape(-1, 6)
    assert stats.kstest(both.ravel(), "norm").pvalue > 1e-3
    within(np.corrcoef(both.T) - np.eye(6), 0.0, np.full((6, 6), 1 / np.sqrt(len(both))))


def test_observations_under_m4_are_positive():
    """The normal distribution above zero, as in the likelihood, also where nearly all of it is cut off."""

    class Above(dn.Model):
        mean = dn.Real(0.3)
        sd = dn.Positive(1.0)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(theta.mean, theta.sd, blq="M4"))

    for mean in (0.3, -4.0, -29.0, -31.0, -200.0):
        y = dn.simulate(Above(), undosed(100), [1.0], replicates=50, at={"mean": mean}, seed=1).values("dv").ravel()
        expected = stats.truncnorm(-mean, np.inf, loc=mean) if mean > -25 else stats.expon(scale=-1 / mean)
        assert y.min() > 0 and stats.kstest(y, expected.cdf).pvalue > 1e-3


class Fixed(dn.Model):
    """The same distribution for everyone: every observation is drawn on its own all the same."""

    rate = dn.Positive(3.0)

    def observe(self, theta, p, x):
        return dict(dv=torch.distributions.Poisson(theta.rate))


def test_counts_of_one_distribution_are_independent():
    y = dn.simulate(Fixed(), undosed(500), [1.0, 2.0], replicates=8, seed=1).values("dv")
    n = y.size
    within(y.mean(), 3.0, np.sqrt(3.0 / n))
    within(y.var(), 3.0, np.sqrt((3.0 + 2 * 9.0) / n))
    assert np.ptp(y[0, :, 0]) > 0 and np.ptp(y[:, 0, 0]) > 0
    within(np.corrcoef(y[:, :, 0].ravel(), y[:, :, 1].ravel())[0, 1], 0.0, np.sqrt(2 / n))


class Categories(dn.Model):
    """Three categories with probabilities that vary between subjects."""

    a = dn.Real(0.5)
    eta = dn.RandomEffects("a", omega=0.3)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a)

    def observe(self, theta, p, x):
        logits = torch.stack([0.0 * p.a, p.a, -p.a], -1)
        return dict(dv=torch.distributions.Categorical(logits=logits))


def test_categories(recwarn):
    sim = dn.simulate(Categories(), undosed(2_000), [1.0], replicates=5, seed=1)
    y, a = sim.values("dv")[:, :, 0].ravel(), sim.individual["a"].ravel()
    weight = np.exp(np.stack([0 * a, a, -a], 1))
    probability = weight / weight.sum(1, keepdims=True)
    for k in range(3):
        p = probability[:, k]
        within((y == k).mean(), p.mean(), np.sqrt((p * (1 - p)).mean() / len(y)))
    assert not recwarn.list  # a category has no mean, which is no failure


@pytest.mark.parametrize("name", ["counts", "binary", "Student t"])
def test_other_distributions(name):
    case = cm.BY_NAME[name]
    sim = dn.simulate(case.model(), case.population(), replicates=3_000, seed=8)
    assert sim.dv is not None
    column = 3
    mu, y = sim.ipred[:, column], sim.dv[:, column]
    if name == "Student t":
        scale = sim.parameters["a"][1] + sim.parameters["b"][1] * mu
        assert stats.kstest((y - mu) / scale, stats.t(sim.parameters["df"][1]).cdf).pvalue > 1e-3
        return
    spread = mu if name == "counts" else mu * (1 - mu)
    within((y - mu).mean(), 0.0, np.sqrt(spread.mean() / len(y)))
    within(((y - mu) ** 2).mean(), spread.mean(), 3 * np.std((y - mu) ** 2) / np.sqrt(len(y)))
    assert set(np.unique(y)) <= ({0.0, 1.0} if name == "binary" else set(range(200)))


# ---- what depends on what -----------------------------------------------------------------------------------------


def test_chunks_change_nothing(monkeypatch):
    population, times = dosed(), {1: [1.0, 2.0], 2: [3.0], 3: [2.0, 6.0, 30.0]}
    whole = dn.simulate(Everything(), population, times, replicates=5, seed=2)
    for budget in (1, 40, 500):
        monkeypatch.setattr(design, "NUMBERS", budget)
        parts = dn.simulate(Everything(), population, times, replicates=5, seed=2)
        np.testing.assert_allclose(parts.ipred, whole.ipred, rtol=1e-12)
        np.testing.assert_allclose(parts.dv, whole.dv, rtol=1e-12)
        pd.testing.assert_frame_equal(parts.individuals(), whole.individuals())
        pd.testing.assert_frame_equal(parts.table()[["REP", "ID", "TIME"]], whole.table()[["REP", "ID", "TIME"]])


def test_a_chunk_in_which_nobody_is_observed(monkeypatch):
    """A subject with a dose alone, among others, is no reason to refuse the population."""
    given = [dn.Subject(i, dn.Dose(10.0), ([1.0, 2.0], None) if i != 2 else None) for i in (1, 2, 3)]
    whole = dn.simulate(Bolus(), dn.Population(given), replicates=2)
    monkeypatch.setattr(design, "NUMBERS", 1)
    parts = dn.simulate(Bolus(), dn.Population(given), replicates=2)
    assert parts.subject.tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(parts.dv, whole.dv, rtol=1e-12)


def test_the_same_people_whatever_is_given_to_them():
    a = dn.simulate(Bolus(), people(5), [1.0], replicates=3, seed=9)
    b = dn.simulate(Bolus(), people(5, 250.0), [1.0, 7.0], replicates=6, seed=9)
    np.testing.assert_array_equal(a.eta, b.eta[:3])
    np.testing.assert_allclose(2.5 * a.values("ipred")[:, :, 0], b.values("ipred")[:3, :, 0], rtol=1e-12)
    again = dn.simulate(Bolus(), people(5), [1.0], replicates=3, seed=9)
    np.testing.assert_array_equal(a.dv, again.dv)
    assert not np.allclose(a.dv, dn.simulate(Bolus(), people(5), [1.0], replicates=3, seed=10).dv)


def test_random_effects_have_nothing_to_do_with_covariates_of_the_same_seed():
    drawn = np.random.default_rng(1).standard_normal(400)
    sim = dn.simulate(Categories(), undosed(400), [1.0], seed=1)
    assert abs(np.corrcoef(drawn, sim.eta[0, :, 0])[0, 1]) < 4.5 / np.sqrt(400)


def test_typical_subjects_and_values_of_a_model():
    sim = dn.simulate(Bolus(), people(2), [0.0, 10.0], random_effects=False, residual=False, at={"v": 10.0, "cl": 1.0})
    assert sim.dv is None and not sim.eta.any()
    np.testing.assert_allclose(sim.values("ipred"), np.tile(10.0 * np.exp([0.0, -1.0]), (1, 2, 1)))
    assert sim.parameters.to_dict("records")[0]["v"] == pytest.approx(10.0)


# ---- tables -------------------------------------------------------------------------------------------------------


def test_the_table():
    sim = dn.simulate(Everything(), dosed(), [0.5, 13.0], replicates=2, seed=1)
    table = sim.table()
    assert list(table) == ["REP", "ID", "TIME", "DVID", "IPRED", "DV", "wt"]
    assert len(table) == 2 * 3 * 2 * 2 and table["REP"].unique().tolist() == [1, 2]
    one = table[(table["REP"] == 2) & (table["ID"] == 3)]
    assert one["TIME"].tolist() == [0.5, 0.5, 13.0, 13.0] and one["DVID"].tolist() == ["cp", "effect"] * 2
    np.testing.assert_array_equal(one.loc[one["DVID"] == "effect", "DV"], sim.values("dv", "effect")[1, 2])
    assert one["wt"].tolist() == [66.0, 66.0, 66.0, 66.0]
    pd.testing.assert_frame_equal(sim.table(1), table[table["REP"] == 2].reset_index(drop=True))
    np.testing.assert_array_equal(sim.times(), [[0.5, 13.0]] * 3)
    assert "3 subjects, 4 rows each" not in repr(sim) and "2 replicates, 3 subjects, 12 rows each" in repr(sim)


def test_text_covariates_are_text():
    population = dn.Population(
        [dn.Subject(i, dn.Dose(1.0), covariates={"arm": a}) for i, a in ((1, "high"), (2, "low"))]
    )
    sim = dn.simulate(Bolus(), population, [1.0], replicates=2)
    assert sim.table()["arm"].tolist() == ["high", "low"] * 2
    assert sim.individuals()["arm"].tolist() == ["high", "low"] * 2


# ---- refusals -----------------------------------------------------------------------------------------------------


class NeedsWeight(Bolus):
    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * cov.wt / 70, v=theta.v)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(source=Bolus), r"Invalid `source`: got the class Bolus, expected a Fit or a Model"),
        (dict(population=people(1)[0]), r"Invalid `population`: got Subject. It is a Population. Use dn.Population"),
        (dict(times=[2.0, 1.0]), r"Invalid `times`: got 1 after 2. Times increase"),
        (dict(times={7: [1.0]}), r"Invalid `times`: got subject 7. The 2 subjects are 1, 2"),
        (dict(times=None), r"Invalid `times`: got None. The population has no record with EVID=0"),
        (dict(replicates=0), r"Invalid `replicates`: got 0"),
        (dict(seed=-1), r"Invalid `seed`: got -1"),
        (dict(uncertainty=True), r"Invalid `uncertainty`: got it for a model"),
        (dict(source=NeedsWeight()), r"Invalid name `cov.wt`: .*virtual_population"),
        (dict(at={"nonsense": 1.0}), r"Invalid parameter name `nonsense`"),
        (dict(adapt=3), r"Invalid `adapt`: got int, expected dn.Adaptive"),
    ],
)
def test_mistakes_are_refused(arguments, message):
    settings = {"source": Bolus(), "population": people(2), "times": [1.0], **arguments}
    with pytest.raises((dn.ModelError, dn.DataError), match=message):
        dn.simulate(settings.pop("source"), settings.pop("population"), settings.pop("times"), **settings)


def test_requests_that_a_simulation_cannot_meet():
    sim = dn.simulate(Bolus(), people(2), {1: [1.0], 2: [1.0, 2.0]}, residual=False)
    with pytest.raises(dn.ModelError, match="between 1 and 2 times"):
        sim.values()
    with pytest.raises(dn.ModelError, match="no residual error"):
        sim.values("dv")
    with pytest.raises(dn.ModelError, match="Invalid `endpoint`: got 'ce', expected one of cp"):
        sim.values("ipred", "ce")


class Explodes(dn.Model):
    """Without a value where eta is above zero."""

    a = dn.Real(1.0)
    eta = dn.RandomEffects("a", omega=1.0)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + torch.sqrt(-eta.a))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a, 1.0))


def test_curves_without_a_value_are_named():
    with pytest.warns(UserWarning, match=r"\d+ of 10 curves have values that are not finite \(subject"):
        sim = dn.simulate(Explodes(), undosed(10), [1.0])
    np.testing.assert_array_equal(np.isnan(sim.values()[0, :, 0]), sim.eta[0, :, 0] > 0)


DISCRETE = {
    "counts": lambda a: torch.distributions.Poisson(exp(a)),
    "binary": lambda a: torch.distributions.Bernoulli(logits=a),
    "categories": lambda a: torch.distributions.Categorical(logits=torch.stack([0 * a, a], -1)),
    "negative binomial": lambda a: torch.distributions.NegativeBinomial(5.0 + 0 * a, logits=a),
}


@pytest.mark.parametrize("kind", DISCRETE)
def test_a_curve_without_a_value_does_not_sink_the_others(kind):
    class Lost(Explodes):
        def observe(self, theta, p, x):
            return dict(dv=DISCRETE[kind](p.a))

    with pytest.warns(UserWarning, match="curves have values that are not finite"):
        sim = dn.simulate(Lost(), undosed(40), [1.0, 2.0], replicates=2)
    np.testing.assert_array_equal(np.isnan(sim.values("dv")), np.repeat(sim.eta > 0, 2, axis=2))


def test_pooled_fits_have_no_random_effects_to_draw():
    population = cm.plain()
    fit = dn.evaluate_ofv(cm.Oral(), population, dn.NaivePooled())
    with pytest.raises(dn.ModelError, match=r"has not estimated Omega. Use random_effects=False"):
        dn.simulate(fit, population)
    assert not dn.simulate(fit, population, random_effects=False).eta.any()
