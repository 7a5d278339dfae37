"""`compare`: what stands in its tables, and what it refuses."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch

import deepnlme as dn
from deepnlme.compare.distances import distances

QUIET = dn.Options(progress=False)


class Line(dn.Model):
    base = dn.Real(9.0, unit="mg/L")
    slope = dn.Real(0.4)
    sd = dn.Positive(1.0)
    eta = dn.RandomEffects("base", "slope", omega=[1.0, 0.05])

    def individual(self, theta, eta, cov):
        return dict(base=theta.base + eta.base, slope=theta.slope + eta.slope)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base + p.slope * x.time, theta.sd))


class Robust(Line):
    def observe(self, theta, p, x):
        return dict(dv=dn.StudentT(p.base + p.slope * x.time, theta.sd, 5.0))


class Count(Line):
    sd = None

    def observe(self, theta, p, x):
        return dict(dv=torch.distributions.Poisson(torch.abs(p.base + p.slope * x.time) + 0.1))


class Learned(Line):
    slope = None
    eta = dn.RandomEffects("base", omega=1.0)
    curve = dn.MLP(inputs=1, hidden=(3,), outputs=1, prior=dn.L2(1.0))

    def individual(self, theta, eta, cov):
        return dict(base=theta.base + eta.base)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base + theta.curve(x.time), theta.sd))


def people(subjects: int, first: int = 1) -> dn.Population:
    rng = np.random.default_rng([subjects, 31])
    t = np.tile([0.0, 1.0, 4.0, 8.0], subjects)
    base, slope = (np.repeat(sd * rng.standard_normal(subjects), 4) for sd in (1.0, 0.3))
    dv = np.round(10.0 + base + (0.5 + slope) * t + 0.8 * rng.standard_normal(4 * subjects))
    return dn.read_nonmem(pd.DataFrame(dict(ID=np.repeat(np.arange(subjects), 4) + first, TIME=t, DV=dv)))


NO_SLOPE = dn.RandomEffects("base", "slope", omega=[1.0, 0.0], fixed=["slope"])


@pytest.fixture(scope="module")
def population():
    return people(20)


@pytest.fixture(scope="module")
def fits(population):
    models = {
        "one eta": Line(eta=NO_SLOPE),
        "two etas": Line(),
        "flat": Line(slope=dn.Real(0.0, fixed=True), eta=NO_SLOPE),
    }
    return {name: dn.fit(model, population, options=QUIET) for name, model in models.items()}


@pytest.fixture(scope="module")
def laplace(population):
    quiet = dataclasses.replace(QUIET, covariance=None)
    return {m.__name__: dn.fit(m(), population, dn.Laplace(), options=quiet) for m in (Line, Robust, Count)}


def test_table(fits):
    found = dn.compare(fits)
    assert found.reference == "one eta" and list(found.table.index) == list(fits) and not found.refused
    for name, fit in fits.items():
        row = found.table.loc[name]
        assert row["OFV"] == fit.ofv and row["AIC"] == fit.aic and row["BIC"] == fit.bic
        assert row["-2LL"] == pytest.approx(fit.ofv + 80 * math.log(2 * math.pi))
        assert row["dOFV"] == pytest.approx(fit.ofv - fits["one eta"].ofv)
        assert row["parameters"] == fit.n_parameters == row["effective"]
        assert row["converged"] and row["condition number"] == fit.condition_number
        assert row["seconds"] == sum(fit.seconds.values()) and row["method"] == "FOCEI"
        parameters = found.parameters[name]
        assert parameters.loc["base", "Estimate"] == fit.estimates["base"]
        assert parameters.loc["base", "SE"] == fit.se["base"]
        assert parameters.loc["base", "RSE%"] == pytest.approx(100 * fit.se["base"] / abs(fit.estimates["base"]))
        assert found.shrinkage.loc["eps", name] == pytest.approx(fit.epsilon_shrinkage)
        assert found.shrinkage.loc["base", name] == pytest.approx(fit.shrinkage["base"])
    assert math.isnan(found.parameters[("flat", "SE")]["slope"])
    assert list(found.shrinkage.index) == ["base", "slope", "eps"]


def test_tests(fits):
    found = dn.compare(fits)
    pairs = {(t.reduced, t.full): t for t in found.tests}
    assert set(pairs) == {("one eta", "two etas"), ("flat", "one eta"), ("flat", "two etas")}
    for (reduced, full), test in pairs.items():
        alone = dn.likelihood_ratio(fits[reduced], fits[full])
        assert (test.p, test.df, test.boundary) == (alone.p, alone.df, alone.boundary)
    assert found.lrt.set_index(["reduced", "full"]).loc[("flat", "two etas"), "df"] == 2


def test_text(fits):
    text = str(dn.compare(fits, reference="two etas"))
    lines = text.splitlines()
    assert lines[0] == "Reference: two etas"
    row = next(line for line in lines if line.startswith("one eta"))
    assert f"{fits['one eta'].ofv - fits['two etas'].ofv:.4f}" in row and " yes" in row
    for title in ("Estimates (RSE%)", "Shrinkage [%]", "Likelihood ratio tests"):
        assert title in lines
    # columns that say nothing are left out
    assert not {"penalty", "effective", "OFV reported"} & set(lines[1].split())


def test_names(fits, population):
    a, b, c = fits.values()
    assert list(dn.compare(a, b, c).table.index) == ["Line", "Line (2)", "Line (3)"]


def test_other_data_and_methods_are_refused(fits, population, laplace):
    part = dn.fit(Line(), population[:15], options=QUIET)
    found = dn.compare({"all": fits["two etas"], "part": part, "Laplace": laplace["Line"]})
    assert found.refused == {
        "part": "other subjects: 15 against 20, 15 of them in both",
        "Laplace": "another approximation of the likelihood: Laplace against FOCEI",
    }
    for name in ("part", "Laplace"):
        assert found.table.loc[name, ["OFV", "-2LL", "dOFV", "AIC", "BIC"]].isna().all()
        assert found.table.loc[name, "parameters"] == 5
    text = str(found)
    assert "[1] part: other subjects" in text and "[2] Laplace: another approximation" in text
    row = next(line for line in text.splitlines() if line.startswith("part"))
    assert row.count("[1]") == 5
    assert not found.tests
    with pytest.raises(dn.ModelError, match="Invalid comparison of part with all: other subjects"):
        dn.compare({"all": fits["two etas"], "part": part}, strict=True)


def test_constants_of_the_ofv(laplace):
    """The OFV leaves out log 2 pi for normal observations only: dOFV is that of -2LL."""
    a, b = laplace["Line"], laplace["Robust"]
    found = dn.compare(a, b)
    assert found.table.loc["Robust", "dOFV"] == pytest.approx(b.ofv - a.ofv - 80 * math.log(2 * math.pi))
    assert found.table.loc["Robust", "AIC"] - found.table.loc["Line", "AIC"] == pytest.approx(
        found.table.loc["Robust", "dOFV"]
    )
    assert any("dOFV is the difference of -2LL" in note for note in found.notes)
    assert "density of the observations against probabilities" in dn.compare(a, laplace["Count"]).refused["Count"]


def test_networks(population, fits):
    """Penalised, with effective parameters; no likelihood ratio test."""
    options = dataclasses.replace(QUIET, max_iterations=30)
    a, b = (
        dn.fit(Learned(sd=sd), population, options=options) for sd in (dn.Positive(1.0), dn.Positive(0.9, fixed=True))
    )
    found = dn.compare({"line": fits["two etas"], "network": a, "fixed sd": b})
    row = found.table.loc["network"]
    assert row["parameters"] == 10 + 3 and row["effective"] == a.effective_parameters < 13
    assert row["AIC"] == pytest.approx(row["-2LL"] + 2 * row["effective"])
    assert row["penalty"] == a.penalty > 0
    assert any(note.startswith("network: penalised by priors") for note in found.notes)
    assert any(
        "no likelihood ratio test of fixed sd in network: the reduced model has a network" in n for n in found.notes
    )
    assert {"penalty", "effective"} <= set(str(found).splitlines()[1].split())


def test_fits_that_are_not_fits(fits, population):
    there = dn.evaluate_ofv(Line(), population)
    short = dn.fit(Line(), population, options=dataclasses.replace(QUIET, max_iterations=1, covariance=None))
    found = dn.compare({"one eta": fits["one eta"], "evaluated": there, "short": short})
    assert "evaluated: evaluated at the values given, not fitted" in found.notes
    assert any(n.startswith("short: not converged: iteration limit") for n in found.notes)
    assert any("No likelihood ratio test: evaluated is not at its maximum" in n for n in found.notes)
    assert not found.table.loc["short", "converged"]
    with pytest.raises(dn.ConvergenceError, match="evaluated is not at its maximum"):
        dn.compare({"one eta": fits["one eta"], "evaluated": there}, strict=True)


def test_variances_that_were_not_estimated_are_not_shown(population):
    """Without Omega in the likelihood its values are those declared."""
    naive = dn.fit(Line(), population, dn.NaivePooled(), options=QUIET)
    found = dn.compare({"pooled": naive})
    assert list(found.parameters.index) == ["base", "slope", "sd"] and "omega" not in str(found)


def test_a_failed_covariance_step_is_said(fits):
    good = fits["two etas"]
    lost = dataclasses.replace(good.covariance, message="R is not positive definite")
    found = dn.compare({"good": good, "bad": dataclasses.replace(good, covariance=lost)})
    assert found.notes == ("bad: no standard errors: R is not positive definite",)
    assert found.parameters[("bad", "SE")].isna().all()


def test_nested_pairs_that_the_caller_names(fits, population):
    class Level(dn.Model):
        base, sd = dn.Real(9.0), dn.Positive(1.0)
        eta = dn.RandomEffects("base", omega=1.0)

        def individual(self, theta, eta, cov):
            return dict(base=theta.base + eta.base)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(p.base + 0.0 * x.time, theta.sd))

    level = dn.fit(Level(), population, options=QUIET)
    named = {"level": level, "line": fits["one eta"]}
    assert not dn.compare(named).tests
    (test,) = dn.compare(named, nested=[("level", "line")]).tests
    assert (test.reduced, test.full, test.df, test.boundary) == ("level", "line", 1, 0)
    assert test.dofv == pytest.approx(fits["flat"].ofv - fits["one eta"].ofv, abs=1e-4)
    (test,) = dn.compare(named, nested=[("level", "line", 1)]).tests
    assert test.boundary == 1
    # named and shown: once
    pair = dn.compare(fits, nested=[("flat", "one eta")]).lrt
    assert len(pair) == 3 and not pair.duplicated(["reduced", "full"]).any()


# ---- held-out subjects ------------------------------------------------------------------------------------------


def test_held_out(fits):
    new = people(9, first=101)
    found = dn.compare(fits, held_out=new).held_out
    assert list(found.index) == list(fits)
    for name, fit in fits.items():
        there = dn.evaluate_ofv(fit.model, new, at=fit)
        assert found.loc[name, "-2LL"] == pytest.approx(-2 * there.log_likelihood, rel=1e-9)
        assert found.loc[name, "d-2LL"] == pytest.approx(
            there.ofv - dn.evaluate_ofv(fits["one eta"].model, new, at=fits["one eta"]).ofv, abs=1e-6
        )
        table = there.predictions()
        assert found.loc[name, "RMSE IPRED"] == pytest.approx(np.sqrt(((table["DV"] - table["IPRED"]) ** 2).mean()))
        assert found.loc[name, "RMSE PRED"] == pytest.approx(np.sqrt(((table["DV"] - table["PRED"]) ** 2).mean()))
    assert "Held-out subjects" in str(dn.compare(fits, held_out=new))


def test_held_out_of_other_methods(fits, laplace):
    new = people(9, first=101)
    named = {"FOCEI": fits["two etas"], "Laplace": laplace["Line"], "Poisson": laplace["Count"]}
    found = dn.compare(named, held_out=new)
    assert found.held_out["-2LL"].isna().tolist() == [False, True, True]
    assert found.held_out["RMSE PRED"].notna().all()
    assert any(
        "no likelihood on held-out subjects: another approximation, Laplace against FOCEI" in n for n in found.notes
    )
    one = dn.compare(named, held_out=new, method=dn.Laplace())
    assert one.held_out["-2LL"].isna().tolist() == [False, False, True]
    assert any("Poisson: no likelihood on held-out subjects: a density" in n for n in one.notes)


class Ignoring(Line):
    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base + p.slope * x.time, theta.sd, blq="M1"))


def test_held_out_with_censored_observations(fits, population):
    frame = people(9, first=101).to_frame().assign(CENS=0)
    frame.loc[[0, 5], "CENS"] = 1
    new = dn.read_nonmem(frame)
    named = {"M3": fits["two etas"], "M1": dn.fit(Ignoring(), population, options=QUIET)}
    found = dn.compare(named, held_out=new)
    assert found.table["dOFV"].abs().max() < 1e-6
    assert found.held_out["observations"].tolist() == [36, 34] and math.isnan(found.held_out.loc["M1", "-2LL"])
    assert "M1: no likelihood on held-out subjects: other observations in the likelihood" in found.notes
    with pytest.raises(dn.ModelError, match="Invalid comparison of M1 on held-out subjects: other observations"):
        dn.compare(named, held_out=new, strict=True)


def test_held_out_subjects_were_not_seen(fits, population):
    with pytest.raises(
        dn.ModelError, match=r"Invalid `held_out`: got subject 18. 3 of its subjects are in the data of"
    ):
        dn.compare(fits, held_out=population[17:])
    # part of what somebody has given, or more of it
    later = people(20).select(ids=[18, 19, 20]).to_frame()
    with pytest.raises(dn.ModelError, match=r"3 of its subjects are in the data of"):
        dn.compare(fits, held_out=dn.read_nonmem(later[later["TIME"] > 2.0]))
    with pytest.raises(dn.DataError, match=r"Invalid `held_out`: got int. It is a Population"):
        dn.compare(fits, held_out=3)


def test_held_out_subjects_did_not_end_a_fit(population):
    """Subjects kept aside for early stopping have chosen the estimates."""
    fit = dn.fit(Line(), population, options=dataclasses.replace(QUIET, covariance=None, held_out=0.2))
    assert len(fit.held_out) == 4
    with pytest.raises(dn.ModelError, match=r"4 of its subjects were kept aside for early stopping by Line"):
        dn.compare(fit, held_out=fit.held_out)


# ---- refusals ---------------------------------------------------------------------------------------------------


def test_refusals(fits):
    with pytest.raises(dn.ModelError, match=r"Invalid `fits`: got Line for a"):
        dn.compare({"a": Line()})
    with pytest.raises(dn.ModelError, match=r"Invalid `fits`: got str"):
        dn.compare("a", fits["flat"])
    with pytest.raises(dn.ModelError, match=r"Invalid `fits`: got none"):
        dn.compare()
    with pytest.raises(dn.ModelError, match=r"Invalid `reference`: got 'best'. It is one of one eta, two etas, flat"):
        dn.compare(fits, reference="best")
    for pair in (("one eta",), "ab", 3):
        with pytest.raises(dn.ModelError, match=r"Invalid `nested`: got .*Pairs of names"):
            dn.compare(fits, nested=[pair])
    for nested in (3, "one eta"):
        with pytest.raises(dn.ModelError, match=r"Invalid `nested`: got .*Pairs of names.*Use nested="):
            dn.compare(fits, nested=nested)
    with pytest.raises(dn.ModelError, match=r"Invalid `nested`: got 'full'. Fitted here are one eta"):
        dn.compare(fits, nested=[("one eta", "full")])
    with pytest.raises(dn.ModelError, match="exchanged"):
        dn.compare(fits, nested=[("two etas", "one eta")])


def test_no_observation_of_an_endpoint():
    """An endpoint that none of the subjects has is listed, and has no distances."""
    predictions = pd.DataFrame(dict(ENDPOINT=["cp"], DV=[2.0], PRED=[1.0], IPRED=[2.0], LOW=[0.0], HIGH=[3.0]))
    table = distances(predictions, ["cp", "pd"])
    assert table["N"].tolist() == [1, 0] and table.loc["cp", "MDLR PRED"] == pytest.approx(math.log(2.0))
    assert table.loc["pd"].drop("N").isna().all()
