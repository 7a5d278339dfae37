"""Subjects made in scripts."""

import copy
import pickle

import numpy as np
import pytest

from deepnlme.data import Dose, Population, Regimen, Subject, read_nonmem
from deepnlme.errors import DataError


def test_a_subject_from_doses_and_observations():
    subject = Subject(7, Dose(100), ([1, 2], [4.1, 3.5]), {"wt": 70})
    assert subject.time.tolist() == [0, 1, 2]
    assert subject.evid.tolist() == [1, 0, 0]
    assert subject.dv[1:].tolist() == [4.1, 3.5]
    assert subject.covariates["wt"].tolist() == [70, 70, 70]
    assert (subject.id, subject.observations, len(subject)) == (7, 2, 3)
    assert repr(subject) == "<Subject 7: 3 records, 2 observations, 1 dose record>"
    assert list(subject.to_frame()) == ["ID", "TIME", "DV", "EVID", "MDV", "AMT", "wt"]


def test_dose_first_or_observation_first():
    regimen = Regimen(Dose(100), Dose(100, time=12))
    first = Subject(1, regimen, {"cp": ([0, 12], [1, 2])})
    assert first.evid.tolist() == [1, 0, 1, 0]
    trough = Subject(1, regimen, {"cp": ([0, 12], [1, 2])}, order="observation-first")
    assert trough.evid.tolist() == [0, 1, 0, 1]
    with pytest.raises(DataError, match="dose-first, observation-first"):
        Subject(1, regimen, order="alphabetical")


def test_endpoints_at_the_same_time_keep_their_order():
    subject = Subject(1, None, {"pca": ([1, 2], [9, 8]), "cp": ([1, 2], [1, 2])})
    assert subject.endpoint.tolist() == ["pca", "cp", "pca", "cp"]


def test_times_without_values_are_records_without_observation():
    subject = Subject(1, Dose(1), {"cp": ([1, 2], None)})
    assert subject.observations == 0
    assert subject.evid.tolist() == [1, 0, 0]
    assert subject.to_frame()["MDV"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("nocb", [70, 80, 80, 80, 80]), ("locf", [70, 70, 70, 80, 80]), ("linear", [70, 72.5, 77.5, 80, 80])],
)
def test_a_covariate_that_changes_adds_a_record(rule, expected):
    subject = Subject(1, Dose(1), ([1, 3, 5], [1, 2, 3]), {"wt": ([0, 4], [70, 80])}, interpolation=rule)
    assert subject.time.tolist() == [0, 1, 3, 4, 5]
    assert subject.evid.tolist() == [1, 0, 0, 2, 0]
    assert subject.covariates["wt"].tolist() == expected


def test_text_covariates_are_coded_over_the_population():
    one = Subject(1, Dose(1), covariates={"sex": "male"})
    two = Subject(2, Dose(1), covariates={"sex": "female"})
    population = Population([one, two])
    assert population.categories == {"sex": ("female", "male")}
    assert population.records.covariates["sex"].tolist() == [1, 0]
    varying = Subject(3, Dose(1), covariates={"drug": ([0, 3], ["none", "both"])})
    assert varying.categories == {"drug": ("both", "none")}
    assert varying.covariates["drug"].tolist() == [1, 0]


def test_occasions_begin_at_given_times():
    subject = Subject(1, Regimen(Dose(1), Dose(1, time=24)), ([1, 23, 25], [1, 2, 3]), occasions=[0, 24])
    assert subject.occasion.tolist() == [0, 0, 0, 1, 1]
    assert subject.occasion_labels == ("1", "2")
    assert subject.to_frame()["OCC"].tolist() == [1, 1, 1, 2, 2]
    with pytest.raises(DataError, match="Invalid `occasions`"):
        Subject(1, Dose(1), occasions=[5, 24])


BAD = [
    (dict(), "`subject`", "A subject has records"),
    (dict(observations=([1, 2], [1])), "`observations`: got 2 times and 1 values", "one value for each time"),
    (dict(observations=[1, 2, 3]), "`observations`", "a pair (times, values)"),
    (dict(observations={"cp": ([1], [np.nan])}), "`observations['cp']`", "finite numbers"),
    (dict(observations={"cp": (["a"], [1])}), "`observations['cp']`", "numbers"),
    (dict(observations={"": ([1], [1])}), "`observations`", "An endpoint has a name"),
    (dict(observations=([-1], [1])), "`time`: got -1.0", "not negative"),
    (dict(doses=Dose(1), covariates={"wt": None}), "`wt`: got None", "a pair"),
    (dict(doses=Dose(1), covariates={"wt": float("nan")}), "`wt`", "finite"),
    (dict(doses=Dose(1), covariates={"wt": ([1, 0], [1, 2])}), "`wt`", "times of a covariate increase"),
    (dict(doses=Dose(1), covariates={"wt": ([0, 1], [1, 2, 3])}), "`wt`", "Give one each"),
    (dict(doses=Dose(1), covariates={"sex": ([0, 1], ["m", 2])}), "`sex`", "all numbers or all texts"),
    (dict(doses=Dose(1), covariates={"time": 1}), "`covariates`: got 'time'", "names a data item"),
    (dict(doses=Dose(1), covariates={"wt": 1, "WT": 2}), "`covariates`: got 'WT' twice", "once"),
    (dict(doses=Dose(1), covariates={"wt": 1}, interpolation="cubic"), "`interpolation`: got 'cubic'", "nocb"),
    (dict(doses=Dose(1), interpolation={"age": "locf"}), "`interpolation`", "The covariates are none"),
    (
        dict(doses=Dose(1), covariates={"sex": ([0, 1], ["a", "b"])}, interpolation="linear"),
        *("`interpolation`: got 'linear' for sex", "have no mean"),
    ),
    (dict(doses="5 mg"), "`doses`", "made of Dose and Regimen"),
]


@pytest.mark.parametrize(("arguments", "what", "expected"), BAD)
def test_a_subject_checks_itself(arguments, what, expected):
    with pytest.raises(DataError) as error:
        Subject(12, **arguments)
    assert str(error.value).startswith(f"Invalid {what}"), error.value
    assert expected in str(error.value)


@pytest.mark.parametrize("id", [None, 1.5, "", " a", ".", True])
def test_identifiers_are_whole_numbers_or_texts(id):
    with pytest.raises(DataError, match="Invalid `id`"):
        Subject(id, Dose(1))


def test_identifiers_mean_the_same_in_scripts_and_files():
    assert [Subject(id, Dose(1)).id for id in ("7", np.int64(7), "A7", "07")] == [7, 7, "A7", 7]


def test_subjects_do_not_change_and_can_be_copied():
    subject = Subject(1, Dose(1), ([1], [2]), {"sex": "male"}, occasions=[0])
    with pytest.raises(AttributeError, match="does not change"):
        subject.id = 3
    assert pickle.loads(pickle.dumps(subject)) == subject == copy.deepcopy(subject)
    assert subject != Subject(2, Dose(1), ([1], [2]), {"sex": "male"}, occasions=[0])
    with pytest.raises(AttributeError):
        _ = subject.weight


def test_a_subject_s_frame_reads_back():
    subject = Subject("A", Dose(10, rate=-2, cmt="gut"), {"cp": ([1, 2], [3, 4])}, {"wt": ([0, 9], [1, 2])})
    population = read_nonmem(subject.to_frame(), covariates=["wt"])
    assert population == Population([subject])
    assert population[0] == subject
