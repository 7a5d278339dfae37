"""Pictures show what the fit says: counts of points, labels, levels; and the curves are the model's predictions."""

import dataclasses
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from torch import exp

import contract_models as contract
import deepnlme as dn
from deepnlme import plots
from deepnlme.plots.curves import curves
from deepnlme.plots.smooth import local_linear
from pictures import line, notes, rendered

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
QUIET = dn.Options(progress=False)


class Theophylline(dn.Model):
    ka = dn.Positive(1.59, unit="1/h")
    cl = dn.Positive(2.75, unit="L/h")
    v = dn.Positive(31.8, unit="L")
    add_sd = dn.Positive(0.69, unit="mg/L")
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.add_sd))


class Varied(dn.Model):
    """Covariates and occasions that change, censoring, two endpoints, boluses, infusions and a reset."""

    cl = dn.Positive(2.0, unit="L/h")
    v = dn.Positive(20.0, unit="L")
    cp_sd = dn.Positive(0.5, unit="mg/L")
    half_sd = dn.Positive(0.3, unit="%")
    eta = dn.RandomEffects("v", omega=0.04)
    kappa = dn.RandomEffects("cl", omega=0.09, by="occasion")
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * (cov.crcl / 100) * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        cp = x.central / p.v
        return dict(cp=dn.Normal(cp, theta.cp_sd), half=dn.Normal(0.5 * cp, theta.half_sd))


def varied_population(interpolation="nocb"):
    rows = []
    for id in (1, 2, 3):
        for time, evid, amt, rate, crcl, occ, dvid, dv, cens in (
            (0, 1, 100, 0, 90, 1, 0, None, 0),
            (2, 0, 0, 0, 80, 1, "cp", 4.1, 0),
            (6, 0, 0, 0, 110, 1, "half", 1.4, 0),
            (12, 1, 150, 50, 100, 2, 0, None, 0),
            (16, 0, 0, 0, 70, 2, "cp", 6.0, 0),
            (30, 0, 0, 0, 70, 2, "cp", 1.0, 1),
            (1, 4, 100, 0, 60, 2, 0, None, 0),
            (5, 0, 0, 0, 60, 2, "cp", 4.2, 0),
        ):
            dv = None if dv is None else dv * (1 + 0.1 * id * (cens == 0))
            rows.append(
                dict(ID=id, TIME=time, EVID=evid, AMT=amt, RATE=rate, CRCL=crcl, OCC=occ, DVID=dvid, DV=dv, CENS=cens)
            )
    return dn.read_nonmem(pd.DataFrame(rows), covariates=["crcl"], interpolation=interpolation)


@pytest.fixture(scope="module")
def population():
    return dn.read_nonmem(DATASETS / "theophylline" / "data.csv")


@pytest.fixture(scope="module")
def fit(population):
    return dn.fit(Theophylline(), population, options=QUIET)


@pytest.fixture(scope="module")
def varied():
    return dn.evaluate_ofv(Varied(), varied_population(), dn.Laplace())


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


GOF = ("PRED", "DV"), ("IPRED", "DV"), ("TIME", "CWRES"), ("PRED", "CWRES"), ("IPRED", "IWRES")


def test_goodness_of_fit(fit):
    figure = rendered(plots.plot_goodness_of_fit(fit))
    table = fit.predictions()
    axes = figure.axes
    assert len(axes) == 6
    for ax, (x, y) in zip(axes[:5], GOF, strict=True):
        points = line(ax, "observed")
        np.testing.assert_array_equal(points.get_xdata(), table[x])
        np.testing.assert_array_equal(points.get_ydata(), table[y].abs() if y == "IWRES" else table[y])
    assert [ax.get_xlabel() for ax in axes] == [
        "PRED [mg/L]", "IPRED [mg/L]", "Time [h]", "PRED [mg/L]", "IPRED [mg/L]", "N(0, 1) quantile",
    ]  # fmt: skip
    assert [ax.get_ylabel() for ax in axes] == ["DV [mg/L]", "DV [mg/L]", "CWRES", "CWRES", "|IWRES|", "CWRES"]
    levels = [sorted(i.get_ydata()[0] for i in ax.lines if i.get_label().startswith("_")) for ax in axes[2:5]]
    assert levels[0] == levels[1] == pytest.approx([-1.96, 0, 1.96], abs=1e-3)
    assert levels[2] == pytest.approx([0.798, 1.96], abs=1e-3)  # mean and 95% quantile of |N(0, 1)|
    assert figure.get_figwidth() == pytest.approx(180 / 25.4)


def test_goodness_of_fit_quantiles_of_residuals(fit):
    """Ordered CWRES at the normal quantiles of (i - 1/2)/n; the band holds 95% of each order statistic."""
    ax = rendered(plots.plot_goodness_of_fit(fit)).axes[5]
    cwres = fit.predictions()["CWRES"]
    n, points = len(cwres), line(ax, "observed")
    np.testing.assert_array_equal(points.get_ydata(), np.sort(cwres))
    np.testing.assert_allclose(points.get_xdata(), stats.norm.ppf((np.arange(1, n + 1) - 0.5) / n), rtol=1e-12)
    assert notes(ax) == [f"mean {cwres.mean():.2f}, sd {cwres.std():.2f}"]
    band = ax.collections[0].get_paths()[0].vertices
    sample = np.sort(np.random.default_rng(1).standard_normal((4000, n)), 1)
    for i in (0, n // 2, n - 1):
        ends = np.unique(np.round(band[np.isclose(band[:, 0], points.get_xdata()[i]), 1], 12))
        inside = np.mean((sample[:, i] > ends.min()) & (sample[:, i] < ends.max()))
        assert inside == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))


def test_goodness_of_fit_on_a_logarithm_says_what_is_hidden(fit):
    figure = rendered(plots.plot_goodness_of_fit(fit, scale="log", width=85, units={"dv": "ug/mL"}))
    table = fit.predictions()
    shown = ((table.DV > 0) & (table.PRED > 0)).sum()
    assert len(line(figure.axes[0], "observed").get_xdata()) == shown < len(table)
    assert notes(figure.axes[0]) == [f"{len(table) - shown} not positive, not shown"]
    assert [ax.get_xscale() for ax in figure.axes] == ["log", "log", "linear", "log", "log", "linear"]
    assert figure.axes[0].get_xlabel() == "PRED [ug/mL]"
    assert figure.get_figwidth() == pytest.approx(85 / 25.4)


def test_goodness_of_fit_of_one_endpoint_with_censoring(varied):
    figure = rendered(plots.plot_goodness_of_fit(varied))
    assert len(line(figure.axes[0], "observed").get_xdata()) == 9
    assert len(line(figure.axes[0], "censored").get_xdata()) == 3
    assert [len(line(ax, "observed").get_xdata()) for ax in figure.axes[2:]] == [9] * 4
    assert figure.axes[0].get_ylabel() == "cp [mg/L]"
    other = plots.plot_goodness_of_fit(varied, endpoint="half")
    assert other.axes[0].get_ylabel() == "half [%]" and len(line(other.axes[0], "observed").get_xdata()) == 3


def test_goodness_of_fit_without_normal_residuals(population):
    class Robust(Theophylline):
        def observe(self, theta, p, x):
            return dict(dv=dn.StudentT(x.central / p.v, theta.add_sd, 5.0))

    figure = rendered(plots.plot_goodness_of_fit(dn.evaluate_ofv(Robust(), population, dn.Laplace())))
    assert all("not normal" in notes(ax)[0] for ax in figure.axes[2:])


def test_individual_fits(fit):
    figure = rendered(plots.plot_individual_fits(fit, subjects=[3, 1, 12, 9]))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["ID 3", "ID 1", "ID 12", "ID 9"]
    for ax, id in zip(figure.axes, (3, 1, 12, 9), strict=True):
        assert len(line(ax, "observed").get_xdata()) == 11
        assert len(line(ax, "IPRED").get_xdata()) > 150
        assert list(line(ax, "dose").get_xdata()) == [0.0]
        mine = fit.predictions()
        mine = mine[id == mine.ID]
        at = np.interp(mine.TIME, line(ax, "IPRED").get_xdata(), line(ax, "IPRED").get_ydata())
        np.testing.assert_allclose(at, mine.IPRED, atol=1e-9)
    assert figure.axes[2].get_xlabel() == "Time [h]" and figure.axes[0].get_ylabel() == "DV [mg/L]"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["PRED", "IPRED", "observed", "dose"]


def test_individual_fits_count_and_additional_doses(population):
    class Repeated(Theophylline):
        pass

    doses = dn.Dose(100, ii=12, addl=3)
    one = dn.Population([dn.Subject(i, doses, ([1.0, 30.0], [2.0, 3.0])) for i in range(1, 4)])
    figure = rendered(plots.plot_individual_fits(dn.evaluate_ofv(Repeated(), one), subjects=2, scale="log"))
    assert len(figure.axes) == 2
    assert list(line(figure.axes[0], "dose").get_xdata()) == [0.0, 12.0, 24.0]


def test_individual_fits_of_subjects_without_an_observation_of_the_endpoint():
    """The curve is drawn all the same, also on a logarithmic axis."""
    frame = contract.two_endpoints().to_frame()
    frame = frame[~((frame["ID"] == 1) & (frame["DVID"] == "effect"))]
    fit = dn.evaluate_ofv(contract.TwoEndpoints(), dn.read_nonmem(frame))
    for scale in ("linear", "log"):
        ax = rendered(plots.plot_individual_fits(fit, endpoint="effect", scale=scale)).axes[0]
        drawn = line(ax, "IPRED").get_ydata()
        top = np.nanmax(drawn)
        assert top == pytest.approx(curves(fit, np.array([0]), "effect")[0].ipred.max())
        assert np.isfinite(drawn).mean() > 0.9 and ax.get_ylim()[1] > top


def test_doses_stand_above_the_curve():
    """Also where it hardly varies but begins at zero on the axis."""
    fit = dn.evaluate_ofv(contract.TwoEndpoints(), contract.two_endpoints())
    for ax in rendered(plots.plot_individual_fits(fit, endpoint="effect")).axes:
        assert ax.get_ylim()[0] == 0.0 and line(ax, "IPRED").get_ydata().max() < 0.9 * ax.get_ylim()[1]


def test_many_doses_are_marked_to_the_end(population):
    doses = dn.Dose(100, ii=12, addl=1500)
    one = dn.Population([dn.Subject(1, doses, ([1.0, 18000.0], [2.0, 3.0]))])
    ax = plots.plot_individual_fits(dn.evaluate_ofv(Theophylline(), one)).axes[0]
    marks = line(ax, "dose").get_xdata()
    assert 300 < len(marks) <= 500 and marks[0] == 0.0 and marks[-1] > 17900.0


def test_individual_fits_by_page(fit):
    titles = []
    for page in (1, 2, 3):
        titles += [ax.get_title(loc="left") for ax in plots.plot_individual_fits(fit, 5, page=page).axes]
    assert titles == [f"ID {i}" for i in range(1, 13)]
    with pytest.raises(dn.ModelError, match=r"`page`: got 4, expected 1 to 3: 12 subjects, 5 on a page"):
        plots.plot_individual_fits(fit, 5, page=4)
    with pytest.raises(dn.ModelError, match="beside ids"):
        plots.plot_individual_fits(fit, [1, 2], page=2)


def test_individual_fits_with_bands(fit):
    """The bands are those of `fit.predict` at the same times."""
    figure = rendered(plots.plot_individual_fits(fit, [2, 5], interval=0.9))
    for ax, id in zip(figure.axes, (2, 5), strict=True):
        seen = {item.get_label(): item.get_paths()[0].vertices for item in ax.collections}
        assert list(seen) == ["90% of observations", "90% of IPRED"]
        table = fit.predict(times={id: [1.0, 5.0, 20.0]}, level=0.9)
        for column, vertices in zip(("DV", "IPRED"), seen.values(), strict=True):
            half = len(vertices) // 2  # the outline goes along the lower end and back along the upper one
            low = vertices[1:half]
            found = np.interp(table["TIME"], low[:, 0], low[:, 1])
            np.testing.assert_allclose(found, table[f"{column}_LOW"], rtol=2e-3)
    with pytest.raises(dn.ModelError, match="`level`"):
        plots.plot_individual_fits(fit, 2, interval=90)


def test_bands_step_at_a_dose():
    class Bolus(dn.Model):
        cl, v, sd = dn.Positive(2.0), dn.Positive(20.0), dn.Positive(0.1)
        eta = dn.RandomEffects("v", omega=0.04)
        dynamics = dn.OneCompartment()

        def individual(self, theta, eta, cov):
            return dict(cl=theta.cl, v=theta.v * exp(eta.v))

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(x.central / p.v, theta.sd))

    one = dn.Population([dn.Subject(1, dn.Dose(100, ii=12, addl=1), ([2.0, 20.0], [4.0, 4.0]))])
    ax = plots.plot_individual_fits(dn.evaluate_ofv(Bolus(), one), interval=0.9).axes[0]
    outline = ax.collections[1].get_paths()[0].vertices
    low = outline[1 : len(outline) // 2]
    before, after = (low[side, 1] for side in (low[:, 0] < 12, low[:, 0] >= 12))
    assert after[0] > before[-1] + 3.0 and low[:, 0][low[:, 0] < 12][-1] > 12 - 1e-5


class Delayed(dn.Model):
    """A lag time, a modelled duration, and random effects on both."""

    cl, v, sd = dn.Positive(2.0), dn.Positive(20.0), dn.Positive(0.5)
    lag, duration = dn.Positive(0.5), dn.Positive(3.0)
    eta = dn.RandomEffects("lag", "duration", omega=0.1)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        lag, duration = theta.lag * exp(eta.lag), theta.duration * exp(eta.duration)
        return dict(cl=theta.cl, v=theta.v, lag=lag, duration=duration)

    def dosing(self, theta, p):
        return dict(central=dn.Dosing(lag=p.lag, duration=p.duration))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


def test_doses_with_lag_and_modelled_duration():
    """Triangles where doses are given; lines from the lag on, as long as the subject's own duration."""
    rows = [
        dict(ID=i, TIME=t, EVID=e, AMT=a, RATE=r, DV=y)
        for i in (1, 2)
        for t, e, a, r, y in (
            (0, 1, 100, -2, None), (2, 0, 0, 0, 2 + i), (10, 0, 0, 0, 2), (12, 1, 120, 30, None), (15, 0, 0, 0, 4),
        )
    ]  # fmt: skip
    fit = dn.evaluate_ofv(Delayed(), dn.read_nonmem(pd.DataFrame(rows)))
    figure = rendered(plots.plot_individual_fits(fit))
    for ax, id in zip(figure.axes, (1, 2), strict=True):
        own = fit.individual(id)
        assert list(line(ax, "dose").get_xdata()) == [0.0, 12.0]
        (bars,) = (item for item in ax.collections if item.get_label() == "input")
        spans = [segment[:, 0].tolist() for segment in bars.get_segments()]
        expected = [[own["lag"], own["lag"] + own["duration"]], [12 + own["lag"], 15.0]]
        np.testing.assert_allclose(spans, expected, rtol=1e-12)
    assert fit.individual(1)["lag"] != fit.individual(2)["lag"]


def test_curves_begin_anew_where_the_clock_goes_back(varied):
    ax = rendered(plots.plot_individual_fits(varied, 1)).axes[0]
    drawn = line(ax, "IPRED").get_xydata()
    gap = np.flatnonzero(np.isnan(drawn[:, 0]))
    assert len(gap) == 1 and drawn[gap[0] - 1, 0] == 30.0 and drawn[gap[0] + 1, 0] == 1.0
    assert list(line(ax, "dose").get_xdata()) == [0.0, 1.0, 12.0]
    (bars,) = (item for item in ax.collections if item.get_label() == "input")
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[12.0, 15.0]]


@pytest.mark.parametrize("rule", ["nocb", "locf", "linear"])
def test_curves_pass_through_the_models_predictions(rule):
    """Records that are added leave covariates, occasions, infusions, resets and every endpoint as they were."""
    fit = dn.evaluate_ofv(Varied(), varied_population(rule), dn.Laplace())
    table = fit.predictions()
    found = curves(fit, np.array([2, 0]), "cp"), curves(fit, np.array([2, 0]), "half")
    for endpoint, drawn in zip(("cp", "half"), found, strict=True):
        for id, curve in zip((3, 1), drawn, strict=True):
            assert (len(curve.time) > 150) == (rule != "linear")
            for row in table[table["ID"].eq(id) & table["DVID"].eq(endpoint)].itertuples():
                same = np.flatnonzero(curve.time == row.TIME)
                assert np.abs(curve.ipred[same] - row.IPRED).min() < 1e-9
                assert np.abs(curve.pred[same] - row.PRED).min() < 1e-9


def test_curves_jump_at_a_dose():
    fit = dn.evaluate_ofv(Varied(), varied_population(), dn.Laplace())
    curve = curves(fit, np.array([0]), "cp")[0]
    at = np.flatnonzero(np.diff(curve.time) == 0)
    assert 12.0 in curve.time[at]


def test_eta_distributions(fit):
    figure = rendered(plots.plot_eta_distributions(fit))
    for ax, name in zip(figure.axes, ("ka", "cl", "v"), strict=True):
        assert ax.get_xlabel() == f"eta {name}"
        assert ax.get_title(loc="right") == f"shrinkage {fit.shrinkage[name]:.0f}%"
        density = line(ax, "N(0, omega)").get_ydata()
        assert density.max() == pytest.approx(1 / np.sqrt(2 * np.pi * fit.omega.loc[name, name]), rel=1e-3)
        area = sum(bar.get_width() * bar.get_height() for bar in ax.patches)
        assert area == pytest.approx(1.0)


def test_eta_distributions_by_occasion_take_all_occasions(varied):
    figure = rendered(plots.plot_eta_distributions(varied))
    assert [ax.get_xlabel() for ax in figure.axes] == ["eta v", "eta cl"]
    ticks = next(item for item in figure.axes[1].lines if item.get_marker() == "|")
    assert len(ticks.get_xdata()) == 6


def test_convergence(fit):
    figure = rendered(plots.plot_convergence(fit))
    left, right = figure.axes
    np.testing.assert_array_equal(line(left, "FOCEI").get_ydata(), fit.trace.ofv)
    np.testing.assert_array_equal(line(right, "expected improvement").get_ydata(), fit.trace.decrement)
    assert line(right, "tolerance").get_ydata()[0] == fit.options.tolerance
    assert left.get_ylabel() == "OFV (FOCEI)" and right.get_yscale() == "log"


def test_convergence_with_nothing_left_to_gain(fit):
    """A logarithmic axis has no zero; it would go down to the smallest number there is."""
    trace = dataclasses.replace(fit.trace, decrement=[*fit.trace.decrement[:-1], 0.0])
    right = rendered(plots.plot_convergence(dataclasses.replace(fit, trace=trace))).axes[1]
    assert right.get_ylim()[0] > 1e-20


def test_convergence_with_priors_and_subjects_kept_aside():
    """The penalised objective where there is a prior; the OFV per subject where some were kept aside."""

    class Line(dn.Model):
        sd = dn.Positive(0.5)
        f = dn.MLP(1, (2,), prior=dn.L2(1.0))

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(theta.f(x.time), theta.sd))

    time = np.arange(4.0)
    noise = [0.1 * np.cos(7 * i + time) for i in range(6)]
    people = dn.Population([dn.Subject(i, None, (time, np.sin(time) + noise[i])) for i in range(6)])
    whole = dn.fit(Line(), people, options=dn.Options(progress=False))
    left = rendered(plots.plot_convergence(whole)).axes[0]
    np.testing.assert_allclose(
        line(left, "FOCEI + penalty").get_ydata(), np.array(whole.trace.ofv) + np.array(whole.trace.penalty)
    )
    parted = dn.fit(Line(), people, options=dn.Options(progress=False, held_out=2 / 6))
    left = rendered(plots.plot_convergence(parted)).axes[0]
    np.testing.assert_allclose(line(left, "fitted").get_ydata(), np.array(parted.trace.ofv) / 4)
    aside = np.array(parted.trace.held_out)
    np.testing.assert_allclose(line(left, "kept aside").get_ydata(), aside[np.isfinite(aside)] / 2)
    assert left.get_ylabel() == "OFV per subject (FOCEI)"


def test_axes_of_the_caller(fit):
    figure, grid = plt.subplots(2, 3)
    assert plots.plot_goodness_of_fit(fit, axes=grid) is figure
    figure, grid = plt.subplots(1, 3)
    assert plots.plot_eta_distributions(fit, axes=grid) is figure
    assert plots.plot_individual_fits(fit, 3, axes=grid) is figure
    assert plots.plot_convergence(fit, axes=grid[:2]) is figure
    with pytest.raises(dn.ModelError, match="got 2, expected 3"):
        plots.plot_individual_fits(fit, 3, axes=grid[:2])


def test_refusals(fit, population):
    with pytest.raises(dn.ModelError, match="`endpoint`: got 'pca'"):
        plots.plot_goodness_of_fit(fit, endpoint="pca")
    with pytest.raises(dn.ModelError, match="`scale`"):
        plots.plot_individual_fits(fit, scale="sqrt")
    with pytest.raises(dn.ModelError, match="`subjects`: got 99"):
        plots.plot_individual_fits(fit, subjects=[99])
    with pytest.raises(dn.ModelError, match="`units`: got 'y'"):
        plots.plot_goodness_of_fit(fit, units={"y": "mg"})
    with pytest.raises(dn.ModelError, match="no iterations"):
        plots.plot_convergence(dn.evaluate_ofv(Theophylline(), population))
    with pytest.raises(dn.ModelError, match="no random effects"):
        plots.plot_eta_distributions(dn.evaluate_ofv(Theophylline(), population, dn.NaivePooled()))


def test_missing_matplotlib_names_the_extra(fit, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(dn.MissingExtraError, match=r"pip install 'deepnlme\[plots\]'"):
        plots.plot_goodness_of_fit(fit)


def test_settings_of_the_caller_stay(fit):
    before = plt.rcParams["font.size"]
    plots.plot_goodness_of_fit(fit)
    assert plt.rcParams["font.size"] == before


def test_smooth_is_exact_for_lines():
    x = np.linspace(0, 3, 20)
    np.testing.assert_allclose(local_linear(x, 2 * x - 1, np.array([0.0, 1.5, 3.0])), [-1, 2, 5], atol=1e-12)
    np.testing.assert_allclose(local_linear(np.zeros(5), np.arange(5.0), np.zeros(1)), [2.0])


def test_smooth_of_many_points_uses_some_of_them():
    x = np.random.default_rng(0).uniform(0, 3, 60_000)
    np.testing.assert_allclose(local_linear(x, 2 * x - 1, np.array([0.5, 2.5])), [0, 4], atol=1e-9)
