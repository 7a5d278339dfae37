"""Rows solved in buckets by number of doses have the same amounts, and derivatives, as all rows together."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import exp

import deepnlme as dn
from deepnlme.dynamics import buckets
from deepnlme.dynamics.buckets import buckets as cut
from deepnlme.joint import Joint


class Lagged(dn.Model):
    """Three compartments behind an absorption site, lag and bioavailability, a base line, two endpoints."""

    ka = dn.Positive(1.2)
    cl = dn.Positive(3.0)
    v1 = dn.Positive(10.0)
    q2 = dn.Positive(2.0)
    v2 = dn.Positive(20.0)
    q3 = dn.Positive(1.0)
    v3 = dn.Positive(50.0)
    lag = dn.Positive(0.2)
    f = dn.Bounded(0.8)
    base = dn.Positive(2.0)
    sd = dn.Positive(0.2)
    eta = dn.RandomEffects("cl", "v1", omega=0.1)
    dynamics = dn.ThreeCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        rest = {name: theta[name] for name in ("ka", "q2", "v2", "q3", "v3", "lag", "f", "base")}
        return dict(cl=theta.cl * exp(eta.cl), v1=theta.v1 * exp(eta.v1), **rest)

    def initial(self, theta, p):
        return dict(central=p.base)

    def dosing(self, theta, p):
        return dict(depot=dn.Dosing(lag=p.lag, bioavailability=p.f))

    def observe(self, theta, p, x):
        c = x.central / p.v1
        return dict(cp=dn.Normal(c, theta.sd), ce=dn.Normal(x.peripheral1 / p.v2, theta.sd))


def people():
    """No dose, one, a few, and hundreds; boluses and infusions, steady state, a reset."""
    random = np.random.default_rng(1)
    regimens = [
        None,
        dn.Regimen(dn.Dose(100)),
        dn.Regimen(dn.Dose(100, ii=8, ss=1), dn.Dose(30, time=5, cmt="central", duration=2.0)),
        dn.Regimen(dn.Dose(50, ii=0.5, addl=150)),
        dn.Regimen(*[dn.Dose(5, time=0.2 * i, cmt="central", duration=0.1) for i in range(300)]),
        dn.Regimen(dn.Dose(50), dn.Dose(0, time=20, evid=3), dn.Dose(70, time=21, ii=1, addl=40)),
    ]
    subjects = []
    for i, regimen in enumerate(regimens, 1):
        times = np.sort(random.uniform(0, 60, 3 + 2 * i))
        seen = {"cp": (times, random.uniform(0.5, 5, len(times)))}
        if i % 2:
            seen["ce"] = (times[:3] + 0.5, random.uniform(0.5, 5, 3))
        subjects.append(dn.Subject(i, regimen, seen))
    return dn.Population(subjects)


@pytest.fixture
def no_buckets(monkeypatch):
    def switch(off):
        monkeypatch.setattr(buckets, "LEAST", 10**12 if off else 0)

    return switch


def test_amounts_and_derivatives(no_buckets):
    found = {}
    for off in (True, False):
        no_buckets(off)
        joint = Joint(Lagged(), people())
        assert (cut(joint.batch) is None) == off
        u = torch.tensor(joint.space.initial()).expand(3, 6, -1).clone().requires_grad_()
        z = torch.tensor(np.random.default_rng(2).standard_normal((3, 6, 2)), requires_grad=True)
        prediction = joint.predict(joint.space.values(u), z, joint.batch)
        weights = torch.tensor(np.random.default_rng(3).standard_normal(prediction.mean.shape))
        (prediction.mean * weights).sum().backward()
        found[off] = prediction.mean.detach(), u.grad, z.grad
    for whole, parts in zip(*found.values(), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-11, atol=1e-12)


def test_every_bucket_has_its_own_width(no_buckets):
    no_buckets(False)
    parts = cut(Joint(Lagged(), people()).batch)
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(6))
    for part in parts:
        assert part.batch.dose_time.shape[1] == int(part.batch.dose_valid.sum(1).max()) == part.doses
    assert [part.doses for part in parts] == [1, 2, 40, 106, 300]  # none after the last record


def test_a_batch_equals_a_loop_over_subjects(no_buckets):
    no_buckets(False)
    population = people()
    whole = dn.evaluate_ofv(Lagged(), population, dn.FOCE())
    for i in range(6):
        alone = dn.evaluate_ofv(Lagged(), population[i : i + 1], dn.FOCE())
        np.testing.assert_allclose(alone.ofv, whole.subject_ofv.iloc[i], rtol=1e-9)
        np.testing.assert_allclose(
            alone.evaluation.gradient[0], whole.evaluation.subject_gradient[0, i], rtol=1e-6, atol=1e-7
        )


def test_small_and_even_batches_stay_whole():
    assert cut(Joint(Lagged(), people()).batch) is not None
    even = dn.Population(
        [dn.Subject(i, dn.Dose(10, ii=1, addl=99), (np.arange(1.0, 40.0), np.ones(39))) for i in range(9)]
    )
    joint = Joint(Even(), even)
    assert joint.batch.rows * 39 * 100 > buckets.LEAST and cut(joint.batch) is None
    small = dn.Population([dn.Subject(i, dn.Dose(10, ii=1, addl=20 * i or 1), ([1.0], [1.0])) for i in range(3)])
    assert cut(Joint(Even(), small).batch) is None


class Even(dn.Model):
    cl, v, sd = dn.Positive(1.0), dn.Positive(10.0), dn.Positive(0.1)
    dynamics = dn.OneCompartment()

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


def test_tables_of_many_doses():
    """The table takes each subject's own cost: one with hundreds of doses is alone, and equal to the others' table."""
    population = people()
    fit = dn.evaluate_ofv(Lagged(), population, dn.FOCE())
    whole = fit.predictions()
    alone = pd.concat([dn.evaluate_ofv(Lagged(), population[[i]], dn.FOCE()).predictions() for i in range(6)])
    for name in ("PRED", "IPRED", "CWRES", "WRES"):
        np.testing.assert_allclose(whole[name], alone[name], rtol=1e-6, atol=1e-7)
