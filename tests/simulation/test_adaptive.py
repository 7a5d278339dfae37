"""Adaptive trials: the same curves as fixed regimens that give the same doses, and decisions that see only the past."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import exp

import deepnlme as dn


class Infused(dn.Model):
    """One compartment and an absorption site, log-normal parameters, additive error."""

    ka = dn.Positive(1.0)
    cl = dn.Positive(2.0)
    v = dn.Positive(20.0)
    sd = dn.Positive(0.3)
    eta = dn.RandomEffects("cl", "v", omega=0.1)
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(cp=dn.Normal(x.central / p.v, theta.sd))


class InfusedODE(Infused):
    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - p.cl / p.v * x.central)


def regimen(before, after):
    """Oral doses every 12 h, an infusion, a dose at steady state and a bolus; those from 24 h on times `after`."""
    early = [dn.Dose(100 * before), dn.Dose(100 * before, time=12), dn.Dose(60 * before, time=6, cmt=2, duration=4.0)]
    if after == 0:
        return dn.Regimen(*early)
    late = [dn.Dose(100 * after, time=time) for time in (24, 36, 48)]
    infusion, steady = dn.Dose(50 * after, time=30, cmt=2, rate=10 * after), dn.Dose(40 * after, time=40, ii=8, ss=2)
    return dn.Regimen(*early, *late, infusion, steady, dn.Dose(80 * after, time=24, cmt=2))


ADDITIONAL = dn.Regimen(
    dn.Dose(100, ii=12, addl=4),
    dn.Dose(60, time=6, cmt="central", duration=4.0),
    dn.Dose(50, time=30, cmt="central", rate=10),
    dn.Dose(40, time=40, ii=8, ss=2),
    dn.Dose(80, time=24, cmt=2),
)
TIMES = [1.0, 7.0, 11.0, 23.0, 24.0, 31.0, 36.0, 47.0, 60.0]


def people(doses, n=3):
    return dn.Population([dn.Subject(i + 1, doses, covariates={"sex": "f" if i % 2 else "m"}) for i in range(n)])


@pytest.mark.parametrize("model", [Infused, InfusedODE])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 3.0])
def test_a_rule_for_all_is_a_regimen(model, factor):
    rule = dn.Adaptive([24.0], lambda visit: {"factor": factor})
    found = dn.simulate(model(), people(ADDITIONAL), TIMES, replicates=2, adapt=rule, seed=1)
    fixed = dn.simulate(model(), people(regimen(1.0, factor)), TIMES, replicates=2, seed=1)
    tolerance = dict(rtol=1e-6, atol=1e-8) if model is InfusedODE else dict(rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.ipred, fixed.ipred, **tolerance)
    np.testing.assert_allclose(found.dv, fixed.dv, **tolerance)


def test_every_subject_is_dosed_by_its_own_observation():
    """Concentrations below 4 double the doses, against simulations of everyone under either regimen."""
    seen = {}

    def rule(visit):
        seen[visit.time] = visit
        return {"factor": np.where(visit.dv["cp"] < 4.0, 2.0, 1.0)}

    found = dn.simulate(Infused(), people(ADDITIONAL, 20), TIMES, replicates=4, adapt=dn.Adaptive([24.0], rule), seed=2)
    plain = dn.simulate(Infused(), people(regimen(1.0, 1.0), 20), TIMES, replicates=4, seed=2)
    double = dn.simulate(Infused(), people(regimen(1.0, 2.0), 20), TIMES, replicates=4, seed=2)
    trough = plain.values("dv")[:, :, TIMES.index(23.0)]
    low = (trough < 4.0)[:, :, None]
    assert 0.1 < low.mean() < 0.9
    np.testing.assert_allclose(found.values("dv"), np.where(low, double.values("dv"), plain.values("dv")), rtol=1e-9)
    np.testing.assert_allclose(seen[24.0].dv["cp"], trough, rtol=1e-12)
    given = found.doses
    assert given is not None
    late = given[(given["TIME"] >= 24) & (given["REP"] == 3) & (given["ID"] == 5)]
    assert set(late["FACTOR"]) == {2.0 if low[2, 4, 0] else 1.0}
    early = given[(given["TIME"] < 24) & (given["REP"] == 1) & (given["ID"] == 1)]
    assert early["AMT"].tolist() == [100, 60, 100] and early["TIME"].tolist() == [0, 6, 12]


def test_what_a_visit_shows():
    visits = []

    def rule(visit):
        visits.append(visit)
        return {"factor": visit.factor * 2, "dropout": visit.random.random(visit.factor.shape) < 0.4}

    found = dn.simulate(
        Infused(), people(ADDITIONAL, 10), TIMES, replicates=3, adapt=dn.Adaptive([0.5, 24.0, 36.0], rule), seed=3
    )
    first, second, third = visits
    assert [v.number for v in visits] == [0, 1, 2] and np.isnan(first.dv["cp"]).all()
    np.testing.assert_array_equal(second.dv["cp"], found.values("dv")[:, :, TIMES.index(23.0)])
    stayed = third.active
    np.testing.assert_array_equal(third.dv["cp"][stayed], found.values("dv")[:, :, TIMES.index(31.0)][stayed])
    assert set(np.unique(second.factor)) <= {0.0, 2.0} and set(np.unique(third.factor)) <= {0.0, 4.0}
    assert second.covariates["sex"].tolist() == ["m", "f"] * 5
    history = third.history["cp"]
    assert history.time[history.subject == 2].tolist() == [t for t in TIMES if t < 36]
    own = history.subject == 2
    seen = np.where(third.active[:, [2]], found.values("dv")[:, 2, :6], np.nan)
    np.testing.assert_array_equal(history.dv[:, own][third.active[:, 2]], seen[third.active[:, 2]])
    again = dn.simulate(
        Infused(), people(ADDITIONAL, 10), TIMES, replicates=3, adapt=dn.Adaptive([0.5, 24.0, 36.0], rule), seed=3
    )
    np.testing.assert_array_equal(found.dropout, again.dropout)


def test_dropout_ends_doses_and_observations():
    def rule(visit):
        leaving = np.zeros(visit.factor.shape, dtype=bool)
        leaving[:, 1] = True
        return {"dropout": leaving}

    found = dn.simulate(Infused(), people(ADDITIONAL), TIMES, adapt=dn.Adaptive([24.0], rule), seed=1)
    stopped = dn.simulate(Infused(), people(regimen(1.0, 0.0)), TIMES, seed=1)
    plain = dn.simulate(Infused(), people(ADDITIONAL), TIMES, seed=1)
    np.testing.assert_allclose(found.values("ipred")[:, 1], stopped.values("ipred")[:, 1], rtol=1e-10)
    np.testing.assert_allclose(found.values("dv")[:, [0, 2]], plain.values("dv")[:, [0, 2]], rtol=1e-10)
    assert np.isnan(found.values("dv")[0, 1]).tolist() == [t >= 24 for t in TIMES]
    assert found.dropout.tolist() == [[np.inf, 24.0, np.inf]]
    assert found.table()["DV"].isna().sum() == sum(t >= 24 for t in TIMES)


def test_covariates_that_change_stand_in_the_table():
    class Weighed(Infused):
        def individual(self, theta, eta, cov):
            return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl) * cov.wt / 70, v=theta.v * exp(eta.v))

    weight = {"wt": ([0.0, 20.0], [60.0, 75.0])}
    population = dn.Population([dn.Subject(i, ADDITIONAL, covariates=weight) for i in (1, 2)])
    rule = dn.Adaptive([12.0, 24.0], lambda visit: {"factor": visit.factor})
    found = dn.simulate(Weighed(), population, TIMES, replicates=2, adapt=rule, seed=1)
    plain = dn.simulate(Weighed(), population, TIMES, replicates=2, seed=1)
    pd.testing.assert_frame_equal(found.table(), plain.table())


class Events(Infused):
    """Counts that follow the concentration, whose draws take a number of random numbers that depends on the rate."""

    def observe(self, theta, p, x):
        return dict(n=torch.distributions.Poisson(1.0 + 3.0 * x.central / p.v))


def test_what_a_rule_has_seen_stays():
    seen = {}

    def rule(visit):
        seen[visit.time] = visit.dv["n"].copy()
        return {"factor": np.where(visit.dv["n"] > 8, 0.2, 2.0)}

    found = dn.simulate(Events(), people(ADDITIONAL, 30), TIMES, adapt=dn.Adaptive([24.0, 40.0], rule), seed=4)
    np.testing.assert_array_equal(seen[24.0], found.values("dv")[:, :, TIMES.index(23.0)])
    np.testing.assert_array_equal(seen[40.0], found.values("dv")[:, :, TIMES.index(36.0)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([2.0, 1.0], lambda v: {}), r"Invalid `times`: got \[2.0, 1.0\], expected increasing times of visits"),
        ((["a"], lambda v: {}), r"Invalid `times`"),
        (([1.0], 3), r"Invalid `rule`: got 3, expected a function"),
    ],
)
def test_adaptive_designs_that_mean_nothing(arguments, message):
    with pytest.raises(dn.ModelError, match=message):
        dn.Adaptive(*arguments)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"Invalid `rule`: got NoneType for the visit at time 24. It returns a dict"),
        ({"dose": 1.0}, r"Invalid `rule`: got dose for the visit"),
        (
            {"factor": np.ones(7)},
            r"Invalid `factor`: got shape \(7,\) for the visit at time 24. It has the shape \(1, 3\)",
        ),
        ({"factor": -1.0}, r"Invalid `factor`: got -1.0 for the visit"),
        ({"factor": np.nan}, r"Invalid `factor`: got nan"),
        ({"dropout": 0.5}, r"Invalid `dropout`: got 0.5"),
    ],
)
def test_answers_that_mean_nothing(answer, message):
    with pytest.raises(dn.ModelError, match=message):
        dn.simulate(Infused(), people(ADDITIONAL), TIMES, adapt=dn.Adaptive([24.0], lambda visit: answer))


def test_adaptive_trials_need_observations_and_one_clock():
    rule = dn.Adaptive([1.0], lambda visit: {})
    with pytest.raises(dn.ModelError, match="Invalid `residual`: got False"):
        dn.simulate(Infused(), people(ADDITIONAL), TIMES, adapt=rule, residual=False)
    back = dn.read_nonmem(
        pd.DataFrame(
            dict(ID=1, TIME=[0.0, 5.0, 0.0, 5.0], EVID=[1, 0, 4, 0], AMT=[10, 0, 10, 0], DV=[None, 1, None, 1])
        )
    )
    with pytest.raises(
        dn.DataError, match="Invalid `adapt`: got visits on a clock that goes back for subject 1, row 4"
    ):
        dn.simulate(Infused(), back, adapt=rule)
