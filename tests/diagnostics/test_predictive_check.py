"""Shares outside prediction intervals and statistics are what plain loops find."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import deepnlme as dn
from dataset_files import dataset
from simulated_people import Bolus, Oral, bolus_people, drawn

STATISTICS = {
    "maximum": lambda table: table.groupby("ID").DV.max().mean(),
    "heavy": lambda table: table.DV[table.wt > 70].mean(),
    "censored": lambda table: (table.CENS != 0).mean(),
}


@pytest.fixture(scope="module")
def sets():
    population = dn.read_nonmem(dataset("theophylline"), covariates=["wt"])
    return dn.simulate(Oral(), population, replicates=90)


def test_shares_are_what_plain_loops_find(sets):
    sets = replace(sets, dv=sets.dv[:40])
    found = dn.predictive_check(sets, intervals=(0.0, 0.5, 0.9)).intervals
    assert len(found) == 6
    for row in found.to_dict("records"):
        probability = 0.5 - 0.5 * row["INTERVAL"] if row["SIDE"] == "below" else 0.5 + 0.5 * row["INTERVAL"]
        shares = []
        for one in [sets.observed, *sets.dv]:
            count = 0
            for j, value in enumerate(one):
                end = np.quantile(sets.dv[:, j], probability)
                count += value < end if row["SIDE"] == "below" else value > end
            shares.append(count / len(one))
        got = [row[name] for name in ("OBSERVED", "SIM_LOW", "SIM_MEDIAN", "SIM_HIGH")]
        np.testing.assert_allclose(got, [shares[0], *np.quantile(shares[1:], [0.025, 0.5, 0.975])], rtol=1e-12)
        assert row["EXPECTED"] == pytest.approx(0.5 - 0.5 * row["INTERVAL"])
        assert row["OUTSIDE"] == (got[0] < got[1] or got[0] > got[3])


def test_statistics_are_what_plain_loops_find(sets):
    found = dn.predictive_check(sets, STATISTICS, level=0.8).statistics.set_index("STATISTIC")
    wt = sets.covariates()["wt"]
    for name, of in (
        ("maximum", lambda y: np.mean([y[sets.subject == i].max() for i in range(12)])),
        ("heavy", lambda y: y[wt > 70].mean()),
    ):
        values, one = np.array([of(y) for y in sets.dv]), of(sets.observed)
        row = found.loc[name]
        got = [row.OBSERVED, row.SIM_LOW, row.SIM_MEDIAN, row.SIM_HIGH]
        np.testing.assert_allclose(got, [one, *np.quantile(values, [0.1, 0.5, 0.9])], rtol=1e-12)
        tails = (1 + (values <= one).sum()) / 91, (1 + (values >= one).sum()) / 91
        assert pytest.approx(min(1, 2 * min(tails))) == row.P


def test_a_statistic_may_change_its_table(sets):
    def spoils(table):
        table["DV"] = 0.0
        return 1.0

    found = dn.predictive_check(sets, {"spoils": spoils, **STATISTICS}).statistics.iloc[1:].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, dn.predictive_check(sets, STATISTICS).statistics)


def test_censored_values_count_as_the_limit():
    people = drawn(Bolus(), bolus_people(30), limit=0.5)
    sets = dn.simulate(Bolus(), people, replicates=60)
    found = dn.predictive_check(sets, {"censored": lambda t: (t.CENS == 1).mean(), "least": lambda t: t.DV.min()})
    row = found.statistics.set_index("STATISTIC").loc["censored"]
    share = (sets.dv < 0.5).mean(1)
    assert (sets.cens == 1).mean() == row.OBSERVED and pytest.approx(np.median(share)) == row.SIM_MEDIAN
    assert found.statistics.set_index("STATISTIC").loc["least"].SIM_LOW == 0.5
    clipped, y = np.maximum(sets.dv, 0.5), np.maximum(sets.observed, 0.5)
    end = np.quantile(clipped, 0.3, axis=0)
    row = found.intervals.query("INTERVAL == 0.4 and SIDE == 'below'").iloc[0]
    assert pytest.approx((y < end).mean()) == row.OBSERVED
    np.testing.assert_allclose(row.SIM_HIGH, np.quantile((clipped < end).mean(1), 0.975))


def test_p_values_hold_their_level_and_detect_another_model():
    people = bolus_people(30)
    sets = dn.simulate(Bolus(), drawn(Bolus(), people), replicates=300, seed=50)
    rough = {"rough": lambda table: np.abs(np.diff(np.log(table.DV.to_numpy()).reshape(30, 6), n=2)).mean()}

    def p(model, number):
        data = dn.simulate(model, people, replicates=number, seed=77).dv
        return np.array([dn.predictive_check(replace(sets, observed=y), rough).statistics.P.iloc[0] for y in data])

    right = p(Bolus(), 40)
    assert (right < 0.05).sum() <= 8 and 0.3 < right.mean() < 0.7
    assert (p(Bolus(sd=0.6), 5) < 0.05).all()


def test_refusals(sets):
    for arguments, message in (
        ({"intervals": (0.5, 1.0)}, "`intervals`"),
        ({"intervals": ("half",)}, "`intervals`"),
        ({"level": 0}, "`level`: got 0"),
        (
            {"statistic": {"first": lambda t: t.DV}},
            r"`statistic`: got Series for statistic first. A statistic",
        ),
        ({"statistic": {"none": lambda t: np.nan}}, "`statistic`: got nan for statistic none"),
        ({"statistic": lambda t: t.DV.max()}, "`statistic`: got .* It is a dictionary by name"),
        ({"endpoint": "cp"}, "`endpoint`: got 'cp'"),
    ):
        with pytest.raises(dn.ModelError, match=message):
            dn.predictive_check(sets, **arguments)
    assert "16 shares beyond prediction intervals" in str(dn.predictive_check(sets))
    assert len(dn.predictive_check(sets).statistics) == 0
