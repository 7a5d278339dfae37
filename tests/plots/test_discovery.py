"""Pictures of learned functions and of formulas show the numbers they were given."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import deepnlme as dn
from deepnlme.discovery import EffectCurves
from deepnlme.discovery.distillation import ranked
from deepnlme.discovery.forms import library
from deepnlme.discovery.points import Points
from deepnlme.plots.discovery import plot_distillation, plot_effect_curves
from pictures import line, rendered


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def curves(inputs=("cp", "R"), subjects=3):
    value = np.linspace(0.0, 1.0, 5)
    average, individual = [], []
    for name in inputs:
        average.append(pd.DataFrame({"INPUT": name, "VALUE": value, "EFFECT": value**2, "LOW": value**2 - 0.1,
                                     "HIGH": value**2 + 0.1}))  # fmt: skip
        individual += [pd.DataFrame({"INPUT": name, "VALUE": value, "ID": i, "EFFECT": value**2 + 0.05 * i})
                       for i in range(subjects)]  # fmt: skip
    seen = pd.DataFrame({name: np.linspace(0.0, 1.0, 500) for name in inputs})
    return EffectCurves("net", inputs, pd.concat(average), pd.concat(individual), seen, 0.9, "subjects")


@pytest.mark.parametrize("width", [180, 85])
def test_effect_curves(width):
    given = curves()
    figure = rendered(plot_effect_curves(given, width=width))
    assert [ax.get_xlabel() for ax in figure.axes] == ["cp", "R"] and figure.axes[0].get_ylabel() == "net"
    for ax in figure.axes:
        x, y = line(ax, "average").get_data()
        np.testing.assert_allclose(y, np.asarray(x) ** 2)
        assert len(line(ax, "seen").get_xdata()) == 200
        assert sum(one.get_color() == "#999999" for one in ax.lines) == 3
        (band,) = ax.collections
        assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(1.1)


def found(two=False):
    generator = np.random.default_rng(0)
    x = generator.uniform(0.0, 1.0, (60, 2 if two else 1))
    y = 2.9 * x[:, 0] ** 1.5 / (0.3**1.5 + x[:, 0] ** 1.5) - (2.0 * x[:, 1] if two else 0.0)
    names = ("cp", "R") if two else ("cp",)
    p = Points(names, x, y, np.zeros(len(names)))
    return ranked("effect", 0, library(p), p, 0.02)


@pytest.mark.parametrize("width", [180, 85])
def test_distillation(width):
    d = found()
    left, right = rendered(plot_distillation(d, width=width)).axes
    front = np.transpose(line(left, "Pareto front").get_data())
    np.testing.assert_allclose(front, [(c.complexity, max(100 * c.error, 0.01)) for c in d.front])
    assert line(left, "knee").get_xdata()[0] == d.knee.complexity == 13
    x, y = line(right, "sigmoid Emax").get_data()
    np.testing.assert_allclose(y, d.knee(np.asarray(x)), rtol=1e-12)
    np.testing.assert_allclose(np.sort(line(right, "network").get_ydata()), np.sort(d.points.y))


def test_distillation_of_two_inputs():
    d = found(two=True)
    _, right = rendered(plot_distillation(d)).axes
    np.testing.assert_allclose(line(right, "network").get_xdata(), d.points.y)
    np.testing.assert_allclose(line(right, "network").get_ydata(), d.points.values(d.knee.formula))


def test_what_is_not_to_be_drawn():
    with pytest.raises(dn.ModelError, match=r"dn\.effect_curves"):
        plot_effect_curves(3)  # type: ignore[arg-type]
    with pytest.raises(dn.ModelError, match=r"dn\.distil"):
        plot_distillation(3)  # type: ignore[arg-type]
