"""Shrinkage beside NONMEM's and beside its definitions.

Sources: NONMEM 7.5.1, pheno.lst of pharmpy-core 2.1.1; NONMEM 7.4.1, theophylline with a full Omega.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import exp

import contract_models as contract
import deepnlme as dn
from dataset_files import dataset


class Phenobarbital(dn.Model):
    cl = dn.Positive(0.00469307)
    v = dn.Positive(1.00916)
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


class Theophylline(dn.Model):
    ka = dn.Positive(1.49068)
    v = dn.Positive(32.4467)
    k = dn.Positive(0.0872896)
    a = dn.Positive(0.0828489**0.5)
    b = dn.Positive(0.0170385**0.5)
    eta = dn.RandomEffects(
        "ka",
        "v",
        "k",
        omega=[[0.43468, 0.056915, -0.006482], [0.056915, 0.019397, 0.012085], [-0.006482, 0.012085, 0.020239]],
        block=True,
    )
    dynamics = dn.OneCompartment(absorption="first-order", parameters="rates")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), v=theta.v * exp(eta.v), k=theta.k * exp(eta.k))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.combined2(f, theta.a, theta.b)))


@pytest.fixture(scope="module")
def phenobarbital():
    at = {"cl": 4.69555e-3, "v": 0.984258, "apgar": 0.158920, "b": 1.32410e-2**0.5}
    at |= {"omega[cl]": 2.93508e-2, "omega[v]": 2.79060e-2}
    population = dn.read_nonmem(dataset("phenobarbital"), covariates=["WT", "APGR"])
    return dn.evaluate_ofv(Phenobarbital(), population, at=at)


def test_phenobarbital_beside_nonmem(phenobarbital):
    table = dn.shrinkage(phenobarbital)
    eta = table.loc[["cl", "v"]]
    assert list(eta["Kind"]) == ["eta", "eta"] and list(eta["N"]) == [59, 59]
    # this version of the program divides by N
    kept = (1 - eta["VR%"] / 100) * 58 / 59
    np.testing.assert_allclose(100 * (1 - np.sqrt(kept)), [47.580, 13.581], atol=1e-3)
    np.testing.assert_allclose(100 * (1 - kept), [72.522, 25.317], atol=1e-3)
    np.testing.assert_allclose(eta["EBV SD%"], [47.738, 13.692], atol=1e-3)
    np.testing.assert_allclose(eta["EBV VR%"], [72.687, 25.509], atol=1e-3)
    np.testing.assert_allclose(eta["SE"], [1.1692e-2, 1.8795e-2], rtol=1e-4)
    # six digits of the estimates decide on the means to about 1e-6
    np.testing.assert_allclose(eta["ETABAR"], [1.6884e-3, -1.1976e-3], atol=1e-6)
    np.testing.assert_allclose(eta["P"], [8.8518e-1, 9.4919e-1], atol=1e-4)
    np.testing.assert_allclose(table.loc["dv", ["SD%", "VR%"]].to_numpy(float), [21.198, 37.903], atol=1e-3)
    assert (table.loc["dv", "Kind"], table.loc["dv", "N"]) == ("eps", 155)


def test_theophylline_beside_nonmem():
    frame = pd.read_csv(dataset("theophylline"))
    frame.loc[frame["EVID"] == 1, "AMT"] = 320.0
    found = dn.evaluate_ofv(Theophylline(), dn.read_nonmem(frame))
    table, iwres = dn.shrinkage(found), found.predictions()[["IPRED", "IWRES"]]
    np.testing.assert_allclose(table.loc[["ka", "v", "k"], "SD%"], [1.33, 1.62, 5.02], atol=0.0051)
    # the program prints 7.95 for the proportional eps, which has no effect where the prediction is zero
    square = (1 - table.loc["dv", "VR%"] / 100) * table.loc["dv", "N"]
    zero = iwres["IPRED"] == 0
    others = square - (iwres.loc[zero, "IWRES"] ** 2).sum()
    assert 100 * (1 - np.sqrt(others / (~zero).sum())) == pytest.approx(7.95, abs=0.005)
    assert zero.sum() == 12 and table.loc["dv", "SD%"] == pytest.approx(100 * (1 - np.sqrt(square / 132)), rel=1e-12)


def test_means_are_tested_as_scipy_does(phenobarbital):
    from scipy.stats import ttest_1samp

    table, etas = dn.shrinkage(phenobarbital), phenobarbital.etas()
    for name in ("cl", "v"):
        assert table.loc[name, "P (t)"] == pytest.approx(ttest_1samp(etas[f"ETA_{name}"], 0.0)[1], rel=1e-10)


def test_occasions_are_pooled_and_agree_with_the_fit():
    found = dn.evaluate_ofv(contract.Occasions(), contract.occasions())
    table, etas = dn.shrinkage(found), found.etas()
    assert table.loc["kappa", "N"] == 8  # of 3, 1, 2 and 2 occasions; columns of those not had do not count
    has = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0]], dtype=bool)
    values = etas[[f"ETA_kappa@{o}" for o in (1, 2, 3)]].to_numpy()[has]
    errors = etas[[f"SE_kappa@{o}" for o in (1, 2, 3)]].to_numpy()[has]
    assert table.loc["kappa", "ETABAR"] == pytest.approx(values.mean(), rel=1e-12)
    assert table.loc["kappa", "VR%"] == pytest.approx(100 * (1 - values.var(ddof=1) / 0.06), rel=1e-10)
    assert table.loc["kappa", "EBV VR%"] == pytest.approx(100 * np.mean(errors**2) / 0.06, rel=1e-10)
    for name, value in found.shrinkage.items():
        assert table.loc[name, "SD%"] == pytest.approx(value, rel=1e-12)


def test_endpoints_have_a_row_each():
    found = dn.evaluate_ofv(contract.TwoEndpoints(), contract.two_endpoints())
    table, rows = dn.shrinkage(found), found.predictions()
    for name in ("cp", "effect"):
        own = rows.loc[rows["DVID"] == name, "IWRES"]
        assert table.loc[name, "N"] == len(own) and len(own) != len(rows)
        assert table.loc[name, "VR%"] == pytest.approx(100 * (1 - np.mean(own**2)), rel=1e-12)


def test_what_does_not_apply_is_empty():
    table = dn.shrinkage(dn.evaluate_ofv(contract.Counts(), contract.longitudinal("counts"), dn.Laplace()))
    assert table.loc["dv", "N"] == 0 and np.isnan(table.loc["dv", "SD%"])
    pooled = dn.shrinkage(dn.evaluate_ofv(contract.Oral(), contract.plain(), dn.NaivePooled()))
    assert list(pooled["Kind"]) == ["eps"]
    fixed = dn.shrinkage(dn.evaluate_ofv(contract.Vector(), contract.plain()))
    assert np.isnan(fixed.loc["ka", "SD%"]) and np.isfinite(fixed.loc["cl", "SD%"])


def test_refuses_what_is_no_fit():
    with pytest.raises(dn.ModelError, match=r"Invalid `fit`: got Oral\. It is a fit\. Use the result"):
        dn.shrinkage(contract.Oral())
