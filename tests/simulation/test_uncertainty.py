"""Replicates with parameters of their own: the covariance matrix, tables of draws, and what is refused."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import exp

import deepnlme as dn
from deepnlme.estimation.draws import natural_draws

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


class Theophylline(dn.Model):
    """Three log-normal parameters."""

    ka = dn.Positive(1.5)
    cl = dn.Positive(2.7)
    v = dn.Positive(31.0)
    sd = dn.Positive(0.7)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


@pytest.fixture(scope="module")
def fit():
    population = dn.read_nonmem(DATASETS / "theophylline" / "data.csv", covariates=["wt"])
    return dn.fit(Theophylline(), population, dn.FOCE(), options=dn.Options(progress=False, covariance="R"))


@pytest.fixture(scope="module")
def block(fit):
    model = Theophylline(eta=dn.RandomEffects("ka", "cl", "v", omega=np.diag([0.4, 0.07, 0.02]), block=True))
    return dn.fit(model, fit.population, dn.FOCE(), options=dn.Options(progress=False, covariance="R"))


def test_draws_have_the_covariance_of_the_fit(fit):
    """On the free scale: logarithms of positive parameters."""
    sim = dn.simulate(fit, fit.population, replicates=4_000, uncertainty=True, residual=False, seed=1)
    names = list(fit.joint.space.free_theta)
    drawn = np.log(sim.parameters[names].to_numpy())
    index = [fit.joint.space.names.index(n) for n in names]
    expected = fit.covariance.free[np.ix_(index, index)]
    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / 4_000)
    assert (np.abs(np.cov(drawn.T) - expected) < 4.5 * error).all()
    center = np.log([fit.estimates[n] for n in names])
    assert (np.abs(drawn.mean(0) - center) < 4.5 * np.sqrt(np.diag(expected) / 4_000)).all()
    known = dn.simulate(fit, fit.population, replicates=4_000, residual=False, seed=1)
    for i, name in enumerate(("ka", "cl", "v")):  # the same standard normal numbers under another variance
        ratio = np.sqrt(sim.parameters[f"omega[{name}]"].to_numpy() / fit.estimates[f"omega[{name}]"])
        np.testing.assert_allclose(sim.eta[:, :, i], known.eta[:, :, i] * ratio[:, None], rtol=1e-10)
    assert (sim.parameters[[n for n in sim.parameters if n.startswith("omega") and "," not in n]] > 0).all().all()


def test_each_replicate_is_simulated_with_its_own_parameters(fit):
    sim = dn.simulate(fit, fit.population, replicates=3, uncertainty=True, seed=1)
    for r in range(3):
        values = {n: sim.parameters[n].iloc[r] for n in fit.joint.space.names if not n.startswith("omega")}
        expected = dn.predict(fit.model, fit.population, at=values, eta=sim.eta[r])
        np.testing.assert_allclose(sim.ipred[r], expected["IPRED"], rtol=1e-8)


def test_tables_of_draws(fit):
    names = list(fit.joint.space.names)
    table = pd.DataFrame([{n: fit.estimates[n] * (1 + 0.01 * i * (n == "cl")) for n in names} for i in range(4)])
    sim = dn.simulate(fit, fit.population, uncertainty=table)
    assert sim.replicates == 4
    np.testing.assert_allclose(sim.parameters["cl"], table["cl"], rtol=1e-12)
    more = dn.simulate(fit, fit.population, replicates=10, uncertainty=table, seed=3)
    counts = more.parameters["cl"].round(9).value_counts()
    assert len(counts) == 4 and set(counts) == {2, 3}
    fewer = dn.simulate(fit, fit.population, replicates=3, uncertainty=table, seed=3)
    assert fewer.parameters["cl"].nunique() == 3

    @dataclasses.dataclass
    class Draws:
        draws: pd.DataFrame

    held = dn.simulate(fit, fit.population, uncertainty=Draws(table))
    np.testing.assert_array_equal(held.dv, sim.dv)


def test_a_bootstrap_and_sir(fit):
    for found in (dn.bootstrap(fit, 4, progress=False), dn.sir(fit, 40, 4, progress=False)):
        sim = dn.simulate(fit, fit.population, uncertainty=found)
        assert sim.replicates == 4
        pd.testing.assert_frame_equal(
            sim.parameters.reset_index(drop=True)[list(found.draws)], found.draws, check_names=False, rtol=1e-12
        )
        np.testing.assert_allclose(dn.simulate(fit, fit.population, uncertainty=found.draws).dv, sim.dv, rtol=1e-9)
    other = dn.evaluate_ofv(Theophylline(cl=dn.Positive(2.0, fixed=True)), fit.population)
    with pytest.raises(dn.ModelError, match=r"got draws of `cl`, which is fixed at 2\. Leave"):
        dn.simulate(other, fit.population, uncertainty=dn.bootstrap(fit, 2, progress=False))


class Learned(Theophylline):
    """The same with a network that bends clearance."""

    net = dn.MLP(1, (2,), prior=dn.L2(1.0))

    def individual(self, theta, eta, cov):
        out = super().individual(theta, eta, cov)
        return {**out, "cl": out["cl"] * exp(theta.net(eta.v))}


def test_draws_of_weights(fit):
    """A bootstrap of a model with a network has weights of its own in every draw."""
    learned = dn.fit(Learned(), fit.population, options=dn.Options(progress=False, max_iterations=5))
    found = dn.bootstrap(learned, 2, keep_failed=True, progress=False)
    sim = dn.simulate(learned, fit.population, uncertainty=found, seed=1)
    bent = {}
    for free in found.free_draws:
        weights = free[learned.joint.space.weights["net"]]
        bent[len(bent)] = weights
    cl = sim.individual["cl"]
    for r, weights in bent.items():
        at = dn.evaluate_ofv(learned.model, fit.population, at={"net": weights})
        factor = np.exp(at.networks["net"](sim.eta[r, :, 2]))
        expected = found.draws["cl"].iloc[r] * np.exp(sim.eta[r, :, 1]) * factor
        np.testing.assert_allclose(cl[r], expected, rtol=1e-10)


class Module(Learned):
    """A module of torch, whose weights all rows of a batch share."""

    net = dn.Network(torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)), inputs=1)


def test_draws_of_the_weights_of_a_module(fit):
    """Each replicate is predicted with its own weights, not with those of the first one."""
    bent = dn.evaluate_ofv(Module(), fit.population)
    free = bent.free + 0.3 * np.random.default_rng(1).standard_normal((3, len(bent.free)))
    sim = dn.simulate(bent, fit.population, uncertainty=SimpleNamespace(
        draws=natural_draws(bent.joint.space, free), free_draws=free), residual=False)  # fmt: skip
    theta = list(bent.joint.space.free_theta)
    for r in range(3):
        at = {**sim.parameters[theta].iloc[r].to_dict(), "net": free[r, bent.joint.space.weights["net"]]}
        expected = dn.predict(bent.model, fit.population, at=at, eta=sim.eta[r])
        np.testing.assert_allclose(sim.ipred[r], expected["IPRED"], rtol=1e-9)


def test_a_table_at_the_estimates_changes_nothing(fit):
    table = pd.DataFrame([{n: fit.estimates[n] for n in fit.joint.space.names}] * 2)
    a, b = dn.simulate(fit, fit.population, uncertainty=table), dn.simulate(fit, fit.population, replicates=2)
    np.testing.assert_allclose(a.dv, b.dv, rtol=1e-9)


def test_without_a_covariance_matrix_there_is_advice(fit):
    bare = dataclasses.replace(fit, covariance=None)
    with pytest.raises(
        dn.ModelError, match=r"has no covariance step. Repair it \(fit.with_covariance\(\).*dn.bootstrap"
    ):
        dn.simulate(bare, fit.population, uncertainty=True)
    nan = np.full_like(fit.covariance.free, np.nan)
    failed = dataclasses.replace(fit.covariance, free=nan, natural=nan, message="Covariance step failed: singular.")
    with pytest.raises(dn.ModelError, match=r"no covariance matrix. Covariance step failed: singular. .*bootstrap"):
        dn.simulate(dataclasses.replace(fit, covariance=failed), fit.population, uncertainty=True)
    indefinite = dataclasses.replace(fit.covariance, free=fit.covariance.free - 10 * np.eye(len(nan)))
    with pytest.raises(dn.ModelError, match="not positive semidefinite"):
        dn.simulate(dataclasses.replace(fit, covariance=indefinite), fit.population, uncertainty=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="cl"), r"got no column 'cl', expected a row for each draw and the columns"),
        (lambda t: t.assign(clearance=1.0), r"got the column 'clearance'"),
        (lambda t: t.iloc[:0], r"got no row"),
        (lambda t: t.assign(cl=[2.0, -1.0]), r"row 1: Invalid value of `cl`: got -1, expected a positive number"),
        (
            lambda t: t.assign(cl=[2.0, np.nan]),
            r"row 1: got nan for `cl`, expected a finite number. Leave failed draws",
        ),
        (lambda t: t.astype(object).assign(cl=[2.0, "a"]), r"row 1: got 'a' for `cl`, expected a finite number"),
        (lambda t: t.to_numpy(), r"got ndarray, expected None, True"),
    ],
)
def test_tables_that_do_not_fit(fit, change, message):
    table = pd.DataFrame([{n: fit.estimates[n] for n in fit.joint.space.names}] * 2)
    with pytest.raises(dn.ModelError, match=message):
        dn.simulate(fit, fit.population, uncertainty=change(table))


def test_standard_errors_of_fewer_subjects_than_parameters_are_refused(fit):
    few = dn.fit(Theophylline(), fit.population[:7], dn.FOCE(), options=dn.Options(progress=False))
    assert few.covariance.ok and few.covariance.warning
    with pytest.raises(
        dn.ModelError, match=r'the standard errors mean nothing: 7 subjects for 7 .*with_covariance\("R"\)'
    ):
        dn.simulate(few, few.population, uncertainty=True)
    assert dn.simulate(few.with_covariance("R"), few.population, uncertainty=True).replicates == 1


def test_a_covariance_matrix_that_says_nothing_is_refused(block):
    """The full Omega of these twelve subjects is singular: the logarithm of its smallest root has no standard error."""
    with pytest.raises(dn.ModelError, match=r"the data do not determine `eta` \(standard error \S+ on the log scale\)"):
        dn.simulate(block, block.population, uncertainty=True)


def test_draws_at_the_edge_of_a_singular_omega(block):
    """Rounding makes a correlation of one a little more than that: such draws are taken for what they are."""
    row = {n: block.estimates[n] for n in block.joint.space.names}
    row |= {"omega[cl]": 0.04, "omega[v]": 0.01, "omega[cl,ka]": 0.0, "omega[v,ka]": 0.0}
    row["omega[v,cl]"] = 0.02 * (1 + 1e-13)
    sim = dn.simulate(block, block.population, replicates=50, uncertainty=pd.DataFrame([row] * 50))
    eta = sim.eta.reshape(-1, 3)
    np.testing.assert_allclose(eta[:, 1], 2 * eta[:, 2], atol=1e-4)
    row["omega[v,cl]"] = 0.03
    with pytest.raises(dn.ModelError, match=r"row 0: Invalid `omega`: got smallest eigenvalue -0.0085"):
        dn.simulate(block, block.population, uncertainty=pd.DataFrame([row]))
