"""Exposure against closed forms, and against numerical integration and root finding, one curve at a time."""

import importlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import exp

import deepnlme as dn

MODULE = importlib.import_module("deepnlme.simulation.exposure")  # the package has the function under that name
DOSE = 100.0


class Oral(dn.Model):
    ka = dn.Positive(1.5)
    cl = dn.Positive(2.7)
    v = dn.Positive(31.0)
    sd = dn.Positive(0.1)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.1, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(cp=dn.Normal(x.central / p.v, theta.sd), effect=dn.Normal(2.0 * x.central / p.v, theta.sd))


@pytest.fixture(scope="module")
def people():
    return dn.virtual_population(7, dn.Dose(DOSE), covariates={"wt": dn.LogNormal(70, 0.2), "sex": "f"})


@pytest.fixture(scope="module")
def fine(people):
    return dn.simulate(Oral(), people, times=np.linspace(0, 200, 20_001), replicates=2, seed=3)


@pytest.fixture(scope="module")
def rough(people):
    """Arbitrary curves at arbitrary times, different in each subject."""
    rng = np.random.default_rng(0)
    times = {i: np.sort([0.5, *rng.uniform(0.6, 9.4, size=2 + i).round(3), 9.5]) for i in people.ids}
    sim = dn.simulate(Oral(), people, times=times, replicates=3)
    values = rng.lognormal(0.0, 0.7, size=sim.ipred.shape)
    values[:, ::5] = 0.0
    values[0, 3] = values[0, 4]
    return replace(sim, ipred=values, dv=rng.normal(0.0, 1.0, size=values.shape))


def test_closed_form_of_a_dose_by_mouth(fine):
    found, p = dn.exposure(fine), fine.individuals()
    ka, cl, v = (p[name].to_numpy() for name in ("ka", "cl", "v"))
    k = cl / v
    tmax = np.log(ka / k) / (ka - k)
    cmax = DOSE / v * (ka / k) ** (-k / (ka - k))
    tail = DOSE / v * ka / (ka - k) * (np.exp(-k * 200) / k - np.exp(-ka * 200) / ka)
    assert found["AUC"].to_numpy() == pytest.approx(DOSE / cl - tail, rel=1e-4)
    assert found["CMAX"].to_numpy() == pytest.approx(cmax, rel=1e-4)
    assert found["TMAX"].to_numpy() == pytest.approx(tmax, abs=0.0051)
    assert found["CAVG"].to_numpy() == pytest.approx((DOSE / cl - tail) / 200, rel=1e-4)
    assert np.all(found["CMIN"] == 0.0)
    assert found["CTROUGH"].to_numpy() == pytest.approx(
        DOSE / v * ka / (ka - k) * (np.exp(-k * 200) - np.exp(-ka * 200))
    )
    assert found["REP"].tolist() == [1] * 7 + [2] * 7 and found["ID"].tolist() == [*range(1, 8)] * 2
    assert found["wt"].to_numpy() == pytest.approx(p["wt"]) and set(found["sex"]) == {"f"}


def test_exponential_decline_is_exact_on_few_times():
    class Bolus(dn.Model):
        k = dn.Positive(0.2)
        eta = dn.RandomEffects("k", omega=0.3)
        dynamics = dn.OneCompartment()

        def individual(self, theta, eta, cov):
            return dict(cl=theta.k * exp(eta.k), v=1.0 + 0.0 * theta.k)

        def observe(self, theta, p, x):
            return dict(cp=dn.Normal(x.central, 1.0))

    sim = dn.simulate(Bolus(), dn.virtual_population(20, dn.Dose(8.0)), times=[0, 5, 12, 30])
    k = sim.individual["cl"][0]
    found = dn.exposure(sim, start=1, end=20, threshold=0.5, method="linear-up log-down")
    assert found["AUC"].to_numpy() == pytest.approx(8 / k * (np.exp(-k) - np.exp(-20 * k)), rel=1e-12)
    assert found["CMAX"].to_numpy() == pytest.approx(8 * np.exp(-k), rel=1e-12)
    assert found["CTROUGH"].to_numpy() == pytest.approx(8 * np.exp(-20 * k), rel=1e-12)
    above = np.clip(np.log(16) / k, 1, 20) - 1
    assert found["T_ABOVE"].to_numpy() == pytest.approx(above, rel=1e-10)
    assert found["T_ABOVE_PCT"].to_numpy() == pytest.approx(100 * above / 19, rel=1e-10)


def slow(t, y, a, b, threshold, log_down):
    """One curve as a function, integrated and searched numerically."""

    def curve(x):
        j = int(np.clip(np.searchsorted(t, x, side="right") - 1, 0, len(t) - 2))
        w = (x - t[j]) / (t[j + 1] - t[j])
        if log_down and 0 < y[j + 1] < y[j]:
            return float(np.exp((1 - w) * np.log(y[j]) + w * np.log(y[j + 1])))
        return (1 - w) * y[j] + w * y[j + 1]

    knots = np.unique(np.concatenate([[a, b], t[(t > a) & (t < b)]]))
    area, above = 0.0, 0.0
    for left, right in pairwise(knots):
        area += quad(curve, left, right, epsabs=0, epsrel=1e-11)[0]
        high = [curve(left) >= threshold, curve(right - 1e-12) >= threshold]
        if all(high):
            above += right - left
        elif any(high):
            root = brentq(lambda x: curve(x) - threshold, left, right - 1e-12, xtol=1e-13)
            above += root - left if high[0] else right - root
    values = np.array([curve(x) for x in knots])
    return {
        "AUC": area,
        "CMAX": values.max(),
        "TMAX": knots[values.argmax()],
        "CMIN": values.min(),
        "CAVG": area / (b - a),
        "CTROUGH": values[-1],
        "T_ABOVE": above,
        "T_ABOVE_PCT": 100 * above / (b - a),
    }


@pytest.mark.parametrize("method", ["linear", "linear-up log-down"])
@pytest.mark.parametrize("of", ["ipred", "dv"])
@pytest.mark.parametrize("interval", [(None, None), (3.0, 6.5)])
@pytest.mark.parametrize("size", [10**6, 7])
def test_one_curve_at_a_time(rough, method, of, interval, size, monkeypatch):
    monkeypatch.setattr(MODULE, "NUMBERS", size)
    found = dn.exposure(rough, "effect", start=interval[0], end=interval[1], threshold=0.4, of=of, method=method)
    values = rough.ipred if of == "ipred" else rough.dv
    for i, row in found.iterrows():
        r, s = divmod(int(i), 7)
        rows = np.flatnonzero((rough.subject == s) & (rough.endpoint == 1))
        t, y = rough.time[rows], values[r, rows]
        a, b = t[0] if interval[0] is None else interval[0], t[-1] if interval[1] is None else interval[1]
        for name, value in slow(t, y, a, b, 0.4, method != "linear").items():
            assert row[name] == pytest.approx(value, rel=1e-8, abs=1e-9), (name, r, s)


def test_a_curve_that_is_not_known(fine):
    ipred = fine.ipred.copy()
    ipred[1, fine.rows("cp")[fine.subject[fine.rows("cp")] == 2][50:60]] = np.nan
    found = dn.exposure(replace(fine, ipred=ipred), threshold=1.0)
    measures = ["AUC", "CMAX", "TMAX", "CMIN", "CAVG", "T_ABOVE", "T_ABOVE_PCT"]
    bad = found[measures].isna()
    assert bad.loc[9].all() and not bad.drop(index=9).to_numpy().any()
    assert not dn.exposure(replace(fine, ipred=ipred), threshold=1.0, start=10).isna().to_numpy().any()


def test_mistakes(fine, rough, people):
    for arguments, message in (
        (dict(of="pred"), "`of`: got 'pred'. It is \"ipred\""),
        (dict(method="log"), "`method`: got 'log'. It is one of 'linear'"),
        (dict(threshold=[1, 2]), "`threshold`: got [1, 2]"),
        (dict(start="a"), "`start`: got 'a'"),
        (dict(start=-1), "`start`: got -1 for subject 1. Its simulated times are 0 to 200. Simulate a grid"),
        (dict(end=300), "`end`: got 300 for subject 1"),
        (dict(start=5, end=5), "`end`: got start 5 and end 5 for subject 1"),
        (dict(endpoint="x"), "`endpoint`: got 'x', expected one of cp, effect"),
    ):
        with pytest.raises(dn.ModelError) as error:
            dn.exposure(fine, **arguments)
        assert message in str(error.value)
    with pytest.raises(dn.ModelError, match=r"`sim`: got DataFrame. It is what dn.simulate returns"):
        dn.exposure(fine.table())
    with pytest.raises(dn.ModelError, match=r"`of`: got 'dv'. The simulation has no residual error. Simulate with"):
        dn.exposure(replace(fine, dv=None), of="dv")
    with pytest.raises(dn.ModelError, match=r"`sim`: got 1 time\(s\) for subject 1. An exposure needs two or more"):
        dn.exposure(dn.simulate(Oral(), people, times=[1.0]))
    back = rough.time.copy()
    back[:2] = back[-1]
    with pytest.raises(dn.ModelError, match=r"`sim`: got times that decrease for subject 1"):
        dn.exposure(replace(rough, time=back))
    named = dn.simulate(Oral(), dn.virtual_population(2, dn.Dose(1), covariates={"AUC": 1.0}), times=[1.0, 2.0])
    with pytest.raises(dn.ModelError, match=r"`covariates`: got 'AUC'. This is the name of an exposure"):
        dn.exposure(named)
