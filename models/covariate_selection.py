"""Remifentanil: four searches for the covariates of its model, side by side.

    cl, v1, q2, v2, q3 = theta * exp(eta) * (x / median)^b, or a factor per sex, for each relation found

- stepwise covariate modelling (SCM): forward inclusion at p < 0.05, backward elimination at p < 0.01
- screening: random effects against covariates, shrinkage taken out, Holm-corrected p < 0.05
- adaptive lasso: the model with all relations at once, penalised; the penalty by BIC
- network: learned from all covariates to all random effects; relations without which people left out are predicted
  worse, p < 0.01

Candidates are age, lean body mass and sex on five parameters (V3 shows only in the last samples: the shrinkage of its
effect is near one half). Lean body mass and sex are correlated; single tests find both.

Published, same study, NONMEM: age on V1, V2, CL, Q2, Q3 and lean body mass on V1, V2, CL (Minto et al. 1997,
Anesthesiology 86:10). Data and base model: remifentanil.py. `--method fo` searches faster, by a cruder approximation.

With `--method fo` the lasso finds seven of the eight published relations, SCM and screening six, the network five. Sex
on V1, which goes with lean body mass, is found besides by all but the network, and sex on CL by the screening. None
sees age on Q3.
"""

import pandas as pd

import deepnlme as dn
from _script import DATASETS, arguments, heading, options, save, show, write
from remifentanil import Remifentanil

COVARIATES = ("age", "lbm", "sex")
PARAMETERS = ("cl", "v1", "q2", "v2", "q3")
PUBLISHED = {("age", p) for p in PARAMETERS} | {("lbm", p) for p in ("v1", "v2", "cl")}


def main() -> None:
    args = arguments(__doc__, ("focei", "fo"))
    coding = {"age": None, "lbm": None, "sex": {"0": 0, "1": 1}}
    population = dn.read_nonmem(DATASETS / "remifentanil" / "data.csv", covariates=coding)
    model, candidates = Remifentanil(), {name: list(COVARIATES) for name in PARAMETERS}
    if args.quick:  # thirteen people support less: three random effects, v3 as published, three candidates
        population = population[::5]
        model = model.replace(eta=dn.RandomEffects("cl", "v1", "v2", omega=0.1), v3=dn.Positive(6.54, fixed=True))
        candidates = {"cl": ["age", "sex"], "v1": ["age"]}
    print(population)
    base = dn.fit(model, population, args.method, options=options(covariance=None))

    searches = {
        "SCM": dn.scm(base, candidates, progress=options().progress),
        "screening": dn.screen(base, candidates),
        "lasso": dn.lasso(base, candidates, progress=options().progress),
        "network": dn.attribute(base, candidates, refits=10 if args.quick else 50, progress=options().progress),
    }
    for name, found in searches.items():
        heading(name)
        print(found)

    heading("Side by side: selected, and Minto et al. 1997")
    chosen = {name: {(t.covariate, t.parameter) for t in found.terms} for name, found in searches.items()}
    chosen["Minto"] = PUBLISHED
    tried = [(x, p) for p, covariates in candidates.items() for x in covariates]
    rows = {f"{p} ~ {x}": {name: "yes" if (x, p) in found else "" for name, found in chosen.items()} for x, p in tried}
    show(pd.DataFrame.from_dict(rows, orient="index"))

    final = searches["SCM"].fit
    heading("The model that SCM has chosen")
    print(final)
    if args.pictures is not None:
        import matplotlib

        matplotlib.use("Agg")
        from deepnlme import plots

        save(args, {"covariate_selection": plots.plot_selection(searches)})
    found = {name: sorted(f"{p} ~ {x}" for x, p in pairs) for name, pairs in chosen.items()}
    write(args, final, {"base": base, "SCM": final, "lasso": searches["lasso"].fit}, selected=found)


if __name__ == "__main__":
    main()
