"""Attribution against closed forms: importance of linear models, exact nulls, completeness of integrated gradients."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

import deepnlme as dn
from covariate_people import QUIET, Bolus, Level, boluses, levels
from deepnlme.covariates.attribution_gradients import integrated_gradients, median_subject
from deepnlme.covariates.attribution_importance import _probabilities, given_others, p_value, rises
from deepnlme.covariates.attribution_learning import Crossed, NetworkLearner, OfNetwork, Predictor, RegressorLearner
from deepnlme.covariates.attribution_network import Masked, default_network
from deepnlme.covariates.attribution_refits import Candidate, log_ratios
from deepnlme.covariates.attribution_search import Search
from deepnlme.covariates.augment_inputs import Column, Inputs, inputs_of
from deepnlme.covariates.augment_regression import Task
from deepnlme.covariates.forms import Term, bound
from deepnlme.covariates.targets import Block, EffectTargets
from deepnlme.parameters import RandomEffects

SMALL = {"folds": 4, "penalties": [8.0], "permutations": 200, "refits": 4, "progress": False}


class Least:
    """Weighted least squares, with the interface of scikit-learn."""

    def fit(self, x, y, sample_weight):
        root = np.sqrt(sample_weight)
        columns = np.column_stack([np.ones(len(x)), x])
        self.b, *_ = np.linalg.lstsq(columns * root[:, None], y * root, rcond=None)
        return self

    def predict(self, x):
        return self.b[0] + x @ self.b[1:]


class Straight(Predictor):
    """g_e(x) = x b_e."""

    def __init__(self, b):
        self.b = np.asarray(b, dtype=float)

    def effect(self, i, x):
        return x @ self.b[i]


def targets_of(y, v, omega):
    """y [S, k] known with independent errors of variance v [S, k]."""
    omega = np.atleast_2d(omega)
    names = tuple("abc"[: len(omega)])
    block = Block("eta", names, tuple(range(len(names))), RandomEffects(len(names), omega=omega, block=len(names) > 1))
    precision = np.einsum("si,ij->sij", 1.0 / v, np.eye(len(names)))
    return EffectTargets((block,), tuple(range(len(y))), precision, y / v, y, y)


def task_of(x, y, v=None, omega=1.0, seed=0):
    v = np.full_like(y, 0.5) if v is None else v
    return Task(x, targets_of(y, v, omega), tuple(range(y.shape[1])), seed, 1)


def of(task, predictor, omega=None):
    """A predictor of all subjects as if each were left out."""
    k, n = len(task.targets.names), task.x.shape[1]
    g = np.stack([predictor.effect(i, task.x) for i in range(k)], 1)
    omega = task.targets.omega if omega is None else omega
    return Crossed(np.ones((k, n), dtype=bool), [(np.arange(len(g)), predictor)], g, omega, (0.0, 0.0))


def numbers(x):
    """Inputs of columns of numbers."""
    return Inputs(tuple(Column(f"x{i}", None, f"x{i}", float(m)) for i, m in enumerate(x.mean(0))), {}, {})


def relation(effect, covariate):
    return Candidate(effect, Term("abc"[effect], f"x{covariate}", "exponential", 0.0, 1.0, -1.0, 1.0))


# ---- importance ---------------------------------------------------------------------------------------------------


def test_rises_equal_the_density_of_replaced_predictions():
    """Of the one effect of two whose covariate is replaced, in folds, against a slow loop."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal((12, 2))
    omega, v = np.array([[1.0, 0.6], [0.6, 0.8]]), rng.uniform(0.2, 2, (12, 2))
    task, b = task_of(x, y, v, omega), rng.standard_normal((2, 3))
    folds = [(test, Straight(b)) for test in np.array_split(np.arange(12), 3)]
    found = replace(of(task, Straight(b)), models=folds)
    replaced = rng.standard_normal((4, 12, 1))
    slow = []
    for values in replaced:
        other = x.copy()
        other[:, 1] = values[:, 0]
        sd = np.sqrt(0.8 + v[:, 1])
        slow.append(2 * sum(norm.logpdf(y[:, 1], x @ b[1], sd)) - 2 * sum(norm.logpdf(y[:, 1], other @ b[1], sd)))
    np.testing.assert_allclose(rises(task, found, 1, [1], replaced), slow, rtol=1e-4)  # unshrunk() is good to 1e-6


def test_permutation_importance_of_a_linear_model():
    """Over all permutations 2 sum_i B (b^2 (var + d^2) / 2 - r b d), d = mean - x_i; in many people 2 S B b^2 var."""
    rng = np.random.default_rng(3)
    x, b, omega, v = rng.standard_normal((6, 1)), 0.7, 0.8, 0.5
    y = b * x + rng.standard_normal((6, 1))
    task = task_of(x, y, np.full((6, 1), v), omega)
    every = np.array([x[list(order)] for order in permutations(range(6))])
    mean = rises(task, of(task, Straight([[b]])), 0, [0], every).mean()
    away, residual = x.mean() - x[:, 0], y[:, 0] - b * x[:, 0]
    exact = 2 * np.sum(0.5 * b**2 * (x.var() + away**2) - b * away * residual) / (omega + v)
    assert mean == pytest.approx(exact, rel=1e-5)
    many = rng.standard_normal((4000, 2))
    task = task_of(many, many @ [[b], [0.0]] + np.sqrt(omega + v) * rng.standard_normal((4000, 1)), omega=omega)
    order = np.argsort(rng.random((20, 4000)), axis=1)
    found = rises(task, of(task, Straight([[b, 0.0]])), 0, [0], many[order][:, :, [0]]).mean()
    assert found == pytest.approx(2 * 4000 * b**2 / (omega + v), rel=0.06)
    assert rises(task, of(task, Straight([[b, 0.0]])), 0, [1], many[order][:, :, [1]]) == pytest.approx(np.zeros(20))


def test_p_values_are_exact_where_the_network_has_not_seen_the_subjects():
    """Without an effect given the others p is uniform, although the covariate goes with one that has an effect."""
    rng = np.random.default_rng(4)
    p = []
    for _ in range(400):
        x = rng.standard_normal((30, 2))
        x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
        y = x[:, :1] + rng.standard_normal((30, 1))
        task = task_of(x, y, np.full((30, 1), 0.5), 0.5)
        expected = 0.8 * x[:, 0]
        drawn = expected + 0.6 * rng.standard_normal((99, 30))
        p.append(p_value(rises(task, of(task, Straight([[0.4, rng.standard_normal()]])), 0, [1], drawn[..., None])))
    assert kstest(p, "uniform").pvalue > 0.01
    assert 8 <= np.sum(np.array(p) <= 0.05) <= 34  # binomial(400, 0.05), 99.9 %


def test_a_covariate_of_one_effect_does_not_show_in_another():
    """Although errors are correlated by 0.8 and the network has found half of the effect that there is."""
    rng, p = np.random.default_rng(15), []
    error = 0.5 * np.array([[1.0, 0.8], [0.8, 1.0]])
    for _ in range(300):
        x = rng.standard_normal((60, 1))
        y = 0.6 * x * [1.0, 0.0] + rng.multivariate_normal(np.zeros(2), error + 0.3 * np.eye(2), 60)
        bare = targets_of(y, np.ones((60, 2)), 0.3 * np.eye(2))
        precision = np.broadcast_to(np.linalg.inv(error), (60, 2, 2))
        targets = replace(bare, precision=precision, information=np.einsum("sij,sj->si", precision, y))
        task = Task(x, targets, (0, 1), 0, 1)
        drawn = rng.standard_normal((99, 60, 1))
        p.append(p_value(rises(task, of(task, Straight([[0.3], [0.1 * rng.standard_normal()]])), 1, [0], drawn)))
    assert kstest(p, "uniform").pvalue > 0.01


def searched(x, y, learner, seed=0, **change):
    candidates = [relation(e, j) for e in range(y.shape[1]) for j in range(x.shape[1])]
    settings = {"folds": 5, "draws": 199, "conditional": True, **change}
    task = task_of(x, y, np.full_like(y, 0.2), 0.8 * np.eye(y.shape[1]), seed)
    return Search(task, numbers(x), candidates, learner, generator=np.random.default_rng(seed), **settings)


def test_false_positives_of_the_folds_are_no_more_than_nominal():
    """One covariate has an effect, three that go with it have none."""
    p = []
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        shared = rng.standard_normal((60, 1))
        x = 0.7 * shared + 0.7 * rng.standard_normal((60, 4))
        search = searched(x, x[:, :1] + rng.standard_normal((60, 1)), RegressorLearner.of(Least()), seed)
        search.learn()
        assert search.p[0] < 0.02 and search.score[0] > 20
        p += search.p[1:].tolist()
    assert 1 <= np.sum(np.array(p) < 0.05) <= 18  # binomial(180, 0.05), 99.9 %


def test_marginal_replacement_shares_importance():
    """A copy with noise of the true covariate: of any worth only where replaced without regard to the true one."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((150, 2))
    x[:, 1] = x[:, 0] + 0.5 * x[:, 1]
    y = x[:, :1] + 0.7 * rng.standard_normal((150, 1))
    both = {}
    for conditional in (True, False):
        search = searched(x, y, NetworkLearner.of(dn.MLP(2, (), 1), [100.0]), conditional=conditional)
        search.learn()
        both[conditional] = search
    assert both[True].p[1] > 0.05 and both[False].p[1] < 0.01
    assert both[False].score[1] > 20 > 5 > both[True].score[1]


# ---- draws given the others ------------------------------------------------------------------------------------------


def test_draws_of_a_number_keep_its_regression():
    rng = np.random.default_rng(7)
    others = rng.standard_normal((50, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, 0.0]
    x = others @ [1.0, 0.2, 3.0] + rng.standard_normal(50)
    drawn = given_others(x, others, False, 4000, rng)
    columns = np.column_stack([np.ones(50), others])
    fitted = columns @ np.linalg.lstsq(columns, x, rcond=None)[0]
    np.testing.assert_allclose(drawn.mean(0), fitted, atol=5 * (x - fitted).std() / np.sqrt(4000))
    np.testing.assert_allclose(np.sort(drawn - fitted, 1), np.tile(np.sort(x - fitted), (4000, 1)), atol=1e-10)
    np.testing.assert_allclose(np.sort(given_others(x, others[:, :0], False, 3, rng), 1), [np.sort(x)] * 3, atol=1e-12)


def test_more_others_than_subjects_leave_residuals():
    rng = np.random.default_rng(8)
    others = rng.standard_normal((20, 40))
    drawn = given_others(others[:, 0] + rng.standard_normal(20), others, False, 50, rng)
    assert np.isfinite(drawn).all() and drawn.std(0).min() > 0.1


def test_draws_of_categories_have_the_probabilities_of_logistic_regression():
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(9)
    x = rng.standard_normal((80, 2))
    codes = np.array([rng.choice(3, p=np.exp(s) / np.exp(s).sum()) for s in x @ rng.standard_normal((2, 3))])
    x = (x - x.mean(0)) / x.std(0)
    theirs = linear.LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x, codes).predict_proba(x)
    np.testing.assert_allclose(_probabilities(x, codes, 3), theirs, atol=2e-4)
    drawn = given_others(10.0 * codes, x, True, 4000, rng)
    assert set(np.unique(drawn)) == {0.0, 10.0, 20.0}
    for code in range(3):
        np.testing.assert_allclose((drawn == 10.0 * code).mean(0), theirs[:, code], atol=5 * 0.5 / np.sqrt(4000))


# ---- networks and gradients ------------------------------------------------------------------------------------------


def test_masked_outputs_do_not_see_what_they_must_not():
    rng = np.random.default_rng(10)
    network = dn.MLP(3, (4,), 2, input_center=[1.0, 2.0, 3.0], input_scale=[1.0, 2.0, 1.0])
    seen = np.array([[True, False, True], [True, True, False]])
    masked, weights = Masked(network, seen), torch.tensor(network.initial()).reshape(1, 1, 1, -1)
    x = rng.standard_normal((5, 3))
    for i in range(2):
        held = np.where(seen[i], x, [1.0, 2.0, 3.0])
        slow = network.values(torch.tensor(held)[None, None], weights)[0, 0, :, i].numpy()
        np.testing.assert_allclose(OfNetwork(masked).effect(i, x), slow, rtol=1e-12)
        np.testing.assert_allclose(masked.values(torch.tensor(x)[None, None], weights)[0, 0, :, i], slow, rtol=1e-12)
    assert masked.size == network.size and masked.initial() == pytest.approx(network.initial())


def test_integrated_gradients_of_a_linear_network_and_completeness():
    rng = np.random.default_rng(11)
    b, x, reference = rng.standard_normal(3), rng.standard_normal((7, 3)), rng.standard_normal(3)
    linear = integrated_gradients(lambda rows: rows @ torch.tensor(b), x, reference)
    np.testing.assert_allclose(linear, b * (x - reference), rtol=1e-12)
    curved = OfNetwork(Masked(default_network(3, 2), np.ones((2, 3), dtype=bool)))
    found = integrated_gradients(lambda rows: curved.tensor(1, rows), x, reference)
    change = curved.effect(1, x) - curved.effect(1, reference[None])
    np.testing.assert_allclose(found.sum(1), change, atol=1e-10)
    steps = (np.arange(2000) + 0.5) / 2000
    for j in range(3):
        near = np.zeros(3)
        near[j] = 1e-5
        on = reference + steps[:, None] * (x[0] - reference)
        slope = (curved.effect(1, on + near) - curved.effect(1, on - near)) / 2e-5
        assert found[0, j] == pytest.approx((x[0, j] - reference[j]) * slope.mean(), abs=1e-7)


def test_reference_is_the_median_subject():
    population = boluses(31)
    inputs = inputs_of(population, ["age", "sex", "race"])
    reference = dict(zip(inputs.names, median_subject(inputs, inputs.matrix(population)), strict=True))
    at = population.starts[:-1]
    assert reference["age"] == np.median(population.records.covariates["age"][at])
    sexes = [population.categories["sex"][int(c)] for c in population.records.covariates["sex"][at]]
    name = next(n for n in inputs.names if n.startswith("sex="))
    assert reference[name] == (max(set(sexes), key=sexes.count) == name.split("=")[1])
    assert [reference[f"race={label}"] for label in "abc"] == [1.0, 0.0, 0.0]


def test_partial_dependence_of_a_linear_model_and_of_categories():
    population = boluses(30)
    inputs = inputs_of(population, ["wt", "race"])
    x = inputs.matrix(population)
    term = bound("cl", "wt", population)
    b = np.array([0.02, 0.5, -0.3, 0.1])
    assert log_ratios(Straight([b]), Candidate(0, term), inputs, x) == pytest.approx([0.02 * (term.high - term.low)])
    race = bound("cl", "race", population)  # levels in the order of their labels, the first is the reference
    assert [label for label, _ in race.levels] == ["b", "c"]
    found = log_ratios(Straight([b]), Candidate(0, race), inputs, x)
    assert found == pytest.approx([-0.3 - 0.5, 0.1 - 0.5])


def test_nothing_is_learned_from_subjects_left_out():
    """Other data of the subjects of one fold change the networks of all folds but this one."""
    rng = np.random.default_rng(12)
    x, y = rng.standard_normal((40, 2)), rng.standard_normal((40, 1))
    for learner in (NetworkLearner.of(dn.MLP(2, (), 1), [5.0]), RegressorLearner.of(Least())):
        seen = np.ones((1, 2), dtype=bool)
        one = learner.crossed(task_of(x, y), seen, 4, None)
        test = one.models[2][0]
        other = y.copy()
        other[test] += 3.0
        two = learner.crossed(task_of(x, other), seen, 4, None)
        same = [
            np.allclose(a.effect(0, x), b.effect(0, x), atol=1e-9) for (_, a), (_, b) in zip(one.models, two.models)
        ]
        assert same == [False, False, True, False]


# ---- the whole -------------------------------------------------------------------------------------------------------


def planted(seed=5, n=90):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(n)
    x = {f"x{i}": 0.6 * shared + 0.8 * rng.standard_normal(n) for i in range(4)} | {
        "g": np.array(list("pqr") * (n // 3))
    }
    return levels(x, 0.3 * x["x1"] + 0.5 * (x["g"] == "r"))


@pytest.fixture(scope="module")
def fit():
    return dn.fit(Level(), planted(), options=QUIET)


@pytest.fixture(scope="module")
def found(fit):
    return dn.attribute(fit, **SMALL)


def test_planted_relations_are_found(fit, found):
    assert {t.covariate for t in found.terms} == {"x1", "g"} and list(found.table["SELECTED"][:2]) == [True, True]
    assert set(found.table["FORM"]) == {"network"} and list(found.table["RANK"]) == [1, 2, 3, 4, 5]
    rows = found.table.set_index("COVARIATE")
    values = fit.population.records.covariates["x1"][fit.population.starts[:-1]]
    true = np.exp(0.3 * np.diff(np.quantile(values, [0.05, 0.95]))[0])
    assert rows.loc["x1", "EFFECT"] == pytest.approx(true, rel=0.2)
    assert rows.loc["g", "EFFECT"] == pytest.approx(np.exp(0.5), rel=0.2)
    assert (rows["LOW"] < rows["HIGH"]).all() and (rows.loc[["x1", "g"], "LOW"] > 1.2).all()
    assert (rows.loc[["x1", "g"], "P"] == 1 / 201).all() and (rows.loc[["x0", "x2", "x3"], "P"] >= 0.01).all()
    steps = found.steps.set_index("RELATION")
    assert (
        set(steps["GRADIENT"].nlargest(2).index) == {"mu ~ x1", "mu ~ g"} == set(steps["PERMUTATION"].nlargest(2).index)
    )
    assert (steps["GRAD LOW"] < steps["GRAD HIGH"]).all() and (steps["PERM LOW"] < steps["PERM HIGH"]).all()
    model = dn.with_covariates(Level(), found.relations, fit.population)
    assert dn.fit(model, fit.population, options=QUIET).ofv < fit.ofv - 40


def test_the_same_call_gives_the_same(fit, found):
    again = dn.attribute(fit, **SMALL)
    assert again.table.equals(found.table) and again.steps.equals(found.steps)


def test_one_network_judges_all_without_elimination(fit):
    once = dn.attribute(fit, eliminate=False, **SMALL | {"refits": 0})
    assert set(once.steps["ROUNDS"]) == {1} and once.table["LOW"].isna().all()
    assert "the last round" not in str(once) and "network of all covariates" in str(once)


def test_a_curve_without_a_slope_is_found():
    """Both ends of the covariate raise the parameter: no straight relation shows that."""
    rng = np.random.default_rng(0)
    x = {name: rng.standard_normal(120) for name in ("curved", "straight", "nothing")}
    population = levels(x, 0.3 * (x["curved"] ** 2 - 1.0) + 0.3 * x["straight"], seed=0)
    fit = dn.fit(Level(), population, options=QUIET)
    found = dn.attribute(fit, **SMALL | {"refits": 0})
    assert {t.covariate for t in found.terms} == {"curved", "straight"}
    assert [t.covariate for t in dn.screen(fit).terms] == ["straight"]


def test_regressors_and_two_parameters():
    """Ordinary least squares: effect and interval are those of the regression of unshrunk effects."""
    population = boluses(80)
    fit = dn.fit(Bolus(), population, options=QUIET)
    found = dn.attribute(fit, network=Least(), refits=80, permutations=200, progress=False)
    assert {t.label for t in found.terms} == {"v ~ wt (power)", "cl ~ sex (categorical)"}
    assert found.steps["GRADIENT"].isna().all() and found.method == "Attribution (Least)"
    row = found.table.set_index(["PARAMETER", "COVARIATE"]).loc[("v", "wt")]
    wt = population.records.covariates["wt"][population.starts[:-1]]
    y = dn.covariates.effect_targets(fit).unshrunk()[0][:, 1]
    columns = np.column_stack([np.ones(80), wt])
    b, rest, *_ = np.linalg.lstsq(columns, y, rcond=None)
    error = np.sqrt(rest[0] / 78 * np.linalg.inv(columns.T @ columns)[1, 1])
    wide = np.diff(np.quantile(wt, [0.05, 0.95]))[0]
    assert np.log(row["EFFECT"]) == pytest.approx(b[1] * wide, rel=0.03)
    assert np.log(row["HIGH"] / row["LOW"]) == pytest.approx(2 * 1.96 * error * wide, rel=0.3)
    part = dn.attribute(fit, {"v": ["age", dn.Relation("wt", "linear")]}, network=Least(), refits=0, progress=False)
    assert len(part.table) == 2 and part.relations == {"v": [dn.Relation("wt", "linear")]}


class Additive(Level):
    """mu varies additively by 15 % of its typical value."""

    eta = dn.RandomEffects("mu", omega=2.0)

    def individual(self, theta, eta, cov):
        return dict(mu=theta.mu + eta.mu)


class Scaled(Level):
    """The same model as `Level` with the random effect in other units."""

    eta = dn.RandomEffects("mu", omega=400.0)

    def individual(self, theta, eta, cov):
        return dict(mu=theta.mu * torch.exp(0.01 * eta.mu))


@pytest.mark.parametrize("model", [Additive, Scaled])
def test_effects_are_ratios_of_the_parameter(model):
    """Whatever the units of the random effect, EFFECT and GRADIENT are about the logarithm of the parameter."""
    rng = np.random.default_rng(12)
    x = {"a": rng.standard_normal(80), "b": rng.standard_normal(80)}
    population = levels(x, 0.1 * x["a"], omega=0.01, sd=0.05)
    options = {"network": dn.MLP(2, (), 1), "penalties": [0.1], "refits": 10, "permutations": 100, "progress": False}
    plain, other = (dn.fit(m(), population, options=QUIET) for m in (Level, model))
    expected, found = (dn.attribute(fit, **options).table.set_index("COVARIATE") for fit in (plain, other))
    for name in ("EFFECT", "LOW", "HIGH"):
        np.testing.assert_allclose(np.log(found.loc["a", name]), np.log(expected.loc["a", name]), rtol=0.1)
    steps = [dn.attribute(fit, **options).steps.set_index("RELATION")["GRADIENT"] for fit in (plain, other)]
    assert steps[1]["mu ~ a"] == pytest.approx(steps[0]["mu ~ a"], rel=0.1)
    assert "mu is not log-normal: its EFFECT is to first order" in dn.attribute(other, **options).notes
    assert not any("log-normal" in note for note in dn.attribute(plain, **options).notes)


def test_a_rare_label_in_common_is_no_reason_to_refuse():
    rng = np.random.default_rng(15)
    smoker, alcohol = rng.choice(["yes", "no"], 60), rng.choice(["much", "little"], 60)
    smoker[:3] = alcohol[:3] = "unknown"
    fit = dn.fit(Level(), levels({"smoker": smoker, "alcohol": alcohol}, 0.5 * (smoker == "yes")), options=QUIET)
    found = dn.attribute(fit, refits=0, progress=False)
    assert [t.covariate for t in found.terms] == ["smoker"]


def test_effects_without_variance_are_no_candidates_unless_named():
    fit = dn.evaluate_ofv(Bolus().replace(eta=dn.RandomEffects("cl", "v", omega=[0.1, 0.0], fixed=True)), boluses(40))
    assert set(dn.screen(fit).table["PARAMETER"]) == {"cl"}
    assert set(dn.attribute(fit, refits=0, permutations=100, progress=False).table["PARAMETER"]) == {"cl"}
    assert "warning: v is left out: the variance of its random effect is zero" in dn.screen(fit).notes
    assert [t.label for t in dn.scm(fit, ["wt"], progress=False).terms] == ["v ~ wt (power)"]  # it can be estimated
    for search in (dn.screen, dn.attribute):
        with pytest.raises(dn.ModelError, match=r"got 'v'\. Its variance is zero: there are no EBEs to test"):
            search(fit, {"v": ["wt"]})


def test_on_top_of_relations():
    """Those that the model has are no candidates; what they leave is found."""
    population = boluses(80)
    fit = dn.fit(dn.with_covariates(Bolus(), {"v": "wt"}, population), population, options=QUIET)
    found = dn.attribute(fit, network=Least(), refits=0, progress=False)
    assert len(found.table) == 7 and [t.label for t in found.terms] == ["cl ~ sex (categorical)"]
    assert found.relations == {"cl": [dn.Relation("sex", "categorical")]}


def test_warnings():
    rng = np.random.default_rng(13)
    x = rng.standard_normal(20)
    copy = {"x": x, "almost": x + 0.3 * rng.standard_normal(20), **{f"z{i}": rng.standard_normal(20) for i in range(3)}}
    fit = dn.fit(Level(), levels(copy, 0.0 * x, each=1, sd=0.5), options=QUIET)
    found = dn.attribute(fit, network=Least(), refits=0, progress=False)
    text = str(found)
    assert "warning: 20 subjects for 5 inputs are few" in text and "x and almost are correlated by 0.9" in text
    assert ("shrinkage of mu" in text) == (fit.shrinkage["mu"] > 30)


def test_mistakes(fit):
    for change, error, message in (
        ({"level": 1}, dn.ModelError, "Invalid `level`: got 1. It is a p-value between 0 and 1"),
        ({"permutations": 50}, dn.ModelError, "P-values below 0.01 need a whole number of at least 100"),
        ({"refits": 1}, dn.ModelError, "Invalid `refits`: got 1"),
        ({"conditional": "yes"}, dn.ModelError, "Invalid `conditional`: got 'yes'. It is True or False"),
        ({"folds": 0}, dn.ModelError, "Invalid `folds`: got 0. What a covariate is worth is seen on subjects left out"),
        ({"folds": 91}, dn.ModelError, "Invalid `folds`: got 91"),
        ({"candidates": {"sd": ["x0"]}}, dn.ModelError, "Invalid `candidates`: got 'sd'."),
        ({"candidates": ["wt"]}, dn.DataError, "got 'wt' for the relation of mu. The population's covariates are"),
        ({"network": dn.MLP(2, (), 1)}, dn.ModelError, "got 2 inputs. There are 7: x0, x1, x2, x3, g=p, g=q, g=r"),
        ({"network": Least(), "penalties": [1.0]}, dn.ModelError, "a regressor has settings of its own"),
        ({"network": "linear"}, dn.ModelError, "Invalid `network`: got 'linear'"),
    ):
        with pytest.raises(error) as caught:
            dn.attribute(fit, progress=False, **change)
        assert message in str(caught.value)
    with pytest.raises(dn.ModelError, match="Invalid `fit`: got Population"):
        dn.attribute(fit.population)


def test_covariates_that_cannot_be_used():
    rng = np.random.default_rng(14)
    a = rng.standard_normal(12)
    for covariates, message in (
        ({"a": a, "b": 2.0 * a + 1.0}, "Invalid `b`: got values that are those of `a` up to a factor and a constant"),
        ({"a": a, "b": np.ones(12)}, "Invalid `b`: got one value for all subjects for the relation of mu."),
        ({f"x{i}": rng.standard_normal(12) for i in range(12)}, "got 12 inputs for 12 subjects. Without a penalty"),
    ):
        fit = dn.fit(Level(), levels(covariates, np.zeros(12)), options=QUIET)
        with pytest.raises(dn.DataError) as caught:
            dn.attribute(fit, list(covariates), penalties=[0.0], progress=False)
        assert message in str(caught.value)
