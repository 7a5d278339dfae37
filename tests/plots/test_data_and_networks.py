"""The picture of the data has every observation; that of a network has its values."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from torch import exp

import contract_models as contract
import deepnlme as dn
import network_models as networks
from deepnlme import plots
from pictures import line, rendered


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def lines_of(ax, label):
    """The pieces of a line between its gaps."""
    x, y = line(ax, label).get_data()
    gaps = np.flatnonzero(np.isnan(np.asarray(y, dtype=float)))
    pieces = np.split(np.column_stack([x, y]), gaps)
    return [piece[np.isfinite(piece[:, 1])] for piece in pieces]


@pytest.mark.parametrize("width", [180, 85])
def test_one_line_for_each_subject(width):
    fit = dn.evaluate_ofv(contract.Oral(), contract.plain())
    (ax,) = rendered(plots.plot_observations(fit, width=width)).axes
    records = fit.population.records
    seen = records.observed
    found = lines_of(ax, "one subject")
    assert len(found) == 4
    for i, piece in enumerate(found):
        own = seen & (records.subject == i)
        np.testing.assert_array_equal(piece, np.column_stack([records.time[own], records.dv[own]]))
    assert len(line(ax, "observed").get_xdata()) == seen.sum()
    assert ax.get_ylim()[0] == 0.0 and ax.get_ylabel() == "DV" and ax.get_xlabel() == "Time"


def test_censored_ones_are_triangles():
    fit = dn.evaluate_ofv(contract.Oral(), contract.censored("below"))
    (ax,) = rendered(plots.plot_observations(fit)).axes
    cens = fit.population.records.cens
    assert (line(ax, "censored").get_ydata() == 2.0).all() and len(line(ax, "censored").get_xdata()) == (
        cens == 1
    ).sum()
    assert len(line(ax, "observed").get_xdata()) == (fit.population.records.observed & (cens == 0)).sum()


def test_endpoints_and_a_logarithmic_axis():
    fit = dn.evaluate_ofv(contract.TwoEndpoints(), contract.two_endpoints())
    (ax,) = rendered(plots.plot_observations(fit, endpoint="effect")).axes
    r = fit.population.records
    mine = r.observed & (r.endpoint == "effect")
    assert len(line(ax, "observed").get_xdata()) == mine.sum() and ax.get_ylabel() == "effect"
    (ax,) = rendered(plots.plot_observations(fit, scale="log")).axes
    assert ax.get_yscale() == "log"
    with pytest.raises(dn.ModelError, match="`endpoint`: got 'cx'"):
        plots.plot_observations(fit, endpoint="cx")
    with pytest.raises(dn.ModelError, match="`scale`"):
        plots.plot_observations(fit, scale="ln")
    with pytest.raises(dn.ModelError, match="`fit`: got Population"):
        plots.plot_observations(fit.population)


def test_values_that_a_logarithm_has_not_are_counted():
    frame = contract.records(contract.TIMES)
    frame.loc[frame.index[frame["EVID"] == 0][:3], "DV"] = [0.0, -1.0, 0.0]
    fit = dn.evaluate_ofv(contract.Oral(), dn.read_nonmem(frame))
    (ax,) = rendered(plots.plot_observations(fit, scale="log")).axes
    assert [text.get_text() for text in ax.texts] == ["3 not positive, not shown"]
    assert plots.plot_observations(fit).axes[0].get_ylim()[0] < -1.0


def test_the_clock_may_turn_back():
    """After a reset the line of a subject begins anew."""
    frame = contract.records([[1.0, 4.0, 9.0], [1.0, 2.0]])
    again = frame[frame["ID"] == 1].assign(EVID=lambda f: np.where(f["EVID"] == 1, 4, 0))
    both = np.concatenate([frame[frame["ID"] == 1], again, frame[frame["ID"] == 2]])
    table = frame.__class__(both, columns=frame.columns).astype(float).astype({"ID": int, "EVID": int})
    fit = dn.evaluate_ofv(contract.Oral(), dn.read_nonmem(table))
    found = lines_of(plots.plot_observations(fit).axes[0], "one subject")
    assert [len(piece) for piece in found] == [3, 3, 2]


class Learned(contract.Oral):
    """Clearance is a network of two covariates; its second output is volume."""

    size = dn.MLP(inputs=2, hidden=(3,), outputs=2, typical=(2.7, 18.0), prior=dn.L2(1.0), seed=3)
    eta = dn.RandomEffects("ka", omega=0.1)

    def individual(self, theta, eta, cov):
        cl, v = theta.size(cov.WT, cov.AGE)
        return dict(ka=theta.ka * exp(eta.ka), cl=cl, v=v)


@pytest.mark.parametrize("width", [180, 85])
def test_curves_are_the_network(width):
    """Against the same network written out neuron by neuron, other inputs at their mean."""
    frame = contract.records(contract.TIMES)
    frame["WT"], frame["AGE"] = 60.0 + 5.0 * frame["ID"], 30.0 + frame["ID"] ** 2
    fit = dn.evaluate_ofv(Learned(), dn.read_nonmem(frame, covariates=["WT", "AGE"]))
    figure = rendered(plots.plot_network(fit, "size", width=width))
    net = fit.model.networks["size"]
    center = np.array(net.scaling.input_center)
    first = frame.groupby("ID")[["WT", "AGE"]].first()
    assert center == pytest.approx(first.mean().to_numpy(), rel=0.05)
    assert len(figure.axes) == 2
    for i, ax in enumerate(figure.axes):
        for m, label in enumerate(("size output 1", "size output 2")):
            drawn = line(ax, label).get_xydata()
            assert drawn[:, 0].mean() == pytest.approx(center[i])
            assert np.ptp(drawn[:, 0]) == pytest.approx(4.0 * net.scaling.input_scale[i])
            for x, y in drawn[::25]:
                at = center.copy()
                at[i] = x
                assert y == pytest.approx(networks.by_hand(net, fit.weights["size"], at)[m], rel=1e-10)
    with pytest.raises(dn.ModelError, match=r"`name`: got 'other'\. The networks of the model are size"):
        plots.plot_network(fit, "other")
    with pytest.raises(dn.ModelError, match=r"\(none\)"):
        plots.plot_network(dn.evaluate_ofv(contract.Oral(), contract.plain()))


def test_a_flat_line_looks_flat():
    _, ax = plt.subplots()
    ax.plot([0, 1], [5.0, 5.0 + 1e-7])
    from deepnlme.plots.networks import _settled

    _settled(ax)
    low, high = ax.get_ylim()
    assert high - low == pytest.approx(0.05, rel=1e-3)
