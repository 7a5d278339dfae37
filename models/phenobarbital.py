"""Phenobarbital in newborn infants: one compartment, repeated intravenous doses, sparse routine data.

    cl = theta_cl wt exp(eta_cl)        v = theta_v wt (1 + theta_apgar [apgr < 5]) exp(eta_v)
    y = f + f eps,  f = central/v,  eps ~ N(0, prop_sd^2)

Data: 59 infants, 1 to 6 concentrations each (155 in all), 589 doses (datasets/phenobarbital; Grasela and Donn 1985, Dev
Pharmacol Ther 8:374).

Published: this is NONMEM's own example `pheno.mod`. NONMEM 7.5.1, FOCE with interaction: OFV 587.366 at the initial
values used here and 586.276 at the optimum, with the estimates in PUBLISHED below.

With 2.6 observations per infant the data say little about each eta: the shrinkage of eta_cl is nearly one half, so its
EBEs must not be used to look for covariates.
"""

import torch
from torch import exp

import deepnlme as dn
from _script import DATASETS, arguments, beside, compared, draw, heading, options, show, write

PUBLISHED = {
    "cl": 4.69555e-3, "v": 9.84258e-1, "apgar": 1.58920e-1, "prop_sd": 1.15069e-1,
    "omega[cl]": 2.93508e-2, "omega[v]": 2.79060e-2,
}  # fmt: skip


class Phenobarbital(dn.Model):
    """CL and V proportional to birth weight; V larger in infants with a low Apgar score."""

    cl = dn.Positive(0.00469307, unit="L/h/kg")
    v = dn.Positive(1.00916, unit="L/kg")
    # Bounded below, since 1 + apgar has to stay positive.
    apgar = dn.Bounded(0.1, low=-0.99, high=5.0)
    prop_sd = dn.Positive(0.0130865**0.5)
    eta = dn.RandomEffects("cl", "v", omega=[0.0309626, 0.031128])
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        # A model sees many infants at once: a choice between two values is torch.where, not `if`.
        low_apgar = torch.where(cov.apgr < 5, 1.0 + theta.apgar, 1.0)
        return dict(cl=theta.cl * cov.wt * exp(eta.cl), v=theta.v * cov.wt * low_apgar * exp(eta.v))

    def observe(self, theta, p, x):
        f = x.central / p.v
        return dict(dv=dn.Normal(f, dn.proportional(f, theta.prop_sd)))


class WithoutCovariates(Phenobarbital):
    """The same without weight and Apgar score: what do the covariates explain?"""

    cl = dn.Positive(0.0065, unit="L/h")
    v = dn.Positive(1.4, unit="L")
    apgar = None
    eta = dn.RandomEffects("cl", "v", omega=[0.2, 0.2])

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))


def main() -> None:
    args = arguments(__doc__)
    population = dn.read_nonmem(DATASETS / "phenobarbital" / "data.csv", covariates=["wt", "apgr"])
    if args.quick:
        population = population[:20]
    print(population)

    heading(f"At the initial values, {args.method.name}")
    initial = dn.evaluate_ofv(Phenobarbital(), population, args.method)
    print(f"OFV {initial.ofv:.6f}")

    heading(f"Fits, {args.method.name}")
    often = options(starts=1 if args.quick else 4)
    fits = {
        "no covariates": dn.fit(WithoutCovariates(), population, args.method, options=often),
        "wt and apgr": dn.fit(Phenobarbital(), population, args.method, options=often),
    }
    show(compared(fits), 7)
    final = fits["wt and apgr"]
    print(f"\n{final}")
    if len(final.starts) > 1:
        print(f"\nOFV from {len(final.starts)} starts: {', '.join(f'{value:.4f}' for value in final.starts)}")

    if not args.quick and args.method == dn.FOCE():
        heading("Against NONMEM 7.5.1 (OFV 586.27605628520962)")
        show(beside(final, PUBLISHED, "NONMEM"), 6)

    draw(args, "phenobarbital", final, units={"dv": "mg/L"})
    write(args, final, fits, initial_ofv=initial.ofv)


if __name__ == "__main__":
    main()
