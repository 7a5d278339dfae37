"""Flat records: building, taking, joining, and every rule of a record."""

import numpy as np
import pytest

from deepnlme.data.interpolation import fill_missing, interval_covariates
from deepnlme.data.records import Records
from deepnlme.errors import DataError

TWO = dict(subject=[0, 0, 1, 1, 1], time=[0, 1, 0, 2, 3], evid=[1, 0, 1, 0, 0], amt=[10, 0, 20, 0, 0])
DV = [np.nan, 1.5, np.nan, 2.5, 3.5]


def two_subjects(**changes):
    return Records.build(**{**TWO, "dv": DV, "covariates": {"wt": [70, 71, 50, 51, 52]}, **changes})


def test_build_fills_in_what_means_nothing():
    records = two_subjects()
    assert records.observed.tolist() == [False, True, False, True, True]
    assert records.row.tolist() == [2, 3, 4, 5, 6]
    assert records.cmt.tolist() == [""] * 5
    assert np.isnan(records.limit).all()
    assert records.time.dtype == np.float64
    assert records.subject.dtype == np.int64
    assert records.starts.tolist() == [0, 2, 5]
    assert records.doses.tolist() == [True, False, True, False, False]
    assert records.validate() is records


def test_columns_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        two_subjects().time[0] = 3.0


def test_records_do_not_share_arrays_that_can_change():
    dv, wt = np.array([1.0, 2.0]), np.array([70.0, 71.0])
    records = Records.build([0.0, 1.0], dv=dv, covariates={"wt": wt})
    dv[0] = wt[0] = 99.0
    assert records.dv[0] == 1.0
    assert records.covariates["wt"][0] == 70.0


def test_build_refuses_what_is_no_column():
    with pytest.raises(DataError, match="Invalid `columns`: got wieght"):
        Records.build([0.0], wieght=3)
    with pytest.raises(DataError, match="Invalid `dv`: got 2 entries"):
        Records(**{**dict(two_subjects().columns()), "dv": [1.0, 2.0]})
    with pytest.raises(DataError, match=r"Invalid `addl`: got 1\.5"):
        Records(**{**dict(two_subjects().columns()), "addl": np.full(5, 1.5)})


def test_take_subjects_and_concat_undo_each_other():
    records = two_subjects()
    first, second = records.take_subjects(np.array([0])), records.take_subjects(np.array([1]))
    assert second.subject.tolist() == [0, 0, 0]
    assert second.covariates["wt"].tolist() == [50, 51, 52]
    assert Records.concat([first, second]) == records
    swapped = records.take_subjects(np.array([1, 0]))
    assert swapped == Records.concat([second, first])
    assert swapped != records


def test_equality_ignores_rows_and_treats_missing_as_equal():
    assert two_subjects(row=[9, 9, 9, 9, 9]) == two_subjects()
    assert two_subjects(dv=[np.nan, 1.5, np.nan, 2.5, 3.6]) != two_subjects()


def test_concat_needs_the_same_covariates():
    with pytest.raises(DataError, match="Invalid `covariates`"):
        Records.concat([two_subjects(), two_subjects(covariates={})])


RULES = [
    (dict(time=[0, np.nan, 0, 2, 3]), "`time`", "subject A, row 3", "Every record needs a time"),
    (dict(time=[-1, 1, 0, 2, 3]), "`time`: got -1.0", "subject A, row 2", "Shift all times of this subject"),
    (dict(time=[0, np.inf, 0, 2, 3]), "`time`: got inf", "row 3", "finite"),
    (dict(time=[0, 1, 0, 3, 2]), "`time`: got 2.0", "subject B, row 6", "the record before is at 3.0"),
    (dict(evid=[5, 0, 1, 0, 0]), "`evid`: got 5", "subject A, row 2 (time 0.0)", "EVID is 0 observation"),
    (dict(evid=[-1, 0, 1, 0, 0]), "`evid`: got -1", "row 2", ""),
    (dict(amt=[-10, 0, 20, 0, 0]), "`amt`: got -10.0", "row 2", "not negative"),
    (dict(amt=[np.nan, 0, 20, 0, 0]), "`amt`: got no value", "row 2", "A dose needs an amount"),
    (dict(amt=[0, 0, 20, 0, 0]), "`amt`: got 0.0", "row 2", "A dose needs AMT > 0"),
    (dict(amt=[0, 0, 20, 0, 0], rate=[5, 0, 0, 0, 0]), "`amt`", "row 2", "An infusion needs AMT > 0"),
    (dict(amt=[0, 0, 20, 0, 0], duration=[5, 0, 0, 0, 0]), "`amt`", "row 2", "its rate would be zero"),
    (dict(duration=[5, 0, 0, 0, 0]), "`rate`: got 0.0", "row 2", "RATE must be AMT / DUR"),
    (dict(rate=[-3, 0, 0, 0, 0]), "`rate`: got -3.0", "row 2", "modelled"),
    (dict(rate=[5, 0, 0, 0, 0], duration=[3, 0, 0, 0, 0]), "`rate`: got 5.0", "row 2", "Give either RATE or DUR"),
    (
        dict(rate=[-2, 0, 0, 0, 0], duration=[3, 0, 0, 0, 0]),
        "`duration`: got 3.0",
        "row 2",
        "modelled rate or duration",
    ),
    (dict(duration=[-1, 0, 0, 0, 0]), "`duration`: got -1.0", "row 2", ""),
    (dict(ii=[-1, 0, 0, 0, 0]), "`ii`: got -1.0", "row 2", ""),
    (dict(addl=[-1, 0, 0, 0, 0]), "`addl`: got -1", "row 2", ""),
    (dict(addl=[3, 0, 0, 0, 0]), "`addl`: got 3", "row 2", "needs II > 0"),
    (dict(ss=[3, 0, 0, 0, 0]), "`ss`: got 3", "row 2", "columns={'ss': None}"),
    (dict(ss=[1, 0, 0, 0, 0]), "`ss`: got 1", "row 2", "needs II > 0"),
    (
        dict(amt=[0, 0, 20, 0, 0], rate=[5, 0, 0, 0, 0], ss=[1, 0, 0, 0, 0], ii=[12, 0, 0, 0, 0]),
        *("`amt`: got 0.0", "row 2", "constant infusion"),
    ),
    (dict(amt=[0, 0, 20, 0, 0], rate=[5, 0, 0, 0, 0], ss=[2, 0, 0, 0, 0]), "`amt`: got 0.0", "row 2", "SS=1 and II=0"),
    (dict(amt=[10, 5, 20, 0, 0]), "`amt`: got 5.0", "subject A, row 3", "gives no dose (EVID=0)"),
    (dict(rate=[0, 5, 0, 0, 0]), "`rate`: got 5.0", "row 3", "Set EVID=1 if it is a dose, else set RATE to 0"),
    (dict(ii=[0, 5, 0, 0, 0]), "`ii`: got 5.0", "row 3", ""),
    (dict(evid=[1, 2, 1, 0, 0], observed=[0, 0, 0, 1, 1], ss=[0, 1, 0, 0, 0]), "`ss`: got 1", "row 3", "(EVID=2)"),
    (dict(dv=[np.nan, np.nan, np.nan, 2.5, 3.5], observed=[0, 1, 0, 1, 1]), "`dv`: got no value", "row 3", "Set MDV=1"),
    (dict(dv=[np.nan, np.inf, np.nan, 2.5, 3.5]), "`dv`: got inf", "row 3", "finite"),
    (dict(observed=[1, 1, 0, 1, 1]), "`observed`", "row 2", "Only a record with EVID=0"),
    (dict(cens=[0, 2, 0, 0, 0]), "`cens`: got 2", "row 3", "CENS is 0"),
    (dict(cens=[1, 0, 0, 0, 0]), "`cens`: got 1", "row 2", "Only an observation"),
    (dict(cens=[0, 1, 0, 0, 0], limit=[np.nan, 1.5, *[np.nan] * 3]), "`limit`: got 1.5", "row 3", "smaller than DV"),
    (dict(cens=[0, -1, 0, 0, 0], limit=[np.nan, 1.0, *[np.nan] * 3]), "`limit`: got 1.0", "row 3", "larger than DV"),
    (dict(limit=[np.nan, 1.0, *[np.nan] * 3]), "`limit`: got 1.0", "row 3", "Only a censored observation"),
    (dict(cmt=["-2", "", "", "", ""]), "`cmt`: got -2", "row 2", "compartment off"),
    (dict(occasion=[0, -1, 0, 0, 0]), "`occasion`: got -1", "row 3", "coded from 0"),
    (dict(endpoint=["", "cp", "", "", ""]), "`endpoint`: got none", "subject B, row 5", "Fill DVID"),
    (dict(covariates={"wt": [70, np.nan, 50, 51, 52]}), "`wt`: got no value", "row 3", "finite number"),
    (dict(subject=[0, 0, 2, 2, 2]), "`subject`", "", "stand together"),
    (dict(subject=[0, 1, 0, 0, 0]), "`subject`", "", "stand together"),
    (dict(subject=[1, 1, 1, 1, 1]), "`subject`", "", "numbered from 0"),
]


@pytest.mark.parametrize(("changes", "what", "where", "expected"), RULES)
def test_every_rule_names_column_record_and_reason(changes, what, where, expected):
    records = two_subjects(**changes)
    ids = ["A", "B"] if where else None
    with pytest.raises(DataError) as error:
        records.validate(ids)
    message = str(error.value)
    assert message.startswith(f"Invalid {what}"), message
    assert where in message
    assert expected in message


def test_the_number_of_further_broken_records_is_told():
    with pytest.raises(DataError, match="The same holds for 1 more record\\."):
        two_subjects(ss=[9, 0, 9, 0, 0]).validate()


def test_identifiers_must_match_the_subjects():
    with pytest.raises(DataError, match="Invalid `ids`"):
        two_subjects().validate(["A"])


ALLOWED = [
    dict(evid=[4, 0, 1, 0, 0]),
    dict(time=[5, 6, 3, 4, 1], evid=[1, 0, 1, 0, 4], amt=[10, 0, 20, 0, 5], dv=[np.nan, 1.5, np.nan, 2.5, np.nan]),
    dict(time=[5, 6, 3, 4, 1], evid=[1, 0, 1, 0, 3], dv=[np.nan, 1.5, np.nan, 2.5, np.nan]),
    dict(rate=[-1, 0, -2, 0, 0]),
    dict(rate=[5, 0, 4, 0, 0], duration=[2, 0, 5, 0, 0]),
    dict(amt=[0, 0, 20, 0, 0], rate=[5, 0, 0, 0, 0], ss=[1, 0, 0, 0, 0]),
    dict(rate=[0.1, 0, 0, 0, 0], ss=[2, 0, 0, 0, 0], ii=[12, 0, 0, 0, 0]),
    dict(ii=[12, 0, 0, 0, 0], addl=[3, 0, 0, 0, 0]),
    dict(ii=[12, 0, 0, 0, 0]),
    dict(cens=[0, 1, 0, -1, 0], limit=[np.nan, 0.0, np.nan, 9.0, np.nan]),
    dict(time=[0, 0, 0, 0, 0]),
]


@pytest.mark.parametrize("changes", ALLOWED)
def test_what_nonmem_allows_is_allowed(changes):
    two_subjects(**changes).validate()


def test_no_records_are_refused():
    empty = Records.build(np.empty(0))
    with pytest.raises(DataError, match="no records"):
        empty.validate()


def test_covariate_that_holds_on_the_interval_before_each_record():
    records = two_subjects()
    assert interval_covariates(records, "wt", "nocb").tolist() == [70, 71, 50, 51, 52]
    assert interval_covariates(records, "wt", "locf").tolist() == [70, 70, 50, 50, 51]
    assert interval_covariates(records, "wt", "linear").tolist() == [70, 70.5, 50, 50.5, 51.5]
    with pytest.raises(DataError, match="The covariates are wt"):
        interval_covariates(records, "age", "nocb")
    with pytest.raises(DataError, match="nocb, locf, linear"):
        interval_covariates(records, "wt", "spline")


@pytest.mark.parametrize(
    ("rule", "expected"), [("nocb", [2, 2, 3, 3, 7, 7]), ("locf", [2, 2, 2, 3, 7, 7]), ("linear", [2, 2, 2, 3, 7, 7])]
)
def test_missing_covariates_are_filled_within_the_subject(rule, expected):
    values = np.array([np.nan, 2, np.nan, 3, np.nan, 7])
    subject = np.array([0, 0, 0, 0, 1, 1])
    assert fill_missing(values, subject, rule).tolist() == expected
    assert np.isnan(fill_missing(np.full(3, np.nan), np.array([0, 0, 1]), rule)).all()
