"""Stochastic descent and L-BFGS: penalised least squares in closed form; large networks by default."""

import numpy as np
import pytest

import deepnlme as dn
from deepnlme.estimation.adam import _gradient
from deepnlme.estimation.inner import InnerOptions
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.optimiser import optimise, way
from deepnlme.joint import Joint
from deepnlme.nn import mlp
from network_models import SCALED, InObserve, MixedRidge, Ridge, line_data, people, ridge_solution

QUIET = dict(progress=False)


def value(fit):
    return fit.ofv + fit.penalty


def exact(population, omega):
    """The least value that the objective can have."""
    model = MixedRidge() if omega else Ridge()
    method = dn.FOCE() if omega else dn.NaivePooled()
    return value(dn.evaluate_ofv(model, population, method, at=dict(line=ridge_solution(population, omega))))


@pytest.mark.parametrize("shared", [False, True], ids=["by row", "shared"])
@pytest.mark.parametrize("omega", [0.0, 0.4])
def test_adam_approaches_penalised_least_squares(omega, shared, monkeypatch):
    if shared:
        monkeypatch.setattr(mlp, "MAX_PER_ROW", 0)
    population = line_data(8)
    model, method = (MixedRidge(), dn.FOCE()) if omega else (Ridge(), dn.NaivePooled())
    options = dn.Options(**QUIET, optimiser="adam", learning_rate=0.1, batch_size=3, max_iterations=60, seed=1)
    fit = dn.fit(model, population, method, options=options)
    best = exact(population, omega)
    assert best - 1e-8 <= value(fit) < best + 0.1
    np.testing.assert_allclose(fit.weights["line"], ridge_solution(population, omega), atol=0.05)
    assert fit.status in (dn.FitStatus.FLAT, dn.FitStatus.MAX_ITERATIONS)
    values = np.array(fit.trace.ofv) + np.array(fit.trace.penalty)
    assert (np.diff(values) <= 1e-12).all()
    assert value(fit) == pytest.approx(values[-1], rel=1e-12)


@pytest.mark.parametrize("shared", [False, True], ids=["by row", "shared"])
@pytest.mark.parametrize("omega", [0.0, 0.4])
def test_limited_memory_finds_penalised_least_squares(omega, shared, monkeypatch):
    if shared:
        monkeypatch.setattr(mlp, "MAX_PER_ROW", 0)
    population = line_data()
    model, method = (MixedRidge(), dn.FOCE()) if omega else (Ridge(), dn.NaivePooled())
    fit = dn.fit(model, population, method, options=dn.Options(**QUIET, optimiser="l-bfgs"))
    np.testing.assert_allclose(fit.weights["line"], ridge_solution(population, omega), rtol=1e-5)
    assert value(fit) == pytest.approx(exact(population, omega), abs=1e-8)


def test_batches_give_the_whole_gradient_on_average():
    """Every subject once: the mean over an epoch's batches of equal size is the gradient."""
    joint = Joint(InObserve(), people(6, dose=None))
    objective = MarginalObjective(joint, dn.FOCE(), InnerOptions(tolerance=1e-9))
    u = joint.space.initial() + 0.1
    whole = objective(u).gradient[0]
    order = np.random.default_rng(0).permutation(6)
    parts = [_gradient(objective, objective.part(np.sort(order[i : i + 2])), u) for i in (0, 2, 4)]
    np.testing.assert_allclose(np.mean(parts, 0), whole, rtol=1e-8, atol=1e-8 * np.abs(whole).max())


def test_the_same_seed_gives_the_same_fit():
    options = dict(**QUIET, optimiser="adam", batch_size=2, max_iterations=4)
    population = people(5, dose=None)
    one, two, other = (dn.fit(InObserve(), population, options=dn.Options(**options, seed=s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.free, two.free)
    assert not np.array_equal(one.free, other.free)


def test_a_step_into_the_wild_does_not_stay_there():
    """A rate far too large leads to points that are not finite; the modes found there are not remembered."""
    options = dn.Options(**QUIET, optimiser="adam", learning_rate=1e4, batch_size=8, max_iterations=4)
    population = people(4, dose=None)
    start = dn.evaluate_ofv(InObserve(), population)
    fit = dn.fit(InObserve(), population, options=options)
    assert np.isfinite(fit.ofv) and np.isfinite(fit.evaluation.z).all()
    assert value(fit) <= value(start) + 1e-9
    joint = Joint(InObserve(), population)
    objective = MarginalObjective(joint, dn.FOCE())
    optimise(objective, joint.space.initial(), options)
    after = objective(joint.space.initial())
    assert after.value[0] == pytest.approx(value(start), abs=1e-4)


def test_what_auto_means(monkeypatch):
    def chosen(model, **options):
        joint = Joint(model, line_data())
        return way(MarginalObjective(joint, dn.NaivePooled()), dn.Options(**options))

    assert chosen(Ridge()) == "gauss-newton"
    assert chosen(Ridge(line=dn.MLP(1, (70,), seed=1))) == "gauss-newton"
    assert chosen(Ridge(line=dn.MLP(1, (40, 40)))) == "l-bfgs"
    assert chosen(Ridge(line=dn.MLP(1, (100, 100)))) == "adam"
    kept = Ridge(sd=dn.Positive(0.5), line=dn.MLP(1, (), fixed=True))
    assert chosen(kept) == "newton"
    assert chosen(Ridge(), optimiser="adam") == "adam"


def test_a_large_network_is_fitted_by_default():
    """More than 600 weights: shared by all rows, no information, L-BFGS."""
    net = dn.MLP(1, (30, 20), prior=dn.L2(1.0), **SCALED)
    assert net.shared
    population = line_data(4)
    fit = dn.fit(MixedRidge(line=net), population, options=dn.Options(**QUIET, max_iterations=30))
    start = dn.evaluate_ofv(MixedRidge(line=net), population)
    assert value(fit) < value(start) - 5.0
    assert fit.networks["line"](2.0) == pytest.approx(1.8, abs=0.6)
    with pytest.raises(
        dn.ModelError, match=r"Invalid covariance step: the model has 701 weights that all subjects share"
    ):
        fit.with_covariance("R")
