"""Differential equations without a solution are refused with the subject, the state and the time to blame."""

import re

import numpy as np
import pytest
import torch

import deepnlme as dn

TIMES = np.linspace(0.0, 4.0, 9)


class Base(dn.Model):
    """One state that starts at one and is observed; a drug that does nothing."""

    k = dn.Positive(1.0)
    sd = dn.Positive(0.1)
    eta = dn.RandomEffects("k", omega=0.1)

    def individual(self, theta, eta, cov):
        return dict(k=theta.k * torch.exp(eta.k))

    def initial(self, theta, p):
        return dict(response=1.0)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.response, theta.sd))


class Explodes(Base):
    """R' = k R^2 from 1: R = 1 / (1 - k t), infinite at t = 1/k."""

    def dynamics(self, theta, p, t, x):
        return dict(drug=-x.drug, response=p.k * x.response**2)


class Undefined(Base):
    """R' = log(R - 2): not a number from the beginning."""

    def dynamics(self, theta, p, t, x):
        return dict(drug=-x.drug, response=torch.log(x.response - 2.0))


class LaterUndefined(Base):
    """R = 1 - k t, whose square root ends at t = 1/k."""

    def dynamics(self, theta, p, t, x):
        return dict(drug=-x.drug, response=-p.k + 1e-9 * torch.sqrt(x.response))


class Oscillates(Base):
    """A spring of angular frequency 1e5: no solver can follow 6e4 turns."""

    def dynamics(self, theta, p, t, x):
        return dict(drug=-x.drug, response=1e5 * p.k * x.speed, speed=-1e5 * p.k * x.response)


class BadStart(Base):
    """The initial state is not a number."""

    def initial(self, theta, p):
        return dict(response=torch.sqrt(-p.k))

    def dynamics(self, theta, p, t, x):
        return dict(drug=-x.drug, response=-p.k * x.response)


def people(ids=("a", "b")):
    rng = np.random.default_rng(1)
    return dn.Population(
        [dn.Subject(i, dn.Dose(1.0, time=0.5, cmt="drug"), (TIMES, 1.0 + 0.1 * rng.standard_normal(9))) for i in ids]
    )


def message(model):
    with pytest.raises(dn.ModelError) as found:
        dn.fit(model, people(), options=dn.Options(progress=False))
    return str(found.value)


def test_explosion_names_subject_state_and_time():
    text = message(Explodes(k=0.4))
    assert "subject a" in text and "`response`" in text and "explode" in text
    time = float(re.search(r"at time ([0-9.]+)\.", text)[1])
    assert time == pytest.approx(2.5, rel=1e-3)  # 1/k


def test_derivative_that_is_not_a_number_at_once():
    text = message(Undefined())
    assert "derivative of `response` is not finite at or soon after time 0;" in text


def test_derivative_that_ceases_to_be_a_number():
    text = message(LaterUndefined(k=0.8))
    assert "`response`" in text and "not finite" in text
    # the last time at which a solver that goes in steps still found a number
    assert 1.1 < float(re.search(r"after time ([0-9.]+);", text)[1]) <= 1.25


def test_too_fast_to_follow():
    text = message(Oscillates())
    assert "stiffer than the solvers follow" in text
    assert float(re.search(r"fastest rate ([0-9.e+]+) per", text)[1]) == pytest.approx(1e5, rel=0.01)


def test_initial_state_that_is_not_a_number():
    assert "initial state or a dose of `response` is not finite at time 0" in message(BadStart())


def test_a_network_that_explodes():
    """A network that adds to what drives it."""

    class Growing(Base):
        growth = dn.MLP(inputs=1, hidden=(3,), output_activation="softplus", typical=2.0)

        def dynamics(self, theta, p, t, x):
            return dict(drug=-x.drug, response=theta.growth(x.response) * x.response**2)

    text = message(Growing())
    assert "subject a" in text and "`response`" in text and "explode" in text and "network" in text
