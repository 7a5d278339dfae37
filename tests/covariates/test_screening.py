"""Screening of EBEs against scipy's tests, and that shrinkage does not dilute effects."""

import math

import numpy as np
import pytest
from scipy.stats import binom, f_oneway, linregress, spearmanr
from scipy.stats import t as student
from torch import exp

import deepnlme as dn
from covariate_people import QUIET, Bolus, Level, boluses, levels
from deepnlme.covariates.augment_regression import Task, train
from deepnlme.covariates.effect_regression import _least_squares, regression, whitened
from deepnlme.covariates.screening import holm
from deepnlme.covariates.targets import Block, EffectTargets, effect_targets


def people(seed=4):
    rng = np.random.default_rng(seed)
    x = {"a": rng.standard_normal(40), "b": rng.standard_normal(40), "g": np.array(list("pqrp") * 10)}
    return x, levels(x, 0.25 * x["a"])


def test_equals_the_classical_tests():
    """With as many observations of each subject, all weights are equal: plain regression and analysis of variance."""
    x, population = people()
    fit = dn.fit(Level(), population, options=QUIET)
    eta = fit.ebes.eta[:, 0]
    found = dn.screen(fit)
    p = dict(zip(found.steps["RELATION"], found.steps["P"], strict=True))
    assert p["mu ~ a (exponential)"] == pytest.approx(linregress(x["a"], eta).pvalue, rel=1e-8)
    assert p["mu ~ b (exponential)"] == pytest.approx(linregress(x["b"], eta).pvalue, rel=1e-8)
    groups = [eta[x["g"] == label] for label in "pqr"]
    assert p["mu ~ g (categorical)"] == pytest.approx(f_oneway(*groups).pvalue, rel=1e-8)
    table = found.table.set_index("COVARIATE")
    assert table.loc["a", "SCORE"] == pytest.approx(linregress(x["a"], eta).rvalue ** 2, rel=1e-8)
    assert table.index[0] == "a" and list(table["SELECTED"]) == [True, False, False]
    assert found.relations == {"mu": [dn.Relation("a", "exponential")]}
    ranks = dn.screen(fit, test="spearman").steps.set_index("RELATION")["P"]
    assert ranks["mu ~ b (exponential)"] == pytest.approx(spearmanr(x["b"], eta).pvalue, rel=1e-10)
    with pytest.raises(dn.ModelError, match="This method fits no model"):
        _ = found.model


def test_the_regression_is_generalised_least_squares():
    """Against dense matrices, each subject's V inverted."""
    rng, targets = np.random.default_rng(1), effect_targets(dn.evaluate_ofv(Line(), lines(2, 30, every=1)))
    x = rng.standard_normal((30, 2))
    found = _least_squares(targets, np.column_stack([np.ones(30), x]), targets.omega)
    normal, right, designs = np.zeros((6, 6)), np.zeros(6), []
    for i in range(30):
        v = np.linalg.inv(targets.precision[i])
        y, weight = v @ targets.information[i], np.linalg.inv(targets.omega + v)
        design = np.kron(np.eye(2), np.array([1.0, *x[i]]))
        normal, right = normal + design.T @ weight @ design, right + design.T @ weight @ y
        designs.append((y, weight, design))
    b = np.linalg.solve(normal, right)
    rest = sum((y - d @ b) @ w @ (y - d @ b) for y, w, d in designs)
    np.testing.assert_allclose(found.b, b, rtol=1e-7)
    np.testing.assert_allclose(found.covariance, rest / 54 * np.linalg.inv(normal), rtol=1e-7)
    assert found.df == 54 and found.determined.all()


def test_rows_are_the_inverse_variance():
    """W'W = (Omega + V)^-1, W'y = (Omega + V)^-1 y, also where a direction is unknown or Omega is next to nothing."""
    targets = effect_targets(dn.evaluate_ofv(Line(), lines(2, 9, every=3)))  # six of nine know only a + b t
    for omega in (targets.omega, np.diag([1e-13, 0.4]), np.array([[1.0, 1.0], [1.0, 1.0]])):
        y, w, subject = whitened(targets, omega)
        assert len(y) == 3 * 2 + 6
        for i in range(9):
            own, v = w[subject == i], np.linalg.pinv(targets.precision[i], rcond=1e-9)
            seen = targets.precision[i] @ v
            far = seen @ np.linalg.inv(np.linalg.inv(targets.precision[i] + 1e-9 * np.eye(2)) + omega) @ seen.T
            np.testing.assert_allclose(own.T @ own, far, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(own.T @ y[subject == i], far @ v @ targets.information[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("omega", [2e-10, 1e-6, 1e-3, 0.01, 0.1])
def test_a_covariate_stays_with_its_parameter_whatever_omega(omega):
    """v goes with weight, cl does not vary; how small the fit has made its variance must not decide."""
    rng, times, subjects = np.random.default_rng(3), np.array([0.5, 2.0, 6.0, 12.0]), []
    for i in range(60):
        wt = 70 * np.exp(0.2 * rng.standard_normal())
        v = 50.0 * wt / 70.0 * np.exp(0.15 * rng.standard_normal())
        y = 100.0 / v * np.exp(-5.0 / v * times + 0.1 * rng.standard_normal(4))
        subjects.append(dn.Subject(i + 1, dn.Dose(100.0), (times, y), {"wt": wt}))
    model = Bolus().replace(eta=dn.RandomEffects("cl", "v", omega=[omega, 0.05]), sd=dn.Positive(0.1))
    found = dn.screen(dn.evaluate_ofv(model, dn.Population(subjects))).table.set_index("PARAMETER")
    assert found.loc["v", "P"] < 1e-10 and found.loc["v", "EFFECT"] == pytest.approx(1.9, abs=0.35)
    assert found.loc["cl", "P"] > 0.01 and found.loc["cl", "EFFECT"] == pytest.approx(1.0, abs=0.12)


def test_effects_that_vary_together():
    """Clearance and volume over the same bioavailability: a covariate of it acts on both."""
    rng, times, subjects = np.random.default_rng(6), np.array([0.5, 2.0, 6.0, 12.0]), []
    for i in range(60):
        x = rng.standard_normal()
        f = np.exp(0.2 * x + 0.2 * rng.standard_normal())
        y = 100.0 * f / 50.0 * np.exp(-0.1 * times + 0.1 * rng.standard_normal(4))
        subjects.append(dn.Subject(i + 1, dn.Dose(100.0), (times, y), {"x": x}))
    block = [[0.08, 0.08 * 0.999999], [0.08 * 0.999999, 0.08]]
    model = Bolus().replace(eta=dn.RandomEffects("cl", "v", omega=block, block=True), sd=dn.Positive(0.1))
    found = dn.screen(dn.evaluate_ofv(model, dn.Population(subjects))).table.set_index("PARAMETER")
    assert (found["P"] < 1e-4).all() and np.log(found["EFFECT"]).between(-0.95, -0.4).all()  # -0.2 * 3.3


class Oral(Bolus):
    """With a ka that nothing shows, as doses are intravenous."""

    ka = dn.Positive(1.0, fixed=True)
    eta = dn.RandomEffects("ka", "cl", "v", omega=0.1)

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), **super().individual(theta, eta, cov))


BLOCK = [[0.1, 0.03, 0.02], [0.03, 0.12, 0.05], [0.02, 0.05, 0.09]]


@pytest.mark.parametrize("block", [False, True])
def test_what_the_data_do_not_tell_is_not_tested_and_spoils_nothing(block):
    """In a block Omega information that is not there is a rounding error, which must not count for any."""
    population = boluses(60)
    plain, oral = Bolus(), Oral()
    if block:
        known = np.array(BLOCK)[1:, 1:].tolist()
        plain = plain.replace(eta=dn.RandomEffects("cl", "v", omega=known, block=True))
        oral = oral.replace(eta=dn.RandomEffects("ka", "cl", "v", omega=BLOCK, block=True))
    plain, more = dn.evaluate_ofv(plain, population), dn.evaluate_ofv(oral, population)
    expected = dn.screen(plain, ["wt", "sex"]).steps.set_index("RELATION")["P"]
    found = dn.screen(more, ["wt", "sex"])
    p = found.steps.set_index("RELATION")["P"]
    np.testing.assert_allclose(np.log(p[expected.index]), np.log(expected), rtol=0.02, atol=0.05)
    x = np.random.default_rng(1).standard_normal((60, 1))
    for one in effect_targets(more), effect_targets(plain):
        df = {n: r.df for n, r in zip(one.names, regression(one, x), strict=True)}
        assert df["v"] > 55 and df.get("ka", 0) == 0
    assert p[["ka ~ wt (power)", "ka ~ sex (categorical)"]].isna().all() and expected["v ~ wt (power)"] < 1e-6
    assert not any(term.parameter == "ka" for term in found.terms)
    assert any("not tested" in note and "ka ~ wt (power), ka ~ sex (categorical)" in note for note in found.notes)


def later(population, covariate, changes):
    """The people with other values of a covariate at their last record."""
    r = population.records
    values = r.covariates[covariate].copy()
    values[population.starts[1:][: len(changes)] - 1] = changes
    return population.with_records(type(r)(**dict(r.columns()), covariates={**r.covariates, covariate: values}))


def test_levels_and_values_that_nobody_begins_with():
    rng = np.random.default_rng(2)
    g = rng.choice([0.0, 1.0], 60)
    population = levels({"g": g, "c": np.full(60, 1.0), "same": g}, 0.5 * g)
    population = later(later(population, "g", [2.0]), "c", [1.5] * 30)
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.screen(fit, {"mu": [dn.Relation("g", "categorical"), dn.Relation("c", "exponential")]})
    alone = dn.screen(fit, {"mu": [dn.Relation("same", "categorical")]}).table.iloc[0]
    table = found.table.set_index("COVARIATE")
    assert table.loc["g", "EFFECT"] == pytest.approx(alone["EFFECT"]) and table.loc["g", "SELECTED"]
    assert table.loc["g", "P"] == pytest.approx(alone["P"]) and math.isnan(table.loc["c", "P"])
    assert not table.loc["c", "SELECTED"]
    assert "warning: c is not tested: all subjects begin with the same value" in found.notes
    learned = dn.attribute(fit, {"mu": [dn.Relation("g", "categorical")]}, refits=2, progress=False)
    ratio = learned.table["EFFECT"][0]  # not the square, which is what an unseen 2 would have
    assert math.log(ratio) == pytest.approx(math.log(alone["EFFECT"]), rel=0.3)
    with pytest.raises(dn.DataError, match="Invalid `c`: got 1 for all 60 subjects"):
        dn.attribute(fit, ["c"], refits=0, progress=False)
    left = dn.attribute(
        dn.fit(Level(), later(levels({"g": g, "c": np.full(60, 1.0)}, 0.5 * g), "c", [2.0]), options=QUIET),
        refits=0,
        progress=False,
    )
    assert "warning: c is left out: all subjects begin with the same value" in left.notes


def routes(level, seed=5, n=90):
    """Lines, of which those of one group are observed at time 0 only: they say nothing of b."""
    rng, subjects = np.random.default_rng(seed), []
    for i in range(n):
        group, z, e = "pqr"[i % 3], rng.standard_normal(), rng.standard_normal(2)
        times = np.zeros(1) if group == level else np.arange(4.0)
        shift = 1.5 if group == "q" else 0.0
        values = 5 + shift + 0.7 * e[0] + (2 + shift + 0.6 * e[1]) * times + 0.3 * rng.standard_normal(len(times))
        subjects.append(dn.Subject(i + 1, None, (times, values), {"group": group, "z": z}))
    return dn.Population(subjects)


@pytest.mark.parametrize("level", ["p", "r"])
def test_a_level_that_says_nothing_of_an_effect(level):
    """p is the reference: without it no contrast of b is known; without r that of q is."""
    model = Line().replace(eta=dn.RandomEffects("a", "b", omega=[0.5, 0.4]))
    found = dn.screen(dn.evaluate_ofv(model, routes(level)))
    p = found.steps.set_index("RELATION")["P"]
    assert p["a ~ group (categorical)"] < 1e-6 and (p[["a ~ z (exponential)", "b ~ z (exponential)"]] > 0.01).all()
    known = p["b ~ group (categorical)"]
    assert known < 1e-6 if level == "r" else math.isnan(known)
    assert any("b ~ group (categorical)" in note for note in found.notes) == (level == "p")


@pytest.mark.parametrize("uneven", [False, True])
def test_a_level_that_says_nothing_of_an_effect_of_a_block(uneven):
    """The order in which effects are declared decides nothing: rounding is no information."""
    rng, subjects = np.random.default_rng(5), []
    for i in range(90):
        group, e = "pqr"[i % 3], rng.standard_normal(2)
        times = np.zeros(rng.integers(1, 6) if uneven else 1) if group == "r" else np.arange(4.0)
        y = 5 + 1.5 * (group == "r") + 0.7 * e[0] + (2 + 0.6 * e[1]) * times + 0.3 * rng.standard_normal(len(times))
        subjects.append(dn.Subject(i + 1, None, (times, y), {"group": group}))
    population, omega, found = dn.Population(subjects), np.array([[1.1, 0.25], [0.25, 0.4]]), []
    for names, order in ((("a", "b"), [0, 1]), (("b", "a"), [1, 0])):
        model = Line().replace(eta=dn.RandomEffects(*names, omega=omega[np.ix_(order, order)], block=True))
        fit = dn.evaluate_ofv(model, population)
        group = np.arange(90) % 3
        both = regression(effect_targets(fit), np.column_stack([group == 1, group == 2]).astype(float))
        found.append([both[i] for i in order])
        table = dn.screen(fit).table.set_index("PARAMETER")
        assert table.loc["a", "SELECTED"] and math.isfinite(table.loc["b", "HIGH"])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(other.slopes, one.slopes, rtol=1e-4)
        np.testing.assert_allclose(other.covariance, one.covariance, rtol=1e-3)
        assert other.p == pytest.approx(one.p, rel=1e-2)
    assert found[1][0].p < 1e-5 and np.isnan(found[1][1].slopes).tolist() == [False, True]


def test_few_subjects_that_tell_effects_apart_are_a_warning():
    few = dn.screen(dn.evaluate_ofv(Line(), lines(2, 80, every=16)))
    assert any(note.startswith("warning: effectively") and "of 80 subjects inform b" in note for note in few.notes)
    ranks = dn.screen(dn.evaluate_ofv(Line(), lines(2, 80, every=16)), test="spearman")
    many = dn.screen(dn.evaluate_ofv(Line(), lines(2, 80, every=2)))
    assert not any("inform" in note for note in ranks.notes)
    assert not any("inform" in note for note in many.notes)


def told(omega, precision, information):
    """Targets from what the data of each subject say."""
    k = len(omega)
    effects = dn.RandomEffects(k, omega=omega, block=k > 1)
    block, none = Block("eta", tuple("abc"[:k]), tuple(range(k)), effects), np.zeros(information.shape)
    return EffectTargets((block,), tuple(range(len(precision))), precision, information, none, none)


@pytest.mark.parametrize("k", [1, 2])
def test_nothing_known_and_nothing_there(k):
    x, omega = np.random.default_rng(1).standard_normal((30, 1)), np.eye(k) + 0.3
    for found in regression(told(omega, np.zeros((30, k, k)), np.zeros((30, k))), x):
        assert found.df == 0 and math.isnan(found.p) and np.isnan(found.slopes).all()
    known = np.broadcast_to(np.eye(k), (30, k, k)).copy()
    for found in regression(told(omega, known, np.zeros((30, k))), x):  # effects of exactly zero
        assert found.p == 1.0 and found.r2 == 0.0


def test_subjects_with_good_data_decide_alone():
    """20 people of 60 know their effect, of which the covariate explains 90 %: the other 40 do not blur that."""
    covered, r2 = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        x, v = rng.standard_normal((60, 1)), np.where(np.arange(60) < 20, 0.01, 5.0)
        y = 0.95 * x[:, 0] + np.sqrt(0.1 + v) * rng.standard_normal(60)
        (found,) = regression(told(np.eye(1), 1 / v[:, None, None], (y / v)[:, None]), x)
        away = student.ppf(0.95, found.df) * math.sqrt(found.covariance[0, 0])
        covered.append(abs(found.slopes[0] - 0.95) < away)
        r2.append(found.r2)
        assert 20 < found.people < 40 and away < 0.3
    assert binom.cdf(sum(covered), 150, 0.9) > 0.005 and np.median(r2) > 0.8


def test_a_covariate_that_explains_everything():
    """Three people of 60 have good data, and all the weight once nothing is left to explain; P is no less for that."""
    p = []
    for seed in range(60):
        rng, v = np.random.default_rng(seed), np.where(np.arange(60) < 3, 0.001, 0.5)
        x = rng.standard_normal((60, 1))
        y = x[:, 0] + np.sqrt(v) * rng.standard_normal(60)
        (found,) = regression(told(np.eye(1), 1 / v[:, None, None], (y / v)[:, None]), x)
        p.append(found.p)
    assert max(p) < 1e-4


@pytest.mark.parametrize("unit", [1e-6, 1e3])
def test_the_unit_of_an_effect_decides_nothing(unit):
    rng, scale = np.random.default_rng(3), np.array([1.0, unit])
    omega = np.array([[0.5, 0.2], [0.2, 0.4]])
    root = rng.standard_normal((40, 2, 2))
    precision = root @ root.swapaxes(1, 2) + 0.5 * np.eye(2)
    x = rng.standard_normal((40, 1))
    eta = np.column_stack([0.5 * x[:, 0], 0 * x[:, 0]]) + rng.standard_normal((40, 2)) @ np.linalg.cholesky(omega).T
    h = np.einsum("skl,sl->sk", precision, eta) + np.einsum(
        "skl,sl->sk", np.linalg.cholesky(precision), rng.standard_normal((40, 2))
    )
    square = np.outer(scale, scale)
    one, other = told(3.0 * omega, precision, h), told(3.0 * omega * square, precision / square, h / scale)
    for a, b in zip(regression(one, x), regression(other, x), strict=True):
        assert b.p == pytest.approx(a.p, rel=1e-3) and b.df == pytest.approx(a.df, rel=1e-3)
    network = dn.MLP(1, (), 2, prior=dn.L2(1.0))
    (_, first), (_, second) = (train(Task(x, targets, (0, 1), 0, 1), network) for targets in (one, other))
    np.testing.assert_allclose(second / square, first, rtol=1e-2, atol=1e-3)


def test_an_effect_that_few_people_inform():
    """b is known from 8 of 100 people: its p-values have the residuals of 8."""
    p = {"a": [], "b": []}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x, subjects = rng.standard_normal((100, 10)), []
        for i in range(100):
            times, e = np.arange(4.0) if i < 8 else np.zeros(3), rng.standard_normal(2) * [0.7, 0.6]
            y = 5 + e[0] + (2 + e[1]) * times + 0.05 * rng.standard_normal(len(times))
            subjects.append(dn.Subject(i + 1, None, (times, y)))
        model = Line().replace(eta=dn.RandomEffects("a", "b", omega=[0.5, 0.4]), sd=dn.Positive(0.05, fixed=True))
        targets = effect_targets(dn.evaluate_ofv(model, dn.Population(subjects)))
        for j in range(10):
            one, other = regression(targets, x[:, [j]])
            assert 90 < one.df <= 98 and 5 < other.df < 7
            p["a"].append(one.p)
            p["b"].append(other.p)
    for found in map(np.array, p.values()):  # of 300
        assert np.sum(found < 0.05) <= 27 and np.sum(found < 0.01) <= 9 and np.sum(found < 0.001) <= 2
        assert np.sum(found < 0.5) >= 115


class Four(dn.Model):
    """Four levels, each observed by itself."""

    a, b, c, d, sd = dn.Real(0.0), dn.Real(0.0), dn.Real(0.0), dn.Real(0.0), dn.Positive(0.01, fixed=True)
    eta = dn.RandomEffects("a", "b", "c", "d", omega=0.09)

    def individual(self, theta, eta, cov):
        return {n: theta[n] + eta[n] for n in "abcd"}

    def observe(self, theta, p, x):
        t = x.time
        return dict(dv=dn.Normal(p.a * (t == 0) + p.b * (t == 1) + p.c * (t == 2) + p.d * (t == 3), theta.sd))


def test_several_effects_of_few_people_have_nominal_p_values():
    """Each of four effects that are known well has the residuals of 12 people to be judged by, not all of them."""
    p = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        eta, x = 0.3 * rng.standard_normal((12, 4)), rng.standard_normal((12, 5))
        people = [dn.Subject(i + 1, None, (np.arange(4.0), eta[i])) for i in range(12)]
        targets = effect_targets(dn.evaluate_ofv(Four(), dn.Population(people)))
        for j in range(5):
            found = regression(targets, x[:, [j]])
            p += [one.p for one in found]
            assert all(one.df == pytest.approx(10.0) for one in found)
    p = np.array(p)
    assert np.mean(p < 0.01) < 0.02 and 0.03 < np.mean(p < 0.05) < 0.07


def test_sparse_subjects_do_not_dilute_effects():
    """A true effect of 1 comes back; a plain regression of the EBEs gives much less."""
    rng = np.random.default_rng(7)
    x = rng.choice([-1.0, 1.0], 400)
    each = np.where(np.arange(400) % 4 == 0, 8, 1)
    population = levels({"x": x}, 0.5 * x, each=each, omega=0.16, sd=0.8, seed=3)
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.screen(fit, {"mu": [dn.Relation("x", "exponential")]})
    row = found.table.iloc[0]
    assert math.log(row["LOW"]) < 1.0 < math.log(row["HIGH"]) and abs(math.log(row["EFFECT"]) - 1.0) < 0.12
    assert 2 * linregress(x, fit.ebes.eta[:, 0]).slope < 0.75


class Line(dn.Model):
    """A line per subject; a subject with one observation says a + b t alone."""

    a, b, sd = dn.Real(5.0), dn.Real(2.0), dn.Positive(0.3, fixed=True)
    eta = dn.RandomEffects("a", "b", omega=[[1.1, 0.25], [0.25, 0.4]], block=True)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a, b=theta.b + eta.b)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a + p.b * x.time, theta.sd))


def lines(seed, n=80, every=3):
    """A covariate acts on a; two thirds of the subjects have a single, early observation."""
    rng, subjects = np.random.default_rng(seed), []
    for i in range(n):
        x = rng.standard_normal()
        e = np.linalg.cholesky([[0.5, 0.25], [0.25, 0.4]]) @ rng.standard_normal(2)
        times = np.sort(rng.uniform(0, 3, 4)) if i % every == 0 else rng.uniform(0, 0.5, 1)
        values = 5 + 0.8 * x + e[0] + (2 + e[1]) * times + 0.3 * rng.standard_normal(len(times))
        subjects.append(dn.Subject(i + 1, None, (times, values), {"x": x}))
    return dn.Population(subjects)


def test_a_covariate_of_one_parameter_is_not_found_on_another():
    """The EBEs of b go with those of a, and so with x, where a subject's data do not tell a from b."""
    p, naive, slopes = [], [], []
    for seed in range(15):
        fit = dn.evaluate_ofv(Line(), lines(seed))
        found = dn.screen(fit).table.set_index("PARAMETER")
        p.append(dn.screen(fit).steps["P"][1])
        x = fit.population.records.covariates["x"][fit.population.starts[:-1]]
        slopes.append(5.0 * math.log(found.loc["a", "EFFECT"]) / np.subtract(*np.quantile(x, [0.95, 0.05])))
        naive.append(linregress(x, fit.ebes.eta[:, 1]).pvalue)
    assert np.sum(np.array(naive) < 0.01) > 10  # EBEs as they are
    assert np.sum(np.array(p) < 0.05) <= binom.ppf(0.999, 15, 0.05)
    assert abs(np.mean(slopes) - 0.8) < 0.08 and np.std(slopes) < 0.14


def test_effects_that_are_not_log_normal_are_ratios_to_first_order():
    fit = dn.evaluate_ofv(Line(), lines(3, 400))
    found = dn.screen(fit, {"a": ["x"]})
    x = fit.population.records.covariates["x"][fit.population.starts[:-1]]
    low, high = np.quantile(x, [0.05, 0.95])
    slope = math.log(found.table["EFFECT"][0]) / (high - low) * 5.0
    assert abs(slope - 0.8) < 0.25  # a = 5 + 0.8 x; taken for log-normal it would be 4
    assert "a is not log-normal: its EFFECT is to first order" in found.notes


class Centred(Line):
    """a is near zero: no ratio says what a covariate does to it."""

    a = dn.Real(0.01)


def test_parameters_around_zero_have_no_ratio():
    people = [
        dn.Subject(s.id, None, (s.time, s.dv - 5.0), {"x": float(s.covariates["x"][0])}) for s in lines(3, 200, every=1)
    ]
    fit = dn.evaluate_ofv(Centred(), dn.Population(people))
    found = dn.screen(fit, {"a": ["x"], "b": ["x"]})
    table = found.table.set_index("PARAMETER")
    assert table.loc["a", "P"] < 1e-6 and math.isnan(table.loc["a", "EFFECT"]) and np.isfinite(table.loc["b", "EFFECT"])
    assert "a varies around zero: there is no EFFECT as a ratio" in found.notes
    learned = dn.attribute(fit, {"a": ["x"]}, network=dn.MLP(1, (), 1), refits=2, permutations=100, progress=False)
    assert math.isnan(learned.table["EFFECT"][0]) and learned.terms


def test_nominal_false_positives_with_sparse_subjects():
    p, warned = [], 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        x = {f"x{i}": rng.standard_normal(60) for i in range(8)}
        each = np.where(np.arange(60) % 3 == 0, 6, 1)
        fit = dn.fit(Level(), levels(x, np.zeros(60), each=each, sd=0.5, seed=seed), options=QUIET)
        found = dn.screen(fit)
        p += found.steps["P"].tolist()
        high = fit.shrinkage["mu"] > 30
        warned += high
        assert any("shrinkage of mu is" in note for note in found.notes) == high
    assert warned > 0 and 1 <= np.sum(np.array(p) < 0.05) <= 21  # binomial(200, 0.05), 99.9 %
    assert 72 <= np.sum(np.array(p) < 0.5) <= 128


def test_holm():
    """The example of Holm's step-down procedure, worked by hand."""
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.5])), [0.09, 0.04, 0.09, 0.5])


def test_mistakes():
    _, population = people()
    fit = dn.fit(Level(), population, options=QUIET)
    for change, message in (
        ({"level": 2}, "Invalid `level`: got 2"),
        ({"test": "t"}, "Invalid `test`: got 't'. It is one of regression, spearman"),
        ({"candidates": {"sd": ["a"]}}, "Invalid `candidates`: got 'sd'"),
    ):
        with pytest.raises(dn.ModelError) as caught:
            dn.screen(fit, **change)
        assert message in str(caught.value)
