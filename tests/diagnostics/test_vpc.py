"""A VPC is what plain loops make of the same simulated sets; its intervals hold what they promise."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import deepnlme as dn
from dataset_files import dataset
from deepnlme.diagnostics.correction import prediction_correction
from simulated_people import Bolus, Oral, bolus_people, drawn
from slow_vpc import QUANTILES, same_as, slow_table


@pytest.fixture(scope="module")
def oral():
    population = dn.read_nonmem(dataset("theophylline"), covariates=["wt"])
    return dn.evaluate_ofv(Oral(), population)


@pytest.fixture(scope="module")
def oral_sets(oral):
    return dn.simulate(oral, oral.population, replicates=150, seed=5)


EDGES = [0.0, 0.6, 2.0, 6.0, 10.0, 25.0]


def test_vpc_is_what_plain_loops_find(oral, oral_sets):
    found = dn.vpc(oral_sets, bins=EDGES, quantiles=QUANTILES)
    data = oral.predictions()
    same_as(found.table, slow_table(data.TIME.to_list(), data.DV.to_list(), oral_sets.dv.tolist(), EDGES))
    assert found.kind == "continuous" and found.blq is None and found.replicates == 150
    np.testing.assert_array_equal(found.observed["DV"], data.DV)
    middle = found.table.loc[found.table.BIN == 2, "X_MID"]
    assert (middle == np.median(data.TIME[(data.TIME >= 0.6) & (data.TIME < 2.0)])).all()


def test_prediction_correction_is_what_plain_loops_find(oral, oral_sets):
    edges = [0.1, 2.0, 6.0, 25.0]
    later = oral.population.to_frame()
    later = later[(later.EVID != 0) | (later.TIME > 0.1)]
    population = dn.read_nonmem(later, covariates=["wt"])
    fit = dn.evaluate_ofv(Oral(), population)
    sets, data = dn.simulate(fit, population, replicates=60, seed=2), fit.predictions()
    pred = data.PRED.to_numpy()

    def corrected(values, inside):
        typical = np.median([pred[i] for i in inside])
        return np.array([v * typical / pred[i] for v, i in zip(values, inside, strict=True)])

    expected = slow_table(data.TIME.to_list(), data.DV.to_list(), sets.dv.tolist(), edges, corrected)
    same_as(dn.vpc(sets, bins=edges, quantiles=QUANTILES, prediction_corrected=True).table, expected)

    sd = sets.dv.std(axis=0, ddof=1)

    def both(values, inside):
        typical = np.median([pred[i] for i in inside])
        spread = [sd[i] * typical / pred[i] for i in inside]
        return typical + (corrected(values, inside) - typical) * np.median(spread) / np.array(spread)

    expected = slow_table(data.TIME.to_list(), data.DV.to_list(), sets.dv.tolist(), edges, both)
    found = dn.vpc(sets, bins=edges, quantiles=QUANTILES, prediction_corrected=True, variability_corrected=True)
    same_as(found.table, expected)
    assert found.uncorrected == 0 and "prediction and variability corrected" in str(found)


def test_prediction_correction_with_a_bound_additive_and_at_zero():
    pred, cell = np.array([2.0, 4.0, 6.0, 0.0, 0.0]), np.array([0, 0, 0, 1, 1])
    y = np.array([1.0, 5.0, 6.0, 0.3, -0.2])
    plain = prediction_correction(pred, cell)
    np.testing.assert_allclose(plain.of(y), [2.0, 5.0, 4.0, 0.3, -0.2])
    assert plain.uncorrected.tolist() == [False] * 3 + [True] * 2
    np.testing.assert_allclose(
        prediction_correction(pred, cell, bound=-2.0).of(y)[:3], [-2 + 3 * 6 / 4, 5, -2 + 8 * 6 / 8]
    )
    np.testing.assert_allclose(prediction_correction(pred, cell, additive=True).of(y), [3.0, 5.0, 4.0, 0.3, -0.2])
    assert np.isneginf(plain.of(np.full(5, -np.inf))).all()
    with pytest.raises(dn.ModelError, match=r"got -1 for subject b. Prediction correction needs PRED above"):
        prediction_correction(np.array([1.0, -1.0]), np.array([0, 0]), who=np.array(["a", "b"]))


def test_observations_before_the_dose_stay_as_they_are(oral_sets):
    found = dn.vpc(oral_sets, prediction_corrected=True)
    assert found.uncorrected == 12 and "12 observations are not corrected" in str(found)
    assert np.isfinite(found.table[["OBSERVED", "SIM_LOW", "SIM_HIGH"]].to_numpy()).all()


def test_a_fit_is_simulated(oral):
    own = dn.vpc(oral, replicates=30, seed=4).table
    given = dn.vpc(dn.simulate(oral, oral.population, replicates=30, seed=4)).table
    pd.testing.assert_frame_equal(own, given)


def test_what_prediction_correction_leaves_alone_keeps_its_spread(oral_sets):
    """Before the first dose PRED is zero: neither correction means anything there."""
    arguments = {"prediction_corrected": True, "bins": [0.0, 1.0, 6.0, 30.0]}
    plain = dn.vpc(oral_sets, bins=[0.0, 1.0, 6.0, 30.0]).observed
    found = dn.vpc(oral_sets, variability_corrected=True, **arguments)
    first = plain["TIME"] == 0.0
    assert found.uncorrected == first.sum() == 12
    np.testing.assert_array_equal(found.observed["DV"][first], plain["DV"][first])
    assert not np.isclose(found.observed["DV"], dn.vpc(oral_sets, **arguments).observed["DV"])[~first].all()


def test_sources_that_are_refused(oral, oral_sets):
    for source, message in (
        (oral.population, "`source`: got Population. Give a fit, or a simulation of its data"),
        (
            dn.simulate(oral, oral.population, times=[1, 2], replicates=3),
            "`source`: got a simulation at times of its own",
        ),
        (dn.simulate(oral, oral.population, residual=False, replicates=3), "a simulation without residual error"),
        (dn.simulate(oral, oral.population), "a simulation with 1 replicate"),
    ):
        with pytest.raises(dn.ModelError, match=message):
            dn.vpc(source)
    for arguments, message in (
        ({"endpoint": "cp"}, "`endpoint`: got 'cp'. The endpoints are dv"),
        ({"kind": "binary"}, "`kind`: got 'binary'"),
        ({"kind": "categorical"}, "Categories and counts are whole numbers"),
        ({"quantiles": (0.5, 0.1)}, "`quantiles`"),
        ({"level": 95}, "`level`: got 95"),
        ({"blq": True}, "`blq`: got True"),
        ({"variability_corrected": True}, "Use prediction_corrected=True as well"),
        ({"prediction_corrected": True, "lower_bound": "low"}, "`lower_bound`: got 'low'. It is a number"),
        ({"classes": [1, 2]}, "`classes`: got .* It is for categorical endpoints, this is continuous"),
        ({"follow_up": 24.0}, "`follow_up`: got 24.0. It is for event endpoints, this is continuous"),
        ({"kind": "categorical", "classes": ["few"]}, "`classes`: got .*. Give the upper ends of the classes"),
        ({"stratify": 5}, "`stratify`: got 5. It is the name of a covariate"),
        ({"stratify": "wt", "cuts": [70]}, "`cuts`: got .70.. It is a dictionary by name"),
    ):
        with pytest.raises(dn.ModelError, match=message):
            dn.vpc(oral_sets, **arguments)
    with pytest.raises(dn.ModelError, match="`replicates`: got 1"):
        dn.vpc(oral, replicates=1)


def test_uncertain_parameters_are_corrected_at_the_estimates(oral):
    """The intervals widen; PRED, at the estimates, is the same for all replicates."""
    fitted = dn.fit(Oral(), oral.population, options=dn.Options(progress=False))
    sets = dn.simulate(fitted, oral.population, replicates=20, uncertainty=True)
    known = dn.simulate(fitted, oral.population, replicates=20)
    a, b = dn.vpc(sets, prediction_corrected=True), dn.vpc(known, prediction_corrected=True)
    assert a.replicates == 20
    pd.testing.assert_frame_equal(a.observed, b.observed)
    assert not np.allclose(a.table["SIM_MEDIAN"], b.table["SIM_MEDIAN"])


def test_replicates_that_are_not_numbers_are_left_out(oral_sets):
    broken = oral_sets.dv.copy()
    broken[3, 7] = np.nan
    with pytest.warns(UserWarning, match="1 of 150 replicates have a value that is not a number, subject 1 at time"):
        found = dn.vpc(replace(oral_sets, dv=broken), bins=[0, 5, 25])
    kept = np.delete(oral_sets.dv, 3, axis=0)
    pd.testing.assert_frame_equal(found.table, dn.vpc(replace(oral_sets, dv=kept), bins=[0, 5, 25]).table)
    with pytest.raises(dn.ModelError, match="needs numbers in most replicates"):
        dn.vpc(replace(oral_sets, dv=np.full_like(broken, np.nan)))


def test_intervals_hold_data_of_the_model_and_not_those_of_another():
    """Data of the model lie outside as often as the level says; those of others much more often."""
    people = bolus_people(40)
    sets = dn.simulate(Bolus(), drawn(Bolus(), people), replicates=500, seed=100)
    right = dn.simulate(Bolus(), people, replicates=100, seed=200).dv

    def outside(data, corrected=False):
        found = [dn.vpc(replace(sets, observed=y), bins="unique", prediction_corrected=corrected) for y in data]
        return np.mean([f.table.OUTSIDE.mean() for f in found])

    assert 0.03 < outside(right) < 0.08
    assert 0.03 < outside(right[:40], corrected=True) < 0.085
    for wrong in (Bolus(eta=dn.RandomEffects("cl", "v", omega=[0.5, 0.04])), Bolus(sd=0.5), Bolus(cl=3.0)):
        assert outside(dn.simulate(wrong, people, replicates=10, seed=300).dv) > 0.25
