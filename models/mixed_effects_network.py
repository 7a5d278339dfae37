"""A network with random effects among its inputs: curves that differ from person to person, learned without a formula.

    truth     y = c1 t / (t + 10^c2) + eps,  c1 ~ U(0.5, 1.5),  c2 ~ U(-1, 0) for each person,  eps ~ N(0, 0.05^2)
    (a)       y = network(t) + eps                       one curve for everybody
    (b)       y = network(t, eta1, eta2) + eps           eta ~ N(0, 0.1 I)
    (c)       y = network(t, eta1) + eps                 one random effect for two things that vary

The networks are MLP(inputs-6-6-1) with the penalty 1/2 sum w^2 of their weights. Omega of the random effects is fixed:
the network's first layer scales them, so that a variance beside it would say the same thing twice.

100 people with 21 observations each are fitted; 12 others, whom no fit has seen, are predicted: their random effects
are estimated from their own noisy data, and the individual predictions are compared with the curves without noise. A
distance is the root mean square of prediction - truth, in units of the noise: 1 is as far off as the data themselves.
The true model, with c1 and c2 of each person estimated from the same data, comes to about sqrt(2/21) = 0.31. (b) is
meant to come below 0.6; (a) misses every person, and (c) can only follow one of the two directions.
"""

import argparse

import numpy as np
import torch
from scipy.stats import norm

import deepnlme as dn
from _script import arguments, heading, options, show, write
from _simulated import Trial, comparison, draw_people, picture, shade, simulate

TARGET = 0.6
TIMES = np.linspace(0.0, 1.0, 21)


class Saturating(dn.Model):
    """The truth: c1 and c2 are uniform, that is the distribution function of a normal random effect."""

    sd = dn.Positive(0.05)
    eta = dn.RandomEffects("c1", "c2", omega=1.0, fixed=True)

    def individual(self, theta, eta, cov):
        uniform = torch.special.ndtr
        return dict(c1=0.5 + uniform(eta.c1), c2=uniform(eta.c2) - 1.0)

    def observe(self, theta, p, x):
        return dict(y=dn.Normal(p.c1 * x.time / (x.time + 10.0**p.c2), theta.sd))


class Pooled(dn.Model):
    """(a) One curve for everybody."""

    sd = dn.Positive(0.2)
    curve = dn.MLP(inputs=1, hidden=(6, 6), outputs=1, activation="tanh", prior=dn.L2(1.0))

    def individual(self, theta, eta, cov):
        return {}

    def observe(self, theta, p, x):
        return dict(y=dn.Normal(theta.curve(x.time), theta.sd))


class TwoEffects(dn.Model):
    """(b) A curve for each person, from a plane of curves."""

    sd = dn.Positive(0.1)
    curve = dn.MLP(inputs=3, hidden=(6, 6), outputs=1, activation="tanh", prior=dn.L2(1.0))
    latent = dn.RandomEffects(2, omega=0.1, fixed=True)

    def individual(self, theta, eta, cov):
        return dict(z=eta.latent)

    def observe(self, theta, p, x):
        return dict(y=dn.Normal(theta.curve(x.time, p.z), theta.sd))


class OneEffect(TwoEffects):
    """(c) A curve for each person, from a line of curves."""

    curve = dn.MLP(inputs=2, hidden=(6, 6), outputs=1, activation="tanh", prior=dn.L2(1.0))
    latent = dn.RandomEffects(1, omega=0.1, fixed=True)


def data(seed: int, train: int = 100, test: int = 12) -> tuple[Trial, Trial]:
    """People to fit, and others to predict."""
    generator = np.random.default_rng(seed)
    fitted = simulate(Saturating(), [TIMES] * train, generator, additive=0.05)
    return fitted, simulate(Saturating(), [TIMES] * test, generator, additive=0.05, first_id=train + 1)


def draw_curves(args: argparse.Namespace, fit: dn.Fit) -> None:
    """What varies between people: the true curves along c1 and c2, and the learned ones along eta1 and eta2."""
    if args.pictures is None:
        return
    t, steps = np.linspace(0.0, 1.0, 101), np.linspace(-1.5, 1.5, 7)  # random effects in standard deviations
    sd, rank = np.sqrt(0.1), norm.cdf
    families = {
        "truth: c1 varies": lambda s: (0.5 + rank(s)) * t / (t + 10.0**-0.5),
        "truth: c2 varies": lambda s: t / (t + 10.0 ** (rank(s) - 1.0)),
        "learned: eta1 varies": lambda s: fit.networks["curve"](t, sd * s, 0.0),
        "learned: eta2 varies": lambda s: fit.networks["curve"](t, 0.0, sd * s),
    }
    with picture(args, "mixed_effects_network_curves", 4, 2, 0.6) as panels:
        for ax, (title, curve) in zip(panels, families.items(), strict=True):
            for step in steps:
                ax.plot(t, curve(step), color=shade(step / 1.5), lw=1.0, label=f"{step:+.1f} sd")
            ax.set(title=title, xlabel="Time", ylabel="y", ylim=(0.0, 1.45))


def main() -> None:
    args = arguments(__doc__, ("focei", "laplace"), simulated=True)
    train, test = data(args.data_seed, 15 if args.quick else 100)
    print(train.population)
    # The curves of a network bend with its random effects: a search for them may end beside the best place.
    how = options(covariance=None, ebe_starts=10, max_iterations=15 if args.quick else None)

    models = {
        "(a) network(t)": Pooled(),
        "(b) network(t, eta1, eta2)": TwoEffects(),
        "(c) network(t, eta1)": OneEffect(),
    }
    fits = {name: dn.fit(model, train.population, args.method, options=how) for name, model in models.items()}
    final = fits["(b) network(t, eta1, eta2)"]
    heading("The model chosen, (b)")
    print(final)

    heading("12 people whom no fit has seen: distance to their true curves, in units of the noise")
    found = comparison(fits, {"held out": test}, args.method)
    show(found, 3)
    reached = found.loc["(b) network(t, eta1, eta2)", "held out"]
    print(f"\nmeant to be reached: (b) at most {TARGET}; here {reached:.3f}")

    draw_people(args, "mixed_effects_network", final, test, np.linspace(0.0, 1.0, 101))
    draw_curves(args, final)
    write(args, final, fits, data_seed=args.data_seed, distances=found.to_dict("index"), target=TARGET)


if __name__ == "__main__":
    main()
