"""An encoder's posterior: exact where that is known in closed form, calibrated, and honest about where it fails."""

import json
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import exp

import deepnlme as dn
from deepnlme.amortised.network import SetEncoder, negative_log_density
from deepnlme.amortised.posterior import Whitened, resampled
from deepnlme.amortised.training import Plan, drawn
from deepnlme.errors import DataError, ModelError
from deepnlme.simulation.design import Setting

OMEGA = np.array([[1.0, 0.3], [0.3, 0.4]])
SMALL = {"examples": 2000, "epochs": 6, "width": 16, "progress": False}


class Line(dn.Model):
    """Normal, linear in the random effects: the posterior is known."""

    a, b = dn.Real(5.0), dn.Real(1.0)
    sd = dn.Positive(0.5)
    eta = dn.RandomEffects("a", "b", omega=OMEGA, block=True)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a, b=theta.b + eta.b)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a + p.b * x.time, theta.sd))


class LogLine(Line):
    """The same for the logarithm of the observations, and a second endpoint that sees the slope alone."""

    def observe(self, theta, p, x):
        return dict(up=dn.LogNormal(exp(p.a + p.b * x.time), theta.sd), slope=dn.Normal(3.0 * p.b, 2.0 * theta.sd))


class Saturating(dn.Model):
    """One random effect, far from linear."""

    half = dn.Positive(1.0)
    sd = dn.Positive(0.05)
    eta = dn.RandomEffects("half", omega=1.0)

    def individual(self, theta, eta, cov):
        return dict(half=theta.half * exp(eta.half))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.time / (p.half + x.time), theta.sd))


class Answers(Saturating):
    """Yes or no instead of a number."""

    def observe(self, theta, p, x):
        return dict(yes=torch.distributions.Bernoulli(x.time / (p.half + x.time)))


class Oral(dn.Model):
    """One compartment, first-order absorption, at values like those of theophylline."""

    ka, cl, v, sd = dn.Positive(1.5), dn.Positive(2.7), dn.Positive(31.0), dn.Positive(0.7)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


class OralEquations(Oral):
    """The same as differential equations."""

    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - p.cl / p.v * x.central)


class NoEffects(Oral):
    eta = None

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl, v=theta.v)


def people(n, counts, seed, dose=None, last=4.0):
    """Designs: irregular times of observation."""
    g = np.random.default_rng(seed)
    grids = [np.sort(g.uniform(0.2, last, counts[i % len(counts)])) for i in range(n)]
    return dn.Population([dn.Subject(i + 1, dose, (t, None)) for i, t in enumerate(grids)])


def observed(model, designs, seed):
    """The same people with simulated observations, and their true random effects."""
    simulated = dn.simulate(model, designs, seed=seed)
    r = designs.records
    dv = np.full(len(r), np.nan)
    dv[simulated.record] = simulated.dv[0]
    columns = {**dict(r.columns()), "dv": dv, "observed": np.isfinite(dv)}
    return designs.with_records(type(r)(**columns, covariates=r.covariates)), simulated.eta[0]


def divergence(exact, mean, covariance):
    """KL(exact || N(mean, covariance)) of normal distributions."""
    m, c = exact
    inverse = np.linalg.inv(covariance)
    log_det = np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(c)[1]
    off = mean - m
    return 0.5 * (np.trace(inverse @ c) - len(m) + off @ inverse @ off + log_det)


def conjugate(g, r, sd, omega=OMEGA):
    """Posterior of eta for y = g eta + N(0, sd^2), r = y - its mean at eta = 0."""
    c = np.linalg.inv(np.linalg.inv(omega) + (g.T / sd**2) @ g)
    return c @ (g.T / sd**2) @ r, c


def gridded(log_likelihood, omega=1.0):
    """Posterior mean and standard deviation of one effect, by a sum over a grid."""
    x = np.linspace(-8, 8, 8001)
    log_p = log_likelihood(x) - 0.5 * x**2 / omega
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    mean = (w * x).sum()
    return mean, np.sqrt((w * (x - mean) ** 2).sum())


# ---- exact where the posterior is known ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def line():
    designs = people(60, (1, 3, 5), 1)
    return dn.amortise(Line(), designs, **SMALL), observed(Line(), people(20, (2, 4, 7), 2), 3)[0]


def test_linear_model_has_its_exact_posterior(line):
    encoder, new = line
    found = encoder.encode(new)
    for i, person in enumerate(new):
        g = np.stack([np.ones(len(person)), person.time], 1)
        exact = conjugate(g, person.dv - 5.0 - person.time, 0.5)
        assert divergence(exact, found.mean[i], found.covariance[i]) < 0.02
    table = encoder.posterior(new)
    np.testing.assert_array_equal(table["ETA_b"], found.mean[:, 1])
    np.testing.assert_allclose(table["SD_a"] ** 2, found.covariance[:, 0, 0])
    np.testing.assert_array_equal(table["OBSERVATIONS"], np.diff(new.starts))


def test_weighted_draws_in_the_linear_model(line):
    encoder, new = line
    found = encoder.encode(new, correct=True, draws=4000)
    assert (found.ess > 0.9 * 4000).all()
    for i, person in enumerate(new):
        g = np.stack([np.ones(len(person)), person.time], 1)
        exact = conjugate(g, person.dv - 5.0 - person.time, 0.5)
        assert divergence(exact, found.mean[i], found.covariance[i]) < 0.002


def test_predictive_distribution_in_the_linear_model(line):
    encoder, new = line
    table = encoder.predict(new, times=[10.0], draws=2000)
    for i, person in enumerate(new):
        g = np.stack([np.ones(len(person)), person.time], 1)
        m, c = conjugate(g, person.dv - 5.0 - person.time, 0.5)
        at = np.array([1.0, 10.0])
        sd = np.sqrt(at @ c @ at)
        row = table.iloc[i]
        assert row["PRED"] == pytest.approx(15.0)
        assert row["IPRED"] == pytest.approx(15.0 + at @ m, abs=0.15 * sd)
        assert row["IPRED_HIGH"] - row["IPRED_LOW"] == pytest.approx(2 * 1.96 * sd, rel=0.1)
        assert row["DV_HIGH"] - row["DV_LOW"] == pytest.approx(2 * 1.96 * np.hypot(sd, 0.5), rel=0.1)


def test_log_normal_and_second_endpoint():
    g = np.random.default_rng(4)

    def designs(n, values=None):
        rows = []
        for i in range(n):
            t = np.sort(g.uniform(0, 2, 1 + i % 3))
            rows.append(dn.Subject(i + 1, None, {"up": (t, None), "slope": ([1.0], None)}))
        return dn.Population(rows)

    encoder = dn.amortise(LogLine(), designs(30), **SMALL)
    new, _ = observed(LogLine(), designs(9), 5)
    found = encoder.encode(new)
    for i, person in enumerate(new):
        up = person.endpoint == "up"
        slopes = np.where(up[:, None], np.stack([np.ones(len(up)), person.time], 1), [0.0, 3.0])
        r = np.where(up, np.log(np.where(up, person.dv, 1.0)) - 5.0 - person.time, person.dv - 3.0)
        exact = conjugate(slopes, r, np.where(up, 0.5, 1.0))
        assert divergence(exact, found.mean[i], found.covariance[i]) < 0.02
    found = encoder.encode(dn.Population([dn.Subject(1, None, {"slope": ([1.0], [4.5])})]))
    exact = conjugate(np.array([[0.0, 3.0]]), np.array([1.5]), 1.0)
    assert divergence(exact, found.mean[0], found.covariance[0]) < 0.02


def test_virtual_people_observed_at_times_of_their_own():
    """Simulated observations must meet the random effects that made them, or training would find something better."""
    g = np.random.default_rng(16)
    nobody = dn.virtual_population(25, seed=1)
    times = {i + 1: np.sort(g.uniform(0, 2, 1 + i % 4)) for i in range(25)}
    encoder = dn.amortise(LogLine(), nobody, times, **SMALL)
    t = np.array([0.3, 1.0])
    one = dn.Subject(1, None, {"up": (t, np.exp([6.0, 7.0])), "slope": (t, [4.0, 2.0])})
    slopes = np.array([[1.0, 0.3], [1.0, 1.0], [0.0, 3.0], [0.0, 3.0]])
    exact = conjugate(slopes, np.array([0.7, 1.0, 1.0, -1.0]), np.array([0.5, 0.5, 1.0, 1.0]))
    found = encoder.encode(dn.Population([one]))
    assert divergence(exact, found.mean[0], found.covariance[0]) < 0.02


def test_effects_by_occasion():
    class Visits(Line):
        b = None
        eta = dn.RandomEffects("a", omega=0.8)
        kappa = dn.RandomEffects("visit", omega=0.5, by="occasion")

        def individual(self, theta, eta, cov):
            return dict(a=theta.a + eta.a + eta.visit, b=0.0)

    def designs(n):
        times = np.array([0.0, 1.0, 5.0, 6.0])
        return dn.Population([dn.Subject(i + 1, None, (times, None), occasions=[0.0, 4.0]) for i in range(n)])

    encoder = dn.amortise(Visits(), designs(20), until=5.0, **SMALL)
    new, _ = observed(Visits(), designs(6), 6)
    found = encoder.encode(new)
    assert found.names == ("a", "visit@1", "visit@2")
    g = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]], dtype=float)
    for i, person in enumerate(new):
        exact = conjugate(g, person.dv[:3] - 5.0, 0.5, np.diag([0.8, 0.5, 0.5]))
        assert divergence(exact, found.mean[i], found.covariance[i]) < 0.02


# ---- what the network adds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "log_p", "most", "share"), [
    (Saturating, lambda f, y: -0.5 * ((y - f) / 0.05) ** 2, 0.3, 0.4),
    (Answers, lambda f, y: np.log(np.where(y == 1.0, f, 1.0 - f)), 0.05, 1.0),
], ids=["numbers", "answers"])  # fmt: skip
def test_nonlinear_model_against_a_grid(model, log_p, most, share):
    """The posterior by a sum: the network is much nearer to it than what it starts from; weighted draws are there."""
    designs = people(60, (1, 2, 4), 7)
    encoder = dn.amortise(model(), designs, examples=8000, epochs=15, width=32, progress=False)
    new, _ = observed(model(), people(60, (1, 3, 4), 8), 9)
    exact = np.array([
        gridded(lambda x, q=q: sum(log_p(t / (np.exp(x) + t), y) for t, y in zip(q.time, q.dv, strict=True)))
        for q in new
    ])  # fmt: skip
    off, wide = _off(encoder.encode(new), exact)
    untrained = SetEncoder(**encoder.network.architecture).double()
    before, before_wide = _off(type(encoder)(**{**vars(encoder), "network": untrained}).encode(new), exact)
    assert off < min(most, share * before) and wide < min(0.1, before_wide)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a person whose effective sample size is small
        off, wide = _off(encoder.encode(new, correct=True, draws=2000), exact)
    assert off < 0.03 and wide < 0.03


def _off(found, exact):
    """Root mean square errors of mean and log sd, in units of the exact sd."""
    mean, sd = exact.T
    own = np.sqrt(found.covariance[:, 0, 0])
    return (np.sqrt(np.mean(((found.mean[:, 0] - mean) / sd) ** 2)), np.sqrt(np.mean(np.log(own / sd) ** 2)))


@pytest.fixture(scope="module")
def oral():
    designs = people(60, (3, 6, 8), 10, dn.Dose(320.0), 24.0)
    return dn.amortise(Oral(), designs, until=12.0, examples=6000, epochs=12, width=32, progress=False)


@pytest.fixture(scope="module")
def patients():
    return observed(Oral(), people(300, (4, 6), 11, dn.Dose(320.0), 24.0), 12)


def test_calibrated_on_simulated_people(oral, patients):
    """Simulation-based calibration: true effects lie inside posterior intervals as often as they should."""
    new, eta = patients
    found = oral.encode(new)
    sd = np.sqrt(np.einsum("sii->si", found.covariance))
    for level, width in ((0.5, 0.6745), (0.9, 1.6449)):
        inside = (np.abs(eta - found.mean) < width * sd).sum(0)
        low, high = binom.ppf([0.0005, 0.9995], len(new), level)
        assert (inside > low - 1).all() and (inside < high + 1).all()
    lower = np.linalg.cholesky(found.covariance)
    whitened = np.linalg.solve(lower, (eta - found.mean)[..., None])[..., 0]
    assert np.abs(whitened.mean(0)).max() < 4 / np.sqrt(len(new))
    np.testing.assert_allclose(whitened.T @ whitened / len(new), np.eye(3), atol=0.35)


def test_the_posterior_mean_is_not_further_from_the_truth_than_modes(oral, patients):
    """It has the least expected squared error of all; EBEs, from the same observations, are modes."""
    new, eta = patients
    r = new.records
    early = new.with_records(r.take(r.time <= 12.0)).select(lambda s: s.observations > 0)
    known = np.isin(new.ids, early.ids)
    ebe = dn.evaluate_ofv(Oral(), early, dn.Laplace()).etas()[["ETA_ka", "ETA_cl", "ETA_v"]].to_numpy()
    omega = np.array([0.4, 0.07, 0.02])
    ours, modes = (((found - eta[known]) ** 2 / omega).mean(1) for found in (oral.encode(new).mean[known], ebe))
    assert ours.mean() < 0.8
    assert (ours - modes).mean() < 2 * (ours - modes).std() / np.sqrt(len(ours))


def test_weighted_draws_against_a_slow_importance_sampler(oral, patients):
    """One person at a time: 40000 draws from the prior, the likelihood by the closed form of the textbook."""
    new = patients[0][:4]
    found = oral.encode(new, correct=True, draws=4000)
    g = np.random.default_rng(0)
    for i, person in enumerate(new):
        eta = g.standard_normal((40000, 3)) * np.sqrt([0.4, 0.07, 0.02])
        ka, cl, v = (np.array([1.5, 2.7, 31.0]) * np.exp(eta)).T
        use = person.observed & (person.time <= 12.0)
        t = person.time[use][:, None]
        k = cl / v
        f = 320.0 * ka / (v * (ka - k)) * (np.exp(-k * t) - np.exp(-ka * t))
        log_w = -0.5 * (((person.dv[use][:, None] - f) / 0.7) ** 2).sum(0)
        w = np.exp(log_w - log_w.max())
        w /= w.sum()
        mean = w @ eta
        sd = np.sqrt(w @ (eta - mean) ** 2)
        np.testing.assert_array_less(np.abs(found.mean[i] - mean) / sd, 0.08)
        np.testing.assert_allclose(np.sqrt(np.diag(found.covariance[i])), sd, rtol=0.1)


def test_theophylline_beside_empirical_bayes_estimates():
    population = dn.read_nonmem("datasets/theophylline/data.csv")
    fit = dn.evaluate_ofv(Oral(), population, dn.Laplace())
    encoder = dn.amortise(fit, population, examples=6000, epochs=12, width=32, progress=False)
    table, ebe = encoder.posterior(population, correct=True), fit.etas()
    for name in ("ka", "cl", "v"):
        off = (table[f"ETA_{name}"] - ebe[f"ETA_{name}"]) / ebe[f"SE_{name}"]
        assert np.abs(off).max() < 0.5
        np.testing.assert_allclose(table[f"SD_{name}"], ebe[f"SE_{name}"], rtol=0.25)
    assert table["ESS"].median() > 500


# ---- what is read, and what is not -----------------------------------------------------------------------------------


def test_without_observations_the_prior(oral):
    nobody = people(3, (2,), 13, dn.Dose(100.0))
    late = dn.Population([dn.Subject(9, dn.Dose(100.0), ([13.0, 20.0], [1.0, 0.5]))])
    for who in (nobody, late):
        found = oral.encode(who, correct=True, draws=50)
        np.testing.assert_allclose(found.mean, 0.0, atol=1e-14)
        assert (found.observations == 0).all() and found.ess == pytest.approx(50)
        found = oral.encode(who)
        np.testing.assert_allclose(found.covariance[0], np.diag([0.4, 0.07, 0.02]), atol=1e-12)


def test_later_observations_are_not_read(oral, patients):
    new = patients[0][:20]
    r = new.records
    other = np.where(r.observed & (r.time > 12.0), 1000.0, r.dv)
    changed = new.with_records(type(r)(**{**dict(r.columns()), "dv": other}, covariates=r.covariates))
    assert (r.observed & (r.time > 12.0)).any()
    assert oral.posterior(new).equals(oral.posterior(changed))
    table = oral.predict(changed, draws=20)
    assert table["IPRED"].equals(oral.predict(new, draws=20)["IPRED"])
    assert (table["DV"] == 1000.0).sum() == (other == 1000.0).sum()


def test_people_do_not_depend_on_each_other(oral, patients):
    new = patients[0][:6]
    together = oral.posterior(new, correct=True)
    for i in range(6):
        alone = oral.posterior(new[[i]], correct=True)
        np.testing.assert_allclose(alone.to_numpy(float), together.iloc[[i]].to_numpy(float), rtol=1e-9, atol=1e-12)


def test_predictions_are_those_of_the_model_at_the_posterior_mean(oral, patients):
    new = patients[0][:5]
    found = oral.encode(new)
    expected = dn.predict(Oral(), new, eta=found.mean)
    table = oral.predict(new, draws=0)
    np.testing.assert_allclose(table["IPRED"], expected["IPRED"], rtol=1e-9)
    np.testing.assert_allclose(table["PRED"], expected["PRED"], rtol=1e-9)
    corrected = dn.predict(Oral(), new, eta=oral.encode(new, correct=True).mean)
    np.testing.assert_allclose(oral.predict(new, correct=True, draws=0)["IPRED"], corrected["IPRED"], rtol=1e-9)
    some = oral.predict(new, times={2: [1.0, 30.0]}, draws=0)
    assert some["ID"].tolist() == [2, 2]


def test_late_observations_lie_in_the_intervals(oral, patients):
    new = patients[0]
    for correct in (False, True):
        table = oral.predict(new if not correct else new[:100], correct=correct)
        late = table[table["TIME"] > 12.0]
        inside = late["DV"].between(late["DV_LOW"], late["DV_HIGH"])
        assert 0.90 < inside.mean() < 0.99
        assert late["IPRED_LOW"].lt(late["IPRED_HIGH"]).all()


def test_a_person_unlike_the_others_is_named(oral):
    odd = dn.Subject("odd", dn.Dose(320.0), ([0.5, 1.0, 2.0, 5.0, 9.0], [0.1, 0.2, 24.0, 3.0, 22.0]))
    usual = dn.Subject("usual", dn.Dose(320.0), ([0.5, 2.0, 5.0, 9.0], [5.0, 8.5, 7.0, 5.0]))
    both = dn.Population([odd, usual])
    with pytest.warns(RuntimeWarning, match="1 of 2 people .* subject odd"):
        table = oral.posterior(both, correct=True)
    assert table["ESS"][0] < 100 < 500 < table["ESS"][1]
    found = oral.encode(dn.Population([dn.Subject(1, dn.Dose(3.2e6), ([1e-6, 1e-3, 11.0], [1e4, 2e4, -1e6]))]))
    assert np.isfinite(found.mean).all() and (np.linalg.eigvalsh(found.covariance) > 0).all()


def test_augmented_model_as_source():
    """What covariates explain moves the expected curve, and the encoder reads what is left."""
    g = np.random.default_rng(14)
    sex, rows = g.integers(0, 2, 60), []
    for i in range(60):
        t = np.sort(g.uniform(0, 4, 4))
        e = np.array([1.5, 0.2]) * (sex[i] - 0.5) + 0.3 * g.standard_normal(2)
        y = 5 + e[0] + (1 + e[1]) * t + 0.5 * g.standard_normal(4)
        rows.append(dn.Subject(i + 1, None, (t, y), {"sex": float(sex[i])}))
    population = dn.Population(rows)
    base = dn.fit(Line(), population, options=dn.Options(progress=False, covariance=None))
    deep = dn.augment(base, dn.MLP(1, (), 2), folds=0)
    encoder = dn.amortise(deep.model, population, **SMALL)
    shift = deep.effects()[["G_a", "G_b"]].to_numpy()
    values, found = base.estimates, encoder.encode(population)
    for i, person in enumerate(population):
        x = np.stack([np.ones(4), person.time], 1)
        r = person.dv - x @ (np.array([values["a"], values["b"]]) + shift[i])
        exact = conjugate(x, r, values["sd"], deep.omega.to_numpy())
        assert divergence(exact, found.mean[i], found.covariance[i]) < 0.02


def test_training_sees_early_observations_alone():
    designs = people(30, (2, 5), 17)
    plan = {"times": None, "examples": 300, "width": 4, "epochs": 1, "learning_rate": 0.1, "seed": 0, "progress": False}
    setting = Setting.of(Line(), designs, None, None)
    r = designs.records
    early = np.bincount(r.subject[r.time <= 2.0], minlength=30)
    counts = []
    for thin in (0.0, 0.5):
        found = drawn(setting, Plan(until=2.0, thin=thin, **plan))
        seen = found.x[:, : -2 * 3].unflatten(1, (-1, 1 + found.features))[..., 0].sum(1).numpy()
        counts.append(np.sort(seen))
    np.testing.assert_array_equal(counts[0], np.sort(np.tile(early[early > 0], 10)))
    assert counts[1].sum() < 0.9 * counts[0].sum() and counts[1].min() == 1


def test_resampled_draws_have_the_weights():
    g = np.random.default_rng(18)
    w = g.exponential(size=(3, 500)) ** 3
    w /= w.sum(1, keepdims=True)
    found = Whitened(np.zeros((3, 2)), np.tile(np.eye(2), (3, 1, 1)), np.ones(3), g.normal(size=(3, 500, 2)), w)
    sample = resampled(found, 20_000, 1).sample
    np.testing.assert_allclose(sample.mean(1), (w[..., None] * found.draws).sum(1), atol=0.01)
    np.testing.assert_allclose((sample**2).mean(1), (w[..., None] * found.draws**2).sum(1), atol=0.02)


# ---- the network, files, mistakes ------------------------------------------------------------------------------------


def test_log_density_of_the_network():
    g = torch.Generator().manual_seed(0)
    network = SetEncoder(4, 3, 8).double()
    for p in network.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    x = torch.rand(5, 2 * 5 + 3 + 9, generator=g, dtype=torch.float64)
    x[:, -9:] = torch.triu(torch.rand(5, 3, 3, generator=g, dtype=torch.float64) + 0.5).flatten(1)
    out, z = network(x), torch.randn(5, 3, generator=g, dtype=torch.float64)
    mean, a = out[:, :3], out[:, 3:].unflatten(1, (3, 3))
    exact = torch.distributions.MultivariateNormal(mean, precision_matrix=a.mT @ a).log_prob(z)
    torch.testing.assert_close(-negative_log_density(out, z)[:, 0], exact)
    whole = x.repeat(30_000, 1)
    torch.testing.assert_close(network.eval()(whole)[-5:], out)
    swapped = torch.cat([x[:, 5:10], x[:, :5], x[:, 10:]], 1)
    torch.testing.assert_close(network(swapped), out)


def test_same_call_same_answer(line):
    encoder, new = line
    state = torch.random.get_rng_state()
    again = dn.amortise(Line(), people(60, (1, 3, 5), 1), **SMALL)
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.posterior(new).equals(encoder.posterior(new))
    assert again.history.equals(encoder.history)
    few = [dn.amortise(Saturating(), people(20, (2,), 1), seed=seed, **SMALL).posterior(new) for seed in (1, 1, 2)]
    assert few[0].equals(few[1]) and not few[0].equals(few[2])


def test_save_and_load(oral, patients, tmp_path):
    file, designs = tmp_path / "oral.npz", people(2, (3,), 10, dn.Dose(320.0))
    oral.save(file)
    with np.load(file, allow_pickle=False) as stored:
        assert json.loads(str(stored["head"]))["until"] == 12.0
    loaded = dn.load_encoder(file, Oral(), designs)
    new = patients[0][:10]
    assert loaded.posterior(new, correct=True).equals(oral.posterior(new, correct=True))
    assert loaded.history.equals(oral.history) and repr(loaded) == repr(oral)
    equations = dn.load_encoder(file, OralEquations(), designs)
    np.testing.assert_allclose(equations.encode(new[:3]).mean, oral.encode(new[:3]).mean, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="Invalid `source`: got other values of its parameters"):
        dn.load_encoder(file, Oral(cl=dn.Positive(2.8)), designs)
    with pytest.raises(ModelError, match="Invalid `source`: got half"):
        dn.load_encoder(file, Saturating(), people(2, (3,), 10))
    with pytest.raises(ModelError, match="Invalid `people`"):
        dn.load_encoder(file, Oral())
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(DataError, match=r"It is no file of Encoder\.save"):
        dn.load_encoder(tmp_path / "other.npz", Oral(), designs)
    with pytest.raises(ModelError, match=r"ends with \.npz"):
        oral.save(tmp_path / "oral.pkl")


class Coded(Oral):
    """Clearance depends on a text covariate, and on a network of age."""

    shift = dn.MLP(1, (2,), 1, output_scale=0.3)
    low = dn.Real(0.1, fixed=True)

    def individual(self, theta, eta, cov):
        cl = theta.cl * exp(eta.cl + 0.5 * cov.sex + theta.low + theta.shift(cov.age))
        return dict(ka=theta.ka * exp(eta.ka), cl=cl, v=theta.v * exp(eta.v))


def coded_people(sexes, ages=(20.0, 50.0)):
    seen = (np.array([1.0, 4.0, 8.0]), np.array([6.0, 7.0, 5.0]))
    rows = [(sex, age) for sex in sexes for age in ages]
    return dn.Population(
        [dn.Subject(i + 1, dn.Dose(320.0), seen, {"sex": sex, "age": age}) for i, (sex, age) in enumerate(rows)]
    )


def test_a_loaded_encoder_reads_as_the_one_that_was_saved(tmp_path):
    """Codes of texts, units of networks and fixed values come from the people and the model it is loaded with."""
    file, both = tmp_path / "coded.npz", coded_people(["F", "M"])
    encoder = dn.amortise(Coded(), both, examples=200, epochs=1, width=4, progress=False)
    encoder.save(file)
    men = coded_people(["M"])
    assert dn.load_encoder(file, Coded(), both).posterior(men).equals(encoder.posterior(men))
    with pytest.raises(ModelError, match=r"Invalid `people`: got sex as M\. It was F, M in the training"):
        dn.load_encoder(file, Coded(), men)
    with pytest.raises(ModelError, match="people by whom `shift` has other units"):
        dn.load_encoder(file, Coded(), coded_people(["F", "M"], (60.0, 90.0)))
    with pytest.raises(ModelError, match="Invalid `source`: got another `low`"):
        dn.load_encoder(file, Coded(low=dn.Real(0.2, fixed=True)), both)


def test_censored_observations_after_the_last_one_that_is_read(oral, patients):
    new = patients[0][:5]
    r = new.records
    late = r.observed & (r.time > 12.0)
    assert late.any()
    columns = {**dict(r.columns()), "cens": late.astype(np.int64)}
    censored = new.with_records(type(r)(**columns, covariates=r.covariates))
    assert oral.posterior(censored, correct=True).equals(oral.posterior(new, correct=True))
    assert oral.predict(censored, draws=0)["IPRED"].equals(oral.predict(new, draws=0)["IPRED"])


def test_people_on_another_clock_are_named(oral):
    later = dn.Subject(7, dn.Dose(320.0, time=100.0), (np.array([101.0, 104.0]), np.array([6.0, 7.0])))
    with pytest.warns(RuntimeWarning, match="1 of 1 people have their first record after 12.*subject 7 at 100"):
        found = oral.posterior(dn.Population([later]))
    assert found["OBSERVATIONS"].item() == 0


@pytest.mark.parametrize(("changes", "what"), [
    ({"until": 0.01}, "until"),
    ({"until": "early"}, "until"),
    ({"examples": 5}, "examples"),
    ({"thin": 2.0}, "thin"),
    ({"epochs": 0}, "epochs"),
    ({"width": 2.5}, "width"),
    ({"learning_rate": 0.0}, "learning_rate"),
    ({"seed": -1}, "seed"),
    ({"people": None}, "people"),
    ({"source": Oral}, "source"),
    ({"source": NoEffects()}, "source"),
])  # fmt: skip
def test_mistakes_in_training(changes, what):
    given = {"source": Oral(), "people": people(5, (3,), 1, dn.Dose(1.0)), **SMALL, **changes}
    with pytest.raises((ModelError, DataError), match=f"Invalid `{what}`"):
        dn.amortise(**given)


def test_mistakes_in_people(oral, line):
    subject = dn.Subject(1, dn.Dose(320.0), ([1.0, 2.0], [5.0, 6.0]))
    with pytest.raises(DataError, match="Invalid `population`: got Subject"):
        oral.posterior(subject)
    with pytest.raises(ModelError, match="Invalid `draws`"):
        oral.posterior(dn.Population([subject]), correct=True, draws=0)
    r = dn.Population([subject]).records
    censored = type(r)(**{**dict(r.columns()), "cens": np.array([0, 1, 0])})
    with pytest.raises(DataError, match="Invalid `cens`: got 1 for subject 1"):
        oral.posterior(dn.Population([subject]).with_records(censored))
    with pytest.raises(DataError, match="dose"):
        line[0].posterior(dn.Population([subject]))
