"""Priors of weights against sums in numpy, and how they enter a fit."""

import itertools

import numpy as np
import pytest
import torch

import deepnlme as dn
from network_models import InObserve, Ridge, layers, line_data, people

QUIET = dn.Options(progress=False)
SWITCHES = list(itertools.product([True, False], repeat=3))


def cost(net, weights, prior):
    """-log p(w) up to a constant, layer by layer."""
    total, parts = 0.0, layers(net, weights)
    for depth, ((matrix, bias), has) in enumerate(zip(parts, net.biases, strict=True)):
        chosen = []
        if (prior.input or depth > 0) and (prior.output or depth < len(parts) - 1):
            chosen += list(matrix.ravel())
        if prior.bias and has:
            chosen += list(bias)
        for w in chosen:
            total += w * w / 2 if isinstance(prior, dn.L2) else np.sqrt(w * w + 1e-6) - 1e-3
    return prior.weight * total


@pytest.mark.parametrize("kind", [dn.L1, dn.L2])
@pytest.mark.parametrize(("first", "last", "bias"), SWITCHES)
@pytest.mark.parametrize("hidden", [(), (3,), (3, 2)])
def test_log_prior(kind, first, last, bias, hidden):
    prior = kind(1.7, input=first, output=last, bias=bias)
    net = dn.MLP(2, hidden, prior=prior)
    weights = np.random.default_rng(3).standard_normal((4, net.size))
    found = net.log_prior(torch.tensor(weights)).numpy()
    np.testing.assert_allclose(found, [-cost(net, w, prior) for w in weights], rtol=1e-12, atol=1e-14)


def test_l1_is_nearly_the_absolute_value():
    net = dn.MLP(1, (3,), prior=dn.L1(2.0))
    weights = np.linspace(-2.0, 2.0, net.size)
    found = float(net.log_prior(torch.tensor(weights)))
    # every |w| is smaller by less than its rounding
    assert 0 < 2.0 * np.abs(weights).sum() + found + 2e-9 <= 2.0 * 1e-3 * net.size
    assert float(net.log_prior(torch.zeros(net.size, dtype=torch.float64))) == 0.0


def test_torch_distribution():
    net = dn.MLP(1, (2,), prior=torch.distributions.StudentT(4.0, 0.0, 0.5))
    weights = torch.linspace(-1, 1, net.size, dtype=torch.float64)
    expected = sum(float(torch.distributions.StudentT(4.0, 0.0, 0.5).log_prob(w)) for w in weights)
    assert float(net.log_prior(weights)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("prior", [dn.L1(1.7), dn.L2(0.3, bias=False), torch.distributions.Normal(0.0, 2.0), None])
def test_around_given_weights(prior):
    units = dict(input_center=0.0, input_scale=1.0, output_center=0.0, output_scale=1.0)
    net, generator = dn.MLP(2, (3,), prior=prior, **units), np.random.default_rng(5)
    given, weights = generator.standard_normal(net.size), torch.tensor(generator.standard_normal((4, net.size)))
    near = net.around(given)
    torch.testing.assert_close(near.log_prior(weights), net.log_prior(weights - torch.tensor(given)))
    torch.testing.assert_close(near.around(0 * given).log_prior(weights), net.log_prior(weights))
    assert net.center is None and ("around given weights" in repr(near)) == (prior is not None)
    for wrong in (given[1:], np.full(net.size, np.nan), "w"):
        with pytest.raises(dn.ModelError, match=r"Invalid `weights` of `around`.*finite numbers"):
            net.around(wrong)
    with pytest.raises(dn.ModelError, match=r"its units are found from the data.*fit\.model\.networks"):
        dn.MLP(2, (3,), prior=prior).around(given)


def test_no_prior_and_no_weight():
    assert float(dn.MLP(1, (2,)).log_prior(torch.ones(7))) == 0.0
    assert float(dn.MLP(1, (2,), prior=dn.L2(0.0)).log_prior(torch.ones(7))) == 0.0


@pytest.mark.parametrize("prior", [dn.L2(3.0, bias=False), dn.L1(0.5, input=False), dn.L2(1.0, output=False)])
def test_penalty_is_minus_twice_the_log_prior_and_not_in_the_ofv(prior):
    population = people(dose=None)
    declared = InObserve().networks["curve"]
    net = dn.MLP(3, (3,), outputs=2, prior=prior, **vars(declared.scaling))
    free = dn.MLP(3, (3,), outputs=2, **vars(declared.scaling))
    weights = net.initial() + 0.2
    found = dn.evaluate_ofv(InObserve(curve=net), population, at=dict(curve=weights))
    bare = dn.evaluate_ofv(InObserve(curve=free), population, at=dict(curve=weights))
    assert found.penalty == pytest.approx(2.0 * cost(net, weights, prior), rel=1e-12)
    assert bare.penalty == 0.0
    assert found.ofv == pytest.approx(bare.ofv, rel=1e-13)
    assert found.log_likelihood == pytest.approx(bare.log_likelihood, rel=1e-13)


def test_penalties_of_a_network_and_of_a_parameter_add_up():
    model = Ridge(sd=dn.Positive(0.5, prior=torch.distributions.Normal(1.0, 2.0)))
    weights = np.array([0.3, -2.0])
    found = dn.evaluate_ofv(model, line_data(), at=dict(line=weights))
    of_sd = (0.5 - 1.0) ** 2 / 4.0 + 2.0 * np.log(2.0) + np.log(2.0 * np.pi)
    assert found.penalty == pytest.approx(2.0 * (0.3**2 + 2.0**2) + of_sd, rel=1e-6)


def test_a_flat_prior_changes_nothing():
    declared = vars(Ridge().networks["line"].scaling)
    flat, none = (
        dn.fit(Ridge(line=dn.MLP(1, (), prior=prior, **declared)), line_data(), dn.NaivePooled(), options=QUIET)
        for prior in (torch.distributions.Uniform(-9.0, 9.0), None)
    )
    np.testing.assert_allclose(flat.weights["line"], none.weights["line"], rtol=1e-8)
    assert flat.penalty == pytest.approx(4.0 * np.log(18.0), rel=1e-6)


def test_a_fixed_network_is_not_penalised():
    net = dn.MLP(1, (), prior=dn.L2(2.0), weights=[1.0, 2.0], fixed=True, input_center=1.0, input_scale=2.0)
    fit = dn.evaluate_ofv(Ridge(line=net), line_data())
    assert fit.penalty == 0.0
    assert fit.n_parameters == 0


@pytest.mark.parametrize("kind", [dn.L1, dn.L2])
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "1", True, None])
def test_refused_weights(kind, weight):
    with pytest.raises(dn.ModelError, match=rf"Invalid weight of {kind.__name__}: got "):
        kind(weight)


@pytest.mark.parametrize("name", ["input", "output", "bias"])
def test_refused_switches(name):
    with pytest.raises(dn.ModelError, match=rf"Invalid `{name}`: got 0, expected True or False"):
        dn.L2(1.0, **{name: 0})
