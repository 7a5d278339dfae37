"""Populations: slicing, selecting, splitting, joining, describing."""

import pickle

import numpy as np
import pytest

from deepnlme.data import Dose, Population, Records, Regimen, Subject
from deepnlme.errors import DataError


def make(n=10, **covariates):
    regimen = Regimen(Dose(100, ii=12, addl=2), Dose(50, time=40, duration=2))
    return Population(
        Subject(
            i + 1,
            regimen,
            {"cp": ([1, 2.5 + i], [1.0 + i, 2.0]), "pca": ([3], [50.0 - i])},
            {"wt": 60.0 + i, "sex": "male" if i % 3 else "female", **covariates},
        )
        for i in range(n)
    )


@pytest.fixture(scope="module")
def population():
    return make()


def test_indexing(population):
    assert len(population) == 10
    assert population[3].id == 4
    assert population[-1].id == 10
    assert population[np.int64(2)].id == 3
    assert [subject.id for subject in population] == list(range(1, 11))
    assert population[2:4].ids == (3, 4)
    assert population[::-1].ids == tuple(range(10, 0, -1))
    assert population[[5, -1, 0]].ids == (6, 10, 1)
    assert population[[5, 0]][0] == population[5]
    mask = np.arange(10) < 3
    assert population[mask] == population[:3] == population[list(mask)]
    for bad in (10, -11, [10]):
        with pytest.raises(IndexError):
            population[bad]
    for bad in ("1", [1.5], [True, False], []):
        with pytest.raises(DataError):
            population[bad]
    with pytest.raises(DataError, match="Invalid `ids`: got 1"):
        population[[0, 0]]


def test_select(population):
    assert population.select(lambda s: s.covariates["wt"][0] > 66).ids == (8, 9, 10)
    assert population.select(ids=[9, "2"]).ids == (9, 2)
    with pytest.raises(DataError, match="Invalid `ids`: got 99"):
        population.select(ids=[99])
    with pytest.raises(DataError, match="at least one subject"):
        population.select(lambda s: False)
    with pytest.raises(DataError, match="either a predicate or ids"):
        population.select()


def test_split_is_by_subject_and_repeatable(population):
    train, test = population.split(test=0.25, seed=3)
    assert (len(train), len(test)) == (8, 2)
    assert sorted(train.ids + test.ids) == list(population.ids)
    assert list(train.ids) == sorted(train.ids)
    assert population.split(test=0.25, seed=3)[1] == test
    assert len({population.split(test=0.25, seed=seed)[1].ids for seed in range(20)}) > 5
    assert len(population.split(test=0.001)[1]) == 1
    assert len(population.split(test=0.999)[0]) == 1
    for bad in (0, 1, 5):
        with pytest.raises(DataError, match="Invalid `test`"):
            population.split(test=bad)


def test_concat(population):
    assert population[:4] + population[4:] == population == Population.concat([population[:1], population[1:]])
    assert Population(population) == population
    assert Population([population[:9], population[9]]) == population
    with pytest.raises(DataError, match="own identifier"):
        population + population
    with pytest.raises(DataError, match="same covariates; subject 1 has sex, wt"):
        population + make(1, age=3)
    with pytest.raises(DataError, match="made of Subject and Population"):
        Population([1])
    with pytest.raises(DataError, match="at least one subject"):
        Population([])
    with pytest.raises(DataError, match="all whole numbers or all texts"):
        Population([Subject(1, Dose(1)), Subject("A", Dose(1))])
    with pytest.raises(DataError, match="Invalid `sex`: got numbers for subject 2"):
        Population([Subject(1, Dose(1), None, {"sex": "male"}), Subject(2, Dose(1), None, {"sex": 1})])
    with pytest.raises(DataError, match="Invalid `interpolation`"):
        Population([Subject(1, Dose(1), None, {"wt": 1}), Subject(2, Dose(1), None, {"wt": 1}, interpolation="locf")])
    with pytest.raises(DataError, match="Invalid `occasions`: got some for subject 2"):
        Population([Subject(1, Dose(1)), Subject(2, Dose(1), occasions=[0])])
    with pytest.raises(DataError, match="Invalid `endpoint`: got none for subject 2"):
        Population([Subject(1, None, {"cp": ([1], [1])}), Subject(2, None, ([1], [1]))])


def test_concat_gives_one_meaning_to_labels():
    def one(id, drug, begins):
        return Subject(id, Dose(1), ([1, 9], [1, 2]), {"drug": drug}, occasions=begins)

    joined = Population([one(1, "b", [0]), one(2, "a", [0, 5])])
    assert joined.categories["drug"] == ("a", "b")
    assert joined.records.covariates["drug"].tolist() == [1, 1, 1, 0, 0, 0]
    assert joined.occasions == ("1", "2")
    assert joined.records.occasion.tolist() == [0, 0, 0, 0, 0, 1]
    assert joined.to_frame()["drug"].tolist() == ["b", "b", "b", "a", "a", "a"]


def test_concat_keeps_given_codes_first():
    records = Records.build([0.0], dv=1.0, covariates={"sex": [0.0]})
    own = Population.from_records(records, [1], categories={"sex": ("male", "female")})
    joined = own + Population([Subject(2, None, ([0], [1]), {"sex": "female"})])
    assert joined.categories["sex"] == ("male", "female")
    assert joined.records.covariates["sex"].tolist() == [0, 1]


def test_from_records_checks():
    records = Records.build([0.0], dv=1.0, covariates={"sex": [2.0]})
    with pytest.raises(DataError, match="Invalid `categories`"):
        Population.from_records(records, [1], categories={"sex": ("a", "b")})
    with pytest.raises(DataError, match="Invalid `ids`"):
        Population.from_records(records, [1, 2])
    with pytest.raises(DataError, match="Invalid `occasions`"):
        Population.from_records(Records.build([0.0], dv=1.0, occasion=1), [1], occasions=("1",))
    with pytest.raises(DataError, match="names a data item"):
        Population.from_records(Records.build([0.0], dv=1.0, covariates={"Time": [1]}), [1])
    with pytest.raises(DataError, match="Invalid `dv`: got no value for subject 9, row 2"):
        Population.from_records(Records.build([0.0], observed=True), [9])


def test_attributes(population):
    assert population.covariates == ("wt", "sex")
    assert population.interpolation == {"wt": "nocb", "sex": "nocb"}
    assert population.observations == 30
    assert population.endpoints == ("cp", "pca")
    assert population.starts.tolist() == list(range(0, 51, 5))
    assert repr(population) == "<Population: 10 subjects, 50 records, 30 observations>"
    assert pickle.loads(pickle.dumps(population)) == population
    with pytest.raises(AttributeError, match="does not change"):
        population.ids = ()


def test_summary(population):
    assert str(population).splitlines() == [
        "Population: 10 subjects, 50 records",
        "  observations of cp: 20, dv 1 to 10",
        "  observations of pca: 10, dv 41 to 50",
        "  doses: 20 records, 20 additional doses by ADDL, 10 infusions, amt 50 to 100, total per subject 350",
        "  covariate wt: 60 to 69, median 64.5; constant within subjects",
        "  covariate sex: female = 0 in 4 subjects, male = 1 in 6 subjects; constant within subjects",
    ]


def test_summary_of_what_is_rarer():
    records = Records.build(
        [0, 1, 2, 3, 4, 5, 6],
        evid=[3, 4, 0, 0, 0, 2, 0],
        amt=[0, 5, 0, 0, 0, 0, 0],
        ii=[0, 12, 0, 0, 0, 0, 0],
        ss=[0, 1, 0, 0, 0, 0, 0],
        cmt=["", "depot", "", "", "", "", ""],
        dv=[np.nan, np.nan, 3, 0.5, 9, np.nan, 7],
        cens=[0, 0, 0, 1, -1, 0, 0],
        observed=[0, 0, 1, 1, 1, 0, 0],
        occasion=[0, 0, 0, 0, 1, 1, 1],
        covariates={"wt": [1, 1, 1, 1, 1, 1, 2]},
    )
    population = Population.from_records(
        records, ["A"], occasions=("day 1", "day 2"), interpolation={"wt": "locf"}, notes=["two lines skipped"]
    )
    assert population.summary().splitlines() == [
        "Population: 1 subject, 7 records",
        "  observations: 3, dv 3, 1 below the limit of quantification (0.5), 1 above the limit of quantification (9)",
        "  doses: 1 record, 1 at steady state, amt 5, total per subject 5",
        "  doses into compartment: depot",
        "  other events (EVID=2): 1",
        "  resets (EVID=3): 1",
        "  resets with a dose (EVID=4), counted among the doses: 1",
        "  observation records without a value (MDV=1): 1",
        "  occasions: day 1, day 2",
        "  covariate wt: 1 to 2, median 1; varies within 1 subject (locf)",
        "  note: two lines skipped",
    ]


def test_require_observations():
    doses_only = Subject(893, Dose(1))
    seen = Subject(1, Dose(1), ([1], [2]))
    assert Population([seen]).require_observations().ids == (1,)
    population = Population([seen, doses_only])
    assert "1 subject without any observation" in population.summary()
    with pytest.raises(DataError, match=r"for subject 893\..*select\(lambda s: s.observations > 0\)"):
        population.require_observations()
    assert population.select(lambda s: s.observations > 0).ids == (1,)
