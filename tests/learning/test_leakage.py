"""Nothing but the training rows decides, subjects stay on one side, and what cannot be learned from is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

import deepnlme as dn


@pytest.fixture
def people():
    """60 rows of 20 subjects."""
    generator = np.random.default_rng(1)
    subject = np.repeat([f"s{i}" for i in range(20)], 3)
    frame = pd.DataFrame({"wt": generator.normal(70, 10, 60), "age": generator.uniform(20, 80, 60)})
    target = pd.Series(0.1 * frame["wt"] - 0.05 * frame["age"] + generator.normal(0, 0.2, 60), name="cl")
    return frame, target, subject


def test_split_by_subject(people):
    parts = dn.split(people[2], test=0.25, validation=0.2, seed=3)
    sides = [set(people[2][rows]) for _, rows in parts.parts]
    assert [len(s) for s in sides] == [11, 4, 5]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert sorted(np.concatenate([rows for _, rows in parts.parts])) == list(range(60))
    again = dn.split(people[2], test=0.25, validation=0.2, seed=3)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(parts.parts, again.parts, strict=True))
    assert (
        repr(parts) == "<Split of rows: train 33, validation 12, test 15; of subjects: train 11, validation 4, test 5>"
    )


def test_standardisation_is_that_of_the_training_rows(people):
    x, y, subject = people
    parts = dn.split(subject, test=0.3, validation=0.2, seed=1)
    learned = dn.learn("linear", x, y, split=parts)
    for scaling, table in ((learned.standardisation, x), (learned.target_standardisation, y.to_frame())):
        rows = table.to_numpy()[parts.train]
        assert scaling.center == pytest.approx(rows.mean(0), rel=1e-12)
        assert scaling.scale == pytest.approx(rows.std(0), rel=1e-12)


def test_the_test_part_reaches_nothing(people):
    """Other numbers in the test rows: the same network to the last bit."""
    x, y, subject = people
    parts = dn.split(subject, test=0.3, validation=0.2, seed=1)
    settings = {"split": parts, "epochs": 30, "patience": 10, "missing": "median"}
    other_x, other_y = x.copy(), y.copy()
    other_x.iloc[parts.test] = 1e6
    other_y.iloc[parts.test] = -1e6
    network = dn.feedforward(2, (4,), 1)
    a, b = dn.learn(network, x, y, **settings), dn.learn(network, other_x, other_y, **settings)
    assert np.array_equal(a.predict(x)["cl"], b.predict(x)["cl"])
    folds = [dn.learn_folds("linear", *t, split=parts, folds=3).score for t in ((x, y), (other_x, other_y))]
    assert folds[0] == folds[1]


def test_a_subject_on_two_sides_is_refused(people):
    x, y, subject = people
    by_row = dn.split(60, test=0.3, seed=1)
    with pytest.raises(dn.DataError, match=r"Invalid `split`: got subject s\d+ \(\d+ in all\) in both train and test"):
        dn.learn("linear", x, y, split=by_row, groups=subject)
    with pytest.raises(dn.DataError, match=r"row 3 .* in both train and test"):
        dn.Split([1, 2, 3], [], [3, 4])
    with pytest.raises(dn.DataError, match=r"subject a .* in both train and validation"):
        dn.Split([0], [1], [], groups=["a", "a"])


def test_scores_of_subjects_that_were_learned_from_are_refused(people):
    x, y, subject = people
    parts = dn.split(subject, test=0.3, seed=1)
    learned = dn.learn("linear", x, y, split=parts)
    rows = parts.test
    assert learned.score(x.iloc[rows], y.iloc[rows], groups=subject[rows])["R2"] > 0.5
    with pytest.raises(dn.DataError, match=r"Invalid `groups`: got subject s\d+ \(14 in all\). It was learned from"):
        learned.score(x, y, groups=subject)
    with pytest.raises(dn.ModelError, match="learned without"):
        dn.learn("linear", x, y).score(x, y, groups=subject)


def test_numbers_of_subjects_are_the_same_as_floats(people):
    x, y, _ = people
    learned = dn.learn("linear", x, y, groups=np.repeat(np.arange(20), 3))
    with pytest.raises(dn.DataError, match="got subject 12 "):
        learned.score(x[:1], y[:1], groups=[12.0])


def test_validation_is_taken_from_the_training_subjects(people):
    x, y, subject = people
    parts = dn.split(subject, test=0.25, seed=1)
    learned = dn.learn("linear", x, y, split=parts, validation=0.2)
    inner = learned.split
    assert np.array_equal(inner.test, parts.test)
    assert set(inner.train) | set(inner.validation) == set(parts.train)
    assert not set(subject[inner.train]) & set(subject[inner.validation])
    assert len(set(subject[inner.validation])) == 3


@pytest.mark.parametrize("how", ["mean", "median"])
def test_imputation_learned_from_the_training_rows(how, people):
    x, y, subject = people
    x = x.copy()
    x.iloc[[0, 30], 0] = np.nan
    parts = dn.split(subject, test=0.3, seed=1)
    learned = dn.learn("linear", x, y, split=parts, missing=how)
    fill = getattr(x.iloc[parts.train], how)()
    assert learned.standardisation.fill == pytest.approx(fill.to_numpy(), rel=1e-12)
    whole = x.fillna(fill)
    assert learned.predict(x)["cl"].to_numpy() == pytest.approx(learned.predict(whole)["cl"].to_numpy(), rel=1e-12)
    assert learned.predict(x)["cl"].to_numpy() == pytest.approx(
        dn.learn("linear", whole, y, split=parts).predict(whole)["cl"].to_numpy(), rel=1e-6
    )


def test_a_column_that_is_constant_in_training_only_is_left_out(people):
    x, y, _ = people
    x = x.assign(rare=[0.0] * 59 + [1.0])
    parts = dn.Split(np.arange(40), [], np.arange(40, 60))
    learned = dn.learn("linear", x, y, split=parts)
    other = learned.predict(x.assign(rare=5.0))["cl"]
    assert np.array_equal(learned.predict(x)["cl"], other)


def test_columns_by_name(people):
    x, y, _ = people
    learned = dn.learn("linear", x, y)
    found = learned.predict(x[["age", "wt"]].set_index(np.arange(100, 160)))
    assert list(found.columns) == ["cl"] and found.index[0] == 100
    assert found["cl"].to_numpy() == pytest.approx(learned.predict(x)["cl"].to_numpy(), rel=1e-14)
    with pytest.raises(dn.DataError, match=r"got no column age\. It was learned from wt, age; got wt"):
        learned.predict(x[["wt"]])


def changed(frame, row, column, value):
    frame = frame.copy()
    frame.loc[row, column] = value
    return frame


WRONG = {
    "missing": (lambda x, y: (changed(x, 7, "age", np.nan), y), {}, r"got nan for row 7, column age.*missing='mean'"),
    "infinite": (lambda x, y: (changed(x, 7, "age", np.inf), y), {"missing": "mean"}, "got inf for row 7, column age"),
    "missing target": (lambda x, y: (x, y.where(y.index != 4)), {}, "got nan for row 4, column cl"),
    "constant": (lambda x, y: (x.assign(c=3.0), y), {}, "got 3 in every row for column c"),
    "lengths": (lambda x, y: (x, y[:50]), {}, "got 50 rows. There are 60 rows of inputs"),
    "text": (lambda x, y: (x.assign(sex="f"), y), {}, "column sex.*get_dummies"),
    "constant target": (lambda x, y: (x, 0 * y), {}, "nothing to learn"),
    "classes": (lambda x, y: (x, (y > y.mean()) + 1), {"loss": "binary"}, "got 1, 2 for column.*classes 0 and 1"),
    "gap in classes": (lambda x, y: (x, 2 * (y > y.mean())), {"loss": "multiclass"}, r"classes 0 \.\. K-1"),
    "weights": (lambda x, y: (x, y), {"weights": -np.ones(60)}, "row 0. Weights are finite"),
    "groups": (lambda x, y: (x, y), {"groups": [1, 2]}, "One subject for each of the 60 rows"),
    "kinds of groups": (
        lambda x, y: (x, y),
        {"groups": np.array(["a", *range(59)], dtype=object), "validation": 0.2},
        "got int, str. Subjects are all numbers or all texts",
    ),
    "patience": (lambda x, y: (x, y), {"patience": 3}, "Nothing decides when to stop"),
    "setting": (lambda x, y: (x, y), {"lr": 3}, "Invalid `lr`.*Settings are optimiser"),
    "optimiser": (lambda x, y: (x, y), {"optimiser": "lion"}, "one of sgd, momentum"),
    "batches": (lambda x, y: (x, y), {"optimiser": "rprop", "batch_size": 5}, "compares gradients of all rows"),
    "loss": (lambda x, y: (x, y), {"loss": "hinge"}, "one of mse, mae"),
    "outputs": (lambda x, y: (x, y), {"loss": "gaussian"}, "needs 2 outputs a row"),
    "split of others": (lambda x, y: (x, y), {"split": dn.split(70)}, "a split of 70 rows"),
    "order": (lambda x, y: (x, y[::-1]), {}, "got index 59 where inputs have 0 for row 0.*targets.loc"),
    "same names": (lambda x, y: (x.set_axis(["a", "a"], axis=1), y), {}, "got two columns a"),
    "nothing to impute from": (
        lambda x, y: (x.assign(wt=x["wt"].where(x.index >= 40)), y),
        {"missing": "mean", "split": dn.Split(np.arange(40), np.arange(0), np.arange(40, 60))},
        "no value among the training rows for column wt",
    ),
    "training without weight": (
        lambda x, y: (x, y),
        {"weights": np.arange(60) >= 40, "split": dn.Split(np.arange(40), np.arange(0), np.arange(40, 60))},
        "got 0 in every row for the train part",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_learned_from_is_refused(name, people):
    change, settings, message = WRONG[name]
    with pytest.raises(dn.DeepNLMEError, match=message):
        x, y = change(*people[:2])
        dn.learn(dn.feedforward(x.shape[1], (3,), 1), x, y, **settings)


def test_rows_are_matched_by_position_where_indices_are_of_other_rows(people):
    x, y, _ = people
    moved = dn.learn("linear", x, y.set_axis(range(100, 160)))
    assert moved.predict(x).equals(dn.learn("linear", x, y).predict(x))
    with pytest.raises(dn.DataError, match="got index 59 where inputs have 0"):
        moved.score(x, y[::-1])


def test_a_split_of_other_rows_in_cross_validation(people):
    x, y, _ = people
    with pytest.raises(dn.DataError, match=r"a split of 60 rows\. There are 40 rows of inputs"):
        dn.learn_folds("linear", x[:40], y[:40], split=dn.split(60))
    with pytest.raises(dn.DataError, match=r"a split of 60 rows\. There are 40 rows of inputs"):
        dn.search("linear", {"l2": [0.0, 1.0]}, x[:40], y[:40], method="grid", split=dn.split(60))
    with pytest.warns(RuntimeWarning, match="is of 40 rows, the inputs have 60: the last 20 are not used"):
        dn.learn("linear", x, y, split=dn.split(40))


def test_networks_that_do_not_fit_are_refused(people):
    x, y, _ = people
    with pytest.raises(dn.ModelError, match=r"takes inputs of shape \[4, 2\]"):
        dn.learn(dn.feedforward(5, (3,), 1), x, y)
    with pytest.raises(dn.ModelError, match="one of linear, logistic, perceptron"):
        dn.learn("tree", x, y)
    with pytest.raises(dn.ModelError, match="got a function that makes int"):
        dn.learn(lambda: 3, x, y)
    with pytest.raises(dn.ModelError, match="The baseline logistic has binary or multiclass"):
        dn.learn("logistic", x, y, loss="mse")


def test_warnings(people):
    x, y, _ = people
    with pytest.warns(UserWarning, match="Columns wt and kg of `inputs` are equal"):
        dn.learn("linear", x.assign(kg=x["wt"]), y, epochs=1)
    wide = np.random.default_rng(1).normal(size=(5, 9))
    with pytest.warns(UserWarning, match="9 columns and only 5 rows"):
        dn.learn("linear", wide, np.arange(5.0), epochs=1)


def test_images():
    """Any shape of one size; one mean and standard deviation for all pixels; other sizes are refused."""
    generator = np.random.default_rng(2)
    images = generator.uniform(0, 16, (60, 1, 4, 4))
    y = images[:, 0, :2].mean(axis=(1, 2)) - images[:, 0, 2:].mean(axis=(1, 2))
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 1))
    learned = dn.learn(network, images, y, split=dn.split(60, seed=1), optimiser="l-bfgs", l2=1e-6, epochs=60)
    test = learned.split.test
    assert learned.score(images[test], y[test])["R2"] > 0.999
    assert learned.standardisation.center == pytest.approx([images[learned.split.train].mean()])
    with pytest.raises(dn.DataError, match=r"got shape \(6, 7\) for row 1. All have the shape of row 0, \(6, 6\)"):
        dn.learn(network, [np.zeros((6, 6)), np.zeros((6, 7))], [0.0, 1.0])
    with pytest.raises(dn.DataError, match=r"rows of shape \(1, 3, 4\)"):
        learned.predict(images[:, :, :3])
