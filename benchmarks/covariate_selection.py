"""Which methods of covariate selection find what is there, and how long they take.

    python benchmarks/covariate_selection.py [--datasets 100] [--methods SCM network] [--seconds 300] [--csv FILE]
    python benchmarks/covariate_selection.py --null [...]

Each data set has 100 subjects with four samples after a bolus, 15 covariates with correlation 0.6^|i-j|, and four true
relations: log clearance rises by 0.15 and 0.10 per standard deviation of x1 and x5, log volume by 0.15 and 0.08 per
that of x9 and x13; both vary by 25 % between subjects besides. All 30 relations are candidates. Counted are relations:
precision is the share of true ones among those selected, recall the share of the true ones that were selected, over
all data sets. With --null no data set has any relation: how many are found all the same, and how many single p-values
are below 0.05 (at the first step of SCM, and before Holm's correction).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from torch import exp

import deepnlme as dn

TRUE = {("cl", "x1"): 0.15, ("cl", "x5"): 0.10, ("v", "x9"): 0.15, ("v", "x13"): 0.08}
TIMES = np.array([0.5, 2.0, 6.0, 12.0])
SUBJECTS, COVARIATES, CORRELATION, BETWEEN, RESIDUAL = 100, 15, 0.6, 0.25, 0.15
CANDIDATES = 2 * COVARIATES


class Bolus(dn.Model):
    """One compartment."""

    cl, v, sd = dn.Positive(5.0, unit="L/h"), dn.Positive(50.0, unit="L"), dn.Positive(0.2)
    eta = dn.RandomEffects("cl", "v", omega=0.1)
    dynamics = dn.OneCompartment()

    def individual(self, theta, eta, cov):
        return dict(cl=theta.cl * exp(eta.cl), v=theta.v * exp(eta.v))

    def observe(self, theta, p, x):
        return dict(cp=dn.LogNormal(x.central / p.v, theta.sd))


def people(seed: int, effects: dict[tuple[str, str], float]) -> dn.Population:
    """One data set."""
    rng = np.random.default_rng([seed, len(effects)])
    i = np.arange(COVARIATES)
    root = np.linalg.cholesky(CORRELATION ** np.abs(i[:, None] - i))
    subjects = []
    for number in range(SUBJECTS):
        x = root @ rng.standard_normal(COVARIATES)
        p = dict(cl=np.log(5.0), v=np.log(50.0))
        for (parameter, covariate), effect in effects.items():
            p[parameter] += effect * x[int(covariate[1:]) - 1]
        cl, v = (np.exp(p[name] + BETWEEN * rng.standard_normal()) for name in ("cl", "v"))
        y = 100.0 / v * np.exp(-cl / v * TIMES + RESIDUAL * rng.standard_normal(len(TIMES)))
        covariates = {f"x{j + 1}": value for j, value in enumerate(x)}
        subjects.append(dn.Subject(number + 1, dn.Dose(100.0), (TIMES, y), covariates))
    return dn.Population(subjects)


METHODS = {
    "SCM, p 0.05 and 0.01": lambda fit: dn.scm(fit, progress=False),
    "SCM, BIC": lambda fit: dn.scm(fit, criterion="bic", progress=False),
    "screening, Holm 0.05": lambda fit: dn.screen(fit),
    "adaptive lasso, BIC": lambda fit: dn.lasso(fit, progress=False),
    "adaptive lasso, extended BIC": lambda fit: dn.lasso(fit, criterion="ebic", progress=False),
    "adaptive lasso, 5 folds": lambda fit: dn.lasso(fit, criterion="cv", progress=False),
    "plain lasso, BIC": lambda fit: dn.lasso(fit, power=0, progress=False),
    "adaptive lasso, quadratic, BIC": lambda fit: dn.lasso(fit, approximation="quadratic", progress=False),
    "network, p 0.01": lambda fit: dn.attribute(fit, refits=0, progress=False),  # refits are for intervals alone
}


def base_fit(population: dn.Population) -> dn.Fit:
    """The fit without covariates."""
    return dn.fit(Bolus(), population, options=dn.Options(progress=False, covariance=None))


def single(chosen: dn.Selection) -> int | None:
    """Relations tested alone that have p < 0.05; None where the method has no such tests."""
    if chosen.method.startswith("SCM (lrt"):
        return int((chosen.steps.query("STEP == 1")["P"] < 0.05).sum())
    return int((chosen.steps["P"] < 0.05).sum()) if chosen.method.startswith("Screening") else None


def selection(
    seeds: range,
    effects: dict[tuple[str, str], float],
    methods: list[str],
    seconds: float = np.inf,
    file: Path | None = None,
) -> pd.DataFrame:
    """One row per data set and method: relations selected, true ones among them, CPU time [s], single p-values < 0.05.

    Args:
        seeds: Of the data sets.
        effects: The true relations.
        methods: Names among `METHODS`.
        seconds: No data set is started after so much wall time.
        file: Written after every data set. What it holds is kept: only methods that a data set lacks are run.
    """
    rows = pd.read_csv(file).to_dict("records") if file is not None and file.exists() else []
    began = time.perf_counter()
    for seed in seeds:
        if time.perf_counter() - began > seconds:
            break
        done = {row["method"] for row in rows if row["seed"] == seed}
        missing = [name for name in methods if name not in done]
        if not missing:
            continue
        fit = base_fit(people(seed, effects))
        for name in missing:
            before = time.process_time()
            chosen = METHODS[name](fit)
            spent = time.process_time() - before
            hits = sum((t.parameter, t.covariate) in effects for t in chosen.terms)
            own = dict(selected=len(chosen.terms), hits=hits, seconds=spent, single=single(chosen))
            rows.append(dict(seed=seed, method=name, **own))
        if file is not None:
            pd.DataFrame(rows).to_csv(file, index=False)
    return pd.DataFrame(rows)


def scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Precision, recall, F1 and CPU time of every method."""
    rows = {}
    for name, own in runs.groupby("method", sort=False):
        selected, hits = int(own["selected"].sum()), int(own["hits"].sum())
        precision, recall = hits / max(selected, 1), hits / (len(TRUE) * len(own))
        rows[name] = {
            "data sets": len(own),
            "precision": precision,
            "recall": recall,
            "F1": 2 * precision * recall / max(precision + recall, 1e-12),
            "false per data set": (selected - hits) / len(own),
            "CPU seconds": own["seconds"].median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def false_positives(runs: pd.DataFrame) -> pd.DataFrame:
    """Relations found where there are none [% of the candidates], data sets with any [%], single p < 0.05 [%]."""
    rows = {}
    for name, own in runs.groupby("method", sort=False):
        rows[name] = {
            "data sets": len(own),
            "% of candidates": 100 * own["selected"].mean() / CANDIDATES,
            "% of data sets": 100 * (own["selected"] > 0).mean(),
            "% single p < 0.05": 100 * own["single"].mean() / CANDIDATES,
            "its standard error": 100 * own["single"].sem() / CANDIDATES,
            "CPU seconds": own["seconds"].median(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first data set")
    parser.add_argument("--csv", type=Path, help="keeps the counts of every data set; a later run adds to them")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no data set after so much wall time")
    parser.add_argument("--methods", nargs="+", default=[""], help="those whose names begin so; all by default")
    parser.add_argument("--null", action="store_true", help="data sets without any relation")
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.datasets)
    methods = [name for name in METHODS if name.startswith(tuple(args.methods))]
    runs = selection(seeds, {} if args.null else TRUE, methods, args.seconds, args.csv)
    print((false_positives if args.null else scores)(runs).round(3).to_string())


if __name__ == "__main__":
    main()
