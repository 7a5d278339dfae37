"""When the likelihoods of two fits may be compared."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import torch

import deepnlme as dn
from deepnlme.compare.same import incomparable, other_data, shared_subjects


def frame() -> pd.DataFrame:
    rows = []
    for i in range(1, 4):
        rows.append(dict(ID=i, TIME=0.0, AMT=100.0, RATE=50.0, II=0.0, ADDL=0, SS=0, EVID=1, MDV=1, DV=np.nan))
        for t in (1.0, 4.0):
            rows.append(
                dict(ID=i, TIME=t, AMT=0, RATE=0, II=0, ADDL=0, SS=0, EVID=0, MDV=0, DV=5.0 * np.exp(-0.1 * t) + i)
            )
    return pd.DataFrame(rows).assign(CENS=0, LIMIT=np.nan, WT=70.0)


class Bolus(dn.Model):
    cl = dn.Positive(2.0)
    v = dn.Positive(20.0)
    sd = dn.Positive(0.5)
    eta = dn.RandomEffects("cl", omega=0.1)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * torch.exp(eta.cl), v=theta.v)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


def changed(column: str, row: int, value: float, **more) -> pd.DataFrame:
    out = frame()
    for name, to in {column: value, **more}.items():
        out[name] = out[name].astype(float)
        out.loc[row, name] = to
    return out


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (changed("DV", 2, 3.25), r"DV differs in 1 records, first for subject 1: 3.25 against 4.3516"),
        (changed("TIME", 5, 4.5), "TIME differs in 1 records, first for subject 2: 4.5 against 4"),
        (changed("AMT", 6, 90.0), "AMT differs in 1 records, first for subject 3: 90 against 100"),
        (changed("RATE", 6, 25.0), "RATE differs in 1 records"),
        (changed("ADDL", 0, 1, II=12.0), "II differs in 1 records"),
        (changed("SS", 3, 1, II=12.0), "II differs in 1 records"),
        (changed("MDV", 2, 1), "MDV differs in 1 records, first for subject 1"),
        (changed("CENS", 2, 1), "CENS differs in 1 records"),
        (frame().iloc[:8], "other records: 8 against 9"),
        (frame().iloc[:6], "other subjects: 2 against 3, 2 of them in both"),
        (frame().assign(ID=[1, 1, 1, 2, 2, 2, 9, 9, 9]), "other subjects: 3 against 3, 2 of them in both"),
        (
            frame().assign(DV=np.log(frame()["DV"])),
            "its DV is the logarithm of the other's; fit the untransformed data",
        ),
    ],
)
def test_other_data(other, expected):
    assert re.match(expected, other_data(dn.read_nonmem(other), dn.read_nonmem(frame())))


def test_the_logarithm_is_seen_from_both_sides():
    logged = dn.read_nonmem(frame().assign(DV=np.log(frame()["DV"])))
    assert other_data(dn.read_nonmem(frame()), logged).startswith("the reference's DV is the logarithm")


def test_same_data():
    reference = dn.read_nonmem(frame())
    assert other_data(reference, reference) == ""
    assert other_data(dn.read_nonmem(frame(), covariates=["wt"]), reference) == ""
    backwards = pd.concat([part for _, part in reversed(list(frame().groupby("ID")))])
    assert other_data(dn.read_nonmem(backwards), reference) == ""


def test_endpoints():
    both = frame().assign(DVID=[0, 1, 2] * 3)
    a = dn.read_nonmem(both, endpoints={1: "cp", 2: "pd"})
    b = dn.read_nonmem(both.assign(DVID=[0, 2, 1] * 3), endpoints={1: "cp", 2: "pd"})
    assert other_data(a, b) == "DVID differs in 6 observations"
    assert other_data(a, dn.read_nonmem(both, endpoints={1: "plasma", 2: "effect"})) == ""


def at(model, population, method=None):
    return dn.evaluate_ofv(model, population, method or dn.Laplace())


class Count(Bolus):
    sd = None

    def observe(self, theta, p, x):
        return dict(dv=torch.distributions.Poisson(x.central / p.v))


class Robust(Bolus):
    def observe(self, theta, p, x):
        return dict(dv=dn.StudentT(x.central / p.v, theta.sd, 4.0))


class Logged(Bolus):
    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal(x.central / p.v, theta.sd))


class Fixed(Bolus):
    """Without random effects."""

    eta = None

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl, v=theta.v)


class M1(Bolus):
    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd, blq="M1"))


def test_methods():
    population = dn.read_nonmem(frame())
    a, b = at(Bolus(), population), at(Bolus(), population, dn.FOCE())
    assert incomparable(a, b) == "another approximation of the likelihood: Laplace against FOCEI"
    assert incomparable(at(Bolus(), population, dn.FOCE(interaction=False)), b).endswith("FOCE against FOCEI")
    assert incomparable(a, at(Logged(), population)) == "" == incomparable(at(Robust(), population), a)
    # without random effects every method is the likelihood itself
    alone = [at(Fixed(), population, m) for m in (dn.FO(), dn.Laplace(), dn.NaivePooled())]
    assert np.ptp([f.ofv for f in alone]) < 1e-9
    assert all(incomparable(f, b) == "" for f in alone)


def test_observations_in_the_likelihood():
    population = dn.read_nonmem(changed("CENS", 2, 1))
    expected = 'other observations in the likelihood: 5 against 6 (blq="M1" leaves censored ones out)'
    assert incomparable(at(M1(), population), at(Bolus(), population)) == expected


def test_densities_and_probabilities():
    whole = frame()
    whole["DV"] = whole["DV"].round()
    population = dn.read_nonmem(whole)
    expected = "a density of the observations against probabilities: they have different units"
    assert incomparable(at(Count(), population), at(Bolus(), population)) == expected
    assert incomparable(at(Count(cl=3.0), population), at(Count(), population)) == ""


def test_shared_subjects():
    population = dn.read_nonmem(frame())
    assert shared_subjects(population[1:], population) == [2, 3]
    renamed = dn.read_nonmem(frame().assign(ID=frame()["ID"] + 10))
    assert shared_subjects(renamed, population) == []
    # the same number for somebody else
    other = dn.read_nonmem(frame().assign(DV=frame()["DV"] + 1.0))
    assert shared_subjects(other, population) == []


def test_a_fit_with_subjects_kept_aside_has_fewer(tmp_path):
    population = dn.read_nonmem(frame())
    options = dn.Options(progress=False, covariance=None, held_out=0.34, max_iterations=2)
    part = dn.fit(Bolus(), population, dn.Laplace(), options=options)
    whole = dn.fit(Bolus(), population, dn.Laplace(), options=dataclasses.replace(options, held_out=None))
    assert incomparable(part, whole) == "other subjects: 2 against 3, 2 of them in both"
