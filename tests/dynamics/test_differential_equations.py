"""What only differential equations have: explicit time, nonlinear steady states, rows that cannot be solved."""

import numpy as np
import pytest
import torch

import deepnlme as dn
from deepnlme.axes import Names
from deepnlme.dynamics import TorchDiffEq, administer, solve_ode
from deepnlme.errors import ModelError
from engines import SOLVERS, dose, observation, packed, population_of, run, system
from oracles import Oracle, Row, move_ode

COMPARTMENTS = ("central", "effect")


def solve(solver, field, population, p=None, initial=None, compartments=COMPARTMENTS):
    batch = packed(population, compartments)
    p = Names(
        "p", {k: torch.as_tensor(v, dtype=torch.float64).reshape(1, -1, 1) for k, v in (p or {"one": 1.0}).items()}
    )
    doses = administer({}, batch, compartments)
    start = {c: torch.full((1, batch.rows, 1), v, dtype=torch.float64) for c, v in (initial or {}).items()}
    states = solve_ode(field, solver, Names("theta", {}), p, p, batch, doses, start, compartments)
    return torch.stack([s.expand(1, batch.rows, -1) for s in states], -1)[0]


def rows_of(rows):
    keys = {"TIME": "time", "EVID": "evid", "AMT": "amt", "RATE": "rate", "II": "ii", "ADDL": "addl", "SS": "ss"}
    return [Row(**{keys[k]: v for k, v in row.items()}) for row in rows]


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_explicit_time_is_the_time_of_the_data(solver):
    rows = [
        dose(1.0),
        *observation(2.5, 6.0),
        dose(0.5, 40, 4),
        *observation(0.5, 3.0),
        dose(4.0, RATE=20),
        *observation(7.0),
    ]

    def field(theta, p, t, x):
        return {"central": -0.1 * (2.0 + torch.cos(t)) * x.central, "effect": t - 0.2 * x.effect}

    def same(t, x, p):
        return np.array([-0.1 * (2.0 + np.cos(t)) * x[0], t - 0.2 * x[1]])

    found = solve(solver, field, population_of({1: rows, 2: observation(0, 9)}), initial={1: 2.0})
    oracle = Oracle(move_ode(same), 2, initial=lambda p: np.array([0.0, 2.0]))
    np.testing.assert_allclose(found[0], oracle.simulate(rows_of(rows)), rtol=1e-6, atol=1e-6)


def michaelis_menten(theta, p, t, x):
    out = p.vmax * x.central / (5.0 + x.central)
    return {"central": -out, "effect": 3.0 - 0.3 * x.effect + 0.01 * out}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
@pytest.mark.parametrize("rate", [0.0, 20.0, 4.0])
def test_nonlinear_steady_state(solver, rate):
    """With a response that has a baseline, which must not be counted twice; infusions up to longer than II."""
    rows = [dose(0, 40, SS=1, II=6, ADDL=1, RATE=rate), *observation(0, 1, 6, 20)]

    def same(t, x, p):
        out = 10.0 * x[0] / (5.0 + x[0])
        return np.array([-out, 3.0 - 0.3 * x[1] + 0.01 * out])

    oracle = Oracle(
        move_ode(same, 1e-10), 2, initial=lambda p: np.array([0.0, 10.0]), memory=360.0, memory_of_initial=True
    )
    found = solve(solver, michaelis_menten, population_of({1: rows}), {"vmax": 10.0}, {1: 10.0})
    np.testing.assert_allclose(found[0], oracle.simulate(rows_of(rows)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_constant_and_repeated_steady_states_side_by_side(solver):
    """A constant infusion reaches rate / k whatever the lag; the others keep theirs."""
    rows = {
        1: [dose(0, 0, RATE=10, SS=1), *observation(0, 3)],
        2: [dose(0, SS=1, II=8), *observation(0, 3)],
        3: [dose(0), *observation(0, 3)],
    }
    sys = system(1, True, {"lag0": 0.5})
    batch = packed(population_of(rows), sys.compartments)
    wanted = run("superposition", sys, batch)
    found = run("ode", sys, batch, solvers={"ode": solver})
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(wanted[0, 1, 1], 10 / (2.7 / 31.0))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_no_steady_state_is_not_a_number_in_that_row_only(solver):
    # 40 every 6 is more than the most that 3 per hour can eliminate
    rows = {1: [dose(0, 40, SS=1, II=6), *observation(1)], 2: [dose(0, 40, SS=1, II=6), *observation(1)]}
    found = solve(solver, michaelis_menten, population_of(rows), {"vmax": [3.0, 10.0]}, {1: 10.0})
    assert torch.isnan(found[0]).all() and torch.isfinite(found[1]).all()


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_a_state_that_only_grows_has_no_steady_state(solver):
    def field(theta, p, t, x):
        return {"central": -0.3 * x.central, "effect": x.central}

    found = solve(
        solver, field, population_of({1: [dose(0, SS=1, II=6), *observation(1)], 2: [dose(0), *observation(1)]})
    )
    assert torch.isnan(found[0]).any() and torch.isfinite(found[1]).all()


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_a_lag_longer_than_the_interval_has_no_steady_state(solver):
    sys = system(1, True, {"lag0": torch.tensor([7.0, 3.0], dtype=torch.float64).reshape(1, 2, 1)})
    rows = [dose(0, SS=1, II=6), *observation(1)]
    batch = packed(population_of({1: rows, 2: rows}), sys.compartments)
    for engine in ("superposition", "scan", "ode"):
        found = run(engine, sys, batch, solvers={"ode": solver})
        assert torch.isnan(found[0]).any() and torch.isfinite(found[1]).all(), engine


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_a_row_that_explodes_leaves_the_others_as_they_are(solver):
    def field(theta, p, t, x):
        return {"central": p.a * x.central**2 - 0.1 * x.central, "effect": x.central - x.effect}

    rows = [dose(0, 10), *observation(0.5, 3, 20)]
    alone = solve(solver, field, population_of({1: rows}), {"a": 0.001})
    both = solve(solver, field, population_of({1: rows, 2: rows}), {"a": [0.001, 1.0]})
    assert torch.isnan(both[1, -1]).all()
    np.testing.assert_allclose(both[0], alone[0], rtol=1e-6)


def test_a_solution_may_not_depend_on_trial_steps_beyond_the_domain():
    # sqrt of a state that a trial step makes negative
    def field(theta, p, t, x):
        return {"central": -torch.sqrt(x.central), "effect": x.central - x.effect}

    found = solve(TorchDiffEq(), field, population_of({1: observation(0, 15)}), initial={0: 100.0})
    np.testing.assert_allclose(found[0, 1, 0], (10 - 7.5) ** 2, rtol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "fehlberg2", "adaptive_heun", "dopri8", "rk4", "midpoint"])
def test_methods(method):
    solver = TorchDiffEq(method, rtol=1e-5, atol=1e-8, steps=200)
    sys = system(1, True)
    batch = packed(population_of({1: [dose(0, RATE=50), *observation(0.3, 2, 5)]}), sys.compartments)
    found, wanted = run("ode", sys, batch, solvers={"ode": solver}), run("superposition", sys, batch)
    np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_gradients_in_the_initial_state(solver):
    sys = system(1, True, {"x1": 5.0})
    batch = packed(population_of({1: [*observation(0, 2.0), dose(3, 10, 4), *observation(5.0)]}), sys.compartments)
    slopes = []
    for engine in ("superposition", "ode"):
        x = torch.full((1, 1, 1), 5.0, dtype=torch.float64, requires_grad=True)
        y = run(engine, sys, batch, {"x1": x}, solvers={"ode": solver})[..., 1].sum()
        slopes.append(float(torch.autograd.grad(y, x)[0]))
    assert slopes[0] > 1.0
    np.testing.assert_allclose(slopes[1], slopes[0], rtol=1e-6)


def test_field_evaluations_of_a_single_dose_are_few():
    """Eleven samples after an oral dose; several events at one time cost nothing more."""
    sys, calls = system(1, True), []
    times = (0, 0.25, 0.57, 1.12, 2.02, 3.82, 5.1, 7.03, 9.05, 12.12, 24.37)
    for rows in ([dose(0), *observation(*times)], [dose(0), *observation(*times, *[24.37] * 20)]):
        count = 0

        def field(theta, p, t, x):
            nonlocal count
            count += 1
            return sys.field(theta, p, t, x)

        batch = packed(population_of({1: rows}), sys.compartments)
        p = Names("p", {k: torch.full((1, 1, 1), v, dtype=torch.float64) for k, v in sys.parameters({}).items()})
        doses = administer({}, batch, sys.compartments)
        solve_ode(
            field, TorchDiffEq(rtol=1e-6, atol=1e-8), Names("theta", {}), p, p, batch, doses, {}, sys.compartments
        )
        calls.append(count)
    assert calls[0] == calls[1] < 500


def test_settings():
    with pytest.raises(ModelError, match="method"):
        TorchDiffEq("rk5")
    with pytest.raises(ModelError, match="positive"):
        TorchDiffEq(rtol=0.0)


def test_derivatives_of_other_states_are_refused():
    def field(theta, p, t, x):
        return {"central": x.central}

    with pytest.raises(ModelError, match="effect"):
        solve(TorchDiffEq(), field, population_of({1: observation(0, 1)}))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_a_state_may_have_a_derivative_that_is_a_number(solver):
    """Even where that of another state has more axes than the states themselves."""
    p = {"k": torch.tensor([0.1, 0.2, 0.4])}
    population = population_of({i: [dose(0.0), *observation(1.0, 5.0)] for i in (1, 2, 3)})
    found = solve(solver, lambda theta, p, t, x: dict(central=-p.k * x.central, effect=0.5), population, p)
    expected = 100 * np.exp(-np.array([[0.1], [0.2], [0.4]]) * np.array([0.0, 1.0, 5.0]))
    np.testing.assert_allclose(found[..., 0][:, -2:], expected[:, -2:], rtol=1e-6)
    np.testing.assert_allclose(found[..., 1][:, -1], 2.5, rtol=1e-6)


def test_a_constant_derivative_in_a_model_with_random_effects():
    population = dn.Population([dn.Subject(i, dn.Dose(100), ([1.0, 5.0], [9.0, 6.0])) for i in (1, 2)])

    class Constant(dn.Model):
        k = dn.Positive(0.1)
        v = dn.Positive(10.0)
        sd = dn.Positive(0.5)
        eta = dn.RandomEffects("k", "v", omega=0.1)

        def individual(self, theta, eta, cov):
            return dict(k=theta.k * torch.exp(eta.k), v=theta.v * torch.exp(eta.v))

        def dynamics(self, theta, p, t, x):
            return dict(central=-p.k * x.central, still=0.0)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central / p.v, theta.sd))

    class Closed(Constant):
        dynamics = dn.OneCompartment(parameters="rates")

    assert dn.evaluate_ofv(Constant(), population).ofv == pytest.approx(dn.evaluate_ofv(Closed(), population).ofv, 1e-6)
