"""The space that the declarations span: names, free and natural vectors, their derivative."""

import numpy as np
import pytest
import torch

import contract_models as cm
import deepnlme as dn
from deepnlme.nn import mlp
from deepnlme.parameters import ParameterSpace


@pytest.fixture
def space():
    parameters = {
        "ka": dn.Positive(1.5),
        "shift": dn.Real(-3.0),
        "f": dn.Bounded(0.7),
        "v": dn.Positive(30.0, fixed=True),
    }
    groups = {
        "eta": dn.RandomEffects("ka", "cl", omega=[[0.4, 0.1], [0.1, 0.2]], block=True),
        "kappa": dn.RandomEffects("k1", "k2", omega=[0.0, 0.3], fixed=["k1"], by="occasion"),
        "latent": dn.RandomEffects(2, omega=0.1, fixed=True),
    }
    return ParameterSpace(parameters, groups)


def test_names(space):
    assert space.names == ("ka", "shift", "f", "omega[ka]", "omega[cl,ka]", "omega[cl]", "omega[k2]")
    assert space.size == 7
    assert space.all_names == (
        "ka",
        "shift",
        "f",
        "v",
        "omega[ka]",
        "omega[cl,ka]",
        "omega[cl]",
        "omega[k1]",
        "omega[k2]",
        "omega[latent1]",
        "omega[latent2]",
    )


def test_round_trip(space):
    u = space.initial()
    values = space.as_dict(u)
    assert tuple(values) == space.all_names
    assert values["shift"] == pytest.approx(-3.0)
    assert values["v"] == 30.0
    assert values["omega[cl,ka]"] == pytest.approx(0.1)
    assert values["omega[k1]"] == 0.0
    np.testing.assert_allclose(space.initial(values), u, rtol=1e-12)
    other = {
        "ka": 2.0,
        "shift": 0.0,
        "f": 0.2,
        "omega[ka]": 0.5,
        "omega[cl,ka]": -0.2,
        "omega[cl]": 0.3,
        "omega[k2]": 0.1,
    }
    found = space.as_dict(space.initial(other))
    for name, value in other.items():
        assert found[name] == pytest.approx(value, abs=1e-12)


def test_natural_vector_and_its_derivative(space):
    u = space.initial() + 0.1
    natural = space.natural(torch.tensor(u)).numpy()
    values = space.as_dict(u)
    np.testing.assert_allclose(natural, [values[n] for n in space.names], rtol=1e-12)
    jacobian, h = space.natural_jacobian(u), 1e-6
    for i in range(space.size):
        e = np.eye(space.size)[i] * h
        difference = (space.natural(torch.tensor(u + e)) - space.natural(torch.tensor(u - e))).numpy() / (2 * h)
        np.testing.assert_allclose(jacobian[:, i], difference, rtol=1e-7, atol=1e-8)


def test_batch_of_vectors(space):
    u = torch.tensor(space.initial()).expand(2, 3, -1) + 0.1 * torch.arange(3, dtype=torch.float64)[:, None]
    values = space.values(u)
    for i in range(3):
        alone = space.values(u[1, i])
        for name in values.theta:
            assert values.theta[name][1, i] == pytest.approx(float(alone.theta[name]), rel=1e-14)
        for name in values.cholesky:
            torch.testing.assert_close(values.cholesky[name][1, i], alone.cholesky[name])


def test_no_free_parameter():
    space = ParameterSpace({"a": dn.Real(1.0, fixed=True)}, {"e": dn.RandomEffects("x", omega=0.1, fixed=True)})
    assert space.size == 0 and space.names == ()
    assert space.initial().shape == (0,)
    assert space.natural_jacobian(np.zeros(0)).shape == (0, 0)
    assert space.as_dict(np.zeros(0)) == pytest.approx({"a": 1.0, "omega[x]": 0.1})


def test_log_prior_is_the_sum_over_free_parameters():
    space = cm.Priors().space
    u = torch.tensor(space.initial(), dtype=torch.float64)
    model = cm.Priors()
    expected = sum(
        float(model.parameters[n].prior.log_prob(torch.tensor(model.parameters[n].value, dtype=torch.float64)))
        for n in ("ka", "cl")
    )
    assert float(space.log_prior(u)) == pytest.approx(expected, rel=1e-12)
    assert space.has_priors
    assert not cm.Oral().space.has_priors
    fixed = cm.Oral(ka=dn.Positive(1.0, fixed=True, prior=torch.distributions.Normal(0.0, 1.0)))
    assert not fixed.space.has_priors


def with_networks():
    """Weights by row, weights that all rows share, kept ones, and others by row."""
    networks = {
        "big": dn.Network(torch.nn.Linear(2, 1), 2, prior=dn.L2(3.0)),
        "kept": dn.MLP(1, (2,), fixed=True, prior=dn.L2(1.0)),
        "small": dn.MLP(1, (2,), prior=dn.L1(0.5), seed=1),
        "line": dn.MLP(2, (), seed=2),
    }
    parameters = {"ka": dn.Positive(1.5, prior=torch.distributions.Normal(1.0, 0.5)), "c": dn.Real(0.3)}
    return ParameterSpace(parameters, {"eta": dn.RandomEffects("ka", omega=0.4)}, networks)


def test_weights_come_after_what_has_a_name_and_shared_ones_last():
    space = with_networks()
    assert space.names == ("ka", "c", "omega[ka]")
    assert (space.structural, space.row_size, space.size) == (3, 13, 16)
    assert space.weights == {"small": slice(3, 10), "line": slice(10, 13), "big": slice(13, 16)}
    u = space.initial()
    for name, sl in space.weights.items():
        number = list(space.weights).index(name)
        np.testing.assert_array_equal(u[sl], space.networks[name].initial(number=number))
    assert "small" not in space.as_dict(u) and tuple(space.as_dict(u)) == space.all_names


def test_networks_without_shared_weights_keep_their_order(monkeypatch):
    networks = {"a": dn.MLP(1, ()), "b": dn.MLP(2, ())}
    space = ParameterSpace({}, {}, networks)
    assert space.weights == {"a": slice(0, 2), "b": slice(2, 5)}
    assert space.row_size == space.size == 5
    monkeypatch.setattr(mlp, "MAX_PER_ROW", 2)
    space = ParameterSpace({}, {}, dict(reversed(networks.items())))
    assert space.weights == {"a": slice(0, 2), "b": slice(2, 5)}
    assert space.row_size == 2


def test_values_of_weights():
    space = with_networks()
    rng = np.random.default_rng(0)
    u = torch.tensor(rng.standard_normal((2, 3, space.size)))
    u[..., space.row_size :] = u[0, 0, space.row_size :]
    whole = space.values(u).weights
    apart = space.values(u[..., : space.row_size], u[0, 0, space.row_size :]).weights
    assert set(whole) == set(space.networks)
    for name, sl in space.weights.items():
        expected = u[0, 0, sl] if name == "big" else u[..., sl]
        assert torch.equal(whole[name], expected)
        assert torch.equal(apart[name], expected)
    np.testing.assert_array_equal(whole["kept"].numpy(), space.networks["kept"].initial())


def test_log_prior_with_networks():
    space = with_networks()
    u = space.initial() + 0.1
    found = space.log_prior(torch.tensor(np.stack([u, u + 1.0]))).numpy()
    for value, at in zip(found, (u, u + 1.0), strict=True):
        ka = np.exp(at[0])
        expected = -2.0 * (ka - 1.0) ** 2 - np.log(0.5 * np.sqrt(2.0 * np.pi))
        expected -= 0.5 * 3.0 * np.sum(at[13:16] ** 2)
        expected -= 0.5 * np.sum(np.sqrt(at[3:10] ** 2 + 1e-6) - 1e-3)
        assert value == pytest.approx(expected, rel=1e-6)
    assert space.has_priors
    assert not ParameterSpace({}, {}, {"kept": dn.MLP(1, (), fixed=True, prior=dn.L2(1.0))}).has_priors


def test_initial_weights_can_be_given_and_drawn():
    space = with_networks()
    u = space.initial({"line": [1.0, 2.0, 3.0], "ka": 2.0})
    np.testing.assert_array_equal(u[10:13], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(u[3:10], space.initial()[3:10])
    drawn = space.with_weights(u, np.random.default_rng(3))
    np.testing.assert_array_equal(drawn[:3], u[:3])
    assert not np.isclose(drawn[3:], u[3:]).all()
    np.testing.assert_array_equal(drawn, space.with_weights(u, np.random.default_rng(3)))
    space.initial({"kept": space.networks["kept"].initial()})


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"line": [1.0, 2.0]}, r"Invalid weights of `line`: got \(2,\), expected 3 finite numbers"),
        ({"line": [1.0, 2.0, np.nan]}, r"Invalid weights of `line`.*expected 3 finite numbers"),
        ({"line": "zero"}, r"Invalid weights of `line`"),
        ({"line": np.zeros((1, 3))}, r"Invalid weights of `line`: got \(1, 3\)"),
        ({"kept": np.zeros(7)}, r"Invalid weights of `kept`: they are fixed"),
        ({"lines": [1.0]}, r"`lines`"),
    ],
)
def test_refused_weights(at, message):
    with pytest.raises(dn.ModelError, match=message):
        with_networks().initial(at)


def test_natural_vector_leaves_weights_out():
    space = with_networks()
    u = space.initial()
    assert space.natural(torch.tensor(u)).shape == (3,)
    np.testing.assert_allclose(space.natural_jacobian(u), np.diag([1.5, 0.3, 0.8]), rtol=1e-12)
