"""The estimates: parameters, their uncertainty and correlation, and the networks."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from deepnlme.estimation import Fit, FitStatus
from deepnlme.plots import plot_network
from deepnlme.report.elements import Block, Missing, Part, Table, Text, attempt
from deepnlme.report.formats import NOTHING, count, decimals, few, number, pairs, significant
from deepnlme.report.parts.methods import no_errors
from deepnlme.report.pictures import picture
from deepnlme.report.study import Study

WIDEST = 10
"""Parameters up to which their correlations are shown as a matrix; beyond, the largest are listed."""

STRONG = 0.7
"""|correlation| of two estimates that stands out."""


CRITERIA = (
    "OFV: -2 log L without the constant N log 2 pi of N normal observations, as NONMEM reports it. AIC and BIC are "
    "made from -2 log L with all constants; BIC with the logarithm of the number of observations."
)
"""What stands below a table with the OFV."""


def estimates(study: Study) -> Part:
    """The section on estimates."""
    fit = study.fit
    blocks: list[Block] = [Table(pairs(objective(fit)), "Objective function and convergence", CRITERIA)]
    blocks.append(_parameters(study))
    blocks += _omega(fit)
    blocks += _correlation(fit)
    for name in fit.model.networks:
        blocks += attempt(f"Curves of the network {name}", lambda name=name: [_network(study, name)])
    lead = "Population parameters with their uncertainty, the variability between subjects, and how the fit ended."
    return Part("estimates", "Parameter estimates", lead, tuple(blocks))


def convergence(fit: Fit) -> str:
    """How the fit ended, in words."""
    text = fit.status.value
    if fit.unconverged:
        text += f"; random effects not found for {count(len(fit.unconverged), 'subject')}"
    return text


def objective(fit: Fit) -> dict[str, str]:
    """The numbers above the table of parameters."""
    rows = {
        f"OFV ({fit.method.name})": decimals(fit.ofv, 4),
        "-2 log likelihood, all constants": decimals(-2.0 * fit.log_likelihood, 4),
        "AIC": decimals(fit.aic, 3),
        "BIC": decimals(fit.bic, 3),
        "Estimated parameters": str(fit.n_parameters),
    }
    if fit.joint.space.weights:
        rows["Effective number of parameters (in AIC and BIC)"] = decimals(fit.effective_parameters, 1)
    if fit.joint.space.has_priors:
        rows["-2 log prior, not in the OFV"] = decimals(fit.penalty, 4)
    rows["Convergence"] = convergence(fit)
    if fit.trace.ofv:
        rows["Iterations"] = str(len(fit.trace.ofv))
        rows["Expected further improvement of the OFV"] = number(fit.decrement, 2)
    rows["Condition number of the correlation matrix of the estimates"] = number(fit.condition_number, 3)
    return rows


def _parameters(study: Study) -> Block:
    table = study.fit.table()
    fixed = table["Fixed"].to_numpy(bool)
    low, high = table["CI95 low"], table["CI95 high"]
    units = [u or NOTHING for u in table["Unit"]]
    shown = pd.DataFrame(
        {
            "Parameter": table.index.tolist(),
            "Unit": units,
            "Estimate": [(number if f else significant)(v, 5) for v, f in zip(table["Estimate"], fixed, strict=True)],
            "SE": ["fixed" if f else significant(v, 3) for v, f in zip(table["SE"], fixed, strict=True)],
            "RSE [%]": [significant(v, 3) for v in table["RSE%"]],
            "95% CI": [confidence(a, b) for a, b in zip(low, high, strict=True)],
        }
    )
    if study.has_effects:
        cv = variation(study)
        shown["CV [%]"] = [cv.get(name[6:-1], NOTHING) for name in table.index]
        shown["Shrinkage [%]"] = [number(v) if v != v else decimals(v, 1) for v in table["Shrinkage%"]]
    return Table(shown, "Parameter estimates", _note(study))


def confidence(low: float, high: float) -> str:
    """A confidence interval."""
    return f"{significant(low)} to {significant(high)}" if math.isfinite(low) else NOTHING


def variation(study: Study) -> dict[str, str]:
    """Coefficients of variation [%] of the parameters that are log-normal, by random effect."""
    table = study.fit.table()["BSV CV%"]
    return {name: significant(table[f"omega[{name}]"], 3) for name in study.fit.omega.index if name in study.lognormal}


def _note(study: Study) -> str:
    fit = study.fit
    if fit.covariance is None:
        more = ' (fit.with_covariance("R") gives those of the other parameters)' if fit.joint.space.weights else ""
        text = f"There are no standard errors: {no_errors(fit)}{more}."
    elif not fit.covariance.ok:
        text = f"There are no standard errors. {fit.covariance.message}"
    else:
        text = f"SE: standard error ({fit.covariance.kind}); RSE: relative SE. CI: confidence interval, symmetric on "
        text += "the scale on which a parameter is estimated (logarithm of positive ones and of variances, logit of "
        text += f"bounded ones). {unreliable(fit)}"
    if not study.has_effects:
        return text.strip()
    by_occasion = [n for name, g in fit.model.groups.items() if g.by == "occasion" for n in g.labels(name)]
    level = f" (of {few(by_occasion)}: between occasions)" if by_occasion else ""
    return (
        f"omega[.] are variances and covariances of random effects; their SE and RSE are those of the variance. "
        f"{text.strip()} CV: variability between subjects{level} of a parameter that varies as exp(eta), 100 "
        "sqrt(exp(omega) - 1); a dash where eta enters in another way. Shrinkage: 100 (1 - SD(EBE)/sqrt(omega))."
    )


def unreliable(fit: Fit) -> str:
    """A sentence on standard errors that mean little; empty if there is nothing to say."""
    warning = "" if fit.covariance is None or not fit.covariance.ok else fit.covariance.warning
    text = warning.removeprefix("warning: ")
    return f"Warning: {text}." if text else ""


def _omega(fit: Fit) -> list[Block]:
    """Correlations of random effects, where Omega has any."""
    if not fit.joint.k or not fit.method.uses_omega:
        return []
    omega = fit.omega
    sd = np.sqrt(np.diag(omega))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = omega.to_numpy() / np.outer(sd, sd)
    if not np.any(np.abs(np.nan_to_num(r - np.diag(np.diag(r)))) > 0):
        return [Text("Random effects are uncorrelated in the model (diagonal Omega).")]
    note = "Standard deviations on the diagonal."
    return [_lower(r, omega.index, sd, "Correlations of the random effects in Omega", note)]


def _lower(r: np.ndarray, names: Iterable[object], diagonal: np.ndarray, caption: str, note: str) -> Table:
    """The lower triangle of a matrix of correlations, strong ones bold."""
    labels = [str(name) for name in names]
    frame = pd.DataFrame("", index=range(len(labels)), columns=["", *labels])
    frame[""] = labels
    bold = set()
    for i in range(len(labels)):
        for j in range(i + 1):
            frame.iloc[i, j + 1] = number(diagonal[i], 3) if i == j else decimals(r[i, j], 2)
            if i != j and abs(r[i, j]) > STRONG:
                bold.add((i, j + 1))
    return Table(frame, caption, note, frozenset(bold))


def _correlation(fit: Fit) -> list[Block]:
    step = fit.covariance
    if step is None:
        return [Missing(f"Correlation of the estimates: {no_errors(fit)}.")]
    if not step.ok:
        return [Missing("Correlation of the estimates: the covariance step failed.")]
    names = list(fit.joint.space.names)
    if len(names) < 2:
        return []
    r, se = step.correlation, step.se
    caption = "Correlation of the estimates"
    note = f"Correlations beyond {STRONG:g} are bold: such parameters can hardly be told apart by these data."
    if len(names) <= WIDEST:
        return [_lower(r, names, se, caption, f"Standard errors on the diagonal. {note}")]
    i, j = np.tril_indices(len(names), -1)
    order = np.argsort(-np.abs(np.nan_to_num(r[i, j])), kind="stable")[:20]
    rows = [(names[i[o]], names[j[o]], decimals(r[i[o], j[o]], 2)) for o in order]
    bold = frozenset((n, 2) for n, o in enumerate(order) if abs(r[i[o], j[o]]) > STRONG)
    frame = pd.DataFrame(rows, columns=["Parameter", "with", "Correlation"])
    return [Table(frame, f"{caption}: the largest of {len(i)}", note, bold)]


def _network(study: Study, name: str) -> Block:
    net = study.fit.model.networks[name]
    norm = float(np.linalg.norm(study.fit.weights[name]))
    caption = (
        f"The network {name} along each of its {count(net.inputs, 'input')}, the other inputs at their centers "
        f"(dashed lines). {net.describe()}, {count(net.size, 'weight')}, norm {number(norm, 3)}."
    )
    alt = f"Curves of the outputs of the network {name} against its inputs."
    return picture(plot_network(study.fit, name), caption, alt)


def fitted(fit: Fit) -> bool:
    """Whether the values were estimated, not only evaluated."""
    return fit.status not in (FitStatus.EVALUATED, FitStatus.NOTHING_TO_ESTIMATE)
