"""What changes: without single subjects, with covariates, and in other models."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.compare import Comparison, compare
from deepnlme.diagnostics import covariate_effects as effects_of
from deepnlme.errors import DataError, ModelError
from deepnlme.plots import plot_covariate_effects, plot_influence
from deepnlme.report.elements import Block, Items, Missing, Part, Table, Text, attempt
from deepnlme.report.formats import NOTHING, cells, decimals, few, number, plain, probability
from deepnlme.report.parts.estimates import fitted, unreliable
from deepnlme.report.pictures import picture
from deepnlme.report.study import Study

DRAWS = 1000
"""Of the parameters, for intervals of covariate effects."""

AT_MOST = "\u2264 "
"""Before a p-value of which only an upper bound is known."""


def influence(study: Study) -> Part:
    """Cook's distances and changes of the parameters."""

    def build() -> list[Block]:
        if not fitted(study.fit):
            return [Missing("Not available: the model was evaluated, not fitted, so that nobody had an influence.")]
        found = study.influence
        order = np.argsort(-np.nan_to_num(found.cook, nan=np.inf), kind="stable")[:10]
        table = found.table().iloc[order]
        changes = found.dfbetas.to_numpy()[order]
        most = [few([_change(found.dfbetas.columns, row)]) for row in changes]
        shown = pd.DataFrame(
            {
                "ID": table["ID"].astype(str).tolist(),
                "Cook's distance": [number(v, 3) for v in table["COOK"]],
                "Rise of its OFV": [number(v, 3) for v in table["DOFV"]],
                "Variance ratio": [number(v, 3) for v in table["COVRATIO"]],
                "Largest change (in SE)": most,
            }
        )
        beyond = [str(i) for i, c in zip(found.ids, found.cook, strict=True) if c > found.limit]
        text = f"A Cook's distance beyond {number(found.limit, 3)} means that without the subject the estimates leave "
        text += f"their 50 % confidence region. Subjects beyond it: {few(beyond) if beyond else 'none'}."
        note = "The ten subjects with the largest distance. Changes are those of the estimates without the subject, by "
        note += f"one Newton step, in standard errors ({found.standard_errors})."
        caption = "Influence of single subjects: Cook's distance, and the change of each parameter without the subject."
        alt = f"Two panels: distances of {len(found.ids)} subjects, changes of {len(found.dfbetas.columns)} parameters."
        return [
            picture(plot_influence(found), caption, alt),
            Text(text),
            Table(shown, "Most influential subjects", note),
        ]

    lead = "Which subjects decide on the estimates: what changes if one of them is left out."
    return Part("influence", "Influence of subjects", lead, tuple(attempt("Influence", build)))


def _change(names: pd.Index, row: np.ndarray) -> str:
    if not np.isfinite(row).any():
        return NOTHING
    i = int(np.nanargmax(np.abs(row)))
    return f"{names[i]} {row[i]:+.2f}"


def covariate_effects(study: Study) -> Part:
    """A forest plot of what covariates do to individual parameters."""
    fit = study.fit

    def build() -> list[Block]:
        if not fit.population.covariates:
            return [Missing("There are no covariate effects: the data were read without covariates.")]
        if _without_effect(study):
            names = few(fit.population.covariates)
            return [Missing(f"There are none: no individual parameter of the model depends on a covariate ({names}).")]
        remark = ""
        certain = fit.covariance is not None and fit.covariance.ok
        try:
            table = effects_of(fit, uncertainty=True if certain else None, draws=DRAWS, seed=study.settings.seed)
        except ModelError:
            table = effects_of(fit, uncertainty=None, seed=study.settings.seed)
            certain = False
        if not certain:
            remark = "There are no intervals: the uncertainty of the estimates is not known."
        reference = ", ".join(f"{name} {plain(value)}" for name, value in table.attrs["reference"].items())
        caption = f"Covariate effects on individual parameters: ratio to the reference subject ({reference})"
        caption += (
            " with its 90% interval; the shaded band is 0.8 to 1.25." if certain else "; the band is 0.8 to 1.25."
        )
        alt = f"Forest plot of {len(table)} ratios of individual parameters."
        shown = cells(table, dict.fromkeys(("RATIO", "LOW", "HIGH"), lambda v: number(v, 3)))
        shown.columns = ["Covariate", "Value", "Parameter", "Ratio", "Low", "High"]
        blocks: list[Block] = [picture(plot_covariate_effects(table), caption, alt)]
        note = "Values: 5th and 95th percentile, or other levels."
        if certain:
            note += f" Ends of the 90% interval over {DRAWS} draws of the parameters. {unreliable(fit)}"
        else:
            shown = shown.drop(columns=["Low", "High"])
        return [*blocks, *([Text(remark)] if remark else []), Table(shown, "Covariate effects", note.strip())]

    lead = "How much a covariate in the model changes the parameters of an individual, with the uncertainty of it."
    return Part("covariate_effects", "Covariate effects", lead, tuple(attempt("Covariate effects", build)))


def _without_effect(study: Study) -> bool:
    """Whether no individual parameter changes with any covariate."""
    fit = study.fit
    names = [name for name, value in fit.individual(fit.population.ids[0]).items() if np.ndim(value) == 0]
    try:
        table = effects_of(fit, quantities=names, uncertainty=None)
    except (ModelError, DataError):
        return False  # the section itself says what is wrong
    return bool((table["RATIO"] == 1.0).all())


def comparison(study: Study) -> Part:
    """The fit beside others."""
    lead = "The fit beside other models: objective function, parameters, shrinkage and likelihood ratio tests."
    title = "Comparison with other models"
    if not study.settings.against:
        why = "No other model was given: report(..., against=[...]) sets fits side by side."
        return Part("comparison", title, lead, (Missing(why),))

    def build() -> list[Block]:
        found = compare({study.name: study.fit, **study.settings.against}, reference=study.name)
        blocks: list[Block] = [_fits(found), _side_by_side(found)]
        shrunken = found.shrinkage
        if bool(shrunken.notna().any(axis=None)):
            table = cells(
                shrunken.reset_index(names="Effect"), dict.fromkeys(map(str, shrunken), lambda v: decimals(v, 1))
            )
            blocks.append(Table(table, "Shrinkage [%] side by side"))
        if len(found.lrt):
            lrt = found.lrt.assign(p=[_bounded(t.p, t.boundary > 1) for t in found.tests])
            lrt.columns = ["Reduced", "Full", "dOFV", "df", "Distribution", "p"]
            forms = {"dOFV": lambda v: decimals(v, 3)}
            blocks.append(Table(cells(lrt, forms), "Likelihood ratio tests of nested models"))
        else:
            blocks.append(Missing("No likelihood ratio test: no pair of these models is nested by their declarations."))
        if found.notes:
            blocks.append(Items(found.notes, title="Remarks"))
        return blocks

    return Part("comparison", title, lead, tuple(attempt("Comparison", build)))


def _bounded(p: float, bound: bool) -> str:
    """A p-value, or what it is at most."""
    text = probability(p)
    return text if not bound or text.startswith("<") else f"{AT_MOST}{text}"


def _fits(found: Comparison) -> Table:
    table = found.table
    keep = ["method", "OFV", "dOFV", "parameters", "AIC", "BIC", "converged", "condition number"]
    if bool(table["OFV reported"].notna().any()):
        keep.insert(3, "OFV reported")
    forms: dict[str, Callable[[Any], str]] = {"condition number": lambda v: number(v, 3)}
    forms |= {name: (lambda v: decimals(v, 3)) for name in ("OFV", "dOFV", "OFV reported")}
    forms |= {name: (lambda v: decimals(v, 2)) for name in ("AIC", "BIC")}
    shown = cells(table.loc[:, keep], forms)
    shown.columns = [c if c[:1].isupper() or c == "dOFV" else c.capitalize() for c in shown.columns]
    shown.insert(0, "Model", [str(name) for name in table.index])
    note = f"dOFV: difference to {found.reference}; negative is better."
    note += "".join(f" {name}: not compared, {reason}." for name, reason in found.refused.items())
    return Table(shown, "Models side by side", note)


def _side_by_side(found: Comparison) -> Table:
    parameters = found.parameters
    out = {"Parameter": [str(name) for name in parameters.index]}
    for name in parameters.columns.get_level_values(0).unique():
        part = parameters[name]
        out[str(name)] = [
            f"{number(v, 5)} ({e:.1f})" if math.isfinite(e) else number(v, 5)
            for v, e in zip(part["Estimate"], part["RSE%"], strict=True)
        ]
    return Table(
        pd.DataFrame(out), "Parameters side by side", "Estimate, and RSE [%] in parentheses where there is one."
    )
