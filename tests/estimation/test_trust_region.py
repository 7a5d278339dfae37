"""Descent with the expected information: closed forms, the other optimisers, several starts."""

import numpy as np
import pytest
from scipy.optimize import minimize

import deepnlme as dn
from deepnlme.estimation import optimiser
from deepnlme.estimation.inner import InnerOptions
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.trust_region import _damping, _Lane, damped_update
from deepnlme.joint import Joint
from network_models import SCALED, MixedRidge, Ridge, line_data, people, ridge_solution

QUIET = dict(progress=False)


@pytest.mark.parametrize("method", [dn.FO(), dn.FOCE(), dn.Laplace()], ids=lambda m: m.name)
def test_penalised_generalised_least_squares(method):
    population = line_data()
    fit = dn.fit(MixedRidge(), population, method, options=dn.Options(**QUIET))
    expected = ridge_solution(population, omega=0.4)
    np.testing.assert_allclose(fit.weights["line"], expected, rtol=1e-6)
    assert fit.status is dn.FitStatus.CONVERGED
    assert fit.converged
    assert fit.penalty == pytest.approx(2.0 * np.sum(expected**2), rel=1e-6)
    assert len(fit.trace.ofv) <= 6


@pytest.mark.parametrize("way", ["auto", "gauss-newton", "newton", "bfgs", "l-bfgs"])
def test_every_optimiser_finds_penalised_least_squares(way):
    population = line_data()
    fit = dn.fit(Ridge(), population, dn.NaivePooled(), options=dn.Options(**QUIET, optimiser=way))
    np.testing.assert_allclose(fit.weights["line"], ridge_solution(population, omega=0.0), rtol=1e-5)


class Smooth(dn.Model):
    """A curve for each subject; the network scales the random effect, whose variance is therefore fixed."""

    sd = dn.Positive(0.3)
    curve = dn.MLP(2, (2,), prior=dn.L2(0.5), **SCALED | dict(input_center=[2.0, 0.0], input_scale=2.0))
    latent = dn.RandomEffects(1, omega=0.3, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(z=eta.latent)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(1.0 + theta.curve(x.time, p.z), theta.sd))


def smooth(seed=0):
    units = SCALED | dict(input_center=[2.0, 0.0], input_scale=2.0)
    return Smooth(curve=dn.MLP(2, (2,), prior=dn.L2(0.5), seed=seed, **units))


@pytest.mark.parametrize("seed", [0, 2])
def test_the_same_optimum_as_newtons_method_with_the_exact_hessian(seed):
    """It ends on flat ground, where Newton's method can still gain a little; this problem has one optimum."""
    population, model = people(6, dose=None), smooth(seed)
    fit = dn.fit(model, population, options=dn.Options(**QUIET))
    newton = dn.fit(model, population, start=fit, options=dn.Options(**QUIET, optimiser="newton", tolerance=1e-10))
    far = dn.fit(model, population, options=dn.Options(**QUIET, optimiser="newton", tolerance=1e-10))
    assert far.ofv + far.penalty == pytest.approx(newton.ofv + newton.penalty, abs=1e-6)
    assert -1e-8 <= fit.ofv + fit.penalty - newton.ofv - newton.penalty < 1e-3
    # what it shows is what it kept
    values = np.array(fit.trace.ofv) + np.array(fit.trace.penalty)
    assert (np.diff(values) <= 1e-9).all()
    assert fit.ofv + fit.penalty == pytest.approx(values[-1], abs=1e-9)
    assert fit.ofv == pytest.approx(dn.evaluate_ofv(model, population, at=fit).ofv, abs=1e-6)


def test_the_same_call_gives_the_same_answer():
    population, options = people(4, dose=None), dn.Options(**QUIET, starts=2, max_iterations=6)
    one, two = (dn.fit(smooth(), population, options=options) for _ in range(2))
    np.testing.assert_array_equal(one.free, two.free)
    assert one.ofv == two.ofv
    assert one.starts == two.starts


def test_starts_side_by_side_are_those_one_after_the_other():
    """Each lane descends as it would alone, up to rounding, and the best of them is the fit."""
    population, limit = people(4, dose=None), 6
    joint = Joint(smooth(), population)
    u = joint.space.initial()
    rng = np.random.default_rng(1)
    points = np.stack([u, joint.space.with_weights(u, rng), joint.space.with_weights(u, rng)])
    options = dn.Options(**QUIET, max_iterations=limit)

    def descended(starts):
        return optimiser.optimise(MarginalObjective(joint, dn.FOCE(), InnerOptions()), starts, options)

    alone = [descended(point) for point in points]
    values = np.array([float(found.evaluation.value[0]) for found in alone])
    assert np.ptp(values) > 1e-3  # three different descents
    side = descended(points)
    best = int(values.argmin())
    assert float(side.evaluation.value[0]) == pytest.approx(values[best], abs=1e-5)
    np.testing.assert_allclose(side.u, alone[best].u, rtol=1e-4, atol=1e-5)


def test_several_starts_are_never_worse_than_the_first():
    population = people(4, dose=None)
    one = dn.fit(smooth(seed=5), population, options=dn.Options(**QUIET, max_iterations=8))
    more = dn.fit(smooth(seed=5), population, options=dn.Options(**QUIET, max_iterations=8, starts=4, seed=3))
    assert more.ofv + more.penalty <= one.ofv + one.penalty + 1e-5


def test_a_start_that_is_not_finite_is_left_alone():
    joint = Joint(Ridge(), line_data())
    u = joint.space.initial()
    starts = np.stack([u, np.full(2, 1e200)])
    found = optimiser.optimise(MarginalObjective(joint, dn.NaivePooled()), starts, dn.Options(**QUIET))
    np.testing.assert_allclose(found.u, ridge_solution(line_data(), omega=0.0), rtol=1e-6)


# ---- the parts ---------------------------------------------------------------------------------------------------


def random_matrix(rng, n):
    a = rng.standard_normal((n, n))
    return a @ a.T + 0.1 * np.eye(n)


def test_damped_update_keeps_positive_definite_and_the_secant_equation():
    rng = np.random.default_rng(0)
    damped = 0
    for _ in range(200):
        b, step, change = random_matrix(rng, 4), rng.standard_normal(4), 2.0 * rng.standard_normal(4)
        new = damped_update(b, step, change)
        np.testing.assert_allclose(new, new.T, atol=1e-10)
        assert np.linalg.eigvalsh(new).min() > 0
        curve = step @ b @ step
        if step @ change >= 0.2 * curve:
            np.testing.assert_allclose(new @ step, change, rtol=1e-8, atol=1e-9)
        else:
            damped += 1
            assert step @ new @ step == pytest.approx(0.2 * curve, rel=1e-8)
    assert 20 < damped < 180


def test_damped_update_of_a_singular_direction_changes_nothing():
    b = np.diag([1.0, 0.0])
    np.testing.assert_array_equal(damped_update(b, np.array([0.0, 1.0]), np.array([1.0, 5.0])), b)


def test_damping_gives_a_step_of_the_radius():
    local, size = np.array([3.0, -1.0, 0.5]), np.array([2.0, 1e-6, 0.3])
    for radius in (1e-6, 1e-3, 0.1, 1.0, 10.0):
        mu = _damping(local, size, radius)
        assert np.linalg.norm(local / (size + mu)) == pytest.approx(radius, rel=0.02)
    assert _damping(local, size, 1e9) == 0.0


class Fixed:
    """An evaluation of a quadratic function."""

    def __init__(self, gradient):
        self.gradient, self.value = gradient[None], np.zeros(1)


@pytest.mark.parametrize("radius", [0.01, 0.3, 100.0])
def test_the_step_minimises_the_quadratic_model_within_the_radius(radius):
    rng = np.random.default_rng(3)
    b, g = random_matrix(rng, 3), rng.standard_normal(3)
    lane = _Lane(0, np.zeros(3), Fixed(g), 0.5, 1e-8, radius=radius, curvature=b)
    step, promised = lane.propose()
    assert np.linalg.norm(step) <= 1.02 * radius

    def model(v):
        return float(g @ v + 0.5 * v @ b @ v)

    limit = {"type": "ineq", "fun": lambda v: radius**2 - v @ v}
    expected = minimize(model, np.zeros(3), constraints=limit, method="SLSQP", options=dict(ftol=1e-14))
    assert promised == pytest.approx(-model(step), rel=1e-12)
    assert promised == pytest.approx(-expected.fun, rel=0.02)
    assert lane.decrement == pytest.approx(0.5 * g @ np.linalg.solve(b, g), rel=1e-9)
