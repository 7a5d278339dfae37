"""Pictures of checks by simulation show their tables."""

import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

import deepnlme as dn
from dataset_files import dataset
from deepnlme import plots
from simulated_people import TIMES, Bolus, Count, Oral, Survival, bolus_people, drawn


@pytest.fixture(scope="module")
def sets():
    population = dn.read_nonmem(dataset("theophylline"), covariates=["wt"])
    return dn.simulate(Oral(), population, replicates=60)


@pytest.fixture(scope="module")
def censored():
    return dn.simulate(Bolus(), drawn(Bolus(), bolus_people(), limit=0.5), replicates=60)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def rendered(figure):
    """Draws the figure; no text of it, the legend included, may lie outside."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for ax in figure.axes:
        texts += [ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title, *ax.texts]
    for text in texts:
        if text.get_text():
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text
    return figure


def lines(ax, label):
    return [item for item in ax.lines if item.get_label() == label]


def corners(ax):
    """(left, low, right, high) of every box."""
    boxes = [item.get_datalim(ax.transData) for item in ax.collections]
    return {(round(b.x0, 6), round(b.y0, 6), round(b.x1, 6), round(b.y1, 6)) for b in boxes}


def test_quantiles_and_intervals_are_those_of_the_table(sets):
    found = dn.vpc(sets)
    figure = rendered(plots.plot_vpc(found))
    (ax,) = figure.axes
    assert ax.get_xlabel() == "Time [h]" and ax.get_ylabel() == "DV [mg/L]"
    rows = found.table[["X_LOW", "SIM_LOW", "X_HIGH", "SIM_HIGH"]].to_numpy(float).round(6)
    assert corners(ax) == {tuple(row) for row in rows.tolist()}
    median = found.table[found.table["QUANTILE"] == 0.5]
    (line,) = lines(ax, "obs. median")
    np.testing.assert_array_equal(line.get_xdata(), median["X_MID"])
    np.testing.assert_array_equal(line.get_ydata(), median["OBSERVED"])
    assert len(lines(ax, "obs. quantiles")) == 2
    assert len(lines(ax, "data")[0].get_xdata()) == 132
    outside = sum(len(item.get_xdata()) for item in lines(ax, "outside"))
    assert outside == found.table["OUTSIDE"].sum() > 0
    assert not lines(plots.plot_vpc(found, points=False).axes[0], "data")
    assert figure.get_figwidth() == pytest.approx(180 / 25.4)


def test_strata_corrections_and_scales(sets):
    found = dn.vpc(sets, stratify="wt", cuts={"wt": [70]}, prediction_corrected=True, bins=3)
    figure = rendered(plots.plot_vpc(found, scale="log", width=120))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["wt < 70", "wt >= 70"]
    for ax, label in zip(figure.axes, found.strata, strict=True):
        assert ax.get_yscale() == "log" and ax.get_ylabel() == "pred.-corrected DV [mg/L]"
        own = found.observed[found.observed["STRATUM"] == label]
        assert len(lines(ax, "data")[0].get_xdata()) == (own["DV"] > 0).sum() < len(own)
        assert f"{(own['DV'] <= 0).sum()} not positive" in ax.texts[0].get_text()
    wide = dn.vpc(sets, prediction_corrected=True, variability_corrected=True, x="PRED", bins=3)
    figure = rendered(plots.plot_vpc(wide, width=85, units={"dv": "ug/mL"}))
    assert figure.axes[0].get_xlabel() == "PRED [ug/mL]"
    assert figure.axes[0].get_ylabel() == "pred.- and var.-corrected DV [ug/mL]"
    assert rendered(plots.plot_vpc(dn.vpc(sets, x="TAD"))).axes[0].get_xlabel() == "Time after dose [h]"


def test_censored_observations_have_a_second_panel(censored):
    found = dn.vpc(censored, bins="unique", quantiles=(0.05, 0.5, 0.75, 0.95))
    assert (np.isnan(found.table["SIM_LOW"]) & np.isfinite(found.table["SIM_HIGH"])).any()
    for width in (180, 85):
        figure = rendered(plots.plot_vpc(found, scale="log", width=width))
        upper, lower = figure.axes
        assert lower.get_ylabel() == "Share below LLOQ" and lines(upper, "LLOQ")[0].get_ydata()[0] == 0.5
        assert len(lines(upper, "censored")[0].get_xdata()) == (found.observed["CENS"] == 1).sum()
        assert min(low for _, low, _, _ in corners(upper)) == 0.5
        rows = found.blq[["X_LOW", "SIM_LOW", "X_HIGH", "SIM_HIGH"]].to_numpy(float).round(6)
        assert corners(lower) == {tuple(row) for row in rows.tolist()}


def test_an_interval_of_which_one_end_is_known_is_seen(censored):
    """Under prediction correction the limit is not one number, and no box can be drawn down to it."""
    found = dn.vpc(censored, bins="unique", prediction_corrected=True, stratify="arm")
    known = np.isfinite(found.table[["SIM_LOW", "SIM_MEDIAN", "SIM_HIGH"]].to_numpy())
    tops = found.table[~known[:, 0] & ~known[:, 1] & known[:, 2]]
    panels = dict(zip(found.strata, rendered(plots.plot_vpc(found)).axes, strict=False))
    assert len(tops)
    for row in tops.to_dict("records"):
        assert any((line.get_ydata() == row["SIM_HIGH"]).all() for line in panels[row["STRATUM"]].lines)


def test_intervals_reach_to_an_upper_limit():
    people = drawn(Bolus(), bolus_people(), upper=8.0)
    found = dn.vpc(dn.simulate(Bolus(), people, replicates=60), bins="unique")
    cut = found.table[np.isfinite(found.table["SIM_LOW"]) & np.isnan(found.table["SIM_HIGH"])]
    upper, lower = rendered(plots.plot_vpc(found)).axes
    tops = {(low, high) for _, low, _, high in corners(upper)}
    assert len(cut) and {(round(low, 6), 8.0) for low in cut["SIM_LOW"]} <= tops
    assert lower.get_ylabel() == "Share above ULOQ" and lines(upper, "ULOQ")[0].get_ydata()[0] == 8.0
    corrected = dn.vpc(dn.simulate(Bolus(), people, replicates=60), bins="unique", prediction_corrected=True)
    known = np.isfinite(corrected.table[["SIM_LOW", "SIM_HIGH"]]).any(axis=1).sum()
    assert len(corners(rendered(plots.plot_vpc(corrected)).axes[0])) == known


def test_counts_have_a_panel_for_each_class():
    people = drawn(Count(), dn.Population([dn.Subject(i, None, (TIMES, np.ones(6))) for i in range(40)]))
    found = dn.vpc(dn.simulate(Count(), people, replicates=40), classes=[0, 2])
    figure = rendered(plots.plot_vpc(found))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["n = 0", "n = 1 - 2", "n > 2"]
    for ax, name in zip(figure.axes, ("0", "1 - 2", "> 2"), strict=True):
        own = found.table[found.table["CATEGORY"] == name]
        np.testing.assert_array_equal(lines(ax, "observed")[0].get_ydata(), own["OBSERVED"])


def test_events_are_drawn_as_steps():
    end = np.random.default_rng(0).uniform(5, 25, 60)
    people = drawn(Survival(), dn.Population([dn.Subject(i, None, ([0.0], [1.0])) for i in range(60)]), upper=end)
    found = dn.vpc(dn.simulate(Survival(), people, replicates=40))
    (ax,) = rendered(plots.plot_vpc(found)).axes
    (line,) = lines(ax, "observed")
    np.testing.assert_array_equal(line.get_ydata(), found.table["OBSERVED"])
    assert line.get_drawstyle() == "steps-post"
    (ticks,) = lines(ax, "censored")
    assert len(ticks.get_xdata()) == (found.observed["CENS"] == -1).sum() > 5
    for t, height in zip(ticks.get_xdata(), ticks.get_ydata(), strict=True):
        assert height == found.table["OBSERVED"][found.table["TIME"] <= t].iloc[-1]


@pytest.mark.parametrize("width", [180, 85])
def test_npde(sets, width):
    found = dn.npde(sets)
    figure = rendered(plots.plot_npde(found, width=width))
    quantiles, histogram, time, epred = figure.axes
    np.testing.assert_array_equal(lines(quantiles, "data")[0].get_ydata(), np.sort(found.table["NPDE"]))
    assert sum(bar.get_width() * bar.get_height() for bar in histogram.patches) == pytest.approx(1.0)
    for ax, column in ((time, "TIME"), (epred, "EPRED")):
        np.testing.assert_array_equal(lines(ax, "data")[0].get_xdata(), found.table[column])
        assert ax.get_ylabel() == "NPDE"
    assert time.get_xlabel() == "Time [h]" and epred.get_xlabel() == "EPRED [mg/L]"
    assert f"global p {found.tests.GLOBAL_P[0]:.3g}" in histogram.texts[0].get_text()


def test_axes_of_the_caller_and_refusals(sets, censored):
    figure, grid = plt.subplots(2, 2)
    assert plots.plot_npde(dn.npde(sets, decorrelation="none"), axes=grid) is figure
    assert plots.plot_vpc(dn.vpc(sets), axes=grid[0, 0]) is figure
    with pytest.raises(dn.ModelError, match="`axes`: got 1, expected 2"):
        plots.plot_vpc(dn.vpc(censored), axes=grid[0, 0])
    with pytest.raises(dn.ModelError, match="`vpc`: got Simulation"):
        plots.plot_vpc(sets)
    with pytest.raises(dn.ModelError, match="`npde`: got Simulation"):
        plots.plot_npde(sets)
    with pytest.raises(dn.ModelError, match="`scale`"):
        plots.plot_vpc(dn.vpc(sets), scale="sqrt")
    with pytest.raises(dn.ModelError, match="`units`"):
        plots.plot_vpc(dn.vpc(sets), units={"y": "mg"})
    with pytest.raises(dn.ModelError, match="`level`: got 95"):
        plots.plot_npde(dn.npde(sets), level=95)
    with pytest.raises(dn.ModelError, match="`endpoint`: got 'cp'"):
        plots.plot_npde(dn.npde(sets), endpoint="cp")


def test_missing_matplotlib_names_the_extra(sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(dn.MissingExtraError, match=r"pip install 'deepnlme\[plots\]'"):
        plots.plot_vpc(dn.vpc(sets))
