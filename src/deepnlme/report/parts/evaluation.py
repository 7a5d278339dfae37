"""How well the model describes the data: goodness of fit, single subjects, random effects, residuals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from deepnlme.plots import (
    plot_eta_covariates,
    plot_eta_distributions,
    plot_eta_pairs,
    plot_goodness_of_fit,
    plot_individual_fits,
)
from deepnlme.report.elements import Block, Missing, Part, Table, Text, attempt
from deepnlme.report.formats import cells, count, decimals, number, probability
from deepnlme.report.pictures import picture
from deepnlme.report.study import NONE_NORMAL, Study

PAGE = 12
"""Subjects in one figure."""

SIGNIFICANT = 0.05
"""Adjusted p-values below it stand out."""


def goodness_of_fit(study: Study) -> Part:
    """Observations against predictions, and residuals."""
    blocks: list[Block] = []
    settings = study.settings
    for name in study.endpoints:

        def draw(name: str = name) -> list[Block]:
            figure = plot_goodness_of_fit(study.fit, endpoint=name, scale=settings.scale, units=study.units(name))
            caption = f"Goodness of fit{study.of(name)}: observations against population (PRED) and individual (IPRED) "
            caption += "predictions; "
            if bool(np.isfinite(study.observed(name)["CWRES"].to_numpy(float)).any()):
                caption += "CWRES against time and PRED; |IWRES| against IPRED; quantiles of CWRES against those of "
                caption += "N(0, 1). "
            else:
                caption += "there are no weighted residuals. "
            caption += "Grey: what a right model gives; red: a local linear smooth."
            alt = f"Six panels of goodness of fit{study.of(name)} with {len(study.observed(name))} observations."
            return [picture(figure, caption, alt)]

        blocks += attempt(f"Goodness of fit{study.of(name)}", draw)
    table = _residuals(study)
    if len(table):
        note = "Of the residuals of observations that are not censored; a right model gives CWRES of mean 0 and SD 1."
        blocks.append(Table(table, "Weighted residuals", note))
    else:
        blocks.append(Missing(f"There are no weighted residuals: {NONE_NORMAL}. See the predictive checks."))
    lead = "Whether observations scatter around the predictions as the model says, without trends."
    return Part("goodness_of_fit", "Goodness of fit", lead, tuple(blocks))


def _residuals(study: Study) -> pd.DataFrame:
    rows = []
    for name in study.endpoints:
        for column in ("CWRES", "IWRES"):
            values = study.observed(name)[column].dropna().to_numpy(float)
            if not len(values):
                continue
            sd = values.std(ddof=1) if len(values) > 1 else math.nan
            beyond = int((np.abs(values) > 1.96).sum())
            largest = decimals(np.abs(values).max(), 2)
            row = (name, column, str(len(values)), decimals(values.mean(), 3), decimals(sd, 3))
            rows.append((*row, f"{beyond} ({100 * beyond / len(values):.1f} %)", largest))
    columns = ["Endpoint", "Residual", "N", "Mean", "SD", "Beyond 1.96 (5 % expected)", "Largest"]
    return pd.DataFrame(rows, columns=columns)


def individual_fits(study: Study) -> Part:
    """Curves of single subjects."""
    fit, settings = study.fit, study.settings
    everybody = len(fit.population)
    shown = everybody if settings.subjects is None else min(settings.subjects, everybody)
    ids = list(fit.population.ids[:shown])
    blocks: list[Block] = []
    if shown < everybody:
        who = f'The first {shown} of {everybody} subjects are shown; report(..., subjects="all") shows everybody.'
        blocks.append(Text(who))
    for name in study.endpoints:
        for start in range(0, shown, PAGE):
            part = ids[start : start + PAGE]

            def draw(name: str = name, part: list = part) -> list[Block]:
                figure = plot_individual_fits(fit, part, endpoint=name, scale=settings.scale, units=study.units(name))
                span = f"subjects {part[0]} to {part[-1]}" if len(part) > 1 else f"subject {part[0]}"
                caption = (
                    f"Individual fits{study.of(name)}, {span}: observations, individual (solid) and population "
                    "(dashed) predictions on a dense grid of times, and marks where doses are given."
                )
                return [picture(figure, caption, f"{count(len(part), 'panel')} with curves and observations, {span}.")]

            blocks += attempt(f"Individual fits{study.of(name)}", draw)
    lead = "Observations of single subjects with the curve of the subject and that of the typical one."
    return Part("individual_fits", "Individual fits", lead, tuple(blocks))


def random_effects(study: Study) -> Part:
    """EBEs, their shrinkage, and their relation to covariates."""
    fit = study.fit
    lead = "Whether random effects are normal, centred at zero, shrunken, and related to covariates or each other."
    title = "Random effects"
    if not study.has_effects:
        why = "the model has none." if not fit.joint.k else f"{fit.method.name} does without them."
        return Part("random_effects", title, lead, (Missing(f"There are no random effects to show: {why}"),))
    blocks = attempt("Shrinkage", lambda: [_shrinkage(study)])
    names = list(fit.shrinkage)

    def distributions() -> list[Block]:
        caption = "Distributions of the EBEs, the normal density with the estimated variance, and the shrinkage."
        return [picture(plot_eta_distributions(fit), caption, f"Histograms of the EBEs of {', '.join(names)}.")]

    def pairs() -> list[Block]:
        caption = "EBEs in pairs, with their correlation, that in Omega, and the ellipse that holds 95% of N(0, Omega)."
        return [
            picture(
                plot_eta_pairs(fit, width=120.0 if len(names) < 4 else 180.0),
                caption,
                f"Matrix of scatter plots of the EBEs of {', '.join(names)}.",
            )
        ]

    def covariates() -> list[Block]:
        found = ", ".join(fit.population.covariates)
        caption = f"EBEs against covariates ({found}): what the model has not explained yet."
        return [picture(plot_eta_covariates(fit), caption, f"Panels of the EBEs of {', '.join(names)} by {found}.")]

    blocks += attempt("Distributions of the EBEs", distributions)
    if len(names) > 1:
        blocks += attempt("EBEs in pairs", pairs)
    if fit.population.covariates:
        blocks += attempt("EBEs against covariates", covariates)
    else:
        blocks.append(Missing("Random effects against covariates: the data were read without covariates."))
    return Part("random_effects", title, lead, tuple(blocks))


def _shrinkage(study: Study) -> Block:
    table = study.shrinkage.loc[study.shrinkage["N"] > 0].reset_index()
    kind = ["effect" if k == "eta" else "residual" for k in table["Kind"]]
    shown = pd.DataFrame({"Effect or endpoint": table["Name"], "Kind": kind, "N": table["N"].astype(str)})
    for column in ("SD%", "EBV SD%"):
        shown[column.replace("%", " shrinkage [%]")] = [decimals(v, 1) for v in table[column]]
    shown["Mean of EBEs"] = [number(v, 3) for v in table["ETABAR"]]
    shown["SE of the mean"] = [number(v, 3) for v in table["SE"]]
    shown["p (mean is 0)"] = [probability(float(v)) for v in table["P"]]
    bold = {(i, 3) for i, v in enumerate(table["SD%"]) if v > 30}
    bold |= {(i, 7) for i, v in enumerate(table["P"]) if v < SIGNIFICANT}
    note = (
        "SD shrinkage: 100 (1 - SD(EBE)/sqrt(omega)), for residuals 100 (1 - SD(IWRES)), about zero; EBV: from the "
        "conditional variances. Above 30 % (bold) EBEs and individual predictions say little about distributions and "
        "covariates."
    )
    return Table(shown, "Shrinkage, and whether random effects average to zero", note, frozenset(bold))


def residual_tests(study: Study) -> Part:
    """Tests of CWRES."""
    lead = "Whether weighted residuals (CWRES) are standard normal, independent and without trends, by test."

    def table() -> list[Block]:
        if not study.has_residuals:
            return [Missing(f"There are no tests: {NONE_NORMAL}, and only these have weighted residuals.")]
        found = study.tests
        forms = {"Statistic": lambda v: number(v, 3), "P": probability, "P Holm": probability}
        shown = cells(found, forms).rename(columns={"P": "p", "P Holm": "p (Holm)"})
        if len(study.fit.joint.endpoints) == 1:
            shown = shown.drop(columns="Endpoint")
        last = shown.shape[1] - 1
        bold = frozenset((i, last) for i, p in enumerate(found["P Holm"]) if p < SIGNIFICANT)
        note = (
            "p (Holm): adjusted for all tests of the table; below 0.05 bold. P-values are approximate: the residuals "
            "of a subject are decorrelated by a linearised model, at estimates from the same data."
        )
        return [Table(shown, "Tests of the weighted residuals (CWRES)", note, bold)]

    return Part("residual_tests", "Tests of residuals", lead, tuple(attempt("Tests of residuals", table)))
