"""Ratios of covariate effects: closed forms for powers and exponentials, whose logarithms are normal."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from torch import exp, where

import deepnlme as dn

QUIET = dn.Options(progress=False)
DRAWS = 20_000


class Scaled(dn.Model):
    """cl = tv (wt/70)^b exp(s [sex = male]), v free of covariates; a vector that is no quantity."""

    cl = dn.Positive(2.0, unit="L/h")
    v = dn.Positive(20.0, unit="L")
    sd = dn.Positive(0.2)
    b = dn.Real(0.7)
    s = dn.Real(0.2)
    eta = dn.RandomEffects("cl", "v", omega=[0.08, 0.05])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        male = where(cov.sex == 1.0, theta.s, 0.0)
        cl = theta.cl * (cov.wt / 70.0) ** theta.b * exp(male + eta.cl)
        return dict(cl=cl, v=theta.v * exp(eta.v), shift=theta.b * (cov.wt - 70.0))

    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal(x.central / p.v, theta.sd))


@pytest.fixture(scope="module")
def population():
    rng = np.random.default_rng(5)
    people = []
    for i in range(30):
        wt, sex = 70.0 * np.exp(0.25 * rng.standard_normal()), ["female", "male", "male"][i % 3]
        cl = 2.0 * (wt / 70) ** 0.75 * np.exp(0.2 * (sex == "male") + 0.28 * rng.standard_normal())
        v, t = 20.0 * np.exp(0.22 * rng.standard_normal()), np.array([0.5, 3.0, 8.0, 14.0])
        dv = 100 / v * np.exp(-cl / v * t + 0.2 * rng.standard_normal(4))
        people.append(dn.Subject(i + 1, dn.Dose(100), (t, dv), {"wt": wt, "sex": sex, "age": 20.0 + 2 * i}))
    return dn.Population(people)


@pytest.fixture(scope="module")
def fit(population):
    return dn.fit(Scaled(), population, options=QUIET)


def assert_quantiles(found, centre, sd, p):
    """Quantiles of draws from a normal distribution, within four Monte-Carlo standard errors."""
    error = sd * np.sqrt(p * (1 - p) / DRAWS) / stats.norm.pdf(stats.norm.ppf(p))
    assert found == pytest.approx(centre + sd * stats.norm.ppf(p), abs=4 * error)


def test_powers_and_groups_have_closed_forms(fit):
    """log ratio = b log(w/70), and s: normal with the standard errors of b and s."""
    table = dn.covariate_effects(
        fit, {"wt": [50, 90], "sex": ["male"]}, ["cl"], {"wt": 70, "sex": "female"}, draws=DRAWS, seed=3
    )
    assert list(table.columns) == ["COVARIATE", "VALUE", "PARAMETER", "RATIO", "LOW", "HIGH"]
    assert table["VALUE"].tolist() == [50.0, 90.0, "male"]
    b, s = fit.estimates["b"], fit.estimates["s"]
    for row, (centre, slope, se) in zip(
        table.itertuples(),
        [(b * np.log(w / 70), np.log(w / 70), fit.se["b"]) for w in (50, 90)] + [(s, 1.0, fit.se["s"])],
        strict=True,
    ):
        assert pytest.approx(np.exp(centre), rel=1e-12) == row.RATIO
        assert_quantiles(np.log(row.LOW), centre, abs(slope) * se, 0.05)
        assert_quantiles(np.log(row.HIGH), centre, abs(slope) * se, 0.95)
    assert table.attrs == {"reference": {"wt": 70.0, "sex": "female", "age": 49.0}, "level": 0.9, "between": False}


def test_between_subjects(fit):
    """With eta of the subject the logarithm has omega beside the uncertainty, and omega is itself uncertain."""
    known = dn.covariate_effects(
        fit, {"wt": 90}, ["cl"], {"wt": 70}, uncertainty=None, between=True, draws=DRAWS, level=0.8
    ).iloc[0]
    centre, sd = fit.estimates["b"] * np.log(90 / 70), np.sqrt(fit.estimates["omega[cl]"])
    assert_quantiles(np.log(known.LOW), centre, sd, 0.1)
    assert_quantiles(np.log(known.HIGH), centre, sd, 0.9)
    both = dn.covariate_effects(fit, {"wt": 90}, ["cl"], {"wt": 70}, between=True, draws=DRAWS, level=0.8).iloc[0]
    assert both.HIGH / both.LOW > known.HIGH / known.LOW


def test_functions_of_parameters(fit):
    """The half-life ln 2 v / cl has the inverse ratio of cl; numbers by name or as attributes."""
    functions = {"half-life": lambda p: np.log(2) * p.v / p.cl, "AUC": lambda p: 100 / p["cl"]}
    table = dn.covariate_effects(fit, {"wt": [50, 90]}, functions, seed=1)
    single = dn.covariate_effects(fit, {"wt": [50, 90]}, ["cl"], seed=1)
    for name in functions:
        mine = table.loc[table["PARAMETER"] == name].reset_index(drop=True)
        np.testing.assert_allclose(mine["RATIO"], 1 / single["RATIO"], rtol=1e-12)
        np.testing.assert_allclose(mine["LOW"], 1 / single["HIGH"], rtol=1e-3)
    with pytest.raises(dn.ModelError, match="an array of shape"):
        dn.covariate_effects(fit, {"wt": 50}, {"sum": lambda p: p.cl.sum(0)})


class Plain(Scaled):
    """The same without the parameter that may be negative."""

    def individual(self, theta, eta, cov):
        p = super().individual(theta, eta, cov)
        return dict(cl=p["cl"], v=p["v"])


def test_what_is_shown_by_default(fit, population):
    """5th and 95th percentile of numbers, other levels of texts; reference median and most frequent; effects only."""
    plain = dataclasses.replace(fit, model=Plain())
    table = dn.covariate_effects(plain)
    weights = population.records.covariates["wt"][population.starts[:-1]]
    assert table["PARAMETER"].unique().tolist() == ["cl"] and table["COVARIATE"].tolist() == ["wt", "wt", "sex"]
    np.testing.assert_allclose(table["VALUE"][:2].astype(float), np.quantile(weights, [0.05, 0.95]), rtol=1e-12)
    assert table["VALUE"][2] == "female"
    assert table.attrs["reference"] == {"wt": np.median(weights), "sex": "male", "age": 49.0}
    named = dn.covariate_effects(plain, ["age", "sex"], ["cl", "v"])
    assert named["PARAMETER"].tolist() == ["cl"] * 3 + ["v"] * 3
    assert named.loc[named["COVARIATE"] == "age", ["RATIO", "LOW", "HIGH"]].to_numpy() == pytest.approx(1.0)


def test_codes_are_levels():
    """A number of two values is a code: its reference is the more frequent one, not a median of a half."""

    class Coded(Plain):
        b = dn.Real(0.7, fixed=True)

    people = [
        dn.Subject(i, dn.Dose(100), ([1.0, 5.0], [5.0, 3.0]), {"wt": 60.0 + i, "sex": float(i % 2)}) for i in range(10)
    ]
    fit = dn.evaluate_ofv(Coded(), dn.Population(people))
    table = dn.covariate_effects(fit, ["sex"], uncertainty=None)
    assert table["VALUE"].tolist() == [1.0] and table.attrs["reference"]["sex"] == 0.0
    assert table["RATIO"][0] == pytest.approx(np.exp(0.2)) and table[["LOW", "HIGH"]].isna().all(axis=None)


def test_covariates_that_change_count_at_the_first_record():
    people = [
        dn.Subject(i, dn.Dose(100), ([1.0, 5.0], [5.0, 3.0]), {"wt": ([0, 5], [60.0 + i, 99.0]), "sex": 0})
        for i in range(11)
    ]
    fit = dn.evaluate_ofv(Plain(), dn.Population(people))
    table = dn.covariate_effects(fit, ["wt"], uncertainty=None)
    assert table.attrs["reference"]["wt"] == 65.0 and table["VALUE"].tolist() == [60.5, 69.5]


def test_tables_of_draws(fit):
    """Quantiles of the rows of a bootstrap or a posterior."""
    b = np.linspace(0.5, 0.9, 41)
    draws = pd.DataFrame([{**fit.estimates, "b": value} for value in b])
    found = dn.covariate_effects(fit, {"wt": 90}, ["cl"], {"wt": 70}, uncertainty=draws, draws=41).iloc[0]
    expected = (90 / 70) ** np.quantile(b, [0.05, 0.95])
    np.testing.assert_allclose([found.LOW, found.HIGH], expected, rtol=1e-3)


def test_same_seed_same_answer_and_chunks_change_nothing(fit, monkeypatch):
    from deepnlme.diagnostics import covariate_effects as module  # the function: its module goes by the same name

    once = dn.covariate_effects(fit, {"wt": [50, 90]}, ["cl"], draws=101)
    monkeypatch.setitem(module.__globals__, "ROWS", 40)
    pd.testing.assert_frame_equal(dn.covariate_effects(fit, {"wt": [50, 90]}, ["cl"], draws=101), once, rtol=1e-12)
    assert not dn.covariate_effects(fit, {"wt": [50, 90]}, ["cl"], draws=101, seed=1).equals(once)


def test_refusals(fit, population):
    cases = (
        (
            dict(covariates=["crcl"]),
            "got 'crcl'. The covariates of the fit's population are wt, sex, age",
        ),
        (dict(covariates={"sex": ["f"]}), "got 'f' for covariate sex. It is one of female, male"),
        (dict(covariates={"wt": ["heavy"]}), "got 'heavy' for covariate wt. It is a finite number"),
        (dict(reference={"sex": 1}), "`reference`: got 1 for covariate sex"),
        (dict(covariates={"wt": []}), "nothing to vary"),
        (dict(quantities=["ka"]), "`quantities`: got 'ka'. The model's individual parameters are cl, v, shift"),
        (dict(covariates={"age": [20]}), "At least one individual parameter depends on a covariate"),
        (dict(quantities=["shift"], reference={"wt": 60}), "`shift`: got -.* A ratio needs a positive reference"),
        (dict(level=90), "`level`: got 90"),
        (dict(draws=1), "`draws`: got 1"),
        (dict(uncertainty="yes"), "`uncertainty`"),
        (dict(covariates=5), "`covariates`: got 5. It is names, or values by name"),
        (dict(reference=[70]), "`reference`: got .70.. It is a dictionary by name"),
        (dict(quantities={"AUC": 100}), "It is a function of the parameters"),
        (dict(seed=-1), "`seed`: got -1"),
    )
    for arguments, message in cases:
        with pytest.raises(dn.DeepNLMEError, match=message.replace("(", r"\(")):
            dn.covariate_effects(fit, **arguments)
    with pytest.raises(dn.ModelError, match="`between`: got True"):
        dn.covariate_effects(dn.evaluate_ofv(Scaled(), population, dn.NaivePooled()), uncertainty=None, between=True)
    with pytest.raises(dn.ModelError, match="`fit`: got SimpleNamespace"):
        dn.covariate_effects(SimpleNamespace())


def test_a_covariance_step_that_failed_or_is_missing_is_refused(fit):
    without = dataclasses.replace(fit, covariance=None)
    with pytest.raises(dn.ModelError, match=r"no covariance step.*fit.with_covariance\(\)"):
        dn.covariate_effects(without, {"wt": 50}, ["cl"])
    failed = dataclasses.replace(fit.covariance, message="Covariance step failed: the R matrix is not positive.")
    with pytest.raises(dn.ModelError, match="Covariance step failed"):
        dn.covariate_effects(dataclasses.replace(fit, covariance=failed), {"wt": 50}, ["cl"])
    assert dn.covariate_effects(without, {"wt": 50}, ["cl"], uncertainty=None)["RATIO"].notna().all()
