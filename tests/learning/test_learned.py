"""The result on paper and on disk."""

import numpy as np
import pandas as pd
import pytest
import torch

import deepnlme as dn


def table(rows=40):
    generator = np.random.default_rng(6)
    x = pd.DataFrame(generator.normal(size=(rows, 2)), columns=["wt", "age"])
    return x, (x["wt"] + generator.normal(0, 0.3, rows)).rename("cl")


@pytest.mark.parametrize("kind", ["linear", "feedforward", "module", "classes", "gaussian"])
def test_saved_and_read_it_predicts_the_same(kind, tmp_path):
    x, y = table()
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    settings = {"groups": np.arange(40) // 2, "validation": 0.2, "epochs": 5}
    learned = {
        "linear": lambda: dn.learn("linear", x.where(x < 1.5), y, missing="mean", **settings),
        "feedforward": lambda: dn.learn(
            dn.feedforward(2, (3, 3), 1, normalisation="batch", skip=True), x, y, patience=2, **settings
        ),
        "module": lambda: dn.learn(module, x, y, **settings),
        "classes": lambda: dn.learn("logistic", x, pd.cut(y, 3, labels=False), **settings),
        "gaussian": lambda: dn.learn(dn.feedforward(2, (3,), 2), x, y, loss="gaussian", **settings),
    }[kind]()
    learned.save(tmp_path / "learned.npz")
    if kind == "module":
        with pytest.raises(dn.ModelError, match=r"network=\.\.\."):
            dn.load_learned(tmp_path / "learned.npz")
        with pytest.raises(dn.ModelError, match="Its weights are others"):
            dn.load_learned(tmp_path / "learned.npz", network=torch.nn.Linear(2, 1))
    read = dn.load_learned(tmp_path / "learned.npz", network=module if kind == "module" else None)
    pd.testing.assert_frame_equal(read.predict(x), learned.predict(x), check_exact=True)
    pd.testing.assert_frame_equal(read.history, learned.history)
    assert read.training == learned.training and read.subjects == learned.subjects
    assert str(read) == str(learned).rpartition("\n")[0]
    with pytest.raises(dn.DataError, match="It was learned from"):
        read.score(x, y, groups=settings["groups"])


def test_no_code_in_the_file(tmp_path):
    learned = dn.learn("linear", *table(), epochs=1)
    learned.save(tmp_path / "learned.npz")
    with np.load(tmp_path / "learned.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
    with pytest.raises(dn.ModelError, match=r"ends with \.npz"):
        learned.save(tmp_path / "learned.pkl")
    (tmp_path / "other.npz").write_bytes(b"no file")
    with pytest.raises(dn.DataError, match=r"no file of Learned\.save"):
        dn.load_learned(tmp_path / "other.npz")


def test_print():
    x, y = table()
    learned = dn.learn(dn.feedforward(2, (3,), 1), x, y, split=dn.split(40, validation=0.2, seed=1), epochs=7)
    lines = str(learned).splitlines()
    best = learned.history.loc[learned.best_epoch]
    assert lines[0] == "feedforward, 13 weights: cl from wt, age"
    assert lines[1] == f"loss mse, adam, epoch {learned.best_epoch} of 7 kept, all 7 epochs"
    assert lines[2].endswith(f"train {best['TRAIN']:.5g}, validation {best['VALIDATION']:.5g}")
    assert lines[3] == "<Split of rows: train 24, validation 8, test 8>"
    assert repr(learned) == "<Learned feedforward mse: cl from wt, age>"


def test_shapes_of_predictions():
    x, y = table()
    both = pd.DataFrame({"cl": y, "v": 2 * y + x["age"]})
    assert dn.learn("linear", x, y).predict(x.to_numpy()).shape == (40,)
    assert dn.learn("linear", x, y.to_frame()).predict(x.to_numpy()).shape == (40, 1)
    assert dn.learn("linear", x, both).predict(x.to_numpy()).shape == (40, 2)
    found = dn.learn(dn.feedforward(2, (), 4), x, both, loss="gaussian", epochs=1).predict(x)
    assert list(found.columns) == ["cl", "cl_SD", "v", "v_SD"] and (found[["cl_SD", "v_SD"]] > 0).all(axis=None)
    assert list(dn.learn("logistic", x, (y > 0) * 1, epochs=1).predict(x).columns) == ["P(cl=1)"]


class Squeezed(torch.nn.Module):
    """All axes of length one go, that of a single row too."""

    def __init__(self, outputs):
        super().__init__()
        self.layer = torch.nn.Linear(2, outputs)

    def forward(self, x):
        return self.layer(x).squeeze()


@pytest.mark.parametrize("targets", [1, 2])
def test_one_row_is_predicted_as_among_others(targets):
    x, y = table()
    learned = dn.learn(Squeezed(targets), x.to_numpy(), np.column_stack([y, 2 * y])[:, :targets], epochs=1)
    alone, among = learned.predict(x.to_numpy()[:1]), learned.predict(x.to_numpy())
    assert alone.shape == (1, targets)
    np.testing.assert_allclose(alone, among[:1], rtol=1e-12)


def test_other_columns_are_refused():
    x, y = table()
    wide = np.column_stack([x, np.full(40, np.nan)])
    with pytest.raises(dn.DataError, match=r"rows of shape \(3,\). It was learned from 2 columns: wt, age"):
        dn.learn("linear", x, y).predict(wide)


def test_gaussian_outputs_are_all_means_and_then_all_variances():
    """Of two targets with other units each gets its own mean and standard deviation back."""
    generator = np.random.default_rng(2)
    x = generator.normal(size=(1500, 1))
    y = np.column_stack([x[:, 0] + generator.normal(0, 0.1, 1500), 100 * x[:, 0] + generator.normal(0, 50, 1500)])
    found = dn.learn("linear", x, y, loss="gaussian").predict(np.array([[0.0]]))[0]
    errors = np.array([0.1, 0.1 / 2**0.5, 50.0, 50.0 / 2**0.5]) / 1500**0.5  # standard errors of mean and sd at x = 0
    assert (np.abs(found - [0.0, 0.1, 0.0, 50.0]) < 4 * errors).all()


def test_classes_in_a_score_are_checked():
    x, y = table()
    learned = dn.learn("logistic", x, (y > 0) * 1, epochs=3)
    with pytest.raises(dn.DataError, match="Classes are 0 to 1"):
        learned.score(x, (y > 0) * 2)
