"""How well a fitted model predicts subjects that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from deepnlme.data import Population, Records
from deepnlme.data.layout import endpoint_index
from deepnlme.data.records import OBSERVATION, OTHER
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation import Fit, Method, evaluate_ofv
from deepnlme.estimation.coding import coded

LEVEL = 0.9
"""Probability inside the interval whose coverage is reported."""
DRAWS = 500
"""Draws of the random effects for that interval."""


@dataclass(frozen=True)
class PredictiveDistance:
    """Distances between a fitted model and subjects.

    Attributes:
        method: The approximation of the likelihood.
        ofv: OFV of the subjects at the estimates.
        minus2ll: -2 log L of them, constants included.
        subjects: Number of subjects.
        observations: Number of observations in the likelihood.
        unconverged: Ids of subjects whose random effects were not found.
        subject_ofv: Contribution of each subject to the OFV.
        predictions: One row per observation that is not censored: ID TIME ENDPOINT DV PRED IPRED LOW HIGH.
        table: One row per endpoint: observations, RMSE, MAE and MDLR (median of abs log(DV/prediction) where both
            are positive) of PRED and IPRED, and the share of the observations inside the 90% interval of new
            subjects [%].
    """

    method: str
    ofv: float
    minus2ll: float
    subjects: int
    observations: int
    unconverged: list
    subject_ofv: pd.Series
    predictions: pd.DataFrame
    table: pd.DataFrame

    def row(self) -> dict[str, float]:
        """Everything in one row; columns of the endpoints carry their names where there are several."""
        out = {"subjects": self.subjects, "observations": self.observations, "-2LL": self.minus2ll}
        for endpoint, values in self.table.iterrows():
            suffix = f" {endpoint}" if len(self.table) > 1 else ""
            out |= {f"{name}{suffix}": value for name, value in values.items() if name != "N"}
        return out

    def __str__(self) -> str:
        head = (
            f"{self.subjects} subjects, {self.observations} observations: -2LL ({self.method}) {self.minus2ll:.4f}, "
            f"OFV {self.ofv:.4f}"
        )
        lost = [str(i) for i in self.unconverged]
        more = f"\nrandom effects not found for subjects: {', '.join(lost[:5])}" if lost else ""
        return f"{head}{more}\n\n{self.table.to_string(float_format='{:.4g}'.format)}"


def predictive_distance(
    fit: Fit, population: Population, method: Method | None = None, seed: int = 0
) -> PredictiveDistance:
    """How far subjects are from a fitted model: likelihood, typical and individual predictions, coverage.

    - -2LL: the marginal likelihood of the subjects at the estimates; nothing is estimated but their random effects
      inside the approximation. It judges the whole distribution, and is what models are to be compared by.
    - PRED: the prediction at eta = 0, from covariates and doses alone.
    - IPRED: the prediction at the EBEs, which were found from the same observations: it tells how well the random
      effects can follow a subject, and falls with every random effect that is added.
    - coverage: of the 90% interval for a subject without observations, from random effects and residual error.

    Censored observations count in the likelihood only.

    Args:
        fit: The fit.
        population: Subjects that it has not seen.
        method: The approximation of the likelihood; None for that of the fit.
        seed: Of the draws behind the intervals.

    Raises:
        ModelError, DataError: The population does not suit the model.
    """
    if not isinstance(fit, Fit):
        raise ModelError(f"Invalid `fit`: got {type(fit).__name__}, expected a Fit, as dn.fit returns it.")
    if not isinstance(population, Population):
        fix = "Use for example population.split(0.25)"
        raise DataError(invalid("population", type(population).__name__, "It is a Population", fix=fix))
    population = coded(population.require_observations(), fit.population)
    method = fit.method if method is None else method
    there = evaluate_ofv(fit.model, population, method, at=fit, options=replace(fit.options, held_out=None))
    predictions = _predictions(fit, there, seed)
    return PredictiveDistance(
        method.name,
        there.ofv,
        -2.0 * there.log_likelihood,
        len(population),
        there.n_observations,
        there.unconverged,
        there.subject_ofv,
        predictions,
        distances(predictions, there.joint.endpoints),
    )


def _predictions(fit: Fit, there: Fit, seed: int) -> pd.DataFrame:
    """Observations with their predictions and intervals, the censored ones left out."""
    table = there.predictions()
    out = pd.DataFrame({"ID": table["ID"], "TIME": table["TIME"]})
    out["ENDPOINT"] = table["DVID"] if "DVID" in table else there.joint.endpoints[0]
    for name in ("DV", "PRED", "IPRED"):
        out[name] = table[name].astype(float)
    interval = fit.predict(unobserved(there), level=LEVEL, draws=DRAWS, seed=seed)
    out["LOW"], out["HIGH"] = interval["DV_LOW"].to_numpy(), interval["DV_HIGH"].to_numpy()
    exact = table["CENS"].to_numpy() == 0 if "CENS" in table else np.ones(len(table), dtype=bool)
    return out.loc[exact].reset_index(drop=True)


def unobserved(there: Fit) -> Population:
    """The subjects of a fit with the same records, but as if nothing had been observed yet.

    Observations become records with MDV=1, in the order in which `Fit.predictions` lists them; other records with
    EVID=0 become EVID=2, so that nothing is predicted there.
    """
    population, r = there.population, there.population.records
    names = np.array([*there.joint.endpoints, ""])
    columns = dict(r.columns())
    columns["evid"] = np.where((r.evid == OBSERVATION) & ~r.observed, OTHER, r.evid)
    columns["endpoint"] = names[endpoint_index(population, there.joint.layout)]
    columns["observed"] = np.zeros(len(r), dtype=bool)
    columns["dv"], columns["limit"] = np.full(len(r), np.nan), np.full(len(r), np.nan)
    columns["cens"] = np.zeros(len(r), dtype=np.int64)
    return population.with_records(Records(**columns, covariates=r.covariates))


def distances(predictions: pd.DataFrame, endpoints: Iterable[str]) -> pd.DataFrame:
    """The table of a `PredictiveDistance` from its predictions."""
    rows = {}
    for endpoint in endpoints:
        part = predictions.loc[predictions["ENDPOINT"] == endpoint]
        y = part["DV"].to_numpy(float)
        row: dict[str, float] = {"N": len(part)}
        for name in ("PRED", "IPRED"):
            f = part[name].to_numpy(float)
            row[f"RMSE {name}"] = math.sqrt(float(np.mean((y - f) ** 2))) if len(y) else math.nan
            row[f"MAE {name}"] = float(np.mean(np.abs(y - f))) if len(y) else math.nan
            usable = (y > 0) & (f > 0)
            ratios = np.abs(np.log(y[usable] / f[usable]))
            row[f"MDLR {name}"] = float(np.median(ratios)) if len(ratios) else math.nan
        inside = (y >= part["LOW"].to_numpy(float)) & (y <= part["HIGH"].to_numpy(float))
        row["coverage 90%"] = 100.0 * float(np.mean(inside)) if len(y) else math.nan
        rows[endpoint] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["N"] = table["N"].astype(int)
    return table
