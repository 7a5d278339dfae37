"""Cross-validation against a loop of one's own, learning curves, and searches that can be interrupted."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import deepnlme as dn
from deepnlme.learning.proposals import proposals


@pytest.fixture
def people():
    generator = np.random.default_rng(3)
    subject = np.repeat(np.arange(30), 2)
    x = pd.DataFrame(generator.normal(size=(60, 4)), columns=list("abcd"))
    y = x["a"] - 0.5 * x["b"] + generator.normal(0, 0.5, 60)
    return x, y.rename("eta"), subject


def ridge(x, y, strength):
    """Intercept and slopes of the ridge on the standardised scale of these rows."""
    z, t = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    w = np.linalg.solve(z.T @ z / len(z) + strength * np.eye(x.shape[1]), z.T @ t / len(z))
    slope = w * y.std() / x.std(0)
    return y.mean() - x.mean(0) @ slope, slope


def test_folds_are_a_loop_over_subjects(people):
    x, y, subject = people
    found = dn.learn_folds("linear", x, y, groups=subject, folds=4, seed=2, l2=0.1)
    table = found.predictions
    assert sorted(table.index) == list(range(60)) and (table.groupby("SUBJECT")["FOLD"].nunique() == 1).all()
    fold, errors = table["FOLD"].to_numpy(), []
    for k in range(1, 5):
        held = fold == k
        intercept, slope = ridge(x.to_numpy()[~held], y.to_numpy()[~held], 0.1)
        predicted = intercept + x.to_numpy()[held] @ slope
        assert table["PREDICTED eta"][held].to_numpy() == pytest.approx(predicted, rel=1e-6)
        errors.append(((y[held] - predicted) ** 2).mean())
    assert found.table["MSE"].to_numpy() == pytest.approx(errors, rel=1e-6)
    assert found.score == pytest.approx(np.mean(errors), rel=1e-6)
    assert found.se == pytest.approx(np.std(errors, ddof=1) / 2, rel=1e-6)
    assert found.table["SUBJECTS"].tolist() == [8, 8, 7, 7]
    assert "4 folds, MSE" in str(found)


def test_folds_of_classes(people):
    x, y, _ = people
    found = dn.learn_folds("logistic", x, (y > 0).astype(int), folds=3, l2=0.01)
    p = found.predictions["PREDICTED P(eta=1)"]
    by_fold = [
        -np.log(np.where(y[i] > 0, p[i], 1 - p[i])).mean() for _, i in found.predictions.groupby("FOLD").groups.items()
    ]
    assert found.table["log loss"].to_numpy() == pytest.approx(by_fold, rel=1e-10)


def test_targets_named_as_columns_of_the_predictions(people):
    with pytest.raises(dn.DataError, match="a column FOLD"):
        dn.learn_folds("linear", people[0], people[1].rename("FOLD"), folds=3)


def test_wrong_folds(people):
    with pytest.raises(dn.ModelError, match="from 2 to 30, the subjects"):
        dn.learn_folds("linear", *people[:2], groups=people[2], folds=31)


def test_learning_curve(people):
    """All subjects are those of the cross-validation; more of them, worse in training and better held out."""
    x, y, subject = people
    curve = dn.learning_curve("linear", x, y, groups=subject, sizes=(0.3, 0.6, 1.0), folds=4, seed=2).table
    assert curve["SUBJECTS"].tolist() == [7, 14, 22]
    folds = dn.learn_folds("linear", x, y, groups=subject, folds=4, seed=2)
    assert curve["HELD_OUT"].iloc[-1] == pytest.approx(folds.score, rel=1e-12)
    assert curve["HELD_OUT_SE"].iloc[-1] == pytest.approx(folds.se, rel=1e-12)
    assert curve["TRAIN"].is_monotonic_increasing and curve["HELD_OUT"].is_monotonic_decreasing
    with pytest.raises(dn.ModelError, match="increasing"):
        dn.learning_curve("linear", x, y, sizes=(0.5, 0.5))


def test_grid_is_a_loop_over_combinations(people):
    x, y, subject = people
    space = {"l2": [1e-3, 0.1, 10.0], "standardise": [True, False]}
    found = dn.search("linear", space, x, y, method="grid", groups=subject, folds=3, seed=4)
    assert len(found.table) == 6
    for row in found.table.to_dict("records"):
        own = dn.learn_folds(
            "linear", x, y, groups=subject, folds=3, seed=4, l2=row["l2"], standardise=row["standardise"]
        )
        assert (row["SCORE"], row["SE"]) == pytest.approx((own.score, own.se), rel=1e-12)
    least = found.table.sort_values("SCORE").iloc[0]
    assert found.best == {"l2": least["l2"], "standardise": least["standardise"]} and found.metric == "MSE"
    again = dn.learn("linear", x, y, groups=subject, seed=4, **found.best)
    assert found.learn(x, y).predict(x)["eta"].to_numpy() == pytest.approx(again.predict(x)["eta"].to_numpy())


def test_random_search_of_a_network(people):
    x, y, _ = people
    space = {"width": [2, 5], "learning_rate": dn.Range(1e-3, 1e-1, log=True), "epochs": dn.Range(1, 4, integer=True)}
    run = lambda seed: dn.search(  # noqa: E731
        lambda width: dn.feedforward(4, (width,), 1), space, x, y, trials=5, folds=2, seed=seed
    )
    found = run(1)
    table = found.table
    assert table["learning_rate"].between(1e-3, 1e-1).all() and set(table["epochs"]) <= {1, 2, 3, 4}
    assert set(table["width"]) <= {2, 5} and table["learning_rate"].nunique() == 5
    assert table["SCORE"].tolist() == run(1).table["SCORE"].tolist() != run(2).table["SCORE"].tolist()
    assert found.network().architecture["hidden"] == [found.best["width"]]


def test_range_draws_evenly():
    generator = np.random.default_rng(1)
    logs = np.log10([dn.Range(1e-4, 1.0, log=True).draw(generator) for _ in range(2000)])
    assert np.histogram(logs, 4, (-4, 0))[0] == pytest.approx(500, abs=4 * np.sqrt(2000 * 0.25 * 0.75))
    whole = [dn.Range(2, 5, integer=True).draw(generator) for _ in range(2000)]
    assert np.bincount(whole)[2:] == pytest.approx(500, abs=4 * np.sqrt(2000 * 0.25 * 0.75))


@pytest.mark.parametrize("method", ["random", "bayesian"])
def test_an_interrupted_search_goes_on_where_it_was(method, people, tmp_path):
    """Ctrl-C in the third trial: two in the file; the rest later; the same as without interruption."""
    if method == "bayesian":
        pytest.importorskip("optuna", reason="pip install 'deepnlme[learning]'")
    x, y, _ = people
    space = {"width": [2, 3, 4], "l2": dn.Range(1e-4, 1.0, log=True)}
    calls = []

    def build(width):
        calls.append(width)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return dn.feedforward(4, (width,), 1)

    settings = {"method": method, "trials": 6, "folds": 2, "epochs": 3, "seed": 3}
    stop_at, file = 3, tmp_path / "search.json"
    with pytest.warns(RuntimeWarning, match="interrupted after 2 trials"):
        first = dn.search(build, space, x, y, path=file, **settings)
    assert len(first.table) == len(json.loads(file.read_text())["done"]) == 2
    stop_at, calls = -1, []
    resumed = dn.search(build, space, x, y, path=file, **settings)
    assert len(calls) == 6  # made to see whether it is the same network; the two that were learned are not again
    assert resumed.table["SECONDS"].iloc[:2].tolist() == first.table["SECONDS"].tolist()
    whole = dn.search(build, space, x, y, **settings)
    columns = ["TRIAL", "width", "l2", "SCORE", "SE", "STATUS"]
    pd.testing.assert_frame_equal(resumed.table[columns], whole.table[columns])
    with pytest.raises(dn.ModelError, match="belongs to another search: its data differs"):
        dn.search(build, space, x, y + 1, path=file, **settings)
    file.write_text("{")
    with pytest.raises(dn.DataError, match="no file of a search"):
        dn.search(build, space, x, y, path=file, **settings)


def test_bayesian_search_learns_from_scores():
    """The least of (log10 x - 1)^2 is at 10: later proposals are nearer to it than the first, which are random."""
    pytest.importorskip("optuna", reason="pip install 'deepnlme[learning]'")
    distance = []
    for chosen, tell in proposals({"x": dn.Range(1e-6, 1e3, log=True)}, "bayesian", 40, seed=1):
        distance.append(abs(np.log10(chosen["x"]) - 1.0))
        tell(distance[-1] ** 2)
    assert np.median(distance[20:]) < 0.5 * np.median(distance[:10])


def test_bayesian_names_the_extra(people, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(dn.MissingExtraError, match=r"deepnlme\[learning\]"):
        dn.search("linear", {"l2": [0.1, 1.0]}, *people[:2], method="bayesian", trials=1)


def perceptron(width):
    """Weights drawn by torch."""
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))


def test_the_seed_decides_on_weights_that_the_function_draws(people):
    given = {"groups": people[2], "method": "grid", "folds": 2, "epochs": 2, "seed": 4}
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = dn.search(perceptron, {"width": [2, 3]}, *people[:2], **given)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    other = dn.search(perceptron, {"width": [2, 3]}, *people[:2], **given)
    assert one.table["SCORE"].tolist() == other.table["SCORE"].tolist()
    first, second = (found.network().state_dict()["0.weight"] for found in (one, other))
    assert torch.equal(first, second)


def test_a_file_of_another_network_is_not_taken_for_this_one(people, tmp_path):
    x, y, subject = people
    given = {"groups": subject, "method": "grid", "folds": 2, "epochs": 3, "path": tmp_path / "search.json"}
    dn.search("linear", {"l2": [0.0, 0.1]}, x, (y > 0) * 1.0, **given)
    for network in (
        "perceptron",
        "logistic",
        torch.nn.Linear(4, 1),
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 1)),
    ):
        found = dn.search(network, {"l2": [0.0, 0.1]}, x, (y > 0) * 1.0, **given)
        fresh = dn.search(network, {"l2": [0.0, 0.1]}, x, (y > 0) * 1.0, **{**given, "path": None})
        assert found.metric == fresh.metric and found.table["SCORE"].tolist() == fresh.table["SCORE"].tolist()


def test_a_trial_that_explodes_is_no_candidate(people):
    x, y, _ = people
    space = {"learning_rate": [1e30, 0.05]}
    found = dn.search("linear", space, x, y, method="grid", optimiser="sgd", epochs=20, folds=2)
    assert found.table["STATUS"].tolist() == ["loss not finite", "ok"] and found.best == {"learning_rate": 0.05}
    with pytest.raises(dn.ModelError, match="none with a finite loss"):
        dn.search("linear", {"learning_rate": [1e30]}, x, y, method="grid", optimiser="sgd", epochs=20, folds=2)


WRONG = {
    "range in a grid": ({"l2": dn.Range(0, 1)}, {"method": "grid"}, "A grid has lists"),
    "method": ({"l2": [0.0]}, {"method": "genetic"}, "grid, random, bayesian"),
    "nothing": ({}, {}, "must be a hyperparameter"),
    "scalar": ({"l2": 3.0}, {}, "list of values"),
    "twice": ({"l2": [0.1]}, {"l2": 0.1}, "in the space, too"),
    "no function": ({"width": [3]}, {}, "no function that takes it"),
    "column of the table": ({"SCORE": [1, 2]}, {}, "got 'SCORE'. A column of the table"),
    "trials": ({"l2": [0.1]}, {"trials": 0}, "at least 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_searches(name, people):
    space, settings, message = WRONG[name]
    with pytest.raises(dn.ModelError, match=message):
        dn.search("linear", space, *people[:2], **settings)


def test_wrong_range():
    with pytest.raises(dn.ModelError, match="low < high"):
        dn.Range(2, 1)
    with pytest.raises(dn.ModelError, match="positive"):
        dn.Range(0, 1, log=True)
