"""Pictures of learning show the history, the curve and the predictions."""

import numpy as np
import pandas as pd
import pytest

import deepnlme as dn
from deepnlme import plots
from pictures import line, rendered


@pytest.fixture(autouse=True)
def close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture(scope="module")
def table():
    generator = np.random.default_rng(1)
    x = pd.DataFrame(generator.normal(size=(60, 2)), columns=["wt", "age"])
    y = pd.DataFrame({"cl": x["wt"] + generator.normal(0, 0.3, 60)})
    return x, y.assign(v=50 - 3 * x["age"] + generator.normal(0, 1, 60))


@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_loss_curves(table, validation):
    learned = dn.learn(
        dn.feedforward(2, (8,), 2), *table, validation=validation, epochs=30, learning_rate=0.05, patience=None
    )
    figure = rendered(plots.plot_learning(learned))
    (ax,) = figure.axes
    assert line(ax, "training").get_ydata() == pytest.approx(learned.history["TRAIN"].to_numpy())
    assert line(ax, f"epoch {learned.best_epoch}, kept").get_xdata() == [learned.best_epoch] * 2
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Epoch", "MSE, learning scale")
    assert ("validation" in [item.get_label() for item in ax.lines]) == (validation > 0)
    if validation:
        assert line(ax, "validation").get_ydata() == pytest.approx(learned.history["VALIDATION"].to_numpy())


def test_learning_curve(table):
    curve = dn.learning_curve("linear", *table, sizes=(0.3, 1.0), folds=3)
    figure = rendered(plots.plot_learning(curve))
    (ax,) = figure.axes
    for container, name in zip(ax.containers, ("TRAIN", "HELD_OUT"), strict=True):
        points, _, bars = container
        assert points.get_xdata() == pytest.approx(curve.table["SUBJECTS"].to_numpy())
        assert points.get_ydata() == pytest.approx(curve.table[name].to_numpy())
        half = np.array([np.ptp(segment[:, 1]) / 2 for segment in bars[0].get_segments()])
        assert half == pytest.approx(curve.table[f"{name}_SE"].to_numpy())
    assert ax.get_ylabel() == "MSE (mean, standard error)"


@pytest.mark.parametrize("loss", ["mse", "gaussian"])
def test_predicted_against_observed(table, loss):
    x, y = table
    learned = dn.learn("linear", x, y, loss=loss)
    figure = rendered(plots.plot_predicted(learned, x, y, unit="L/h"))
    found = learned.predict(x)
    for ax, name in zip(figure.axes, ("cl", "v"), strict=True):
        points = ax.lines[-1]
        assert points.get_xdata() == pytest.approx(found[name].to_numpy())
        assert points.get_ydata() == pytest.approx(y[name].to_numpy())
        assert np.array_equal(*ax.lines[0].get_data())
        assert (ax.get_xlabel(), ax.get_ylabel()) == (f"Predicted {name} [L/h]", f"Observed {name} [L/h]")
        if loss == "gaussian":
            (bars,) = ax.containers[0][2]
            half = [np.ptp(segment[:, 0]) / 2 for segment in bars.get_segments()]
            assert half == pytest.approx(found[f"{name}_SD"].to_numpy())


def test_other_targets_than_learned_are_refused(table):
    x, y = table
    with pytest.raises(dn.DataError, match=r"got 1 columns\. It has learned cl, v"):
        plots.plot_predicted(dn.learn("linear", x, y), x, y["cl"])
    with pytest.raises(dn.DataError, match=r"got 2 columns\. It has learned cl"):
        plots.plot_predicted(dn.learn("linear", x, y["cl"]), x, y)


def test_one_target_into_given_axes(table):
    import matplotlib.pyplot as plt

    x, y = table
    learned = dn.learn("linear", x, y["cl"])
    given, axes = plt.subplots(1, 2)
    assert plots.plot_predicted(learned, x, y["cl"], axes=axes[0]) is given
    assert plots.plot_learning(learned, axes=axes[1]) is given
    assert axes[0].get_xlabel() == "Predicted cl" and axes[1].get_legend() is not None


def test_what_has_no_such_picture(table):
    x, y = table
    with pytest.raises(dn.ModelError, match="got binary"):
        plots.plot_predicted(dn.learn("logistic", x, (y["cl"] > 0) * 1, epochs=1), x, y["cl"])
    with pytest.raises(dn.ModelError, match="got dict"):
        plots.plot_learning({})
