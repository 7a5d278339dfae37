"""Small models with a network in every place where one may stand, small data for them, and a network in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import exp

import deepnlme as dn

NUMPY = {
    "identity": lambda x: x,
    "tanh": math.tanh,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "sigmoid": lambda x: 1.0 / (1.0 + math.exp(-x)),
    "swish": lambda x: x / (1.0 + math.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))),
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "exp": math.exp,
}
"""Every activation, of one number."""


def layers(net: dn.MLP, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Matrix [inputs, outputs] and bias of every layer; weights are in the order matrix, bias, matrix, ..."""
    found, start = [], 0
    for a, b, bias in zip(net.widths[:-1], net.widths[1:], net.biases, strict=True):
        matrix = np.reshape(weights[start : start + a * b], (a, b))
        start += a * b
        found.append((matrix, np.array(weights[start : start + b]) if bias else np.zeros(b)))
        start += b if bias else 0
    assert start == len(weights)
    return found


def by_hand(net: dn.MLP, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The outputs of one point, neuron after neuron."""
    s = net.scaling
    values = [
        (float(v) - (s.input_center or [0.0] * len(x))[i]) / (s.input_scale or [1.0] * len(x))[i]
        for i, v in enumerate(x)
    ]
    parts = layers(net, weights)
    for depth, (matrix, bias) in enumerate(parts):
        name = net.activation if depth < len(parts) - 1 else net.output_activation
        values = [
            NUMPY[name](sum(matrix[i, j] * v for i, v in enumerate(values)) / len(values) ** 0.5 + bias[j])
            for j in range(len(bias))
        ]
    center, scale = s.output_center or [0.0] * len(values), s.output_scale or [1.0] * len(values)
    return np.array([center[m] + scale[m] * v for m, v in enumerate(values)])


class Layer(torch.nn.Linear):
    """A linear layer in the units of an MLP: W x / sqrt(n) + b."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight / self.in_features**0.5, self.bias)


def as_module(net: dn.MLP, weights: np.ndarray) -> torch.nn.Module:
    """The same layers made of torch's; tanh only."""
    parts = []
    for matrix, bias in layers(net, weights):
        linear = Layer(*matrix.shape).double()
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(matrix.T))
            linear.bias.copy_(torch.tensor(bias))
        parts += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*parts[:-1])


TIMES = ([0.5, 2.0, 5.0], [1.0, 4.0], [0.3, 1.5, 3.0, 7.0])


def people(count: int = 3, seed: int = 3, dose: float | None = 10.0) -> dn.Population:
    """Observations of about 2 exp(-t/5), after a dose at time 0, with a covariate WT."""
    rng = np.random.default_rng(seed)
    subjects = []
    for i in range(count):
        times = np.array(TIMES[i % 3]) + 0.1 * (i // 3)
        values = (
            2.0 * np.exp(-0.2 * times + 0.2 * rng.standard_normal()) * np.exp(0.1 * rng.standard_normal(len(times)))
        )
        doses = None if dose is None else dn.Dose(dose, time=0.0)
        weight = 70.0 + 12.0 * rng.standard_normal()
        subjects.append(dn.Subject(i + 1, doses, (times, values), covariates={"WT": weight}))
    return dn.Population(subjects)


SCALED = dict(input_center=0.0, input_scale=1.0, output_center=0.0, output_scale=1.0)
"""Units that need no data."""


class InField(dn.Model):
    """dA/dt = -A softplus(network(C, time, eta)): the vector field, of a state, of time and of random effects."""

    v = dn.Positive(5.0)
    sd = dn.Positive(0.3)
    rate = dn.MLP(3, (3,), output_activation="softplus", prior=dn.L2(1.0), **SCALED | dict(output_scale=0.3))
    eta = dn.RandomEffects("v", omega=0.1)
    latent = dn.RandomEffects(1, omega=0.2)

    def individual(self, theta, eta, cov):
        return dict(v=theta.v * exp(eta.v), z=eta.latent)

    def dynamics(self, theta, p, t, x):
        return dict(central=-x.central * theta.rate(x.central / p.v, 0.2 * t, p.z))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


class InIndividual(InField):
    """Clearance is a network of a covariate and a random effect; the residual is proportional."""

    rate = dn.MLP(2, (2,), typical=1.0, output_activation="softplus", input_center=[70.0, 0.0], input_scale=[12.0, 1.0])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(v=theta.v * exp(eta.v), cl=theta.rate(cov.WT, eta.latent))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.combined2(f, 0.1, theta.sd)))


class InObserve(dn.Model):
    """A network of time and random effects is the prediction; two outputs, the second for the residual."""

    sd = dn.Positive(0.3)
    curve = dn.MLP(3, (3,), outputs=2, prior=dn.L1(0.7, bias=False), **SCALED | dict(input_scale=[3.0, 1.0, 1.0]))
    latent = dn.RandomEffects(2, omega=[0.3, 0.2])

    def individual(self, theta, eta, cov):
        return dict(z=eta.latent)

    def observe(self, theta, p, x):
        mean, spread = theta.curve(x.time, p.z)
        return dict(dv=dn.Normal(1.0 + mean, theta.sd * exp(0.3 * spread)))


class InInitial(dn.Model):
    """The initial amount is a network of a random effect and of a fixed effect."""

    k = dn.Positive(0.2)
    sd = dn.Positive(0.3)
    start = dn.MLP(2, (2,), prior=torch.distributions.Normal(0.0, 2.0), **SCALED | dict(output_center=2.0))
    eta = dn.RandomEffects("k", "start", omega=[0.1, 0.2])

    def individual(self, theta, eta, cov):
        return dict(k=theta.k * exp(eta.k), e=eta.start)

    def initial(self, theta, p):
        return dict(level=theta.start(p.e, theta.k))

    def dynamics(self, theta, p, t, x):
        return dict(level=-p.k * x.level)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.level, theta.sd))


class Ridge(dn.Model):
    """y = b + w (t - 1) / 2 + eps, as a network without hidden layers: penalised least squares."""

    sd = dn.Positive(0.5, fixed=True)
    line = dn.MLP(1, (), prior=dn.L2(2.0), input_center=1.0, input_scale=2.0, output_center=0.0, output_scale=1.0)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(theta.line(x.time), theta.sd))


class MixedRidge(Ridge):
    """The same with a random intercept: generalised least squares."""

    eta = dn.RandomEffects("b", omega=0.4, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(b=eta.b)

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(theta.line(x.time) + p.b, theta.sd))


def line_data(count: int = 6, seed: int = 0) -> dn.Population:
    """y = 1 + 0.4 t + eps at times 0..4 or fewer."""
    rng = np.random.default_rng(seed)
    subjects = []
    for i in range(count):
        times = np.arange(5.0)[: 5 - i % 2]
        subjects.append(dn.Subject(i + 1, None, (times, 1.0 + 0.4 * times + 0.5 * rng.standard_normal(len(times)))))
    return dn.Population(subjects)


def design(population: dn.Population) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(t - 1) / 2, 1] and y of every subject of `line_data`; the weights come in this order."""
    r = population.records
    out = []
    for a, b in zip(population.starts[:-1], population.starts[1:], strict=True):
        out.append((np.stack([(r.time[a:b] - 1.0) / 2.0, np.ones(b - a)], 1), r.dv[a:b]))
    return out


def ridge_solution(population: dn.Population, omega: float, sd: float = 0.5, weight: float = 2.0) -> np.ndarray:
    """argmin sum_i (y - X w)' C_i^-1 (y - X w) + weight w'w with C_i = sd^2 I + omega 1 1'."""
    left, right = weight * np.eye(2), np.zeros(2)
    for x, y in design(population):
        inverse = np.linalg.inv(sd**2 * np.eye(len(y)) + omega)
        left = left + x.T @ inverse @ x
        right = right + x.T @ inverse @ y
    return np.linalg.solve(left, right)
