"""Phenobarbital in neonates, set beside NONMEM 7.5.1 (FOCE with interaction).

Source of the numbers: the NONMEM output of pheno.mod that the package pharmpy-core 2.1.1 distributes (pheno.ext, .phi,
.cov, .tab, .lst); OFV without constant. The exact marginal and Laplace at NONMEM's estimates: many-node quadrature.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import exp

import deepnlme as dn
from dataset_files import dataset, pharmpy_file
from quadrature import marginal

INITIAL, OPTIMUM = 587.36644134661617, 586.27605628520962
ESTIMATES = {
    "cl": 4.69555e-3,
    "v": 0.984258,
    "apgar": 0.158920,
    "b": 1.32410e-2**0.5,
    "omega[cl]": 2.93508e-2,
    "omega[v]": 2.79060e-2,
}
PROGRAM = ("THETA1", "THETA2", "THETA3", "SIGMA(1,1)", "OMEGA(1,1)", "OMEGA(2,2)")


class Phenobarbital(dn.Model):
    cl = dn.Positive(0.00469307, unit="L/h/kg")
    v = dn.Positive(1.00916, unit="L/kg")
    apgar = dn.Real(0.1)
    b = dn.Positive(0.0130865**0.5)
    eta = dn.RandomEffects("cl", "v", omega=[0.0309626, 0.031128])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        v = theta.v * cov.WT * torch.where(cov.APGR < 5, 1 + theta.apgar, 1.0)
        return dict(cl=theta.cl * cov.WT * exp(eta.cl), v=v * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.proportional(f, theta.b)))


@pytest.fixture(scope="module")
def population():
    return dn.read_nonmem(dataset("phenobarbital"), covariates=["WT", "APGR"])


@pytest.fixture(scope="module")
def theirs(population):
    """Evaluated at NONMEM's estimates as printed (six digits)."""
    return dn.evaluate_ofv(Phenobarbital(), population, dn.FOCE(), at=ESTIMATES)


@pytest.fixture(scope="module")
def fit(population):
    return dn.fit(Phenobarbital(), population, dn.FOCE(), options=dn.Options(progress=False, tolerance=1e-10))


def output(name: str) -> pd.DataFrame:
    return pd.read_csv(pharmpy_file(name), skiprows=1, sep=r"\s+")


def test_data_are_the_same(population):
    theirs = pd.read_csv(pharmpy_file("pheno.dta"), sep=r"\s+|,", engine="python")
    ours = population.to_frame()
    numbers = theirs.apply(pd.to_numeric, errors="coerce").fillna(0.0)
    np.testing.assert_array_equal(ours["AMT"].fillna(0.0), numbers["AMT"])
    np.testing.assert_array_equal(ours["TIME"], numbers["TIME"])
    np.testing.assert_array_equal(ours["DV"].fillna(0.0), numbers["DV"])
    np.testing.assert_array_equal(ours["WT"], numbers["WGT"])


def test_initial_ofv(population):
    assert dn.evaluate_ofv(Phenobarbital(), population, dn.FOCE()).ofv == pytest.approx(INITIAL, rel=1e-9)


def test_optimum(fit, theirs):
    assert fit.converged
    assert abs(fit.ofv - OPTIMUM) < 1e-3
    assert -1e-6 < fit.ofv - OPTIMUM < 1e-8
    # the minimum is flat, so the rounding of the estimates does not show
    assert theirs.ofv == pytest.approx(OPTIMUM, abs=1e-6)


def test_estimates(fit):
    # NONMEM stopped at 3.8 significant digits by its own count
    for name, value in ESTIMATES.items():
        assert fit.estimates[name] == pytest.approx(value, rel=2e-4)


def test_subjects(theirs):
    """Individual OFVs, modes, and their variances: NONMEM's ETC is the inverse of the Hessian H of FOCEI."""
    phi = output("pheno.phi")
    np.testing.assert_array_equal(theirs.subject_ofv.index, phi["ID"])
    # both within what the sixth digit of the estimates decides
    np.testing.assert_allclose(theirs.subject_ofv, phi["OBJ"], atol=5e-5)
    np.testing.assert_allclose(theirs.ebes.eta, phi[["ETA(1)", "ETA(2)"]], atol=2e-6)
    for name, (i, j) in {"ETC(1,1)": (0, 0), "ETC(2,1)": (1, 0), "ETC(2,2)": (1, 1)}.items():
        np.testing.assert_allclose(theirs.ebes.covariance[:, i, j], phi[name], rtol=1e-5)
    frame = theirs.etas()
    np.testing.assert_allclose(frame["SE_cl"] ** 2, phi["ETC(1,1)"], rtol=1e-5)


def test_standard_errors(fit):
    covariance = output("pheno.cov").set_index("NAME")
    factor = np.array([1, 1, 1, 2 * fit.estimates["b"], 1, 1])
    names = list(ESTIMATES)
    ours = fit.covariance_matrix.loc[names, names].to_numpy() * np.outer(factor, factor)
    expected = covariance.loc[list(PROGRAM), list(PROGRAM)].to_numpy()
    error = np.sqrt(np.diag(expected))
    # asked for: 2%
    np.testing.assert_allclose(np.sqrt(np.diag(ours)), error, rtol=1e-3)
    np.testing.assert_allclose(ours / np.outer(error, error), expected / np.outer(error, error), atol=5e-3)
    # pheno.lst prints the standard errors to three digits
    assert [float(f"{v:.2e}") for v in np.sqrt(np.diag(ours))[[0, 1, 2, 4, 5]]] == [
        2.10e-4,
        2.69e-2,
        8.38e-2,
        1.34e-2,
        7.48e-3,
    ]


def test_table(theirs):
    """Every record, those of doses included."""
    expected = output("pheno.tab")
    found = theirs.predictions(all_records=True)
    assert len(found) == len(expected) == 744
    np.testing.assert_array_equal(found["ID"], expected["ID"])
    np.testing.assert_allclose(found["TIME"], expected["TIME"])
    # five digits are printed
    np.testing.assert_allclose(found["IPRED"], expected["CIPREDI"], rtol=6e-5)
    np.testing.assert_allclose(found["PRED"], expected["PRED"], rtol=6e-5)
    seen = found["MDV"] == 0
    np.testing.assert_allclose(found.loc[seen, "RES"], expected.loc[seen, "RES"], atol=6e-4)
    np.testing.assert_allclose(found.loc[seen, "CWRES"], expected.loc[seen, "CWRES"], atol=3e-4)
    # where NONMEM prints 0 for records without an observation, there is nothing
    assert found.loc[~seen, ["DV", "RES", "CWRES", "WRES", "IWRES"]].isna().all(axis=None)
    assert (expected.loc[~seen, "CWRES"] == 0).all()


def test_shrinkage(theirs):
    assert theirs.epsilon_shrinkage == pytest.approx(21.198, abs=1e-3)
    # NONMEM 7.5.1 divides by the number of subjects, 7.4.1 (theophylline) and this package by one less
    sd_ratio = (1 - np.array(list(theirs.shrinkage.values())) / 100) * np.sqrt(58 / 59)
    np.testing.assert_allclose(100 * (1 - sd_ratio), [47.580, 13.581], atol=1e-3)


def test_laplace_and_exact_marginal(theirs, population):
    laplace = dn.evaluate_ofv(Phenobarbital(), population, dn.Laplace(), at=ESTIMATES)
    assert laplace.ofv == pytest.approx(586.353, abs=1e-3)
    frame = population.to_frame()
    total = 0.0
    for i, (_, rows) in enumerate(frame.groupby("ID", sort=False)):
        doses, seen = rows[rows["EVID"] == 1], rows[rows["MDV"] == 0]
        t, y = seen["TIME"].to_numpy(float), seen["DV"].to_numpy(float)
        since = t[:, None] - doses["TIME"].to_numpy(float)[None]
        # an observation at the time of a dose comes before or after it as the records do
        after = seen.index.to_numpy()[:, None] > doses.index.to_numpy()[None]
        amount = doses["AMT"].to_numpy(float)
        weight, apgar = rows["WT"].iloc[0], rows["APGR"].iloc[0]

        def twice_joint(eta, since=since, after=after, amount=amount, y=y, weight=weight, apgar=apgar):
            cl = ESTIMATES["cl"] * weight * np.exp(eta[:, 0])
            v = ESTIMATES["v"] * weight * (1 + ESTIMATES["apgar"] * (apgar < 5)) * np.exp(eta[:, 1])
            each = np.where(after, amount * np.exp(-(cl / v)[:, None, None] * np.where(after, since, 0.0)), 0.0)
            f = each.sum(2) / v[:, None]
            r = (ESTIMATES["b"] * f) ** 2
            omega = np.array([ESTIMATES["omega[cl]"], ESTIMATES["omega[v]"]])
            prior = (eta**2 / omega).sum(1) + np.log(omega).sum() + 2 * np.log(2 * np.pi)
            return ((y - f) ** 2 / r + np.log(r)).sum(1) + prior

        total += marginal(twice_joint, theirs.ebes.eta[i], np.linalg.inv(theirs.ebes.covariance[i]), 20)
    assert total == pytest.approx(586.2652, abs=5e-5)
