"""Normalised prediction distribution errors: the table, and tests of its distribution."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from deepnlme.diagnostics.arguments import check_whole
from deepnlme.diagnostics.decorrelation import METHODS, prediction_errors
from deepnlme.diagnostics.imputation import imputed, spread
from deepnlme.diagnostics.replicated import Replicated, replicated, simulated
from deepnlme.errors import ModelError, invalid
from deepnlme.model import Model

BLQ = ("omit", "cdf")
"""What to do with censored observations."""

SETS = 200
"""Simulated sets whose own errors are kept, for the bands of the picture."""

STREAM = 6
"""Second number of the seed of imputed values: others are those of the simulation."""

SHAPIRO = 5_000
"""Observations for which the Shapiro-Wilk test is valid; of more, so many are taken at random."""


@dataclass(frozen=True, eq=False)
class NPDE:
    """Normalised prediction distribution errors. `plot_npde` draws them.

    Attributes:
        table: ID TIME [DVID] DV [CENS] EPRED NPD [NPDE], one row per observation: EPRED is the mean of the simulated
            values, NPD the normalised prediction discrepancy (nothing decorrelated), NPDE decorrelated within the
            subject. Imputed observations keep their limit as DV.
        tests: One row per endpoint: of mean 0 (T_P, WILCOXON_P), variance 1 (FISHER_P), normality (SHAPIRO_P) and
            GLOBAL_P = min(1, 3 min(WILCOXON_P, FISHER_P, SHAPIRO_P)). Without decorrelation they are about NPD, and are
            right only where a subject has one observation.
        simulated: The same errors of some simulated sets under the model itself (float [B, rows of the table]).
        column: "NPDE", or "NPD" without decorrelation.
        replicates: Number of simulated sets, the fewest of an endpoint where values that are no numbers were left out.
        seed: Of the imputation and, for a fit, the simulation.
        model: The model, whose declarations have the units.
        endpoints: Names of its endpoints.
    """

    table: pd.DataFrame
    tests: pd.DataFrame
    simulated: np.ndarray
    column: str
    replicates: int
    seed: int
    model: Model
    endpoints: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.column}: {len(self.table)} observations, {self.replicates} simulated sets"]
        for _, row in self.tests.iterrows():
            lines.append(
                f"{row['ENDPOINT']}: mean {row['MEAN']:.3f} (SE {row['MEAN_SE']:.3f}), variance {row['VARIANCE']:.3f} "
                f"(SE {row['VARIANCE_SE']:.3f}); p: Wilcoxon {row['WILCOXON_P']:.3g}, Fisher {row['FISHER_P']:.3g}, "
                f"Shapiro-Wilk {row['SHAPIRO_P']:.3g}, global {row['GLOBAL_P']:.3g}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self.column} of {len(self.table)} observations, {self.replicates} sets>"


def npde(
    source: Any,
    *,
    endpoint: str | None = None,
    replicates: int = 1000,
    decorrelation: str = "cholesky",
    blq: str = "omit",
    lloq: float | str | None = None,
    seed: int = 0,
) -> NPDE:
    """Normalised prediction distribution errors: N(0, 1) and uncorrelated if the model is right.

    See `prediction_errors` for the definition. Each endpoint is decorrelated on its own. Counts and categories (whole
    numbers) are made continuous by adding U(0, 1) to observed and simulated values: ties are broken at random.

    Args:
        source: A fit; or a simulation of the data's own design, `dn.simulate(fit, fit.population, replicates=1000)`.
        endpoint: Name of the endpoint, by default all.
        replicates: Simulated sets, for a fit.
        decorrelation: "cholesky" (as published), "inverse" (symmetric root of V) or "none" (NPD only).
        blq: Censored observations: "omit" leaves them out, "cdf" imputes them (Nguyen et al. 2012; see `imputed`).
        lloq: Limit of quantification of the records that are not censored, for "cdf": a number, a covariate, or None
            for what the censored records say.
        seed: Of the imputation and, for a fit, of the simulation.

    Raises:
        ModelError: Arguments that do not suit; observations without variability; too few simulated sets.

    Source: Brendel et al. 2006, Pharm Res 23:2036; Comets, Brendel, Mentre 2008, Comput Meth Prog Biomed 90:154.
    """
    if decorrelation not in METHODS:
        raise ModelError(invalid("decorrelation", repr(decorrelation), f"It is one of {', '.join(METHODS)}"))
    if blq not in BLQ:
        raise ModelError(invalid("blq", repr(blq), f"It is one of {', '.join(BLQ)}"))
    if lloq is not None and blq != "cdf":
        raise ModelError(invalid("lloq", repr(lloq), "It is for imputation", "", "Use blq='cdf', or leave it out"))
    check_whole("seed", seed, 0)
    simulation = simulated(source, replicates, seed)
    names = simulation.endpoints
    if endpoint is None:
        assert simulation.observed is not None
        there = np.unique(simulation.endpoint[np.isfinite(simulation.observed)])
        chosen = [names[i] for i in there] or list(names)
    else:
        chosen = [endpoint]
    column = "NPD" if decorrelation == "none" else "NPDE"
    frames, tests, sets, counts = [], [], [], []
    for name in chosen:
        found = replicated(simulation, name)
        rng = np.random.default_rng([seed, STREAM, names.index(name)])
        frame, errors = _of_endpoint(found, decorrelation, blq, lloq, rng)
        frames.append(frame.assign(ORDER=found.record[frame.index.to_numpy()]))
        sets.append(errors)
        counts.append(found.replicates)
        tests.append({"ENDPOINT": name} | normality_tests(frame[column].to_numpy(float), seed))
    table: pd.DataFrame = pd.concat(frames, ignore_index=True)
    order = np.argsort(table["ORDER"].to_numpy(), kind="stable")
    table = table.iloc[order].drop(columns=["ORDER"] + ([] if len(names) > 1 else ["DVID"])).reset_index(drop=True)
    if not np.any(table["CENS"].to_numpy() != 0):
        table = table.drop(columns="CENS")
    fewest = min(len(one) for one in sets)  # an endpoint may have lost replicates
    errors = np.hstack([one[:fewest] for one in sets])[:, order]
    return NPDE(table, pd.DataFrame(tests), errors, column, min(counts), seed, simulation.model, names)


def _of_endpoint(
    found: Replicated, decorrelation: str, blq: str, lloq: Any, rng: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows of the table (index: position of the observation), and errors of simulated sets [B, rows]."""
    kept = np.arange(len(found.y))
    y, drawn = found.y, found.simulated
    if blq == "cdf":
        found = found.with_limits(lloq)
        y, drawn = imputed(found, rng)
    elif (found.cens != 0).any():
        kept = np.flatnonzero(found.cens == 0)
        if not len(kept):
            expected = "None of the observations is left"
            raise ModelError(invalid("blq", "'omit'", expected, f"endpoint {found.endpoint}", "Use blq='cdf'"))
        y, drawn = y[kept], drawn[:, kept]
    epred = drawn.mean(0)
    if found.discrete:
        y, drawn = spread(y, drawn, rng)
    subject, ids = found.subject[kept], found.ids[kept]
    keep = min(SETS, len(drawn))
    columns = {"ID": list(ids), "TIME": found.time[kept], "DVID": found.endpoint, "DV": found.y[kept]}
    columns |= {"CENS": found.cens[kept], "EPRED": epred}
    if decorrelation == "none":
        columns["NPD"], sets = prediction_errors(y, drawn, subject, "none", ids, keep)
    else:
        columns["NPD"], _ = prediction_errors(y, drawn, subject, "none", ids, 0)
        columns["NPDE"], sets = prediction_errors(y, drawn, subject, decorrelation, ids, keep)
    return pd.DataFrame(columns, index=kept), sets


def normality_tests(values: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Tests that values are a sample of N(0, 1).

    T_P: t test of mean 0; WILCOXON_P: signed ranks; FISHER_P: variance 1 by chi2 = (n - 1) s^2, two-sided; SHAPIRO_P:
    normality (of more than 5,000 values so many are drawn); GLOBAL_P: min(1, 3 min of the last three), Bonferroni.

    Args:
        values: The sample (float [n]); with fewer than 3 values all p are NaN.
        seed: Of the draw.

    Source: Comets, Brendel, Mentre 2008.
    """
    n = len(values)
    mean, variance = float(values.mean()), float(values.var(ddof=1)) if n > 1 else np.nan
    out = {"N": n, "MEAN": mean, "MEAN_SE": float(np.sqrt(variance / n))}
    out |= {"VARIANCE": variance, "VARIANCE_SE": float(variance * np.sqrt(2.0 / max(n - 1, 1)))}
    if n < 3 or variance == 0:
        return out | dict.fromkeys(("T_P", "WILCOXON_P", "FISHER_P", "SHAPIRO_P", "GLOBAL_P"), np.nan)
    few = values if n <= SHAPIRO else np.random.default_rng([seed, n]).choice(values, SHAPIRO, replace=False)
    chi2 = stats.chi2(n - 1)
    fisher = min(2.0 * min(chi2.cdf((n - 1) * variance), chi2.sf((n - 1) * variance)), 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        student = float(stats.ttest_1samp(values, 0.0).pvalue)  # type: ignore[attr-defined]
        wilcoxon = float(stats.wilcoxon(values).pvalue)  # type: ignore[attr-defined]
        shapiro = float(stats.shapiro(few).pvalue)
    least = min(wilcoxon, fisher, shapiro)
    out |= {"T_P": student, "WILCOXON_P": wilcoxon, "FISHER_P": float(fisher), "SHAPIRO_P": shapiro}
    return out | {"GLOBAL_P": min(1.0, 3.0 * least)}
