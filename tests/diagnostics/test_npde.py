"""NPDE are what plain loops per subject find; N(0, 1) for data of the model, and not for those of another."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from scipy import special, stats
from torch import exp

import deepnlme as dn
from dataset_files import dataset
from deepnlme.diagnostics.npde import normality_tests
from simulated_people import Bolus, Count, Oral, bolus_people, drawn


class Line(dn.Model):
    """Linear and Gaussian: E and V of a subject are known."""

    a, b, sd = dn.Real(1.0), dn.Real(0.5), dn.Positive(0.3)
    eta = dn.RandomEffects("a", "b", omega=[0.25, 0.04])

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a, b=theta.b + eta.b)

    def observe(self, theta, p, x):
        return dict(y=dn.Normal(p.a + p.b * x.time, theta.sd))


class Two(dn.Model):
    """Two endpoints of one random effect."""

    a, y_sd, z_sd = dn.Real(1.0), dn.Positive(0.3), dn.Positive(0.5)
    eta = dn.RandomEffects("a", omega=1.0)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a)

    def observe(self, theta, p, x):
        return dict(y=dn.Normal(p.a + 0 * x.time, theta.y_sd), z=dn.Normal(2 * p.a + 0 * x.time, theta.z_sd))


TIMES = np.array([0.0, 1.0, 2.0, 3.0])


def line_people(n=40):
    return dn.Population([dn.Subject(i, None, (TIMES[: 1 + i % 4], np.ones(1 + i % 4))) for i in range(n)])


def slow_npde(y, sets, subject, method):
    """Subject by subject, as the published steps read."""
    k, out = len(sets), np.empty(len(y))
    for i in sorted(set(subject)):
        rows = [j for j in range(len(y)) if subject[j] == i]
        own, drawn_sets = y[rows], [row[rows] for row in sets]
        if method != "none":
            centre = sum(drawn_sets) / k
            variance = np.cov(np.array(drawn_sets).T).reshape(len(rows), len(rows))
            root = {"cholesky": lambda v: scipy.linalg.cholesky(v, lower=True), "inverse": scipy.linalg.sqrtm}[method]
            inverse = np.linalg.inv(root(variance))
            own, drawn_sets = inverse @ (own - centre), [inverse @ (one - centre) for one in drawn_sets]
        for j, row in enumerate(rows):
            share = sum(one[j] < own[j] for one in drawn_sets) / k
            out[row] = stats.norm.ppf(min(max(share, 1 / (2 * k)), 1 - 1 / (2 * k)))
    return out


@pytest.fixture(scope="module")
def oral():
    population = dn.read_nonmem(dataset("theophylline"), covariates=["wt"])
    return dn.evaluate_ofv(Oral(), population)


@pytest.mark.parametrize("method", ["cholesky", "inverse", "none"])
def test_npde_are_what_plain_loops_find(oral, method):
    people = drawn(Line(), line_people(9))
    for source in (dn.simulate(oral, oral.population, replicates=60), dn.simulate(Line(), people, replicates=50)):
        found = dn.npde(source, decorrelation=method)
        column = "NPD" if method == "none" else "NPDE"
        expected = slow_npde(source.observed, source.dv, source.subject, method)
        np.testing.assert_allclose(found.table[column], expected, atol=1e-9)
        np.testing.assert_allclose(found.table["NPD"], slow_npde(source.observed, source.dv, source.subject, "none"))
        np.testing.assert_allclose(found.table["EPRED"], source.dv.mean(0))


def test_npde_of_a_linear_model_are_its_whitened_residuals():
    people = drawn(Line(), line_people(12))
    found = dn.npde(dn.simulate(Line(), people, replicates=20_000)).table
    for _, own in found.groupby("ID"):
        t = TIMES[: len(own)]
        z = np.stack([np.ones_like(t), t], 1)
        variance = z @ np.diag([0.25, 0.04]) @ z.T + 0.09 * np.eye(len(t))
        whitened = np.linalg.solve(np.linalg.cholesky(variance), own.DV - 1.0 - 0.5 * t)
        np.testing.assert_allclose(
            own.NPDE, whitened, atol=0.12 if np.abs(whitened).max() > 2 else 0.06, err_msg=str(id)
        )


def test_observations_beyond_all_simulated_ones():
    people = drawn(Line(), line_people(4))
    sets = dn.simulate(Line(), people, replicates=100)
    found = dn.npde(replace(sets, observed=np.where(sets.subject % 2, 99.0, -99.0)), decorrelation="none").table
    np.testing.assert_allclose(np.abs(found.NPD), stats.norm.ppf(1 - 1 / 200))
    assert (np.sign(found.NPD) == np.where(found.ID % 2, 1, -1)).all()


def test_errors_of_simulated_sets_are_their_ranks():
    sets = dn.simulate(Line(), drawn(Line(), line_people(6)), replicates=80)
    found = dn.npde(sets, decorrelation="none")
    rank = stats.rankdata(sets.dv, axis=0)
    np.testing.assert_allclose(found.simulated, stats.norm.ppf((rank - 0.5) / 80))
    own = dn.npde(sets).simulated
    assert own.shape == (80, len(sets.observed)) and np.abs(own.mean(0)).max() < 1e-9


def test_each_endpoint_on_its_own():
    table = pd.concat(
        [pd.DataFrame(dict(ID=i, TIME=[0.0, 0.0, 1.0, 2.0], DVID=["y", "z", "y", "z"], DV=1.0)) for i in range(5)]
    )
    sets = dn.simulate(Two(), dn.read_nonmem(table), replicates=60)
    both = dn.npde(sets)
    assert both.table.columns.tolist() == ["ID", "TIME", "DVID", "DV", "EPRED", "NPD", "NPDE"]
    assert both.table.DVID.tolist() == table.DVID.tolist() and both.tests.ENDPOINT.tolist() == ["y", "z"]
    for name in ("y", "z"):
        rows = np.flatnonzero(sets.endpoint == sets.endpoints.index(name))
        expected = slow_npde(sets.observed[rows], sets.dv[:, rows], sets.subject[rows], "cholesky")
        np.testing.assert_allclose(both.table.NPDE[name == both.table.DVID], expected, atol=1e-9)
        assert (name == dn.npde(sets, endpoint=name).table.DVID).all()
        np.testing.assert_array_equal(
            dn.npde(sets, endpoint=name).simulated, both.simulated[:, name == both.table.DVID]
        )


def test_replicates_that_one_endpoint_has_lost():
    table = pd.concat([pd.DataFrame(dict(ID=i, TIME=[0.0, 0.0, 1.0], DVID=["y", "z", "z"], DV=1.0)) for i in range(5)])
    sets = dn.simulate(Two(), dn.read_nonmem(table), replicates=60)
    dv = sets.dv.copy()
    dv[7, np.flatnonzero(sets.endpoint == 1)[2]] = np.nan
    with pytest.warns(UserWarning, match="1 of 60 replicates have a value that is not a number"):
        found = dn.npde(replace(sets, dv=dv))
    assert found.replicates == 59 and found.simulated.shape == (59, len(table))
    own = dn.npde(sets, endpoint="y").table
    np.testing.assert_array_equal(found.table.NPDE[found.table.DVID == "y"], own.NPDE)


# --- tests of the distribution --------------------------------------------------------------------------------------


def test_tests_are_those_of_the_literature():
    men = np.array([148, 154, 158, 160, 161, 162, 166, 170, 182, 195, 236.0])  # Shapiro and Wilk 1965, W = 0.79
    found = normality_tests(men)
    assert found["SHAPIRO_P"] == pytest.approx(0.0067, abs=1e-4)
    x = np.array([0.4, -1.3, 0.9, 1.7, 2.2, -0.3])
    found = normality_tests(x)
    t = x.mean() / np.sqrt(x.var(ddof=1) / 6)
    assert found["T_P"] == pytest.approx(special.betainc(2.5, 0.5, 5 / (5 + t * t)), rel=1e-10)
    lower = special.gammainc(2.5, 5 * x.var(ddof=1) / 2)
    assert found["FISHER_P"] == pytest.approx(2 * min(lower, 1 - lower), rel=1e-10)
    ranks = np.abs(x).argsort().argsort() + 1
    least = min(ranks[x > 0].sum(), ranks[x < 0].sum())
    every = [ranks[np.array(signs)].sum() for signs in itertools.product([False, True], repeat=6)]
    assert found["WILCOXON_P"] == pytest.approx(2 * np.mean(np.array(every) <= least), rel=1e-10)
    assert found["GLOBAL_P"] == pytest.approx(
        min(1, 3 * min(found[n] for n in ("WILCOXON_P", "FISHER_P", "SHAPIRO_P")))
    )
    assert found["MEAN"] == x.mean() and found["VARIANCE_SE"] == pytest.approx(x.var(ddof=1) * np.sqrt(2 / 5))
    assert np.isnan(normality_tests(x[:2])["GLOBAL_P"])
    many = np.random.default_rng(0).normal(size=20_000)
    assert normality_tests(many, 3)["SHAPIRO_P"] == normality_tests(many, 3)["SHAPIRO_P"] > 0.001


def p_values(model, truth, people, seeds, replicates=600, **arguments):
    """The tests for data of `truth`, one set for each seed, each against its own simulation of `model`."""
    data = dn.simulate(truth, people, replicates=seeds, seed=999).dv
    rows = []
    for i in range(seeds):
        sets = dn.simulate(model, people, replicates=replicates, seed=i)
        rows.append(dn.npde(replace(sets, observed=data[i]), **arguments).tests.iloc[0])
    return pd.DataFrame(rows)


def test_false_alarms_are_as_frequent_as_the_level_says():
    """Of 200 sets 10 are expected below 0.05; 99.9% of binomial counts lie between 2 and 22."""
    p = p_values(Line(), Line(), dn.Population([dn.Subject(i, None, (TIMES, np.ones(4))) for i in range(40)]), 200)
    for name in ("T_P", "WILCOXON_P", "FISHER_P", "SHAPIRO_P"):
        assert 2 <= (p[name] < 0.05).sum() <= 22, name
        assert stats.kstest(p[name], "uniform").pvalue > 1e-3, name
    assert 1 <= (p["GLOBAL_P"] < 0.05).sum() <= 22


def test_without_decorrelation_false_alarms_are_too_frequent():
    people = dn.Population([dn.Subject(i, None, (TIMES, np.ones(4))) for i in range(40)])
    p = p_values(Line(), Line(), people, 60, decorrelation="none")
    assert (p["GLOBAL_P"] < 0.05).mean() > 0.15


@pytest.mark.parametrize(
    ("truth", "column"),
    [
        (Bolus(eta=dn.RandomEffects("cl", "v", omega=[0.36, 0.04])), "FISHER_P"),
        (Bolus(eta=dn.RandomEffects("cl", "v", omega=[0.004, 0.002])), "FISHER_P"),
        (Bolus(sd=0.3), "FISHER_P"),
        (Bolus(sd=0.07), "FISHER_P"),
    ],
    ids=["omega too small", "omega too large", "residual too small", "residual too large"],
)
def test_wrong_variability_is_detected(truth, column):
    p = p_values(Bolus(), truth, bolus_people(80), 10, 500)
    assert (p["GLOBAL_P"] < 0.05).mean() >= 0.9 and (p[column] < 0.05).mean() >= 0.9


class Additive(Bolus):
    """A residual of another form."""

    def observe(self, theta, p, x):
        return dict(cp=dn.Normal(x.central / p.v, 0.8))


class Peripheral(Bolus):
    """Another structure: two compartments."""

    dynamics = dn.TwoCompartment()

    def observe(self, theta, p, x):
        return dict(cp=dn.LogNormal(x.central / p.v1, theta.sd))

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v1=theta.v * exp(eta.v), q=2.0, v2=20.0)


@pytest.mark.parametrize("truth", [Additive(), Peripheral(), Bolus(cl=2.8)], ids=["residual", "structure", "clearance"])
def test_another_model_is_detected(truth):
    p = p_values(Bolus(), truth, bolus_people(40), 10, 500)
    assert (p["GLOBAL_P"] < 0.05).mean() >= 0.9


# --- censored and discrete observations -----------------------------------------------------------------------------


def test_censored_observations_are_left_out():
    people = drawn(Bolus(), bolus_people(30), limit=0.5)
    sets = dn.simulate(Bolus(), people, replicates=60)
    found = dn.npde(sets)
    rows = np.flatnonzero(sets.cens == 0)
    expected = slow_npde(sets.observed[rows], sets.dv[:, rows], sets.subject[rows], "cholesky")
    np.testing.assert_allclose(found.table.NPDE, expected, atol=1e-9)
    assert "CENS" not in found.table and len(found.table) < len(sets.observed)


@pytest.mark.parametrize("side", ["below", "above"])
def test_imputed_observations_lie_beyond_their_limit(side):
    limit = dict(limit=0.5) if side == "below" else dict(upper=6.0)
    people = drawn(Bolus(), bolus_people(30), **limit)
    sets = dn.simulate(Bolus(), people, replicates=400)
    found = dn.npde(sets, blq="cdf").table
    censored = found.CENS.to_numpy() != 0
    assert 0.05 < censored.mean() < 0.5
    beyond = (sets.dv < 0.5).mean(0) if side == "below" else (sets.dv > 6.0).mean(0)
    share = stats.norm.cdf(found.NPD) if side == "below" else 1 - stats.norm.cdf(found.NPD)
    # the simulated values beyond the limit are drawn anew, but stay beyond it
    np.testing.assert_array_less(share[censored], np.maximum(beyond[censored], 1 / 800) + 1e-9)
    plain = dn.npde(sets, decorrelation="none", blq="omit").table
    np.testing.assert_allclose(found.NPD[~censored], plain.NPD, atol=1e-9)
    uniform = stats.kstest(share[censored] / np.maximum(beyond[censored], 1 / 800), "uniform")
    assert uniform.pvalue > 1e-3


def test_imputation_makes_censored_data_normal_where_leaving_out_does_not():
    """Nguyen, Comets, Mentre 2012: leaving a third of the data out biases the errors, imputing does not."""
    imputed, omitted = [], []
    for seed in range(30):
        people = drawn(Bolus(), bolus_people(40), seed=1000 + seed, limit=1.0)
        sets = dn.simulate(Bolus(), people, replicates=500, seed=seed)
        imputed.append(dn.npde(sets, blq="cdf").tests.iloc[0])
        omitted.append(dn.npde(sets).tests.iloc[0])
    imputed, omitted = pd.DataFrame(imputed), pd.DataFrame(omitted)
    assert (imputed.GLOBAL_P < 0.05).sum() <= 7  # 99.9% of binomial counts with n = 30 and p = 0.05 are below
    for name, expected in (("MEAN", 0.0), ("VARIANCE", 1.0)):
        assert stats.ttest_1samp(imputed[name].to_numpy(float), expected).pvalue > 1e-3
    assert stats.ttest_1samp(omitted.MEAN.to_numpy(float), 0.0).pvalue < 1e-4


def test_ties_of_counts_are_broken_at_random():
    people = dn.Population([dn.Subject(i, None, ([1.0], [1.0])) for i in range(300)])
    sets = dn.simulate(Count(), drawn(Count(), people), replicates=1000)
    found = dn.npde(sets, decorrelation="none").table
    low, up = (sets.dv < sets.observed).mean(0), (sets.dv <= sets.observed).mean(0)
    share = stats.norm.cdf(found.NPD)
    assert (share >= low - 1e-9).all() and (share <= up + 1e-9).all() and (up - low).mean() > 0.1
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    assert stats.kstest(low, "uniform").pvalue < 1e-6


def test_imputed_values_come_from_numbers_of_their_own(monkeypatch):
    """Random numbers of the simulation, drawn again, would tie what is imputed to the random effects."""
    used, real = [], np.random.default_rng

    def recorded(key=None):
        used.append(tuple(np.random.SeedSequence(key).generate_state(4)))
        return real(key)

    people = dn.Population([dn.Subject(i, None, ([1.0], [1.0])) for i in range(5)])
    monkeypatch.setattr(np.random, "default_rng", recorded)
    sets = dn.simulate(Count(), people, replicates=20, seed=3)
    simulation = set(used)
    used.clear()
    dn.npde(sets, seed=3)
    assert used and simulation and not simulation & set(used)


# --- what it refuses ------------------------------------------------------------------------------------------------


def test_refusals(oral):
    sets = dn.simulate(oral, oral.population, replicates=30)
    for arguments, message in (
        ({"decorrelation": "polar"}, "`decorrelation`: got 'polar'. It is one of cholesky, inverse, none"),
        ({"blq": "M3"}, "`blq`: got 'M3'. It is one of omit, cdf"),
        ({"endpoint": "cp"}, "`endpoint`: got 'cp'"),
        ({"lloq": 0.1}, "`lloq`: got 0.1. It is for imputation. Use blq='cdf'"),
        ({"seed": -1}, "`seed`: got -1. It is a whole number of at least 0"),
    ):
        with pytest.raises(dn.ModelError, match=message):
            dn.npde(sets, **arguments)
    with pytest.raises(dn.ModelError, match=r"`endpoint`: got 'dv'. The data have no observation of it"):
        dn.npde(replace(sets, observed=np.full(len(sets.time), np.nan)))
    few = dn.simulate(oral, oral.population, replicates=8)
    with pytest.raises(dn.ModelError, match=r"`replicates`: got 8 for subject 1. The covariance of 11 .* Use 1000"):
        dn.npde(few)
    flat = sets.dv.copy()
    flat[:, 0] = 2.0
    with pytest.raises(dn.ModelError, match=r"`covariance`: got a singular one for subject 1.* decorrelation='none'"):
        dn.npde(replace(sets, dv=flat))
    people = drawn(Bolus(), bolus_people(5), limit=1e3)
    with pytest.raises(dn.ModelError, match=r"`blq`: got 'omit' for endpoint cp. None of the observations is left"):
        dn.npde(dn.simulate(Bolus(), people, replicates=30))


def test_the_same_call_gives_the_same_answer(oral):
    first, second = (dn.npde(oral, replicates=40, seed=2) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert not first.table.equals(dn.npde(oral, replicates=40, seed=3).table)
    assert "Wilcoxon" in str(first) and "132 observations" in repr(first)
