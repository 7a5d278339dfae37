"""Random effects against covariates, and the forest plot of covariate effects."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from torch import exp

import deepnlme as dn
from deepnlme import plots
from pictures import line, notes, rendered


class Decline(dn.Model):
    base = dn.Positive(5.0, unit="mg/L")
    slope = dn.Positive(0.3, unit="1/h")
    sd = dn.Positive(0.2, unit="mg/L")
    eta = dn.RandomEffects("base", "slope", omega=[0.09, 0.04])

    def individual(self, theta, eta, cov):
        return dict(base=theta.base * exp(eta.base), slope=theta.slope * exp(eta.slope))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.base * exp(-p.slope * x.time), theta.sd))


@pytest.fixture(scope="module")
def fit():
    """Weight changes with time, sex is a text, `dose` a code, race has groups of few."""
    rng = np.random.default_rng(2)
    people = []
    for i in range(24):
        weight = 70.0 * np.exp(0.2 * rng.standard_normal())
        times = np.array([0.5, 2.0, 4.0])
        values = 5.0 * np.exp(0.3 * rng.standard_normal()) * (weight / 70) * np.exp(-0.3 * times)
        covariates = dict(
            wt=([0.5, 2.0], [weight, weight + 10.0]),
            sex=["male", "female"][i % 2],
            dose=float(50 * (i % 3)),
            race=["black", "white"][i > 2],
        )
        people.append(dn.Subject(i + 1, None, (times, values), covariates))
    return dn.evaluate_ofv(Decline(), dn.Population(people))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_eta_covariates(fit):
    figure = rendered(plots.plot_eta_covariates(fit, units={"wt": "kg"}))
    grid, etas = np.array(figure.axes).reshape(2, 4), fit.etas()
    assert [ax.get_xlabel() for ax in grid[1]] == ["wt [kg]", "sex", "dose", "race"]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == [
        f"eta {name}\nshrinkage {fit.shrinkage[name]:.0f}%" for name in ("base", "slope")
    ]
    r = fit.population.records
    baseline = r.covariates["wt"][fit.population.starts[:-1]]
    assert baseline[0] != r.covariates["wt"][2]
    for row, name in zip(grid, ("base", "slope"), strict=True):
        points = line(row[0], "EBEs")
        np.testing.assert_array_equal(points.get_xdata(), baseline)
        np.testing.assert_array_equal(points.get_ydata(), etas[f"ETA_{name}"])
        assert notes(row[0]) == [f"r {np.corrcoef(baseline, etas[f'ETA_{name}'])[0, 1]:.2f}"]
        assert len(line(row[0], "smooth").get_xdata()) == 100


def test_eta_covariates_by_group(fit):
    """Boxes with the quartiles of each group; where a group has fewer than five values, its points only."""
    ax = {a.get_xlabel(): a for a in plots.plot_eta_covariates(fit, effects=["base"]).axes}
    eta = fit.etas()["ETA_base"].to_numpy()
    names = [text.get_text().split()[0] for text in ax["sex"].get_xticklabels()]
    assert names == ["female", "male"]
    for axis, groups in (("sex", [eta[1::2], eta[0::2]]), ("dose", [eta[0::3], eta[1::3], eta[2::3]])):
        points = [item for item in ax[axis].lines if item.get_marker() == "o"]
        boxes = [item.get_ydata() for item in ax[axis].lines if len(item.get_xdata()) == 5]
        for points_of, box, values in zip(points, boxes, groups, strict=True):
            np.testing.assert_array_equal(points_of.get_ydata(), values)
            np.testing.assert_allclose([box.min(), box.max()], np.quantile(values, [0.25, 0.75]), rtol=1e-12)
    assert sum(len(item.get_xdata()) == 5 for item in ax["race"].lines) == 1  # three are too few for a box


def test_eta_covariates_of_the_occasion():
    class Varying(Decline):
        eta = dn.RandomEffects("base", omega=0.09)
        kappa = dn.RandomEffects("shift", omega=0.05, by="occasion")

        def individual(self, theta, eta, cov):
            return dict(base=theta.base * exp(eta.base + eta.shift), slope=theta.slope)

    people = [
        dn.Subject(
            i, None, ([0.5, 1.0, 4.0, 5.0], [4.0 + i / 9, 3.0, 1.5, 1.2]), {"crcl": ([0.5, 4.0], [50.0 + i, 90.0 - i])},
            occasions=[0.0, 3.0], interpolation="locf",
        ) for i in range(1, 9)
    ]  # fmt: skip
    fit = dn.evaluate_ofv(Varying(), dn.Population(people), dn.Laplace())
    subject, occasion = rendered(plots.plot_eta_covariates(fit)).axes
    assert list(line(subject, "EBEs").get_xdata()) == [50.0 + i for i in range(1, 9)]
    assert list(line(occasion, "EBEs").get_xdata()) == [x for i in range(1, 9) for x in (50.0 + i, 90.0 - i)]
    etas = fit.etas()
    expected = etas[["ETA_shift@1", "ETA_shift@2"]].to_numpy().ravel()
    np.testing.assert_array_equal(line(occasion, "EBEs").get_ydata(), expected)


def test_eta_covariates_refuse(fit):
    with pytest.raises(dn.ModelError, match="`covariates`: got 'age', expected some of wt, sex, dose, race"):
        plots.plot_eta_covariates(fit, ["age"])
    with pytest.raises(dn.ModelError, match="`units`: got 'age'"):
        plots.plot_eta_covariates(fit, units={"age": "years"})
    bare = dn.Population([dn.Subject(i, None, ([1.0, 2.0], [3.0, 2.0 + i / 9])) for i in range(3)])
    with pytest.raises(dn.ModelError, match="no covariates"):
        plots.plot_eta_covariates(dn.evaluate_ofv(Decline(), bare))
    figure, grid = plt.subplots(1, 2)
    assert plots.plot_eta_covariates(fit, ["wt"], axes=grid) is figure


TABLE = pd.DataFrame(
    [
        ("wt", 50.0, "cl", 0.78, 0.70, 0.85),
        ("wt", 90.0, "cl", 1.21, 1.10, 1.40),
        ("sex", "male", "cl", 1.05, 0.97, 1.13),
        ("wt", 50.0, "v", 0.71, np.nan, np.nan),
    ],
    columns=["COVARIATE", "VALUE", "PARAMETER", "RATIO", "LOW", "HIGH"],
)


@pytest.mark.parametrize("width", [180, 85])
def test_covariate_effects(width):
    table = TABLE.copy()
    table.attrs.update(reference={"wt": 70.0, "age": 40.0, "sex": "female"}, level=0.9, between=False)
    (ax,) = rendered(plots.plot_covariate_effects(table, units={"wt": "kg"}, width=width)).axes
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["cl", "wt 50 kg", "wt 90 kg", "sex male", "v", "wt 50 kg"]
    assert [t.get_fontweight() for t in ax.get_yticklabels()] == ["bold", *["normal"] * 3, "bold", "normal"]
    assert notes(ax) == ["0.78 (0.70-0.85)", "1.21 (1.10-1.40)", "1.05 (0.97-1.13)", "0.71"]
    dots = [item for item in ax.lines if item.get_label() == "ratio"]
    assert [float(item.get_xdata()[0]) for item in dots] == list(TABLE["RATIO"])
    rows = [place for place, name in zip(ax.get_yticks(), labels, strict=True) if name not in ("cl", "v")]
    assert [float(item.get_ydata()[0]) for item in dots] == rows == [1.0, 2.0, 3.0, 5.0]
    assert ax.get_ylim()[0] > 5.0 and ax.get_ylim()[1] < 0.0
    lines = [item for item in ax.lines if item.get_label() == "interval"]
    assert [list(item.get_xdata()) for item in lines] == TABLE[["LOW", "HIGH"]].dropna().to_numpy().tolist()
    assert ax.get_xscale() == "log" and {"0.8", "1", "1.25"} <= {t.get_text() for t in ax.get_xticklabels()}
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((0.8, 1.25))
    text = ax.get_xlabel().replace("\n", " ")
    assert text == "Ratio to the reference: wt 70 kg, sex female (90% confidence interval)"


def test_covariate_effects_without_a_band_and_in_given_axes():
    figure, ax = plt.subplots()
    assert plots.plot_covariate_effects(TABLE, band=None, axes=ax) is figure
    assert not ax.patches and ax.get_xlabel() == "Ratio to the reference"


def test_covariate_effects_refuse():
    with pytest.raises(dn.ModelError, match="`table`: got a table with RATIO"):
        plots.plot_covariate_effects(TABLE[["RATIO"]])
    with pytest.raises(dn.ModelError, match="`table`: got no rows"):
        plots.plot_covariate_effects(TABLE[:0])
    with pytest.raises(dn.ModelError, match="not positive"):
        plots.plot_covariate_effects(TABLE.assign(LOW=-0.1))
    with pytest.raises(dn.ModelError, match="`band`"):
        plots.plot_covariate_effects(TABLE, band=(1.25, 0.8))
    with pytest.raises(dn.ModelError, match="`band`: got 2"):
        plots.plot_covariate_effects(TABLE, band=2)
