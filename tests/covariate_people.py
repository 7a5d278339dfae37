"""People with covariates whose effects are known, and models without them, for tests of covariate selection."""

from __future__ import annotations

import numpy as np
from torch import exp

import deepnlme as dn


class Level(dn.Model):
    """One log-normal level per subject: log y ~ N(log mu + eta, sd^2), so that everything is known in closed form."""

    mu, sd = dn.Positive(10.0), dn.Positive(0.3)
    eta = dn.RandomEffects("mu", omega=0.1)

    def individual(self, theta, eta, cov):
        return dict(mu=theta.mu * exp(eta.mu))

    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal(p.mu, theta.sd))


class Bolus(dn.Model):
    """One compartment, a bolus."""

    cl, v, sd = dn.Positive(5.0), dn.Positive(50.0), dn.Positive(0.2)
    eta = dn.RandomEffects("cl", "v", omega=0.1)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal(x.central / p.v, theta.sd))


QUIET = dn.Options(progress=False, covariance=None)


def levels(covariates, effect, each=3, omega=0.09, sd=0.2, seed=1):
    """People of `Level` with log mu = log 10 + effect + eta.

    Args:
        covariates: Values by name, each [S].
        effect: [S].
        each: Observations per subject, a number or [S].
        omega, sd: Variance of eta, standard deviation of the residual.
        seed: Of eta and residuals.
    """
    rng = np.random.default_rng(seed)
    n = len(effect)
    counts = np.broadcast_to(each, n)
    subjects = []
    for i in range(n):
        log = np.log(10.0) + effect[i] + np.sqrt(omega) * rng.standard_normal()
        y = np.exp(log + sd * rng.standard_normal(counts[i]))
        values = {name: x[i] if isinstance(x[i], str) else float(x[i]) for name, x in covariates.items()}
        subjects.append(dn.Subject(i + 1, observations=(np.arange(float(counts[i])), y), covariates=values))
    return dn.Population(subjects)


def boluses(n=40, seed=2, weight_on_v=1.0):
    """People of `Bolus`: v in proportion to weight, clearance by sex; age has no effect."""
    rng = np.random.default_rng(seed)
    times, subjects = np.array([0.5, 2.0, 6.0, 12.0]), []
    for i in range(n):
        wt, age, sex = 70 * np.exp(0.2 * rng.standard_normal()), rng.uniform(20, 80), "mf"[int(rng.uniform() < 0.4)]
        cl = 5.0 * (0.7 if sex == "f" else 1.0) * np.exp(0.2 * rng.standard_normal())
        v = 50.0 * (wt / 70.0) ** weight_on_v * np.exp(0.15 * rng.standard_normal())
        y = 100.0 / v * np.exp(-cl / v * times + 0.1 * rng.standard_normal(4))
        who = {"wt": wt, "age": age, "sex": sex, "race": "abc"[i % 3]}
        subjects.append(dn.Subject(i + 1, dn.Dose(100.0), (times, y), who))
    return dn.Population(subjects)
