"""The multilayer perceptron against a loop over neurons."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import deepnlme as dn
from deepnlme.nn import mlp
from deepnlme.nn.activations import ACTIVATIONS
from network_models import NUMPY, by_hand


def values(net, weights, points):
    """The network at points [N, inputs], with shared weights."""
    x = torch.tensor(np.asarray(points, dtype=float)).reshape(1, 1, len(points), -1)
    return net.values(x, torch.tensor(weights).reshape(1, 1, 1, -1))[0, 0].numpy()


def test_every_activation_has_an_oracle():
    assert set(NUMPY) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_of_every_activation(name):
    rng = np.random.default_rng(1)
    net = dn.MLP(2, (3, 4), 2, activation=name, output_activation=name)
    weights, points = rng.standard_normal(net.size), rng.standard_normal((5, 2))
    expected = np.stack([by_hand(net, weights, x) for x in points])
    np.testing.assert_allclose(values(net, weights, points), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("hidden", [(), 3, (3,), (4, 2, 3)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("output_bias", [None, True, False])
def test_shapes_and_biases(hidden, bias, output_bias):
    rng = np.random.default_rng(2)
    net = dn.MLP(3, hidden, 2, bias=bias, output_bias=output_bias)
    widths = [3, *((hidden,) if isinstance(hidden, int) else hidden), 2]
    last = bias if output_bias is None else output_bias
    size = sum(a * b for a, b in pairwise(widths)) + bias * sum(widths[1:-1]) + last * 2
    assert net.size == size == len(net.initial()) == len(net.roles.bias)
    weights, points = rng.standard_normal(size), rng.standard_normal((4, 3))
    expected = np.stack([by_hand(net, weights, x) for x in points])
    np.testing.assert_allclose(values(net, weights, points), expected, rtol=1e-13, atol=1e-14)


def test_units_of_inputs_and_outputs():
    net = dn.MLP(
        2, (3,), 2, input_center=[1.0, -2.0], input_scale=[3.0, 0.5], output_center=[10.0, 0.0], output_scale=[2.0, 7.0]
    )
    plain = dn.MLP(2, (3,), 2)
    weights = net.initial() + 0.3
    points = np.array([[0.3, 1.0], [4.0, -2.5]])
    expected = np.stack([by_hand(net, weights, x) for x in points])
    np.testing.assert_allclose(values(net, weights, points), expected, rtol=1e-13)
    scaled = (points - [1.0, -2.0]) / [3.0, 0.5]
    np.testing.assert_allclose(
        values(net, weights, points), [10.0, 0.0] + [2.0, 7.0] * values(plain, weights, scaled), rtol=1e-13
    )


def test_weights_by_row_equal_shared_ones():
    rng = np.random.default_rng(4)
    net = dn.MLP(2, (3, 3), 2, input_scale=2.0)
    x = torch.tensor(rng.standard_normal((2, 3, 4, 2)))
    weights = torch.tensor(rng.standard_normal((2, 3, 1, net.size)))
    found = net.values(x, weights)
    assert found.shape == (2, 3, 4, 2)
    for k in range(2):
        for r in range(3):
            alone = net.values(x[k : k + 1, r : r + 1], weights[k, r].reshape(1, 1, 1, -1))
            torch.testing.assert_close(found[k, r], alone[0, 0], rtol=1e-13, atol=1e-14)
    shared = weights[:1, :1]
    torch.testing.assert_close(net.values(x, shared), net.values(x, shared.expand(2, 3, 1, -1)), rtol=1e-13, atol=1e-14)


def test_weights_by_row_broadcast_against_inputs_without_rows():
    rng = np.random.default_rng(5)
    net = dn.MLP(1, (2,))
    x, weights = torch.tensor(rng.standard_normal((1, 1, 4, 1))), torch.tensor(rng.standard_normal((1, 3, 1, net.size)))
    found = net.values(x, weights)
    assert found.shape == (1, 3, 4, 1)
    for r in range(3):
        expected = [by_hand(net, weights[0, r, 0].numpy(), x[0, 0, t].numpy())[0] for t in range(4)]
        np.testing.assert_allclose(found[0, r, :, 0].numpy(), expected, rtol=1e-13)


def test_large_networks_share_their_weights(monkeypatch):
    assert not dn.MLP(1, (10, 10)).shared
    assert dn.MLP(1, (30, 30)).shared
    monkeypatch.setattr(mlp, "MAX_PER_ROW", 0)
    assert dn.MLP(1, (2,)).shared


def test_roles():
    net = dn.MLP(2, (3, 2), 1, output_bias=False)
    counts = [6, 3, 6, 2, 2]  # matrix, bias, matrix, bias, matrix
    part = np.repeat(np.arange(5), counts)
    np.testing.assert_array_equal(net.roles.first, part < 2)
    np.testing.assert_array_equal(net.roles.last, part == 4)
    np.testing.assert_array_equal(net.roles.bias, np.isin(part, (1, 3)))


def test_a_single_layer_is_the_first_and_the_last():
    roles = dn.MLP(2, ()).roles
    assert roles.first.all() and roles.last.all()
    np.testing.assert_array_equal(roles.bias, [False, False, True])


def test_draws_are_reproducible_and_differ_between_seeds():
    one, two, other = (dn.MLP(2, (3,), seed=s).initial() for s in (5, 5, 6))
    np.testing.assert_array_equal(one, two)
    assert not np.isclose(one, other)[:6].any()
    net = dn.MLP(2, (3,), weights=np.arange(13.0))
    np.testing.assert_array_equal(net.initial(), np.arange(13.0))
    drawn = net.initial(np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, net.initial(np.random.default_rng(0)))
    assert not np.isclose(drawn, np.arange(13.0)).any()


def test_spread_of_initial_weights():
    """N(0, 1) whatever the size of the layers, biases N(0, 1/4); those of the last layer smaller, and zero."""
    net = dn.MLP(4, (400,), seed=1)
    start, outer = 4 * 400, 400
    weights = net.initial()
    assert weights[:start].std() == pytest.approx(1.0, rel=0.05)
    assert weights[start : start + outer].std() == pytest.approx(0.5, rel=0.1)
    assert weights[start + outer : start + 2 * outer].std() == pytest.approx(0.1, rel=0.1)
    assert weights[-1] == 0.0


@pytest.mark.parametrize(
    ("head", "typical"),
    [(None, 3.0), (None, -2.0), (None, 0.0), ("softplus", 3.0), ("exp", 0.2), ("sigmoid", 7.0), ("tanh", 4.0)],
)
def test_outputs_are_typical_where_the_weights_are_zero(head, typical):
    net = dn.MLP(2, (3,), 2, output_activation=head, typical=typical)
    found = values(net, np.zeros(net.size), [[0.3, 5.0]])
    np.testing.assert_allclose(found, [[typical, typical]], rtol=1e-14, atol=1e-15)


def test_a_typical_value_for_each_output():
    net = dn.MLP(1, (3,), 2, output_activation="softplus", typical=[2.0, 50.0])
    np.testing.assert_allclose(values(net, np.zeros(net.size), [[1.0]]), [[2.0, 50.0]], rtol=1e-14)
    # drawn weights stay near it
    found = np.stack([values(net, dn.MLP(1, (3,), 2, seed=s).initial(), [[1.0]])[0] for s in range(20)])
    assert (np.abs(np.log(found / [2.0, 50.0])) < 1.0).all()


def test_an_explicit_scale_wins_over_the_size_of_a_typical_value():
    net = dn.MLP(1, (3,), typical=3.0, output_scale=0.1)
    assert net.scaling.output_center == (3.0,) and net.scaling.output_scale == (0.1,)


def test_describe():
    assert dn.MLP(5, (7, 7)).describe() == "MLP 5-7-7-1 tanh"
    assert repr(dn.MLP(1, (), prior=dn.L2(2.0), output_activation="exp")).startswith("MLP 1-1 tanh -> exp (2 weights, ")


REFUSED = {
    "inputs 0": (dict(inputs=0), r"Invalid `inputs`: got 0"),
    "inputs float": (dict(inputs=2.0), r"Invalid `inputs`: got 2\.0"),
    "inputs bool": (dict(inputs=True), r"Invalid `inputs`"),
    "hidden 0": (dict(inputs=1, hidden=(3, 0)), r"Invalid `hidden`: got 0"),
    "hidden text": (dict(inputs=1, hidden="big"), r"Invalid `hidden`"),
    "hidden None": (dict(inputs=1, hidden=None), r"Invalid `hidden`: got None"),
    "hidden float": (dict(inputs=1, hidden=3.0), r"Invalid `hidden`: got 3\.0"),
    "outputs": (dict(inputs=1, outputs=-1), r"Invalid `outputs`: got -1"),
    "seed": (dict(inputs=1, seed=-1), r"Invalid `seed`: got -1"),
    "activation": (
        dict(inputs=1, activation="tangent"),
        r"Invalid `activation`: got 'tangent', expected one of .*tanh",
    ),
    "activation function": (dict(inputs=1, activation=torch.tanh), r"Invalid `activation`.*dn\.Network"),
    "output activation": (dict(inputs=1, output_activation="log"), r"Invalid `output_activation`: got 'log'"),
    "typical of a positive head": (
        dict(inputs=1, typical=-1.0, output_activation="softplus"),
        r"Invalid `typical`: got .*softplus has positive values only",
    ),
    "typical zero": (dict(inputs=1, typical=0.0, output_activation="exp"), r"Invalid `typical`"),
    "typical count": (dict(inputs=1, typical=[1.0, 2.0]), r"Invalid `typical`: got .*expected a number or 1 numbers"),
    "typical against center": (dict(inputs=1, typical=1.0, output_center=2.0), r"Invalid `typical`.*output_center"),
    "typical against scale": (
        dict(inputs=1, typical=0.3, output_scale=1.0, output_activation="sigmoid"),
        r"Invalid `typical`.*output_scale",
    ),
    "scale zero": (dict(inputs=1, input_scale=0.0), r"Invalid `input_scale`: got 0\.0, expected positive"),
    "scale text": (dict(inputs=1, output_scale="mg"), r"Invalid `output_scale`: got 'mg'"),
    "center": (dict(inputs=2, input_center=[1.0, np.nan]), r"Invalid `input_center`.*finite"),
    "center count": (dict(inputs=2, input_center=[1.0, 2.0, 3.0]), r"Invalid `input_center`.*2 numbers"),
    "weights shape": (dict(inputs=1, hidden=(2,), weights=np.zeros(6)), r"Invalid `weights`: got .*6.*expected 7"),
    "weights not finite": (dict(inputs=1, hidden=(), weights=[1.0, np.inf]), r"Invalid `weights`.*finite"),
    "weights text": (dict(inputs=1, hidden=(), weights="random"), r"Invalid `weights`"),
    "prior": (dict(inputs=1, prior=1.0), r"Invalid prior of a network: got 1\.0, expected dn\.L2"),
    "prior class": (dict(inputs=1, prior=dn.L2), r"Invalid prior of a network.*expected dn\.L2\(1\.0\)"),
    "prior of vectors": (
        dict(inputs=1, prior=torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))),
        r"Invalid prior of a network.*one weight",
    ),
    "prior in a batch": (
        dict(inputs=1, prior=torch.distributions.Normal(torch.zeros(3), 1.0)),
        r"Invalid prior of a network.*one weight",
    ),
    "prior of positive numbers": (
        dict(inputs=1, prior=torch.distributions.LogNormal(0.0, 1.0)),
        r"Invalid prior of a network.*zero",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    arguments, message = REFUSED[name]
    with pytest.raises(dn.ModelError, match=message):
        dn.MLP(**arguments)
