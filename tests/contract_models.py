"""Small models and data sets, one for every feature that a likelihood must cope with; contracts run over them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import exp

import deepnlme as dn

GAUSSIAN = (dn.FO(), dn.FOCE(), dn.FOCE(interaction=False), dn.Laplace(), dn.NaivePooled())
CONDITIONAL = (dn.FOCE(), dn.FOCE(interaction=False), dn.Laplace(), dn.NaivePooled())
ANY = (dn.Laplace(), dn.NaivePooled())


def records(times: list[list[float]], dose: float = 100.0, seed: int = 1, **dose_items: Any) -> pd.DataFrame:
    """One dose per subject at time 0 and observations of about a one-compartment oral profile."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, at in enumerate(times):
        rows.append(dict(ID=i + 1, TIME=0.0, DV=np.nan, AMT=dose, EVID=1, **dose_items))
        ka, k, v = 1.2 * np.exp(0.3 * rng.standard_normal()), 0.15 * np.exp(0.2 * rng.standard_normal()), 20.0
        for t in at:
            f = dose / v * ka / (ka - k) * (np.exp(-k * t) - np.exp(-ka * t))
            rows.append(dict(ID=i + 1, TIME=t, DV=max(0.02, f * np.exp(0.15 * rng.standard_normal())), AMT=0, EVID=0))
    frame = pd.DataFrame(rows)
    for name in dose_items:
        frame[name] = frame[name].fillna(0)
    return frame


TIMES = [[0.5, 1.0, 3.0, 8.0], [0.3, 2.0, 6.0], [1.0, 4.0], [0.6, 1.5, 5.0, 9.0, 14.0]]


def plain() -> dn.Population:
    return dn.read_nonmem(records(TIMES))


class Oral(dn.Model):
    """One compartment, first-order absorption, combined error."""

    ka = dn.Positive(1.1)
    cl = dn.Positive(2.7)
    v = dn.Positive(18.0)
    a = dn.Positive(0.15)
    b = dn.Positive(0.2)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.2, 0.1, 0.05])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.combined2(f, theta.a, theta.b)))


class Block(Oral):
    """A full Omega."""

    eta = dn.RandomEffects(
        "ka", "cl", "v", block=True, omega=[[0.2, 0.03, 0.01], [0.03, 0.1, -0.02], [0.01, -0.02, 0.05]]
    )


class Ode(Oral):
    """The same written as differential equations."""

    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - p.cl / p.v * x.central)


class Occasions(Oral):
    """Variation between occasions on clearance."""

    iov = dn.RandomEffects("kappa", omega=0.06, by="occasion")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl + eta.kappa), v=theta.v * exp(eta.v))


def occasions() -> dn.Population:
    """Subjects with 3, 1, 2 and 2 occasions."""
    frames = []
    for part, who in enumerate(([1, 2, 3, 4], [1, 3, 4], [1])):
        frame = records(TIMES, seed=part + 3)
        frame["TIME"] += 24.0 * part
        frame["OCC"] = part + 1
        frames.append(frame[frame["ID"].isin(who)])
    return dn.read_nonmem(pd.concat(frames).sort_values(["ID", "TIME"], kind="stable").reset_index(drop=True))


def censored(kind: str) -> dn.Population:
    """Some observations below a limit, above one, or in an interval."""
    frame = records(TIMES)
    frame["CENS"] = 0
    seen = frame["EVID"] == 0
    if kind == "above":
        hidden = seen & (frame["DV"] > 3.0)
        frame.loc[hidden, ["DV", "CENS"]] = [3.0, -1]
        return dn.read_nonmem(frame)
    hidden = seen & (frame["DV"] < 2.0)
    frame.loc[hidden, ["DV", "CENS"]] = [2.0, 1]
    if kind == "interval":
        frame["LIMIT"] = np.where(hidden & (frame["ID"] != 2), 0.5, np.nan)
    return dn.read_nonmem(frame)


class Positive4(Oral):
    """Censored observations given that they are positive."""

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.combined1(f, theta.a, theta.b), blq="M4"))


class Lag(Oral):
    """A lag time with a random effect."""

    tlag = dn.Positive(0.13)
    eta = dn.RandomEffects("ka", "cl", "tlag", omega=[0.2, 0.1, 0.08])

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v, tlag=theta.tlag * exp(eta.tlag))

    def dosing(self, theta, p):
        return dict(depot=dn.Dosing(lag=p.tlag))


class Bioavailability(Oral):
    """A fraction absorbed, between 0 and 1."""

    f = dn.Bounded(0.7)
    eta = dn.RandomEffects("ka", "cl", "f", omega=[0.2, 0.1, 0.3])

    def individual(self, theta, eta, cov):
        odds = torch.log(theta.f / (1 - theta.f)) + eta.f
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v, f=torch.sigmoid(odds))

    def dosing(self, theta, p):
        return dict(depot=dn.Dosing(bioavailability=p.f))


class Duration(dn.Model):
    """A zero-order input of unknown duration (RATE=-2)."""

    cl = dn.Positive(2.7)
    v = dn.Positive(18.0)
    d = dn.Positive(1.4)
    sd = dn.Positive(0.4)
    eta = dn.RandomEffects("cl", "d", omega=[0.1, 0.1])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v, d=theta.d * exp(eta.d))

    def dosing(self, theta, p):
        return dict(central=dn.Dosing(duration=p.d))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


class Logarithmic(Oral):
    """Log-normal observations."""

    a = dn.Positive(0.15, fixed=True)

    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal(x.central / p.v, theta.b))


class PowerError(Oral):
    """sd = b f^a, with a random effect on the residual."""

    eta = dn.RandomEffects("cl", "ruv", omega=[0.1, 0.05])

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl), v=theta.v, b=theta.b * exp(eta.ruv))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.power(f, p.b, 3 * theta.a)))


class TwoEndpoints(Oral):
    """Concentration and a direct effect of it, whose baseline is a Real parameter."""

    base = dn.Real(10.0)
    slope = dn.Real(-0.6)
    effect_sd = dn.Positive(0.5)

    def observe(self, theta, p, x):
        f = x.central / p.v
        return {"cp": dn.LogNormal(f, theta.b), "effect": dn.Normal(theta.base + theta.slope * f, theta.effect_sd)}


def two_endpoints() -> dn.Population:
    frame = records(TIMES)
    effect = frame[(frame["EVID"] == 0) & (frame["TIME"] > 0.5)].copy()
    effect["DV"] = 10.0 - 0.5 * effect["DV"] + 0.3 * np.sin(np.arange(len(effect)))
    frame["DVID"], effect["DVID"] = 1, 2
    both = pd.concat([frame, effect]).sort_values(["ID", "TIME"], kind="stable").reset_index(drop=True)
    return dn.read_nonmem(both, endpoints={1: "cp", 2: "effect"})


class TimeVarying(Oral):
    """Clearance follows a covariate that changes within subjects."""

    power = dn.Real(0.75)

    def individual(self, theta, eta, cov):
        return dict(
            ka=theta.ka * exp(eta.ka),
            cl=theta.cl * (cov.CRCL / 100.0) ** theta.power * exp(eta.cl),
            v=theta.v * exp(eta.v),
        )


def time_varying() -> dn.Population:
    frame = records(TIMES)
    frame["CRCL"] = 100.0 - 4.0 * frame["TIME"] + 5.0 * frame["ID"]
    return dn.read_nonmem(frame, covariates=["CRCL"])


class Counts(dn.Model):
    """Poisson counts whose rate falls exponentially."""

    rate = dn.Positive(6.0)
    slope = dn.Real(-0.2)
    eta = dn.RandomEffects("rate", "slope", omega=[0.2, 0.01])

    def individual(self, theta, eta, cov):
        return dict(rate=theta.rate * exp(eta.rate), slope=theta.slope + eta.slope)

    def observe(self, theta, p, x):
        return dict(dv=torch.distributions.Poisson(p.rate * exp(p.slope * x.time), validate_args=False))


class Binary(dn.Model):
    """Yes or no, with a logit linear in time."""

    level = dn.Real(-0.5)
    slope = dn.Real(0.3)
    eta = dn.RandomEffects("level", omega=0.7)

    def individual(self, theta, eta, cov):
        return dict(level=theta.level + eta.level, slope=theta.slope)

    def observe(self, theta, p, x):
        return dict(dv=torch.distributions.Bernoulli(logits=p.level + p.slope * x.time, validate_args=False))


def longitudinal(kind: str, subjects: int = 6, per: int = 5, seed: int = 4) -> dn.Population:
    """Counts or yes/no at times 0, 1, ..., simulated from `Counts` and `Binary` at their initial values."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(subjects):
        e1, e2 = rng.standard_normal(2)
        for t in range(per - i % 2):
            if kind == "counts":
                y = rng.poisson(6.0 * np.exp(np.sqrt(0.2) * e1) * np.exp((-0.2 + 0.1 * e2) * t))
            else:
                y = int(rng.random() < 1 / (1 + np.exp(-(-0.5 + np.sqrt(0.7) * e1 + 0.3 * t))))
            rows.append(dict(ID=i + 1, TIME=float(t), DV=float(y)))
    return dn.read_nonmem(pd.DataFrame(rows))


class Heavy(Oral):
    """Student t residuals with estimated degrees of freedom."""

    eta = dn.RandomEffects("cl", "v", omega=[0.1, 0.05])
    df = dn.Positive(4.0)

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka, cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.StudentT(f, theta.a + theta.b * f, theta.df))


class Priors(Oral):
    """Priors on two parameters, one fixed, one bounded."""

    ka = dn.Positive(1.1, prior=torch.distributions.LogNormal(torch.tensor(0.2), torch.tensor(0.3)))
    cl = dn.Positive(2.7, prior=torch.distributions.Normal(2.0, 0.5))
    v = dn.Bounded(18.0, low=5.0, high=60.0)
    a = dn.Positive(0.15, fixed=True)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.2, 0.1, 0.05], fixed=["ka"])


class Vector(Oral):
    """An unnamed vector of random effects and a fixed zero variance."""

    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.0, 0.1, 0.0], fixed=["ka", "v"])
    latent = dn.RandomEffects(2, omega=0.05)

    def individual(self, theta, eta, cov):
        one, two = eta.latent[..., 0], eta.latent[..., 1]
        return dict(
            ka=theta.ka * exp(eta.ka + one), cl=theta.cl * exp(eta.cl + 0.5 * one * two), v=theta.v * exp(eta.v + two)
        )


@dataclass(frozen=True)
class Case:
    """A model, its data and the methods that can fit it."""

    name: str
    model: type[dn.Model]
    data: Any
    methods: tuple[dn.Method, ...]

    def population(self) -> dn.Population:
        return self.data()


CASES = (
    Case("diagonal", Oral, plain, GAUSSIAN),
    Case("block", Block, plain, GAUSSIAN),
    Case("occasions", Occasions, occasions, GAUSSIAN),
    Case("below", Oral, lambda: censored("below"), CONDITIONAL),
    Case("above", Oral, lambda: censored("above"), CONDITIONAL),
    Case("interval", Oral, lambda: censored("interval"), CONDITIONAL),
    Case("log below", Logarithmic, lambda: censored("interval"), CONDITIONAL),
    Case("M4 below", Positive4, lambda: censored("below"), ANY),
    Case("M4 interval", Positive4, lambda: censored("interval"), ANY),
    Case("lag", Lag, plain, GAUSSIAN),
    Case("bioavailability", Bioavailability, plain, GAUSSIAN),
    Case("duration", Duration, lambda: dn.read_nonmem(records(TIMES, RATE=-2)), GAUSSIAN),
    Case("log-normal", Logarithmic, plain, GAUSSIAN),
    Case("power", PowerError, plain, GAUSSIAN),
    Case("two endpoints", TwoEndpoints, two_endpoints, GAUSSIAN),
    Case("time-varying", TimeVarying, time_varying, GAUSSIAN),
    Case("counts", Counts, lambda: longitudinal("counts"), ANY),
    Case("binary", Binary, lambda: longitudinal("binary"), ANY),
    Case("Student t", Heavy, plain, ANY),
    Case("priors", Priors, plain, GAUSSIAN),
    Case("vector", Vector, plain, GAUSSIAN),
)
BY_NAME = {c.name: c for c in CASES}
PAIRS = [(c, m) for c in CASES for m in c.methods]
PAIR_IDS = [f"{c.name}-{m.name}" for c, m in PAIRS]
