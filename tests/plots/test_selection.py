"""The picture of selections shows the effects of the tables and frames what was selected."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle

import deepnlme as dn
from covariate_people import QUIET, Bolus, boluses
from deepnlme import plots


@pytest.fixture(scope="module")
def found():
    fit = dn.fit(Bolus(), boluses(), options=QUIET)
    return {"stepwise": dn.scm(fit, {"v": ["wt", "age"]}, progress=False), "screening": dn.screen(fit)}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.mark.parametrize("width", [180, 85])
def test_cells_are_the_effects(found, width):
    figure = plots.plot_selection(found, width=width)
    ax = figure.axes[0]
    columns = [t.get_text().replace("\n", " ") for t in ax.get_xticklabels()]
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert columns == ["stepwise", "screening"] and len(rows) == 8
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t for t in ax.texts}
    framed = {
        (round(p.get_y() + p.get_height() / 2), round(p.get_x() + p.get_width() / 2))
        for p in ax.patches
        if isinstance(p, Rectangle)
    }
    selected = set()
    for j, name in enumerate(columns):
        table = found[name].table
        labels = table["PARAMETER"] + " ~ " + table["COVARIATE"]
        assert sum(column == j for _, column in written) == len(table)
        for label, effect, on in zip(labels, table["EFFECT"], table["SELECTED"], strict=True):
            i = rows.index(label)
            assert written[i, j].get_text() == f"{effect:.2f}"
            assert (written[i, j].get_fontweight() == "bold") == on
            selected |= {(i, j)} if on else set()
    assert framed == selected and len(selected) >= 3 and rows[0] == "v ~ wt"
    figure.canvas.draw()
    right, top = figure.canvas.get_width_height()
    boxes = [t.get_window_extent() for t in (*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels())]
    boxes.append(figure.axes[1].xaxis.label.get_window_extent())
    assert all(b.x0 >= -1 and b.y0 >= -1 and b.x1 <= right + 1 and b.y1 <= top + 1 for b in boxes)
    heads = sorted((t.get_window_extent() for t in ax.get_xticklabels()), key=lambda b: b.x0)
    assert heads[0].x1 < heads[1].x0


def test_given_axes_and_mistakes(found):
    _, ax = plt.subplots()
    assert plots.plot_selection(found["screening"], axes=ax) is ax.figure
    assert ax.get_xticklabels()[0].get_text().startswith("Screening")
    with pytest.raises(dn.ModelError, match="Invalid `selections`: got Bolus"):
        plots.plot_selection([Bolus()])
    with pytest.raises(dn.ModelError, match="Invalid `selections`: got none"):
        plots.plot_selection({})
