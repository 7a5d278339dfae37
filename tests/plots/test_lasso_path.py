"""The picture of a path shows the coefficients and the criterion of the tables."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import deepnlme as dn
from covariate_people import QUIET, Level, levels
from deepnlme import plots


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(4)
    x = {f"x{i}": rng.standard_normal(50) for i in range(5)}
    fit = dn.fit(Level(), levels(x, 0.3 * x["x1"] - 0.3 * x["x4"]), options=QUIET)
    return dn.lasso(fit, progress=False), fit


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.mark.parametrize("width", [180, 85])
def test_lines_are_the_path(found, width):
    selection, _ = found
    figure = plots.plot_lasso_path(selection, width=width)
    coefficients, criterion = figure.axes
    lines = {line.get_gid(): line for line in coefficients.lines if line.get_gid()}
    assert set(lines) == set(selection.path.columns[3:])
    chosen = {name for term in selection.terms for name in term.names}
    assert {"mu_x1", "mu_x4"} <= chosen < set(lines)
    for name, line in lines.items():
        np.testing.assert_array_equal(line.get_xdata(), np.arange(len(selection.path)))
        np.testing.assert_array_equal(line.get_ydata(), selection.path[name])
        assert (line.get_color() == "#999999") == (name not in chosen)
    shown = selection.steps.dropna()
    np.testing.assert_array_equal(criterion.lines[0].get_ydata(), shown["BIC"])
    at = {size: i for i, size in enumerate(selection.path["SIZE"])}
    np.testing.assert_array_equal(criterion.lines[0].get_xdata(), [at[size] for size in shown["SIZE"]])
    which = at[selection.steps.loc[selection.steps["DECISION"] == "chosen", "SIZE"].iloc[0]]
    for ax in figure.axes:
        assert any(line.get_label() == "chosen" and line.get_xdata()[0] == which for line in ax.lines)
        low, high = ax.get_xlim()
        assert low < 0.0 < len(selection.path) - 1 < high
        ticks = dict(zip(ax.get_xticks(), [t.get_text() for t in ax.get_xticklabels()], strict=True))
        assert ticks == {i: f"{selection.path['LAMBDA'].iloc[int(i)]:.2g}" for i in ticks} and ticks[0] == "1"
    words = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"mu ~ x1", "mu ~ x4", "not chosen", "chosen"} <= words


def test_given_axes_and_mistakes(found):
    selection, fit = found
    _, axes = plt.subplots(1, 2)
    assert plots.plot_lasso_path(selection, axes=axes) is axes[0].figure
    with pytest.raises(dn.ModelError, match="Invalid `selection`: got Screening"):
        plots.plot_lasso_path(dn.screen(fit))
    with pytest.raises(dn.ModelError, match="Invalid `selection`: got Fit"):
        plots.plot_lasso_path(fit)
