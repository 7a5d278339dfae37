"""Pictures of virtual trials draw what was simulated."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from torch import exp

import deepnlme as dn
from deepnlme import plots
from pictures import line, notes, rendered


class Oral(dn.Model):
    ka = dn.Positive(1.5, unit="1/h")
    cl = dn.Positive(2.7, unit="L/h")
    v = dn.Positive(31.0, unit="L")
    sd = dn.Positive(0.3, unit="mg/L")
    eta = dn.RandomEffects("cl", "v", omega=[0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


TIMES = np.linspace(0, 24, 25)
ARMS = {"placebo": None, "100 mg": dn.Dose(100), "300 mg": dn.Dose(300), "600 mg": dn.Dose(600)}


@pytest.fixture(scope="module")
def sim():
    return dn.simulate(Oral(), dn.virtual_population(40, arms=ARMS), times=TIMES, replicates=3)


@pytest.fixture(scope="module")
def exposures(sim):
    return dn.exposure(sim)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def of_arm(sim, what, name):
    table = sim.table()
    return table.loc[table["arm"] == name].pivot_table(index=["REP", "ID"], columns="TIME", values=what).to_numpy()


@pytest.mark.parametrize(("of", "label"), [("ipred", "IPRED [mg/L]"), ("dv", "DV [mg/L]")])
def test_a_panel_for_each_of_many_arms(sim, of, label):
    figure = rendered(plots.plot_simulation(sim, of=of, interval=0.8))
    assert [ax.get_title("left") for ax in figure.axes] == list(ARMS)
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    for ax, name in zip(figure.axes, ARMS, strict=True):
        values = of_arm(sim, of.upper(), name)
        assert line(ax, "median").get_xdata() == pytest.approx(TIMES)
        assert line(ax, "median").get_ydata() == pytest.approx(np.median(values, axis=0))
        edges = [item.get_ydata() for item in ax.lines if item.get_label() == "_edge"]
        assert edges == [pytest.approx(np.quantile(values, q, axis=0)) for q in (0.1, 0.9)]
        assert ax.get_xlabel() == "Time [h]" and ax.get_ylabel() == label
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["80% of values", "median"]


def test_few_arms_share_a_panel(sim):
    some = dn.simulate(Oral(), sim.population[np.arange(80, 160)], times=TIMES)
    figure = rendered(plots.plot_simulation(some, width=85))
    (ax,) = figure.axes
    assert line(ax, "300 mg").get_ydata() == pytest.approx(np.median(of_arm(some, "IPRED", "300 mg"), axis=0))
    assert line(ax, "600 mg").get_color() != line(ax, "300 mg").get_color()


def test_without_arms_on_a_log_scale_with_data(sim):
    data = pd.DataFrame(dict(ID=1, TIME=[0.0, 1, 2, 5, 9], EVID=[1, 0, 0, 0, 0], AMT=[300.0, 0, 0, 0, 0]))
    data["DV"] = [np.nan, 0.0, 9.0, 7.0, 3.0]
    figure = rendered(plots.plot_simulation(sim, by=None, scale="log", observed=dn.read_nonmem(data)))
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    assert line(ax, "data").get_xdata().tolist() == [2, 5, 9]
    median = np.median(sim.values("ipred").reshape(-1, 25), axis=0)
    assert line(ax, "median").get_ydata() == pytest.approx(np.where(median > 0, median, np.nan), nan_ok=True)


def test_observations_of_an_arm_are_in_its_panel(sim):
    data = pd.DataFrame(dict(ID=[1, 1, 2], TIME=[1.0, 2, 3], DV=[1.0, 2, 3], arm=["100 mg", "100 mg", "600 mg"]))
    figure = plots.plot_simulation(sim, observed=dn.read_nonmem(data, covariates=["arm"]))
    seen = {ax.get_title("left"): line(ax, "data").get_xdata().tolist() for ax in figure.axes}
    assert seen == {"placebo": [], "100 mg": [1, 2], "300 mg": [], "600 mg": [3]}


class Two(Oral):
    def observe(self, theta, p, x):
        return dict(cp=dn.Normal(x.central / p.v, theta.sd), effect=dn.Normal(10 - x.central / p.v, theta.sd))


def test_observations_of_numbered_endpoints_are_found():
    """DVID 1, 2 stand for the model's endpoints by position, as in a fit."""
    two = dn.simulate(Two(), dn.virtual_population(5, dn.Dose(100)), times=TIMES)
    data = dn.read_nonmem(pd.DataFrame(dict(ID=1, TIME=[1.0, 1.0, 4.0], DV=[3.0, 7.0, 8.0], DVID=[1, 2, 2])))
    for name, expected in (("cp", [3.0]), ("effect", [7.0, 8.0])):
        (ax,) = plots.plot_simulation(two, endpoint=name, observed=data).axes
        assert line(ax, "data").get_ydata().tolist() == expected
    with pytest.raises(dn.DataError, match=r"Invalid endpoint: got 'ce'.*expected one of cp, effect"):
        plots.plot_simulation(two, observed=dn.read_nonmem(pd.DataFrame(dict(ID=1, TIME=[1.0], DV=3.0, DVID="ce"))))


def test_groups_of_one_label_are_one_group():
    """Values that a label cannot tell apart are drawn together, not in part."""
    people = dn.virtual_population(4, dn.Dose(100), covariates={"dose": [1e6, 1e6 + 0.1, 1e6 + 0.2, 3.0]})
    sim = dn.simulate(Oral(), people, times=TIMES)
    (ax,) = plots.plot_simulation(sim, by="dose").axes
    assert line(ax, "1e+06").get_ydata() == pytest.approx(np.median(sim.values()[0, :3], axis=0))


def test_a_median_of_zero_is_not_lost_in_silence(sim):
    figure = rendered(plots.plot_simulation(sim, scale="log"))
    assert notes(figure.axes[0]) == ["not positive"]


def test_exposures(exposures):
    figure = rendered(plots.plot_exposure(exposures, ["AUC", "CMAX"], units={"AUC": "mg h/L"}, width=180))
    for ax, name in zip(figure.axes, ("AUC", "CMAX"), strict=True):
        medians = [item.get_ydata()[0] for item in ax.lines if item.get_color() == "#000000" and item.get_lw() == 1.0]
        expected = [exposures.loc[exposures["arm"] == arm, name].median() for arm in ARMS]
        assert medians == pytest.approx(expected)
        assert [tick.get_text() for tick in ax.get_xticklabels()] == list(ARMS)
    assert [ax.get_ylabel() for ax in figure.axes] == ["AUC [mg h/L]", "CMAX"]


def test_exposures_on_a_log_scale_against_a_target(exposures):
    figure = rendered(plots.plot_exposure(exposures, target=(50, 150), scale="log"))
    (ax,) = figure.axes
    assert notes(ax) == ["120 not positive, not shown"]
    assert [y for item in ax.lines if item.get_ls() == "--" for y in set(item.get_ydata())] == [50, 150]


def test_attainment_by_arm(exposures):
    table = dn.target_attainment(exposures, {"AUC": (50, 150)})
    figure = rendered(plots.plot_target_attainment(table, probability=0.9))
    (ax,) = figure.axes
    points, _, (bars,) = ax.containers[0]
    assert points.get_ydata() == pytest.approx(100 * table["PROPORTION"])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends == pytest.approx(100 * table[["LOW", "HIGH"]].to_numpy())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(ARMS)
    assert line(ax, "90% wanted").get_ydata() == [90, 90]


def test_attainment_by_dose():
    found = dn.find_dose(
        Oral(), [1, 2, 4], dn.Dose(100.0, ii=24, ss=1), {"CAVG": (2, 4)}, times=TIMES, n=100, replicates=20,
        choose="best", probability=0.5,
    )  # fmt: skip
    figure = rendered(plots.plot_target_attainment(found, units={"DOSE": "100 mg"}))
    (ax,) = figure.axes
    points = ax.containers[0][0]
    assert points.get_xdata() == pytest.approx([1, 2, 4])
    assert points.get_ydata() == pytest.approx(100 * found.table["PROPORTION"])
    assert line(ax, f"recommended: {found.recommended:g}").get_xdata() == [found.recommended] * 2
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(100 * found.table["REP_HIGH"].max())
    assert ax.get_xlabel() == "Dose [100 mg]" and ax.get_ylabel() == "People with\n2 <= CAVG <= 4 [%]"


def test_attainment_of_two_groups(exposures):
    exposures = exposures.assign(sex=np.where(exposures["ID"] % 2 == 0, "f", "m"))
    table = dn.target_attainment(exposures, {"AUC": (50, 150)}, by=["arm", "sex"])
    (ax,) = rendered(plots.plot_target_attainment(table)).axes
    labels = [container.get_label() for container in ax.containers]
    assert labels == ["m", "f"]
    for container, sex in zip(ax.containers, labels, strict=True):
        expected = 100 * table.loc[table["sex"] == sex, "PROPORTION"]
        assert container[0].get_ydata() == pytest.approx(expected)


def test_axes_of_the_caller(sim, exposures):
    figure, axes = plt.subplots(1, 4)
    assert plots.plot_simulation(sim, axes=axes) is figure
    assert plots.plot_exposure(exposures, axes=axes[0]) is figure
    assert plots.plot_target_attainment(dn.target_attainment(exposures, {"AUC": (1, 2)}), axes=axes[1]) is figure
    with pytest.raises(dn.ModelError, match="got 2, expected 4: one for each panel"):
        plots.plot_simulation(sim, axes=axes[:2])


def test_mistakes(sim, exposures):
    ragged = dn.simulate(Oral(), sim.population[:2], times={1: [0, 1], 2: [0, 2]})
    for draw, message in (
        (lambda: plots.plot_simulation(sim, by="sex"), "`by`: got 'sex'. The covariates are arm"),
        (lambda: plots.plot_simulation(sim, interval=90), "`interval`: got 90"),
        (lambda: plots.plot_simulation(sim, scale="sqrt"), "`scale`: got 'sqrt'"),
        (lambda: plots.plot_simulation(sim, of="pred"), "got 'pred'"),
        (lambda: plots.plot_simulation(ragged), "`sim`: got subjects with different times"),
        (lambda: plots.plot_exposure(sim), "`exposures`: got Simulation"),
        (lambda: plots.plot_exposure(exposures, "CLAST"), "`what`: got 'CLAST'. The table has REP"),
        (lambda: plots.plot_exposure(exposures, by="dose"), "`by`: got 'dose'"),
        (lambda: plots.plot_target_attainment(exposures), "`attainment`: got columns REP"),
        (lambda: plots.plot_target_attainment(5), "`attainment`: got int"),
    ):
        with pytest.raises(dn.ModelError) as error:
            draw()
        assert message in str(error.value)
    many = dn.simulate(Oral(), dn.virtual_population(20, covariates={"wt": dn.LogNormal(70, 0.2)}), times=TIMES)
    with pytest.raises(dn.ModelError, match="`by`: got 'wt', which has 20 values"):
        plots.plot_simulation(many, by="wt")
    whole = dn.target_attainment(exposures, {"AUC": (1, 2)}, by=None)
    with pytest.raises(dn.ModelError, match="got 0 columns of groups"):
        plots.plot_target_attainment(whole)
