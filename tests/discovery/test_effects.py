"""Curves of a learned function against slow loops over subjects, places and values."""

import numpy as np
import pandas as pd
import pytest
from torch import exp

import deepnlme as dn
from deepnlme.discovery import effect_curves, visited


class Learned(dn.Model):
    """The prediction is a network's of time and a covariate, with a random effect."""

    sd = dn.Positive(0.3)
    net = dn.MLP(inputs=2, hidden=(3,), outputs=1, activation="tanh")
    eta = dn.RandomEffects("level", omega=0.1)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(p.level * theta.net(x.time, p.wt), theta.sd))

    def individual(self, theta, eta, cov):
        return dict(level=exp(eta.level), wt=cov.wt)


def people():
    return dn.Population(
        dn.Subject(f"s{i}", None, ([0.0, 1.0, 2.0 + i], [1.0, 1.5 + 0.2 * i, 2.0]), {"wt": 50.0 + 10.0 * i})
        for i in range(4)
    )


@pytest.fixture(scope="module")
def fit():
    return dn.evaluate_ofv(Learned(), people(), dn.FOCE())


def test_curves_are_means_over_places(fit):
    curves = effect_curves(fit, "net", ["time", "wt"], points=5, level=0.8)
    table = visited(fit, "net", ["time", "wt"])
    net = fit.networks["net"]
    values = np.linspace(0.0, 5.0, 5)
    expected = np.zeros((4, 5))
    for s, id in enumerate(fit.population.ids):
        own = table[table["ID"] == id]
        picked = sorted({round(v) for v in np.linspace(0, len(own) - 1, 20)})
        for v, value in enumerate(values):
            expected[s, v] = np.mean([net(value, own["wt"].iloc[k]) for k in picked])
    found = curves.individual[curves.individual["INPUT"] == "time"]
    assert found["EFFECT"].to_numpy().reshape(4, 5) == pytest.approx(expected, rel=1e-12)
    assert found["ID"].tolist() == [f"s{i}" for i in range(4) for _ in range(5)]
    mean = curves.average[curves.average["INPUT"] == "time"]
    assert mean["VALUE"].to_numpy() == pytest.approx(values)
    assert mean["EFFECT"].to_numpy() == pytest.approx(expected.mean(0), rel=1e-12)
    assert mean["LOW"].to_numpy() == pytest.approx(np.quantile(expected, 0.1, axis=0), rel=1e-12)
    assert curves.band == "subjects"
    across = curves.average[curves.average["INPUT"] == "wt"]["VALUE"]
    assert (across.min(), across.max()) == (50.0, 80.0)


def test_a_baseline_is_where_the_curve_is_zero(fit):
    curves = effect_curves(fit, "net", ["time", "wt"], points=5, baseline={"time": 1.0, "wt": 60.0})
    plain = effect_curves(fit, "net", ["time", "wt"], points=5)
    there = fit.networks["net"](1.0, 60.0)
    assert curves.average["EFFECT"].to_numpy() == pytest.approx(plain.average["EFFECT"].to_numpy() - there, rel=1e-12)


def drawn(fit, count=6, seed=0):
    generator = np.random.default_rng(seed)
    free = fit.free + 0.1 * generator.standard_normal((count, len(fit.free)))
    return dn.Bootstrap(fit, free, np.zeros(count), ("converged",) * count, count, 0, None, False)


def test_band_of_a_bootstrap(fit):
    draws = drawn(fit)
    curves = effect_curves(fit, "net", ["time", "wt"], points=3, level=0.5, bootstrap=draws)
    averages = []
    for free in draws.free:
        other = dn.evaluate_ofv(Learned(net=Learned.net.with_weights(free[fit.joint.space.weights["net"]])), people())
        networks = other.networks["net"]
        network = type(networks)("net", fit.networks["net"].network, networks.weights)
        table = visited(fit, "net", ["time", "wt"])
        per = []
        for id in fit.population.ids:
            own = table[table["ID"] == id]
            picked = sorted({round(v) for v in np.linspace(0, len(own) - 1, 20)})
            per.append([np.mean(network(value, own["wt"].to_numpy()[picked])) for value in (0.0, 2.5, 5.0)])
        averages.append(np.mean(per, axis=0))
    found = curves.average[curves.average["INPUT"] == "time"]
    low, high = np.quantile(averages, [0.25, 0.75], axis=0)
    assert found["LOW"].to_numpy() == pytest.approx(low, rel=1e-10)
    assert found["HIGH"].to_numpy() == pytest.approx(high, rel=1e-10)
    assert curves.band == "bootstrap"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 1}, "Invalid `points`"),
        ({"level": 1.0}, "Invalid `level`"),
        ({"bootstrap": 3}, "the bootstrap of this fit"),
        ({"network": "nett"}, "networks of the model are net"),
    ],
)
def test_mistakes(fit, change, message):
    with pytest.raises(dn.ModelError, match=message):
        effect_curves(**{"fit": fit, "network": "net", **change})


def test_another_fits_bootstrap(fit):
    other = dn.evaluate_ofv(Learned(), people(), dn.FOCE())
    with pytest.raises(dn.ModelError, match="the bootstrap of this fit"):
        effect_curves(fit, "net", bootstrap=drawn(other))
    assert isinstance(effect_curves(fit, "net", points=2).average, pd.DataFrame)
