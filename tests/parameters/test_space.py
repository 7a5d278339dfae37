"""The space that the declarations span: names, free and natural vectors, their derivative."""

import numpy as np
import pytest
import torch

import contract_models as cm
import deepnlme as dn
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
