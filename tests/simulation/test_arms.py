"""Arms of a virtual trial: sizes, doses, labels, and the same people in each when crossed."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import deepnlme as dn

ARMS = {"placebo": None, "50 mg": dn.Dose(50), "1 mg/kg": dn.PerCovariate("wt", dn.Dose(1.0))}
WT = {"wt": dn.LogNormal(70, 0.2), "sex": {"f": 0.5, "m": 0.5}}


def baseline(population):
    return population.to_frame().drop_duplicates("ID").reset_index(drop=True)


def test_each_arm_has_its_people_and_its_doses():
    people = dn.virtual_population({"1 mg/kg": 4, "placebo": 2, "50 mg": 3}, arms=ARMS, covariates=WT)
    table = baseline(people)
    assert table["arm"].tolist() == ["placebo"] * 2 + ["50 mg"] * 3 + ["1 mg/kg"] * 4
    assert people.categories["arm"] == tuple(ARMS)
    assert table["EVID"].tolist() == [2, 2] + [1] * 7
    assert table["AMT"].to_numpy() == pytest.approx([0, 0, 50, 50, 50, *table["wt"][5:]])
    assert people.ids == tuple(range(1, 10))
    assert table["wt"].nunique() == 9 and "person" not in table


def test_a_number_is_the_size_of_each_arm():
    assert baseline(dn.virtual_population(7, arms=ARMS, covariates=WT))[
        "arm"
    ].value_counts().to_dict() == dict.fromkeys(ARMS, 7)


def test_crossed_arms_have_the_same_people():
    sizes = {"placebo": 5, "50 mg": 8, "1 mg/kg": 8}
    table = baseline(dn.virtual_population(sizes, arms=ARMS, covariates=WT, crossed=True, seed=4))
    alone = baseline(dn.virtual_population(8, covariates=WT, seed=4))
    for arm, size in sizes.items():
        part = table[table["arm"] == arm].reset_index(drop=True)
        assert part["person"].tolist() == list(range(1, size + 1))
        pd.testing.assert_frame_equal(part[["wt", "sex"]], alone[["wt", "sex"]].head(size))


def test_one_value_for_each_person_drawn():
    given = {"wt": np.arange(1.0, 5.0)}
    crossed = dn.virtual_population(4, arms={"a": None, "b": dn.Dose(1)}, covariates=given, crossed=True)
    assert baseline(crossed)["wt"].tolist() == [1, 2, 3, 4] * 2
    separate = dn.virtual_population(2, arms={"a": None, "b": dn.Dose(1)}, covariates=given)
    assert baseline(separate)["wt"].tolist() == [1, 2, 3, 4]


def test_arms_do_not_share_people():
    table = baseline(dn.virtual_population(3000, arms={"a": None, "b": None}, covariates=WT))
    a, b = (table.loc[table["arm"] == name, "wt"].to_numpy() for name in "ab")
    assert stats.ks_2samp(a, b).pvalue > 0.01 and not np.isin(a, b).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n={"a": 2, "c": 3}), "`n`: got a number for the arm 'c'. The arms are 'a', 'b'"),
        (dict(n={"a": 2}), "`n`: got no number for the arm 'b'"),
        (dict(n={"a": 2, "b": 0}), "`n`: got 0 for the arm 'b'"),
        (dict(n=1.5), "`n`: got 1.5 for the arm 'a'"),
        (dict(n=2, arms={}), "`arms`: got {}"),
        (dict(n=2, arms={1: None}), "`arms`: got 1. A label is a text"),
        (dict(n=2, arms={"a": 50}), "`arms['a']`: got 50. It is a dn.Dose"),
        (dict(n=2, regimen=dn.Dose(5)), "`regimen`: got a regimen and arms"),
        (dict(n=2, covariates={"Arm": 1}), "`covariates`: got 'Arm'. The arms of a trial make the covariate `arm`"),
        (dict(n=2, covariates={"person": 1}, crossed=True), "make the covariate `person`"),
        (dict(n=2, arms=None, crossed=True), "`crossed`: got True. Only a population with arms"),
        (dict(n=2, arms={"a": dn.PerCovariate("wt", dn.Dose(1))}), "got 'wt' for PerCovariate('wt')"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(dn.DataError) as error:
        dn.virtual_population(**{"arms": {"a": None, "b": None}, **arguments})
    assert message in str(error.value)
