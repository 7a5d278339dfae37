"""Propofol in 1,031 people: a network from covariates to the six parameters, the formulas read out of it, and Eleveld.

    python benchmarks/propofol.py --workers 2 [--folds 5] [--json FILE] [--report FILE]

The data are the folder `propofol` of the one that the environment variable DEEPNLME_DATA names: infusions,
concentrations and covariates (age, weight, height, sex, arterial or venous samples, opioids, postmenstrual age), and
the parameters that the published model of Eleveld et al. (2018, Br J Anaesth 120:942) predicts for each person.

    c' s     three compartments, the closed form; log c observed with an additive error
    p        p_0 size^b exp(network_p(covariates) + eta_p), b = 0.75 for clearances, 1 for volumes, size = WT/70
    fit      the pooled data first (eta = 0), then everything by FOCE with interaction
    formulas the knee of the Pareto front of every network, in its place; all constants estimated likewise, Omega kept

Cross-validation by person: each model is fitted without a fifth of the people and predicts them from their covariates
alone. MdALE is the mean over people of the median over a person's observations of |ln(observed/predicted)|.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import exp, log

import deepnlme as dn
from deepnlme.report import report

PARAMETERS = {"cl": 0.75, "v1": 1.0, "q2": 0.75, "v2": 1.0, "q3": 0.75, "v3": 1.0}
"""Individual parameters and their allometric exponents."""
INPUTS = ("lnwt", "lnpma", "age", "lnht", "female", "venous", "opioid")
COVARIATES = ["AGE", "WT", "HT", "SEX", "AV", "OPIOID", "PMA"]
Setting = tuple[tuple[int, int], int, int | None]
"""Iterations at eta = 0 and jointly, evaluations of the search for formulas, people (None: all)."""
TOLERANCE = 0.2
"""Error of a formula, relative to the spread of its network, that is good enough."""


class Propofol(dn.Model):
    """Three compartments; what covariates say about each parameter is left to a network of its own."""

    cl, v1 = dn.Positive(1.5, unit="L/min"), dn.Positive(7.0, unit="L")
    q2, v2 = dn.Positive(1.5, unit="L/min"), dn.Positive(25.0, unit="L")
    q3, v3 = dn.Positive(0.8, unit="L/min"), dn.Positive(220.0, unit="L")
    sd = dn.Positive(0.3)
    on_cl, on_v1, on_q2, on_v2, on_q3, on_v3 = (
        dn.MLP(len(INPUTS), (4,), 1, activation="tanh", prior=dn.L2(1.0), seed=i) for i in range(6)
    )
    eta = dn.RandomEffects(*PARAMETERS, omega=0.1)
    dynamics = dn.ThreeCompartment()

    def individual(self, theta, eta, cov):
        size = log(cov.WT / 70.0)
        seen = (size, log(cov.PMA / 40.0), cov.AGE / 40.0, log(cov.HT / 170.0), cov.SEX - 1.0, cov.AV - 1.0)
        own = {name: theta[f"on_{name}"](*seen, cov.OPIOID - 1.0) for name in PARAMETERS}
        return {name: theta[name] * exp(b * size + own[name] + eta[name]) for name, b in PARAMETERS.items()}

    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal(x.central / p.v1, theta.sd))


class Published(dn.Model):
    """Parameters as Eleveld's model predicts them, columns of the data."""

    sd = dn.Positive(0.3)
    dynamics = dn.ThreeCompartment()

    def individual(self, theta, eta, cov):
        return {name: cov[name.upper()] for name in PARAMETERS}

    def observe(self, theta, p, x):
        return dict(dv=dn.LogNormal(x.central / p.v1, theta.sd))


def read() -> tuple[dn.Population, dn.Population]:
    """The people, and the same with the published parameters as covariates."""
    folder = Path(os.environ.get("DEEPNLME_DATA", "")) / "propofol"
    if not (folder / "propofol.csv").exists():
        sys.exit("Set DEEPNLME_DATA to the folder that has propofol/propofol.csv.")
    table = pd.read_csv(folder / "propofol.csv").drop(columns="STUDY")
    table = table[table.groupby("ID")["EVID"].transform("min") == 0]  # two people have no observation
    theirs = pd.read_csv(folder / "eleveld_typical_parameters.csv").drop(columns="STUDY")
    names = [name.upper() for name in PARAMETERS]
    return (
        dn.read_nonmem(table, covariates=COVARIATES),
        dn.read_nonmem(table[[c for c in table if c not in COVARIATES]].merge(theirs, on="ID"), covariates=names),
    )


def errors(predictions: pd.DataFrame) -> pd.Series:
    """Median |ln(observed/predicted)| of each person."""
    return np.log(predictions["DV"] / predictions["PRED"]).abs().groupby(predictions["ID"]).median()


def how(iterations: int) -> dn.Options:
    """Options of a fit."""
    return dn.Options(
        progress=False, covariance=None, optimiser="l-bfgs", max_iterations=iterations, max_numbers=1_500_000
    )


def fitted(model: dn.Model, people: dn.Population, pooled: int, joint: int) -> dn.Fit:
    """At eta = 0 first, which is quick, then by FOCE."""
    start = dn.fit(model, people, dn.NaivePooled(), options=how(pooled))
    return dn.fit(model, people, dn.FOCE(), start=start, options=how(joint))


def formulas(fit: dn.Fit, evaluations: int) -> dn.Model:
    """The model with the knee of each network's front in its place."""
    at = fit
    for name in PARAMETERS:
        found = dn.distil(fit, f"on_{name}", INPUTS, tolerance=TOLERANCE, evaluations=evaluations)
        model = found.knee.into(at)
        at = dn.evaluate_ofv(model, fit.population, dn.NaivePooled(), options=how(1))
    return at.model


def one_fold(fold: int, folds: int, setting: Setting) -> dict:
    """Both models without the people of a fold, and the errors of their predictions."""
    iterations, evaluations, people = setting
    population = read()[0][:people]
    groups = np.random.default_rng(1).permutation(len(population)) % folds
    train, test = population[np.flatnonzero(groups != fold)], population[np.flatnonzero(groups == fold)]
    out: dict[str, Any] = {"fold": fold}
    began = time.perf_counter()
    network = fitted(Propofol(), train, *iterations)
    middle = time.perf_counter()
    symbolic = fitted(formulas(network, evaluations), train, *iterations)
    spent = {"network": middle - began, "formulas": time.perf_counter() - middle}
    for name, fit in (("network", network), ("formulas", symbolic)):
        error = errors(fit.predict(test, draws=0))
        out[name] = dict(zip(error.index.tolist(), error.tolist(), strict=True))
        out[f"{name} fit"] = dict(ofv=fit.ofv, status=fit.status.name, seconds=spent[name], estimates=fit.estimates)
    out["text"] = dict(dn.formulas_in(symbolic)[["NETWORK", "VALUES"]].itertuples(index=False))
    return out


def everybody(setting: Setting) -> dn.Fit:
    """The formulas from all people."""
    iterations, evaluations, people = setting
    population = read()[0][:people]
    network = fitted(Propofol(), population, *iterations)
    return fitted(formulas(network, evaluations), population, *iterations)


def summary(folds: list[dict], people: int | None) -> pd.DataFrame:
    """MdALE of the models: the mean over people, its median, and both over the people of each fold."""
    published = dn.predict(Published(), read()[1][:people])
    found = {"Eleveld, published": errors(published)}
    for name in ("network", "formulas"):
        found[f"{name}, held out"] = pd.Series({int(i): e for fold in folds for i, e in fold[name].items()})
    there = found["network, held out"].index
    rows = {name: dict(people=len(there), MdALE=e[there].mean(), median=e[there].median()) for name, e in found.items()}
    for name, error in found.items():
        for fold in folds:
            rows[name][f"fold {fold['fold'] + 1}"] = error[[int(i) for i in fold["network"]]].mean()
    return pd.DataFrame.from_dict(rows, orient="index")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, nargs="*", default=list(range(5)), help="which of the five are fitted")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--quick", action="store_true", help="few people and steps, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps what every fold found; a later run adds to it")
    parser.add_argument("--report", type=Path, metavar="FILE", help="formulas of all people, as a report")
    args = parser.parse_args()
    setting = ((3, 1), 500, 25) if args.quick else ((60, 40), 50_000, None)
    known = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    missing = [fold for fold in args.folds if fold not in [one["fold"] for one in known]]
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        for one in pool.map(partial(one_fold, folds=5, setting=setting), missing):
            known.append(one)
            spent = [one[f"{name} fit"]["seconds"] / 60 for name in ("network", "formulas")]
            print(f"fold {one['fold'] + 1}: network {spent[0]:.1f} min, formulas {spent[1]:.1f} min", flush=True)
            if args.json:
                args.json.write_text(json.dumps(known, indent=1))
    print("\nMedian |ln(observed/predicted)| at eta = 0, mean over people\n")
    print(summary(known, setting[2]).round(4).T.to_string())
    for one in known:
        print(f"\nFormulas without the people of fold {one['fold'] + 1}")
        print("\n".join(f"    {name} = {text}" for name, text in one["text"].items()))
    if args.report:
        fit = everybody(setting)
        print(fit)
        print(dn.formulas_in(fit).to_string())
        report(fit, args.report, title="Propofol: formulas of covariates", sections=("summary", "methods", "estimates"))


if __name__ == "__main__":
    main()
