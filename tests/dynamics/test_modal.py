"""Doses summed mode by mode give the amounts, and the derivatives of every order, of doses summed one by one."""

import numpy as np
import pytest
import torch
from torch import exp

import deepnlme as dn
from deepnlme.dynamics import linear
from deepnlme.dynamics.modal import has_modes
from deepnlme.joint import Joint

REGIMENS = [
    None,
    dn.Regimen(dn.Dose(100, cmt="central")),
    dn.Regimen(dn.Dose(40, cmt="central", duration=6.0), dn.Dose(30, time=2.0, cmt="central", duration=3.0)),
    dn.Regimen(*[dn.Dose(5, time=0.7 * i, cmt="central", duration=2.5) for i in range(8)], dn.Dose(20, cmt="central")),
    dn.Regimen(dn.Dose(60, time=1.0, cmt="peripheral1", duration=4.0), dn.Dose(10, ii=3, addl=3, cmt="central")),
    dn.Regimen(dn.Dose(30, cmt="central", duration=9.0), dn.Dose(0, time=4, evid=3), dn.Dose(7, time=5, cmt="central")),
    dn.Regimen(dn.Dose(25, ii=6, ss=1, cmt="central", duration=1.0), dn.Dose(9, time=2, cmt="peripheral2")),
]
TIMES = np.array([0.0, 0.5, 1.0, 2.0, 2.7, 4.0, 5.0, 6.0, 9.0, 24.0])


def model_of(absorption, into_depot=False):
    """Three compartments, all amounts observed."""

    class Mammillary(dn.Model):
        ka = dn.Positive(1.3)
        cl, v1, q2 = dn.Positive(3.0), dn.Positive(10.0), dn.Positive(2.0)
        v2, q3, v3 = dn.Positive(20.0), dn.Positive(1.0), dn.Positive(50.0)
        sd = dn.Positive(0.2)
        eta = dn.RandomEffects("cl", "v1", "q3", omega=0.1)
        dynamics = dn.ThreeCompartment(absorption=absorption)

        def individual(self, theta, eta, cov):
            shared = {name: theta[name] for name in ("ka", "q2", "v2", "v3")}
            scale = {name: theta[name] * exp(eta[name]) for name in ("cl", "v1", "q3")}
            return shared | scale

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central + 2.0 * x.peripheral1 + 3.0 * x.peripheral2, theta.sd))

    regimens = REGIMENS
    if into_depot:
        regimens = [dn.Regimen(dn.Dose(80, ii=2, addl=6)), dn.Regimen(dn.Dose(50), dn.Dose(20, time=1, cmt="central"))]
    people = [dn.Subject(i + 1, regimen, (TIMES, np.ones(10))) for i, regimen in enumerate(regimens)]
    return Joint(Mammillary(), dn.Population(people))


def solved(joint):
    """Predictions at two sets of parameters, and their first and second derivatives."""
    rows = joint.batch.rows
    u = torch.tensor(joint.space.initial()) + torch.tensor([0.0, 0.3])[:, None, None].double()
    u = u.expand(2, rows, -1).clone().requires_grad_()
    z = torch.tensor(np.random.default_rng(2).standard_normal((2, rows, joint.k)), requires_grad=True)
    seen = joint.predict(joint.space.values(u), z, joint.batch).mean
    first = torch.autograd.grad((seen * seen).sum(), (u, z), create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), (u, z), create_graph=True)
    third = torch.autograd.grad(sum(part.square().sum() for part in second), (u, z))
    return [part.detach() for part in (seen, *first, *second, *third)]


@pytest.mark.parametrize(("absorption", "into_depot"), [(None, False), ("first-order", False), ("first-order", True)])
def test_amounts_and_three_derivatives(monkeypatch, absorption, into_depot):
    fast = solved(model_of(absorption, into_depot))
    asked = []
    monkeypatch.setattr(linear, "has_modes", lambda *given: asked.append(has_modes(*given)))
    slow = solved(model_of(absorption, into_depot))
    assert all(asked) and asked  # the fast way was open, and not taken
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


def test_without_elimination_nothing_is_lost():
    class Closed(dn.Model):
        k, k12, k21 = dn.Real(0.0, fixed=True), dn.Positive(0.4), dn.Positive(0.3)
        sd = dn.Positive(1.0)
        dynamics = dn.TwoCompartment(parameters="rates")

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central + x.peripheral, theta.sd))

    person = dn.Subject(1, dn.Regimen(dn.Dose(10, duration=4.0), dn.Dose(3, time=1.0)), (TIMES, np.ones(10)))
    pred = dn.predict(Closed(), dn.Population([person]))["PRED"]
    given = 2.5 * np.minimum(TIMES, 4.0) + 3.0 * (TIMES >= 1.0)
    np.testing.assert_allclose(pred, given, rtol=1e-12)


def test_a_duration_that_is_estimated_goes_the_general_way():
    """Doses that move with the parameters are not of the kind that is known beforehand."""

    class Moving(dn.Model):
        cl, v, d = dn.Positive(1.0), dn.Positive(10.0), dn.Positive(2.0)
        sd = dn.Positive(0.1)
        dynamics = dn.OneCompartment()

        def dosing(self, theta, p):
            return dict(central=dn.Dosing(duration=p.d))

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central, theta.sd))

    person = dn.Subject(1, dn.Dose(10, rate=-2), (TIMES, np.ones(10)))
    for d in (2.0, 5.0):
        pred = dn.predict(Moving(), dn.Population([person]), at={"d": d})["PRED"]
        run = np.minimum(TIMES, d)
        expected = 10 / d / 0.1 * (1 - np.exp(-0.1 * run)) * np.exp(-0.1 * (TIMES - run))
        np.testing.assert_allclose(pred, expected, rtol=1e-12)
