"""A network as a model sees it: what it may be called with, and what it gives."""

import numpy as np
import pytest
import torch

import deepnlme as dn
from deepnlme.nn import BoundNetwork
from network_models import Ridge, by_hand, line_data

K, R, T = 2, 3, 4


def bound(net, rows=False, **rest):
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((K, R, 1, net.size) if rows else (1, 1, 1, net.size))
    return BoundNetwork("net", net, torch.tensor(weights), **rest)


def scalar(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape or (K, R, T)))


def expected(call, k, r, t, inputs):
    weights = call.weights.expand(K, R, 1, -1)[k, r, 0].numpy()
    return by_hand(call.network, weights, np.array(inputs))


@pytest.mark.parametrize("rows", [True, False])
def test_scalars_and_vectors_mixed(rows):
    call = bound(dn.MLP(5, (3,), 2), rows)
    a, z, b = scalar(1), scalar(2, 1, R, 1, 3), scalar(3, 1, 1, T)
    one, two = call(a, z, b)
    assert one.shape == two.shape == (K, R, T)
    for k in range(K):
        for r in range(R):
            for t in range(T):
                inputs = [float(a[k, r, t]), *z[0, r, 0].tolist(), float(b[0, 0, t])]
                found = [float(one[k, r, t]), float(two[k, r, t])]
                np.testing.assert_allclose(found, expected(call, k, r, t, inputs), rtol=1e-12, atol=1e-13)


def test_one_output_is_a_scalar_and_several_are_a_tuple():
    assert bound(dn.MLP(1, ()))(scalar(1)).shape == (K, R, T)
    found = bound(dn.MLP(1, (), 3))(scalar(1))
    assert isinstance(found, tuple) and len(found) == 3
    assert all(v.shape == (K, R, T) for v in found)


def test_vector_holds_all_outputs():
    call = bound(dn.MLP(2, (2,), 3))
    x = scalar(1), scalar(2)
    assert call.vector(*x).shape == (K, R, T, 3)
    assert torch.equal(call.vector(*x), torch.stack(call(*x), -1))
    assert bound(dn.MLP(2, (2,), 1)).vector(*x).shape == (K, R, T, 1)


def test_a_vector_of_one_component_is_one_input():
    call = bound(dn.MLP(2, (2,)))
    a, z = scalar(1), scalar(2, 1, R, 1, 1)
    torch.testing.assert_close(call(a, z), call(a, z[..., 0]), rtol=0, atol=0)


def test_numbers_are_constants():
    call = bound(dn.MLP(3, (2,)))
    a = scalar(1)
    for number in (2, 2.0, np.float64(2.0)):
        torch.testing.assert_close(call(a, number, a), call(a, torch.full_like(a, 2.0), a), rtol=0, atol=0)
    assert call(1.0, 2.0, 3.0).shape == (1, 1, 1)


def test_axes_of_length_one_broadcast():
    call = bound(dn.MLP(2, (3,)))
    a, b = scalar(1, 1, R, 1), scalar(2, K, 1, T)
    assert torch.equal(call(a, b), call(a.expand(K, R, T), b.expand(K, R, T)))


def test_a_network_can_be_called_several_times():
    class Sum(Ridge):
        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(theta.line(x.time) + 2.0 * theta.line(x.time + 1.0), theta.sd))

    fit = dn.evaluate_ofv(Sum(), line_data(), dn.NaivePooled(), at=dict(line=[0.4, 0.1]))
    table = fit.predictions()
    t = table["TIME"].to_numpy(float)
    np.testing.assert_allclose(table["PRED"], 3.0 * 0.1 + 0.4 * (t - 1.0) / 2.0 + 0.8 * t / 2.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"got 0 inputs \(none\), expected 3.*MLP\(inputs=0"),
        ((scalar(1), scalar(1)), r"Invalid call of the network `net`: got 2 inputs \(1, 1\), expected 3"),
        ((scalar(1), scalar(1, K, R, 1, 3)), r"got 4 inputs \(1, a vector of 3\), expected 3.*MLP\(inputs=4"),
        ((scalar(1), scalar(1) > 0, 1.0), r"Invalid input 2 of the network `net`: got torch\.bool, expected real"),
        ((scalar(1).long(), 1.0, 1.0), r"input 1 of the network `net`: got torch\.int64.*\.double\(\)"),
        ((torch.ones(3), 1.0, 1.0), r"input 1 of the network `net`: got shape \(3,\), expected a batch of scalars"),
        ((1.0, "wt", 1.0), r"input 2 of the network `net`: got str"),
        ((1.0, True, 1.0), r"input 2 of the network `net`: got bool"),
        ((1.0, 1.0, np.ones(3)), r"input 3 of the network `net`: got ndarray"),
        ((1.0, [1.0, 2.0]), r"input 2 of the network `net`: got list"),
    ],
)
def test_refused_inputs(inputs, message):
    with pytest.raises(dn.ModelError, match=message):
        bound(dn.MLP(3, (2,)))(*inputs)


def test_values_that_are_not_finite_are_refused_while_checked():
    net = dn.MLP(1, (), weights=[1e308, 0.0], output_scale=10.0)
    weights = torch.tensor(net.initial()).reshape(1, 1, 1, -1)
    x = torch.tensor([[[0.0, 2.5, float("nan")]]], dtype=torch.float64)
    with pytest.raises(dn.ModelError, match=r"Invalid network `net`: it returned \[inf\] for the inputs \(2\.5\)"):
        BoundNetwork("net", net, weights, checked=True)(x)
    assert torch.isinf(BoundNetwork("net", net, weights)(x)[0, 0, 1])
    # what is not a number already is not the network's fault
    BoundNetwork("net", net, weights, checked=True)(x[..., ::2])


def test_wrong_calls_are_refused_before_any_work():
    class Wrong(Ridge):
        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(theta.line(x.time, x.time), theta.sd))

    with pytest.raises(dn.ModelError, match=r"Invalid call of the network `line`: got 2 inputs"):
        dn.fit(Wrong(), line_data(), dn.NaivePooled())

    class Misspelt(Ridge):
        def observe(self, theta, p, x):
            return dict(dv=dn.Normal(theta.lines(x.time), theta.sd))

    with pytest.raises(dn.ModelError, match=r"`theta\.lines`.*sd, line"):
        dn.fit(Misspelt(), line_data(), dn.NaivePooled())


def test_a_network_replaces_a_network_only():
    with pytest.raises(dn.ModelError, match=r"Invalid declaration `line`: got 3\.0, expected a MLP"):
        Ridge(line=3.0)
    with pytest.raises(dn.ModelError, match=r"Invalid declaration `line`"):
        Ridge(line=dn.Positive(1.0))
    with pytest.raises(dn.ModelError, match=r"Invalid declaration `sd`"):
        Ridge(sd=dn.MLP(1, ()))
    other = Ridge(line=dn.Network(torch.nn.Linear(1, 1), 1))
    assert other.networks["line"].describe() == "Linear 1 -> 1"
