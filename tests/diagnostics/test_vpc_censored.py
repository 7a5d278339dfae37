"""Quantiles and shares of censored data are those that can be known."""

import numpy as np
import pandas as pd
import pytest

import deepnlme as dn
from deepnlme.diagnostics.cells import Cells, quantile_table
from deepnlme.diagnostics.order import interval, quantiles
from simulated_people import TIMES, Bolus, bolus_people, drawn
from slow_vpc import QUANTILES


@pytest.fixture(scope="module")
def censored():
    people = drawn(Bolus(), bolus_people(), limit=0.5)
    return dn.evaluate_ofv(Bolus(), people, dn.Laplace())


def test_quantiles_are_those_of_numpy():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 20, 21, 101):
        values, q = rng.normal(size=(3, n)), np.array([0.05, 0.25, 0.5, 0.9, 0.95])
        np.testing.assert_allclose(quantiles(values, q), np.quantile(values, q, axis=-1), rtol=1e-12, atol=1e-14)


def test_quantiles_that_depend_on_censored_values_are_not_known():
    values = np.array([-np.inf, -np.inf, 3.0, 4.0, 5.0])
    got = quantiles(values, np.array([0.25, 0.4, 0.5, 0.625, 1.0]))
    np.testing.assert_array_equal(got, [-np.inf, -np.inf, 3.0, 3.5, 5.0])
    np.testing.assert_array_equal(quantiles(np.array([1.0, 2.0, np.inf]), np.array([0.5, 0.75])), [2.0, np.inf])
    low, middle, high = interval(np.array([-np.inf] * 2 + [float(i) for i in range(99)]), 0.95)
    np.testing.assert_allclose([low, middle, high], [0.5, 48.0, 95.5])


def test_censored_quantiles_and_shares_are_what_plain_loops_find(censored):
    sets = dn.simulate(censored, censored.population, replicates=120, seed=1)
    found = dn.vpc(sets, bins="unique", quantiles=QUANTILES)
    data = censored.population.to_frame().query("EVID == 0")
    assert found.limits[0] == 0.5 and 0.1 < (data.CENS == 1).mean() < 0.4
    for b, time in enumerate(TIMES):
        inside = np.flatnonzero(data.TIME.to_numpy() == time)

        def known(values):
            """Each quantile by sorting, None where a censored value is needed for it."""
            ordered, out = sorted(v if v >= 0.5 else -1.0 for v in values), []
            for q in QUANTILES:
                at = q * (len(ordered) - 1)
                pair = ordered[int(at)], ordered[min(int(at) + 1, len(ordered) - 1)]
                out.append(-1.0 if pair[0] < 0 else pair[0] + (at - int(at)) * (pair[1] - pair[0]))
            return out

        own = known(
            [0.0 if c else v for v, c in zip(data.DV.to_numpy()[inside], data.CENS.to_numpy()[inside], strict=True)]
        )
        each = np.array([known(row[inside]) for row in sets.dv])
        for q, probability in enumerate(QUANTILES):
            row = found.table[(b + 1 == found.table.BIN) & (probability == found.table.QUANTILE)].iloc[0]
            assert np.isnan(row.OBSERVED) if own[q] < 0 else pytest.approx(own[q], rel=1e-12) == row.OBSERVED
            if (each[:, q] > 0).all():
                np.testing.assert_allclose([row.SIM_LOW, row.SIM_HIGH], np.quantile(each[:, q], [0.025, 0.975]))
            elif (each[:, q] < 0).all():
                assert np.isnan([row.SIM_LOW, row.SIM_MEDIAN, row.SIM_HIGH]).all() and not (row.OUTSIDE and own[q] < 0)
        row = found.blq[b + 1 == found.blq.BIN].iloc[0]
        assert (data.CENS.to_numpy()[inside] == 1).mean() == row.OBSERVED and row.LIMIT == "below"
        share = [(simulated[inside] < 0.5).mean() for simulated in sets.dv]
        np.testing.assert_allclose([row.SIM_LOW, row.SIM_MEDIAN, row.SIM_HIGH], np.quantile(share, [0.025, 0.5, 0.975]))


def test_quantiles_of_corrected_data_are_those_of_the_data_before_censoring(censored):
    """A corrected quantile that is shown is the one that the values below the limit, were they known, would give."""
    whole = dn.evaluate_ofv(Bolus(), drawn(Bolus(), bolus_people()), dn.Laplace())
    found = dn.vpc(censored, bins="unique", prediction_corrected=True, replicates=50).table
    known = dn.vpc(whole, bins="unique", prediction_corrected=True, replicates=50).table
    for name in ("OBSERVED", "SIM_LOW", "SIM_MEDIAN", "SIM_HIGH"):
        shown = np.isfinite(found[name].to_numpy())
        assert 8 < shown.sum() < 18
        np.testing.assert_allclose(found[name][shown], known[name][shown], rtol=1e-12)


@pytest.mark.parametrize("limit", [{"limit": 0.5}, {"upper": 20.0}])
def test_where_limits_differ_what_is_shown_is_what_uncensored_data_give(limit):
    """Corrected limits are as different as the doses: a set whose quantile is not known may rank anywhere beyond."""
    shown = 0
    for seed in range(3):
        dose = np.exp(np.random.default_rng(seed).normal(5.0, 0.7, 60))
        people = dn.Population([dn.Subject(i, dn.Dose(dose[i]), (TIMES, np.ones(6))) for i in range(60)])
        found, known = (
            dn.vpc(
                dn.simulate(Bolus(), drawn(Bolus(), people, seed=seed, **given), replicates=200, seed=seed),
                bins="unique",
                prediction_corrected=True,
            ).table
            for given in (limit, {})
        )
        for name in ("OBSERVED", "SIM_LOW", "SIM_MEDIAN", "SIM_HIGH"):
            here = np.isfinite(found[name].to_numpy())
            shown += here.sum()
            np.testing.assert_allclose(found[name][here], known[name][here], rtol=1e-12)
        assert not (found["OUTSIDE"] & ~known["OUTSIDE"]).any()
    assert 80 < shown < 200


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_outside_is_what_lies_outside_wherever_the_censored_values_are(sign):
    """One value of ten below its limit of 5, which may be 4.5 and in the interval; or below 3, which may not."""
    sets = sign * (4.0 + np.linspace(0.0, 1.0, 400)[:, None] + np.arange(10.0))
    for limit, outside in ((5.0, False), (3.0, True)):
        y = sign * np.array([-np.inf, *np.arange(6.0, 15.0)])
        beyond = sign * np.array([limit, *[-np.inf] * 9])
        sides = (beyond, None) if sign > 0 else (None, beyond)
        cells = Cells.of(np.zeros(10), ("",), np.zeros(10, dtype=int))
        row = quantile_table(cells, y, sets, np.array([0.0 if sign > 0 else 1.0]), 0.95, *sides).iloc[0]
        assert np.isnan(row["OBSERVED"]) and row["OUTSIDE"] == outside
        np.testing.assert_allclose(np.sort([sign * row["SIM_LOW"], sign * row["SIM_HIGH"]]), [4.025, 4.975], rtol=1e-9)


def test_limits_of_records_that_are_not_censored():
    two = drawn(Bolus(), bolus_people(), limit=np.repeat(np.where(np.arange(60) < 30, 0.5, 1.0), 6))
    table = two.to_frame()
    table["lloq"] = np.where(table.ID < 30, 0.5, 1.0)
    known = dn.read_nonmem(table, covariates=["lloq"])
    named = dn.vpc(dn.evaluate_ofv(Bolus(), known, dn.Laplace()), blq="lloq", replicates=40)
    assert np.isnan(named.limits).all()
    assert len({i for i, c in zip(table.ID, table.CENS, strict=True) if c == 1}) < 60
    with pytest.raises(dn.ModelError, match=r"`blq`: got no limit of its own, others have 0.5, 1"):
        dn.vpc(dn.evaluate_ofv(Bolus(), known, dn.Laplace()), replicates=40)
    with pytest.raises(dn.ModelError, match=r"`blq`: got 'loq'. It is a number, or a covariate with the limit: lloq"):
        dn.vpc(dn.evaluate_ofv(Bolus(), known, dn.Laplace()), blq="loq", replicates=40)


def test_the_limit_of_a_subject_holds_for_all_its_records():
    two = drawn(Bolus(), bolus_people(), limit=np.repeat(np.where(np.arange(60) < 30, 0.5, 1.0), 6))
    table = two.to_frame()
    table["lloq"] = np.where(table.ID < 30, 0.5, 1.0)
    known = dn.read_nonmem(table[table.ID.isin(table.ID[table.CENS == 1])], covariates=["lloq"])
    sets = dn.simulate(Bolus(), known, replicates=60)
    found, named = dn.vpc(sets), dn.vpc(sets, blq="lloq")
    pd.testing.assert_frame_equal(found.table, named.table)
    pd.testing.assert_frame_equal(found.blq, named.blq)


def test_a_limit_that_is_given_censors_observed_and_simulated_values():
    whole = dn.evaluate_ofv(Bolus(), drawn(Bolus(), bolus_people()), dn.Laplace())
    sets = dn.simulate(whole, whole.population, replicates=50)
    found = dn.vpc(sets, blq=0.5, bins="unique")
    y = whole.predictions()
    share = [(y.DV[t == y.TIME] < 0.5).mean() for t in TIMES]
    np.testing.assert_allclose(found.blq.OBSERVED, share)


def test_values_above_an_upper_limit():
    people = drawn(Bolus(), bolus_people(), upper=8.0)
    sets = dn.simulate(dn.evaluate_ofv(Bolus(), people, dn.Laplace()), people, replicates=50)
    found = dn.vpc(sets, bins="unique")
    first = found.table[found.table.BIN == 1]
    assert np.isnan(first.OBSERVED.iloc[2]) and np.isfinite(first.OBSERVED.iloc[0])
    assert found.blq.LIMIT.unique().tolist() == ["above"] and found.limits[1] == 8.0
    share = [(row[:: len(TIMES)] > 8.0).mean() for row in sets.dv]
    assert found.blq.SIM_MEDIAN.iloc[0] == np.median(share)
