"""The path of the lasso against slow minimisers, and the selection on people with known effects."""

import numpy as np
import pytest
from scipy.optimize import minimize

import deepnlme as dn
from covariate_people import QUIET, Bolus, Level, boluses, levels
from deepnlme.covariates.lasso import _simplest
from deepnlme.covariates.lasso_path import group_weights, largest_penalty, path, restricted


def problem(seed, q=6):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((q, 2 * q))
    return rng.standard_normal(q), root @ root.T


def test_path_equals_a_smooth_programme():
    """b = p - n with p, n >= 0 makes the lasso a quadratic programme with bounds."""
    best, h = problem(1)
    groups = [np.array([i]) for i in range(6)]
    weights = group_weights(best, groups, 1.0)
    top = largest_penalty(best, h, groups, weights)
    penalties = top * np.array([1.0, 0.6, 0.3, 0.1, 0.01])

    def slow(penalty):
        def value(s):
            away = s[:6] - s[6:] - best
            slope = 2 * h @ away
            cost = penalty * weights
            return away @ h @ away + cost @ (s[:6] + s[6:]), np.concatenate([slope + cost, cost - slope])

        tight = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 20_000, "maxfun": 50_000}
        s = minimize(value, np.ones(12), jac=True, method="L-BFGS-B", bounds=[(0, None)] * 12, options=tight).x
        return s[:6] - s[6:]

    found = path(best, h, groups, weights, penalties)
    assert not found[0].any() and path(best, h, groups, weights, np.array([0.999 * top])).any()
    for penalty, b in zip(penalties, found, strict=True):
        np.testing.assert_allclose(b, slow(penalty), atol=2e-5)


def test_groups_equal_proximal_steps():
    best, h = problem(2)
    groups = [np.array([0]), np.array([1, 2, 3]), np.array([4, 5])]
    weights = group_weights(best, groups, 1.0)
    top = largest_penalty(best, h, groups, weights)
    step = 0.5 / np.linalg.eigvalsh(h).max()
    for penalty in (0.8 * top, 0.3 * top, 0.05 * top):
        b = np.zeros(6)
        for _ in range(50_000):
            b = b - step * 2 * h @ (b - best)
            for g, w in zip(groups, weights, strict=True):
                length = np.linalg.norm(b[g])
                b[g] *= max(0.0, 1 - step * penalty * w / length) if length else 0.0
        (found,) = path(best, h, groups, weights, np.array([penalty]))
        np.testing.assert_allclose(found, b, atol=1e-9)
        assert [bool(found[g].any()) for g in groups] == [bool(b[g].any()) for g in groups]
    np.testing.assert_allclose(path(best, h, groups, weights, np.array([0.0]))[0], best, rtol=1e-8)


def test_restricted_minimum():
    best, h = problem(3)
    active = np.array([True, False, True, True, False, False])
    b, rise = restricted(best, h, active)

    def value(part):
        away = -best.copy()
        away[active] += part
        return away @ h @ away

    slow = minimize(value, np.zeros(3), method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(b[active], slow.x, rtol=1e-5)
    assert rise == pytest.approx(slow.fun, rel=1e-9) and not b[~active].any()


def test_the_simplest_set_within_one_error():
    """Differences by subject of 1 +- 1: the sum 4 is above one standard error 2, the sum of 1 +- 3 is not."""
    good = [0.0] * 4
    assert _simplest(np.array([[0.0, 2.0, 0.0, 2.0], good])) == 1
    assert _simplest(np.array([[-2.0, 4.0, -2.0, 4.0], good])) == 0


def test_planted_relations_are_found():
    rng = np.random.default_rng(5)
    shared = rng.standard_normal(120)
    x = {f"x{i}": 0.6 * shared + 0.8 * rng.standard_normal(120) for i in range(6)} | {"g": np.array(list("pqr") * 40)}
    population = levels(x, 0.25 * x["x1"] - 0.2 * x["x4"] + 0.4 * (x["g"] == "r"))
    fit = dn.fit(Level(), population, options=QUIET)
    for criterion in ("bic", "cv"):
        found = dn.lasso(fit, criterion=criterion, progress=False)
        assert {t.covariate for t in found.terms} == {"x1", "x4", "g"}
    found = dn.lasso(fit, progress=False)
    full = dn.fit(dn.with_covariates(Level(), {"mu": list(x)}, population), population, options=QUIET)
    chosen = found.steps[found.steps["DECISION"] == "chosen"].iloc[0]
    assert chosen["N"] == 3 and chosen["BIC"] == found.steps["BIC"].min()
    assert chosen["dOFV"] == pytest.approx(found.fit.ofv - full.ofv, rel=0.1, abs=0.1)
    assert list(found.table["SELECTED"][:3]) == [True] * 3
    assert found.fit.estimates["mu_x1"] == pytest.approx(0.25, abs=3 * found.fit.se["mu_x1"])


def test_forms_with_several_coefficients():
    population = boluses(60)
    fit = dn.fit(Bolus(), population, options=QUIET)
    found = dn.lasso(fit, forms={"wt": "piecewise"}, progress=False)
    assert {t.label for t in found.terms} == {"v ~ wt (piecewise)", "cl ~ sex (categorical)"}


def test_on_top_of_relations():
    """Those that the model has are neither candidates nor lost, also where people are kept aside."""
    population = boluses(60)
    fit = dn.fit(dn.with_covariates(Bolus(), {"v": "wt"}, population), population, options=QUIET)
    found = dn.lasso(fit, {"cl": ["sex", "age"], "v": ["wt"]}, criterion="cv", folds=3, progress=False)
    assert [t.label for t in found.terms] == ["cl ~ sex (categorical)"] and len(found.table) == 2
    assert {"v_wt", *found.terms[0].names} <= set(found.fit.estimates) and found.fit.ofv < fit.ofv - 10
    assert found.steps["HELD OUT"].iloc[-1] == pytest.approx(found.fit.ofv, rel=0.2)


def test_mistakes():
    x = {"a": np.arange(1.0, 13.0), "b": 2.0 * np.arange(1.0, 13.0), "c": np.array(list("pq") * 6)}
    fit = dn.fit(Level(), levels(x, np.zeros(12)), options=QUIET)
    for change, error, message in (
        ({}, dn.DataError, "got a and b, correlated by 1.000000 for mu. They say the same. Leave one out."),
        ({"criterion": "aic"}, dn.ModelError, "Invalid `criterion`: got 'aic'"),
        ({"folds": 40}, dn.ModelError, "Invalid `folds`: got 40. It is a whole number from 2 to 12"),
        ({"power": -1}, dn.ModelError, "Invalid `power`"),
        ({"forms": {"a": ("power", "linear")}}, dn.ModelError, "got several of one relation"),
    ):
        with pytest.raises(error) as caught:
            dn.lasso(fit, progress=False, **change)
        assert message in str(caught.value)
    rng = np.random.default_rng(1)
    many = {f"x{i}": rng.standard_normal(10) for i in range(12)}
    fit = dn.fit(Level(), levels(many, np.zeros(10)), options=QUIET)
    with pytest.raises(dn.ModelError, match=r"got 12 coefficients\. .* there are 10\. Give fewer candidates"):
        dn.lasso(fit, progress=False)
