"""Distances of subjects from a fitted model, against loops and closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

import deepnlme as dn
from deepnlme.compare.distances import unobserved

QUIET = dn.Options(progress=False, covariance=None)


class Line(dn.Model):
    """y = base + slope t + eta + eps: everything is normal."""

    base = dn.Real(10.0)
    slope = dn.Real(0.5)
    sd = dn.Positive(0.8)
    eta = dn.RandomEffects("base", omega=1.5)

    def individual(self, theta, eta, cov):
        return dict(base=theta.base + eta.base, slope=theta.slope)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base + p.slope * x.time, theta.sd))


def frame(subjects: int, seed: int, first: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng([seed, 17])
    t = np.tile([0.0, 1.0, 4.0], subjects)
    eta = np.repeat(1.2 * rng.standard_normal(subjects), 3)
    return pd.DataFrame(
        dict(
            ID=first + np.repeat(np.arange(subjects), 3),
            TIME=t,
            DV=10.0 + 0.5 * t + eta + 0.8 * rng.standard_normal(3 * subjects),
            EVID=0,
            MDV=0,
            CENS=0,
        )
    )


@pytest.fixture(scope="module")
def fit():
    return dn.fit(Line(), dn.read_nonmem(frame(30, 1)), options=QUIET)


def test_against_a_loop(fit):
    data = frame(25, 2, first=100)
    found = dn.predictive_distance(fit, dn.read_nonmem(data))
    e = fit.estimates
    r, omega = e["sd"] ** 2, e["omega[base]"]
    minus2ll, squares, absolute, ratios, own, inside = 0.0, [], [], [], [], []
    half = norm.ppf(0.95) * np.sqrt(omega + r)
    for _, rows in data.groupby("ID"):
        y, t = rows["DV"].to_numpy(), rows["TIME"].to_numpy()
        f = e["base"] + e["slope"] * t
        cov = omega * np.ones((3, 3)) + r * np.eye(3)
        d = y - f
        minus2ll += d @ np.linalg.solve(cov, d) + np.linalg.slogdet(cov)[1] + 3 * np.log(2 * np.pi)
        squares += list(d**2)
        absolute += list(abs(d))
        ratios += list(abs(np.log(y / f)))
        own += list((d - d.sum() * omega / (3 * omega + r)) ** 2)
        inside += list(abs(d) <= half)
    assert found.minus2ll == pytest.approx(minus2ll, rel=1e-9)
    assert found.ofv == pytest.approx(minus2ll - 75 * np.log(2 * np.pi), rel=1e-9)
    assert found.subject_ofv.sum() == pytest.approx(found.ofv) and found.subject_ofv.index[0] == 100
    row = found.table.loc["dv"]
    assert row["N"] == 75 == found.observations and found.subjects == 25
    assert row["RMSE PRED"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-9)
    assert row["MAE PRED"] == pytest.approx(np.mean(absolute), rel=1e-9)
    assert row["MDLR PRED"] == pytest.approx(np.median(ratios), rel=1e-9)
    assert row["RMSE IPRED"] == pytest.approx(np.sqrt(np.mean(own)), rel=1e-6)
    np.testing.assert_allclose(found.predictions["HIGH"] - found.predictions["PRED"], half, rtol=5e-3)
    np.testing.assert_allclose(found.predictions["PRED"] - found.predictions["LOW"], half, rtol=5e-3)
    assert row["coverage 90%"] == pytest.approx(100 * np.mean(inside), abs=100.0 / 75)
    assert found.method == "FOCEI" and not found.unconverged
    assert f"{minus2ll:.4f}" in str(found)


def test_coverage_is_nominal(fit):
    """A thousand subjects of the true model; the fit is to thirty."""
    found = dn.predictive_distance(fit, dn.read_nonmem(frame(1000, 3)))
    e = fit.estimates
    bias = e["base"] - 10.0 + (e["slope"] - 0.5) * np.array([0.0, 1.0, 4.0])
    half = norm.ppf(0.95) * np.sqrt(e["omega[base]"] + e["sd"] ** 2)
    sd = np.sqrt(1.2**2 + 0.8**2)
    expected = np.mean(norm.cdf((half + bias) / sd) - norm.cdf((bias - half) / sd))
    # three correlated observations a subject: at least a thousand independent ones
    assert found.table.loc["dv", "coverage 90%"] / 100 == pytest.approx(expected, abs=3.5 * np.sqrt(0.09 / 1000))


def test_another_approximation_and_another_seed(fit):
    population = dn.read_nonmem(frame(5, 4))
    a, b = dn.predictive_distance(fit, population), dn.predictive_distance(fit, population, dn.Laplace(), seed=1)
    assert b.method == "Laplace"
    assert a.minus2ll == pytest.approx(b.minus2ll, rel=1e-9)  # all are exact for a normal model
    np.testing.assert_allclose(a.predictions["LOW"], b.predictions["LOW"], rtol=1e-3)  # other draws, but stratified
    assert a.predictions.equals(dn.predictive_distance(fit, population).predictions)


def test_censored_observations_count_in_the_likelihood_only(fit):
    data = frame(6, 5)
    data.loc[[0, 7], "CENS"] = 1
    population = dn.read_nonmem(data)
    found = dn.predictive_distance(fit, population)
    assert found.observations == 18 and len(found.predictions) == 16 == found.table.loc["dv", "N"]
    assert found.minus2ll == pytest.approx(-2 * dn.evaluate_ofv(fit.model, population, at=fit).log_likelihood)
    exact = data[data["CENS"] == 0]
    np.testing.assert_array_equal(found.predictions["DV"], exact["DV"])
    np.testing.assert_array_equal(found.predictions["TIME"], exact["TIME"])


def test_records_without_observation_change_nothing(fit):
    data = frame(4, 6)
    extra = data.iloc[[1, 5]].assign(MDV=1, DV=np.nan)
    more = pd.concat([data, extra]).sort_values(["ID", "TIME"], kind="stable")
    a, b = (dn.predictive_distance(fit, dn.read_nonmem(d)) for d in (data, more))
    pd.testing.assert_frame_equal(a.predictions, b.predictions)
    assert a.minus2ll == pytest.approx(b.minus2ll, rel=1e-12)


class Two(Line):
    """A second endpoint, log-normal, with an effect of its own."""

    level = dn.Positive(3.0)
    log_sd = dn.Positive(0.2)
    eta = dn.RandomEffects("base", "level", omega=[1.5, 0.1])

    def individual(self, theta, eta, cov):
        return dict(base=theta.base + eta.base, slope=theta.slope, level=theta.level * torch.exp(eta.level))

    def observe(self, theta, p, x):
        level = p.level + 0.0 * x.time
        return dict(cp=dn.Normal(p.base + p.slope * x.time, theta.sd), pd=dn.LogNormal(level, theta.log_sd))


def test_two_endpoints():
    one = frame(12, 7)
    two = one.assign(DV=3.0 * np.exp(0.3 * np.random.default_rng(8).standard_normal(len(one))), DVID=2)
    both = pd.concat([one.assign(DVID=1), two]).sort_values(["ID", "TIME"], kind="stable").reset_index(drop=True)
    population = dn.read_nonmem(both, endpoints={1: "cp", 2: "pd"})
    fit = dn.evaluate_ofv(Two(), population)
    found = dn.predictive_distance(fit, population)
    assert list(found.table.index) == ["cp", "pd"] and (found.table["N"] == 36).all()
    np.testing.assert_array_equal(found.predictions["ENDPOINT"], both["DVID"].map({1: "cp", 2: "pd"}))
    np.testing.assert_array_equal(found.predictions["DV"], both["DV"])
    half = {1: norm.ppf(0.95) * np.sqrt(1.5 + 0.64), 2: norm.ppf(0.95) * np.sqrt(0.1 + 0.04)}
    middle = np.where(both["DVID"] == 1, 10.0 + 0.5 * both["TIME"], np.log(3.0))
    width = both["DVID"].map(half)
    high = found.predictions["HIGH"].to_numpy()
    np.testing.assert_allclose(np.where(both["DVID"] == 1, high, np.log(high)) - middle, width, rtol=1e-2)
    part = both[both["DVID"] == 2]
    assert found.table.loc["pd", "MDLR PRED"] == pytest.approx(np.median(abs(np.log(part["DV"] / 3.0))))
    assert {"RMSE PRED cp", "RMSE PRED pd"} <= set(found.row())
    # numbers as labels of endpoints
    numbered = dn.predictive_distance(fit, dn.read_nonmem(both))
    pd.testing.assert_frame_equal(numbered.predictions, found.predictions)


def test_negative_values_have_no_ratio(fit):
    data = frame(3, 9)
    data.loc[0, "DV"] = -1.0
    found = dn.predictive_distance(fit, dn.read_nonmem(data)).predictions
    table = dn.predictive_distance(fit, dn.read_nonmem(data)).table
    usable = found[found["DV"] > 0]
    assert table.loc["dv", "MDLR PRED"] == pytest.approx(np.median(abs(np.log(usable["DV"] / usable["PRED"]))))


def test_unobserved_keeps_doses_and_records(fit):
    data = frame(2, 10)
    extra = data.iloc[[1]].assign(MDV=1, DV=np.nan)
    more = pd.concat([data, extra]).sort_values(["ID", "TIME"], kind="stable")
    there = dn.evaluate_ofv(Line(), dn.read_nonmem(more))
    hidden = unobserved(there)
    assert hidden.observations == 0 and len(hidden.records) == 7
    np.testing.assert_array_equal(hidden.records.evid == 2, there.population.records.observed == 0)


def test_refusals(fit):
    population = dn.read_nonmem(frame(3, 11))
    with pytest.raises(dn.ModelError, match="Invalid `fit`: got Line, expected a Fit"):
        dn.predictive_distance(Line(), population)
    with pytest.raises(dn.DataError, match=r"Invalid `population`: got DataFrame. It is a Population"):
        dn.predictive_distance(fit, frame(3, 11))
    with pytest.raises(dn.DataError, match="Each subject needs an observation"):
        dn.predictive_distance(fit, unobserved(dn.evaluate_ofv(Line(), population)))
