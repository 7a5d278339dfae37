"""The covariance step."""

import numpy as np
import pytest
import torch

import contract_models as cm
import deepnlme as dn
from deepnlme.estimation.objective import MarginalObjective

QUIET = dn.Options(progress=False, tolerance=1e-9)


class Small(cm.Oral):
    a = dn.Positive(0.05, fixed=True)
    eta = dn.RandomEffects("cl", omega=[0.1])

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * torch.exp(eta.cl), v=theta.v)


@pytest.fixture(scope="module")
def population():
    return dn.read_nonmem(cm.records([[0.4, 1.0, 2.0, 4.0, 8.0, 12.0]] * 10, seed=8))


@pytest.fixture(scope="module")
def fit(population):
    return dn.fit(Small(), population, options=QUIET)


def test_r_and_s_by_differences_of_values(fit):
    """R from second differences of the OFV, S from first differences of the subjects' OFVs."""
    objective, u = fit.objective(), fit.free
    n, h = len(u), 2e-3
    grid = [(i, j, a, b) for i in range(n) for j in range(n) for a in (1, -1) for b in (1, -1)]
    e = np.eye(n) * h
    values = objective(np.array([u + a * e[i] + b * e[j] for i, j, a, b in grid])).ofv.reshape(n, n, 2, 2)
    r = 0.5 * (values[..., 0, 0] - values[..., 0, 1] - values[..., 1, 0] + values[..., 1, 1]) / (4 * h * h)
    np.testing.assert_allclose(fit.covariance.r, r, rtol=1e-4, atol=1e-4 * np.abs(r).max())
    up, down = objective(u + e / 10).subject, objective(u - e / 10).subject
    g = 0.5 * (up - down).T / (2 * h / 10)
    np.testing.assert_allclose(fit.covariance.s, g.T @ g, rtol=1e-5, atol=1e-5 * np.abs(g.T @ g).max())


def test_three_kinds(fit):
    r, s = fit.covariance.r, fit.covariance.s
    jacobian = fit.joint.space.natural_jacobian(fit.free)
    for kind, free in (
        ("sandwich", np.linalg.inv(r) @ s @ np.linalg.inv(r)),
        ("R", np.linalg.inv(r)),
        ("S", np.linalg.inv(s)),
    ):
        found = fit.with_covariance(kind)
        expected = jacobian @ free @ jacobian.T
        error = np.sqrt(np.diag(expected))
        # the fit's own R is one of forward differences, 3e-5 from the central ones of `with_covariance`
        np.testing.assert_allclose(
            found.covariance_matrix / np.outer(error, error), expected / np.outer(error, error), atol=3e-4
        )
        np.testing.assert_allclose(list(found.se.values()), error, rtol=3e-4)
        assert f"standard errors: {kind}" in str(found)
        correlation = found.correlation_matrix.to_numpy()
        np.testing.assert_allclose(np.diag(correlation), 1.0)
        values = np.linalg.eigvalsh(correlation)
        assert found.condition_number == pytest.approx(values.max() / values.min())
    with pytest.raises(dn.ModelError, match=r"Invalid `kind`: got 'both'"):
        fit.with_covariance("both")


def test_standard_errors_do_not_depend_on_the_parametrisation(population, fit):
    """On the natural scale, where the delta method is exact at an optimum: Omega by its sd or its block factor."""
    block = Small(eta=dn.RandomEffects("cl", omega=[[0.1]], block=True))
    other = dn.fit(block, population, options=QUIET)
    assert other.ofv == pytest.approx(fit.ofv, abs=1e-7)
    for name in fit.se:
        assert other.se[name] == pytest.approx(fit.se[name], rel=1e-4)


def test_no_covariance_step(population):
    fit = dn.fit(Small(), population, options=dn.Options(progress=False, covariance=None))
    assert fit.covariance is None
    assert np.isnan(fit.condition_number)
    assert all(np.isnan(v) for v in fit.se.values())
    with pytest.raises(dn.ModelError, match=r"no covariance step. Use fit.with_covariance\(\)"):
        _ = fit.covariance_matrix


class TooMany(Small):
    """Only the product of two parameters can be known."""

    extra = dn.Positive(1.0)

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * theta.extra * torch.exp(eta.cl), v=theta.v)


def test_failure_names_the_parameters_and_the_eigenvalues(population, fit):
    found = dn.fit(TooMany(), population, options=dn.Options(progress=False))
    assert found.ofv == pytest.approx(fit.ofv, abs=1e-4)
    assert found.covariance is not None
    assert not found.covariance.ok
    message = found.covariance.message
    assert "not positive definite" in message
    assert "cl" in message.split("mostly")[1].split(".")[0]
    assert "extra" in message.split("mostly")[1].split(".")[0]
    listed = [float(v) for v in message.split("eigenvalues ")[1].split(")")[0].split(", ")]
    np.testing.assert_allclose(listed, np.linalg.eigvalsh(found.covariance.r), rtol=1e-2)
    assert abs(listed[0]) < 1e-4 * listed[-1]
    assert message in str(found)
    assert all(np.isnan(v) for v in found.se.values())
    for name in ("covariance_matrix", "correlation_matrix"):
        with pytest.raises(dn.ModelError, match="Covariance step failed"):
            getattr(found, name)
    assert "nan" not in str(found).lower().replace("condition number nan", "")


def test_s_needs_more_subjects_than_parameters(population):
    few = dn.fit(Small(), population[:3], options=dn.Options(progress=False, covariance="S"))
    assert not few.covariance.ok
    assert "S matrix" in few.covariance.message


def test_sandwich_is_close_to_the_truth_in_a_linear_model():
    """Many subjects, a correct model: all three kinds agree with the exact Fisher information."""
    import pandas as pd

    rng = np.random.default_rng(1)
    n, m = 400, 4
    rows = []
    for i in range(n):
        level = 2.0 + rng.normal(0, 0.8)
        rows += [dict(ID=i, TIME=float(t), DV=level + 0.5 * rng.standard_normal()) for t in range(m)]

    class Mean(dn.Model):
        level = dn.Real(1.5)
        sd = dn.Positive(0.4)
        eta = dn.RandomEffects("level", omega=0.5)

        def individual(self, theta, eta, cov):
            return dict(level=theta.level + eta.level)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.level + 0 * x.time, theta.sd))

    fit = dn.fit(Mean(), dn.read_nonmem(pd.DataFrame(rows)), options=QUIET)
    omega, sd = fit.estimates["omega[level]"], fit.estimates["sd"]
    between = omega + sd**2 / m
    expected = {
        "level": np.sqrt(between / n),
        "sd": sd / np.sqrt(2 * n * (m - 1)),
        "omega[level]": np.sqrt(2 * between**2 / n + 2 * sd**4 / (m**2 * n * (m - 1))),
    }
    for name, value in expected.items():
        assert fit.with_covariance("R").se[name] == pytest.approx(value, rel=5e-3)
        for kind in ("sandwich", "S"):
            assert fit.with_covariance(kind).se[name] == pytest.approx(value, rel=0.1)


def test_objective_of_a_fit_is_the_fit_s(fit):
    objective = fit.objective()
    assert isinstance(objective, MarginalObjective)
    np.testing.assert_allclose(objective(fit.free).ofv[0], fit.ofv, rtol=1e-11)


def test_a_sandwich_of_few_subjects_warns(population):
    few = dn.fit(Small(), population[:4], options=QUIET)
    assert few.n_parameters > 4
    assert "warning: 4 subjects for" in str(few)
    assert "warning" not in str(few.with_covariance("R"))


def test_nothing_to_estimate(population):
    fixed = {n: dn.Positive(p.value, fixed=True) for n, p in Small().parameters.items()}
    model = Small(**fixed, eta=dn.RandomEffects("cl", omega=[0.1], fixed=True))
    fit = dn.fit(model, population, options=QUIET)
    assert fit.status is dn.FitStatus.NOTHING_TO_ESTIMATE
    assert fit.converged
    assert fit.se == {}
    assert "FIX" in str(fit)
