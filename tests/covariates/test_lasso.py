"""The path of the lasso against slow minimisers, and the selection on people with known effects."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import deepnlme as dn
from covariate_people import QUIET, Bolus, Level, boluses, levels
from deepnlme.covariates import lasso_quadratic
from deepnlme.covariates.lasso_folds import Fold, simplest
from deepnlme.covariates.lasso_newton import Place
from deepnlme.covariates.lasso_path import group_weights, largest_penalty, minimiser, path, restricted, size, within
from deepnlme.covariates.lasso_trail import Rule, Trail, nothing, problem, walk
from deepnlme.covariates.selection import candidates_of


def problem_of(seed, q=6):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((q, 2 * q))
    return rng.standard_normal(q), root @ root.T


def test_path_equals_a_smooth_programme():
    """b = p - n with p, n >= 0 makes the lasso a quadratic programme with bounds."""
    best, h = problem_of(1)
    groups = [np.array([i]) for i in range(6)]
    weights = group_weights(best, groups, 1.0)
    top = largest_penalty(2 * h @ best, groups, weights)
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
    best, h = problem_of(2)
    groups = [np.array([0]), np.array([1, 2, 3]), np.array([4, 5])]
    weights = group_weights(best, groups, 1.0)
    top = largest_penalty(2 * h @ best, groups, weights)
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
    best, h = problem_of(3)
    active = np.array([True, False, True, True, False, False])
    b, rise = restricted(best, h, active)

    def value(part):
        away = -best.copy()
        away[active] += part
        return away @ h @ away

    slow = minimize(value, np.zeros(3), method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(b[active], slow.x, rtol=1e-5)
    assert rise == pytest.approx(slow.fun, rel=1e-9) and not b[~active].any()


def test_groups_left_out_or_free():
    best, h = problem_of(4)
    groups = [np.array([0, 1]), np.array([2]), np.array([3, 4, 5])]
    active = np.array([True, True, False, True, True, True])
    right, start = h @ best, np.ones(6)
    found = minimiser(right, h, groups, np.array([0.0, np.inf, 0.0]), start)
    np.testing.assert_allclose(found, restricted(best, h, active)[0], rtol=1e-10)
    found = minimiser(right, h, groups, np.array([0.0, np.inf, 1.0]), start)
    slope, length = 2 * (h @ found - right), np.linalg.norm(found[3:])
    assert found[2] == 0.0 and length > 0
    np.testing.assert_allclose(slope[:2], 0.0, atol=1e-9)
    np.testing.assert_allclose(slope[3:], -found[3:] / length, atol=1e-9)


def test_a_size_instead_of_a_penalty():
    """The multiplier of the bound is the penalty that leads to the same size; next to none if the bound is far away."""
    best, h = problem_of(5)
    groups, weights = [np.array([0]), np.array([1, 2, 3]), np.array([4, 5])], np.array([1.0, 2.0, 0.5])
    for share in (0.9, 0.3, 0.01):
        penalty = share * largest_penalty(2 * h @ best, groups, weights)
        expected = minimiser(h @ best, h, groups, penalty * weights, np.zeros(6))
        bound = size(expected, groups, weights)
        for guess in (1e-3 * penalty, penalty, 50.0 * penalty):
            found, multiplier = within(h @ best, h, groups, weights, bound, (np.zeros(6), guess))
            assert multiplier == pytest.approx(penalty, rel=1e-6)
            np.testing.assert_allclose(found, expected, atol=1e-7)
    found, multiplier = within(h @ best, h, groups, weights, 2 * size(best, groups, weights), (best, 1.0))
    assert multiplier == pytest.approx(1e-6 * largest_penalty(2 * h @ best, groups, weights))
    np.testing.assert_allclose(found, best, atol=1e-4)


def test_the_simplest_set_within_one_error():
    """Differences by subject of 1 +- 1: the sum 4 is above one standard error 2, the sum of 1 +- 3 is not."""
    good = [0.0] * 4
    assert simplest(np.array([[0.0, 2.0, 0.0, 2.0], good])) == 1
    assert simplest(np.array([[-2.0, 4.0, -2.0, 4.0], good])) == 0


def lasso_people(n=60, q=5, seed=11):
    """People of `Level` with correlated covariates, two of which have an effect."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(n)
    x = {f"x{i}": 0.5 * shared + 0.9 * rng.standard_normal(n) for i in range(q)}
    return levels(x, 0.2 * x["x0"] - 0.12 * x["x3"], seed=seed)


def exact_lasso(population, penalties):
    """Minimisers of -2 log L + lambda |b|_1 of `Level`, where log y is multivariate normal; b per SD of x.

    b = p - n with p, n >= 0 makes it smooth with bounds. Returns -2 log L, and b, for every lambda.
    """
    r = population.records
    y = np.log(r.dv).reshape(len(population), -1)
    x = np.stack([r.covariates[n][population.starts[:-1]] for n in population.covariates], 1)
    x = (x - np.median(x, 0)) / x.std(0)
    n, m, q = *y.shape, x.shape[1]
    means, within = y.mean(1), float(np.sum((y - y.mean(1, keepdims=True)) ** 2))

    def minus2(v):
        """-2 log L (without constants) and its gradient in log mu, log sd, log omega, b."""
        s2, w2 = np.exp(2 * v[1]), np.exp(v[2])
        total = w2 + s2 / m
        e = means - v[0] - x @ v[3:]
        value = n * np.log(total) + e @ e / total + n * (m - 1) * 2 * v[1] + within / s2 + n * np.log(m)
        by_total = n / total - e @ e / total**2
        by_sd = by_total * 2 * s2 / m + 2 * n * (m - 1) - 2 * within / s2
        return value, np.array([-2 * e.sum() / total, by_sd, by_total * w2, *(-2 * x.T @ e / total)])

    out, start = [], np.concatenate([[means.mean(), np.log(0.2), np.log(0.1)], np.zeros(2 * q)])
    bounds = [(None, None)] * 3 + [(0, None)] * (2 * q)
    for penalty in penalties:

        def value(s, penalty=penalty):
            found, slope = minus2(np.concatenate([s[:3], s[3 : 3 + q] - s[3 + q :]]))
            more = np.concatenate([slope, -slope[3:]])
            more[3:] += penalty
            return found + penalty * s[3:].sum(), more

        tight = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5_000}
        start = minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds, options=tight).x
        b = start[3 : 3 + q] - start[3 + q :]
        out.append((minus2(np.concatenate([start[:3], b]))[0], b))
    gradient = minus2(np.concatenate([start[:3] * 0 + start[:3], np.zeros(q)]))[1]
    return np.array([v for v, _ in out]), np.stack([b for _, b in out]), gradient


def test_path_equals_the_closed_form_likelihood():
    """Everything but the lasso's own arithmetic is known here: the OFV, its slopes, and where relations enter."""
    population = lasso_people()
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.lasso(fit, power=0, progress=False)
    nothing_there, b, slope = exact_lasso(population, [1e6])
    assert not b.any()
    top = np.abs(slope[3:]).max()
    rows = found.path.iloc[[0, 5, 12, 25, len(found.path) - 1]]
    values, b, _ = exact_lasso(population, top * rows["LAMBDA"].to_numpy())
    names = list(found.path.columns[3:])
    np.testing.assert_allclose(rows[names].to_numpy(), b, atol=2e-4)
    np.testing.assert_allclose(rows["OFV"].to_numpy() - fit.ofv, values - nothing_there[0], atol=2e-3)
    np.testing.assert_allclose(rows["SIZE"].to_numpy(), np.abs(b).sum(1), atol=1e-3)
    assert found.path["OFV"].iloc[0] == pytest.approx(fit.ofv, abs=1e-6) and not found.path.iloc[0][names].any()
    assert found.path.iloc[1][names].any() and found.path["SIZE"].is_monotonic_increasing


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_conditions_of_a_minimum(power):
    """|slope| <= lambda w where a relation is out, slope = -lambda w b / |b| where it is in; slopes by differences."""
    population = boluses(60)
    fit = dn.fit(Bolus(), population, options=QUIET)
    terms = candidates_of(fit, {"v": ["wt", "race"], "cl": ["sex", "age", "wt"]}, {"wt": "piecewise"})
    search = problem(fit, terms)
    place, weights = search.place, group_weights(np.zeros(len(search.place.at)), search.place.groups, 0.0)
    if power:
        weights = group_weights(search.without_bound(np.ones(5, dtype=bool)).b, place.groups, power)
    trail = walk(search, weights, power, 12)
    assert trail.sets[0].sum() == 0 and trail.sets[1].sum() >= 1 and trail.values[0] == pytest.approx(fit.ofv, abs=1e-6)
    seen = set()
    for point in (trail.points[i] for i in (2, 5, 9)):
        assert point.converged
        slope = np.zeros(len(point.u))
        for i in range(len(slope)):
            ends = [search.objective(point.u + h * np.eye(len(slope))[i]).value[0] for h in (1e-4, -1e-4)]
            slope[i] = (ends[0] - ends[1]) / 2e-4
        others = np.setdiff1d(np.arange(len(slope)), place.at)
        assert np.abs(slope[others]).max() < 0.03
        for g, w in zip(place.groups, weights, strict=True):
            own, b = slope[place.at[g]], point.u[place.at[g]]
            if b.any():
                seen.add("in")
                np.testing.assert_allclose(own, -point.penalty * w * b / np.linalg.norm(b), atol=0.03)
            else:
                seen.add("out")
                assert np.linalg.norm(own) <= point.penalty * w + 0.03
    assert seen == {"in", "out"}


def test_the_ends_of_the_path():
    """It begins at the fit without relations; a little size has one of them, and much size is the full fit."""
    population = boluses(60)
    fit = dn.fit(Bolus(), population, options=QUIET)
    terms = candidates_of(fit, {"v": ["wt", "race"], "cl": ["sex", "age"]})
    search = problem(fit, terms)
    weights = group_weights(np.zeros(5), search.place.groups, 0.0)
    first = nothing(search, weights)
    np.testing.assert_array_equal(first.u, problem(fit, terms).u)
    slopes = [np.linalg.norm(first.evaluation.gradient[0][search.place.at[g]]) for g in search.place.groups]
    assert first.penalty == pytest.approx(max(slopes / weights)) and not first.used.any()
    little = search.within(weights, 1e-3, first.penalty)
    assert little.used.sum() == 1 and little.penalty == pytest.approx(first.penalty, rel=0.05)
    much = search.within(weights, 5.0, first.penalty)
    full = dn.fit(dn.with_covariates(Bolus(), {"v": ["wt", "race"], "cl": ["sex", "age"]}, population), population)
    assert much.value == pytest.approx(full.ofv, abs=1e-4)
    values = search.objective.joint.space.as_dict(much.u)
    for name, value in full.estimates.items():
        assert values[name] == pytest.approx(value, abs=0.02 * max(full.se[name], 1e-3))


def test_the_descent_comes_from_far():
    """The minimum does not depend on where the search starts; steps too long are shortened."""
    population = boluses(40)
    fit = dn.fit(Bolus(), population, options=QUIET)
    terms = candidates_of(fit, {"v": ["wt"], "cl": ["sex", "age"]})
    near, far = problem(fit, terms), problem(fit, terms)
    expected = near.within(np.ones(3), 0.15, 10.0)
    far.u = far.u + np.where(np.isin(np.arange(len(far.u)), far.place.at), 0.04, 0.7)
    far.evaluation = far.objective(far.u)
    found = far.within(np.ones(3), 0.15, 1.0)
    assert found.converged and found.value == pytest.approx(expected.value, abs=1e-4)
    np.testing.assert_allclose(found.u, expected.u, atol=1e-4)


def test_effects_so_large_that_a_penalty_would_leap():
    """As Omega falls the multiplier rises on the way; the path still has the two true relations first."""
    rng = np.random.default_rng(3)
    x = {f"x{i}": rng.standard_normal(30) for i in range(8)}
    population = levels(x, 0.8 * x["x2"] - 0.8 * x["x5"], seed=3)
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.lasso(fit, power=0, progress=False)
    assert found.path["LAMBDA"].max() > 1.05 and found.path["SIZE"].is_monotonic_increasing
    assert found.path["OFV"].is_monotonic_decreasing
    assert {t.covariate for t in found.terms} == {"x2", "x5"} and list(found.steps["N"][:3]) == [0, 1, 2]


def test_planted_relations_are_found():
    rng = np.random.default_rng(5)
    shared = rng.standard_normal(120)
    x = {f"x{i}": 0.6 * shared + 0.8 * rng.standard_normal(120) for i in range(6)} | {"g": np.array(list("pqr") * 40)}
    population = levels(x, 0.25 * x["x1"] - 0.2 * x["x4"] + 0.4 * (x["g"] == "r"))
    fit = dn.fit(Level(), population, options=QUIET)
    for change in ({"criterion": "ebic"}, {"approximation": "quadratic"}):
        found = dn.lasso(fit, progress=False, **change)
        assert {t.covariate for t in found.terms} == {"x1", "x4", "g"} and not found.notes
    found = dn.lasso(fit, progress=False)
    chosen = found.steps[found.steps["DECISION"] == "chosen"].iloc[0]
    assert {t.covariate for t in found.terms} == {"x1", "x4", "g"}
    assert chosen["N"] == 3 and chosen["BIC"] == found.steps["BIC"].min()
    assert chosen["REFITTED"] == pytest.approx(found.fit.ofv, abs=1e-4)
    assert chosen["BIC"] == pytest.approx(found.fit.ofv + 4 * math.log(120), abs=1e-4)
    assert chosen["OFV"] > chosen["REFITTED"] and found.steps["OFV"].iloc[0] == pytest.approx(fit.ofv, abs=1e-6)
    assert list(found.table["SELECTED"][:3]) == [True] * 3
    assert found.fit.estimates["mu_x1"] == pytest.approx(0.25, abs=3 * found.fit.se["mu_x1"])


def test_sets_that_are_not_fitted_cannot_win():
    """Every set that is shown without a fit has a worse BIC than the one chosen."""
    population = lasso_people(50, 6)
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.lasso(fit, power=0, progress=False)
    best = found.steps["BIC"].min()
    left = np.flatnonzero(found.steps["REFITTED"].isna())
    assert len(left) >= 2
    for i in left:
        row = found.path[found.path["LAMBDA"] == found.steps["LAMBDA"].iloc[i]].iloc[0]
        names = [n[3:] for n in found.path.columns[3:] if row[n] != 0]
        assert len(names) == found.steps["N"].iloc[i]
        ofv = dn.fit(dn.with_covariates(Level(), {"mu": names}, population), population, options=QUIET).ofv
        assert ofv + len(names) * math.log(50) > best


def test_extended_bic():
    """C(10, 3) = 120, C(10, 1) = 10."""
    rule = Rule("ebic", 50, 10, 12)
    assert rule.cost(4, 3) == pytest.approx(4 * math.log(50) + math.log(120))
    assert rule.cost(1, 1) == pytest.approx(math.log(50) + math.log(10)) and rule.cost(0, 0) == pytest.approx(0.0)
    assert Rule("ebic", 50, 10, 60).cost(1, 1) == pytest.approx(math.log(50) + 2 * math.log(10))
    assert Rule("bic", 50, 10, 12).cost(4, 3) == pytest.approx(4 * math.log(50))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_more_covariates_than_subjects(power):
    rng = np.random.default_rng(3)
    x = {f"x{i}": rng.standard_normal(30) for i in range(32)}
    population = levels(x, 0.8 * x["x7"] - 0.8 * x["x11"], seed=3)
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.lasso(fit, power=power, progress=False)
    assert {t.covariate for t in found.terms} == {"x7", "x11"} and "(ebic)" in found.method
    assert found.notes[0].startswith("The model with all relations is not fitted: 32 coefficients for 30 subjects.")
    assert found.table["P"].isna().all() and len(found.table) == 32
    names = list(found.path.columns[3:])
    assert len(names) == 32 and (found.path[names] != 0).sum(axis=1).max() <= 7
    if power:
        assert "The weights are from a plain lasso, which leaves" in found.notes[1]
    else:
        assert "more than 7.5 coefficients for 30 subjects" in found.notes[-1]


def test_the_largest_penalty_leaves_nothing_in():
    """Up to rounding a group is at its threshold there; it must not enter by that."""
    for seed in range(300):
        best, h = problem_of(seed)
        groups = (
            [np.array([0]), np.array([1, 2, 3]), np.array([4, 5])] if seed % 2 else [np.array([i]) for i in range(6)]
        )
        weights = group_weights(best, groups, 1.0)
        top = largest_penalty(2 * h @ best, groups, weights)
        assert not path(best, h, groups, weights, np.array([top])).any()
        assert path(best, h, groups, weights, np.array([(1 - 1e-6) * top])).any()


@pytest.mark.parametrize("approximation", ["exact", "quadratic"])
def test_nothing_to_find(approximation):
    rng = np.random.default_rng(8)
    population = levels({f"x{i}": rng.standard_normal(60) for i in range(3)}, np.zeros(60), seed=108)
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.lasso(fit, approximation=approximation, progress=False)
    assert not found.terms and found.fit is fit and found.steps["N"].iloc[0] == 0 == found.steps["SIZE"].iloc[0]


def test_a_base_that_was_not_fitted():
    """What is compared are minima, and the fit that is returned is at one."""
    rng = np.random.default_rng(8)
    population = levels({f"x{i}": rng.standard_normal(60) for i in range(3)}, np.zeros(60), seed=108)
    base = dn.evaluate_ofv(Level(), population, options=QUIET)
    found = dn.lasso(base, progress=False)
    assert not found.terms and found.fit.converged and not found.notes
    assert found.fit.ofv == pytest.approx(found.steps["REFITTED"].iloc[0], abs=1e-4) and found.fit.ofv < base.ofv - 1


def test_fits_that_do_not_end_are_told(monkeypatch):
    """Their estimates are no weights and give no P; one that ends from the path's own minimum is fine."""
    population = lasso_people(60, 4)
    fit = dn.fit(Level(), population, options=dn.Options(progress=False, covariance=None, max_iterations=1))
    found = dn.lasso(fit, progress=False)
    assert found.notes[0].startswith("The model with all relations is not fitted: iteration limit reached")
    assert found.table["P"].isna().all() and "x0" in {t.covariate for t in found.terms}
    assert found.fit.converged and not any("end" in note for note in found.notes)
    inner, late = lasso_quadratic.fit_model, {"status": dn.FitStatus.TIME_LIMIT, "decrement": 1.0}
    monkeypatch.setattr(lasso_quadratic, "fit_model", lambda *a, **k: replace(inner(*a, **k), **late))
    found = dn.lasso(fit, {"mu": ["x0"]}, progress=False)
    assert found.notes[-1].startswith("The fit of the result has not reached its end: time limit reached")


def test_interruptions(monkeypatch):
    fit = dn.fit(Level(), lasso_people(40, 4), options=QUIET)
    inner = lasso_quadratic.fit_model
    lost = {"status": dn.FitStatus.INTERRUPTED}, {"covariance": None}
    for change in lost:
        monkeypatch.setattr(
            lasso_quadratic, "fit_model", lambda *a, change=change, **k: replace(inner(*a, **k), **change)
        )
        with pytest.raises(KeyboardInterrupt):
            dn.lasso(fit, progress=False)


def test_a_set_that_comes_back_on_the_path():
    """People aside speak of a set between the sizes at which the path has it: {}, A, AB, A, AC at 0, 1, 2, 3, 4."""
    coefficients = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1]], dtype=float)
    place, sizes = Place(np.arange(3), tuple(np.array([i]) for i in range(3))), np.arange(5.0)
    trail = Trail(place, sizes[::-1] + 1.0, sizes, coefficients, -sizes)
    assert trail.firsts == [0, 1, 2, 4]
    np.testing.assert_array_equal(trail.middles, [0.0, 1.5, 2.5, 4.0])


def test_a_person_whose_density_vanishes_when_kept_aside(monkeypatch):
    fit = dn.fit(Level(), lasso_people(20, 4), options=QUIET)
    monkeypatch.setattr(Fold, "ofv", lambda self, bound: np.where(self.aside == 7, np.inf, 1.0))
    with pytest.raises(dn.ConvergenceError, match=r"got 'cv' for subject 8\. Its OFV is not finite"):
        dn.lasso(fit, criterion="cv", progress=False)


def test_those_aside_do_not_count():
    """What a fold learns does not depend on those kept aside; their OFV is that of the set fitted to the others."""
    population = lasso_people(40, 4)
    aside = np.arange(0, 40, 5)
    r = population.records
    changed = np.where(np.isin(r.subject, aside), 3.0 * r.dv, r.dv)
    columns = dict(r.columns()) | {"dv": changed}
    other = population.with_records(type(r)(**columns, covariates=r.covariates))
    folds = []
    for people in (population, other):
        fit = dn.fit(Level(), people, options=QUIET)
        fold = Fold(fit, candidates_of(fit, None), aside, 1.0)
        folds.append((fold, fold.ofv(0.0), fold.ofv(0.8)))
    (one, _, ofv), (two, _, moved) = folds
    np.testing.assert_allclose(two.weights, one.weights, rtol=1e-3)
    np.testing.assert_allclose(two.point.u, one.point.u, atol=1e-4)
    assert np.abs(moved - ofv).min() > 1.0
    on = [f"x{i}" for i in np.flatnonzero(one.search.place.used(one.point.u[one.search.place.at]))]
    assert 0 < len(on) < 4
    model = dn.with_covariates(Level(), {"mu": on}, population)
    kept = dn.fit(model, population[np.setdiff1d(np.arange(40), aside)], options=QUIET)
    there = dn.evaluate_ofv(model, population[aside], at=kept.estimates)
    np.testing.assert_allclose(ofv, np.asarray(there.subject_ofv, dtype=float), atol=2e-3)


def test_quadratic():
    population = lasso_people(80, 4)
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.lasso(fit, approximation="quadratic", progress=False)
    full = dn.fit(dn.with_covariates(Level(), {"mu": ["x0", "x1", "x2", "x3"]}, population), population, options=QUIET)
    assert found.steps["REFITTED"].iloc[-1] >= full.ofv - 1e-6
    chosen = found.steps[found.steps["DECISION"] == "chosen"].iloc[0]
    assert chosen["REFITTED"] - full.ofv == pytest.approx(found.fit.ofv - full.ofv, rel=0.1, abs=0.1)
    assert "quadratic" in found.method and found.path["OFV"].is_monotonic_decreasing


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
    assert found.steps["HELD OUT"].min() == pytest.approx(found.fit.ofv, rel=0.2)


class Learned(Level):
    """A network too large for a curvature."""

    network = dn.MLP(1, (300,), 1, prior=dn.L2(1.0))

    def individual(self, theta, eta, cov):
        return dict(mu=theta.mu * torch.exp(eta.mu + 0.01 * theta.network(cov.a)))


def test_mistakes():
    x = {"a": np.arange(1.0, 13.0), "b": 2.0 * np.arange(1.0, 13.0), "c": np.array(list("pq") * 6)}
    fit = dn.fit(Level(), levels(x, np.zeros(12)), options=QUIET)
    for change, error, message in (
        ({}, dn.DataError, "got a and b for mu. They say the same"),
        ({"criterion": "aic"}, dn.ModelError, "Invalid `criterion`: got 'aic'"),
        ({"folds": 40}, dn.ModelError, "Invalid `folds`: got 40. It is a whole number from 2 to 12"),
        ({"power": -1}, dn.ModelError, "Invalid `power`"),
        ({"approximation": "fast"}, dn.ModelError, "It is one of exact, quadratic"),
        ({"approximation": "quadratic", "criterion": "cv"}, dn.ModelError, "Cross-validation is exact"),
        ({"forms": {"a": ("power", "linear")}}, dn.ModelError, "got several of one relation"),
    ):
        with pytest.raises(error) as caught:
            dn.lasso(fit, ["a", "c"] if change else None, progress=False, **change)
        assert message in str(caught.value)
    large = dn.fit(Learned(), fit.population, options=dn.Options(progress=False, covariance=None, max_iterations=1))
    with pytest.raises(dn.ModelError, match=r"got a network with 901 weights that all subjects share.* dn\.screen"):
        dn.lasso(large, {"mu": ["a", "c"]}, progress=False)
    rng = np.random.default_rng(1)
    many = {f"x{i}": rng.standard_normal(10) for i in range(12)}
    fit = dn.fit(Level(), levels(many, np.zeros(10)), options=QUIET)
    with pytest.raises(dn.ConvergenceError, match=r"got 12 relations\. .*12 coefficients for 10 subjects\. Leave"):
        dn.lasso(fit, approximation="quadratic", progress=False)
