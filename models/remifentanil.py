"""Remifentanil: three compartments, one infusion per person, and what age and lean body mass explain.

    base         cl, v1, q2, v2, q3, v3 = theta * exp(eta)
    covariates   each times exp(a (age - 40)/10 + b (lbm - 55)/10), where Minto et al. found an effect
    log y ~ N(log central/v1, sd^2)

Data: 65 adults of 20 to 85 years, arterial samples during and after an infusion of 4 to 20 min, 1992 concentrations
from 0.1 to 245 ng/mL (datasets/remifentanil; Minto et al. 1997, Anesthesiology 86:10; nlme's `Remifentanil`).

Published, same study, NONMEM: the model without covariates had V1 4.98, V2 9.01, V3 6.54 L, CL 2.46, Q2 1.69, Q3 0.065
L/min. Their final model has age on V1, V2, CL, Q2, Q3 and lean body mass on V1, V2, CL, as here (there linear, here
log-linear, so that no age makes a volume negative); at 40 years and 55 kg V1 5.1, V2 9.82, V3 5.42 L, CL 2.6, Q2 2.05,
Q3 0.076 L/min.

Which random effects do the data support? All six: without the one on v3 the OFV rises by 47, without the one on q3 by
91. V3 shows only in the last samples, though: the shrinkage of its effect is near one half.
"""

from torch import exp

import deepnlme as dn
from _script import DATASETS, arguments, beside, compared, draw, heading, options, show, write

NAMES = ("cl", "v1", "q2", "v2", "q3", "v3")
MINTO_SIMPLE = {"cl": 2.46, "v1": 4.98, "q2": 1.69, "v2": 9.01, "q3": 0.065, "v3": 6.54}
MINTO_FINAL = {"cl": 2.60, "v1": 5.10, "q2": 2.05, "v2": 9.82, "q3": 0.076, "v3": 5.42}


class Remifentanil(dn.Model):
    """Three compartments without covariates."""

    cl = dn.Positive(2.5, unit="L/min")
    v1 = dn.Positive(5.0, unit="L")
    q2 = dn.Positive(1.7, unit="L/min")
    v2 = dn.Positive(9.0, unit="L")
    q3 = dn.Positive(0.07, unit="L/min")
    v3 = dn.Positive(8.0, unit="L")
    sd = dn.Positive(0.15)
    eta = dn.RandomEffects(*NAMES, omega=[0.05, 0.15, 0.2, 0.15, 0.2, 0.2])
    dynamics = dn.ThreeCompartment()

    def individual(self, theta, eta, cov):
        return {name: theta[name] * (exp(eta[name]) if name in eta else 1.0) for name in NAMES}

    def observe(self, theta, p, x):
        # Concentrations span three orders of magnitude: the error is taken on the logarithm.
        return dict(dv=dn.LogNormal(x.central / p.v1, theta.sd))


def without(effect: str) -> Remifentanil:
    """The base model without one of its random effects."""
    kept = [name for name in NAMES if name != effect]
    return Remifentanil(eta=dn.RandomEffects(*kept, omega=0.15))


class AgeAndLeanBodyMass(Remifentanil):
    """Log-linear effects per 10 years of age beyond 40 and per 10 kg of lean body mass beyond 55."""

    age_cl = dn.Real(0.0)
    age_v1 = dn.Real(0.0)
    age_q2 = dn.Real(0.0)
    age_v2 = dn.Real(0.0)
    age_q3 = dn.Real(0.0)
    lbm_cl = dn.Real(0.0)
    lbm_v1 = dn.Real(0.0)
    lbm_v2 = dn.Real(0.0)

    def individual(self, theta, eta, cov):
        # Centred, so that theta is the typical value at 40 years and 55 kg; scaled, so that effects are near 0.1.
        age, lbm = (cov.age - 40.0) / 10.0, (cov.lbm - 55.0) / 10.0
        p = super().individual(theta, eta, cov)
        for name in NAMES:
            if f"age_{name}" in theta:
                p[name] = p[name] * exp(theta[f"age_{name}"] * age)
            if f"lbm_{name}" in theta:
                p[name] = p[name] * exp(theta[f"lbm_{name}"] * lbm)
        return p


def main() -> None:
    args = arguments(__doc__, ("focei", "fo"))
    population = dn.read_nonmem(DATASETS / "remifentanil" / "data.csv", covariates=["age", "lbm"])
    if args.quick:
        population = population[::5]
    print(population)

    base, covariates = Remifentanil(), AgeAndLeanBodyMass()
    if args.quick:  # thirteen people support less: three random effects, one covariate, v3 as published
        few = dict(eta=dn.RandomEffects("cl", "v1", "v2", omega=0.1), v3=dn.Positive(6.54, fixed=True))
        none = {name: dn.Real(0.0, fixed=True) for name in covariates.parameters if name[:4] in ("age_", "lbm_")}
        del none["age_cl"]
        base, covariates = base.replace(**few), covariates.replace(**few, **none)

    heading(f"Random effects and covariates, {args.method.name}")
    how = options(covariance=None)  # standard errors are for the model chosen
    fits = {"base": dn.fit(base, population, args.method, options=how)}
    if not args.quick:
        for effect in ("v3", "q3"):
            fits[f"base, no eta {effect}"] = dn.fit(without(effect), population, args.method, options=how)
    # Start where the base model ended: the covariate model contains it.
    start = fits["base"].estimates
    fits["age and lbm"] = dn.fit(covariates, population, args.method, start=start, options=options())
    show(compared(fits), 7)
    before, final = fits["base"], fits["age and lbm"]

    heading("The model chosen")
    print(final)
    explained = {
        name: 100.0 * (1.0 - final.omega.loc[name, name] / before.omega.loc[name, name]) for name in final.omega.index
    }
    print("\nVariance explained by age and lbm: " + ", ".join(f"{k} {v:.0f}%" for k, v in explained.items()))

    if not args.quick:
        heading("Against Minto et al. 1997: without covariates, and the final model at 40 years, 55 kg (not rechecked)")
        show(beside(before, MINTO_SIMPLE, "Minto, simple"), 4)
        show(beside(final, MINTO_FINAL, "Minto, final"), 4)

    draw(args, "remifentanil", final, scale="log", units={"dv": "ng/mL"})
    write(args, final, fits, variance_explained=explained)


if __name__ == "__main__":
    main()
