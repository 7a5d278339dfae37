"""The methods: the model as declared, how it was estimated, and with what software."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.covariates.relations import CovariateModel, without_relations
from deepnlme.discovery import formulas_in
from deepnlme.estimation import Fit, Options
from deepnlme.estimation.fitted_network import penalty_name
from deepnlme.model import Model
from deepnlme.parameters import Bounded, Parameter, Positive
from deepnlme.report.elements import Block, Items, Listing, Missing, Part, Table, Text
from deepnlme.report.formats import NOTHING, cells, few, number, pairs
from deepnlme.report.study import Study

MEANING = {
    "FO": "First order: the model is linearised in the random effects at zero, which makes the observations of a "
    "subject normal. Random effects of subjects are estimated afterwards.",
    "FOCE": "First-order conditional estimation without interaction: the likelihood of each subject is approximated "
    "around the mode of its random effects, with the curvature from first derivatives of the predictions; the residual "
    "variance is that of the typical subject.",
    "FOCEI": "First-order conditional estimation with interaction: the likelihood of each subject is approximated "
    "around the mode of its random effects, with the curvature from first derivatives of the predictions; the residual "
    "variance follows the individual prediction.",
    "Laplace": "Laplace's approximation: the likelihood of each subject is approximated around the mode of its random "
    "effects, with exact second derivatives. It holds for every kind of observation.",
    "Naive pooled": "Naive pooling: all data as if from one subject. There are no random effects, and standard errors "
    "and tests that assume independent subjects are not to be relied on.",
}
"""Methods in words."""

COVARIANCE = {
    "sandwich": "R^-1 S R^-1 with R the Hessian of -log L and S the sum of squared gradients of the subjects "
    "(robust against a misspecified model)",
    "R": "R^-1, the inverse of the Hessian of -log L",
    "S": "S^-1, the inverse of the sum of squared gradients of the subjects",
}
"""Covariance matrices of the estimates in words."""


def methods(study: Study) -> Part:
    """The section on methods."""
    lead = "The model as it was declared, the approximation of its likelihood, and how the fit was carried out."
    return Part("methods", "Methods", lead, parts=(_model(study), _estimation(study), _software(study)))


def _model(study: Study) -> Part:
    fit, model = study.fit, study.fit.model
    blocks: list[Block] = []
    words = inspect.getdoc(type(without_relations(model)))
    if words and words != inspect.getdoc(Model):
        blocks.append(Text(words))
    blocks.append(Table(pairs(_structure(fit)), "Structure of the model"))
    if model.parameters:
        blocks.append(
            Table(declared(model), "Fixed effects as declared", "Bounds and priors are on the natural scale.")
        )
    if isinstance(model, CovariateModel):
        relations = [(t.parameter, t.covariate, t.formula) for t in model.terms]
        shown = pd.DataFrame(relations, columns=["Parameter", "Covariate", "Factor"])
        blocks.append(Table(shown, "Relations to covariates", "The parameter is multiplied by the factor."))
    blocks += _effects(fit)
    if model.networks:
        note = "Weights enter the fit as parameters; a prior (penalty) is added to the OFV where one is declared."
        blocks.append(Table(_networks(fit), "Networks", note))
    formulas = formulas_in(fit)
    if len(formulas):
        note = "Each stands where the model had a network; its constants are parameters of the model."
        shown = formulas.set_axis(["In place of", "Formula", "With the estimates"], axis=1)
        blocks.append(Table(shown, "Formulas", note))
    blocks += source_code(without_relations(model))
    return Part("model", "Model", "Structure, parameters, random effects and source code of the model.", tuple(blocks))


def _structure(fit: Fit) -> dict[str, str]:
    model = fit.model
    if model.dynamics is None:
        kind = "none: predictions are written directly as functions of time"
    elif model.is_ode:
        kind = f"differential equations, solved by {type(model.solver).__name__}"
    else:
        kind = f"{type(model.dynamics).__name__}, " + ("matrix exponential" if _matrix(model) else "in closed form")
    absorption = getattr(model.dynamics, "absorption", None)
    rows = {"Model": type(model).__name__, "Dynamics": kind}
    if absorption:
        rows["Absorption"] = str(absorption)
    rows["Compartments"] = few(fit.joint.compartments) if fit.joint.compartments else "none"
    rows["Endpoints"] = few(fit.joint.endpoints)
    return rows


def _matrix(model: Model) -> bool:
    return type(model.dynamics).__name__ == "LinearSystem"


def declared(model: Model) -> pd.DataFrame:
    """Fixed effects with unit, initial value, bounds and prior."""
    rows = []
    for name, p in model.parameters.items():
        rows.append(
            (name, p.unit or NOTHING, number(p.value), "fixed" if p.fixed else "estimated", _range(p), _prior(p))
        )
    return pd.DataFrame(rows, columns=["Parameter", "Unit", "Initial value", "Status", "Range", "Prior"])


def _range(p: Parameter) -> str:
    if isinstance(p, Bounded):
        return f"{number(p.low)} to {number(p.high)}"
    return "positive" if isinstance(p, Positive) else "any"


def _prior(p: Parameter) -> str:
    if p.prior is None:
        return "none"
    values = {name: getattr(p.prior, name, None) for name in getattr(p.prior, "arg_constraints", {})}
    shown = ", ".join(f"{name} {number(float(v))}" for name, v in values.items() if v is not None and np.size(v) == 1)
    return f"{type(p.prior).__name__}({shown})"


def _effects(fit: Fit) -> list[Block]:
    model = fit.model
    if not model.groups:
        return [Text("The model has no random effects.")]
    if not fit.method.uses_omega:
        return [Text(f"{fit.method.name} sets the random effects of the model to zero: {few(fit.omega.index)}.")]
    rows = []
    for attribute, group in model.groups.items():
        kept = "fixed" if group.fixed.all() else "estimated"
        labels = group.labels(attribute)
        if group.fixed.any() and not group.fixed.all():
            kept = f"estimated, fixed: {few([n for n, f in zip(labels, group.fixed, strict=True) if f])}"
        level = "between occasions" if group.by == "occasion" else "between subjects"
        matrix = "full" if group.block else "diagonal"
        rows.append((attribute, few(labels), level, matrix, few([number(v) for v in np.diag(group.omega)]), kept))
    columns = ["Group", "Effects", "Level", "Covariance matrix", "Initial variances", "Status"]
    note = "Random effects are normal with mean zero and covariance matrix Omega."
    return [Table(pd.DataFrame(rows, columns=columns), "Random effects as declared", note)]


def _networks(fit: Fit) -> pd.DataFrame:
    rows = []
    for name, net in fit.model.networks.items():
        prior = "none" if net.prior is None else penalty_name(net)
        rows.append(
            (name, net.describe(), net.inputs, net.outputs, net.size, prior, "fixed" if net.fixed else "estimated")
        )
    columns = ["Network", "Architecture", "Inputs", "Outputs", "Weights", "Prior", "Status"]
    return cells(pd.DataFrame(rows, columns=columns))


def source_code(model: Model) -> list[Block]:
    """The source of the model's class and of those that it extends; why not, where it is not to be had."""
    out: list[Block] = []
    for cls in type(model).__mro__:
        if cls is Model or not issubclass(cls, Model):
            continue
        try:
            out.append(Listing(inspect.cleandoc("\n" + inspect.getsource(cls)), f"Source code of {cls.__name__}"))
        except (OSError, TypeError):
            why = "it was not read from a file. The declarations above are those of the fit."
            out.append(Missing(f"The source code of {cls.__name__} is not available: {why}"))
    return out


def _estimation(study: Study) -> Part:
    fit = study.fit
    name = fit.method.name
    doc = (inspect.getdoc(type(fit.method)) or "").split("\n\n")[0]
    blocks: list[Block] = [Text(f"{name}. {MEANING.get(name, doc)}")]
    if fit.joint.space.has_priors:
        text = "Priors are declared: estimates are modes of the posterior; -2 log prior is added to what is minimised, "
        blocks.append(Text(text + "and reported apart from the OFV."))
    blocks.append(Text(_standard_errors(fit)))
    if fit.status.name in ("EVALUATED", "NOTHING_TO_ESTIMATE"):
        blocks.append(Missing("The model was evaluated at given values; nothing was estimated."))
    changed = changed_options(fit.options)
    if changed:
        blocks.append(Table(pairs(changed, ("Option", "Value")), "Options of the fit other than the defaults"))
    else:
        blocks.append(Text("All options of the fit have their default values."))
    return Part("estimation", "Estimation", "How the likelihood was approximated and maximised.", tuple(blocks))


def _standard_errors(fit: Fit) -> str:
    if fit.covariance is None:
        return f"Standard errors: {no_errors(fit)}."
    kind = COVARIANCE.get(fit.covariance.kind, fit.covariance.kind)
    return f"Standard errors: {kind}, on the scale of the free parameters, carried to the natural scale."


def no_errors(fit: Fit) -> str:
    """Why there was no covariance step."""
    network = bool(fit.joint.space.weights) and fit.options.covariance == "auto"
    return "networks are fitted without a covariance step" if network else "no covariance step was asked for"


def changed_options(options: Options) -> dict[str, str]:
    """Options that are not at their default, by name."""
    shown = all_options(options)
    default = all_options(Options())
    return {name: value for name, value in shown.items() if value != default[name] and name != "progress"}


def all_options(options: Options) -> dict[str, str]:
    """Every option as text."""
    found: dict[str, Any] = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {name: _option(value) for name, value in found.items()}


def _option(value: Any) -> str:
    if isinstance(value, float):
        return "none" if math.isinf(value) else f"{value:g}"
    if value is None:
        return "none"
    return repr(value) if not isinstance(value, str) else value


def _software(study: Study) -> Part:
    found = study.fit.versions
    lead = "The programs that made the fit."
    text = f"deepnlme {found.get('deepnlme', 'unknown')} with PyTorch {found.get('torch', 'unknown')}, Python "
    text += f"{found.get('python', 'unknown')}; all numbers in double precision. Versions, seeds and times are in the "
    text += "run record."
    blocks: list[Block] = [Text(text)]
    names = {"vpc": "visual predictive checks", "npde": "prediction distribution errors"}
    asked = [words for name, words in names.items() if name in study.settings.sections]
    if asked:
        s = study.settings
        blocks.append(
            Items((f"{s.replicates} simulated sets (seed {s.seed}) for {' and '.join(asked)}",), title="Simulation")
        )
    return Part("software", "Software", lead, tuple(blocks))
