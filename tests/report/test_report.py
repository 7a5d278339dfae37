"""What a report says is what the fit found; what is missing is named; the file is whole and the same again."""

import dataclasses
import os
import re
from itertools import pairwise

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from torch import exp

import contract_models as contract
import deepnlme as dn
from deepnlme.estimation.covariance import Covariance
from deepnlme.report import SECTIONS, report
from deepnlme.report.settings import Settings
from deepnlme.report.study import Study
from html_pages import Page

OPTIONS = dn.Options(progress=False)
TIMES = [[0.5, 1.0, 3.0, 8.0], [0.3, 2.0, 6.0], [1.0, 4.0, 9.0]] * 4


class Weighted(contract.Oral):
    """Clearance by weight; a proportional error."""

    cl = dn.Positive(2.7, unit="L/h")
    power = dn.Real(0.75, fixed=True)
    eta = dn.RandomEffects("cl", "v", omega=[0.1, 0.05])

    def individual(self, theta, eta, cov):
        size = (cov.WT / 70.0) ** theta.power
        return dict(ka=theta.ka, cl=theta.cl * size * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.proportional(f, theta.b)))


def frame():
    """Twelve people with weight, sex and different doses; some observations below a limit."""
    out = contract.records(TIMES, seed=5)
    rng = np.random.default_rng(3)
    out["WT"] = out["ID"].map(dict(enumerate(rng.normal(70.0, 12.0, 12).round(1), 1)))
    out["SEX"] = np.where(out["ID"] % 3 == 0, "female", "male")
    out["AMT"] = np.where(out["EVID"] == 1, 80.0 + 5.0 * out["ID"], 0.0)
    low = (out["EVID"] == 0) & (out["DV"] < 1.2)
    out["CENS"] = low.astype(int)
    out.loc[low, "DV"] = 1.2
    return out


@pytest.fixture(scope="module")
def fit():
    model = Weighted(a=dn.Positive(0.15, fixed=True))
    return dn.fit(model, dn.read_nonmem(frame(), covariates=["WT", "SEX"]), options=OPTIONS)


@pytest.fixture(scope="module")
def page(fit, tmp_path_factory):
    flat = Weighted(a=dn.Positive(0.15, fixed=True), power=0.0)
    other = dn.fit(flat, fit.population, options=OPTIONS)
    file = report(
        fit,
        tmp_path_factory.mktemp("report") / "report.html",
        title='Oral <script>alert("1")</script> & weight',
        author="A. Author",
        objectives="To test.\n\nTwice.",
        comments={"vpc": "The peak is described."},
        excluded=["ID 99: no dose"],
        against={"no weight": other},
        replicates=60,
        date="2026-01-31",
    )
    return Page(file)


@pytest.fixture(autouse=True)
def closed():
    yield
    assert not plt.get_fignums(), "a figure was left open"


def write(fit, tmp_path, **how):
    return Page(report(fit, tmp_path / "report.html", **{"replicates": 30, "subjects": 2, "date": "x", **how}))


# ---- structure ------------------------------------------------------------------------------------------------------


def test_order_of_the_sections(page):
    """Summary, objectives, data, methods, results, discussion, run record, appendix."""
    assert page.open == []
    top = [text for level, text, _ in page.headings if level == 2]
    assert [t.split(" ", 1)[1] for t in top] == [
        "Summary", "Introduction and objectives", "Data", "Methods", "Results", "Discussion", "Run record", "Appendix",
    ]  # fmt: skip
    levels = [level for level, _, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    anchors = [name.removesuffix("-title") for _, _, name in page.headings[1:]]
    assert [a for a in anchors if a in SECTIONS] == list(SECTIONS)


def test_links_ids_and_images(page):
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert all(link.startswith("#") for link in page.links) and len(page.links) > 15
    assert page.images and all(len(image["alt"]) > 20 for image in page.images)
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert "script" not in page.tags and "iframe" not in page.tags
    assert not re.search(r"(src|href)=\"(?!data:|#)", page.source) and "url(" not in page.source
    assert 'lang="en"' in page.source and len(page.source) < 5e6


def test_tables_and_figures_are_numbered(page):
    for kind in ("Table", "Figure"):
        found = [int(n) for n in re.findall(rf"<b>{kind} (\d+)\.</b>", page.source)]
        assert found == list(range(1, len(found) + 1)) and found


def test_text_of_the_user_is_text(page):
    assert page.headings[0][1] == 'Oral <script>alert("1")</script> & weight'
    assert "<p>To test.</p>" in page.source and "<p>Twice.</p>" in page.source
    assert "The peak is described." in page.source and "A. Author, 2026-01-31" in page.source
    assert page.table("Exclusions, as declared by the author") == [{"Number": "1", "Excluded": "ID 99: no dose"}]


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_data_are_counted(page):
    """Against a plain count in the table that was read."""
    data = frame()
    seen = data[data["EVID"] == 0]
    found = page.values("Subjects, records and doses")
    assert int(found["Subjects"]) == 12 and int(found["Observations"]) == len(seen) == 40
    assert found["Amount of a dose"] == "112.5 (85 to 140)" and found["Dose records"] == "12"
    (row,) = page.table("Observations by endpoint")
    below = int((seen["CENS"] == 1).sum())
    assert below > 0 and row["Below LLOQ"] == f"{below} ({100 * below / 40:.1f} %)"
    assert "M3" in row["Censored are used"] and row["Limit"] == "1.2" and row["Distribution"] == "Normal"
    assert any("below the lower limit" in text for text in page.alerts) == (below / 40 > 0.1)
    first = data.groupby("ID").first()
    weight, sex = page.table("Covariates")
    assert "Missing" not in weight  # the reader has filled what was missing, and says so
    middle, low, high = first["WT"].median(), first["WT"].min(), first["WT"].max()
    assert weight["Median (range), or counts"] == f"{middle:.4g} ({low:.4g} to {high:.4g})"
    assert sex["Median (range), or counts"] == "female: 4 (33.3 %); male: 8 (66.7 %)"


def test_parameters_are_those_of_the_fit(page, fit):
    rows = {row["Parameter"]: row for row in page.table("Parameter estimates")}
    table = fit.table()
    assert list(rows) == list(table.index)
    for name, row in rows.items():
        assert float(row["Estimate"]) == pytest.approx(table.loc[name, "Estimate"], rel=1e-4)
        if table.loc[name, "Fixed"]:
            assert row["SE"] == "fixed"
        else:
            assert float(row["SE"]) == pytest.approx(table.loc[name, "SE"], rel=5e-3)
            low, high = (float(v) for v in row["95% CI"].split(" to "))
            assert (low, high) == pytest.approx((table.loc[name, "CI95 low"], table.loc[name, "CI95 high"]), rel=1e-3)
    assert rows["cl"]["Unit"] == "L/h"
    numbers = page.values("Objective function and convergence")
    assert float(numbers["OFV (FOCEI)"]) == pytest.approx(fit.ofv, abs=1e-4)
    assert float(numbers["AIC"]) == pytest.approx(fit.aic, abs=1e-3)


def test_individual_parameters(page, fit):
    rows = page.table("Individual parameters")
    assert [row["ID"] for row in rows] == [str(i) for i in fit.population.ids]
    etas = fit.etas().set_index("ID")
    weight = frame().groupby("ID")["WT"].first()
    for row in rows:
        i = int(row["ID"])
        by_hand = fit.estimates["cl"] * (weight[i] / 70.0) ** 0.75 * np.exp(etas.loc[i, "ETA_cl"])
        assert float(row["cl"]) == pytest.approx(by_hand, rel=1e-3)


def test_comparison_effects_and_record(page, fit):
    rows = page.table("Models side by side")
    assert [row["Model"] for row in rows] == ["Weighted", "no weight"]
    assert float(rows[0]["OFV"]) == pytest.approx(fit.ofv, abs=1e-3)
    effects = page.table("Covariate effects")
    assert effects
    for row in effects:
        assert row["Parameter"] == "cl" and row["Covariate"] == "WT"
        reference = frame().groupby("ID")["WT"].first().median()
        assert float(row["Ratio"]) == pytest.approx((float(row["Value"]) / reference) ** 0.75, rel=5e-3)
    run = page.values("Run record")
    assert run["Seed of the fit"] == "0" and re.fullmatch("[0-9a-f]{64}", run["Data (SHA-256 of the records)"])
    assert {"torch (fit)", "matplotlib (report)", "jinja2 (report)"} <= set(page.values("Versions"))
    assert "class Weighted(contract.Oral):" in page.source and "class Oral(dn.Model):" in page.source


def test_flagged_records(fit, tmp_path):
    """An observation ten times too high is listed with its residual."""
    data = frame()
    row = data.index[(data["ID"] == 4) & (data["TIME"] == 3.0)][0]
    data.loc[row, "DV"] *= 10.0
    data.loc[data["ID"] == 4, "TIME"] += 12345.678
    wild = dn.evaluate_ofv(fit.model, dn.read_nonmem(data, covariates=["WT", "SEX"]), at=fit)
    page = write(wild, tmp_path, sections=["summary", "flagged_records"])
    expected = wild.predictions().query("abs(CWRES) > 4")
    rows = page.table("Records with a large residual")
    assert len(rows) == len(expected) >= 1 and rows[0]["ID"] == "4" and rows[0]["TIME"] == "12348.678"
    assert [float(r["CWRES"]) for r in rows] == pytest.approx(expected["CWRES"].tolist(), abs=0.006)
    assert any(f"{len(expected)} record" in text for text in page.alerts)


# ---- the file -------------------------------------------------------------------------------------------------------


def test_the_same_again_but_for_the_date(fit, tmp_path):
    how = dict(replicates=30, subjects=2)
    one = report(fit, tmp_path / "one.html", date="2026-01-31", **how).read_text()
    two = report(fit, tmp_path / "two.html", date="2025-12-24", **how).read_text()
    assert one != two and one == two.replace("2025-12-24", "2026-01-31")
    other = report(fit, tmp_path / "three.html", date="2026-01-31", seed=1, **how).read_text()
    assert other != one


def test_today_is_the_date(fit, tmp_path):
    import datetime

    file = report(fit, tmp_path / "r.html", sections=["summary"])
    assert datetime.date.today().isoformat() in file.read_text()


def test_a_failure_leaves_the_old_file(fit, tmp_path, monkeypatch):
    file = tmp_path / "report.html"
    file.write_text("old")

    def broken(*_):
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk"):
        report(fit, file, sections=["summary"])
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    monkeypatch.undo()
    assert report(fit, str(file), sections=["summary"]) == file and "Summary" in file.read_text()


def test_sections_can_be_chosen(fit, tmp_path):
    page = write(fit, tmp_path, sections=["estimates", "data"], without=["data"])
    assert [text for _, text, _ in page.headings[1:]] == ["1 Results", "1.1 Parameter estimates"]
    (left_out,) = [text for text in page.missing if text.startswith("Left out on request")]
    assert "visual predictive checks" in left_out and "data" in left_out and "estimates" not in left_out


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (dict(sections=["gof"]), "`sections`: got 'gof'. Sections are summary, objectives"),
        (dict(without="everything"), "`without`: got 'everything'"),
        (dict(sections=["vpc"], without=["vpc"]), "`sections`: got none"),
        (dict(comments={"intro": "x"}), "`comments`: got 'intro'"),
        (dict(comments=["x"]), "`comments`: got list"),
        (dict(comments={"vpc": 1}), "`comments`: got int for section vpc"),
        (dict(excluded="ID 1"), "`excluded`: got str"),
        (dict(excluded=3), "`excluded`: got int"),
        (dict(against=["base"]), "`against`: got str"),
        (dict(subjects=0), '`subjects`: got 0. It is a whole number of at least 1, or "all"'),
        (dict(replicates=5), "`replicates`: got 5"),
        (dict(scale="ln"), "`scale`: got 'ln'"),
        (dict(units={"dose": "mg"}), "`units`: got 'dose'"),
        (dict(units="mg"), "`units`: got 'mg'"),
        (dict(units={"time": 3}), "`units`: got 3 for 'time'"),
        (dict(sections=5), "`sections`: got 5. It is a list of names"),
        (dict(without=None), "`without`: got None. It is a list of names"),
        (dict(date=3), "`date`: got 3"),
        (dict(title=None), "`title`: got None"),
        (dict(seed=-1), "`seed`: got -1"),
    ],
)
def test_refuses_arguments(fit, tmp_path, how, message):
    with pytest.raises(dn.ModelError, match=re.escape(message)):
        report(fit, tmp_path / "report.html", **how)
    assert not list(tmp_path.iterdir())


def test_refuses_paths_and_other_things(fit, tmp_path):
    for path, message in (
        (tmp_path / "no" / "report.html", "does not exist. Make it first"),
        (tmp_path / "report.pdf", "one HTML file, .html. Write report.html"),
        (3, "the name of a file"),
    ):
        with pytest.raises(dn.DataError, match=message):
            report(fit, path)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(dn.DataError, match="this is a folder"):
        report(fit, tmp_path / "folder.html")
    with pytest.raises(dn.ModelError, match=r"`fit`: got Weighted\. It is a fit"):
        report(fit.model, tmp_path / "report.html")


# ---- warnings -------------------------------------------------------------------------------------------------------


def alerts(fit, tmp_path):
    return write(fit, tmp_path, sections=["summary", "estimates"]).alerts


def test_warnings_of_the_fit(fit, tmp_path):
    assert not any("Convergence" in text or "covariance" in text for text in alerts(fit, tmp_path))
    stopped = dn.fit(fit.model, fit.population, options=dn.Options(progress=False, max_iterations=1, covariance=None))
    found = alerts(stopped, tmp_path)
    assert found[0].startswith("Convergence: not converged: iteration limit")
    assert "no covariance step was asked for" in found[1]
    status = fit.evaluation.status.copy()
    status[0, [2, 5]] = int(dn.EBEStatus.NOT_FINITE)
    lost = dataclasses.replace(fit, evaluation=dataclasses.replace(fit.evaluation, status=status))
    assert "Random effects were not found for 2 subjects: 3, 6." in alerts(lost, tmp_path)
    apart = dataclasses.replace(fit, starts=(fit.ofv, fit.ofv + 3.0, fit.ofv + 0.5))
    assert any("Only one of 3 starts" in text for text in alerts(apart, tmp_path))


def test_warnings_of_the_uncertainty(fit, tmp_path):
    step = fit.covariance
    failed = dataclasses.replace(fit, covariance=dataclasses.replace(step, message="Covariance step failed: R."))
    page = write(failed, tmp_path, sections=["summary", "estimates"])
    assert "Covariance step failed: R." in page.alerts
    assert "Correlation of the estimates: the covariance step failed." in page.missing
    n = len(step.natural)
    near = np.eye(n) + 0.9999 * (np.ones((n, n)) - np.eye(n))
    alike = dataclasses.replace(fit, covariance=Covariance("R", step.r, step.s, step.free, near, ""))
    expected = (1 + 0.9999 * (n - 1)) / (1 - 0.9999)  # eigenvalues of equal correlations
    (said,) = [text for text in alerts(alike, tmp_path) if text.startswith("Condition number")]
    assert float(said.split()[2].rstrip(",")) == pytest.approx(expected, rel=5e-3)
    imprecise = [name for name, value in fit.table()["RSE%"].items() if value > 50]
    shown = [text for text in alerts(fit, tmp_path) if text.startswith("Relative standard error")]
    assert len(shown) == bool(imprecise) and all(name in shown[0] for name in imprecise)


def test_shrinkage_is_a_warning(fit, tmp_path):
    large = {name: value for name, value in fit.shrinkage.items() if value > 30}
    found = [text for text in alerts(fit, tmp_path) if text.startswith("Shrinkage")]
    assert len(found) == bool(large) and all(f"{n} ({v:.0f} %)" in found[0] for n, v in large.items())


# ---- every kind of fit ----------------------------------------------------------------------------------------------

KINDS = [
    ("diagonal", dn.FO()), ("block", dn.FOCE()), ("occasions", dn.FOCE()), ("above", dn.FOCE()),
    ("M4 below", dn.Laplace()), ("log-normal", dn.FOCE(interaction=False)), ("two endpoints", dn.FOCE()),
    ("time-varying", dn.FOCE()), ("counts", dn.Laplace()), ("binary", dn.Laplace()), ("Student t", dn.Laplace()),
    ("priors", dn.FOCE()), ("vector", dn.Laplace()), ("diagonal", dn.NaivePooled()),
]  # fmt: skip
EXPECTED = ("No exclusions", "No objectives", "No discussion", "No other model", "covariates", "not fitted", "no path",
            "fitted without a covariance step", "nothing was estimated", "no covariance step", "Left out")  # fmt: skip


@pytest.mark.parametrize(("name", "method"), KINDS, ids=[f"{n}-{m.name}" for n, m in KINDS])
def test_every_kind_of_fit_has_a_report(name, method, tmp_path):
    case = contract.BY_NAME[name]
    fit = dn.evaluate_ofv(case.model(), case.population(), method)
    page = write(fit, tmp_path)
    assert "The model was evaluated at given values, not fitted." in page.alerts
    unexpected = [text for text in page.missing if not any(words in text for words in EXPECTED)]
    if method.name == "Naive pooled":
        assert any("no random effects to show" in text for text in unexpected)
        assert sum("has not estimated how subjects differ" in text for text in unexpected) == 2
    elif name in ("counts", "binary", "Student t"):
        assert len(unexpected) == 3 and all("no endpoint is normal" in text for text in unexpected)
    else:
        assert unexpected == []


def test_a_fit_with_networks(tmp_path):
    class Learned(contract.Oral):
        size = dn.MLP(inputs=1, hidden=(2,), typical=1.0, output_activation="softplus", prior=dn.L2(1.0))

        def individual(self, theta, eta, cov):
            return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * theta.size(cov.WT) * exp(eta.cl), v=theta.v)

    population = dn.read_nonmem(frame().drop(columns="CENS"), covariates=["WT"])
    fit = dn.fit(Learned(), population, options=dn.Options(progress=False, max_iterations=3))
    page = write(fit, tmp_path)
    (row,) = page.table("Networks")
    assert row["Network"] == "size" and row["Weights"] == "7" and row["Prior"] == "L2(1)"
    assert any("The network size along each of its 1 input" in text for text in page.captions)
    unexpected = [text for text in page.missing if not any(words in text for words in EXPECTED)]
    assert [text for text in unexpected if "Influence needs a minimum" not in text] == []  # it has not arrived at one
    for caption in ("Objective function and convergence", "Key numbers"):
        assert "Effective number of parameters (in AIC and BIC)" in page.values(caption)
    assert "There are no standard errors: networks are fitted without a covariance step." in page.alerts
    assert set(page.table("Covariate effects")[0]) == {"Covariate", "Value", "Parameter", "Ratio"}  # no intervals


class Different(contract.Oral):
    """Effects that act in four ways: exp, added to a positive parameter, exp of minus, on a logit; and by occasion."""

    f = dn.Bounded(0.7)
    eta = dn.RandomEffects("ka", "v", "cl", "f", omega=[0.2, 0.3, 0.1, 0.3])
    iov = dn.RandomEffects("kappa", omega=0.06, by="occasion")

    def individual(self, theta, eta, cov):
        odds = exp(eta.f) * theta.f / (1 - theta.f)
        cl = theta.cl * exp(-eta.cl + eta.kappa)
        return dict(ka=theta.ka * exp(eta.ka), cl=cl, v=theta.v + eta.v, f=odds / (1 + odds))

    def dosing(self, theta, p):
        return dict(depot=dn.Dosing(bioavailability=p.f))


def test_formulas_in_place_of_networks(tmp_path):
    class Bent(contract.Oral):
        bend = dn.MLP(1, (2,), 1, prior=dn.L2(1.0), seed=3)

        def individual(self, theta, eta, cov):
            return super().individual(theta, eta, cov) | dict(cl=theta.cl * exp(eta.cl + theta.bend(cov.WT)))

    fit = dn.evaluate_ofv(Bent(), dn.read_nonmem(frame().drop(columns="CENS"), covariates=["WT"]), dn.FOCE())
    model = dn.distil(fit, "bend", ["wt"], search=False).form("linear").into(fit)
    page = write(dn.evaluate_ofv(model, fit.population, dn.FOCE()), tmp_path, sections=("methods",))
    (row,) = page.table("Formulas")
    assert row["In place of"] == "bend" and "wt" in row["With the estimates"]


def test_relations_to_covariates_are_told_and_the_source_is_that_of_the_model_below(tmp_path):
    population = dn.read_nonmem(frame().drop(columns="CENS"), covariates=["WT", "SEX"])
    model = dn.with_covariates(contract.Oral(), {"cl": ["WT", "SEX"]}, population)
    page = write(dn.evaluate_ofv(model, population, dn.FOCE()), tmp_path, sections=("methods",))
    weight, sex = page.table("Relations to covariates")
    median = float(np.median(population.records.covariates["WT"][population.starts[:-1]]))
    assert weight == {"Parameter": "cl", "Covariate": "WT", "Factor": f"(WT / {median:.6g})^cl_WT"}
    assert sex["Factor"] == "cl_SEX_female if SEX = female, 1 if SEX = male"
    assert any("Source code of Oral" in text for text in page.captions)
    assert not any("CovariateModel" in text for text in page.captions)


def test_variation_is_that_of_log_normal_parameters(tmp_path):
    """100 sqrt(exp(omega) - 1) where a parameter varies as exp(eta), nothing elsewhere; occasions are named."""
    page = write(dn.evaluate_ofv(Different(), contract.occasions()), tmp_path, sections=["summary", "estimates"])
    found = {row["Parameter"]: row["CV [%]"] for row in page.table("Parameter estimates")}
    expected = {name: f"{100 * np.sqrt(np.expm1(w)):.1f}" for name, w in (("ka", 0.2), ("cl", 0.1), ("kappa", 0.06))}
    expected = {"v": "\u2013", "f": "\u2013", **expected}
    assert {name: found[f"omega[{name}]"] for name in expected} == expected
    assert "(of kappa: between occasions)" in page.source
    short = {row["Parameter"]: row["BSV CV [%]"] for row in page.table("Fixed effects in short")}
    assert short["cl"] == expected["cl"] and short["v"] == short["f"] == "\u2013"


def test_individual_parameters_say_at_which_occasion(tmp_path):
    fit = dn.evaluate_ofv(contract.Occasions(), contract.occasions())
    page = write(fit, tmp_path, sections=["individual_parameters"])
    etas = fit.etas().set_index("ID")
    for row in page.table("Individual parameters"):
        own = etas.loc[int(row["ID"])]
        first = fit.estimates["cl"] * np.exp(own["ETA_cl"] + own["ETA_kappa@1"])
        assert float(row["cl"]) == pytest.approx(first, rel=1e-3)
    assert "At the first record, where they change with occasions or covariates." in page.source


def test_naive_pooling_has_no_words_on_random_effects(tmp_path):
    fit = dn.evaluate_ofv(contract.Oral(), contract.plain(), dn.NaivePooled())
    page = write(fit, tmp_path, sections=["summary", "methods", "estimates", "individual_parameters"])
    assert set(page.table("Parameter estimates")[0]) == {"Parameter", "Unit", "Estimate", "SE", "RSE [%]", "95% CI"}
    assert "Random effects as declared" not in page.tables and "omega[.]" not in page.source
    assert "Naive pooled sets the random effects of the model to zero: ka, cl, v." in page.source
    assert "At the EBEs" not in page.source and any("Naive pooling ignores" in text for text in page.alerts)
    alone = dn.evaluate_ofv(contract.Oral(), contract.plain()[:1], dn.NaivePooled())
    assert not any("Naive pooling ignores" in text for text in alerts(alone, tmp_path))


def test_a_variance_of_zero_is_a_warning(tmp_path):
    """Only of the variance that was estimated, not of the one that is fixed."""

    class Fewer(contract.Oral):
        a = dn.Positive(0.15, fixed=True)
        eta = dn.RandomEffects("cl", "v", omega=1e-9, fixed=["v"])

        def individual(self, theta, eta, cov):
            return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    fit = dn.evaluate_ofv(Fewer(), contract.plain())
    assert min(fit.shrinkage.values()) > 99.0
    (said,) = [text for text in alerts(fit, tmp_path) if text.startswith("Variance of")]
    assert said.startswith("Variance of cl: estimated as about zero")


def test_units_are_those_of_the_endpoint(tmp_path):
    fit = dn.evaluate_ofv(contract.TwoEndpoints(), contract.two_endpoints())
    page = write(fit, tmp_path, sections=["data"], units={"time": "h", "effect": "mmHg"})
    rows = {row["Endpoint"]: row["Unit"] for row in page.table("Observations by endpoint")}
    assert rows == {"cp": "\u2013", "effect": "mmHg"}
    assert "Time from first to last record [h]" in page.values("Subjects, records and doses")
    with pytest.raises(dn.ModelError, match=r"`units`: got 'dv'\. Its keys are time, cp, effect"):
        write(fit, tmp_path, units={"dv": "mg/L"})


def test_endpoints_and_subjects_are_counted(tmp_path):
    data = contract.records(contract.TIMES)
    data["DVID"] = 1
    fit = dn.evaluate_ofv(contract.TwoEndpoints(), dn.read_nonmem(data, endpoints={1: "cp"}))
    page = write(fit, tmp_path, sections=["data"])
    (row,) = page.table("Observations by endpoint")
    assert (row["Endpoint"], row["Subjects"], row["Observations"]) == ("cp", "4", "14")
    assert "The data have no observation of effect." in page.missing


@pytest.mark.parametrize(("blq", "intervals"), [("M3", 3), ("M1", 0)])
def test_second_limits_are_said(tmp_path, blq, intervals):
    class Limits(contract.Oral):
        def observe(self, theta, p, x):
            f = x.central / p.v
            return dict(dv=dn.Normal(f, dn.combined2(f, theta.a, theta.b), blq=blq))

    page = write(dn.evaluate_ofv(Limits(), contract.censored("interval")), tmp_path, sections=["data"])
    (row,) = page.table("Observations by endpoint")
    assert row["Below LLOQ"].startswith("4 ") and blq in row["Censored are used"]
    said = re.findall(r"(\d+) with a second limit", row["Censored are used"])
    assert said == ([str(intervals)] if intervals else [])


def test_exclusions_are_told_as_they_are(fit, tmp_path):
    rows = [{"ID": 7, "records": 1234567, "why": "x"}, {"ID": 8, "why": "y"}]
    indexed = pd.DataFrame(rows).set_index("ID")
    for excluded in (rows, indexed):
        page = write(fit, tmp_path, sections=["data"], excluded=excluded)
        assert page.table("Exclusions, as declared by the author") == [
            {"ID": "7", "records": "1234567", "why": "x"}, {"ID": "8", "records": "", "why": "y"},
        ]  # fmt: skip


def test_another_model_cannot_take_the_name(fit, tmp_path):
    other = dn.evaluate_ofv(fit.model, fit.population)
    with pytest.raises(dn.ModelError, match=r"`against`: got 'Weighted'\. The fit that is reported has that name"):
        write(fit, tmp_path, against={"Weighted": other})
    page = write(fit, tmp_path, sections=["comparison"], against=[other])
    assert [row["Model"] for row in page.table("Models side by side")] == ["Weighted", "Weighted (2)"]


def test_blank_comments_are_none(fit, tmp_path):
    page = write(fit, tmp_path, sections=["discussion"], comments={"discussion": " \n"})
    assert any("No discussion was given" in text for text in page.missing)


def test_whole_numbers_of_numpy(fit, tmp_path):
    write(fit, tmp_path, sections=["summary"], seed=np.int64(3), replicates=np.int64(20))


def test_text_of_the_user_is_no_formula():
    """Between two $ matplotlib would set a formula, or fail; powers of ten at ticks stay."""
    from deepnlme.report.pictures import picture

    def drawn(title, **settings):
        figure, ax = plt.subplots(figsize=(4, 3))
        ax.plot([1e-6, 1e6], [0, 1])
        ax.set(xscale="log", xlabel=title)
        with plt.rc_context(settings):
            return picture(figure, "", "")

    shown = drawn("$a^$ and $b_1$")
    assert shown.uri != drawn("a^ and b1").uri
    assert (shown.width, shown.height) == (384, 288)
    assert drawn("x").uri == drawn("x", **{"savefig.bbox": "tight"}).uri


def test_numbers_as_text():
    from deepnlme.report.formats import decimals, exact, significant

    shown = {15.0: "15.00", 0.229: "0.2290", 100.04: "100.0", 123456.0: "123456", 1e-9: "1e-09", 0.0: "0", 5.0: "5.000"}
    assert {value: significant(value) for value in shown} == shown
    assert significant(np.nan) == "\u2013" and significant(-0.0357) == "-0.03570"
    assert decimals(-0.0003, 3) == "0.000" and decimals(-0.0006, 3) == "-0.001"
    assert exact(1234.5678) == "1234.5678" and exact(7.0) == "7" and exact("a") == "a"


def test_subjects_without_random_effects(fit, tmp_path):
    """Modes that are not numbers do not stop the report."""
    z = fit.evaluation.z.copy()
    z[0, 1] = np.nan
    status = fit.evaluation.status.copy()
    status[0, 1] = int(dn.EBEStatus.NOT_FINITE)
    lost = dataclasses.replace(fit, evaluation=dataclasses.replace(fit.evaluation, z=z, status=status))
    page = write(lost, tmp_path)
    assert "Random effects were not found for 1 subject: 2." in page.alerts
    assert len(page.images) >= 8


def test_prediction_correction_follows_the_doses(fit, page, tmp_path):
    """Doses differ here; with one dose for all there is no correction."""
    settings = Settings.of(
        fit, title="", author="", objectives="", comments=None, excluded=None, against=None, sections=None, without=(),
        subjects=2, replicates=20, units=None, scale="linear", date="x", seed=0,
    )  # fmt: skip
    assert Study(fit, settings).doses_differ
    assert any("Prediction-corrected" in text for text in page.captions)
    same = dn.evaluate_ofv(contract.Oral(), contract.plain())
    assert not Study(same, settings).doses_differ
    found = write(same, tmp_path, sections=["vpc"])
    assert [text.split(",")[0] for text in found.captions] == ["Figure 1. Visual predictive check"]


def test_a_class_without_a_file(fit, tmp_path):
    names = {"__name__": "nowhere", "dn": dn}
    code = "class Flat(dn.Model):\n    base = dn.Real(1.0)\n    sd = dn.Positive(1.0)\n"
    code += "    def observe(self, theta, p, x):\n        return dict(dv=dn.Normal(p.base, theta.sd))\n"
    exec(code, names)
    data = pd.DataFrame(dict(ID=np.repeat([1, 2, 3], 4), TIME=np.tile(range(4), 3), DV=np.arange(12.0)))
    flat = dn.fit(names["Flat"](), dn.read_nonmem(data), options=OPTIONS)
    page = write(flat, tmp_path)
    assert any(text.startswith("The source code of Flat is not available") for text in page.missing)
    assert any("There are no random effects to show: the model has none." in text for text in page.missing)
    assert page.table("Fixed effects as declared")[0]["Parameter"] == "base"


def test_limits_of_long_tables(fit, tmp_path, monkeypatch):
    from deepnlme.report.parts import record

    monkeypatch.setattr(record, "MOST", 3)
    page = write(fit, tmp_path, sections=["individual_parameters", "individual_fits"], subjects=5)
    assert len(page.table("Individual parameters")) == 3 and "The first 3 of 12 subjects" in page.source
    assert "The first 5 of 12 subjects are shown" in page.source
    assert "The first" not in write(fit, tmp_path, sections=["individual_fits"], subjects="all").source
