"""Dose finding where the attainment at each dose is known: the clearance is log-normal, AUC = dose / CL."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from torch import exp

import deepnlme as dn

CL, SD = 2.0, 0.3


class Bolus(dn.Model):
    cl = dn.Positive(CL)
    v = dn.Positive(20.0)
    eta = dn.RandomEffects("cl", omega=SD**2)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v)

    def observe(self, theta, p, x):
        return dict(cp=dn.Normal(x.central / p.v, 1.0))


class PerKilogram(Bolus):
    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * cov.wt / 70 * exp(eta.cl), v=theta.v)


TIMES = np.append(np.linspace(0, 12, 13), 11.9999).tolist()
TIMES = sorted(TIMES)[:-1]
STEADY = dn.Dose(1.0, ii=12, ss=1)
EXPOSED = dict(method="linear-up log-down")  # exact for an exponential decline
DOSES = [200, 250, 300, 350, 400, 500, 600]


def attainment(dose, low, high=np.inf):
    """P(low <= dose / CL <= high)."""
    clearance = stats.lognorm(SD, scale=CL)
    return clearance.cdf(dose / low) - (clearance.cdf(dose / high) if np.isfinite(high) else 0.0)


def test_the_lowest_dose_that_reaches_the_probability():
    found = dn.find_dose(Bolus(), DOSES, STEADY, {"AUC": (">=", 120)}, times=TIMES, n=4000, exposed=EXPOSED)
    true = np.array([attainment(dose, 120) for dose in DOSES])
    assert found.table["DOSE"].tolist() == DOSES
    assert found.table["PROPORTION"].to_numpy() == pytest.approx(true, abs=4 * 0.5 / np.sqrt(4000))
    assert found.recommended == DOSES[int(np.argmax(true >= 0.9))] == 400
    assert found.statement.startswith("Recommended dose: 400, the lowest dose whose PROPORTION with AUC >= 120 is")
    assert found.statement in str(found) and "N_EFFECTIVE" in str(found)


def test_the_same_people_at_every_dose():
    people = dict(times=TIMES, n=50, covariates={"wt": dn.LogNormal(70, 0.2)}, replicates=2, seed=7)
    found = dn.find_dose(PerKilogram(), [1, 2, 3], STEADY, {"AUC": (0.1, None)}, **people).exposures
    one, two, three = (found[found["DOSE"] == dose].reset_index(drop=True) for dose in (1, 2, 3))
    for other, factor in ((two, 2.0), (three, 3.0)):
        pd.testing.assert_frame_equal(one[["REP", "ID", "wt"]], other[["REP", "ID", "wt"]])
        assert other["AUC"].to_numpy() == pytest.approx(factor * one["AUC"].to_numpy(), rel=1e-10)
    assert one["AUC"].nunique() == 100


def test_a_window_has_a_best_dose():
    doses = [150, 200, 250, 300, 400]
    arguments = dict(times=TIMES, n=4000, exposed=EXPOSED, probability=0.6)
    found = dn.find_dose(Bolus(), doses, STEADY, {"AUC": (100, 200)}, choose="best", **arguments)
    true = [attainment(dose, 100, 200) for dose in doses]
    assert found.table["PROPORTION"].to_numpy() == pytest.approx(true, abs=4 * 0.5 / np.sqrt(4000))
    assert found.recommended == doses[int(np.argmax(true))] == 300
    lowest = dn.find_dose(Bolus(), doses, STEADY, {"AUC": (100, 200)}, **arguments)
    assert lowest.recommended == doses[int(np.argmax(np.array(true) >= 0.6))] == 250


def test_no_dose_is_a_clear_statement():
    found = dn.find_dose(Bolus(), [100, 200], STEADY, {"AUC": (">=", 120)}, times=TIMES, n=200, exposed=EXPOSED)
    assert found.recommended is None
    worst = found.table["PROPORTION"].iloc[1]
    assert (
        f"There is no dose whose PROPORTION with AUC >= 120 is at least 0.9: the highest is {worst:.3f}, at dose 200"
        in str(found)
    )


def test_regimens_that_a_function_makes_and_doses_per_kilogram():
    wt = {"wt": dn.LogNormal(70, 0.2)}
    arguments = dict(times=TIMES, n=300, covariates=wt, exposed=EXPOSED)
    target = {"AUC": (">=", 120)}
    scaled = dn.find_dose(PerKilogram(), [4, 6], dn.PerCovariate("wt", STEADY), target, **arguments)
    made = dn.find_dose(
        PerKilogram(), [4, 6], lambda d: dn.PerCovariate("wt", dn.Dose(d, ii=12, ss=1)), target, **arguments
    )
    pd.testing.assert_frame_equal(scaled.exposures, made.exposures)
    # dose and clearance are both in proportion to weight: the attainment is that of a person of 70 kg
    assert scaled.table["PROPORTION"].to_numpy() == pytest.approx(
        [attainment(280, 120), attainment(420, 120)], abs=4 * 0.5 / np.sqrt(300)
    )


def test_the_uncertainty_of_the_parameters_lowers_what_one_can_be_sure_of():
    """AUC = dose / CL with CL itself uncertain; REP_LOW is the attainment at the 97.5th percentile of CL."""
    people = dn.virtual_population(40, dn.Dose(100))
    times = [1.0, 4.0, 12.0, 24.0]
    sim = dn.simulate(Bolus(), people, times=times, seed=1)
    data = sim.table().assign(EVID=0, AMT=0.0, IPRED=None).drop(columns=["REP", "IPRED"])
    doses = pd.DataFrame(dict(ID=people.ids, TIME=0.0, DV=np.nan, EVID=1, AMT=100.0))
    data = pd.concat([doses, data]).sort_values(["ID", "TIME"], kind="stable")
    fit = dn.fit(Bolus(v=dn.Positive(20.0, fixed=True)), dn.read_nonmem(data), options=dn.Options(progress=False))
    draws = pd.DataFrame({"cl": np.exp(np.random.default_rng(3).normal(np.log(CL), 0.1, 200)), "omega[cl]": SD**2})
    arguments = dict(times=TIMES, n=2000, exposed=EXPOSED, judged_by="REP_LOW", uncertainty=draws)
    found = dn.find_dose(fit, [400, 500], STEADY, {"AUC": (">=", 120)}, **arguments)
    for dose, low in zip((400, 500), found.table["REP_LOW"], strict=True):
        worst = stats.norm.cdf((np.log(dose / 120) - np.log(CL) - 1.96 * 0.1) / SD)
        assert low == pytest.approx(worst, abs=0.04)
    assert found.table["REPLICATES"].tolist() == [200, 200]
    assert found.recommended == (500 if found.table["REP_LOW"].iloc[1] >= 0.9 else None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(doses=[100, 100]), "`doses`: got [100, 100]. Doses are positive numbers that increase"),
        (dict(doses=[0, 100]), "`doses`: got [0, 100]"),
        (dict(doses="a"), "`doses`: got 'a'"),
        (dict(regimen=5), "`regimen`: got 5. It is a function of the dose"),
        (dict(regimen=lambda d: d), "`regimen`: got 100.0 for dose 100. The function returns"),
        (dict(probability=90), "`probability`: got 90"),
        (dict(judged_by="MEAN"), "`judged_by`: got 'MEAN'. It is one of 'PROPORTION', 'LOW', 'REP_LOW'"),
        (dict(judged_by="REP_LOW"), "`judged_by`: got 'REP_LOW'. It needs several replicates. Give replicates=200"),
        (dict(judged_by="REP_LOW", uncertainty=pd.DataFrame({"cl": [2.0]})), "`judged_by`: got 'REP_LOW'. It needs"),
        (dict(choose="first"), "`choose`: got 'first'"),
        (dict(exposed=lambda sim: 5), "`exposed`: got int. The function returns a table"),
        (dict(covariates={"DOSE": 1.0}), "`covariates`: got 'DOSE'"),
        (dict(target={"T_ABOVE": (1, 2)}), "`target`: got 'T_ABOVE'"),
        (dict(n=0), "`n`: got 0"),
    ],
)
def test_mistakes(arguments, message):
    given = dict(doses=[100], regimen=STEADY, target={"AUC": (1, 2)}, times=[0.0, 1.0], n=2)
    with pytest.raises((dn.ModelError, dn.DataError)) as error:
        dn.find_dose(Bolus(), **{**given, **arguments})
    assert message in str(error.value)
