"""Populations that carry arrays: every way of making a smaller or larger population, and every refusal."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import deepnlme as dn
from deepnlme.data.dense import requested, with_times
from deepnlme.errors import DataError
from deepnlme.estimation.bootstrap import resampled
from deepnlme.estimation.coding import coded
from deepnlme.estimation.storage import fingerprint

S = 5
IMAGES = np.random.default_rng(1).normal(size=(S, 2, 3))


def bare(n=S, first=1):
    return dn.Population(
        dn.Subject(first + i, dn.Dose(100), ([1.0, 2.0], [3.0 + i, 2.0]), {"wt": 60.0 + i}) for i in range(n)
    )


@pytest.fixture
def population():
    return bare().with_tensors(image=IMAGES, embedding=IMAGES[:, 0].astype(np.float32))


def test_they_are_kept_as_they_are(population):
    assert population.tensors["image"].dtype == np.float64 and population.tensors["embedding"].dtype == np.float32
    np.testing.assert_array_equal(population.tensors["image"], IMAGES)
    for given in (IMAGES.tolist(), torch.tensor(IMAGES), {i + 1: IMAGES[i] for i in reversed(range(S))}):
        np.testing.assert_array_equal(bare().with_tensors(image=given).tensors["image"], IMAGES)
    assert bare().with_tensors(image=np.ones((S, 4), dtype=np.uint8)).tensors["image"].dtype == np.float64
    replaced = population.with_tensors(image=2 * IMAGES)
    np.testing.assert_array_equal(replaced.tensors["image"], 2 * IMAGES)
    np.testing.assert_array_equal(replaced.tensors["embedding"], population.tensors["embedding"])


def test_nobody_changes_them():
    mine = IMAGES.copy()
    population = bare().with_tensors(image=mine)
    mine[:] = 7.0
    np.testing.assert_array_equal(population.tensors["image"], IMAGES)
    later = (population, population[1:3], pickle.loads(pickle.dumps(population)), population + bare(1, 9)
             .with_tensors(image=IMAGES[:1]))  # fmt: skip
    for some in (*later, population[0], pickle.loads(pickle.dumps(population[0]))):
        with pytest.raises(ValueError, match="read-only"):
            some.tensors["image"][0] = 0.0


@pytest.mark.parametrize("index", [slice(1, 4), slice(None, None, -1), [4, 0], np.arange(S) > 2])
def test_smaller_populations(population, index):
    positions = np.arange(S)[index]
    some = population[index]
    np.testing.assert_array_equal(some.tensors["image"], IMAGES[positions])
    loop = dn.Population([population[int(i)] for i in positions])
    assert some == loop
    assert some == population.select(ids=[population.ids[i] for i in positions])


def test_subjects_split_and_joined(population):
    np.testing.assert_array_equal(population[3].tensors["image"], IMAGES[3])
    one = dn.Subject(4, dn.Dose(100), ([1.0, 2.0], [6.0, 2.0]), {"wt": 63.0}, tensors=population[3].tensors)
    assert one == population[3] and one != dn.Subject(4, dn.Dose(100), ([1.0, 2.0], [6.0, 2.0]), {"wt": 63.0})
    assert dn.Population(list(population)) == population
    a, b = population.split(0.4, seed=3)
    assert (a + b).select(ids=population.ids) == population
    assert pickle.loads(pickle.dumps(population)) == population
    assert pickle.loads(pickle.dumps(population[2])) == population[2]


def test_equality_and_fingerprint_see_every_number(population):
    other = IMAGES.copy()
    other[4, 1, 2] += 1e-12
    assert population != population.with_tensors(image=other) and population != bare()
    assert population[4] != population.with_tensors(image=other)[4]
    flat = population.with_tensors(image=IMAGES.reshape(S, 3, 2))
    several = (bare(), population, population.with_tensors(image=other), flat, bare().with_tensors(image=IMAGES))
    found = [fingerprint(p) for p in several]
    assert len(set(found)) == len(found)
    assert fingerprint(population) == fingerprint(pickle.loads(pickle.dumps(population)))


def test_records_are_added_and_subjects_resampled(population):
    for more in (
        with_times(population, [0.5, 7.0]).population,
        requested(population, ["dv"], population.records.observed[:, None])[0],
    ):
        np.testing.assert_array_equal(more.tensors["image"], IMAGES)
    drawn = np.array([3, 3, 0])
    np.testing.assert_array_equal(resampled(population, drawn).tensors["image"], IMAGES[drawn])
    assert coded(pickle.loads(pickle.dumps(population)), population) == population


def test_other_records_of_the_same_subjects(population):
    """Everything that is not a record stays."""
    first = population.with_records(population.records)
    assert first == population and first.notes == population.notes
    with pytest.raises(dn.DataError):
        population.with_records(population[:1].records)


def test_summary(population):
    text = str(population)
    assert f"tensor image: 2 x 3 per subject, {IMAGES.min():.6g} to {IMAGES.max():.6g}" in text
    assert "tensor embedding: 3 numbers per subject" in text


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("image", IMAGES[:4], "`image`: got 4 arrays. There is one for each of 5 subjects"),
        ("image", [np.zeros((2, 3))] * 4 + [np.zeros((2, 4))], r"shape \(2, 4\) for subject 5. .*Resize or pad"),
        ("image", {i + 1: IMAGES[i] for i in range(4)}, r"none for 1 of 5 subjects \(5\)"),
        ("image", {i + 2: IMAGES[i] for i in range(5)}, "got subject 6. The 5 subjects are 1, 2, 3, 4, 5"),
        ("image", np.where(IMAGES[2, 1, 0] == IMAGES, np.nan, IMAGES), r"got nan at \(1, 0\) for subject 3.*mask"),
        ("image", [["a"]] * S, "for subject 1. It takes an array of numbers"),
        ("image", [[[1.0, 2.0], [3.0]]] * S, "It takes an array of numbers"),
        ("image", 1j * IMAGES, "It takes an array of numbers"),
        ("image", np.zeros(S), r"got one number per subject.*cov.image\[..., 0\]"),
        ("image", np.zeros((S, 0)), "at least one number"),
        ("image", 3.0, "got 3.0. It is an array"),
        ("image", "pixels", "got 'pixels'. It is an array"),
        ("wt", IMAGES, "'wt' twice"),
        ("WT", IMAGES, "'WT' twice"),
        ("time", IMAGES, "names a data item"),
    ],
)
def test_refused(name, given, message):
    with pytest.raises(DataError, match=message):
        bare().with_tensors(**{name: given})


def test_populations_that_do_not_go_together(population):
    with pytest.raises(DataError, match=r"`tensors`: got none for subject 9\. .* subject 1 has embedding, image"):
        dn.Population([population, bare(1, 9)])
    other = bare(1, 9).with_tensors(image=np.zeros((1, 2, 4)), embedding=np.zeros((1, 3)))
    with pytest.raises(DataError, match=r"`image`: got shape \(2, 4\) for subject 9. It is \(2, 3\) in subject 1"):
        population + other
    with pytest.raises(DataError, match=r"`image`: got shape \(2, 4\). The tensor of the fit's population is \(2, 3\)"):
        coded(other, population)


def test_padded_series():
    values, times, mask = dn.padded_series({3: ([-7, -3, -1], [5.1, 4.8, 4.9]), 1: ([-2], [6.0]), 2: ([], [])})
    np.testing.assert_array_equal([values[i] for i in (1, 2, 3)], [[6, 0, 0], [0, 0, 0], [5.1, 4.8, 4.9]])
    np.testing.assert_array_equal([times[i] for i in (1, 2, 3)], [[-2, 0, 0], [0, 0, 0], [-7, -3, -1]])
    np.testing.assert_array_equal([mask[i] for i in (1, 2, 3)], [[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    two, _, _ = dn.padded_series({1: ([1, 2], [[1.0, 2.0], [3.0, 4.0]]), 2: ([], [])}, length=3)
    np.testing.assert_array_equal(two[1], [[1, 2], [3, 4], [0, 0]])
    np.testing.assert_array_equal(two[2], np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("series", "length", "message"),
    [
        ([1, 2], None, "dict id"),
        ({}, None, "dict id"),
        ({7: [1.0, 2.0, 3.0]}, None, "pair .* for subject 7|for subject 7. It is a pair"),
        ({7: ([1.0, 2.0], [3.0])}, None, "for subject 7. There is one value"),
        ({7: ([2.0, 1.0], [3.0, 4.0])}, None, "for subject 7. The times of a series increase"),
        ({7: ([1.0], [np.inf])}, None, "finite numbers"),
        ({7: ([1.0, 2.0], [3.0, 4.0])}, 1, r"`length`: got 1. .*the longest series \(subject 7\)"),
        ({7: ([1.0], [3.0]), 8: ([1.0], [[3.0, 4.0]])}, None, "All subjects have the same"),
    ],
)
def test_series_refused(series, length, message):
    with pytest.raises(DataError, match=message):
        dn.padded_series(series, length)


def test_tables_and_masks_are_refused_and_short_floats_taken():
    """The index of a table might name the subjects in another order; masked numbers are none."""
    turned = pd.Series(list(IMAGES), index=range(S, 0, -1))
    for given in (turned, pd.DataFrame(IMAGES[:, 0], index=range(S, 0, -1))):
        with pytest.raises(DataError, match=r"Invalid `image`: got a pandas .*does not say whose.* a dict id -> array"):
            bare().with_tensors(image=given)
    by_id = bare().with_tensors(image=dict(turned.items())).tensors["image"]
    np.testing.assert_array_equal(by_id, IMAGES[::-1])
    with pytest.raises(DataError, match="Invalid `image`: got masked numbers for subject 2"):
        bare().with_tensors(image=np.ma.masked_array(IMAGES, np.arange(S)[:, None, None] == np.ones((1, 2, 3))))
    short = bare().with_tensors(image=torch.tensor(IMAGES, dtype=torch.bfloat16)).tensors["image"]
    np.testing.assert_allclose(short, IMAGES, rtol=1e-2)
