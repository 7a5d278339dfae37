"""The picture of influence shows the numbers of the table."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import contract_models as contract
import deepnlme as dn
from deepnlme import plots


@pytest.fixture(scope="module")
def found():
    times = [[0.5, 1.0, 3.0, 8.0], [0.3, 2.0, 6.0], [1.0, 4.0, 9.0]] * 4
    model = contract.PowerError(a=dn.Positive(0.33, fixed=True))
    fit = dn.fit(model, dn.read_nonmem(contract.records(times, seed=5)), options=dn.Options(progress=False))
    return dn.influence(fit.with_covariance("R"))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.mark.parametrize("width", [180, 85])
def test_the_points_are_the_numbers(found, width):
    figure = plots.plot_influence(found, labels=2, width=width)
    left, right = figure.axes
    drawn = np.concatenate([line.get_xydata() for line in left.lines if line.get_marker() == "o"])
    assert sorted(map(tuple, drawn)) == [(i + 1, c) for i, c in enumerate(found.cook)]
    values = found.dfbetas.to_numpy()
    points = np.concatenate([line.get_xydata() for line in right.lines if line.get_marker() == "o"])
    names = [text.get_text() for text in right.get_yticklabels()]
    places = dict(zip(names, right.get_yticks(), strict=True))
    assert names == list(found.dfbetas.columns)
    for j, name in enumerate(names):
        np.testing.assert_allclose(sorted(points[points[:, 1] == places[name], 0]), sorted(values[:, j]))
    top = [str(found.ids[i]) for i in np.argsort(-found.cook)[:2]]
    for ax in (left, right):
        assert sorted(text.get_text() for text in ax.texts if "region" not in text.get_text()) == sorted(top)
    assert right.get_xlabel() == "Change without the subject [SE, R]"
    assert figure.get_figwidth() == pytest.approx(width / 25.4)
    figure.canvas.draw()
    right_edge, upper = figure.canvas.get_width_height()
    for ax in figure.axes:
        for text in (ax.xaxis.label, ax.yaxis.label, *ax.texts, *(right.get_yticklabels() if ax is right else ())):
            if not text.get_text():
                continue
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= right_edge + 1 and box.y1 <= upper + 1, text


def test_the_limit_is_drawn_where_it_is_near(found):
    from dataclasses import replace

    large = replace(found, cook=found.cook * found.limit / found.cook.max())
    lines = [line for line in plots.plot_influence(large).axes[0].lines if line.get_linestyle() == "--"]
    assert lines[0].get_ydata()[0] == found.limit
    small = plots.plot_influence(replace(found, cook=found.cook / found.cook.max())).axes[0]
    assert not [line for line in small.lines if line.get_linestyle() == "--"]
    assert f"{found.limit:.3g}" in small.texts[0].get_text()


def test_some_subjects_keep_their_places(found):
    some = dn.influence(found.fit, subjects=[7, 2, 12])
    (left, _) = plots.plot_influence(some).axes
    drawn = np.concatenate([line.get_xydata() for line in left.lines if line.get_marker() == "o"])
    assert dict(map(tuple, drawn)) == dict(zip((7, 2, 12), some.cook, strict=True))


def test_axes_of_the_caller(found):
    figure, grid = plt.subplots(2, 1)
    assert plots.plot_influence(found, axes=grid) is figure
    with pytest.raises(dn.ModelError, match="Invalid `axes`: got 1"):
        plots.plot_influence(found, axes=grid[:1])
    with pytest.raises(dn.ModelError, match=r"Invalid `found`: got Fit\. It is an influence"):
        plots.plot_influence(found.fit)
