"""Fits of other programs: NONMEM runs, tables of Monolix and nlmixr2, and their parameters as ours."""

import dataclasses
import math
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import exp

import deepnlme as dn
from dataset_files import dataset, pharmpy_file

NAMES = {
    "cl": "POP_CL",
    "v": "THETA(2)",
    "apgar": lambda e: e["COVAPGR"],
    "prop_sd": ("SIGMA(1,1)", math.sqrt),
    "omega[cl]": "OMEGA(1,1)",
    "omega[v]": "IIV_VC",
}


class Phenobarbital(dn.Model):
    cl = dn.Positive(0.0047)
    v = dn.Positive(1.0)
    apgar = dn.Real(0.1)
    prop_sd = dn.Positive(0.11)
    eta = dn.RandomEffects("cl", "v", omega=0.03)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        v = theta.v * cov.wt * torch.where(cov.apgr < 5, 1 + theta.apgar, 1.0)
        return dict(cl=theta.cl * cov.wt * exp(eta.cl), v=v * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.proportional(f, theta.prop_sd)))


@pytest.fixture(scope="module")
def nonmem():
    pytest.importorskip("pharmpy", reason="pharmpy-core reads the run: pip install 'deepnlme[nonmem]'")
    return dn.read_nonmem_results(pharmpy_file("pheno.mod"))


@pytest.fixture
def run(tmp_path):
    """A copy of the run that may be damaged."""
    pytest.importorskip("pharmpy", reason="pharmpy-core reads the run: pip install 'deepnlme[nonmem]'")
    for path in pharmpy_file("pheno.mod").parent.glob("pheno.*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "pheno.mod"


@pytest.fixture(scope="module")
def population():
    return dn.read_nonmem(dataset("phenobarbital"), covariates=["wt", "apgr"])


def edit(path, *changes):
    text = path.read_text()
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count, pattern
    path.write_text(text)


# ---- NONMEM -----------------------------------------------------------------------------------------------------


def test_nonmem_numbers(nonmem):
    """As its files print them; read here by hand."""
    assert (nonmem.program, nonmem.version, nonmem.method) == ("NONMEM", "7.5.1", "FOCEI")
    assert nonmem.ofv == 586.27605628520962
    assert nonmem.converged is True and nonmem.message == "minimization successful" and nonmem.warnings == ()
    assert (nonmem.subjects, nonmem.observations) == (59, 155)
    assert nonmem.condition_number == 4.39229 and nonmem.seconds == 0.26
    values = {"POP_CL": (4.69555e-3, 2.09967e-4), "POP_VC": (0.984258, 2.68946e-2), "COVAPGR": (0.158920, 8.37555e-2)}
    values |= {
        "IIV_CL": (2.93508e-2, 1.34156e-2),
        "IIV_VC": (2.79060e-2, 7.47591e-3),
        "SIGMA": (1.32410e-2, 2.27991e-3),
    }
    assert nonmem.estimates == {name: value for name, (value, _) in values.items()}
    assert nonmem.se == {name: error for name, (_, error) in values.items()}
    assert nonmem.aliases["THETA(3)"] == "COVAPGR" and nonmem.aliases["OMEGA(2,2)"] == "IIV_VC"
    assert nonmem.shrinkage == pytest.approx({"ETA_CL": 47.580, "ETA_VC": 13.581})
    assert nonmem.epsilon_shrinkage == pytest.approx({"EPS_1": 21.198})
    assert "586.2761" in str(nonmem) and "59 subjects, 155 observations" in str(nonmem)


def test_nonmem_files(nonmem):
    """Against the same files read as plain tables."""
    phi = pd.read_csv(pharmpy_file("pheno.phi"), skiprows=1, sep=r"\s+")
    np.testing.assert_array_equal(nonmem.etas, phi[["ETA(1)", "ETA(2)"]])
    np.testing.assert_array_equal(nonmem.etas.index, phi["ID"])
    np.testing.assert_allclose(nonmem.subject_ofv, phi["OBJ"], rtol=1e-15)
    assert nonmem.subject_ofv.sum() == pytest.approx(nonmem.ofv, rel=1e-12)
    table = pd.read_csv(pharmpy_file("pheno.tab"), skiprows=1, sep=r"\s+")
    pd.testing.assert_frame_equal(nonmem.table, table)
    cov = pd.read_csv(pharmpy_file("pheno.cov"), skiprows=1, sep=r"\s+").set_index("NAME")
    theirs = ["THETA1", "THETA2", "THETA3", "SIGMA(1,1)", "OMEGA(1,1)", "OMEGA(2,2)"]
    ours = ["POP_CL", "POP_VC", "COVAPGR", "SIGMA", "IIV_CL", "IIV_VC"]
    np.testing.assert_allclose(nonmem.covariance.loc[ours, ours], cov.loc[theirs, theirs], rtol=1e-10)


def test_any_file_of_the_run(run, nonmem):
    for path in (run.with_suffix(".lst"), run.with_suffix(".ext"), run.with_suffix("")):
        assert dn.read_nonmem_results(str(path)).estimates == nonmem.estimates


def test_names_of_a_stream_without_comments(run, nonmem):
    edit(run, (" *;.*$", ""))
    found = dn.read_nonmem_results(run)
    assert found.estimates == {nonmem_name: nonmem.estimates[name] for nonmem_name, name in nonmem.aliases.items()}
    assert sorted(found.estimates) == ["OMEGA(1,1)", "OMEGA(2,2)", "SIGMA(1,1)", "THETA(1)", "THETA(2)", "THETA(3)"]
    assert set(found.covariance.index) == set(found.estimates) and found.se["THETA(1)"] == 2.09967e-4


@pytest.mark.parametrize(
    ("suffix", "missing"),
    [(".phi", ("etas", "subject_ofv")), (".cov", ("covariance",)), (".tab", ("table",)), (".dta", ())],
)
def test_files_that_may_be_absent(run, nonmem, suffix, missing):
    run.with_suffix(suffix).unlink()
    found = dn.read_nonmem_results(run)
    assert found.ofv == nonmem.ofv and found.estimates == nonmem.estimates and found.se == nonmem.se
    for name in ("etas", "subject_ofv", "covariance", "table"):
        assert (getattr(found, name) is None) == (name in missing)
    if suffix in (".phi", ".tab"):
        assert f"not found: pheno{suffix}" in found.warnings


def test_without_the_listing(run, nonmem):
    run.with_suffix(".lst").unlink()
    found = dn.read_nonmem_results(run)
    assert found.ofv == nonmem.ofv and found.converged is None and found.version == "" and found.observations is None
    assert found.warnings == ("not found: pheno.lst",)


def test_a_run_that_stopped(run):
    edit(
        run.with_suffix(".lst"),
        ("^0MINIMIZATION SUCCESSFUL", "0MINIMIZATION TERMINATED\n DUE TO ROUNDING ERRORS (ERROR=134)"),
    )
    edit(run.with_suffix(".ext"), (r"^ +-10000.*\n", ""))
    found = dn.read_nonmem_results(run)
    assert found.converged is False and found.message == "minimization terminated due to rounding errors (error=134)"
    assert found.ofv == 586.27605628520962 and np.isnan(list(found.se.values())).all()
    assert "the run wrote no final estimates: these are those of its last iteration" in found.warnings
    assert found.message in str(found)


def test_methods_in_our_words(run):
    for options, name in (
        ("METHOD=0", "FO"),
        ("METHOD=1", "FOCE"),
        ("METHOD=1 LAPLACE INTER", "Laplace"),
        ("METHOD=SAEM", "SAEM"),
    ):
        edit(run, (r"^\$ESTIMATION .*$", f"$ESTIMATION {options} MAXEVALS=99"))
        assert dn.read_nonmem_results(run).method == name


def test_the_constant_is_taken_off(run):
    """LNTWOPI: the .ext holds the OFV with the constant, the .lst both."""
    edit(run.with_suffix(".lst"), ("DOES NOT CONTAIN CONSTANT", "CONTAINS CONSTANT"))
    edit(run.with_suffix(".ext"), ("586.27605628520962", "871.14700157865809"))
    found = dn.read_nonmem_results(run)
    assert found.ofv == 586.27605628520962
    assert any("with the constant N log 2 pi, which was taken off" in w for w in found.warnings)


def test_fixed_parameters(run):
    edit(run, (r"\(-\.99,\.1\)", "0.15892 FIX"))
    edit(run.with_suffix(".ext"), ("8.37555E-02", "1.00000E+10"))
    found = dn.read_nonmem_results(run)
    assert found.estimates["COVAPGR"] == 0.15892 and math.isnan(found.se["COVAPGR"])


def test_runs_that_cannot_be_read(run, monkeypatch):
    with pytest.raises(
        dn.DataError, match=r"Invalid `path`: got .*none\.mod\. There is no control stream of that name"
    ):
        dn.read_nonmem_results(run.with_name("none.mod"))
    edit(run.with_suffix(".ext"), ("^TABLE NO.*$", "garbage"))
    with pytest.raises(dn.DataError, match=r"pharmpy cannot read the run \(ValueError"):
        dn.read_nonmem_results(run)
    run.with_suffix(".ext").unlink()
    with pytest.raises(dn.DataError, match=r"There is no pheno\.ext\. The run has to be finished"):
        dn.read_nonmem_results(run)


def test_without_pharmpy(tmp_path, monkeypatch):
    for suffix in (".mod", ".ext"):
        (tmp_path / f"run{suffix}").write_text("")
    monkeypatch.setitem(sys.modules, "pharmpy", None)
    with pytest.raises(dn.MissingExtraError, match=r"pharmpy-core is needed here.*deepnlme\[nonmem\]"):
        dn.read_nonmem_results(tmp_path / "run.mod")


# ---- their parameters as ours -----------------------------------------------------------------------------------


def test_mapped(nonmem):
    found = nonmem.mapped(Phenobarbital(), NAMES)
    sd = 1.32410e-2**0.5
    assert found.estimates == pytest.approx(
        {
            "cl": 4.69555e-3,
            "v": 0.984258,
            "apgar": 0.158920,
            "prop_sd": sd,
            "omega[cl]": 2.93508e-2,
            "omega[v]": 2.79060e-2,
        }
    )
    # NONMEM's own standard error of the standard deviation, by the same delta method
    assert found.se["prop_sd"] == pytest.approx(9.90666e-3, rel=1e-5)
    assert found.se["cl"] == pytest.approx(2.09967e-4, rel=1e-5)
    assert found.se["apgar"] == pytest.approx(8.37555e-2, rel=1e-5)


def test_delta_method_of_several(nonmem):
    """k = CL/V: the variance of log k is var(log CL) + var(log V) - 2 cov."""

    class Rate(Phenobarbital):
        cl = None
        k = dn.Positive(0.005)

        def individual(self, theta, eta, cov):
            raise NotImplementedError

    names = {**{n: r for n, r in NAMES.items() if n != "cl"}, "k": lambda e: e["THETA(1)"] / e["THETA(2)"]}
    found = nonmem.mapped(Rate(), names)
    cov, cl, v = nonmem.covariance, nonmem.estimates["POP_CL"], nonmem.estimates["POP_VC"]
    k = cl / v
    variance = cov.loc["POP_CL", "POP_CL"] / cl**2 + cov.loc["POP_VC", "POP_VC"] / v**2
    variance -= 2 * cov.loc["POP_CL", "POP_VC"] / (cl * v)
    assert found.estimates["k"] == pytest.approx(k)
    assert found.se["k"] == pytest.approx(k * variance**0.5, rel=1e-5)
    # without the matrix only functions of one parameter have a standard error
    bare = dataclasses.replace(nonmem, covariance=None).mapped(Rate(), names)
    assert math.isnan(bare.se["k"]) and bare.se["prop_sd"] == pytest.approx(9.90666e-3, rel=1e-5)


def test_our_ofv_at_their_estimates(nonmem, population):
    there = nonmem.at(Phenobarbital(), population, dn.FOCE(), NAMES)
    assert there.ofv == pytest.approx(nonmem.ofv, abs=1e-6)
    np.testing.assert_allclose(there.subject_ofv, nonmem.subject_ofv, atol=5e-5)
    assert nonmem.mapped(Phenobarbital(), NAMES).at(population).ofv == there.ofv


def test_beside_our_fits(nonmem, population):
    quiet = dn.Options(progress=False)
    fit = dn.fit(Phenobarbital(), population, options=quiet)
    fo = dn.fit(Phenobarbital(), population, dn.FO(), options=quiet)
    mapped = nonmem.mapped(Phenobarbital(), NAMES)
    found = dn.compare({"here": fit, "theirs": mapped, "as read": nonmem})
    row = found.table.loc["theirs"]
    assert row["OFV reported"] == nonmem.ofv and row["OFV"] == pytest.approx(nonmem.ofv, abs=1e-6)
    assert row["dOFV"] == pytest.approx(row["OFV"] - fit.ofv, abs=1e-9) and 0 <= row["dOFV"] < 1e-3
    assert row["parameters"] == 6 and row["converged"] and row["seconds"] == 0.26
    assert row["AIC"] == pytest.approx(871.14700157865809 + 12, abs=1e-6)
    assert found.parameters[("theirs", "Estimate")]["cl"] == pytest.approx(4.69555e-3, rel=1e-12)
    assert found.parameters[("theirs", "SE")]["prop_sd"] == pytest.approx(9.90666e-3, rel=1e-5)
    np.testing.assert_allclose(
        found.parameters[("here", "SE")].dropna(), found.parameters[("theirs", "SE")].dropna(), rtol=1e-3
    )
    assert any(re.fullmatch(r"theirs: OFV 586\.2761 as reported, 586\.2761 here.*they agree\)", n) for n in found.notes)
    assert found.refused["as read"].startswith("parameters of NONMEM are not mapped")
    assert found.table.loc["as read", ["OFV", "AIC"]].isna().all()
    assert found.parameters[("as read", "Estimate")]["POP_CL"] == 4.69555e-3
    # which of its parameters are fixed is not known
    assert math.isnan(found.table.loc["as read", "parameters"])
    assert next(line for line in str(found).splitlines() if line.startswith("theirs")).split().count("6") == 1
    assert not found.tests
    other = dn.compare({"FO": fo, "theirs": mapped}).notes
    assert any("not the same approximation: FOCEI there, FO here" in note for note in other)
    wrong = nonmem.mapped(Phenobarbital(), {**NAMES, "prop_sd": "SIGMA(1,1)"})
    assert any("they do not agree: check the mapping" in note for note in dn.compare({"a": fit, "b": wrong}).notes)
    with pytest.raises(dn.ModelError, match="none of them was fitted here"):
        dn.compare(mapped)


def without(name):
    return {n: rule for n, rule in NAMES.items() if n != name}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (without("v"), "Invalid `names`: got nothing for v. Every free parameter needs a name. Add for example"),
        ({**NAMES, "ka": "THETA(1)"}, "Invalid `names`: got 'ka'. The model has cl, v, apgar"),
        ({**NAMES, "v": "TVV"}, "Invalid `names`: got 'TVV' for v. NONMEM has POP_CL"),
        ({**NAMES, "v": lambda e: e["TVV"]}, "Invalid `names`: got 'TVV' for v. NONMEM has POP_CL"),
        ({**NAMES, "v": 3.0}, "Invalid `names`: got 3.0 for v. It is a name, a pair"),
        ({**NAMES, "v": ("THETA(2)", "sqrt")}, "It is a name, a pair (name, function) or a function"),
        ({**NAMES, "v": ("THETA(2)", lambda x: math.sqrt(-x))}, "got ValueError: "),
        (
            {**NAMES, "v": lambda e: math.nan},
            "Invalid `names`: got nan for v. Its function has to give a finite number",
        ),
        (["cl"], "Invalid `names`: got list, expected a dict"),
    ],
)
def test_wrong_names(nonmem, names, message):
    with pytest.raises(dn.ModelError, match=re.escape(message)):
        nonmem.mapped(Phenobarbital(), names)


def test_wrong_models(nonmem, population):
    with pytest.raises(dn.ModelError, match="Invalid `model`: got type, expected an instance"):
        nonmem.mapped(Phenobarbital, NAMES)

    class Learned(Phenobarbital):
        net = dn.MLP(inputs=1, hidden=(2,), outputs=1)

    with pytest.raises(dn.ModelError, match="it has networks"):
        nonmem.mapped(Learned(), NAMES)
    # fixed parameters need no name, and keep their value
    fixed = nonmem.mapped(Phenobarbital(apgar=dn.Real(0.2, fixed=True)), without("apgar"))
    assert "apgar" not in fixed.estimates and fixed.at(population).estimates["apgar"] == 0.2
    outside = nonmem.mapped(Phenobarbital(), {**NAMES, "v": lambda e: -1.0})
    with pytest.raises(dn.ModelError, match="Invalid value of `v`: got -1, expected a positive number"):
        outside.at(population)


# ---- tables of Monolix and nlmixr2 ------------------------------------------------------------------------------

MONOLIX = """parameter,value,CV,se_sa,rse_sa
ka_pop,1.5937,,0.3041,19.08
Cl_pop,2.7471,,0.2073,7.55
V_pop,31.818,,1.3629,4.28
omega_ka,0.63612,70.6,0.1446,22.7
omega_Cl,0.26230,26.7,0.0580,22.1
omega_V,0.13864,13.9,0.0372,26.8
a,0.69384,,0.0507,7.3
"""

NLMIXR2 = """"","Estimate","SE","%RSE","Back-transformed","CI Lower","CI Upper","BSV(CV%)","Shrink(SD)%"
"tka",0.46445,0.198,42.63,1.5911,1.0794,2.3454,70.62,1.02
"tcl",1.01205,0.0756,7.47,2.7512,2.3723,3.1906,26.69,3.73
"tv",3.45997,0.0429,1.24,31.816,29.25,34.607,13.93,10.1
"add.sd",0.69384,NA,NA,0.69384,NA,NA,NA,NA
"""


class Theophylline(dn.Model):
    ka, cl, v, sd = (dn.Positive(x) for x in (1.5, 2.7, 31.0, 0.7))
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


def square(x):
    return x * x


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_monolix(tmp_path, separator):
    path = tmp_path / "populationParameters.txt"
    path.write_text(MONOLIX.replace(",", separator))
    found = dn.read_parameter_table(path, "monolix", ofv=116.80, method="FOCEI")
    assert (found.program, found.ofv, found.method) == ("Monolix", 116.80, "FOCEI")
    assert found.estimates["ka_pop"] == 1.5937 and found.se["omega_V"] == 0.0372 and len(found.estimates) == 7
    assert found.warnings == ("standard errors by stochastic approximation",)
    names = {"ka": "ka_pop", "cl": "Cl_pop", "v": "V_pop", "sd": "a"}
    names |= {f"omega[{n}]": (f"omega_{t}", square) for n, t in (("ka", "ka"), ("cl", "Cl"), ("v", "V"))}
    mapped = found.mapped(Theophylline(), names)
    assert mapped.estimates["omega[ka]"] == pytest.approx(0.63612**2)
    assert mapped.se["omega[ka]"] == pytest.approx(2 * 0.63612 * 0.1446, rel=1e-6)
    # FOCEI of nlmixr2 and NONMEM, same data and model: 116.804
    assert mapped.at(dn.read_nonmem(dataset("theophylline"))).ofv == pytest.approx(116.804, abs=0.01)


def test_nlmixr2(tmp_path):
    path = tmp_path / "parFixedDf.csv"
    path.write_text(NLMIXR2)
    found = dn.read_parameter_table(path, "nlmixr2")
    assert found.ofv is None and "OFV not known" in str(found)
    assert found.estimates["omega[tka]"] == pytest.approx(math.log(1 + 0.7062**2)) == pytest.approx(0.40463, abs=1e-4)
    assert found.shrinkage == {"tka": 1.02, "tcl": 3.73, "tv": 10.1}
    assert math.isnan(found.se["add.sd"]) and "omega[add.sd]" not in found.estimates
    names = {n: (f"t{n}", math.exp) for n in ("ka", "cl", "v")} | {"sd": "add.sd"}
    names |= {f"omega[{n}]": f"omega[t{n}]" for n in ("ka", "cl", "v")}
    mapped = found.mapped(Theophylline(), names)
    assert mapped.se["cl"] == pytest.approx(math.exp(1.01205) * 0.0756, rel=1e-6)
    population = dn.read_nonmem(dataset("theophylline"))
    assert mapped.at(population).ofv == pytest.approx(116.8038, abs=1e-3)
    fit = dn.fit(Theophylline(), population, options=dn.Options(progress=False))
    both = dn.compare({"here": fit, "nlmixr2": mapped})
    assert abs(both.table.loc["nlmixr2", "dOFV"]) < 1e-3 and both.table.loc["nlmixr2", "converged"] is None
    path.write_text(NLMIXR2.replace("BSV(CV%)", "BSV(SD)").replace("70.62", "0.63610"))
    assert dn.read_parameter_table(path, "nlmixr2").estimates["omega[tka]"] == pytest.approx(0.6361**2)


def test_a_column_of_cv_and_sd_is_not_read(tmp_path):
    """nlmixr2 names it so where some random effects are log-normal and others are not."""
    path = tmp_path / "table.csv"
    path.write_text(NLMIXR2.replace("BSV(CV%)", "BSV(CV% or SD)"))
    found = dn.read_parameter_table(path, "nlmixr2")
    assert not any(name.startswith("omega") for name in found.estimates)
    assert found.warnings == ("omegas were not read: BSV(CV% or SD) does not tell a CV from a standard deviation",)


def test_tables_with_other_columns(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("parameter,value\nka_pop,1.5\n")
    assert math.isnan(dn.read_parameter_table(path, "monolix").se["ka_pop"])
    path.write_text("parameter,value,se_lin,rse_lin\nka_pop,1.5,0.3,20\n")
    found = dn.read_parameter_table(path, "monolix")
    assert found.se == {"ka_pop": 0.3} and found.warnings == ("standard errors by linearisation",)
    # as write.table writes it, and as data.frame renames the columns
    path.write_text(
        '"Estimate","SE","X.RSE","Back.transformed","BSV.CV..","Shrink.SD.."\n"tka",0.46,0.2,43,1.59,70.6,"1.02%="\n'
    )
    found = dn.read_parameter_table(path, "nlmixr2")
    assert found.estimates["tka"] == 0.46 and found.se["tka"] == 0.2
    assert found.estimates["omega[tka]"] == pytest.approx(math.log(1 + 0.706**2)) and found.shrinkage == {"tka": 1.02}


@pytest.mark.parametrize(
    ("text", "program", "message"),
    [
        (None, "monolix", "There is no such file"),
        ("", "monolix", "A table of parameters has a header and a row"),
        ("parameter,value\n", "monolix", "A table of parameters has a header and a row"),
        ("parameter,estimate\nka,1\n", "monolix", "got parameter, estimate for"),
        ("name,value\nka,1\n", "monolix", "The table has to have a column parameter"),
        ("parameter,value\nka,x\n", "monolix", "Invalid `value`: got 'x' for ka in"),
        ("parameter,value\nka,\n", "monolix", "Invalid `value`: got nothing for ka in"),
        ("parameter,value\nka,1\nka,2\n", "monolix", "Invalid `parameter`: got 'ka' for"),
        ("parameter,value\nka,1\nv,2,3\n", "monolix", "Invalid `row`: got 3 cells for"),
        ('"","SE"\n"tka",0.2\n', "nlmixr2", "The table has to have a column Estimate or Est."),
        ("parameter,value\nka,1\n", "nonmem", "got 'nonmem'. It is one of monolix, nlmixr2. NONMEM runs are read by"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, program, message):
    path = tmp_path / "table.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(dn.DeepNLMEError, match=re.escape(message)):
        dn.read_parameter_table(path, program)


def test_wrong_ofv(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(MONOLIX)
    for wrong in ("116.8", True, math.inf):
        with pytest.raises(dn.ModelError, match=r"Invalid `ofv`: got .*It is a finite number, or None"):
            dn.read_parameter_table(path, "monolix", ofv=wrong)
