"""Derivatives of the states: first and second (what FOCE takes), third for closed forms."""

import numpy as np
import pytest
import torch

from engines import LINEAR, dose, expected, observation, packed, population_of, run, system

ROWS = {
    "mixed": [
        dose(0.0, II=5, ADDL=1),
        *observation(1.13, 4.7, 6.1),
        dose(7.0, CMT=2, RATE=-2),
        *observation(7.9, 10.3),
        dose(11.0, CMT=2, RATE=-1),
        *observation(11.4, 14.9, 20.2),
        dose(21.0, CMT=2, RATE=40),
        *observation(22.0, 30.0),
    ],
    "steady": [
        dose(0.0, SS=1, II=6),
        *observation(0.2, 1.9),
        dose(3.0, CMT=2, RATE=-2, SS=2, II=2),
        *observation(3.9, 9.7),
        dose(12.0, CMT=2, RATE=-1, SS=1, II=5, ADDL=1),
        *observation(12.7, 15.1, 19.3),
    ],
    "reset": [dose(0.0, CMT=2, RATE=20), *observation(1.1), dose(2.0, 50, 4), *observation(2.9, 6.2)],
}
# the modelled duration 2.3 of the second steady dose is longer than its II, and the modelled rate lasts 3.2
VALUES = {
    "cl": 2.7, "v": 31.0, "ka": 1.3, "lag0": 0.43, "lag1": 0.31, "f0": 0.8, "f1": 1.1, "d1": 2.3, "r1": 34.0, "x1": 4.0
}  # fmt: skip
NAMES = tuple(VALUES)


def states(engine, rows, names):
    """Function of a vector of parameters: all states of one engine."""
    sys = system(1, True, VALUES)
    batch = packed(population_of({1: rows}), sys.compartments)

    def of(vector):
        leaves = {n: v.reshape(1, 1, 1) for n, v in zip(names, vector.unbind(), strict=True)}
        return run(engine, sys, batch, leaves)[0]

    return of


def vector_of(names):
    return torch.tensor([VALUES[n] for n in names], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("rows", ROWS)
def test_gradients_are_those_of_the_oracle(rows):
    """Central differences of the slow oracle, for every parameter that moves a state or an event."""
    function, x = states("superposition", ROWS[rows], NAMES), vector_of(NAMES)
    jacobian = torch.autograd.functional.jacobian(function, x).numpy()
    population = population_of({1: ROWS[rows]})
    for i, name in enumerate(NAMES):
        step = 1e-5 * VALUES[name]
        found = []
        for sign in (1, -1):
            sys = system(1, True, {**VALUES, name: VALUES[name] + sign * step})
            found.append(expected(sys, population, packed(population, sys.compartments), memory=400.0)[0])
        wanted = (found[0] - found[1]) / (2 * step)
        np.testing.assert_allclose(jacobian[..., i], wanted, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("rows", "engine"), [*((r, e) for r in ROWS for e in (*LINEAR[1:], "parallel")), ("reset", "ode")]
)
def test_engines_agree_to_second_order(rows, engine):
    """Values, gradients and Hessians of a scalar of all states, against superposition."""
    found = {}
    for which in ("superposition", engine):
        x = vector_of(NAMES)
        y = states(which, ROWS[rows], NAMES)(x)
        weights = torch.sin(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape)
        (g,) = torch.autograd.grad((weights * y).sum() + 1e-3 * (y * y).sum(), x, create_graph=True)
        h = torch.stack([torch.autograd.grad(gi, x, retain_graph=True)[0] for gi in g])
        found[which] = (y.detach(), g.detach(), h)
    tolerance = 1e-9 if engine in LINEAR else 1e-6
    for a, b in zip(found["superposition"], found[engine], strict=True):
        np.testing.assert_allclose(b, a, rtol=10 * tolerance, atol=tolerance * float(a.abs().max()))


@pytest.mark.parametrize("rows", ROWS)
def test_finite_differences_to_third_order(rows):
    """Closed forms: each order of a scalar, along one direction, against differences of the order before."""
    function = states("superposition", ROWS[rows], NAMES)
    x = torch.tensor(list(VALUES.values()), dtype=torch.float64)
    direction = x * torch.cos(torch.arange(len(NAMES), dtype=torch.float64))

    def along(s, order):
        s = torch.tensor(s, dtype=torch.float64, requires_grad=True)
        y = function(x + s * direction).square().sum()
        for _ in range(order):
            (y,) = torch.autograd.grad(y, s, create_graph=True)
        return float(y.detach())

    for order in (1, 2, 3):
        step = 1e-4
        wanted = (along(step, order - 1) - along(-step, order - 1)) / (2 * step)
        wanted = (4 * (along(step / 2, order - 1) - along(-step / 2, order - 1)) / step - wanted) / 3
        np.testing.assert_allclose(along(0.0, order), wanted, rtol=1e-8, err_msg=f"order {order}")


def test_a_dose_that_adds_nothing_still_has_a_gradient():
    # bioavailability 0: the jump is zero, its derivative is not
    sys = system(1, True, {"f0": 0.0})
    batch = packed(population_of({1: [dose(0.0), *observation(2.0)]}), sys.compartments)
    slopes = []
    for engine in ("superposition", "scan", "parallel"):
        f = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
        run(engine, sys, batch, {"f0": f}).sum().backward()
        slopes.append(float(f.grad))
    assert slopes[0] > 50
    np.testing.assert_allclose(slopes, slopes[0], rtol=1e-6)
