"""Records added at times asked for: where they stand, what they carry, and that the others stay what they were."""

import numpy as np
import pandas as pd
import pytest

import deepnlme as dn
from deepnlme.data.dense import requested, times_by_subject, with_times

ROWS = (
    # ID TIME EVID AMT  DV   W   OCC  of the covariate w
    (1, 2.0, 0, 0, 1.5, 10, 1),
    (1, 4.0, 1, 50, None, 20, 1),
    (1, 4.0, 0, 0, 2.5, 30, 2),
    (1, 8.0, 0, 0, 3.5, 50, 2),
    (2, 1.0, 1, 70, None, 5, 3),
    (2, 3.0, 0, 0, 4.5, 9, 3),
)


def population(rule="nocb"):
    frame = pd.DataFrame(ROWS, columns=["ID", "TIME", "EVID", "AMT", "DV", "W", "OCC"])
    return dn.read_nonmem(frame, covariates=["w"], interpolation=rule)


def added(dense, id):
    r = dense.population.records
    mine = dense.asked & (r.subject == dense.population.ids.index(id))
    return r.time[mine], r.covariates["w"][mine], np.array(dense.population.occasions)[r.occasion[mine]]


def test_where_the_records_stand():
    dense = with_times(population(), [3.0, 4.0, 8.0, 9.0])
    r = dense.population.records
    assert r.time.tolist() == [2, 3, 4, 4, 4, 8, 8, 9, 1, 3, 3, 4, 8, 9]
    assert r.evid.tolist() == [0, 2, 1, 0, 2, 0, 2, 2, 1, 0, 2, 2, 2, 2]
    assert r.subject.tolist() == [0] * 8 + [1] * 6
    assert dense.asked.tolist() == (r.evid == 2).tolist()
    assert not r.observed[dense.asked].any() and not r.amt[dense.asked].any()


@pytest.mark.parametrize("rule", ["nocb", "locf", "linear"])
@pytest.mark.parametrize("times", [[3.0, 4.0, 9.0], [0.0, 0.5, 1.0, 2.0, 3.0], {2: [0.5, 2.0, 7.0]}, {1: [0.0, 1.0]}])
def test_the_records_of_the_data_stay(rule, times):
    before = population(rule)
    dense = with_times(before, times)
    r = dense.population.records
    old = ~dense.asked & (r.evid != 3)
    assert r.take(np.flatnonzero(old)) == before.records
    assert dense.population.ids == before.ids and dense.population.occasions == before.occasions
    assert dense.population.interpolation == {"w": rule}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("nocb", [20, 30, 50, 50, 50]),
        ("locf", [10, 30, 30, 50, 50]),
        ("linear", [15, 30, 35, 50, 50]),
    ],
)
def test_covariates_follow_their_rule(rule, expected):
    """Between records by the rule; at a time of the data that of its last record; after the last its own."""
    time, w, _ = added(with_times(population(rule), [3.0, 4.0, 5.0, 8.0, 10.0]), 1)
    assert time.tolist() == [3, 4, 5, 8, 10]
    assert w.tolist() == expected


def test_occasions_are_those_of_the_interval_or_of_the_last_record_at_that_time():
    _, _, occasion = added(with_times(population(), [3.0, 4.0, 5.0, 10.0]), 1)
    assert occasion.tolist() == ["1", "2", "2", "2"]
    _, _, occasion = added(with_times(population(), [0.0, 2.0, 5.0]), 2)
    assert occasion.tolist() == ["3", "3", "3"]


def test_before_the_first_record_every_time_is_a_reset_and_so_is_then_the_first_record():
    dense = with_times(population("linear"), {1: [0.0, 1.5, 2.0, 3.0]})
    r = dense.population.records
    mine = r.subject == 0
    assert r.time[mine].tolist() == [0, 0, 1.5, 1.5, 2, 2, 2, 3, 4, 4, 8]
    assert r.evid[mine].tolist() == [3, 2, 3, 2, 3, 0, 2, 2, 1, 0, 0]
    assert r.covariates["w"][mine].tolist() == [10, 10, 10, 10, 10, 10, 10, 15, 20, 30, 50]


def test_an_interval_keeps_the_mean_of_its_ends_when_a_record_divides_it():
    """The records 10 at 2 and 20 at 4: on the way the model sees 15, wherever the interval is divided."""
    dense = with_times(population("linear"), {1: [2.5, 3.5, 6.0]})
    r = dense.population.records
    mine = r.subject == 0
    assert r.time[mine].tolist() == [2, 2.5, 3.5, 4, 4, 6, 8]
    assert r.covariates["w"][mine].tolist() == [10, 12.5, 17.5, 20, 30, 40, 50]
    assert dense.over["w"][mine].tolist() == [10, 15, 15, 15, 25, 40, 40]
    assert with_times(population("locf"), [3.0]).over == {}


def test_a_dict_gives_times_to_some():
    dense = with_times(population(), {2: (2, 5)})
    assert added(dense, 1)[0].tolist() == []
    assert added(dense, 2)[0].tolist() == [2, 5]
    assert [len(t) for t in times_by_subject(population(), {"2": [1.0]})] == [0, 1]


def test_requested_has_an_observation_for_every_endpoint_wanted():
    before = population()
    wanted = np.zeros((6, 2), dtype=bool)
    wanted[0], wanted[2, 1], wanted[5, 0] = True, True, True
    after, source = requested(before, ("a", "b"), wanted)
    r = after.records
    assert source.tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert r.endpoint.tolist() == ["a", "b", "", "b", "", "", "a"]
    assert r.observed.tolist() == [True, True, False, True, False, False, True]
    assert r.evid.tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert r.time.tolist() == before.records.time[source].tolist()
    assert r.amt.tolist() == before.records.amt[source].tolist()


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, np.nan], "`times`: got nan. A time is a finite number."),
        ([0.0, np.inf], "`times`: got inf. A time is a finite number."),
        ([-1.0, 2.0], "`times`: got -1.0. Times are not negative"),
        ([1.0, 3.0, 2.0], "`times`: got 2 after 3. Times increase. Use numpy.unique"),
        ([1.0, 1.0], "`times`: got 1 after 1. Times increase."),
        ([], r"`times`: got shape \(0,\)"),
        ([[1.0], [2.0]], r"`times`: got shape \(2, 1\)"),
        ("soon", "`times`: got 'soon'. It takes numbers"),
        ({}, "`times`: got an empty dict"),
        ({1: [1.0], 7: [2.0]}, "`times`: got subject 7. The 2 subjects are 1, 2. Correct"),
        ({2: [3.0, 1.0]}, "`times`: got 1 after 3 for subject 2. Times increase."),
    ],
)
def test_refusals(times, message):
    with pytest.raises(dn.DataError, match=message):
        with_times(population(), times)


def test_a_clock_that_goes_back_has_no_single_meaning():
    rows = [dict(ID=1, TIME=t, EVID=e, AMT=a, DV=None) for t, e, a in ((0, 1, 9), (8, 2, 0), (1, 4, 9), (5, 2, 0))]
    restarted = dn.read_nonmem(pd.DataFrame(rows))
    with pytest.raises(dn.DataError, match=r"subject 1, row 4 \(EVID=4\). The clock goes back there, from 8 to 1"):
        with_times(restarted, [3.0])
    rows[2]["TIME"] = 8
    rows[3]["TIME"] = 12
    assert with_times(dn.read_nonmem(pd.DataFrame(rows)), [8.0, 9.0]).asked.sum() == 2
