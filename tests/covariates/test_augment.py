"""From random effects to covariates: equal to the joint fit where that is exact, unbiased where EBEs are shrunk."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import deepnlme as dn
from covariate_people import Bolus
from deepnlme.covariates.augment_inputs import inputs_of
from deepnlme.covariates.targets import effect_targets

QUIET = dn.Options(progress=False, covariance=None)


class Line(dn.Model):
    a = dn.Real(5.0)
    b = dn.Real(1.0)
    sd = dn.Positive(0.5, fixed=True)
    eta = dn.RandomEffects("a", "b", omega=[[1.0, 0.0], [0.0, 0.3]], block=True)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a, b=theta.b + eta.b)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a + p.b * x.time, theta.sd))


class LineWithCovariates(Line):
    ax, az, bx, bz = dn.Real(0.0), dn.Real(0.0), dn.Real(0.0), dn.Real(0.0)

    def individual(self, theta, eta, cov):
        a = theta.a + eta.a + theta.ax * cov.x + theta.az * cov.z
        return dict(a=a, b=theta.b + eta.b + theta.bx * cov.x + theta.bz * cov.z)


class Mean(dn.Model):
    """One random effect: an observation is a + eta + noise."""

    a = dn.Real(0.0)
    sd = dn.Positive(1.0, fixed=True)
    eta = dn.RandomEffects("a", omega=1.0)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a + 0.0 * x.time, theta.sd))


def lines(subjects=40, seed=1):
    """Every other subject has one observation, and b depends on z, correlated with a."""
    g = np.random.default_rng(seed)
    people = []
    for i in range(subjects):
        x, z = g.standard_normal(2)
        e = np.linalg.cholesky([[1.0, 0.3], [0.3, 0.3]]) @ g.standard_normal(2)
        n = 1 if i % 2 else 5
        times = np.sort(g.uniform(0, 3, n))
        values = 5 + x + e[0] + (1 - 0.5 * z + e[1]) * times + 0.5 * g.standard_normal(n)
        people.append(dn.Subject(i + 1, None, (times, values), dict(x=x, z=z)))
    return dn.Population(people)


def means(effect, covariates, counts, omega, sd, seed):
    """People whose eta is effect(covariates) + N(0, omega), each with so many observations."""
    g = np.random.default_rng(seed)
    people = []
    for i, n in enumerate(counts):
        cov = {name: column[i] for name, column in covariates.items()}
        eta = effect(cov) + np.sqrt(omega) * g.standard_normal()
        people.append(dn.Subject(i + 1, None, (np.arange(n), eta + sd * g.standard_normal(n)), cov))
    return dn.Population(people)


@pytest.fixture(scope="module")
def straight():
    population = lines()
    return population, dn.fit(Line(), population, options=QUIET)


@pytest.fixture(scope="module")
def augmented(straight):
    return dn.augment(straight[1], dn.MLP(2, (), 2), folds=0)


# ---- exact where everything is linear ----------------------------------------------------------------------------


def test_linear_network_is_the_joint_fit_of_the_linear_covariate_model(straight, augmented):
    """The residual sd being known, the data of a subject say the same whatever the prior: both maximise one thing."""
    population, _ = straight
    direct = dn.fit(LineWithCovariates(), population, options=QUIET)
    here = dn.evaluate_ofv(augmented.model, population)
    assert here.ofv == pytest.approx(direct.ofv, abs=1e-5)
    np.testing.assert_allclose(augmented.omega, direct.omega, rtol=2e-3)
    network = here.networks["covariate_effects"]
    zero = np.array(network(0.0, 0.0))
    e = direct.estimates
    np.testing.assert_allclose(np.array(network(1.0, 0.0)) - zero, [e["ax"], e["bx"]], atol=1e-3)
    np.testing.assert_allclose(np.array(network(0.0, 1.0)) - zero, [e["az"], e["bz"]], atol=1e-3)
    np.testing.assert_allclose(zero + np.array([here.estimates["a"], here.estimates["b"]]), [e["a"], e["b"]], atol=1e-3)
    joint = augmented.fit(what="all")
    assert joint.ofv == pytest.approx(direct.ofv, abs=1e-5)


def test_estimating_omega_again_changes_nothing_that_was_the_maximum(straight, augmented):
    again = augmented.fit()
    assert again.n_parameters == 3
    assert again.ofv == pytest.approx(dn.evaluate_ofv(augmented.model, straight[0]).ofv, abs=1e-4)
    np.testing.assert_allclose(again.omega, augmented.omega, rtol=5e-3)
    named = augmented.fit(what=["a", "omega"])
    assert named.joint.space.names == ("a", "omega[a]", "omega[b,a]", "omega[b]")


def test_prediction_of_the_model_is_g_of_the_covariates(straight, augmented):
    population, base = straight
    g = augmented.effects().set_index("ID")
    table = dn.predict(augmented.model, population)
    expected = [
        base.estimates["a"] + g.loc[i, "G_a"] + (base.estimates["b"] + g.loc[i, "G_b"]) * t
        for i, t in zip(table["ID"], table["TIME"], strict=True)
    ]
    np.testing.assert_allclose(table["PRED"], expected, rtol=1e-10)
    alone = dn.predict(augmented.model, population[[7]])
    np.testing.assert_allclose(alone["PRED"], table.loc[table["ID"] == 8, "PRED"], rtol=1e-12)


def test_fit_predicts_new_subjects_from_covariates_alone(straight, augmented):
    fit = augmented.fit(options=QUIET)
    new = dn.Population([dn.Subject("new", None, ([0.0, 2.0], None), dict(x=1.5, z=-1.0))])
    g = augmented.effects(new).iloc[0]
    e = fit.estimates
    found = fit.predict(new, draws=0)
    np.testing.assert_allclose(found["PRED"], [e["a"] + g.G_a, e["a"] + g.G_a + 2 * (e["b"] + g.G_b)], rtol=1e-10)
    np.testing.assert_array_equal(found["PRED"], found["IPRED"])


def test_explained_start_and_pickle(straight, augmented):
    population, base = straight
    table = augmented.explained
    np.testing.assert_allclose(table["OMEGA_BEFORE"], np.diag(base.omega))
    np.testing.assert_allclose(table["EXPLAINED"], 1 - np.diag(augmented.omega) / np.diag(base.omega))
    assert (table["EXPLAINED"] > 0.15).all()
    ofv = dn.evaluate_ofv(augmented.model, population).ofv
    assert dn.evaluate_ofv(augmented.model, population, at=augmented.start).ofv == pytest.approx(ofv, abs=1e-12)
    copied = pickle.loads(pickle.dumps(augmented.model))
    assert dn.evaluate_ofv(copied, population).ofv == ofv
    assert "explained by covariates" in str(augmented)


# ---- the known traps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", ["network", "regressor"])
def test_sparse_subjects_do_not_shrink_an_effect(learner):
    """A true effect of +-1 with three quarters of the subjects nearly without data; EBEs halve it."""
    if learner == "regressor":
        network = pytest.importorskip("sklearn.linear_model").LinearRegression()
    else:
        network = dn.MLP(1, (), 1)
    found, naive = [], []
    for seed in range(5):
        g = np.random.default_rng(seed)
        sex = g.integers(0, 2, 200).astype(float)
        counts = np.where(np.arange(200) % 4 == 0, 10, 1)
        population = means(lambda c: 2 * c["sex"] - 1, {"sex": sex}, counts, 0.1, 1.5, seed)
        base = dn.fit(Mean(sd=dn.Positive(1.5, fixed=True)), population, options=QUIET)
        done = dn.augment(base, network, folds=0 if learner == "network" else 5)
        expected, ebe = done.effects()["G_a"].to_numpy(), base.etas()["ETA_a"].to_numpy()
        found.append((expected[sex == 1].mean() - expected[sex == 0].mean()) / 2)
        naive.append((ebe[sex == 1].mean() - ebe[sex == 0].mean()) / 2)
    error = np.std(found, ddof=1) / np.sqrt(5)
    assert abs(np.mean(found) - 1.0) < 3 * error + 0.01 and error < 0.1
    assert np.mean(naive) < 0.7


def sparse_boluses(seed, n=150):
    """log cl is +-1 by sex; three quarters of the people have one sample."""
    g, people = np.random.default_rng(seed), []
    for i in range(n):
        sex = "fm"[int(g.uniform() < 0.5)]
        cl = 5.0 * np.exp((1.0 if sex == "m" else -1.0) + 0.3 * g.standard_normal())
        v = 50.0 * np.exp(0.2 * g.standard_normal())
        times = np.array([1.0, 3.0, 6.0, 10.0, 16.0]) if i % 4 == 0 else g.uniform(1, 12, 1)
        y = 100.0 / v * np.exp(-cl / v * times + 0.25 * g.standard_normal(len(times)))
        people.append(dn.Subject(i + 1, dn.Dose(100.0), (times, y), dict(sex=sex)))
    return dn.Population(people)


def test_sparse_subjects_do_not_shrink_an_effect_in_a_model_that_is_not_linear():
    """Around shrunk EBEs data seem to say less than they do; around those learned they say what a joint fit says."""
    network = dn.MLP(1, (), 2)
    once, found, direct = [], [], []
    for seed in range(2):
        people = sparse_boluses(seed)
        men = people.records.covariates["sex"][people.starts[:-1]] == people.categories["sex"].index("m")
        base = dn.fit(Bolus(), people, options=QUIET)
        for rounds, out in ((1, once), (3, found)):
            g = dn.augment(base, network, folds=0, rounds=rounds).effects()["G_cl"].to_numpy()
            out.append((g[men].mean() - g[~men].mean()) / 2)
        model = dn.with_covariates(Bolus(), {"cl": "sex", "v": "sex"}, people)
        estimates = dn.fit(model, people, options=QUIET).estimates
        direct.append(abs(np.log(next(v for n, v in estimates.items() if n.startswith("cl_sex")))) / 2)
    assert np.mean(once) < 0.85 and np.mean(direct) == pytest.approx(1.0, abs=0.05)
    assert np.mean(found) == pytest.approx(np.mean(direct), abs=0.06)


@pytest.mark.parametrize("learner", ["network", "tree"])
def test_a_sharp_split_is_found(learner):
    g = np.random.default_rng(2)
    age, noise = g.uniform(20, 80, 150), g.standard_normal(150)
    counts = np.where(np.arange(150) % 3 == 0, 6, 2)
    population = means(lambda c: 1.0 if c["age"] > 50 else -1.0, {"age": age, "other": noise}, counts, 0.05, 0.5, 2)
    base = dn.fit(Mean(sd=dn.Positive(0.5, fixed=True)), population, options=QUIET)
    if learner == "tree":
        network = pytest.importorskip("sklearn.tree").DecisionTreeRegressor(max_leaf_nodes=3, random_state=0)
        done = dn.augment(base, network)
    else:
        done = dn.augment(base, dn.MLP(2, (6,), 1), penalties=[0.3, 30.0], folds=3)
        assert done.penalties["DOFV"].idxmin() == 0
    truth = np.where(age > 50, 1.0, -1.0) - base.estimates["a"]
    away = np.abs(age - 50) > 4

    def error(fitted):
        return np.abs(fitted.effects()["G_a"].to_numpy() - truth)[away].mean()

    assert error(done) < (0.12 if learner == "tree" else 0.2)
    assert error(dn.augment(base, dn.MLP(2, (), 1), folds=0)) > 0.3  # a straight line cannot
    assert done.explained.loc["a", "EXPLAINED"] > 0.8
    again = done.fit(options=QUIET)
    assert again.ofv < base.ofv - 100


def test_correlated_effects_are_treated_together(straight):
    """With one observation a subject tells a + b t alone; the covariate of b must not be given to a."""
    g = np.random.default_rng(5)
    people = []
    for i in range(200):
        z = float(g.integers(0, 2))
        e = np.linalg.cholesky([[0.5, 0.25], [0.25, 0.25]]) @ g.standard_normal(2)
        times = np.sort(g.uniform(0, 3, 3 if i % 5 == 0 else 1))
        values = 5 + e[0] + (1 + (2 * z - 1) + e[1]) * times + 0.3 * g.standard_normal(len(times))
        people.append(dn.Subject(i + 1, None, (times, values), dict(z=z)))
    base = dn.fit(Line(sd=dn.Positive(0.3, fixed=True)), dn.Population(people), options=QUIET)
    done = dn.augment(base, dn.MLP(1, (), 2), folds=0)
    network = dn.evaluate_ofv(done.model, base.population).networks["covariate_effects"]
    a, b = np.array(network(1.0)) - np.array(network(0.0))
    assert abs(a) < 0.35 and abs(b - 2.0) < 0.35
    assert done.omega.loc["a", "b"] == pytest.approx(0.25, abs=0.15)


def test_noise_explains_nothing_for_subjects_left_out():
    g = np.random.default_rng(7)
    covariates = {name: g.standard_normal(60) for name in ("u", "v", "w")}
    population = means(lambda c: 0.0, covariates, [4] * 60, 1.0, 0.5, 7)
    base = dn.fit(Mean(sd=dn.Positive(0.5, fixed=True)), population, options=QUIET)
    done = dn.augment(base, dn.MLP(3, (6,), 1), penalties=[0.01, 1000.0], folds=3)
    assert list(done.penalties["PENALTY"]) == [0.01, 1000.0]
    assert done.penalties["DOFV"].iloc[0] > 5.0  # follows the noise, and is found out
    assert abs(done.penalties["DOFV"].iloc[1]) < 1.0  # hardly anything is left of the network
    assert done.explained.loc["a", "EXPLAINED"] < 0.05
    same = dn.augment(base, dn.MLP(3, (6,), 1), penalties=[0.01, 1000.0], folds=3)
    pd.testing.assert_frame_equal(same.penalties, done.penalties)


# ---- all kinds of models and covariates ----------------------------------------------------------------------------


class Deep(dn.Model):
    """A network of a vector of random effects, whose Omega is fixed; an effect by occasion; a covariate in the base."""

    base = dn.Positive(5.0)
    sd = dn.Positive(0.2)
    curve = dn.MLP(inputs=3, hidden=(3,), outputs=1, prior=dn.L2(1.0))
    latent = dn.RandomEffects(2, omega=0.1, fixed=True)
    iov = dn.RandomEffects("iov", omega=0.01, by="occasion")

    def individual(self, theta, eta, cov):
        return dict(z=eta.latent, base=theta.base + eta.iov + 0.01 * (cov.wt - 70.0))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base + self_curve(theta, x, p), theta.sd))


def self_curve(theta, x, p):
    return theta.curve(x.time, p.z)


def deep_people(labels=("f", "m", "f"), count=24, seed=3, first=1):
    """A text covariate, and one that changes with time."""
    g = np.random.default_rng(seed)
    times = np.arange(6.0)
    people = []
    for i in range(count):
        label, wt = labels[i % len(labels)], 70 + 10 * g.standard_normal()
        values = 5 + (1.0 if label == labels[0] else -1.0) * np.sin(times) + 0.2 * g.standard_normal(6)
        covariates = dict(group=label, wt=([0.0, 4.0], [wt, wt + 5.0]))
        people.append(dn.Subject(first + i, None, (times, values), covariates, occasions=[0.0, 3.0]))
    return dn.Population(people)


@pytest.fixture(scope="module")
def deep():
    quick = dn.Options(progress=False, covariance=None, max_iterations=5)
    return dn.fit(Deep(), deep_people(), options=quick)


def test_vector_effects_occasions_text_and_covariates_that_change(deep):
    done = dn.augment(deep, dn.MLP(2, (4,), 2, prior=dn.L2(1.0)), ["wt", "group"], folds=2)
    assert done.targets.names == ("latent1", "latent2") and done.inputs.names == ("wt", "group=m")
    first = {s.id: s.covariates["wt"][0] for s in deep.population}
    np.testing.assert_allclose(done.inputs.matrix(deep.population)[:, 0], list(first.values()))
    g = done.effects()[["G_latent1", "G_latent2"]].to_numpy()
    table = dn.predict(done.model, deep.population)
    curve, e = deep.networks["curve"], deep.estimates
    for i, subject in enumerate(deep.population):
        expected = e["base"] + 0.01 * (subject.covariates["wt"] - 70) + curve(subject.time, *g[i])
        np.testing.assert_allclose(table.loc[table["ID"] == subject.id, "PRED"], expected, rtol=1e-9)
    again = done.fit(options=QUIET)
    assert set(again.joint.space.names) == {"omega[latent1]", "omega[latent2]", "omega[iov]"}
    assert not again.joint.space.weights
    kept = done.model.groups["latent"]
    assert kept.fixed.all() and kept.omega[0, 0] == pytest.approx(done.omega.iloc[0, 0])
    everything = done.fit(what="all", options=dn.Options(progress=False, covariance=None, max_iterations=1))
    assert set(everything.joint.space.weights) == {"curve", "covariate_effects"}


def test_effects_can_be_chosen(straight):
    done = dn.augment(straight[1], dn.MLP(2, (), 1), ["x", "z"], effects=["b"], folds=0)
    assert (done.effects()["G_a"] == 0).all() and done.effects()["G_b"].std() > 0
    nothing = dn.Real(0.0, fixed=True)
    direct = LineWithCovariates(a=dn.Real(straight[1].estimates["a"], fixed=True), ax=nothing, az=nothing)
    expected = dn.fit(direct, straight[0], options=QUIET)
    assert dn.evaluate_ofv(done.model, straight[0]).ofv == pytest.approx(expected.ofv, abs=1e-5)


def test_regressor_enters_by_covariates_of_the_people(straight):
    linear = pytest.importorskip("sklearn.linear_model")
    pipeline = pytest.importorskip("sklearn.pipeline").make_pipeline(
        pytest.importorskip("sklearn.preprocessing").StandardScaler(), linear.LinearRegression()
    )
    population, base = straight
    done = dn.augment(base, pipeline)
    people = done.with_predictions(population)
    g = done.effects()
    assert people.covariates == ("x", "z", "g_a", "g_b")
    np.testing.assert_array_equal([s.covariates["g_b"][0] for s in people], g["G_b"])
    with pytest.raises(dn.ModelError, match="g_a"):
        dn.predict(done.model, population)
    fit = done.fit(options=QUIET)
    assert fit.ofv < base.ofv - 20 and set(fit.estimates) >= {"omega[a]"}
    new = dn.Population([dn.Subject(99, None, ([1.0], None), dict(x=0.3, z=0.1))])
    expected = done.effects(new).iloc[0]
    pred = fit.predict(done.with_predictions(new), draws=0)["PRED"][0]
    assert pred == pytest.approx(fit.estimates["a"] + expected.G_a + fit.estimates["b"] + expected.G_b, rel=1e-10)
    with pytest.raises(dn.DataError, match="Invalid `population`: got 'g_a'"):
        done.with_predictions(people)
    image = np.arange(4.0 * len(population)).reshape(len(population), 2, 2)
    pictured = done.with_predictions(population.with_tensors(image=image))
    np.testing.assert_array_equal(pictured.tensors["image"], image)


def test_learning_from_other_people(straight):
    population, base = straight
    rest = dn.augment(dn.fit(Line(), population[:20], options=QUIET), dn.MLP(2, (), 2), population=population, folds=0)
    assert len(rest.targets) == 40
    here = dn.evaluate_ofv(rest.model, population)
    whole = dn.evaluate_ofv(dn.augment(base, dn.MLP(2, (), 2), folds=0).model, population)
    assert here.ofv == pytest.approx(whole.ofv, abs=1e-3)  # g takes up the difference of a and b


def test_labels_as_inputs():
    population = deep_people(("x", "y", "z"))
    inputs = inputs_of(population, ["group"])
    assert inputs.names == ("group=x", "group=y", "group=z")
    np.testing.assert_array_equal(inputs.matrix(population)[:3], np.eye(3))
    cov = {"group": torch.tensor([[[2.0], [0.0]]])}
    np.testing.assert_array_equal(torch.cat(inputs.tensors(cov), -1)[0], [[0, 0, 1], [1, 0, 0]])
    some = inputs_of(population[[0, 1, 3, 4]], ["group"])
    assert some.names == ("group=y",)
    np.testing.assert_allclose(some.matrix(population)[:3, 0], [0.0, 1.0, 0.5])  # z, which was not there: the average


# ---- mistakes ----------------------------------------------------------------------------------------------------


def with_columns(population, **columns):
    people = []
    for i, s in enumerate(population):
        cov = {**{n: float(v[0]) for n, v in s.covariates.items()}, **{n: v[i] for n, v in columns.items()}}
        people.append(dn.Subject(s.id, None, (s.time, s.dv), cov))
    return dn.Population(people)


def test_mistakes_in_covariates(straight):
    population, _ = straight
    wide = with_columns(population, one=[1.0] * 40, twice=[3 - 2 * s.covariates["x"][0] for s in population])
    fit = dn.evaluate_ofv(Line(), wide)
    network = dn.MLP(2, (), 2)
    for covariates, message in (
        (["x", "one"], "Invalid `one`: got 1 for all 40 subjects. A constant covariate .* Leave it out."),
        (["x", "twice"], "Invalid `twice`: got values that are those of `x` up to .* Leave `x` or `twice` out."),
        (["x", "age"], "Invalid `covariates`: got 'age'. The population has x, z, one, twice"),
        ([], "Invalid `covariates`: got none"),
    ):
        with pytest.raises(dn.DataError, match=message):
            dn.augment(fit, network, covariates)
    with pytest.raises(dn.ModelError, match=r"Invalid `covariates`: got 'x'"):
        dn.augment(fit, network, "x")
    g = np.random.default_rng(0)
    many = with_columns(population, **{f"c{i}": g.standard_normal(40) for i in range(40)})
    fit = dn.evaluate_ofv(Line(), many)
    with pytest.raises(dn.DataError, match=r"got 42 inputs for 40 subjects. Without a penalty .* penalties="):
        dn.augment(fit, dn.MLP(42, (), 2), folds=0)
    with pytest.warns(RuntimeWarning, match="42 inputs for 40 subjects"):
        dn.augment(fit, dn.MLP(42, (), 2, prior=dn.L2(10.0)), folds=0)


def test_a_prior_around_what_was_learned(straight, tmp_path):
    """OFV/2 is a quadratic f of the weights: f'(w) + 3 (w - center) = 0, with center 0 and then at what was learned."""
    population, base = straight
    made = dn.augment(base, dn.MLP(2, (), 2, prior=dn.L2(3.0)), folds=0)
    first, eye = made.learned.initial(), np.eye(6)

    def f(w):
        model = made.model.replace(covariate_effects=made.learned.with_weights(w))
        return 0.5 * dn.evaluate_ofv(model, population, options=QUIET).ofv

    zero, single = f(0 * first), [f(e) for e in eye]
    hessian = np.array(
        [[f(a + b) - single[i] - single[j] + zero for j, b in enumerate(eye)] for i, a in enumerate(eye)]
    )
    slope = np.array(single) - zero - 0.5 * np.diag(hessian)
    np.testing.assert_allclose(np.linalg.solve(hessian + 3 * eye, -slope), first, atol=2e-4)
    for prior, center in (("declared", 0 * first), ("learned", first)):
        again = made.fit(what="covariate_effects", prior=prior)
        expected = np.linalg.solve(hessian + 3 * eye, 3 * center - slope)
        np.testing.assert_allclose(again.weights["covariate_effects"], expected, atol=2e-5)
        assert ("L2(3) around given weights" in str(again)) == (prior == "learned")
    joint = made.fit(what="all", prior="learned")
    assert joint.penalty < made.fit(what="all").penalty
    joint.save(tmp_path / "fit.npz")
    read = dn.load_fit(tmp_path / "fit.npz", made.released("all", "learned"), population)
    assert read.ofv == joint.ofv and read.penalty == joint.penalty and str(read) == str(joint)
    with pytest.raises(dn.ModelError, match="`covariate_effects` is declared as"):
        dn.load_fit(tmp_path / "fit.npz", made.released("all"), population)


def test_a_prior_around_what_was_learned_needs_weights_that_are_estimated(straight, augmented):
    made = dn.augment(straight[1], dn.MLP(2, (), 2, prior=dn.L2(1.0)), folds=0)
    for fit, message in (
        (lambda: made.fit(what="all", prior="zero"), 'Invalid `prior`: got \'zero\'. It is "declared" or "learned"'),
        (lambda: made.fit(prior="learned"), 'got "learned" with what=\'omega\'. .* or give what="all"'),
        (lambda: augmented.fit(what="all", prior="learned"), 'got "learned" for a network without a prior'),
    ):
        with pytest.raises(dn.ModelError, match=message):
            fit()
    tree = pytest.importorskip("sklearn.linear_model").LinearRegression()
    with pytest.raises(dn.ModelError, match='got "learned" for a regressor'):
        dn.augment(straight[1], tree).fit(what="all", prior="learned")


def test_missing_covariates_name_the_ways_out(straight):
    population, _ = straight
    records = population.records
    values = np.where(records.subject == 4, np.nan, records.covariates["z"])
    broken = dn.Records(**dict(records.columns()), covariates={**records.covariates, "z": values})
    holes = dn.Population._of(broken, population.ids, {}, (), population.interpolation, ())
    with pytest.raises(
        dn.DataError, match=r"Invalid `z`: got no value for 1 of 40 subjects \(5\).*median.*imputations"
    ):
        inputs_of(holes, None)


def test_unknown_labels_are_refused(deep):
    done = dn.augment(deep, dn.MLP(2, (), 2, prior=dn.L2(1.0)), folds=0)
    turned = deep_people(("m", "f"), count=2)  # coded the other way round in a population of its own
    g = done.effects(turned)
    assert g.loc[0, "G_latent1"] != g.loc[1, "G_latent1"]
    assert done.with_predictions(turned).categories == deep.population.categories
    with pytest.raises(dn.DataError, match=r"Invalid `group`: got 'q'. The fit's population has f, m"):
        done.effects(deep_people(("q", "f"), count=2))


def test_mistakes_in_the_network_and_settings(straight, augmented):
    _, base = straight
    network = dn.MLP(2, (), 2)
    for call, message in (
        (lambda: dn.augment(base, dn.MLP(3, (), 2)), "got 3 inputs. There are 2: x, z. Declare inputs=2."),
        (lambda: dn.augment(base, dn.MLP(2, (), 1)), "got 1 outputs. There are 2: a, b. Declare outputs=2."),
        (lambda: dn.augment(Line(), network, population=base.population), "Invalid `fit`: got Line. It is a fit"),
        (lambda: dn.augment(base, "net"), "Invalid `network`: got 'net'. It is a dn.MLP"),
        (lambda: dn.augment(base, network, effects=["c"]), "Invalid `effects`: got 'c'"),
        (lambda: dn.augment(base, network, penalties=[]), "Invalid `penalties`"),
        (lambda: dn.augment(base, network, penalties=[1, 2], folds=0), "needs cross-validation"),
        (lambda: dn.augment(base, network, folds=1), "Invalid `folds`: got 1"),
        (lambda: dn.augment(base, network, starts=0), "Invalid `starts`: got 0"),
        (lambda: dn.augment(base, network, rounds=0), "Invalid `rounds`: got 0"),
        (lambda: augmented.fit(what="omegas"), 'Invalid `what`: got \'omegas\'. It is "omega", "all", or some of a, b'),
        (lambda: dn.augment(augmented.fit(), network), "augmented already"),
    ):
        with pytest.raises(dn.ModelError, match=message):
            call()
    neighbours = pytest.importorskip("sklearn.neighbors").KNeighborsRegressor()
    with pytest.raises(dn.ModelError, match=r"got KNeighborsRegressor. Its fit must take sample_weight"):
        dn.augment(base, neighbours)
    with pytest.raises(dn.ModelError, match=r"Invalid `penalties`.*regressor has settings of its own"):
        dn.augment(base, pytest.importorskip("sklearn.linear_model").LinearRegression(), penalties=[1.0])


# ---- kept, given on, and on top of other things --------------------------------------------------------------------


@pytest.mark.parametrize("learner", ["network", "regressor"])
def test_a_result_can_be_pickled(straight, augmented, learner):
    """A regressor's predictions of new people come from the result, so that it must be possible to keep it."""
    if learner == "regressor":
        augmented = dn.augment(straight[1], pytest.importorskip("sklearn.linear_model").LinearRegression())
    again = pickle.loads(pickle.dumps(augmented))
    pd.testing.assert_frame_equal(again.effects(), augmented.effects())
    assert again.inputs == augmented.inputs and again.explained.equals(augmented.explained)
    here, there = (dn.evaluate_ofv(a.model, a.with_predictions(straight[0])).ofv for a in (again, augmented))
    assert here == there


def test_people_with_other_codes_are_refused_by_the_model(deep):
    """`effects` codes them again; the model alone cannot."""
    done = dn.augment(deep, dn.MLP(1, (), 2, prior=dn.L2(1.0)), ["group"], folds=0)
    turned = deep_people(("m", "f"), count=2)
    alone = dn.read_nonmem(deep_people(("m",), count=2).to_frame(), covariates=["group", "wt"])
    assert turned.categories == {"group": ("f", "m")} and alone.categories == {"group": ("m",)}
    dn.predict(done.model, turned)
    with pytest.raises(dn.DataError, match=r"Invalid `group`: got the label 'm' with the code 0\. .* f = 0, m = 1\."):
        dn.predict(done.model, alone)
    assert str(done).startswith("AugmentedDeep: 24 subjects") and repr(done.model.groups)


def test_other_people_may_have_more_occasions(deep):
    people = deep_people(count=6, first=100)
    three = [dn.Subject(s.id, None, (s.time, s.dv), dict(wt=70.0, group="f"), occasions=[0, 2, 4]) for s in people]
    three[0] = dn.Subject(100, None, (people[0].time, people[0].dv), dict(wt=75.0, group="m"), occasions=[0, 2, 4])
    found = effect_targets(deep, dn.Population(three))
    assert found.precision.shape == (6, 2, 2) and deep.joint.occasions == 2
    one_by_one = [effect_targets(deep, dn.Population([s])).precision[0] for s in three]
    np.testing.assert_allclose(found.precision, one_by_one, rtol=1e-6, atol=1e-8)


def test_options_of_the_base_fit(straight, tmp_path):
    """Its checkpoint is that of another model; the people it kept aside need a regressor's predictions too."""
    population, base = straight
    rest = [dn.Subject(s.id + 100, None, (s.time, s.dv), {n: float(v[0]) for n, v in s.covariates.items()})
            for s in population[:6]]  # fmt: skip
    options = dn.Options(progress=False, covariance=None, checkpoint=tmp_path / "base.npz")
    base = dn.fit(Line(), population, options=options)
    linear = pytest.importorskip("sklearn.linear_model").LinearRegression()
    done = dn.augment(base, linear)
    assert done.fit().ofv < base.ofv - 20
    aside = dn.Options(progress=False, covariance=None, held_out=dn.Population(rest), max_iterations=3)
    assert done.fit(options=aside).population.covariates == ("x", "z", "g_a", "g_b")
    base = dn.fit(Line(), population, options=dn.Options(progress=False, covariance=None, held_out=0.25))
    fit = dn.augment(base, dn.MLP(2, (), 2), folds=0).fit()
    assert fit.population.ids == base.population.ids and fit.held_out.ids == base.held_out.ids


def test_a_saved_fit_is_read_with_the_model_that_was_released(augmented, tmp_path):
    fit = augmented.fit(what=["a", "omega"])
    fit.save(tmp_path / "fit.npz")
    read = dn.load_fit(tmp_path / "fit.npz", augmented.released(["a", "omega"]), augmented.base.population)
    assert read.ofv == fit.ofv and read.estimates == fit.estimates


def test_a_vector_with_an_effect_of_no_variance(straight):
    class Vector(Line):
        eta = None
        latent = dn.RandomEffects(3, omega=[1.0, 0.0, 0.3], fixed=True)

        def individual(self, theta, eta, cov):
            return dict(a=theta.a + eta.latent[..., 0], b=theta.b + eta.latent[..., 2])

    done = dn.augment(dn.evaluate_ofv(Vector(), straight[0]), dn.MLP(2, (), 2), folds=0)
    assert done.predicted == done.targets.names == ("latent1", "latent3")
    with pytest.raises(dn.ModelError, match="A vector or a block of effects is estimated as a whole"):
        done.fit(what="omega")


def test_one_table_of_what_was_learned(augmented):
    table = augmented.to_frame()
    pd.testing.assert_frame_equal(table[["ID", "G_a", "G_b"]], augmented.effects())
    y, v = augmented.targets.given_others(augmented.expected, augmented.omega.to_numpy())
    np.testing.assert_array_equal(table[["Y_a", "Y_b"]], y)
    np.testing.assert_array_equal(table[["SE_Y_a", "SE_Y_b"]], np.sqrt(v))
    assert np.isfinite(y).all()  # half of the subjects have one observation
