"""Covariates through a network: which of the parameters depend on which covariates, and how, is not said.

    truth    two compartments by mouth; ka, cl, vc, q, vp vary log-normally (variance 0.04);  error 5 % + 0.001
             cl = 1 * 2^genotype (age/50)^0.3     q = 1.5 * 0.5^genotype     vc = 10 (wt/70)^0.5     vp = 20 (wt/70)^0.4
    true form          the same formulas, their numbers estimated
    no covariates      log-normal parameters only
    network(eta)       log of the five parameters = typical value + network(z),  z ~ N(0, I);  linear
    + network(cov)     log of the five parameters = typical value + network(z) + network(genotype, age, wt)

Each model is fitted to 100 people with 8 concentrations each and judged by the likelihood of 100 others: log L of their
data at the fitted values (FOCE), all constants included. What a model learned of the noise does not help it there. The
network with covariates is meant to come within 5 % of the model with the true formulas.

The network of the random effects has no hidden layer: it is linear, and with z ~ N(0, I) amounts to a full Omega. A
curved one learns the noise of 800 observations through its 71 weights. The penalty of the network of covariates,
5 sum w^2, was chosen on the data seeds 11 and 12; on the seeds 1, 2 and 3 the network then comes 0.9, 2.7 and 4.0 %
below the true formulas. With 1/2 sum w^2 it comes 13, 8 and 10 % below: it fits its own people better than the truth
does.
"""

import argparse
from typing import Any

import numpy as np
import pandas as pd
from torch import exp

import deepnlme as dn
from _script import arguments, heading, options, show, write
from _simulated import BLUE, VERMILION, Trial, draw_people, held_out, picture, simulate
from deepnlme.plots.style import with_unit

TARGET = 5.0
TIMES = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 24.0])
NAMES = ("ka", "cl", "v1", "q", "v2")


class NoCovariates(dn.Model):
    """Two compartments by mouth, log-normal parameters."""

    ka = dn.Positive(0.5, unit="1/h")
    cl = dn.Positive(1.0, unit="L/h")
    v1 = dn.Positive(10.0, unit="L")
    q = dn.Positive(1.5, unit="L/h")
    v2 = dn.Positive(20.0, unit="L")
    add_sd = dn.Positive(0.001, unit="mg/L", fixed=True)
    prop_sd = dn.Positive(0.05)
    eta = dn.RandomEffects(*NAMES, omega=0.04)
    dynamics = dn.TwoCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return {name: theta[name] * exp(eta[name]) for name in NAMES}

    def observe(self, theta, p, x):
        f = x.central / p.v1
        return dict(cp=dn.Normal(f, dn.combined2(f, theta.add_sd, theta.prop_sd)))


class TrueForm(NoCovariates):
    """The truth."""

    cl_genotype = dn.Positive(2.0)
    q_genotype = dn.Positive(0.5)
    cl_age = dn.Real(0.3)
    v1_wt = dn.Real(0.5)
    v2_wt = dn.Real(0.4)

    def individual(self, theta, eta, cov):
        p = super().individual(theta, eta, cov)
        age, wt = cov.age / 50.0, cov.wt / 70.0
        return dict(
            ka=p["ka"],
            cl=p["cl"] * theta.cl_genotype**cov.genotype * age**theta.cl_age,
            v1=p["v1"] * wt**theta.v1_wt,
            q=p["q"] * theta.q_genotype**cov.genotype,
            v2=p["v2"] * wt**theta.v2_wt,
        )


class NetworkOfEta(NoCovariates):
    """The random effects go through a network, a linear one."""

    eta = dn.RandomEffects(5, omega=1.0, fixed=True)
    people = dn.MLP(inputs=5, hidden=(), outputs=5, bias=False, prior=dn.L2(1.0))

    def logs(self, theta, eta, cov):
        return theta.people(eta.eta)

    def individual(self, theta, eta, cov):
        logs = self.logs(theta, eta, cov)
        return {name: theta[name] * exp(log) for name, log in zip(NAMES, logs, strict=True)}


class NetworkOfCovariates(NetworkOfEta):
    """The random effects and the covariates, each through a network."""

    traits = dn.MLP(inputs=3, hidden=(6,), outputs=5, activation="tanh", prior=dn.L2(10.0))

    def logs(self, theta, eta, cov):
        known = theta.traits(cov.genotype, cov.age, cov.wt)
        return [a + b for a, b in zip(theta.people(eta.eta), known, strict=True)]


def data(seed: int, people: int = 100) -> tuple[Trial, Trial]:
    """People to fit, and as many others."""
    generator = np.random.default_rng(seed)

    def trial(first_id: int) -> Trial:
        covariates = pd.DataFrame(
            {
                "genotype": generator.integers(0, 2, people).astype(float),
                "age": generator.uniform(20.0, 80.0, people),
                "wt": 70.0 * np.exp(0.2 * generator.standard_normal(people)),
            }
        )
        return simulate(
            TrueForm(), [TIMES] * people, generator, doses=[dn.Regimen(dn.Dose(50.0))] * people, covariates=covariates,
            additive=0.001, proportional=0.05, first_id=first_id,
        )  # fmt: skip

    return trial(1), trial(people + 1)


def draw_effects(args: argparse.Namespace, fit: dn.Fit) -> None:
    """What was learned: typical parameters against covariates, the true and the network's."""
    if args.pictures is None:
        return
    nobody = fit.networks["people"](np.zeros(5))

    def learned(name: str, genotype: float, age: Any, wt: Any) -> np.ndarray:
        i = NAMES.index(name)
        return fit.estimates[name] * np.exp(nobody[i] + fit.networks["traits"](genotype, age, wt)[i])

    ages, weights = np.linspace(20.0, 80.0, 61), np.linspace(45.0, 105.0, 61)
    shown = [
        ("cl", "age [years]", ages, lambda g, v: 2.0**g * (v / 50.0) ** 0.3, lambda g, v: learned("cl", g, v, 70.0)),
        ("q", "weight [kg]", weights, lambda g, v: 1.5 * 0.5**g + 0.0 * v, lambda g, v: learned("q", g, 50.0, v)),
        ("v1", "weight [kg]", weights, lambda g, v: 10.0 * (v / 70.0) ** 0.5, lambda g, v: learned("v1", g, 50.0, v)),
        ("v2", "weight [kg]", weights, lambda g, v: 20.0 * (v / 70.0) ** 0.4, lambda g, v: learned("v2", g, 50.0, v)),
    ]
    with picture(args, "neural_covariates_effects", len(shown), 2, 0.55) as panels:
        for ax, (name, label, values, truth, network) in zip(panels, shown, strict=True):
            for genotype, color in ((0.0, BLUE), (1.0, VERMILION)):
                ax.plot(values, truth(genotype, values), color=color, label=f"truth, genotype {genotype:.0f}")
                ax.plot(values, network(genotype, values), color=color, ls="--", label=f"network, {genotype:.0f}")
            ax.set(xlabel=label, ylabel=with_unit(f"typical {name}", fit.model.parameters[name].unit))
            ax.set_ylim(bottom=0.0)


def main() -> None:
    args = arguments(__doc__, ("focei", "laplace"), simulated=True)
    train, test = data(args.data_seed, 20 if args.quick else 100)
    print(train.population)
    classical = {"true form": TrueForm(), "no covariates": NoCovariates()}
    fits = {n: dn.fit(m, train.population, args.method, options=options(covariance=None)) for n, m in classical.items()}
    networks = {"network(eta)": NetworkOfEta(), "network(eta) + network(cov)": NetworkOfCovariates()}
    how = options(covariance=None, max_iterations=3 if args.quick else None)
    fits |= {name: dn.fit(model, train.population, args.method, options=how) for name, model in networks.items()}
    final = fits["network(eta) + network(cov)"]
    heading("The model with covariates through a network")
    print(final)

    heading("Log-likelihood of people whom no fit has seen")
    rows = {
        name: {"fitted people": fit.log_likelihood, "held out": held_out(fit, test.population).log_likelihood}
        for name, fit in fits.items()
    }
    rows = {"the truth": {
        "fitted people": dn.evaluate_ofv(TrueForm(), train.population, args.method).log_likelihood,
        "held out": dn.evaluate_ofv(TrueForm(), test.population, args.method).log_likelihood,
    }, **rows}  # fmt: skip
    found = pd.DataFrame.from_dict(rows, orient="index")
    found["below true form %"] = 100.0 * (1.0 - found["held out"] / found.loc["true form", "held out"])
    show(found, 5)
    below = found.loc["network(eta) + network(cov)", "below true form %"]
    print(f"\nmeant to be reached: at most {TARGET} % below the true form; here {below:.2f} %")

    draw_people(args, "neural_covariates", final, test, np.linspace(0.25, 24.0, 120), log=True)
    draw_effects(args, final)
    write(args, final, fits, data_seed=args.data_seed, log_likelihoods=found.to_dict("index"), target_percent=TARGET)


if __name__ == "__main__":
    main()
