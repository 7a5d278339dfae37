"""Any torch module as a network: the same as an MLP with the same weights."""

import copy

import numpy as np
import pytest
import torch

import deepnlme as dn
from deepnlme.joint import Joint
from network_models import InIndividual, InObserve, Ridge, as_module, line_data, people


def pair(inputs=2, hidden=(3, 4), outputs=2, **rest):
    """An MLP, and a network of the module with its weights."""
    net = dn.MLP(inputs, hidden, outputs, **rest)
    weights = net.initial() + 0.1
    return net, weights, dn.Network(as_module(net, weights), inputs, outputs, **rest)


def row(weights):
    return torch.tensor(weights).reshape(1, 1, 1, -1)


def test_values_equal_those_of_the_mlp():
    units = dict(input_center=[1.0, 2.0], input_scale=3.0, output_scale=0.5, output_activation="softplus")
    net, weights, wrapped = pair(**units)
    x = torch.tensor(np.random.default_rng(0).standard_normal((2, 3, 4, 2)))
    found = wrapped.values(x, row(wrapped.initial()))
    assert found.shape == (2, 3, 4, 2)
    torch.testing.assert_close(found, net.values(x, row(weights)), rtol=1e-13, atol=1e-14)
    assert wrapped.size == net.size
    assert wrapped.shared


def test_roles_and_penalty_equal_those_of_the_mlp():
    """The order of weights inside a layer differs, which layer they belong to and whether they are biases does not."""
    for prior in (dn.L2(1.3, input=False), dn.L2(1.3, output=False), dn.L2(1.3, bias=False), dn.L1(0.2)):
        net, weights, wrapped = pair(prior=prior)
        one, two = net.roles, wrapped.roles
        np.testing.assert_array_equal(one.bias, two.bias)
        for name in ("first", "last"):
            np.testing.assert_array_equal(getattr(one, name) & ~one.bias, getattr(two, name) & ~two.bias)
        found = [float(n.log_prior(torch.tensor(w))) for n, w in ((net, weights), (wrapped, wrapped.initial()))]
        assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize(
    "method", [dn.FO(), dn.FOCE(), dn.FOCE(interaction=False), dn.Laplace(), dn.NaivePooled()], ids=lambda m: m.name
)
def test_objective_equals_that_of_the_mlp(method):
    """Weights by row are differentiated in another way than weights that all rows share."""
    population = people(dose=None)
    declared = InObserve().networks["curve"]
    net, weights, wrapped = pair(3, (3,), 2, prior=dn.L2(1.0), **vars(declared.scaling))
    one = dn.evaluate_ofv(InObserve(curve=net), population, method, at=dict(curve=weights))
    two = dn.evaluate_ofv(InObserve(curve=wrapped), population, method)
    assert two.ofv == pytest.approx(one.ofv, rel=1e-11)
    assert two.penalty == pytest.approx(one.penalty, rel=1e-12)
    # a Linear holds its matrix transposed
    order, start = [], 0
    for a, b in zip(net.widths[:-1], net.widths[1:], strict=True):
        order += [start + i * b + j for j in range(b) for i in range(a)] + list(range(start + a * b, start + a * b + b))
        start += a * b + b
    n = len(one.free) - net.size
    gradient = one.evaluation.gradient[0]
    expected = np.concatenate([gradient[:n], gradient[n:][order]])
    np.testing.assert_allclose(two.evaluation.gradient[0], expected, rtol=1e-8, atol=1e-9 * np.abs(gradient).max())


def test_the_module_is_not_written_to():
    module = torch.nn.Sequential(torch.nn.Linear(1, 1))
    before = copy.deepcopy(module.state_dict())
    module.train()
    model = Ridge(line=dn.Network(module, 1, prior=dn.L2(2.0), input_center=1.0, input_scale=2.0))
    fit = dn.fit(model, line_data(), dn.NaivePooled(), options=dn.Options(progress=False))
    assert not np.allclose(fit.weights["line"], [float(before["0.weight"]), float(before["0.bias"])], atol=1e-2)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype is torch.float32
    assert module.training
    assert torch.get_default_dtype() is torch.float32


def test_initial_weights_are_the_modules_own_and_draws_differ():
    module = torch.nn.Linear(2, 3)
    net = dn.Network(module, 2, 3, seed=4)
    own = np.concatenate([module.weight.detach().numpy().ravel(), module.bias.detach().numpy()])
    np.testing.assert_allclose(net.initial(), own, rtol=1e-7)
    one, two = (net.initial(np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.isclose(one[:6], own[:6]).any()
    np.testing.assert_allclose(one[6:], own[6:], rtol=1e-7)
    given = dn.Network(module, 2, 3, weights=np.arange(9.0))
    np.testing.assert_array_equal(given.initial(), np.arange(9.0))


class Tied(torch.nn.Module):
    """Twice the same layer, with a constant in single precision and a buffer."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(1, 1)
        self.second = self.first
        self.register_buffer("shift", torch.tensor([0.25]))

    def forward(self, x):
        return self.second(torch.tanh(self.first(x) + self.shift)) @ torch.full((1, 1), 2.0)


def test_tied_weights_and_buffers():
    module = Tied()
    net = dn.Network(module, 1)
    assert net.size == 2
    model = Ridge(line=dn.Network(module, 1, input_center=0.0, input_scale=1.0, output_center=0.0, output_scale=1.0))
    fit = dn.evaluate_ofv(model, line_data(), dn.NaivePooled(), at=dict(line=[0.7, -0.2]))
    expected = 2.0 * (0.7 * np.tanh(0.7 * 1.5 - 0.2 + 0.25) - 0.2)
    assert fit.networks["line"](1.5) == pytest.approx(expected, rel=1e-12)
    table = fit.predictions()
    at = 2.0 * (0.7 * np.tanh(0.7 * table["TIME"].to_numpy(float) + 0.05) - 0.2)
    np.testing.assert_allclose(table["PRED"].to_numpy(float), at, rtol=1e-12)


def test_dropout_and_batch_normalisation_are_as_in_evaluation():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1)
    )
    with torch.no_grad():
        module(torch.randn(50, 1))  # running averages that are not those at the start
    running = module[1].running_mean.clone()
    net = dn.Network(module, 1)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(1, 2, 3, 1)
    one, two = (net.values(x, row(net.initial())) for _ in range(2))
    assert torch.equal(one, two)
    expected = copy.deepcopy(module).double().eval()(x.reshape(-1, 1)).reshape(1, 2, 3, 1)
    torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(module[1].running_mean, running)
    assert module.training


def test_a_module_in_individual_parameters_is_fitted():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    units = dict(input_center=[70.0, 0.0], input_scale=[12.0, 1.0], typical=1.0, output_activation="softplus")
    model = InIndividual(rate=dn.Network(module, 2, prior=dn.L2(1.0), **units))
    population = people(6)
    start = dn.evaluate_ofv(model, population)
    fit = dn.fit(model, population, options=dn.Options(progress=False, max_iterations=15))
    assert fit.ofv + fit.penalty < start.ofv + start.penalty - 1.0
    assert fit.joint.space.row_size < fit.joint.space.size


class Wrong(torch.nn.Module):
    """Something else than [batch, outputs]."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.kind = torch.nn.Parameter(torch.ones(1)), kind

    def forward(self, x):
        value = self.a * x
        return {"flat": value[:, 0], "two": torch.cat([value, value], 1), "tuple": (value, value)}[self.kind]


@pytest.mark.parametrize(
    ("kind", "shown"), [("flat", r"gave \(2,\)"), ("two", r"gave \(2, 2\)"), ("tuple", "gave tuple")]
)
def test_outputs_of_another_shape_are_refused_before_any_work(kind, shown):
    model = Ridge(line=dn.Network(Wrong(kind), 1))
    with pytest.raises(dn.ModelError, match=rf"Invalid network: Wrong {shown} for inputs .*expected \(2, 1\)"):
        dn.fit(model, line_data(), dn.NaivePooled())


class Empty(torch.nn.Module):
    def forward(self, x):
        return x


def integer_weights():
    module = torch.nn.Module()
    module.a = torch.nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    return module


def infinite_weights():
    module = torch.nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(float("nan"))
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Empty(), r"Invalid `module`: Empty has no parameters\. Write it as a function"),
        (torch.nn.Linear, r"Invalid `module`: got <class .*an instance"),
        (torch.tanh, r"Invalid `module`.*expected a torch\.nn\.Module"),
        (integer_weights(), r"Invalid `module`: its parameter a \(torch\.int64\)"),
        (infinite_weights(), r"Invalid `module`: its parameter weight .*finite real numbers"),
    ],
)
def test_refused_modules(module, message):
    with pytest.raises(dn.ModelError, match=message):
        dn.Network(module, 1)


def test_refused_initial_weights():
    with pytest.raises(dn.ModelError, match=r"Invalid `weights`: got shape \(3,\), expected 2 finite numbers"):
        dn.Network(torch.nn.Linear(1, 1), 1, weights=np.zeros(3))


class Log(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.a * torch.log(x - 5.0)


def test_a_network_that_is_not_finite_is_refused_before_any_work():
    model = Ridge(line=dn.Network(Log(), 1, input_center=0.0, input_scale=1.0))
    with pytest.raises(
        dn.ModelError, match=r"Invalid network `line`: it returned \[nan\] for the inputs \(.*Look for log"
    ):
        dn.fit(model, line_data(), dn.NaivePooled())


class TwoNetworks(dn.Model):
    sd = dn.Positive(0.5)
    one = dn.MLP(1, ())
    two = dn.MLP(1, ())

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(theta.one(x.time) + theta.two(x.time), theta.sd))


def test_the_same_weights_in_two_places_are_refused():
    net = dn.MLP(1, ())
    with pytest.raises(dn.ModelError, match=r"Invalid network `two`: it has the same weights as `one`"):
        TwoNetworks(one=net, two=net)
    module = torch.nn.Linear(1, 1)
    with pytest.raises(dn.ModelError, match=r"Invalid network `two`.*copy\.deepcopy"):
        TwoNetworks(one=dn.Network(module, 1), two=dn.Network(module, 1))
    layer = torch.nn.Linear(1, 1)
    with pytest.raises(dn.ModelError, match=r"same weights as `one`"):
        TwoNetworks(
            one=dn.Network(torch.nn.Sequential(layer, torch.nn.Tanh()), 1),
            two=dn.Network(torch.nn.Sequential(torch.nn.Linear(1, 1), layer), 1),
        )
    fine = TwoNetworks(one=dn.Network(module, 1), two=dn.Network(copy.deepcopy(module), 1))
    assert Joint(fine, line_data()).space.size == 5
