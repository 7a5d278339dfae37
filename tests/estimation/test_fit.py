"""Fits: what holds at the optimum, fixed parameters, bounds, priors, restarts, repeatability, interruption."""

import numpy as np
import pytest
import torch

import contract_models as cm
import deepnlme as dn
from deepnlme.estimation import optimiser
from deepnlme.estimation.objective import MarginalObjective

QUIET = dict(progress=False, covariance=None)


@pytest.fixture(scope="module")
def population():
    return dn.read_nonmem(cm.records([[0.4, 1.0, 2.0, 4.0, 8.0, 12.0]] * 10, seed=8))


class Small(cm.Oral):
    """Enough data for every parameter of it."""

    a = dn.Positive(0.05, fixed=True)
    eta = dn.RandomEffects("ka", "cl", omega=[0.2, 0.1])

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * torch.exp(eta.ka), cl=theta.cl * torch.exp(eta.cl), v=theta.v)


@pytest.fixture(scope="module")
def fitted(population):
    return dn.fit(Small(), population, options=dn.Options(progress=False, tolerance=1e-9))


@pytest.mark.parametrize("method", cm.GAUSSIAN, ids=lambda m: m.name)
def test_nothing_is_better_nearby(population, method):
    fit = dn.fit(Small(), population, method, options=dn.Options(**QUIET, tolerance=1e-9))
    assert fit.status is dn.FitStatus.CONVERGED
    assert fit.converged
    assert np.abs(fit.evaluation.gradient).max() < 1e-2
    assert fit.decrement < 1e-9
    u = fit.free
    near = fit.objective()(np.concatenate([u + 0.02 * np.eye(len(u)), u - 0.02 * np.eye(len(u))]))
    assert (near.value > fit.ofv).all()
    values = np.array(fit.trace.ofv)
    assert (np.diff(values) <= 1e-9).all()
    assert fit.ofv == pytest.approx(values[-1], abs=1e-9)
    # the OFV reported is the OFV of the estimates reported
    names = {n: v for n, v in fit.estimates.items() if n not in ("a",)}
    if method.uses_omega:
        assert dn.evaluate_ofv(Small(), population, method, at=names).ofv == pytest.approx(fit.ofv, abs=1e-7)


def test_restarts_reach_the_same_optimum(population, fitted):
    several = dn.fit(Small(), population, options=dn.Options(**QUIET, starts=3, seed=5))
    assert len(several.starts) == 3
    np.testing.assert_allclose(several.starts, fitted.ofv, atol=1e-4)
    assert several.ofv == min(several.starts)
    far = dict(ka=0.4, cl=6.0, v=9.0, b=0.6, **{"omega[cl]": 0.5})
    other = dn.fit(Small(), population, start=far, options=dn.Options(**QUIET))
    assert other.ofv == pytest.approx(fitted.ofv, abs=1e-4)


def test_quasi_newton_reaches_the_same_optimum(population, fitted):
    other = dn.fit(Small(), population, options=dn.Options(**QUIET, max_newton=1))
    assert other.ofv == pytest.approx(fitted.ofv, abs=1e-3)
    assert other.ofv > fitted.ofv - 1e-7


def test_fitting_does_not_change_the_model(population):
    model = Small()
    before = {n: repr(d) for n, d in model.declared.items()}
    dn.fit(model, population, options=dn.Options(**QUIET))
    assert {n: repr(d) for n, d in model.declared.items()} == before


def test_fixed_parameters_keep_their_values(population):
    model = Small(ka=dn.Positive(1.3, fixed=True), eta=dn.RandomEffects("ka", "cl", omega=[0.3, 0.1], fixed=["ka"]))
    fit = dn.fit(model, population, options=dn.Options(progress=False))
    assert fit.estimates["ka"] == 1.3
    assert fit.estimates["omega[ka]"] == pytest.approx(0.3, rel=1e-14)
    assert "ka" not in fit.se and "omega[ka]" not in fit.se
    assert fit.n_parameters == 4
    table = fit.table()
    assert table.loc["ka", "Fixed"] and table.loc["omega[ka]", "Fixed"]
    assert np.isnan(table.loc["ka", "SE"])
    assert "1.3 FIX" in str(fit)


def test_fixed_block_keeps_its_matrix(population):
    omega = np.array([[0.2, 0.05], [0.05, 0.1]])
    model = Small(eta=dn.RandomEffects("ka", "cl", omega=omega, block=True, fixed=True))
    fit = dn.fit(model, population, options=dn.Options(**QUIET))
    np.testing.assert_allclose(fit.omega, omega, rtol=1e-14)
    assert fit.n_parameters == 4


def test_zero_variance_is_no_effect(population):
    """As if the effect were not there: same OFV for every method, the effect's EBE is zero."""

    class Without(Small):
        eta = dn.RandomEffects("cl", omega=[0.1])

        def individual(self, theta, eta, cov):
            return dict(ka=theta.ka, cl=theta.cl * torch.exp(eta.cl), v=theta.v)

    switched_off = Small(eta=dn.RandomEffects("ka", "cl", omega=[0.0, 0.1], fixed=["ka"]))
    for method in cm.GAUSSIAN:
        a, b = (dn.evaluate_ofv(m, population, method) for m in (switched_off, Without()))
        assert a.ofv == pytest.approx(b.ofv, rel=1e-11)
        np.testing.assert_allclose(a.evaluation.gradient, b.evaluation.gradient, rtol=1e-8, atol=1e-9)
    a = dn.evaluate_ofv(switched_off, population)
    assert (a.ebes.eta[:, 0] == 0).all()
    assert np.isnan(a.shrinkage["ka"])
    fits = [dn.fit(m, population, options=dn.Options(**QUIET)) for m in (switched_off, Without())]
    assert fits[0].ofv == pytest.approx(fits[1].ofv, abs=1e-5)
    both = Small(eta=dn.RandomEffects("ka", "cl", omega=np.diag([0.0, 0.1]), block=True, fixed=True))
    assert dn.evaluate_ofv(both, population).ofv == pytest.approx(a.ofv, rel=1e-11)


def test_all_variances_zero_is_naive_pooled(population):
    model = Small(eta=dn.RandomEffects("ka", "cl", omega=0.0, fixed=True))
    expected = dn.evaluate_ofv(model, population, dn.NaivePooled()).ofv
    for method in (dn.FO(), dn.FOCE(), dn.Laplace()):
        assert dn.evaluate_ofv(model, population, method).ofv == pytest.approx(expected, rel=1e-12)


def test_model_without_random_effects(population):
    class NoEffects(cm.Oral):
        eta = None

        def individual(self, theta, eta, cov):
            return dict(ka=theta.ka, cl=theta.cl, v=theta.v)

    fits = [dn.fit(NoEffects(), population, m, options=dn.Options(progress=False)) for m in cm.GAUSSIAN]
    for fit in fits:
        assert fit.ofv == pytest.approx(fits[0].ofv, abs=1e-6)
        assert fit.shrinkage == {}
        assert len(fit.predictions()) == 60
    assert "Shrinkage" not in str(fits[0])


def test_parametrisation_does_not_matter(population, fitted):
    """Real, Positive and Bounded reach the same optimum, with the same standard error on the natural scale."""
    kinds = {
        "real": dn.Real(2.0),
        "bounded": dn.Bounded(2.0, low=0.5, high=9.0),
        "positive": dn.Positive(2.0),
    }
    for kind in kinds.values():
        fit = dn.fit(Small(cl=kind), population, options=dn.Options(progress=False, tolerance=1e-9))
        assert fit.ofv == pytest.approx(fitted.ofv, abs=1e-6)
        assert fit.estimates["cl"] == pytest.approx(fitted.estimates["cl"], rel=1e-4)
        assert fit.se["cl"] == pytest.approx(fitted.se["cl"], rel=1e-3)
        low, high = fit.table().loc["cl", ["CI95 low", "CI95 high"]]
        assert low < fit.estimates["cl"] < high
        # symmetric about the estimate, on its logarithm, or on its logit within the bounds
        if isinstance(kind, dn.Real):
            assert high + low == pytest.approx(2 * fit.estimates["cl"])
        elif isinstance(kind, dn.Positive):
            assert high * low == pytest.approx(fit.estimates["cl"] ** 2)
        else:
            logit = lambda v: np.log((v - 0.5) / (9.0 - v))  # noqa: E731
            assert logit(high) + logit(low) == pytest.approx(2 * logit(fit.estimates["cl"]))


def test_bounds_hold(population, fitted):
    low, high = 0.5 * fitted.estimates["v"], 0.8 * fitted.estimates["v"]
    fit = dn.fit(Small(v=dn.Bounded(0.5 * (low + high), low=low, high=high)), population, options=dn.Options(**QUIET))
    assert low < fit.estimates["v"] < high
    assert fit.estimates["v"] == pytest.approx(high, rel=1e-2)  # as near as it can to where it wants to go
    assert fit.ofv > fitted.ofv


def test_priors_give_the_penalised_maximum(population, fitted):
    prior = torch.distributions.Normal(4.0, 0.2)
    fit = dn.fit(
        Small(cl=dn.Positive(2.7, prior=prior)), population, options=dn.Options(progress=False, tolerance=1e-9)
    )
    cl = fit.estimates["cl"]
    assert fitted.estimates["cl"] < cl < 4.0
    assert fit.penalty == pytest.approx(-2 * float(prior.log_prob(torch.tensor(cl, dtype=torch.float64))), rel=1e-12)
    # the OFV is that of the data alone
    at = {n: v for n, v in fit.estimates.items() if n != "a"}
    assert fit.ofv == pytest.approx(dn.evaluate_ofv(Small(), population, at=at).ofv, abs=1e-8)
    assert fit.ofv > fitted.ofv
    assert "penalty (-2 log prior)" in str(fit)
    assert "penalty" not in str(fitted)
    # nothing has a better sum nearby
    plain = MarginalObjective(dn_joint(Small(), population), dn.FOCE())
    for shift in (-0.05, 0.05):
        other = plain(plain.joint.space.initial({**at, "cl": cl + shift}))
        penalty = -2 * float(prior.log_prob(torch.tensor(cl + shift, dtype=torch.float64)))
        assert float(other.ofv[0]) + penalty > fit.ofv + fit.penalty
    # information of prior and data add up in R
    by_r = fit.with_covariance("R")
    assert by_r.se["cl"] < 0.2


def dn_joint(model, population):
    from deepnlme.joint import Joint

    return Joint(model, population)


def test_same_call_same_answer(population):
    options = dn.Options(progress=False, starts=2, seed=3, ebe_starts=3)
    a, b = (dn.fit(Small(), population, options=options) for _ in range(2))
    np.testing.assert_array_equal(a.free, b.free)
    for name in type(a.evaluation).__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a.evaluation, name), getattr(b.evaluation, name))
    np.testing.assert_array_equal(a.covariance.natural, b.covariance.natural)
    assert a.trace.ofv == b.trace.ofv
    assert a.predictions().equals(b.predictions())


def test_result_records_what_it_depends_on(fitted):
    assert {"python", "deepnlme", "torch", "numpy", "scipy", "torchdiffeq"} <= set(fitted.versions)
    assert fitted.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert fitted.options.seed == 0
    assert set(fitted.seconds) == {"preparation", "optimisation", "covariance"}


def test_global_random_state_is_left_alone(population):
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    dn.fit(Small(), population, options=dn.Options(**QUIET, starts=2, ebe_starts=3))
    assert (torch.rand(1), np.random.rand()) == expected


def test_time_limit_returns_the_best_so_far(population, fitted):
    fit = dn.fit(Small(), population, options=dn.Options(**QUIET, time_limit=1e-9))
    assert fit.status is dn.FitStatus.TIME_LIMIT
    assert not fit.converged
    assert fit.ofv == pytest.approx(dn.evaluate_ofv(Small(), population).ofv, abs=1e-9)
    assert "time limit" in str(fit)


def test_all_starts_and_stages_share_the_time_limit(population, monkeypatch):
    """A clock that advances by a second at every look: work ends within the limit, whatever the number of starts."""
    clock = iter(float(i) for i in range(100_000))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    fit = dn.fit(Small(), population, options=dn.Options(**QUIET, time_limit=40.0, starts=20))
    assert 1 < len(fit.starts) < 20 and fit.seconds["optimisation"] < 60


def test_what_is_left_of_a_time_limit(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 107.0)
    assert dn.Options(time_limit=10.0).since(100.0).time_limit == 3.0
    assert dn.Options(time_limit=5.0).since(100.0).time_limit == 1e-9
    forever = dn.Options()
    assert forever.since(100.0) is forever


def test_iteration_limit_is_said(population):
    fit = dn.fit(Small(), population, options=dn.Options(**QUIET, max_iterations=1))
    assert fit.status is dn.FitStatus.MAX_ITERATIONS
    assert not fit.converged
    assert "iteration limit" in str(fit)
    assert fit.ofv < dn.evaluate_ofv(Small(), population).ofv


@pytest.mark.parametrize("max_newton", [40, 1], ids=["newton", "quasi-newton"])
def test_interruption_returns_the_best_so_far(population, fitted, monkeypatch, max_newton):
    calls = {"n": 0}
    plain = MarginalObjective.__call__

    def interrupted(self, u):
        calls["n"] += 1
        if calls["n"] == 5:
            raise KeyboardInterrupt
        return plain(self, u)

    monkeypatch.setattr(MarginalObjective, "__call__", interrupted)
    fit = dn.fit(Small(), population, options=dn.Options(progress=False, max_newton=max_newton))
    monkeypatch.undo()
    assert fit.status is dn.FitStatus.INTERRUPTED
    assert not fit.converged
    start = dn.evaluate_ofv(Small(), population).ofv
    assert fitted.ofv < fit.ofv < start
    assert fit.covariance is None
    assert all(np.isnan(v) for v in fit.se.values())
    assert "interrupted" in str(fit)
    # what it holds is complete: the numbers belong to the estimates
    assert len(fit.predictions()) == 60
    at = {n: v for n, v in fit.estimates.items() if n != "a"}
    assert dn.evaluate_ofv(Small(), population, at=at).ofv == pytest.approx(fit.ofv, abs=1e-6)


def test_interruption_during_the_covariance_step_keeps_the_fit(population, fitted, monkeypatch):
    from importlib import import_module

    module = import_module("deepnlme.estimation.fit")

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "covariance", interrupted)
    fit = dn.fit(Small(), population, options=dn.Options(progress=False))
    assert fit.converged
    assert fit.covariance is None
    assert fit.with_covariance().se["cl"] == pytest.approx(fitted.se["cl"], rel=1e-3)


def test_steps_that_are_not_finite_are_taken_back(population):
    """A model that breaks down for large ka is still fitted, since its optimum is elsewhere."""

    class Breaks(Small):
        def individual(self, theta, eta, cov):
            p = super().individual(theta, eta, cov)
            return {**p, "v": p["v"] * torch.where(theta.ka > 1.6, torch.nan, 1.0)}

    fit = dn.fit(Breaks(), population, start=dict(ka=1.55, cl=8.0), options=dn.Options(**QUIET))
    assert np.isfinite(fit.ofv)
    assert fit.estimates["ka"] < 1.6


def test_progress_line(population, capsys):
    dn.fit(Small(), population, options=dn.Options(covariance=None, progress=True, max_iterations=2))
    shown = capsys.readouterr()
    assert "OFV" in shown.err
    dn.fit(Small(), population, options=dn.Options(covariance=None, progress=False, max_iterations=2))
    assert capsys.readouterr().err == ""


def test_newton_decrement_is_the_expected_improvement():
    h = np.diag([2.0, 8.0])
    x = np.array([1.0, -0.5])
    assert optimiser.newton_decrement(h @ x, h) == pytest.approx(0.5 * x @ h @ x)
    assert optimiser.newton_decrement(np.zeros(0), np.zeros((0, 0))) == 0.0
