"""Every script of the gallery runs, and finds the numbers that its docstring claims."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepnlme as dn

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
SIMULATED = (
    "deep_nlme",
    "mixed_effects_network",
    "neural_covariates",
    "prognostic_factors",
    "universal_differential_equation",
)
# Scripts on data that another script introduces.
OTHERS = (
    "neural_absorption",
    "virtual_trial",
    "compare_with_nonmem",
    "theophylline_report",
    "biomarker_regression",
    "image_covariate",
    "discover_mechanism",
    "covariate_selection",
    "individualised_dynamics",
)
SCRIPTS = sorted({path.stem for path in MODELS.glob("[!_]*.py")} - {*SIMULATED, *OTHERS})


def run(name: str, *options: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(MODELS / f"{name}.py"), *options],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=MODELS.parent.parent,  # not the repository: data are found from the script
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Runs a script once with --quick; its numbers and what it printed."""
    done = {}

    def of(name: str) -> tuple[dict, str]:
        if name not in done:
            file = tmp_path_factory.mktemp(name) / "deeper" / "found.json"
            result = run(name, "--quick", "--json", str(file))
            assert result.returncode == 0, result.stderr
            done[name] = json.loads(file.read_text()), result.stdout
        return done[name]

    return of


def test_every_dataset_has_a_script():
    assert set(SCRIPTS) == {path.parent.name for path in (ROOT / "datasets").glob("*/data.csv")}


@pytest.mark.parametrize("name", SCRIPTS)
def test_json_says_what_was_found(name, quick):
    found, printed = quick(name)
    for fit in (found, *found["fits"].values()):
        assert {"method", "ofv", "estimates", "se", "seconds", "converged"} <= set(fit)
        assert fit["converged"] and fit["seconds"] > 0 and fit["method"] == "FOCEI"
        assert set(fit["se"]) <= set(fit["estimates"])
    assert all(error is not None and error > 0 for error in found["se"].values())
    assert f"{found['ofv']:.4f}" in printed


def test_theophylline_closed_form_and_ode_agree(quick):
    found, printed = quick("theophylline")
    assert "Side by side" in printed
    differences = found["differences"]
    assert abs(differences["ofv"]) < 1e-5 and differences["subject_ofv"] < 1e-4
    assert differences["estimates_relative"] < 1e-4 and differences["se_relative"] < 1e-3
    assert max(differences[c] for c in ("pred", "ipred", "cwres")) < 1e-4
    assert found["ofv"] == found["fits"]["closed form"]["ofv"]
    estimates = found["estimates"]
    assert 1.0 < estimates["ka"] < 2.5 and 2.2 < estimates["cl"] < 3.3 and 28 < estimates["v"] < 36


def test_phenobarbital(quick):
    found, _ = quick("phenobarbital")
    assert 0.004 < found["estimates"]["cl"] < 0.006 and 0.85 < found["estimates"]["v"] < 1.1
    assert found["ofv"] < found["initial_ofv"]
    assert found["fits"]["no covariates"]["ofv"] - found["ofv"] > 8  # twenty infants; 145 in all 59


@pytest.mark.slow
def test_phenobarbital_is_nonmems_example(tmp_path):
    """NONMEM 7.5.1, pheno.mod, FOCE with interaction (pharmpy-core 2.1.1, pheno.ext); OFV without constant."""
    result = run("phenobarbital", "--json", str(tmp_path / "found.json"))
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["initial_ofv"] == pytest.approx(587.36644134661617, abs=1e-5)
    assert found["ofv"] == pytest.approx(586.27605628520962, abs=1e-3)
    assert found["starts"] == pytest.approx([found["ofv"]] * 4, abs=1e-3)
    published = {"cl": (4.69555e-3, 2.09967e-4), "v": (9.84258e-1, 2.68946e-2), "apgar": (1.58920e-1, 8.37555e-2)}
    for name, (value, error) in published.items():
        assert found["estimates"][name] == pytest.approx(value, rel=2e-4)
        assert found["se"][name] == pytest.approx(error, rel=0.02)


def test_compare_with_nonmem(quick):
    """NONMEM 7.5.1, pheno.mod (pharmpy-core 2.1.1): OFV, estimates, and a table printed to five digits."""
    pytest.importorskip("pharmpy", reason="pharmpy-core reads the run: pip install 'deepnlme[nonmem]'")
    found, printed = quick("compare_with_nonmem")
    assert found["nonmem"]["ofv"] == pytest.approx(586.27605628520962, rel=1e-12)
    assert found["nonmem"]["ofv_here"] == pytest.approx(found["nonmem"]["ofv"], abs=1e-6)
    assert found["ofv"] == pytest.approx(found["nonmem"]["ofv"], abs=1e-3)
    for name, value in found["nonmem"]["estimates"].items():
        assert found["estimates"][name] == pytest.approx(value, rel=2e-4)
        assert found["se"][name] == pytest.approx(found["nonmem"]["se"][name], rel=1e-3)
    most = {"OFV": 1e-6, "OFV of a subject": 5e-5, "EBE": 2e-6, "PRED": 6e-4, "IPRED": 6e-4, "RES": 6e-4, "CWRES": 3e-4}
    assert found["differences"].keys() == most.keys()
    assert all(found["differences"][name] < limit for name, limit in most.items())
    assert "they agree" in printed


def test_indomethacin(quick):
    """log L at the estimates printed by Pinheiro and Bates (2000), section 6.2: 54.592 by nlme's linearisation."""
    found, _ = quick("indomethacin")
    ofv = {name: fit["ofv"] for name, fit in found["fits"].items()}
    assert ofv["log-normal, no eta v1"] < ofv["proportional"] - 3 < ofv["additive"] - 60
    assert ofv["log-normal, no eta v1"] == pytest.approx(ofv["log-normal"], abs=1e-3)
    assert ofv["combined"] == pytest.approx(ofv["proportional"], abs=1e-3)
    assert found["ofv"] == pytest.approx(-301.7576, abs=1e-3)
    assert found["book_log_likelihood"] == pytest.approx(54.592, abs=0.01)


def test_a_variance_at_zero_has_a_table(monkeypatch):
    """Its interval has no upper end; that must not stop the table."""
    monkeypatch.syspath_prepend(str(MODELS))
    from indomethacin import BOOK, DATASETS, Biexponential

    population = dn.read_nonmem(DATASETS / "indomethacin" / "data.csv")
    fit = dn.fit(Biexponential(), population, start=BOOK, options=dn.Options(covariance="R", progress=False))
    assert fit.estimates["omega[lrc1]"] < 1e-4
    assert "omega[lrc1]" in str(fit)


def test_remifentanil(quick):
    found, _ = quick("remifentanil")
    estimates = found["estimates"]
    assert 2.3 < estimates["cl"] < 2.9 and 4 < estimates["v1"] < 8 and 7 < estimates["v2"] < 12
    assert -0.2 < estimates["age_cl"] < -0.03
    assert found["fits"]["base"]["ofv"] - found["ofv"] > 10
    assert 20 < found["variance_explained"]["cl"] < 95


def test_remifentanil_optimum_of_all_people(monkeypatch):
    """The base model at its optimum: an OFV reached from several starts, where the gradient vanishes."""
    monkeypatch.syspath_prepend(str(MODELS))
    from remifentanil import DATASETS, NAMES, Remifentanil

    at = dict(zip(NAMES, (2.48554, 5.14996, 1.72548, 9.17321, 0.0659969, 6.76159), strict=True))
    population = dn.read_nonmem(DATASETS / "remifentanil" / "data.csv")
    there = dn.evaluate_ofv(Remifentanil(), population, at={**at, "sd": 0.113077, **OMEGA})
    assert there.ofv == pytest.approx(3418.416, abs=0.02)
    assert abs(there.evaluation.gradient).max() < 1.0


OMEGA = {
    "omega[cl]": 0.048832,
    "omega[v1]": 0.14741,
    "omega[q2]": 0.23959,
    "omega[v2]": 0.13668,
    "omega[q3]": 0.26058,
    "omega[v3]": 0.41371,
}


def test_neural_absorption(quick):
    """The weights end between none (first-order absorption) and free; both models are judged on the same people."""
    found, printed = quick("neural_absorption")
    first, learned = (found["fits"][name] for name in ("first-order", "learned"))
    assert first["ofv"] == pytest.approx(quick("theophylline")[0]["ofv"], abs=1e-6)
    assert first["penalty"] == 0.0 < learned["penalty"]
    assert learned["ofv"] + learned["penalty"] < first["ofv"]
    assert 7 < found["effective"]["learned"] < 7 + 13
    assert f"{found['cross_validation']['learned']['held-out OFV']:.4g}" in printed


@pytest.mark.parametrize("name", SIMULATED)
def test_scripts_on_simulated_data(name, quick):
    found, printed = quick(name)
    for fit in (found, *found["fits"].values()):
        assert {"method", "ofv", "penalty", "estimates", "seconds", "converged"} <= set(fit)
        assert fit["ofv"] is not None and fit["penalty"] >= 0.0
    assert found["penalty"] > 0.0 and found["data_seed"] == 1
    assert f"{found['ofv']:.4f}" in printed


def test_mixed_effects_network(quick):
    """The true model's distance is that of two parameters among 21 observations, sqrt(2/21) = 0.31."""
    distances = {name: row["held out"] for name, row in quick("mixed_effects_network")[0]["distances"].items()}
    assert distances["true model"] == pytest.approx((2 / 21) ** 0.5, abs=0.08)
    assert distances["true model"] < distances["(b) network(t, eta1, eta2)"] < distances["(a) network(t)"]


def test_universal_differential_equation_does_not_see_the_size_of_doses(quick):
    found, _ = quick("universal_differential_equation")
    small, large = (found[key]["(c) network(cp, R)"] for key in ("distances", "distances_of_large_doses"))
    assert large == pytest.approx(small, rel=1e-3)


def test_deep_nlme(quick):
    found, _ = quick("deep_nlme")
    assert set(found["distances"]["network"]) == {"training regimen", "unseen regimen"}
    assert all(0.0 < value < 0.8 for value in found["distances"]["true model"].values())


def test_neural_covariates(quick):
    values = quick("neural_covariates")[0]["log_likelihoods"]
    assert values["true form"]["fitted people"] > values["the truth"]["fitted people"]  # it was fitted to them
    assert values["true form"]["fitted people"] > values["no covariates"]["fitted people"]  # a special case of it


def test_prognostic_factors(quick):
    """Three people and one step: that it runs, and that covariates enter the predictions."""
    found, _ = quick("prognostic_factors")
    distances = {name: row["distance"] for name, row in found["distances"].items()}
    assert list(distances) == ["no covariates", "augmented on 50", "searched on 50", "searched on 1000"]
    assert len({round(d, 6) for d in distances.values()}) == 3  # with one penalty there is nothing to search


def test_prognostic_factors_truth(monkeypatch):
    """The formulas of the truth at eta = 0, of one person by hand."""
    monkeypatch.syspath_prepend(str(MODELS))
    from prognostic_factors import Truth, data

    train, *_ = data(1, 2, 1, 1)
    p = dn.evaluate_ofv(Truth(eta=dn.RandomEffects(*Truth.eta.names, omega=0.0, fixed=True)), train.population)
    c = {name: float(values[0]) for name, values in train.population[0].covariates.items()}
    found = p.individual(1)
    assert found["smax"] == pytest.approx(1.2 + 3 * c["c1"] / (12 + c["c1"]), rel=1e-12)
    assert found["sc50"] == pytest.approx(0.02 * np.exp(0.2 * (c["c2"] / 20) ** 0.75), rel=1e-12)
    assert found["ka"] == pytest.approx(0.5 * np.exp(0.3 * c["c3"] * c["c4"]), rel=1e-12)
    assert found["kin"] / found["kout"] == pytest.approx(c["r_eq"], rel=1e-12)
    assert found["kout"] == pytest.approx(2.2 * np.exp(0.3 * c["c5"] / (c["c5"] + c["c6"])), rel=1e-12)


def test_simulated_people(monkeypatch):
    """Truth and noise against the closed form, and the same people from the same seed."""
    monkeypatch.syspath_prepend(str(MODELS))
    import numpy as np
    from scipy.stats import norm

    from mixed_effects_network import data

    _, trial = data(5, 3, 2)
    c1, c2 = 0.5 + norm.cdf(trial.eta[:, 0]), norm.cdf(trial.eta[:, 1]) - 1.0
    t = np.linspace(0.0, 1.0, 21)
    expected = c1[:, None] * t / (t + 10.0 ** c2[:, None])
    assert trial.truth == pytest.approx(expected.ravel(), rel=1e-12)
    assert trial.sd == pytest.approx(0.05)
    assert trial.population.records.dv == pytest.approx(data(5, 3, 2)[1].population.records.dv, rel=0)
    assert trial.curves(t)["TRUTH"].to_numpy() == pytest.approx(expected.ravel(), rel=1e-12)
    assert trial.population.ids == (4, 5)


@pytest.mark.slow
def test_mixed_effects_network_follows_people_it_has_not_seen(tmp_path):
    result = run("mixed_effects_network", "--json", str(tmp_path / "found.json"))
    assert result.returncode == 0, result.stderr
    distances = json.loads((tmp_path / "found.json").read_text())["distances"]
    found = {name: row["held out"] for name, row in distances.items()}
    assert found["(b) network(t, eta1, eta2)"] < 0.6 < 3.0 < found["(a) network(t)"]


def test_pictures_and_another_method(tmp_path):
    result = run("indomethacin", "--quick", "--method", "laplace", "--pictures", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "Laplace" in result.stdout
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        f"indomethacin_{kind}.png"
        for kind in ("convergence", "eta_distributions", "goodness_of_fit", "individual_fits")
    ]


def test_virtual_trial(quick):
    """Clearance is log-normal with sd 0.26: at best 81 % have an average within a factor of two."""
    found, printed = quick("virtual_trial")
    doses = {row["DOSE"]: row for row in found["attainment"]["doses"]}
    assert found["recommended"] in (3.0, 3.5) and "Recommended dose: 3" in printed
    assert 0.70 < max(row["PROPORTION"] for row in doses.values()) < 0.84
    assert all(row["REP_LOW"] < row["PROPORTION"] < row["REP_HIGH"] for row in doses.values())
    fixed, measured = (
        {row["arm"]: row["PROPORTION"] for row in found["attainment"][name]} for name in ("arms", "measured")
    )
    assert fixed["flat"] < fixed["mg/kg"] < 0.9 < 0.95 < min(measured.values())


def test_theophylline_report(tmp_path):
    """One self-contained file with the numbers of the fit; the script's claim about the residual error holds."""
    pytest.importorskip("jinja2", reason="reports are written with jinja2: pip install 'deepnlme[report]'")
    result = run("theophylline_report", "--quick", "--json", str(tmp_path / "found.json"), "--pictures", str(tmp_path))
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    file = tmp_path / "theophylline_report.html"
    assert found["report"] == str(file) and found["bytes"] == file.stat().st_size < 5_000_000
    text = file.read_text(encoding="utf-8")
    assert f"{found['ofv']:.3f}" in text and "class Allometric(Additive):" in text
    assert "http" not in text.replace("http-equiv", "") and "<script" not in text
    assert found["converged"] and found["ofv"] < found["fits"]["additive error"]["ofv"] - 3.84


def test_biomarker_regression(quick):
    """The noise has a variance of 0.09; the mean of 160 squares of it varies by 0.09 sqrt(2/160) = 0.01."""
    found, printed = quick("biomarker_regression")
    assert len(found["mse"]) == 2
    for row in found["mse"].values():
        assert row["the truth"] == pytest.approx(0.09, abs=0.03)
        assert row["smooth network"] < 0.12 < row["linear regression"]
        assert row["smooth network"] < row["plain network"] < row["linear regression"]
    assert f"{found['mse']['1']['smooth network']:.4g}" in printed


def test_discover_mechanism(quick):
    """The knee is the form that the data were made with; refitted it is close to the truth."""
    found, printed = quick("discover_mechanism")
    (row,) = found["rows"]
    assert row["knee"] == "sigmoid Emax" and found["right"] == 1
    assert row["network - formula %"] < 2.0 and row["refitted - truth %"] < 5.0
    assert "1 of 1 data sets" in printed and row["refitted"] in printed


def test_covariate_selection(quick):
    """Age is what Minto et al. found on clearance and V1; of the candidates tried here sex is none of theirs."""
    found, printed = quick("covariate_selection")
    for method in ("SCM", "screening", "lasso", "network"):
        assert found["selected"][method] == ["cl ~ age", "v1 ~ age"]
    assert found["ofv"] == found["fits"]["SCM"]["ofv"] == pytest.approx(found["fits"]["lasso"]["ofv"], abs=1e-4)
    assert found["fits"]["base"]["ofv"] - found["ofv"] > 2 * 6.63
    assert "Side by side" in printed


def test_individualised_dynamics(quick):
    """What is known earlier helps; the encoder is as good as EBEs, and the weighted draws agree with it."""
    found, printed = quick("individualised_dynamics")
    distance = {name: row["distance"] for name, row in found["distances"].items()}
    assert distance["EBEs, the truth"] < distance["encoder"] < 0.9 * distance["baseline"] < 0.8 * distance["nothing"]
    assert distance["encoder"] == pytest.approx(distance["EBEs"], rel=0.05)
    assert distance["encoder, weighted"] == pytest.approx(distance["encoder"], rel=0.05)
    assert 80 < found["distances"]["encoder"]["inside %"] <= 100 and found["ess"]["median"] > 700
    assert f"{distance['encoder']:.3g}" in printed


def test_image_covariate(quick):
    """120 people and five epochs: some of the way from no covariates to the true form."""
    pytest.importorskip("sklearn", reason="its digits come with scikit-learn: pip install 'deepnlme[learning]'")
    found, printed = quick("image_covariate")
    distance = {name: row["MdALE"] for name, row in found["distances"].items()}
    assert distance["digit known"] < 0.1 < distance["image"] < 0.9 * distance["no covariates"]
    assert f"{found['distances']['image']['MdALE %']:.1f} %" in printed
    assert found["penalty"] > 0.0 and not found["converged"]  # a single epoch


def test_pixels_are_not_looked_at_by_the_truth(monkeypatch):
    """The digit makes the data of the image script: clearance 1 + digit / 3, read back from noiseless curves."""
    pytest.importorskip("sklearn", reason="its digits come with scikit-learn: pip install 'deepnlme[learning]'")
    monkeypatch.syspath_prepend(str(MODELS))
    import numpy as np

    from image_covariate import DigitKnown, data

    people = data(3, 20)
    table = dn.predict(DigitKnown(), people, eta=np.zeros((20, 2)))
    digit = people.records.covariates["digit"][people.starts[:-1]]
    first = table.groupby("ID").PRED.first().to_numpy()
    assert -10.0 * np.log(first / 10.0) == pytest.approx(1.0 + digit / 3.0, rel=1e-12)
    assert people.tensors["image"].shape == (20, 8, 8)
