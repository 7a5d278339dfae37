"""The models and data of the benchmarks of networks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

import deepnlme as dn
from _simulated import simulate
from deep_nlme import IndirectResponse, NeuralIndirectResponse, data

__all__ = ["IndirectResponse", "Saturable", "data", "learned", "neural", "pooled_data"]


def neural(seed: int) -> dn.Model:
    """The gallery's model with initial weights of another seed."""
    response = dn.MLP(inputs=5, hidden=(7, 7), outputs=1, activation="tanh", prior=dn.L2(1.0), seed=seed)
    return type("NeuralIndirectResponse", (NeuralIndirectResponse,), {"response": response})()


class Saturable(dn.Model):
    """One compartment, first-order absorption, saturable elimination; nobody differs."""

    ka = dn.Positive(1.0)
    v = dn.Positive(10.0, fixed=True)
    vmax = dn.Positive(3.0)
    km = dn.Positive(2.0)
    sd = dn.Positive(0.2)

    def individual(self, theta, eta, cov):
        return {name: theta[name] for name in theta if name in ("ka", "v", "vmax", "km")}

    def elimination(self, theta, p, c):
        return p.vmax * c / (p.km + c)

    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - self.elimination(theta, p, x.central / p.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


class Learned(Saturable):
    """The elimination as a network of the concentration, 1-5-1 with biases: 16 weights, without a prior."""

    vmax = None
    km = None

    def elimination(self, theta, p, c):
        return theta.rate(c)


def learned(seed: int) -> dn.Model:
    """The model with initial weights of a seed, and parameters that start away from the truth."""
    declared = {"rate": dn.MLP(1, hidden=5, seed=seed), "ka": dn.Positive(0.5), "sd": dn.Positive(0.5)}
    return type("Learned", (Learned,), declared)()


def pooled_data() -> dn.Population:
    """20 subjects at four doses, 6 observations each."""
    generator = np.random.default_rng(1)
    times = [np.sort(generator.uniform(0.25, 24.0, 6)) for _ in range(20)]
    doses = [dn.Regimen(dn.Dose((20.0, 40.0, 60.0, 80.0)[i % 4])) for i in range(20)]
    return simulate(Saturable(), times, generator, doses=doses, additive=0.2).population
