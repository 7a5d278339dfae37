"""Theophylline by mouth: one compartment, first-order absorption - in closed form and as differential equations.

    ka, cl, v = theta * exp(eta)        depot' = -ka depot        central' = ka depot - cl/v central
    y = central/v + eps,  eps ~ N(0, add_sd^2)

Data: 12 people, one dose of about 4 mg/kg each, 11 serum concentrations over 25 h (datasets/theophylline; Boeckmann,
Sheiner and Beal 1994, NONMEM Users Guide V; R's `Theoph`).

Published, same data and model: nlmixr2 and NONMEM, FOCE(I): OFV 116.804; tka 0.464 (SE 0.198), tcl 1.012 (0.076), tv
3.460 (0.043), additive sd 0.694, variances 0.405 0.069 0.019 (nlmixr2's example `theo_sd`).

The same model is declared twice, once with the closed form and once as a system of differential equations. OFV,
estimates and residuals agree to the accuracy of the solver, which is what lets one trust the solver where there is
no closed form.
"""

import numpy as np
import pandas as pd
from torch import exp

import deepnlme as dn
from _script import DATASETS, arguments, beside, draw, heading, options, show, write

PUBLISHED = {
    "ka": np.exp(0.46445), "cl": np.exp(1.01205), "v": np.exp(3.45997), "add_sd": 0.69384,
    "omega[ka]": 0.40463, "omega[cl]": 0.06880, "omega[v]": 0.01922,
}  # fmt: skip


class Theophylline(dn.Model):
    """One-compartment oral model in closed form; ka, cl and v vary log-normally between subjects."""

    ka = dn.Positive(1.5, unit="1/h")
    cl = dn.Positive(2.7, unit="L/h")
    v = dn.Positive(31.0, unit="L")
    add_sd = dn.Positive(0.7, unit="mg/L")
    eta = dn.RandomEffects("ka", "cl", "v", omega=[0.4, 0.07, 0.02])
    dynamics = dn.OneCompartment(absorption="first-order")

    def individual(self, theta, eta, cov):
        return dict(ka=theta.ka * exp(eta.ka), cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        # The error is additive: three people have a concentration before anything was absorbed, which a proportional
        # error could not explain.
        return dict(dv=dn.Normal(x.central / p.v, theta.add_sd))


class TheophyllineODE(Theophylline):
    """The same model, its dynamics written as differential equations; all else is inherited."""

    def dynamics(self, theta, p, t, x):
        return dict(depot=-p.ka * x.depot, central=p.ka * x.depot - p.cl / p.v * x.central)


def differences(closed: dn.Fit, ode: dn.Fit) -> dict[str, float]:
    """The largest disagreement of the two fits in each kind of result."""
    a, b = closed.predictions(), ode.predictions()
    both = [(closed.estimates[name], ode.estimates[name]) for name in closed.estimates]
    errors = [(closed.se[name], ode.se[name]) for name in closed.se]
    return {
        "ofv": ode.ofv - closed.ofv,
        "subject_ofv": float(np.abs(closed.subject_ofv - ode.subject_ofv).max()),
        "estimates_relative": max(abs(y / x - 1) for x, y in both),
        "se_relative": max(abs(y / x - 1) for x, y in errors),
        **{column.lower(): float(np.abs(a[column] - b[column]).max()) for column in ("PRED", "IPRED", "CWRES")},
    }


def main() -> None:
    args = arguments(__doc__)
    population = dn.read_nonmem(DATASETS / "theophylline" / "data.csv", covariates=["wt"])
    if args.quick:
        population = population[:6]
    print(population)

    heading(f"Closed form, {args.method.name}")
    closed = dn.fit(Theophylline(), population, args.method, options=options())
    print(closed)
    if not args.quick:
        starts = dn.fit(Theophylline(), population, args.method, options=options(starts=4, covariance=None)).starts
        print(f"\nOFV from {len(starts)} starts: {', '.join(f'{value:.4f}' for value in starts)}")

    heading(f"Differential equations, {args.method.name}")
    ode = dn.fit(TheophyllineODE(), population, args.method, options=options())
    print(ode)

    heading("Side by side")
    columns = {"closed form": closed, "ODE": ode}
    show(pd.DataFrame({name: {"OFV": fit.ofv, **fit.estimates} for name, fit in columns.items()}), 7)
    print()
    found = differences(closed, ode)
    for name, value in found.items():
        print(f"largest difference in {name:<20} {value:9.1e}")
    for name, fit in columns.items():
        print(f"seconds, {name:<11} {sum(fit.seconds.values()):6.2f}")

    if not args.quick and args.method == dn.FOCE():
        heading("Against the literature (OFV 116.804)")
        show(beside(closed, PUBLISHED, "nlmixr2"))

    draw(args, "theophylline", closed)
    write(args, closed, columns, differences=found)


if __name__ == "__main__":
    main()
