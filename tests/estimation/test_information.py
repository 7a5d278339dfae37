"""The expected information against exact Hessians of linear models and differences of gradients of nonlinear ones."""

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime

import deepnlme as dn
from deepnlme.estimation.covariance import hessian
from deepnlme.estimation.information import information
from deepnlme.estimation.inner import InnerOptions
from deepnlme.estimation.objective import MarginalObjective
from deepnlme.estimation.trust_region import curvature, prior_curvature
from deepnlme.joint import Joint
from network_models import (
    InField,
    InIndividual,
    InInitial,
    InObserve,
    MixedRidge,
    Ridge,
    design,
    line_data,
    people,
)

CONDITIONAL = (dn.FO(), dn.FOCE(), dn.FOCE(interaction=False), dn.Laplace())
TIGHT = InnerOptions(tolerance=1e-9)


def at(model, population, method, u=None):
    objective = MarginalObjective(Joint(model, population), method, TIGHT)
    return objective, objective(objective.joint.space.initial() if u is None else u)


def weights_of(objective, matrix):
    """The block of the weights of networks."""
    n = objective.joint.space.structural
    return matrix[n:, n:]


def test_least_squares():
    """OFV = sum r^2 / sd^2 + ...: its Hessian is 2 X'X / sd^2 everywhere."""
    population = line_data()
    expected = 2.0 * sum(x.T @ x for x, _ in design(population)) / 0.5**2
    for u in (np.zeros(2), np.array([3.0, -2.0])):
        found = information(*at(Ridge(), population, dn.NaivePooled(), u))
        np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("method", CONDITIONAL, ids=lambda m: m.name)
def test_generalised_least_squares(method):
    population = line_data()
    expected = np.zeros((2, 2))
    for x, y in design(population):
        expected += 2.0 * x.T @ np.linalg.inv(0.25 * np.eye(len(y)) + 0.4) @ x
    objective, evaluation = at(MixedRidge(), population, method, np.array([0.3, -2.0]))
    np.testing.assert_allclose(information(objective, evaluation), expected, rtol=1e-10)
    # and that is the exact Hessian, to which the penalty 2 sum w^2 adds
    np.testing.assert_allclose(hessian(objective, evaluation.u[0]) - 4.0 * np.eye(2), expected, rtol=1e-6)


def test_without_omega_the_random_effects_do_not_count():
    population = line_data()
    expected = 2.0 * sum(x.T @ x for x, _ in design(population)) / 0.5**2
    found = information(*at(MixedRidge(), population, dn.NaivePooled()))
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_of_the_residual_sd():
    """E d2 OFV / d(log sd)2 = 4 N; a proportional one depends on the weights too: d log sd = d log f."""
    population = line_data()
    n = sum(len(y) for _, y in design(population))
    found = information(*at(Ridge(sd=dn.Positive(0.7)), population, dn.NaivePooled()))
    np.testing.assert_allclose(found[0], [4.0 * n, 0.0, 0.0], atol=1e-10)

    class Proportional(Ridge):
        sd = dn.Positive(0.7)

        def observe(self, theta, p, x):
            f = 5.0 + theta.line(x.time)
            return dict(dv=dn.Normal(f, theta.sd * f))

    u = np.array([np.log(0.7), 0.6, -0.4])
    found = information(*at(Proportional(), population, dn.NaivePooled(), u))
    expected = np.zeros((3, 3))
    for x, _ in design(population):
        f = (5.0 + x @ u[1:])[:, None]
        slope = np.concatenate([np.ones_like(f), x / f], 1)
        mean = np.concatenate([np.zeros_like(f), x], 1) / (0.7 * f)
        expected += 2.0 * mean.T @ mean + 4.0 * slope.T @ slope
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_log_normal_observations_on_the_logarithm():
    class Logarithmic(Ridge):
        def observe(self, theta, p, x):
            return dict(dv=dn.LogNormal((theta.line(x.time)).exp(), theta.sd))

    population = people(dose=None)
    r = population.records
    x = np.stack([(r.time - 1.0) / 2.0, np.ones(len(r.time))], 1)
    found = information(*at(Logarithmic(), population, dn.NaivePooled()))
    np.testing.assert_allclose(found, 2.0 * x.T @ x / 0.25, rtol=1e-11)


@pytest.mark.parametrize("model", [InField, InIndividual, InInitial, InObserve])
@pytest.mark.parametrize("method", [*CONDITIONAL, dn.NaivePooled()], ids=lambda m: m.name)
def test_positive_semidefinite_and_symmetric(model, method):
    population = people(3, dose=10.0 if model in (InField, InIndividual) else None)
    objective, evaluation = at(model(), population, method)
    found = information(objective, evaluation)
    assert found.shape == (objective.joint.space.size,) * 2
    np.testing.assert_allclose(found, found.T, atol=1e-10 * np.abs(found).max())
    values = np.linalg.eigvalsh(found)
    assert values.min() > -1e-10 * values.max()
    assert values.max() > 1.0


class Curve(dn.Model):
    """A network of time, and a random effect that is added."""

    sd = dn.Positive(0.05, fixed=True)
    curve = dn.MLP(1, (3,), input_center=2.0, input_scale=2.0, output_center=0.0, output_scale=1.0, seed=4)
    eta = dn.RandomEffects("b", omega=0.3, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(b=eta.b)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(theta.curve(x.time) + p.b, theta.sd))


@pytest.mark.parametrize("method", [*CONDITIONAL, dn.NaivePooled()], ids=lambda m: m.name)
def test_of_a_nonlinear_network_at_a_near_perfect_fit(method):
    """What the information leaves out is of the size of the residuals."""
    start = dn.predict(Curve(), people(4, dose=None), all_records=True)
    truth = start["PRED"].to_numpy(float)
    times, ids = start["TIME"].to_numpy(float), start["ID"].to_numpy(int)
    rng = np.random.default_rng(0)
    errors = []
    for noise in (1e-2, 1e-4):
        y = truth + noise * 0.05 * rng.standard_normal(len(truth))
        population = dn.Population([dn.Subject(i, None, (times[ids == i], y[ids == i])) for i in np.unique(ids)])
        objective, evaluation = at(Curve(), population, method)
        exact, found = hessian(objective, evaluation.u[0]), information(objective, evaluation)
        errors.append(np.abs(found - exact).max() / np.abs(exact).max())
    assert errors[0] < 1e-2
    assert errors[1] < 1e-4


def test_chunks_and_lanes_change_nothing():
    population = people(5, dose=None)
    objective, evaluation = at(InObserve(), population, dn.FOCE())
    whole = information(objective, evaluation)
    objective.rows_per_chunk = 1
    np.testing.assert_allclose(information(objective, evaluation), whole, rtol=1e-11, atol=1e-11)
    joint = Joint(InField(), people(2))
    single = MarginalObjective(joint, dn.FOCE(), TIGHT)
    u = joint.space.initial()
    expected = information(single, single(u))
    many = MarginalObjective(joint, dn.FOCE(), TIGHT)
    many.open_lanes(3)
    side = many(np.stack([u + 0.1, u, u - 0.1]), np.arange(3))
    np.testing.assert_allclose(information(many, side.one(1), 1), expected, rtol=1e-7, atol=1e-8 * expected.max())


def test_padding_does_not_count():
    """Subjects with few observations beside one with many."""
    population = line_data(3)
    longer = dn.Population([*(population[i] for i in range(3)), dn.Subject(9, None, (np.arange(40.0), np.ones(40)))])
    found = information(*at(MixedRidge(), longer, dn.FOCE()))
    one = information(*at(MixedRidge(), population, dn.FOCE()))
    other = information(*at(MixedRidge(), longer[3:4], dn.FOCE()))
    np.testing.assert_allclose(found, one + other, rtol=1e-11)


@pytest.mark.parametrize("prior", [dn.L2(3.0, bias=False), dn.L1(0.5)])
def test_curvature_adds_that_of_the_priors(prior):
    units = dict(input_center=1.0, input_scale=2.0, output_center=0.0, output_scale=1.0)
    model = Ridge(
        sd=dn.Positive(0.5, prior=torch.distributions.Normal(1.0, 2.0)),
        line=dn.MLP(1, (), prior=prior, **units),
    )
    u = np.array([-0.6, 0.02, 0.004])
    objective, evaluation = at(model, line_data(), dn.NaivePooled(), u)
    found = prior_curvature(objective, u)
    expected = [approx_fprime(u, lambda v, i=i: objective.penalty_gradient(v)[i], 1e-6)[i] for i in range(len(u))]
    np.testing.assert_allclose(found, np.maximum(expected, 0.0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        curvature(objective, evaluation), information(objective, evaluation) + np.diag(found), rtol=1e-12
    )


class Counts(dn.Model):
    """Poisson counts with a network on the logarithm of the rate: not Gaussian."""

    line = dn.MLP(1, (), prior=dn.L2(1.0), input_center=1.0, input_scale=2.0, output_center=0.0, output_scale=1.0)
    eta = dn.RandomEffects("b", omega=0.1, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(b=eta.b)

    def observe(self, theta, p, x):
        return dict(dv=torch.distributions.Poisson((theta.line(x.time) + p.b).exp(), validate_args=False))


def test_without_gaussian_observations_the_gradients_stand_for_it():
    rng = np.random.default_rng(0)
    population = dn.Population(
        [dn.Subject(i, None, (np.arange(4.0), rng.poisson(3.0, 4).astype(float))) for i in range(1, 6)]
    )
    objective, evaluation = at(Counts(), population, dn.Laplace())
    assert not objective.gaussian
    g = evaluation.subject_gradient[0]
    np.testing.assert_allclose(curvature(objective, evaluation), 0.5 * g.T @ g + 2.0 * np.eye(2), rtol=1e-12)


def test_a_record_far_below_its_limit_informs_about_nothing(tmp_path):
    """What a censored record says of a mean far below the limit is next to nothing; the Hessian of the OFV agrees."""

    class Two(dn.Model):
        near, far = dn.Real(5.0), dn.Real(1.0)
        sd = dn.Positive(1.0, fixed=True)
        line = dn.MLP(1, (), bias=False, output_center=0.0, output_scale=1.0, input_center=0.0, input_scale=1.0)

        def observe(self, theta, p, x):
            late = (x.time > 10.0).to(torch.float64)
            mean = theta.near * (1.0 - late) + (theta.far + theta.line(late)) * late
            return dict(dv=dn.Normal(mean, theta.sd))

    rows = ["ID,TIME,DV,CENS"] + [f"{i},{t},{5 + 0.1 * t},0" for i in (1, 2) for t in range(4)]
    rows += [f"{i},{t},9,1" for i in (1, 2) for t in (11, 12)]
    rows = [rows[0], *sorted(rows[1:], key=lambda row: tuple(float(v) for v in row.split(",")[:2]))]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    joint = Joint(Two(), dn.read_nonmem(tmp_path / "data.csv"))
    objective = MarginalObjective(joint, dn.NaivePooled())
    u = joint.space.initial({"line": [0.3]})
    found = information(objective, objective(u))
    exact = hessian(objective, u)
    np.testing.assert_allclose(found[0, 0], 16.0 * 5.0**2, rtol=1e-8)  # 2 n / sd^2, in units of the initial value
    np.testing.assert_allclose(found, exact, atol=1e-3)
