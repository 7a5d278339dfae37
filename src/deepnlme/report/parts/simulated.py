"""Checks by simulation: predictive checks and prediction distribution errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from deepnlme.diagnostics import VPC
from deepnlme.diagnostics import vpc as visual_predictive_check
from deepnlme.errors import ModelError
from deepnlme.plots import plot_npde, plot_vpc
from deepnlme.report.elements import Block, Items, Missing, Part, Picture, Table, Text, attempt
from deepnlme.report.formats import count, decimals, probability
from deepnlme.report.pictures import picture
from deepnlme.report.study import Study

CONTINUOUS = ("Normal", "LogNormal", "StudentT")
"""Distributions of endpoints that can be corrected for predictions, and that have no ties."""


def vpc(study: Study) -> Part:
    """A visual predictive check of each endpoint."""
    blocks: list[Block] = [Missing(study.not_simulated)] if study.not_simulated else []
    for name in study.endpoints if not blocks else ():
        blocks += attempt(f"Visual predictive check{study.of(name)}", lambda name=name: _check(study, name))
    if any(isinstance(block, Picture) for block in blocks) and study.remarks:
        blocks.append(Items(study.remarks, title="What the simulation says"))
    lead = "Whether data simulated from the model look like the observations, in their middle and at their edges."
    return Part("vpc", "Visual predictive checks", lead, tuple(blocks))


def _check(study: Study, name: str) -> list[Block]:
    found, remark = _corrected(study, name)
    settings = study.settings
    figure = plot_vpc(found, scale=settings.scale, units=study.units(name))
    alt = (
        f"Visual predictive check{study.of(name)}: observed values over intervals of {found.replicates} simulated sets."
    )
    blocks: list[Block] = [picture(figure, _caption(study, found), alt)]
    outside = int(np.sum(found.table["OUTSIDE"].to_numpy()))
    what = {"continuous": "quantiles", "categorical": "shares", "event": "points of the survival curve"}[found.kind]
    text = f"{outside} of {len(found.table)} observed {what}{study.of(name)} lie outside the {100 * found.level:g} % "
    text += "interval of the simulated ones."
    if found.blq is not None:
        beyond = int(np.sum(found.blq["OUTSIDE"].to_numpy()))
        text += f" So do {beyond} of {len(found.blq)} shares beyond the limits of quantification."
    if found.uncorrected:
        text += f" {found.uncorrected} observations are not corrected: their PRED is at the lower bound."
    blocks.append(Text(" ".join([text, remark]).strip()))
    return blocks


def _caption(study: Study, found: VPC) -> str:
    kind = "Prediction-corrected visual predictive check" if found.corrected else "Visual predictive check"
    head = f"{kind}{study.of(found.endpoint)}, {found.replicates} simulated sets: "
    if found.kind == "categorical":
        return head + "observed shares of categories over the 95% intervals of simulated ones."
    if found.kind == "event":
        return head + "the observed survival curve over the 95% band of simulated ones."
    text = "observed 5th, 50th and 95th percentiles (lines) over the 95% intervals of simulated ones (boxes); diamonds "
    text += f"lie outside. {count(len(found.table['BIN'].unique()), 'bin')} of time."
    if found.blq is not None:
        text += " Below: shares of observations beyond the limits of quantification."
    return head + text


def _corrected(study: Study, name: str) -> tuple[VPC, str]:
    """Prediction-corrected where doses differ and the endpoint allows it; the check, and a remark."""
    own = study.observed(name)
    kind = study.distributions[name][0]
    if study.doses_differ and kind in CONTINUOUS:
        if (own["PRED"].to_numpy(float) >= 0).all():
            # the prediction of a simulated model with networks needs the fit itself
            source: Any = study.fit if study.fit.model.networks else study.simulation
            more: dict[str, Any] = {"replicates": study.settings.replicates, "seed": study.settings.seed}
            try:
                return visual_predictive_check(source, endpoint=name, prediction_corrected=True, **more), ""
            except ModelError as error:
                remark = f"Not prediction-corrected, although doses differ: {error}"
        else:
            remark = "Not prediction-corrected, although doses differ: the endpoint has predictions below zero."
    else:
        remark = ""
    return visual_predictive_check(study.simulation, endpoint=name), remark


def npde(study: Study) -> Part:
    """Normalised prediction distribution errors of each endpoint."""

    def build() -> list[Block]:
        if study.not_simulated:
            return [Missing(study.not_simulated)]
        found = study.npde
        blocks: list[Block] = []
        for name in found.tests["ENDPOINT"].tolist():
            caption = (
                f"Normalised prediction distribution errors{study.of(name)}: quantiles against those of N(0, 1), "
                "histogram, and errors against time and the mean of the simulated values. Bands: 95% intervals of "
                "simulated sets."
            )
            alt = f"Four panels of prediction distribution errors{study.of(name)}."

            def draw(name: str = name, caption: str = caption, alt: str = alt) -> list[Block]:
                return [picture(plot_npde(found, endpoint=name, units=study.units(name)), caption, alt)]

            blocks += attempt(f"Prediction distribution errors{study.of(name)}", draw)
        note = "Mean 0 (Wilcoxon), variance 1 (Fisher), normality (Shapiro-Wilk); global: three times the smallest of "
        note += f"them, at most 1. {found.replicates} simulated sets."
        if any(kind not in CONTINUOUS for kind, _ in study.distributions.values()):
            note += " Ranks of counts and categories are made continuous at random among equal values."
        if any(sum(counts[1:]) for counts in study.censored.values()):
            note += " Censored observations are left out, which shifts the errors of a right model where they are many."
        bold = frozenset((i, 8) for i, p in enumerate(found.tests["GLOBAL_P"]) if p < 0.05)
        return [*blocks, Table(_tests(found.tests), f"Tests of the {found.column}", note, bold)]

    lead = "Whether every observation lies where the model expects it among simulated ones: N(0, 1) if it is right."
    return Part("npde", "Prediction distribution errors", lead, tuple(attempt("Prediction distribution errors", build)))


def _tests(tests: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in tests.to_dict("records"):
        numbers = [decimals(row[c], 3) for c in ("MEAN", "MEAN_SE", "VARIANCE")]
        p = [probability(row[c]) for c in ("WILCOXON_P", "FISHER_P", "SHAPIRO_P", "GLOBAL_P")]
        rows.append((row["ENDPOINT"], str(row["N"]), *numbers, *p))
    columns = ["Endpoint", "N", "Mean", "SE", "Variance", "p Wilcoxon", "p Fisher", "p Shapiro-Wilk", "p global"]
    return pd.DataFrame(rows, columns=columns)
