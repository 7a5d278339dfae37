"""Universal differential equations: the more one knows and says, the less data a network needs.

    truth    depot' = -ka depot       central' = ka depot - cl/vc central       cp = central/vc
             R' = kin (1 + smax cp^n / (sc50^n + cp^n)) - kout R,  R(0) = kin/kout;  noise of 2 % of R
    (a)      R  = network(t)                                      nothing is said
    (b)      (depot, central, R)' = network(depot, central, R)    there are three states
    (c)      R' = network(cp, R)                                  the PK is known
    (d)      R' = kin (1 + network(cp) - network(0)) - kout R     the PK and turnover are known

The networks are MLP(.-6-6-.) with the penalty 1/2 sum w^2. Only R is observed, every 0.5 h to 15 h. Each model is
fitted to one person, A, who gets a dose of 1 at 0 and at 5 h, and predicts another, B, who gets a tenth of it. ka, cl
and vc are those of the truth wherever they occur: R alone does not tell them apart, and the comparison is about the
response.

A distance is the root mean square of (prediction - truth), in units of the noise. On B the error falls from (a), 59,
by (c), 3 to 6, to (d), about 1, which is within twice the error of the true model fitted to A. Not so (b): its depot
and central compartment are not observed and nothing says what they are, so that R on A's way does not tell what happens
on B's; it ends anywhere between 14 and 320 from other first weights, penalties and units that fit A as well.

At last (c) again with doses 10,000 times as large (and sc50 with them): a network sees its inputs and gives its
outputs in units found from the model and the data, so that the size of a concentration does not matter.
"""

import argparse

import numpy as np
import torch

import deepnlme as dn
from _script import arguments, heading, options, show, write
from _simulated import BLUE, VERMILION, Trial, comparison, draw_person, picture, simulate

TIMES = np.arange(0.0, 15.1, 0.5)
NOISE = 0.02
SHORT = {
    "(a) network(t)": "(a) function of t",
    "(b) neural ODE": "(b) neural ODE",
    "(c) network(cp, R)": "(c) PK known",
    "(d) kin (1 + network(cp) - network(0)) - kout R": "(d) turnover known",
}
FINAL = "(d) kin (1 + network(cp) - network(0)) - kout R"


class Pharmacokinetics(dn.Model):
    """What is known of the drug, and how R is observed."""

    ka = dn.Positive(0.5, fixed=True)
    cl = dn.Positive(1.0, fixed=True)
    vc = dn.Positive(1.0, fixed=True)
    sd = dn.Positive(0.5)  # large at first: the relative noise of a bad start would rule the fit otherwise

    def initial(self, theta, p):
        return dict(response=theta.r0)

    def response(self, theta, cp, r):
        raise NotImplementedError("each model has its own")

    def dynamics(self, theta, p, t, x):
        cp = x.central / theta.vc
        return dict(
            depot=-theta.ka * x.depot,
            central=theta.ka * x.depot - theta.cl * cp,
            response=self.response(theta, cp, x.response),
        )

    def observe(self, theta, p, x):
        return dict(response=dn.Normal(x.response, dn.proportional(x.response, theta.sd)))


class Truth(Pharmacokinetics):
    """Stimulation of production."""

    smax = dn.Positive(2.9)
    n = dn.Positive(1.5)
    sc50 = dn.Positive(0.05)
    kout = dn.Positive(2.2)
    kin = dn.Positive(0.8)

    def initial(self, theta, p):
        return dict(response=theta.kin / theta.kout)

    def response(self, theta, cp, r):
        stimulation = theta.smax / (1.0 + (theta.sc50 / torch.clamp(cp, min=1e-12)) ** theta.n)
        return theta.kin * (1.0 + stimulation) - theta.kout * r


class Curve(dn.Model):
    """(a) R = network(t)."""

    sd = dn.Positive(0.5)
    curve = dn.MLP(inputs=1, hidden=(6, 6), outputs=1, activation="tanh", prior=dn.L2(1.0))

    def dynamics(self, theta, p, t, x):
        return dict(depot=-x.depot)  # where the doses go; nothing depends on it

    def observe(self, theta, p, x):
        r = theta.curve(x.time)
        return dict(response=dn.Normal(r, dn.proportional(r, theta.sd)))


class NeuralODE(Pharmacokinetics):
    """(b) All three derivatives are a network's."""

    ka = cl = vc = None
    r0 = dn.Positive(0.4)
    rates = dn.MLP(inputs=3, hidden=(6, 6), outputs=3, activation="tanh", prior=dn.L2(1.0))

    def dynamics(self, theta, p, t, x):
        depot, central, response = theta.rates(x.depot, x.central, x.response)
        return dict(depot=depot, central=central, response=response)


class Response(Pharmacokinetics):
    """(c) The PK is known, the response is a network's."""

    r0 = dn.Positive(0.4)
    rate = dn.MLP(inputs=2, hidden=(6, 6), outputs=1, activation="tanh", prior=dn.L2(1.0))

    def response(self, theta, cp, r):
        return theta.rate(cp, r)


class Stimulation(Pharmacokinetics):
    """(d) Turnover is known, how the concentration stimulates it is a network's; without the drug R rests at R(0)."""

    kout = dn.Positive(2.5)
    kin = dn.Positive(1.0)
    # A stimulation is of order one. Larger changes at the start would make R negative, where its noise is no guide.
    effect = dn.MLP(inputs=1, hidden=(6, 6), outputs=1, activation="tanh", prior=dn.L2(1.0), output_scale=1.0)

    def initial(self, theta, p):
        return dict(response=theta.kin / theta.kout)

    def response(self, theta, cp, r):
        return theta.kin * (1.0 + theta.effect(cp) - theta.effect(0.0)) - theta.kout * r


def data(seed: int, unit: float = 1.0) -> tuple[Trial, Trial]:
    """Person A with doses of `unit`, person B with a tenth; sc50 is 0.05 `unit`."""
    generator = np.random.default_rng(seed)
    truth = Truth(sc50=0.05 * unit, sd=NOISE)

    def person(id: int, amount: float) -> Trial:
        doses = [dn.Regimen(dn.Dose(amount), dn.Dose(amount, time=5.0))]
        return simulate(truth, [TIMES], generator, doses=doses, proportional=NOISE, first_id=id)

    return person(1, unit), person(2, 0.1 * unit)


def draw(args: argparse.Namespace, fits: dict[str, dn.Fit], a: Trial, b: Trial) -> None:
    """The models' predictions of both people, and what (d) learned of the stimulation."""
    if args.pictures is None:
        return
    times = np.linspace(0.0, 15.0, 151)
    shown = [(name, fit, trial) for trial in (a, b) for name, fit in fits.items() if name != "true model"]
    with picture(args, "universal_differential_equation_people", len(shown), len(shown) // 2, 1.0) as panels:
        for ax, (name, fit, trial) in zip(panels, shown, strict=True):
            table = fit.predict(trial.population, times=times, draws=0)
            draw_person(ax, trial.population[0], table, trial.curves(times), individual=False)
            ax.set(ylim=(0.0, 1.7), title=f"{'A' if trial is a else 'B'}: {SHORT[name]}")
        for ax in panels[:: len(panels) // 2]:
            ax.set_ylabel("response")
        for ax in panels[len(panels) // 2 :]:
            ax.set_xlabel("Time")
    cp = np.linspace(0.0, 0.4, 200)
    with picture(args, "universal_differential_equation_stimulation", 1, 1, 0.45) as panels:
        panels[0].plot(cp, 2.9 * cp**1.5 / (0.05**1.5 + cp**1.5), color=VERMILION, label="truth")
        effect = fits[FINAL].networks["effect"]
        panels[0].plot(cp, effect(cp) - effect(0.0), color=BLUE, label="network")
        panels[0].set(xlabel="cp", ylabel="stimulation")


def main() -> None:
    args = arguments(__doc__, ("focei",), simulated=True)
    a, b = data(args.data_seed)
    print(a.population)
    # a curve through one person's data has many shapes that a search can end in: the best of four first weights
    how = options(covariance=None, max_iterations=3 if args.quick else None, starts=1 if args.quick else 4)

    models = {
        "true model": Truth(),
        "(a) network(t)": Curve(),
        "(b) neural ODE": NeuralODE(),
        "(c) network(cp, R)": Response(),
        FINAL: Stimulation(),
    }
    fits = {name: dn.fit(model, a.population, args.method, options=how) for name, model in models.items()}
    final = fits[FINAL]
    heading("The model that knows most, (d)")
    print(final)

    heading("Distance to the truth, in units of the noise")
    found = comparison(fits, {"A, fitted": a, "B, a tenth of the dose": b})
    show(found, 3)

    heading("The same with doses 10,000 times as large")
    large_a, large_b = data(args.data_seed, 1e4)
    large = {"(c) network(cp, R)": dn.fit(Response(), large_a.population, args.method, options=how)}
    scaled = comparison(large, {"A, fitted": large_a, "B, a tenth of the dose": large_b})
    show(scaled, 3)

    draw(args, fits, a, b)
    write(
        args, final, fits, data_seed=args.data_seed, distances=found.to_dict("index"),
        distances_of_large_doses=scaled.to_dict("index"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
