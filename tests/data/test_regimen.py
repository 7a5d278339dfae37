"""Doses that check themselves and regimens that compose."""

import pickle

import numpy as np
import pytest

from deepnlme.data import Dose, Regimen
from deepnlme.errors import DataError

BAD = [
    (dict(amount=-1), "`amt`", "not negative"),
    (dict(amount=0), "`amt`", "A dose needs AMT > 0"),
    (dict(amount="5"), "`amount`: got '5'", "finite number"),
    (dict(amount=float("nan")), "`amount`", "finite number"),
    (dict(amount=5, time=-1), "`time`", "not negative"),
    (dict(amount=5, addl=2), "`addl`", "needs II > 0"),
    (dict(amount=5, addl=1.5, ii=3), "`addl`", "whole number"),
    (dict(amount=5, addl=-1, ii=3), "`addl`", "not negative"),
    (dict(amount=5, ii=24), "`ii`: got 24", "repeats nothing"),
    (dict(amount=5, ss=1), "`ss`", "needs II > 0"),
    (dict(amount=5, ss=3, ii=2), "`ss`", "0, 1 or 2"),
    (dict(amount=0, rate=5), "`amt`", "An infusion needs AMT > 0"),
    (dict(amount=0, duration=5), "`amt`", "its rate would be zero"),
    (dict(amount=0, rate=5, ss=1, ii=12), "`amt`", "constant infusion"),
    (dict(amount=5, rate=-3), "`rate`", "modelled"),
    (dict(amount=5, rate=5, duration=2), "`rate`", "Give either RATE or DUR"),
    (dict(amount=5, rate=-2, duration=2), "`duration`", "gives no duration itself"),
    (dict(amount=5, evid=2), "`evid`", "EVID 1, 4"),
    (dict(amount=5, evid=3), "`amt`", "gives no dose (EVID=3)"),
    (dict(amount=5, cmt=-1), "`cmt`: got -1", "a name"),
    (dict(amount=5, cmt=""), "`cmt`", "a name"),
    (dict(amount=5, cmt=1.5), "`cmt`", "a name"),
]


@pytest.mark.parametrize(("items", "what", "expected"), BAD)
def test_a_dose_checks_itself(items, what, expected):
    with pytest.raises(DataError) as error:
        Dose(**items)
    assert str(error.value).startswith(f"Invalid {what}")
    assert expected in str(error.value)


def test_the_message_shows_the_dose():
    with pytest.raises(DataError, match=r"for Dose\(5, ss=1\)"):
        Dose(5, ss=1)


@pytest.mark.parametrize(
    "dose",
    [
        Dose(0, rate=5, ss=1),
        Dose(0, evid=3),
        Dose(5, evid=4),
        Dose(5, rate=-1),
        Dose(5, rate=-2, cmt="depot"),
        Dose(5, rate=0.1, ss=2, ii=12),
        Dose(6, rate=3, duration=2),
        Dose(np.float64(5), addl=np.int64(3), ii=12),
    ],
)
def test_what_nonmem_allows_is_allowed(dose):
    dose.records().validate()


def test_the_record_of_a_dose():
    record = Dose(6, time=3, cmt=2, duration=4, ii=12, addl=2).records()
    assert (record.amt[0], record.rate[0], record.duration[0]) == (6, 1.5, 4)
    assert (record.time[0], record.cmt[0], record.ii[0], record.addl[0], record.evid[0]) == (3, "2", 12, 2, 1)
    assert not record.observed[0]
    assert Dose(6).records().cmt[0] == ""


def test_regimen_is_sorted_and_stable():
    a, b, c = Dose(1, time=5), Dose(2, time=0), Dose(3, time=5)
    assert list(Regimen(a, b, c)) == [b, a, c]
    assert list(Regimen(c, Regimen(b, a))) == [b, c, a]
    assert len(Regimen()) == 0


def test_regimens_compose():
    base = Regimen(Dose(100), Dose(50, time=6, rate=10))
    assert base + Dose(1, time=3) == Regimen(Dose(100), Dose(1, time=3), Dose(50, time=6, rate=10))
    assert Dose(1, time=3) + base == base + Dose(1, time=3)
    assert [dose.time for dose in base.shift(2)] == [2, 8]
    assert [dose.time for dose in base.repeat(3, every=24)] == [0, 6, 24, 30, 48, 54]
    scaled = base.scale(2)
    assert [(dose.amount, dose.rate) for dose in scaled] == [(200, 0), (100, 20)]
    assert Regimen(Dose(5, rate=-2)).scale(3).doses[0].rate == -2
    assert Regimen(Dose(6, duration=2)).scale(3).doses[0].records().rate[0] == 9
    assert pickle.loads(pickle.dumps(base)) == base
    assert hash(base) == hash(Regimen(*base))


def test_regimen_records_are_one_subject():
    records = Regimen(Dose(100), Dose(50, time=6)).records()
    assert records.subject.tolist() == [0, 0]
    assert Regimen().records() is None


def test_regimen_refuses():
    base = Regimen(Dose(100))
    with pytest.raises(DataError, match="made of Dose and Regimen"):
        Regimen(100)
    with pytest.raises(DataError, match="Invalid `time`"):
        base.shift(-1)
    with pytest.raises(DataError, match="Invalid `factor`"):
        base.scale(0)
    with pytest.raises(DataError, match="Invalid `repeat`"):
        base.repeat(0, every=12)
    with pytest.raises(DataError, match="Invalid `repeat`"):
        base.repeat(2, every=0)
    with pytest.raises(TypeError):
        base + 3
    with pytest.raises(AttributeError, match="does not change"):
        base.doses = ()
