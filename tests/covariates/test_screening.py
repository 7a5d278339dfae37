"""Screening of EBEs against scipy's tests, and that shrinkage does not dilute effects."""

import math

import numpy as np
import pytest
from scipy.stats import binom, f_oneway, linregress, spearmanr

import deepnlme as dn
from covariate_people import QUIET, Level, levels
from deepnlme.covariates.effect_regression import _least_squares
from deepnlme.covariates.screening import holm
from deepnlme.covariates.targets import effect_targets


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
    np.testing.assert_allclose(found[0], b, rtol=1e-7)
    np.testing.assert_allclose(found[1], rest / 54 * np.linalg.inv(normal), rtol=1e-7)
    assert found[2] == 54


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
