"""Fitted networks: values, individual parameters, what is printed, standard errors, what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import exp

import deepnlme as dn
from deepnlme.estimation.fitted_network import FittedNetwork, penalty_name
from network_models import SCALED, InField, InObserve, MixedRidge, Ridge, by_hand, design, layers, line_data, people

QUIET = dict(progress=False)
OUT = dict(output_center=0.0, output_scale=1.0)


class Curves(dn.Model):
    """A curve for each subject with units found from the data, and a second, fixed network."""

    sd = dn.Positive(0.3)
    base = dn.Positive(1.0)
    curve = dn.MLP(3, (2,), prior=dn.L2(1.5, bias=False), seed=1)
    drift = dn.MLP(1, (2,), outputs=2, activation="swish", fixed=True, seed=2, **SCALED)
    eta = dn.RandomEffects("base", omega=0.05)
    latent = dn.RandomEffects(2, omega=0.2, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(base=theta.base * exp(eta.base), z=eta.latent, wt=cov.WT)

    def observe(self, theta, p, x):
        up, down = theta.drift(0.1 * x.time)
        return dict(dv=dn.Normal(p.base + theta.curve(x.time, p.z) + 0.1 * (up - down), theta.sd))


@pytest.fixture(scope="module")
def population():
    return people(6, dose=None)


@pytest.fixture(scope="module")
def fit(population):
    return dn.fit(Curves(), population, options=dn.Options(**QUIET))


def test_weights(fit, population):
    assert set(fit.weights) == {"curve", "drift"}
    space = fit.joint.space
    np.testing.assert_array_equal(fit.weights["curve"], fit.free[space.weights["curve"]])
    np.testing.assert_array_equal(fit.weights["drift"], Curves().networks["drift"].initial())
    assert fit.n_parameters == 3 + 11
    assert set(fit.estimates) == {"sd", "base", "omega[base]", "omega[latent1]", "omega[latent2]"}
    again = dn.evaluate_ofv(Curves(), population, at=fit)
    assert again.ofv == pytest.approx(fit.ofv, abs=1e-6)


def test_penalty_by_hand(fit):
    net = fit.model.networks["curve"]
    expected = 1.5 * sum(float(np.sum(matrix**2)) for matrix, _ in layers(net, fit.weights["curve"]))
    assert fit.penalty == pytest.approx(expected, rel=1e-10)
    assert fit.log_likelihood == pytest.approx(
        -0.5 * (fit.ofv + fit.n_observations * math.log(2.0 * math.pi)), rel=1e-12
    )


def test_a_fitted_network_is_the_models_own(fit):
    """Predictions and EBEs of the fit, put together by hand from its networks and individual parameters."""
    table = fit.predictions()
    for subject, part in table.groupby("ID"):
        p, time = fit.individual(subject), part["TIME"].to_numpy(float)
        up, down = fit.networks["drift"](0.1 * time)
        f = p["base"] + fit.networks["curve"](time, p["z"]) + 0.1 * (up - down)
        np.testing.assert_allclose(part["IPRED"].to_numpy(float), f, rtol=1e-10)
        net = fit.networks["curve"].network
        by_loop = [by_hand(net, fit.weights["curve"], np.array([t, *p["z"]]))[0] for t in time]
        np.testing.assert_allclose(fit.networks["curve"](time, p["z"]), by_loop, rtol=1e-11)


def test_individual_parameters(fit, population):
    etas = fit.ebes.to_frame(population.ids).set_index("ID")
    for i, subject in enumerate(population.ids):
        p = fit.individual(subject)
        assert set(p) == {"base", "z", "wt"}
        assert isinstance(p["base"], float) and p["z"].shape == (2,)
        eta = fit.ebes.eta[i]
        assert p["base"] == pytest.approx(fit.estimates["base"] * np.exp(eta[0]), rel=1e-12)
        np.testing.assert_allclose(p["z"], eta[1:], rtol=1e-12)
        assert p["wt"] == population.records.covariates["WT"][population.starts[i]]
    assert len(etas) == len(population)
    with pytest.raises(dn.DataError, match=r"Invalid subject: got 99, expected one of 1, 2"):
        fit.individual(99)


def test_shapes_of_calls(fit):
    net = fit.networks["curve"]
    t, z = np.linspace(0.0, 5.0, 4), np.array([0.3, -0.2])
    assert isinstance(net(1.0, 0.3, -0.2), float)
    assert net(1.0, z) == net(1.0, 0.3, -0.2)
    assert net(np.array([1.0, 0.3, -0.2])) == net(1.0, z)
    assert net(t, 0.3, -0.2).shape == (4,)
    grid = net(t[:, None], np.array([0.3, 0.1, 0.0]), -0.2)
    assert grid.shape == (4, 3)
    assert grid[2, 1] == pytest.approx(net(t[2], 0.1, -0.2), rel=1e-14)
    many = net(t, np.stack([z, z + 1.0, z - 1.0, z]))
    assert many[1] == pytest.approx(net(t[1], z + 1.0), rel=1e-14)
    assert net(np.zeros((0,)), 0.3, 0.1).shape == (0,)
    one, two = fit.networks["drift"](t)
    assert one.shape == two.shape == (4,)
    assert fit.networks["drift"](1)[0] == pytest.approx(
        by_hand(Curves().networks["drift"], fit.weights["drift"], [1.0])[0]
    )


def test_fix(fit):
    net = fit.networks["curve"]
    t, z = np.linspace(0.0, 5.0, 4), fit.individual(2)["z"]
    curve = net.fix(z)
    assert curve.inputs == 1
    np.testing.assert_array_equal(curve(t), net(t, z))
    np.testing.assert_array_equal(net.fix(z[1]).fix(z[0])(t), net(t, z))
    np.testing.assert_array_equal(net.fix(*z)(t), net(t, z))
    assert net.fix(2.0, z)() == net(2.0, z)
    assert "2 inputs fixed" in repr(curve) and "MLP 3-2-1 tanh" in repr(curve)
    with pytest.raises(dn.ModelError, match=r"Invalid `fix` of the network `curve`: got 4 values, it has 3 inputs"):
        net.fix(1.0, 2.0, z)
    with pytest.raises(dn.ModelError, match=r"got 2 inputs, expected 1 besides the 2 that are fixed"):
        curve(t, t)


@pytest.mark.parametrize("inputs", [(), (1.0,), (1.0, 2.0), (1.0, 2.0, 3.0, 4.0), (1.0, np.ones(3)), (np.ones(4),)])
def test_wrong_number_of_inputs(fit, inputs):
    with pytest.raises(dn.ModelError, match=r"Invalid call of the network `curve`: got \d inputs?, expected 3"):
        fit.networks["curve"](*inputs)


def test_print_shows_a_line_for_each_network(fit):
    text = str(fit)
    norm = np.linalg.norm(fit.weights["curve"])
    assert (
        f"curve: MLP 3-2-1 tanh, 11 weights, norm {norm:.3g}, penalty {fit.penalty:.4g} (L2(1.5, bias=False))" in text
    )
    assert "drift: MLP 1-2-2 swish, 10 weights FIX, norm" in text
    assert f"penalty (-2 log prior) {fit.penalty:.4f}, not in the OFV" in text
    assert "no standard errors: a network was fitted" in text
    assert fit.covariance is None
    assert all(math.isnan(v) for v in fit.se.values())
    with_errors = str(fit.with_covariance("R"))
    assert "no standard errors" not in with_errors and "standard errors: R" in with_errors


def test_names_of_priors():
    units = dict(input_center=0.0, input_scale=1.0, output_center=0.0, output_scale=1.0)
    for prior, name in (
        (dn.L1(0.5), "L1(0.5)"),
        (dn.L2(2.0, input=False, output=False), "L2(2, input=False, output=False)"),
        (torch.distributions.Normal(0.0, 1.0), "Normal"),
    ):
        network = dn.MLP(1, (2,), prior=prior, **units)
        assert penalty_name(network) == name
        assert penalty_name(network.around(np.ones(network.size))) == f"{name} around given weights"


def test_a_fixed_network_leaves_the_standard_errors(population):
    fit = dn.fit(Curves(curve=dn.MLP(3, (2,), fixed=True, prior=dn.L2(1.0))), population, options=dn.Options(**QUIET))
    assert fit.status is dn.FitStatus.CONVERGED
    assert fit.covariance is not None
    assert fit.penalty == 0.0
    assert "no standard errors" not in str(fit)


# ---- standard errors ---------------------------------------------------------------------------------------------


def second_differences(objective, u, step=1e-2):
    """Hessian of the objective by differences of its values alone."""
    n, e = len(u), step * np.eye(len(u))
    pairs = [(i, j) for i in range(n) for j in range(i + 1)]
    points = [u + a * e[i] + b * e[j] for i, j in pairs for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    values = objective(np.array(points)).value.reshape(len(pairs), 4)
    out = np.zeros((n, n))
    for (i, j), (one, two, three, four) in zip(pairs, values, strict=True):
        out[i, j] = out[j, i] = (one - two - three + four) / (4.0 * step**2)
    return out


def test_standard_errors_from_the_whole_hessian(fit):
    """Weights count as parameters: SEs are the block of the inverse, not the inverse of the block."""
    found = fit.with_covariance("R").covariance
    objective, u = fit.objective(), fit.free
    coarse, fine = (second_differences(objective, u, h) for h in (4e-3, 2e-3))
    r = 0.5 * (4.0 * fine - coarse) / 3.0
    np.testing.assert_allclose(found.r, r, atol=2e-4 * np.abs(r).max())
    jacobian = np.diag([fit.estimates["sd"], fit.estimates["base"], 2.0 * fit.estimates["omega[base]"]])
    slope = fit.joint.space.natural_jacobian(u)
    np.testing.assert_allclose(np.diag(slope)[:2], np.diag(jacobian)[:2], rtol=1e-10)
    expected = slope @ np.linalg.inv(r)[:3, :3] @ slope.T
    np.testing.assert_allclose(found.se, np.sqrt(np.diag(expected)), rtol=2e-2)
    wrong = slope @ np.linalg.inv(r[:3, :3]) @ slope.T
    assert found.se[1] > 1.05 * np.sqrt(wrong[1, 1])
    assert list(fit.with_covariance("R").se) == ["sd", "base", "omega[base]"]


def test_standard_errors_of_generalised_least_squares():
    """A level beside a penalised slope: the covariance is that of the augmented normal equations."""

    class Level(MixedRidge):
        level = dn.Real(1.0)
        line = dn.MLP(1, (), bias=False, prior=dn.L2(2.0), input_center=1.0, input_scale=2.0, **OUT)

        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(theta.level + theta.line(x.time) + p.b, theta.sd))

    population = line_data()
    fit = dn.fit(Level(), population, options=dn.Options(**QUIET, covariance="R"))
    r = np.diag([2.0, 0.0])
    for x, y in design(population):
        r += x.T @ np.linalg.inv(0.25 * np.eye(len(y)) + 0.4) @ x
    assert fit.se["level"] == pytest.approx(np.sqrt(np.linalg.inv(r)[1, 1]), rel=1e-5)
    assert fit.estimates["level"] == pytest.approx(1.0, abs=0.5)


def test_the_sandwich_warns_where_weights_outnumber_subjects(fit):
    found = fit.with_covariance()
    assert "6 subjects for 14 parameters" in str(found)


def test_effective_parameters_of_ridge_regression():
    """trace X' C^-1 X (X' C^-1 X + 2 I)^-1."""
    population = line_data()
    fit = dn.fit(MixedRidge(), population, options=dn.Options(**QUIET))
    r = np.zeros((2, 2))
    for x, y in design(population):
        r += x.T @ np.linalg.inv(0.25 * np.eye(len(y)) + 0.4) @ x
    expected = np.trace(r @ np.linalg.inv(r + 2.0 * np.eye(2)))
    assert fit.effective_parameters == pytest.approx(expected, rel=1e-6)
    assert fit.aic == pytest.approx(-2.0 * fit.log_likelihood + 2.0 * expected, rel=1e-8)


# ---- networks in differential equations --------------------------------------------------------------------------


def test_a_network_in_a_vector_field_is_fitted():
    population = people(4)
    start = dn.evaluate_ofv(InField(), population)
    fit = dn.fit(InField(), population, options=dn.Options(**QUIET, max_iterations=5))
    assert fit.ofv + fit.penalty < start.ofv + start.penalty - 1.0
    rate = fit.networks["rate"]
    z = fit.individual(1)["z"]
    assert (rate(np.linspace(0, 2, 5), 0.4, z) > 0).all()
    assert fit.individual(1)["v"] == pytest.approx(fit.estimates["v"] * np.exp(fit.ebes.eta[0, 0]), rel=1e-12)


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (dict(curve=np.zeros(3)), r"Invalid weights of `curve`: got \(3,\), expected 11 finite numbers"),
        (dict(curve=np.full(11, np.nan)), r"Invalid weights of `curve`"),
        (dict(curve="random"), r"Invalid weights of `curve`"),
        (dict(drift=np.zeros(10)), r"Invalid weights of `drift`: they are fixed"),
        (dict(net=np.zeros(3)), r"`net`"),
    ],
)
def test_refused_start(population, start, message):
    with pytest.raises(dn.ModelError, match=message):
        dn.fit(Curves(), population, start=start, options=dn.Options(**QUIET))


@pytest.mark.parametrize("way", ["newton", "gauss-newton"])
def test_a_model_of_nothing_but_a_network(way):
    """No parameter with a name, no random effects."""
    only = Ridge(sd=dn.Positive(0.5, fixed=True))
    fit = dn.fit(only, line_data(), dn.NaivePooled(), options=dn.Options(**QUIET, optimiser=way))
    assert fit.joint.space.names == ()
    assert fit.estimates == {"sd": 0.5}
    assert "line: MLP 1-1 tanh, 2 weights" in str(fit)
    assert fit.with_covariance("R").covariance.ok


def test_fitted_network_in_single_precision_surroundings():
    net = FittedNetwork("net", dn.MLP(1, ()), np.array([2.0, 1.0]))
    assert torch.get_default_dtype() is torch.float32
    assert net(1e-9) == 1.0 + 2e-9
    assert net(np.float32(0.5)) == 2.0


def test_two_outputs_of_one_network_predict_and_scatter():
    fit = dn.fit(InObserve(), people(4, dose=None), options=dn.Options(**QUIET, max_iterations=4))
    p = fit.individual(3)
    table = fit.predictions()
    part = table[table["ID"] == 3]
    mean, spread = fit.networks["curve"](part["TIME"].to_numpy(float), p["z"])
    np.testing.assert_allclose(part["IPRED"].to_numpy(float), 1.0 + mean, rtol=1e-10)
    sd = fit.estimates["sd"] * np.exp(0.3 * spread)
    np.testing.assert_allclose(part["IWRES"].to_numpy(float), (part["DV"] - 1.0 - mean) / sd, rtol=1e-8)


def test_effective_parameters_of_counts_are_those_of_the_exact_information():
    """Poisson regression: the information is X' diag(mu) X, so that with a ridge trace(I (I + Lambda)^-1) is known."""

    class Counts(dn.Model):
        base = dn.Real(1.0)
        line = dn.MLP(1, (), bias=False, prior=dn.L2(3.0), **SCALED)

        def observe(self, theta, p, x):
            return dict(dv=torch.distributions.Poisson(torch.exp(theta.base + theta.line(x.time))))

    time = np.linspace(-1.0, 1.0, 9)
    counts = np.array([1.0, 0.0, 2.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0])
    people = dn.Population([dn.Subject(i, None, (time + 1.0, np.roll(counts, i))) for i in range(2)])
    fit = dn.fit(Counts(), people, dn.NaivePooled(), options=dn.Options(**QUIET, flat=1e-9))
    line = fit.weights["line"][0] * (time + 1.0)
    x = np.stack([np.ones(9), time + 1.0], 1)
    information = 2.0 * x.T @ (np.exp(fit.estimates["base"] + line)[:, None] * x)  # two people
    expected = np.trace(np.linalg.solve(information + np.diag([0.0, 3.0]), information))
    assert fit.effective_parameters == pytest.approx(expected, rel=1e-3)
    assert 1.0 < expected < 2.0


def test_a_network_that_is_never_called_changes_nothing():
    class Idle(Ridge):
        idle = dn.Network(torch.nn.Linear(1, 1), inputs=1, **SCALED)

    population = line_data(4)
    evaluated = [dn.evaluate_ofv(model, population, dn.NaivePooled()) for model in (Ridge(), Idle())]
    assert evaluated[0].ofv == pytest.approx(evaluated[1].ofv, abs=1e-12)
    weights = evaluated[1].joint.space.weights["idle"]
    np.testing.assert_array_equal(evaluated[1].evaluation.gradient[0, weights], 0.0)
