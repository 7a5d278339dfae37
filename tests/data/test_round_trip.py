"""`to_frame` and `read_nonmem` undo each other, through a DataFrame and through a file."""

import io

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from deepnlme.data import Population, Records, read_nonmem

AMOUNT = st.floats(1e-3, 1e6)
DOSES = st.one_of(
    st.fixed_dictionaries({"amt": AMOUNT}),
    st.fixed_dictionaries({"amt": AMOUNT, "rate": st.sampled_from([-1.0, -2.0, 0.1, 7.0])}),
    st.fixed_dictionaries({"amt": AMOUNT, "duration": st.floats(0.01, 100)}),
    st.fixed_dictionaries({"amt": AMOUNT, "ii": st.floats(0.5, 48), "addl": st.integers(0, 9)}),
    st.fixed_dictionaries({"amt": AMOUNT, "ii": st.floats(0.5, 48), "ss": st.sampled_from([1, 2])}),
    st.just({"rate": 3.0, "ss": 1}),
)
VALUE = st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9)


@st.composite
def records(draw):
    """One subject's records as dicts."""
    rows, time = [], draw(st.floats(0, 1000))
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["dose", "reset dose", "reset", "other", "observation", "unobserved", "censored"]))
        reset = kind.startswith("reset")
        time = draw(st.floats(0, 1000)) if reset else time + draw(st.sampled_from([0.0, 0.1, 3.7]))
        row = {"time": time, "evid": {"dose": 1, "other": 2, "reset": 3, "reset dose": 4}.get(kind, 0)}
        if kind in ("dose", "reset dose"):
            row |= draw(DOSES)
            row |= {"rate": row["amt"] / row["duration"]} if "duration" in row else {}
        if kind in ("observation", "censored"):
            row |= {"dv": draw(VALUE), "observed": True}
        if kind == "censored":
            row["cens"] = draw(st.sampled_from([1, -1]))
            row["limit"] = draw(st.sampled_from([np.nan, row["dv"] - row["cens"] * (1 + abs(row["dv"]))]))
        rows.append(row)
    return rows


@st.composite
def populations(draw):
    subjects = draw(st.lists(records(), min_size=1, max_size=4))
    rows = [{"subject": i, **row} for i, subject in enumerate(subjects) for row in subject]
    n = len(rows)
    for row in rows:
        row["cmt"] = draw(st.sampled_from(["", "1", "2", "depot"]))
    endpoints = draw(st.sampled_from([[""], ["1", "2"], ["cp", "pca"], ["cp"]]))
    for row in rows:
        row["endpoint"] = draw(st.sampled_from(endpoints)) if row["evid"] == 0 else ""
    columns = pd.DataFrame(rows)
    defaults = {"dv": np.nan, "limit": np.nan, "observed": False}
    names = [name for name, _ in Records.build([0.0]).columns() if name in columns]
    values = {}
    for name in names:
        column = columns[name].astype(object).where(columns[name].notna(), defaults.get(name, 0))
        values[name] = np.array(column.tolist(), dtype=str if name in ("cmt", "endpoint") else float)
    values["observed"] = values.get("observed", np.zeros(n)).astype(bool)
    labels = draw(st.sampled_from([(), ("1", "2"), ("first", "second")]))
    codes = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)) if labels else [0] * n
    labels = tuple(label for k, label in enumerate(labels) if k in codes)
    codes = [sorted(set(codes)).index(code) for code in codes]
    sex = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    values["covariates"] = {"wt": draw(st.lists(VALUE, min_size=n, max_size=n)), "sex": sex}
    ids = draw(st.sampled_from([[1, 2, 3, 4], ["A", "B1", "C", "D"], [10, 9, 8, 2**60]]))
    built = Records.build(values.pop("time"), occasion=codes, **values)
    order = draw(st.sampled_from([("f", "m"), ("m", "f")]))
    rule = draw(st.sampled_from(["nocb", "locf", {"wt": "linear"}]))
    return Population.from_records(
        built, ids[: len(subjects)], categories={"sex": order}, occasions=labels, interpolation=rule
    )


@settings(max_examples=120, deadline=None)
@given(populations())
def test_frame_and_file_read_back_to_the_same_population(population):
    frame = population.to_frame()
    kept = frame.copy()
    again = read_nonmem(frame, population.reading(), interpolation=population.interpolation)
    assert again == population
    pd.testing.assert_frame_equal(again.to_frame(), frame)
    pd.testing.assert_frame_equal(frame, kept)
    file = io.StringIO(frame.to_csv(index=False))
    assert read_nonmem(file, population.reading(), interpolation=population.interpolation) == population


@settings(max_examples=40, deadline=None)
@given(populations(), st.randoms(use_true_random=False))
def test_taking_apart_and_putting_together(population, rng):
    cut = rng.randrange(len(population))
    parts = [part for part in (range(cut), range(cut, len(population))) if len(part)]
    assert Population.concat([population[list(part)] for part in parts]) == population
    assert Population(population) == population
    order = rng.sample(range(len(population)), len(population))
    assert population[order][np.argsort(order)] == population
