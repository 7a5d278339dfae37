"""What a cross-validation has found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.compare.distances import distances


@dataclass(frozen=True)
class CrossValidation:
    """Models fitted to all subjects but some, and judged on those; every subject is held out once.

    Attributes:
        method: The approximation of the likelihood.
        reference: The model that the others are compared with.
        assignment: The fold of every subject, index ID.
        folds: One row per model and fold: -2LL, OFV, counts, convergence, seconds, and a message where it failed.
        predictions: MODEL FOLD ID TIME ENDPOINT DV PRED IPRED LOW HIGH of every observation, by the fit that had not
            seen its subject.
        subject_ofv: Held-out OFV of every subject, a column per model.
        notes: Folds that failed or are missing, and why models cannot be compared.
        incomparable: Models whose likelihood cannot be set beside that of the reference.
    """

    method: str
    reference: str
    assignment: pd.Series
    folds: pd.DataFrame
    predictions: pd.DataFrame
    subject_ofv: pd.DataFrame
    notes: tuple[str, ...]
    incomparable: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every model has been judged on every fold."""
        return len(self.folds) == self.folds["model"].nunique() * self.assignment.nunique() and bool(
            self.folds["done"].all()
        )

    @property
    def table(self) -> pd.DataFrame:
        """Held-out -2LL of all subjects, its difference to the reference, and how many folds they are of.

        -2LL is NaN for a model that lacks a fold; the difference is that of the folds that both models have. SE is N
        times the standard error, over the folds, of the mean per subject.
        """
        rows = {}
        for name in self.folds["model"].unique():
            own, base = self._done(name), self._done(self.reference)
            if not len(own):
                nothing = dict.fromkeys(("-2LL", "SE", "d-2LL", "SE d"), math.nan)
                rows[name] = {"folds": 0, "converged": 0, **nothing, "seconds": 0.0}
                continue
            total, error = _total(own, own["-2LL"])
            both = own.loc[own.index.isin(base.index)]
            gain, gain_error = _total(both, both["-2LL"] - base["-2LL"])
            if name in self.incomparable or name == self.reference:
                gain, gain_error = (0.0 if name == self.reference else math.nan), math.nan
            whole = len(own) == self.assignment.nunique()
            rows[name] = {
                "folds": len(own),
                "converged": sum(bool(v) for v in own["converged"]),
                "-2LL": total if whole else math.nan,
                "SE": error if whole else math.nan,
                "d-2LL": gain,
                "SE d": gain_error,
                "seconds": sum(float(v) for v in own["seconds"]),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    @property
    def distances(self) -> pd.DataFrame:
        """RMSE, MAE, MDLR and coverage, index (model, endpoint), of all held-out observations, and SE over folds."""
        parts = {}
        for name, own in self.predictions.groupby("MODEL", sort=False):
            endpoints = list(dict.fromkeys(own["ENDPOINT"]))
            whole = distances(own, endpoints)
            by_fold = [distances(part, endpoints) for _, part in own.groupby("FOLD")]
            for endpoint in endpoints:
                row = {}
                for measure in whole.columns:
                    row[measure] = whole.loc[endpoint, measure]
                    if measure != "N":
                        values = np.array([t.loc[endpoint, measure] for t in by_fold], dtype=float)
                        values = values[np.isfinite(values)]
                        spread = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
                        row[f"SE {measure}"] = spread
                parts[(name, endpoint)] = row
        return pd.DataFrame.from_dict(parts, orient="index")

    def _done(self, name: Any) -> pd.DataFrame:
        own = self.folds.loc[(self.folds["model"] == name) & self.folds["done"]]
        return own.set_index("fold")

    def __str__(self) -> str:
        sizes = self.assignment.value_counts()
        head = (
            f"{len(self.assignment)} subjects in {len(sizes)} folds of {sizes.min()} to {sizes.max()}, "
            f"{self.method}, reference: {self.reference}"
        )
        table = self.table.to_string(float_format="{:.3f}".format, na_rep="")  # type: ignore[arg-type]
        parts, shown = [head, table], self.distances
        if len(shown):
            shown = shown[[c for c in shown.columns if not c.startswith("SE ")]]
            parts.append(shown.to_string(float_format="{:.4g}".format, na_rep=""))  # type: ignore[arg-type]
        return "\n\n".join([*parts, "\n".join(self.notes)] if self.notes else parts)


def _total(folds: pd.DataFrame, values: Any) -> tuple[float, float]:
    """The sum over folds, and its standard error from the spread of the means per subject."""
    if not len(folds):
        return math.nan, math.nan
    value = values.reindex(folds.index).to_numpy(float)
    subjects = folds["subjects"].to_numpy(float)
    means = value / subjects
    error = subjects.sum() * means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return float(value.sum()), float(error)
