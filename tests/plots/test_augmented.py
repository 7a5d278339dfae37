"""The picture of an augmentation shows its table and its variances."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import deepnlme as dn
from covariate_people import QUIET, Bolus, boluses
from deepnlme import plots


@pytest.fixture(scope="module")
def augmented():
    people = boluses(30)
    nobody = dn.Subject(99, dn.Dose(100.0), ([1.0], None), dict(wt=70.0, age=50.0, sex="f", race="a"))
    fit = dn.fit(Bolus(), people, options=QUIET)
    return dn.augment(fit, dn.MLP(2, (), 2), ["wt", "sex"], population=people + dn.Population([nobody]), folds=0)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.mark.parametrize("width", [180, 85])
def test_points_lines_and_bars_are_the_tables(augmented, width):
    figure = plots.plot_augmented(augmented, width=width)
    table, variances = augmented.to_frame()[:-1], augmented.explained
    assert len(figure.axes) == 3
    for ax, name in zip(figure.axes, ("cl", "v"), strict=False):
        assert [t.get_text() for t in ax.texts] == ["30 of 31 subjects"]
        assert ax.get_xlabel() == f"g(covariates), {name}" and ax.get_ylabel() == f"Data alone, eta {name}"
        points, equal, below, above = ax.lines
        np.testing.assert_allclose(points.get_xydata(), table[[f"G_{name}", f"Y_{name}"]])
        bars = np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])
        y, error = table[f"Y_{name}"], table[f"SE_Y_{name}"]
        np.testing.assert_allclose(bars, np.stack([y - error, y + error], 1))
        np.testing.assert_array_equal(equal.get_xdata(), equal.get_ydata())
        sd = np.sqrt(variances.loc[name, "OMEGA_AFTER"])
        np.testing.assert_allclose(above.get_ydata() - equal.get_ydata(), sd)
        np.testing.assert_allclose(below.get_ydata() - equal.get_ydata(), -sd)
    last = figure.axes[-1]
    widths = [patch.get_width() for patch in last.patches]
    after = 100 * variances["OMEGA_AFTER"] / variances["OMEGA_BEFORE"]
    np.testing.assert_allclose(widths, [100.0, 100.0, *after])
    text = [t.get_text() for t in last.get_yticklabels()]
    assert text[1] == "v\n{:.2g} to {:.2g}".format(*variances.loc["v", ["OMEGA_BEFORE", "OMEGA_AFTER"]])
    figure.canvas.draw()
    right, top = figure.canvas.get_width_height()
    labels = [t for ax in figure.axes for t in (ax.xaxis.label, ax.yaxis.label, *ax.texts)]
    boxes = [t.get_window_extent() for t in (*labels, *last.get_yticklabels()) if t.get_text()]
    assert all(b.x0 >= -1 and b.y0 >= -1 and b.x1 <= right + 1 and b.y1 <= top + 1 for b in boxes)


def test_chosen_effects_and_mistakes(augmented):
    figure = plots.plot_augmented(augmented, effects=["v"])
    assert [ax.get_xlabel() for ax in figure.axes] == ["g(covariates), v", "Variance left [%]"]
    _, axes = plt.subplots(1, 2)
    assert plots.plot_augmented(augmented, effects="cl", axes=axes) is axes[0].figure
    with pytest.raises(dn.ModelError, match="Invalid `effects`: got 'ka', expected some of cl, v"):
        plots.plot_augmented(augmented, effects=["ka"])
    with pytest.raises(dn.ModelError, match=r"Invalid `augmented`: got Bolus\. It is what dn.augment returns"):
        plots.plot_augmented(Bolus())
