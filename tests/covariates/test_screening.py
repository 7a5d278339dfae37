"""Screening of EBEs against scipy's tests, and that shrinkage does not dilute effects."""

import math

import numpy as np
import pytest
from scipy.stats import f_oneway, linregress, spearmanr

import deepnlme as dn
from covariate_people import QUIET, Level, levels
from deepnlme.covariates.screening import holm, weighted_regression


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


def test_weights_are_those_of_repeated_subjects():
    """Whole weights equal as many copies; slopes only, since copies pretend to more degrees of freedom."""
    rng = np.random.default_rng(1)
    weight, x, y = rng.integers(1, 5, 30), rng.standard_normal(30), rng.standard_normal(30)
    found = weighted_regression(y * weight / 4, weight / 4, x[:, None])
    copies = linregress(np.repeat(x, weight), np.repeat(y, weight))
    assert found.slopes[0] == pytest.approx(copies.slope, rel=1e-10)
    assert found.r2 == pytest.approx(copies.rvalue**2, rel=1e-10)


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
