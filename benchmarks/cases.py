"""The models and data of the benchmarks. Data marked EXTERNAL are read from the folder named by DEEPNLME_DATA."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import exp

import deepnlme as dn

ROOT = Path(__file__).resolve().parents[1]


def external(name: str) -> Path:
    """A file of the folder named by DEEPNLME_DATA."""
    folder = os.environ.get("DEEPNLME_DATA")
    if not folder:
        raise FileNotFoundError("set DEEPNLME_DATA to the folder with the benchmark data")
    return Path(folder) / name


class Theophylline(dn.Model):
    """One compartment, first-order absorption, additive error."""

    ka = dn.Positive(1.5)
    cl = dn.Positive(2.7)
    v = dn.Positive(31.0)
    sd = dn.Positive(0.7)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.Normal(x.central / p.v, theta.sd))


class TheophyllineODE(Theophylline):
    """The same as differential equations."""

    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - p.cl / p.v * x.central)


class Warfarin(dn.Model):
    """Warfarin PK: one compartment, first-order absorption, combined error (sd = a + b f)."""

    ka = dn.Positive(1.0)
    cl = dn.Positive(0.1)
    v = dn.Positive(8.0)
    a = dn.Positive(0.5)
    b = dn.Positive(0.1)
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.3, 0.1, 0.1])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(cp=dn.Normal(f, dn.combined1(f, theta.a, theta.b)))


class WarfarinODE(Warfarin):
    """The same as differential equations."""

    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - p.cl / p.v * x.central)


class WarfarinTurnover(dn.Model):
    """Warfarin PK and prothrombin activity together: turnover with inhibition of production."""

    ka = dn.Positive(1.0)
    cl = dn.Positive(0.135)
    v = dn.Positive(8.0)
    emax = dn.Bounded(0.95, low=0.0, high=1.0)
    ec50 = dn.Positive(1.0)
    kout = dn.Positive(0.05)
    e0 = dn.Positive(100.0)
    a = dn.Positive(0.5)
    b = dn.Positive(0.1)
    sd = dn.Positive(4.0)
    eta = dn.RandomEffects("ka", "cl", "v", "emax", "ec50", "kout", "e0", omega=[0.3, 0.1, 0.1, 0.1, 0.1, 0.05, 0.01])

    def individual(self, theta, eta, cov):
        odds = theta.emax / (1.0 - theta.emax) * exp(eta.emax)
        return dict(
            ka=theta.ka * exp(eta.ka),
            cl=theta.cl * exp(eta.cl),
            v=theta.v * exp(eta.v),
            emax=odds / (1.0 + odds),
            ec50=theta.ec50 * exp(eta.ec50),
            kout=theta.kout * exp(eta.kout),
            e0=theta.e0 * exp(eta.e0),
        )

    def initial(self, theta, p):
        return dict(effect=p.e0)

    def dynamics(self, theta, p, t, x):
        cp = x.central / p.v
        return dict(
            depot=-p.ka * x.depot,
            central=p.ka * x.depot - p.cl / p.v * x.central,
            effect=p.e0 * p.kout * (1.0 - p.emax * cp / (p.ec50 + cp)) - p.kout * x.effect,
        )

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(cp=dn.Normal(f, dn.combined1(f, theta.a, theta.b)), pca=dn.Normal(x.effect, theta.sd))


class Bolus(dn.Model):
    """One compartment, bolus, proportional error."""

    cl = dn.Positive(4.0)
    v = dn.Positive(70.0)
    b = dn.Positive(0.2)
    eta = dn.RandomEffects("cl", "v", omega=[0.1, 0.1])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        f = 1000.0 * x.central / p.v
        return dict(dv=dn.Normal(f, dn.proportional(f, theta.b)))


class MichaelisMenten(dn.Model):
    """One compartment, first-order absorption, saturable elimination; differential equations."""

    ka = dn.Positive(1.0)
    vm = dn.Positive(1000.0)
    km = dn.Positive(250.0)
    v = dn.Positive(70.0)
    b = dn.Positive(0.2)
    eta = dn.RandomEffects("ka", "vm", "km", "v", omega=[0.1, 0.1, 0.1, 0.1])

    def individual(self, theta, eta, cov):
        return {n: theta[n] * exp(eta[n]) for n in ("ka", "vm", "km", "v")}

    def dynamics(self, theta, p, t, x):
        cp = x.central / p.v
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - p.vm * cp / (p.km + cp))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.proportional(f, theta.b)))


class TwoCompartmentOral(dn.Model):
    """Two compartments, first-order absorption, proportional error; closed form, 120 subjects x 19 observations."""

    ka = dn.Positive(1.0)
    cl = dn.Positive(4.0)
    v1 = dn.Positive(70.0)
    q = dn.Positive(4.0)
    v2 = dn.Positive(50.0)
    b = dn.Positive(0.2)
    eta = dn.RandomEffects("ka", "cl", "v1", "q", "v2", omega=[0.1] * 5)
    dynamics = dn.TwoCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return {n: theta[n] * exp(eta[n]) for n in ("ka", "cl", "v1", "q", "v2")}

    def observe(self, theta, p, x):
        f = x.central / p.v1
        return dict(dv=dn.Normal(f, dn.proportional(f, theta.b)))


class Small(dn.Model):
    """One compartment, bolus, additive error on a log scale; for the number of subjects."""

    cl = dn.Positive(1.2)
    v = dn.Positive(9.0)
    sd = dn.Positive(0.2)
    eta = dn.RandomEffects("cl", "v", omega=[0.1, 0.1])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal(x.central / p.v, theta.sd))


def theophylline() -> dn.Population:
    """The theophylline data."""
    return dn.read_nonmem(ROOT / "datasets" / "theophylline" / "data.csv")


def warfarin_pk() -> dn.Population:
    """Warfarin concentrations. EXTERNAL."""
    frame = pd.read_csv(external("warfarin.csv"))
    return dn.read_nonmem(frame[(frame["evid"] == 1) | (frame["dvid"] == "cp")])


def warfarin_both() -> dn.Population:
    """Warfarin concentrations and prothrombin activity. EXTERNAL."""
    return dn.read_nonmem(pd.read_csv(external("warfarin.csv")))


def bolus() -> dn.Population:
    """The single-dose part of bolus_1cpt. EXTERNAL."""
    frame = pd.read_csv(external("bolus_1cpt.csv"))
    return dn.read_nonmem(frame[frame["SD"] == 1], columns={"ss": None})


def michaelis_menten() -> dn.Population:
    """The single-dose part of oral_1cpt_mm. EXTERNAL."""
    frame = pd.read_csv(external("oral_1cpt_mm.csv"))
    return dn.read_nonmem(frame[frame["SD"] == 1], columns={"ss": None})


def simulated(subjects: int, times: np.ndarray, dose: float, profile: Callable, sd: float, seed: int) -> dn.Population:
    """One bolus or oral dose at time 0 and log-normal residuals around the profile of each subject."""
    generator = np.random.default_rng(seed)
    f = profile(generator, subjects, times)
    y = f * np.exp(sd * generator.standard_normal(f.shape))
    n = len(times) + 1
    frame = pd.DataFrame(
        {
            "ID": np.repeat(np.arange(1, subjects + 1), n),
            "TIME": np.tile(np.r_[0.0, times], subjects),
            "AMT": np.tile(np.r_[dose, np.zeros(n - 1)], subjects),
            "DV": np.concatenate([np.zeros((subjects, 1)), y], 1).ravel(),
            "EVID": np.tile(np.r_[1, np.zeros(n - 1, dtype=int)], subjects),
        }
    )
    return dn.read_nonmem(frame)


def two_compartment_oral() -> dn.Population:
    """120 simulated subjects, 2,280 observations."""

    def profile(generator: np.random.Generator, subjects: int, times: np.ndarray) -> np.ndarray:
        ka, cl, v1, q, v2 = (
            m * np.exp(np.sqrt(0.09) * generator.standard_normal(subjects)) for m in (1.0, 4.0, 70.0, 4.0, 50.0)
        )
        k = np.zeros((subjects, 3, 3))
        k[:, 0, 0], k[:, 1, 0] = -ka, ka
        k[:, 1, 1], k[:, 2, 1] = -(cl + q) / v1, q / v1
        k[:, 1, 2], k[:, 2, 2] = q / v2, -q / v2
        values, vectors = np.linalg.eig(k)
        start = np.linalg.solve(vectors, np.broadcast_to(np.array([60000.0, 0, 0])[:, None], (subjects, 3, 1)))[..., 0]
        modes = np.exp(values[:, None, :] * times[None, :, None]) * start[:, None, :]
        return np.einsum("sm,stm->st", vectors[:, 1], modes).real / v1[:, None]

    times = np.array([0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 36, 48.0])
    return simulated(120, times, 60000.0, profile, 0.2, 1)


def many(subjects: int) -> dn.Population:
    """Simulated subjects with 10 observations each."""

    def profile(generator: np.random.Generator, subjects: int, times: np.ndarray) -> np.ndarray:
        cl, v = (m * np.exp(0.3 * generator.standard_normal((subjects, 1))) for m in (1.0, 10.0))
        return 100.0 / v * np.exp(-cl / v * times)

    return simulated(subjects, np.array([0.5, 1, 2, 4, 6, 8, 12, 16, 20, 24.0]), 100.0, profile, 0.2, 2)


@dataclass(frozen=True)
class Case:
    """A benchmark: a model, its data, and the time of nlmixr2 7.0.2 on a machine of this kind [s], if known."""

    model: type[dn.Model]
    data: Callable[[], dn.Population]
    nlmixr2: float | None = None


CASES = {
    "theophylline": Case(Theophylline, theophylline, 0.75),
    "theophylline_ode": Case(TheophyllineODE, theophylline, 1.2),
    "warfarin": Case(Warfarin, warfarin_pk, 3.0),
    "warfarin_ode": Case(WarfarinODE, warfarin_pk, 4.0),
    "warfarin_turnover": Case(WarfarinTurnover, warfarin_both, 56.0),
    "bolus_1cpt": Case(Bolus, bolus),
    "oral_1cpt_mm": Case(MichaelisMenten, michaelis_menten, 40.0),
    "two_compartment_oral": Case(TwoCompartmentOral, two_compartment_oral, 120.0),
    "subjects_200": Case(Small, lambda: many(200)),
    "subjects_2000": Case(Small, lambda: many(2000)),
    "subjects_20000": Case(Small, lambda: many(20000)),
}
