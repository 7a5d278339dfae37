"""Models and people of the tests of diagnostics by simulation."""

from __future__ import annotations

import numpy as np
import torch
from torch import exp

import deepnlme as dn


class Oral(dn.Model):
    ka, cl, v = dn.Positive(1.6, unit="1/h"), dn.Positive(2.75, unit="L/h"), dn.Positive(31.8, unit="L")
    sd = dn.Positive(0.69, unit="mg/L")
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


class Bolus(dn.Model):
    cl, v, sd = dn.Positive(2.0, unit="L/h"), dn.Positive(20.0, unit="L"), dn.Positive(0.15)
    eta = dn.RandomEffects("cl", "v", omega=[0.09, 0.04])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(cp=dn.LogNormal(x.central / p.v, theta.sd))


class Count(dn.Model):
    rate = dn.Positive(2.0)
    eta = dn.RandomEffects("rate", omega=0.2)

    def individual(self, theta, eta, cov):
        return dict(rate=theta.rate * exp(eta.rate))

    def observe(self, theta, p, x):
        return dict(n=torch.distributions.Poisson(p.rate * torch.exp(-0.1 * x.time)))


class Survival(dn.Model):
    median, sd = dn.Positive(10.0), dn.Positive(0.6)
    eta = dn.RandomEffects("m", omega=0.01)

    def individual(self, theta, eta, cov):
        return dict(m=theta.median * exp(eta.m))

    def observe(self, theta, p, x):
        return dict(event=dn.LogNormal(p.m, theta.sd))


def drawn(model, people, seed=3, limit=None, upper=None):
    """The people with observations of the model; censored beyond the limits [S] or numbers."""
    table = people.to_frame()
    rows = table["EVID"].to_numpy() == 0
    y = dn.simulate(model, people, seed=seed).dv[0]
    cens = np.zeros(len(y), int)
    if limit is not None:
        cens, y = np.where(y < limit, 1, cens), np.maximum(y, limit)
    if upper is not None:
        cens, y = np.where(y > upper, -1, cens), np.minimum(y, upper)
    table.loc[rows, "DV"] = y
    table["CENS"] = 0
    table.loc[rows, "CENS"] = cens
    return dn.read_nonmem(table, covariates=people.reading())


TIMES = np.array([1.0, 4.0, 8.0, 16.0, 24.0, 36.0])


def bolus_people(n=60):
    return dn.Population(
        [
            dn.Subject(i, dn.Dose(100.0 if i % 2 else 300.0), (TIMES, np.ones(6)), {"wt": 50.0 + i, "arm": "ab"[i % 2]})
            for i in range(n)
        ]
    )
