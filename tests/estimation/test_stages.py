"""Where a fit starts and stops: subjects kept aside, a fit without random effects first, an earlier fit, seeds."""

import numpy as np
import pytest
import torch

import deepnlme as dn
from deepnlme.estimation.inner import InnerOptions
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.stages import continued, initial_points, pooled, split
from deepnlme.estimation.watch import LOOK_ASIDE
from deepnlme.joint import Joint, calibrated
from network_models import SCALED, InObserve, MixedRidge, Ridge, line_data, people

QUIET = dict(progress=False)


def value(fit):
    return fit.ofv + fit.penalty


# ---- early stopping ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_share_of_the_subjects_is_kept_aside(share):
    population = line_data(10)
    kept, aside = split(population, dn.Options(held_out=share, seed=3))
    assert len(aside) == round(10 * share)
    assert sorted([*kept.ids, *aside.ids]) == sorted(population.ids)
    assert not set(kept.ids) & set(aside.ids)
    assert list(kept.ids) == sorted(kept.ids) and list(aside.ids) == sorted(aside.ids)
    again = split(population, dn.Options(held_out=share, seed=3))
    assert again[1].ids == aside.ids
    assert any(split(population, dn.Options(held_out=share, seed=s))[1].ids != aside.ids for s in range(5))


def test_a_population_of_its_own_may_be_kept_aside():
    population, other = line_data(4), line_data(3, seed=8)
    assert split(population, dn.Options(held_out=other)) == (population, other)
    assert split(population, dn.Options()) == (population, None)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_nobody_is_refused(share):
    with pytest.raises(dn.ModelError, match=r"Invalid `held_out`: got .*of 4 subjects"):
        dn.fit(Ridge(), line_data(4), dn.NaivePooled(), options=dn.Options(**QUIET, held_out=share))


def flexible(seed=0):
    units = SCALED | dict(input_center=2.0)
    return Ridge(sd=dn.Positive(2.0), line=dn.MLP(1, (12,), seed=seed, **units))


@pytest.fixture(scope="module")
def early():
    """A network without a prior follows the noise of its few subjects."""
    options = dn.Options(**QUIET, held_out=line_data(6, seed=5), patience=5)
    return dn.fit(flexible(), line_data(2), dn.NaivePooled(), options=options)


def test_the_point_that_is_best_for_the_subjects_kept_aside_is_returned(early):
    found = np.array(early.trace.held_out)
    assert early.status is dn.FitStatus.EARLY
    assert len(found) == len(early.trace.ofv)
    looked = np.flatnonzero(np.isfinite(found))
    np.testing.assert_array_equal(looked, np.arange(0, len(found), LOOK_ASIDE))
    best = int(np.nanargmin(found))
    assert 0 < best < looked[-1]  # it became better, and worse again
    assert len(found) - 1 - best > early.options.patience
    at_kept = dn.evaluate_ofv(early.model, early.held_out, dn.NaivePooled(), at=early)
    assert at_kept.ofv == pytest.approx(found[best], abs=1e-6)
    assert early.ofv == pytest.approx(early.trace.ofv[best], abs=1e-9)
    assert min(early.trace.ofv) < early.ofv - 0.01
    again = dn.evaluate_ofv(early.model, early.population, dn.NaivePooled(), at=early)
    assert again.ofv == pytest.approx(early.ofv, abs=1e-8)


def test_it_says_so(early):
    assert "6 subjects were kept aside for early stopping" in str(early)
    assert "stopped early" in str(early)
    assert early.converged


def test_a_fit_whose_held_out_subjects_keep_improving_ends_as_any_other():
    population = line_data(8)
    fit = dn.fit(MixedRidge(), population, options=dn.Options(**QUIET, held_out=0.25, seed=1))
    assert fit.status is dn.FitStatus.CONVERGED
    assert (len(fit.population), len(fit.held_out)) == (6, 2)
    best = np.nanmin(fit.trace.held_out)
    found = dn.evaluate_ofv(fit.model, fit.held_out, at=fit)
    assert found.ofv == pytest.approx(best, abs=1e-6)


def test_subjects_without_observations_cannot_be_kept_aside():
    empty = dn.Population([dn.Subject("x", None, ([1.0], None))])
    with pytest.raises(dn.DataError, match="x"):
        dn.fit(Ridge(), line_data(4), dn.NaivePooled(), options=dn.Options(**QUIET, held_out=empty))


# ---- without random effects first --------------------------------------------------------------------------------


def test_pooled_start_is_the_fit_without_random_effects():
    population = people(4, dose=None)
    joint = Joint(InObserve(), population)
    u = joint.space.initial()
    options = dn.Options(**QUIET)
    found = pooled(joint, u, options)
    # variances, and weights of the first layer whose inputs are random effects, are as they were
    theta, rest = 1, joint.space.structural
    np.testing.assert_array_equal(found[theta:rest], u[theta:rest])
    net = joint.space.networks["curve"]
    matrix = np.arange(rest, rest + 9).reshape(3, 3)  # [input, unit]; inputs are time and two random effects
    np.testing.assert_array_equal(found[matrix[1:]], u[matrix[1:]])
    assert (found[matrix[0]] != u[matrix[0]]).all()
    assert (found[rest + 9 : rest + net.size] != u[rest + 9 : rest + net.size]).all()
    fixed = joint.model.replace(latent=joint.model.groups["latent"].as_fixed())
    alone = dn.fit(fixed, population, dn.NaivePooled(), options=options)
    before = dn.evaluate_ofv(fixed, population, dn.NaivePooled())
    at = dict(sd=float(np.exp(found[0])), curve=found[rest:])
    after = dn.evaluate_ofv(fixed, population, dn.NaivePooled(), at=at)
    assert after.ofv == pytest.approx(alone.ofv, abs=1e-6)
    assert after.ofv < before.ofv - 1.0


def test_pooled_first_does_not_change_where_a_convex_fit_ends():
    population = line_data()
    one, two = (dn.fit(MixedRidge(), population, options=dn.Options(**QUIET, pooled_first=p)) for p in (True, False))
    np.testing.assert_allclose(one.weights["line"], two.weights["line"], rtol=1e-6)


def test_pooled_first_of_a_model_whose_parameters_are_all_fixed():
    model = MixedRidge(line=dn.MLP(1, (), fixed=True, **SCALED), eta=dn.RandomEffects("b", omega=0.4))
    fit = dn.fit(model, line_data(), options=dn.Options(**QUIET, pooled_first=True))
    plain = dn.fit(model, line_data(), options=dn.Options(**QUIET))
    assert fit.ofv == pytest.approx(plain.ofv, abs=1e-6)


# ---- seeds -------------------------------------------------------------------------------------------------------


def test_further_starts_have_other_weights_and_the_same_parameters():
    objective = MarginalObjective(Joint(InObserve(), people(3, dose=None)), dn.FOCE(), InnerOptions())
    u, rest = objective.joint.space.initial(), objective.joint.space.structural
    points = initial_points(objective, u, dn.Options(starts=3, seed=4))
    np.testing.assert_array_equal(points[0], u)
    for point in points[1:]:
        np.testing.assert_array_equal(point[:rest], u[:rest])
        assert not np.isclose(point[rest : rest + 9], u[rest : rest + 9]).any()
    assert not np.isclose(points[1][rest : rest + 9], points[2][rest : rest + 9]).any()
    again = initial_points(objective, u, dn.Options(starts=3, seed=4))
    np.testing.assert_array_equal(points, again)


# ---- from an earlier fit -----------------------------------------------------------------------------------------


def automatic(**rest):
    return InObserve(curve=dn.MLP(3, (3,), outputs=2, prior=dn.L1(0.7), **rest))


@pytest.fixture(scope="module")
def earlier():
    return dn.fit(automatic(), people(4, dose=None), options=dn.Options(**QUIET, max_iterations=5))


def test_a_fit_goes_on_from_an_earlier_one(earlier):
    """Units found from the data are taken over, too: the first value is the last one."""
    again = dn.evaluate_ofv(automatic(seed=9), earlier.population, at=earlier)
    assert value(again) == pytest.approx(value(earlier), abs=1e-6)
    on = dn.fit(automatic(), earlier.population, start=earlier, options=dn.Options(**QUIET, max_iterations=4))
    first = on.trace.ofv[0] + on.trace.penalty[0]
    assert first <= value(earlier) + 1e-6
    assert value(on) < value(earlier)
    assert on.model.networks["curve"].scaling == earlier.model.networks["curve"].scaling


def test_other_data_keep_the_units_of_the_earlier_fit(earlier):
    other = people(6, seed=11, dose=None)
    own = calibrated(automatic(), other).networks["curve"].scaling
    found = dn.evaluate_ofv(automatic(), other, at=earlier)
    assert found.model.networks["curve"].scaling == earlier.model.networks["curve"].scaling != own
    np.testing.assert_array_equal(found.weights["curve"], earlier.weights["curve"])
    assert found.estimates == pytest.approx(earlier.estimates, rel=1e-12)


def test_what_the_models_do_not_share_keeps_its_declared_value(earlier):
    class More(InObserve):
        shift = dn.Real(0.7)
        other = dn.MLP(1, (2,), **SCALED)

        def observe(self, theta, p, x):
            mean, spread = theta.curve(x.time, p.z)
            mean = mean + theta.shift + theta.other(x.time)
            return dict(dv=dn.Normal(1.0 + mean, theta.sd * torch.exp(0.3 * spread)))

    model = More(curve=dn.MLP(3, (3,), outputs=2), latent=dn.RandomEffects(2, omega=0.9, fixed=True))
    new, values = continued(model, earlier)
    found = new.space.as_dict(new.space.initial(values))
    assert found["shift"] == 0.7
    assert found["sd"] == pytest.approx(earlier.estimates["sd"], rel=1e-12)
    assert found["omega[latent1]"] == found["omega[latent2]"] == pytest.approx(0.9)
    u, space = new.space.initial(values), new.space
    np.testing.assert_array_equal(u[space.weights["curve"]], earlier.weights["curve"])
    np.testing.assert_array_equal(u[space.weights["other"]], model.networks["other"].initial(number=1))
    # a start may leave something open, an evaluation may not
    with pytest.raises(dn.ModelError, match=r"no values for the network other .*, shift"):
        dn.evaluate_ofv(model, earlier.population, at=earlier)


@pytest.mark.parametrize("change", [{"hidden": (4,)}, {"typical": 1.0}, {"input_scale": 0.3}])
def test_weights_are_never_taken_into_another_network(earlier, change):
    """Another architecture, or other units: the weights would mean something else there."""
    how = {"inputs": 3, "hidden": (3,), "outputs": 2} | change
    model = automatic().replace(curve=dn.MLP(**how))
    assert "curve" not in continued(model, earlier)[1]
    with pytest.raises(dn.ModelError, match="the network curve"):
        dn.evaluate_ofv(model, earlier.population, at=earlier)


def test_text_covariates_of_others_are_coded_as_in_the_fit():
    """A population that holds men only has other codes of its own; they are translated, held-out subjects too."""

    class BySex(dn.Model):
        low, high, sd = dn.Real(1.0), dn.Real(5.0), dn.Positive(0.5)
        eta = dn.RandomEffects("level", omega=0.1)

        def individual(self, theta, eta, cov):
            return dict(level=torch.where(cov.sex > 0.5, theta.high, theta.low) + eta.level)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.level + 0.0 * x.time, theta.sd))

    def person(i, sex):
        values = (5.0 if sex == "M" else 1.0) + 0.1 * np.cos(np.arange(3.0) + i)
        return dn.Subject(i, None, (np.arange(3.0), values), {"sex": sex})

    mixed = dn.Population([person(i, "FM"[i % 2]) for i in range(6)])
    men = dn.Population([person(10 + i, "M") for i in range(3)])
    fit = dn.fit(BySex(), mixed, options=dn.Options(**QUIET, held_out=men))
    alone = sum(dn.evaluate_ofv(fit.model, mixed[[i]], at=fit.estimates).ofv for i in (1, 3, 5))
    found = dn.evaluate_ofv(fit.model, men, at=fit).ofv
    assert found == pytest.approx(alone, abs=1.0)  # three men like the other three
    assert np.nanmin(fit.trace.held_out) < found + 5.0


def test_a_network_can_be_kept_at_fitted_weights(earlier):
    """Fixed weights in the units of the fit: declared with them, they give the same objective."""
    net = earlier.model.networks["curve"].with_weights(earlier.weights["curve"], fixed=True)
    found = dn.evaluate_ofv(InObserve(curve=net), earlier.population, at=earlier)
    assert found.ofv == pytest.approx(earlier.ofv, abs=1e-6)
    assert found.penalty == 0.0
    assert found.n_parameters == 3
