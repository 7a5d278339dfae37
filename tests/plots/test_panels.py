"""Parts that pictures share, and random effects in pairs."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from torch import exp

import deepnlme as dn
from deepnlme import plots
from deepnlme.plots import panels
from pictures import line, notes, rendered


class Pair(dn.Model):
    """Two correlated effects between subjects, one that changes with the occasion."""

    base = dn.Positive(5.0, unit="mg/L")
    slope = dn.Positive(0.3, unit="1/h")
    sd = dn.Positive(0.2, unit="mg/L")
    eta = dn.RandomEffects("base", "slope", omega=[[0.09, 0.03], [0.03, 0.04]], block=True)
    kappa = dn.RandomEffects("shift", omega=0.05, by="occasion")

    def individual(self, theta, eta, cov):
        return dict(base=theta.base * exp(eta.base + eta.shift), slope=theta.slope * exp(eta.slope))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base * exp(-p.slope * x.time), theta.sd))


@pytest.fixture(scope="module")
def fit():
    """Subjects with one, two and three occasions."""
    rng = np.random.default_rng(4)
    people = []
    for i in range(9):
        times = np.array([0.5, 1.5, 4.0, 6.0, 8.0, 9.0])[: 2 * (1 + i % 3)]
        values = 5.0 * np.exp(0.3 * rng.standard_normal() - 0.3 * times) + 0.2 * rng.standard_normal(len(times))
        people.append(dn.Subject(i + 1, None, (times, values), occasions=[0.0, 3.0, 7.0][: 1 + i % 3]))
    return dn.evaluate_ofv(Pair(), dn.Population(people), dn.Laplace())


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_eta_pairs(fit):
    figure = rendered(plots.plot_eta_pairs(fit))
    etas = fit.etas()
    grid = np.array(figure.axes).reshape(3, 3)
    points = line(grid[1, 0], "EBEs")
    np.testing.assert_array_equal(points.get_xdata(), etas["ETA_base"])
    np.testing.assert_array_equal(points.get_ydata(), etas["ETA_slope"])
    r = np.corrcoef(etas["ETA_base"], etas["ETA_slope"])[0, 1]
    assert notes(grid[1, 0]) == [f"r {r:.2f}, omega {0.03 / np.sqrt(0.09 * 0.04):.2f}"]
    assert [ax.get_xlabel() for ax in grid[2]] == ["eta base", "eta slope", "eta shift"]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["", "eta slope", "eta shift"]
    assert not any(ax.axison for ax in grid[np.triu_indices(3, 1)])
    for i, name in enumerate(("base", "slope", "shift")):
        assert notes(grid[i, i]) == [f"shrinkage {fit.shrinkage[name]:.0f}%"]
        bold = grid[i, i].texts[0].get_fontweight() == "bold"
        assert bold == (fit.shrinkage[name] > 30)
        assert sum(bar.get_width() * bar.get_height() for bar in grid[i, i].patches) == pytest.approx(1.0)


def test_eta_pairs_have_a_point_for_each_occasion_that_a_subject_has(fit):
    ax = plots.plot_eta_pairs(fit, ["base", "shift"]).axes[2]
    etas = fit.etas()
    expected = [(row["ETA_base"], row[f"ETA_shift@{o + 1}"]) for i, row in etas.iterrows() for o in range(1 + i % 3)]
    np.testing.assert_array_equal(line(ax, "EBEs").get_xydata(), expected)


def test_eta_pairs_ellipse_holds_95_percent_of_omega(fit):
    """Points of the ellipse lie at one Mahalanobis distance, whose square has probability 0.95 (chi2, 2 df)."""
    ax = plots.plot_eta_pairs(fit, ["base", "slope"]).axes[2]
    x = line(ax, "95% of N(0, omega)").get_xydata()
    distance = np.einsum("ni,ij,nj->n", x, np.linalg.inv([[0.09, 0.03], [0.03, 0.04]]), x)
    np.testing.assert_allclose(distance, -2 * np.log(0.05), rtol=1e-6)


def test_many_effects_are_named(fit):
    class Many(Pair):
        eta = dn.RandomEffects("base", "slope", omega=0.1)
        latent = dn.RandomEffects(6, omega=0.1)

        def individual(self, theta, eta, cov):
            base = theta.base * exp(eta.base + eta.shift + eta.latent.sum(-1))
            return dict(base=base, slope=theta.slope * exp(eta.slope))

    many = dn.evaluate_ofv(Many(), fit.population, dn.Laplace())
    figure = rendered(plots.plot_eta_pairs(many))
    assert len(figure.axes) == 36
    assert figure.get_supxlabel() == "6 of 9 effects; choose with `effects`"
    assert len(rendered(plots.plot_eta_pairs(many, width=85)).axes) == 9
    assert plots.plot_eta_pairs(many, ["latent6", "base"]).axes[0].get_ylabel() == ""


def test_eta_pairs_refuse(fit):
    with pytest.raises(dn.ModelError, match="`effects`: got 'ka', expected some of base, slope, shift"):
        plots.plot_eta_pairs(fit, ["ka"])
    for draw in (plots.plot_eta_pairs, plots.plot_convergence, plots.plot_goodness_of_fit, plots.plot_individual_fits):
        with pytest.raises(dn.ModelError, match="`fit`: got Pair"):
            draw(Pair())
    with pytest.raises(dn.ModelError, match="no random effects"):
        plots.plot_eta_pairs(dn.evaluate_ofv(Pair(), fit.population, dn.NaivePooled()))
    figure, grid = plt.subplots(2, 2)
    assert plots.plot_eta_pairs(fit, ["base", "slope"], axes=grid) is figure
    with pytest.raises(dn.ModelError, match="got 4, expected 9"):
        plots.plot_eta_pairs(fit, axes=grid)


def ticks(ax):
    low, high = ax.get_ylim()
    ax.figure.canvas.draw()
    return [t.label1.get_text() for t in ax.yaxis.get_major_ticks() if low <= t.get_loc() <= high]


def test_logarithmic_axes_have_plain_numbers():
    for limits, expected in (
        ((17.0, 34.0), ["20", "30"]),
        ((0.8, 12.0), ["1", "2", "5", "10"]),
        ((0.05, 300.0), ["0.1", "1", "10", "100"]),
        ((2.2, 2.6), ["2.2", "2.4", "2.6"]),
        ((5.1, 9.1), ["6", "8"]),
    ):
        _, ax = plt.subplots()
        ax.set_ylim(*limits)
        panels.log_axis(ax, "y")
        assert ticks(ax) == expected


def test_curves_have_a_legend(fit):
    for figure in (plots.plot_eta_pairs(fit), plots.plot_eta_distributions(fit)):
        (legend,) = rendered(figure).legends
        assert [text.get_text() for text in legend.get_texts()][:2] == ["EBEs", "N(0, omega)"]


def test_limits_point_to_where_the_value_is():
    _, ax = plt.subplots()
    panels.limits(ax, np.arange(4.0), np.arange(4.0), np.array([0, 1, -1, 1]))
    below, above = line(ax, "censored"), line(ax, "censored above")
    assert below.get_marker() == "v" and list(below.get_xdata()) == [1.0, 3.0]
    assert above.get_marker() == "^" and list(above.get_xdata()) == [2.0]


def test_names_of_groups_slant_where_they_would_touch():
    _, axes = plt.subplots(1, 2, figsize=(4, 2))
    for ax, names in zip(axes, (["f", "m"], ["Caucasian", "African", "Asian", "other"]), strict=True):
        panels.boxes(ax, [np.arange(6.0)] * len(names), names)
    assert [t.get_text() for t in axes[0].get_xticklabels()] == ["f\n(6)", "m\n(6)"]
    assert axes[1].get_xticklabels()[0].get_text() == "Caucasian (6)"
    assert axes[0].get_xticklabels()[0].get_rotation() == 0 and axes[1].get_xticklabels()[0].get_rotation() == 40


def test_pictures_that_overlap_are_noticed():
    """The check that the other tests rely on."""
    figure, ax = plt.subplots(figsize=(1, 1))
    ax.set_xticks([0, 0.1], ["one", "two"])
    ax.set_xlim(0, 1)
    with pytest.raises(AssertionError):
        rendered(figure)
