"""What the data say about random effects without the prior: against closed forms of linear models."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import deepnlme as dn
from deepnlme.covariates.targets import effect_targets

QUIET = dn.Options(progress=False, covariance=None)


class Line(dn.Model):
    a = dn.Real(5.0)
    b = dn.Real(1.0)
    sd = dn.Positive(0.5, fixed=True)
    eta = dn.RandomEffects("a", "b", omega=[[1.0, 0.3], [0.3, 0.4]], block=True)

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a, b=theta.b + eta.b)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.a + p.b * x.time, theta.sd))


class LineWithOccasions(Line):
    iov = dn.RandomEffects("iov_a", omega=0.2, by="occasion")

    def individual(self, theta, eta, cov):
        return dict(a=theta.a + eta.a + eta.iov_a, b=theta.b + eta.b)


def people(counts, occasions=None, seed=0):
    g = np.random.default_rng(seed)
    subjects = []
    for i, n in enumerate(counts):
        times = np.sort(g.uniform(0, 4, n))
        values = 5.0 + g.standard_normal() + times * (1.0 + 0.6 * g.standard_normal()) + 0.5 * g.standard_normal(n)
        subjects.append(dn.Subject(i + 1, None, (times, values), dict(wt=70.0 + i), occasions=occasions))
    return dn.Population(subjects)


def by_hand(subject, model, noise):
    """P = X' W^-1 X and h = X' W^-1 (y - X theta) of a linear model."""
    x = np.stack([np.ones(len(subject.time)), subject.time], 1)
    inverse = np.linalg.inv(noise)
    return x.T @ inverse @ x, x.T @ inverse @ (subject.dv - x @ [model.parameters["a"].value, 1.0])


def test_information_is_that_of_generalised_least_squares():
    population = people([6, 3, 2, 1])
    found = effect_targets(dn.evaluate_ofv(Line(), population))
    for i, subject in enumerate(population):
        p, h = by_hand(subject, Line(), 0.25 * np.eye(len(subject)))
        np.testing.assert_allclose(found.precision[i], p, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.information[i], h, rtol=1e-7, atol=1e-7)


def test_effects_by_occasion_are_integrated_out():
    population = people([6, 4, 5], occasions=[0.0, 2.0])
    found = effect_targets(dn.evaluate_ofv(LineWithOccasions(), population))
    assert found.names == ("a", "b")
    for i, subject in enumerate(population):
        code = (subject.time >= 2.0).astype(int)
        noise = 0.25 * np.eye(len(code)) + 0.2 * (code[:, None] == code[None, :])
        p, h = by_hand(subject, Line(), noise)
        np.testing.assert_allclose(found.precision[i], p, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(found.information[i], h, rtol=1e-6, atol=1e-6)


def test_likelihood_is_the_normal_density_of_the_unshrunk_estimates():
    population = people([6, 4, 5, 3])
    targets = effect_targets(dn.evaluate_ofv(Line(), population))
    lower = np.linalg.cholesky([[0.5, 0.1], [0.1, 0.2]])
    g = np.random.default_rng(3).standard_normal((4, 2))
    found = targets.log_density(torch.tensor(g), torch.tensor(lower)).numpy()
    base = targets.log_density(torch.zeros(4, 2, dtype=torch.float64), torch.tensor(lower)).numpy()
    for i in range(4):
        v = np.linalg.inv(targets.precision[i])
        y = v @ targets.information[i]
        density = [multivariate_normal(mean, lower @ lower.T + v).logpdf(y) for mean in (g[i], np.zeros(2))]
        assert found[i] - base[i] == pytest.approx(density[0] - density[1], rel=1e-9)
        alone = targets.take(np.array([i])).log_density(torch.tensor(g[[i]]), torch.tensor(lower))
        assert float(alone) == pytest.approx(found[i], rel=1e-12)


def test_one_effect_without_a_prior_and_the_others_with_one():
    """Generalised least squares of the data on that effect, the others among the noise; also with one observation."""
    population = people([5, 3, 1])
    found = effect_targets(dn.evaluate_ofv(Line(), population))
    g, omega = np.random.default_rng(3).standard_normal((3, 2)), np.array([[0.5, 0.1], [0.1, 0.2]])
    y, v = found.given_others(g, omega)
    for i, subject in enumerate(population):
        x = np.stack([np.ones(len(subject.time)), subject.time], 1)
        for j in range(2):
            own, other = x[:, j], x[:, 1 - j]
            noise = np.linalg.inv(0.25 * np.eye(len(x)) + omega[1 - j, 1 - j] * np.outer(other, other))
            rest = subject.dv - x @ [5.0, 1.0] - other * g[i, 1 - j]
            assert 1 / v[i, j] == pytest.approx(own @ noise @ own, rel=1e-7)
            assert y[i, j] == pytest.approx(own @ noise @ rest / (own @ noise @ own), rel=1e-6)
    one = found.take(np.array([0]))
    nothing = dataclasses.replace(one, precision=0 * one.precision, information=0 * one.information)
    y, v = nothing.given_others(g[:1], omega)
    assert np.isnan(y).all() and np.isinf(v).all()


def test_other_people_and_those_without_data():
    population = people([6, 3])
    fit = dn.evaluate_ofv(Line(), population)
    nobody = dn.Subject(9, None, ([1.0], None), dict(wt=60.0))
    found = effect_targets(fit, dn.Population([population[1], nobody]))
    own = effect_targets(fit)
    np.testing.assert_allclose(found.precision[0], own.precision[1], rtol=1e-10)
    assert found.ids == (2, 9) and not found.precision[1].any() and not found.information[1].any()
    table = found.to_frame()
    assert np.isnan(table.loc[1, "Y_a"]) and table.loc[1, "SE_a"] == pytest.approx(1.0)
    assert table.loc[0, "SE_Y_a"] == pytest.approx(np.sqrt(np.linalg.inv(own.precision[1])[0, 0]), rel=1e-5)


def test_effects_without_variance_are_left_out():
    class Fixed(Line):
        eta = dn.RandomEffects("a", "b", omega=[1.0, 0.0], fixed=True)

    found = effect_targets(dn.evaluate_ofv(Fixed(), people([4, 3])))
    assert found.names == ("a",)
    np.testing.assert_allclose(found.precision[:, 0, 0], [4 / 0.25, 3 / 0.25], rtol=1e-10)


def test_residual_omega_is_the_maximum():
    targets = effect_targets(dn.evaluate_ofv(Line(), people([6, 2, 1, 5, 4, 3, 6, 2])))
    g = np.random.default_rng(0).standard_normal((8, 2)) * 0.3
    omega, value = targets.residual(g)

    def at(matrix):
        return float(targets.log_density(torch.tensor(g), torch.tensor(np.linalg.cholesky(matrix))).sum())

    assert at(omega) == pytest.approx(value, rel=1e-12)
    for change in (np.diag([0.02, 0.0]), np.diag([0.0, 0.02]), np.array([[0.0, 0.02], [0.02, 0.0]])):
        assert at(omega * (1 + change)) < value and at(omega * (1 - change)) < value


@pytest.mark.parametrize(
    "model, method", [(Line(), dn.NaivePooled()), (Line(eta=dn.RandomEffects("a", "b", omega=0.0, fixed=True)), None)]
)
def test_fits_without_random_effects_are_refused(model, method):
    with pytest.raises(dn.ModelError, match="Covariates explain random effects between subjects"):
        effect_targets(dn.evaluate_ofv(model, people([3, 3]), method))
    with pytest.raises(dn.ModelError, match="Invalid `fit`: got Line"):
        effect_targets(model)
