"""Deep NLME: how a drug changes a response, discovered from ten people.

    truth    depot' = -ka depot       central' = ka depot - cl/vc central       cp = central/vc
             R' = kin (1 + smax cp^n / (sc50^n + cp^n)) - kout R,   R(0) = kin/kout
             smax, sc50, ka, vc, kout vary log-normally (variance 0.1);  R is observed with noise of sd 0.1
    learned  the same depot and central compartment, and R' = network(cp, R, z1, z2, z3) with z ~ N(0, 0.1 I)

Nothing of the response is given to the network model: neither that production is stimulated, nor that there is
turnover, nor what varies between people. The network is MLP(5-7-7-1) with the penalty 1/2 sum w^2; R(0) varies with z1.

Ten people get a dose of 1 at time 0 and another about 5 h later and are observed hourly to 24 h. Twelve others on such
a regimen, and twelve on one that no fit has seen (0.3 every 3 h, three doses, and from 25 h 1.5 every 8 h, two doses,
to 48 h) are predicted: their random effects are estimated from their own noisy data, and the individual predictions
are compared with the curves without noise. A distance is the root mean square of prediction - truth, in units of the
noise: 1 is as far off as the data themselves. Beside it stand the true model, at its true values and with random
effects estimated from the same data, and two classical models fitted to the same ten people.

The network is meant to come below 1 on the regimen that it was fitted to, and below 2 on the other.
"""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import exp

import deepnlme as dn
from _script import arguments, heading, options, show, write
from _simulated import BLUE, VERMILION, Trial, comparison, draw_people, held_out, picture, simulate

TARGETS = {"training regimen": 1.0, "unseen regimen": 2.0}
UNSEEN = dn.Regimen(dn.Dose(0.3, ii=3, addl=2), dn.Dose(1.5, time=25, ii=8, addl=1))


class IndirectResponse(dn.Model):
    """The truth: stimulation of production, with a Hill coefficient."""

    ka = dn.Positive(0.5)
    cl = dn.Positive(1.0)
    vc = dn.Positive(1.0)
    smax = dn.Positive(2.9)
    n = dn.Positive(1.5)
    sc50 = dn.Positive(0.05)
    kout = dn.Positive(2.2)
    kin = dn.Positive(0.8)
    sd = dn.Positive(0.1)
    eta = dn.RandomEffects("smax", "sc50", "ka", "vc", "kout", omega=0.1)

    def individual(self, theta, eta, cov):
        return {name: theta[name] * (exp(eta[name]) if name in eta else 1.0) for name in theta}

    def initial(self, theta, p):
        return dict(response=p.kin / p.kout)

    def stimulation(self, p, cp):
        return p.smax / (1.0 + (p.sc50 / torch.clamp(cp, min=1e-12)) ** p.n)

    def dynamics(self, theta, p, t, x):
        cp = x.central / p.vc
        return dict(
            depot=-p.ka * x.depot,
            central=p.ka * x.depot - p.cl * cp,
            response=p.kin * (1.0 + self.stimulation(p, cp)) - p.kout * x.response,
        )

    def observe(self, theta, p, x):
        return dict(outcome=dn.Normal(x.response, theta.sd))


class Emax(IndirectResponse):
    """A classical guess: no Hill coefficient; cl cannot be told from vc without concentrations and is given."""

    n = None
    cl = dn.Positive(1.0, fixed=True)
    eta = dn.RandomEffects("smax", "ka", "vc", "kout", omega=0.1)

    def stimulation(self, p, cp):
        return p.smax * cp / (p.sc50 + cp)


class Linear(Emax):
    """A classical guess that is wrong: stimulation in proportion to the concentration."""

    sc50 = None
    smax = dn.Positive(3.0)

    def stimulation(self, p, cp):
        return p.smax * cp


class NeuralIndirectResponse(dn.Model):
    """PK known, the whole response learned: R' = network(cp, R, z)."""

    ka = dn.Positive(0.5)
    cl = dn.Positive(1.0)
    vc = dn.Positive(1.0)
    r0 = dn.Positive(0.4)
    omega_r0 = dn.Positive(0.1)
    sd = dn.Positive(0.1)
    response = dn.MLP(inputs=5, hidden=(7, 7), outputs=1, activation="tanh", prior=dn.L2(1.0))
    eta = dn.RandomEffects("ka", "vc", omega=0.1)
    latent = dn.RandomEffects(3, omega=0.1, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(
            ka=theta.ka * exp(eta.ka),
            vc=theta.vc * exp(eta.vc),
            cl=theta.cl,
            z=eta.latent,
            r0=theta.r0 * exp(10.0 * theta.omega_r0 * eta.latent[..., 0]),
        )

    def initial(self, theta, p):
        return dict(response=p.r0)

    def dynamics(self, theta, p, t, x):
        return dict(
            depot=-p.ka * x.depot,
            central=p.ka * x.depot - p.cl / p.vc * x.central,
            response=theta.response(x.central / p.vc, x.response, p.z),
        )

    def observe(self, theta, p, x):
        return dict(outcome=dn.Normal(x.response, theta.sd))


def data(seed: int, train: int = 10, test: int = 12) -> tuple[Trial, dict[str, Trial]]:
    """People to fit, and others to predict, by regimen."""
    generator = np.random.default_rng(seed)

    def trial(people: int, hours: int, first_id: int, regimen: dn.Regimen | None = None) -> Trial:
        second = generator.gamma(40.0, 5.0 / 40.0, people)
        doses = [regimen or dn.Regimen(dn.Dose(1.0), dn.Dose(1.0, time=time)) for time in second]
        times = [np.arange(hours + 1.0)] * people
        return simulate(IndirectResponse(), times, generator, doses=doses, additive=0.1, first_id=first_id)

    fitted = trial(train, 24, 1)
    return fitted, {
        "training regimen": trial(test, 24, train + 1),
        "unseen regimen": trial(test, 48, train + test + 1, UNSEEN),
    }


def concentration(p: Mapping[str, float], doses: Sequence[dn.Dose], times: np.ndarray) -> np.ndarray:
    """cp at `times` after single doses by mouth."""
    k = p["cl"] / p["vc"]
    since = np.maximum(times[:, None] - np.array([dose.time for dose in doses]), 0.0)
    shape = p["ka"] / (p["ka"] - k) * (np.exp(-k * since) - np.exp(-p["ka"] * since)) / p["vc"]
    return shape @ np.array([dose.amount for dose in doses])


def draw_rates(args: argparse.Namespace, fit: dn.Fit, trial: Trial, people: int = 6) -> None:
    """What was learned: R' against R on the way that people whom no fit has seen go through in 24 h.

    Elsewhere in the plane of cp and R there are no data, and the network's values there mean nothing.
    """
    if args.pictures is None:
        return
    there, hours = held_out(fit, trial.population), np.linspace(0.0, 24.0, 481)
    table, truth = fit.predict(trial.population[:people], times=hours, draws=0), trial.curves(hours)
    with picture(args, "deep_nlme_rates", min(people, len(trial.population))) as panels:
        for i, (ax, subject) in enumerate(zip(panels, trial.population[:people], strict=True)):
            learned, true = there.individual(subject.id), true_parameters(trial.eta[i])
            doses = [dn.Dose(float(subject.amt[j]), float(subject.time[j])) for j in np.flatnonzero(subject.doses)]
            r = truth.loc[truth["ID"] == subject.id, "TRUTH"].to_numpy(float)
            cp = concentration(true, doses, hours)
            effect = true["smax"] * cp**1.5 / (true["sc50"] ** 1.5 + cp**1.5)
            ax.plot(r, true["kin"] * (1.0 + effect) - true["kout"] * r, color=VERMILION, label="truth")
            r = table.loc[table["ID"] == subject.id, "IPRED"].to_numpy(float)
            cp = concentration(learned, doses, hours)
            ax.plot(r, fit.networks["response"](cp, r, *learned["z"]), color=BLUE, label="network")
            ax.set_title(f"ID {subject.id}", loc="left")
        for ax in panels[::3]:
            ax.set_ylabel("R'")
        for ax in panels[-3:]:
            ax.set_xlabel("R")


def true_parameters(eta: np.ndarray) -> dict[str, float]:
    """Individual parameters of the true model."""
    model = IndirectResponse()
    effects = dict(zip(model.groups["eta"].names, eta, strict=True))
    return {name: float(p.value * np.exp(effects.get(name, 0.0))) for name, p in model.parameters.items()}


def main() -> None:
    args = arguments(__doc__, ("focei", "laplace"), simulated=True)
    train, test = data(args.data_seed, *((3, 2) if args.quick else (10, 12)))
    print(train.population)
    how = options(covariance=None, max_iterations=3 if args.quick else None)

    classical = {} if args.quick else {"Emax": Emax(), "linear": Linear()}
    models = {"network": NeuralIndirectResponse(), **classical}
    fits = {name: dn.fit(model, train.population, args.method, options=how) for name, model in models.items()}
    final = fits["network"]
    heading("The network model")
    print(final)

    heading("People whom no fit has seen: distance to their true curves, in units of the noise")
    found = comparison(fits, test, args.method)
    show(found, 3)
    print()
    for name, target in TARGETS.items():
        print(f"meant to be reached by the network, {name}: at most {target}; here {found.loc['network', name]:.3f}")

    for name, trial in test.items():
        last = trial.population.records.time.max()
        draw_people(args, f"deep_nlme_{name.replace(' ', '_')}", final, trial, np.linspace(0.0, last, 193))
    draw_rates(args, final, test["training regimen"])
    write(args, final, fits, data_seed=args.data_seed, distances=found.to_dict("index"), targets=TARGETS)


if __name__ == "__main__":
    main()
