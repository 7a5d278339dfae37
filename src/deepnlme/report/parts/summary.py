"""The summary: warnings first, then the numbers that matter."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pandas as pd

from deepnlme.estimation import FitStatus
from deepnlme.report.elements import FAILURES, Block, Items, Part, Table, Text
from deepnlme.report.formats import NOTHING, count, decimals, few, number, pairs, probability, significant
from deepnlme.report.parts.estimates import CRITERIA, confidence, convergence, fitted, unreliable, variation
from deepnlme.report.parts.methods import no_errors
from deepnlme.report.parts.record import NEAR
from deepnlme.report.study import FLAGGED, VANISHED, Study

SHRUNKEN, CONDITION, CENSORED, IMPRECISE, SIGNIFICANT = 30.0, 1000.0, 0.10, 50.0, 0.05
"""Beyond which something is a warning: shrinkage [%], condition number, share censored, RSE [%]; p-value below."""

ENDED_WELL = (FitStatus.CONVERGED, FitStatus.FLAT, FitStatus.EARLY, FitStatus.NOTHING_TO_ESTIMATE)


def summary(study: Study) -> Part:
    """The section that is read first."""
    found = warnings(study)
    blocks: list[Block] = []
    if found:
        blocks.append(Items(tuple(found), alert=True, title=f"{count(len(found), 'warning')}"))
    else:
        blocks.append(Text("No warnings: the fit converged, and none of the checks below found anything to look at."))
    blocks += [Text(_words(study)), Table(pairs(_numbers(study)), "Key numbers", CRITERIA), _typical(study)]
    lead = "What was found, in short, and what to look at first."
    return Part("summary", "Summary", lead, tuple(blocks))


def warnings(study: Study) -> list[str]:
    """Everything that a reader should know before believing the numbers."""
    return [*_of_the_fit(study), *_of_the_uncertainty(study), *_of_the_data(study), *_of_the_checks(study)]


def _of_the_fit(study: Study) -> list[str]:
    fit, out = study.fit, []
    if fit.status is FitStatus.EVALUATED:
        out.append("The model was evaluated at given values, not fitted.")
    elif fit.status not in ENDED_WELL:
        out.append(f"Convergence: {fit.status.value}.")
    if fit.unconverged:
        lost = count(len(fit.unconverged), "subject")
        out.append(f"Random effects were not found for {lost}: {few(fit.unconverged)}.")
    starts = np.array(fit.starts, dtype=float)
    if len(starts) > 1 and int((starts < np.nanmin(starts) + NEAR).sum()) == 1:
        out.append(f"Only one of {len(starts)} starts reached the best value: it may not be the global minimum.")
    if fit.method.name == "Naive pooled" and len(fit.population) > 1:
        out.append("Naive pooling ignores that subjects differ: it is a start for other methods, not an analysis.")
    return out


def _of_the_uncertainty(study: Study) -> list[str]:
    fit, step = study.fit, study.fit.covariance
    if not fitted(fit):
        return []
    if step is None:
        return [f"There are no standard errors: {no_errors(fit)}."]
    if not step.ok:
        return [step.message]
    out = [unreliable(fit)] if step.warning else []
    if fit.n_parameters and not fit.condition_number <= CONDITION:
        condition = f"Condition number {number(fit.condition_number, 3)}, above {CONDITION:g}"
        out.append(f"{condition}: parameters can hardly be told apart.")
    rse = fit.table()["RSE%"]
    pairs_ = zip(rse.index, rse.to_numpy(float), strict=True)
    large = [f"{name} ({_percent(value)} %)" for name, value in pairs_ if value > IMPRECISE]
    if large:
        out.append(f"Relative standard error above {IMPRECISE:g} %: {few(large)}.")
    return out


def _percent(value: float) -> str:
    return number(value, 3) if value < 1000 else "> 1000"


def _of_the_data(study: Study) -> list[str]:
    out = []
    for name, (n, below, above) in study.censored.items():
        for counted, side in ((below, "below the lower"), (above, "above the upper")):
            if n and counted / n > CENSORED:
                share = f"{100 * counted / n:.0f} %"
                out.append(f"{share} of the observations{study.of(name)} are {side} limit of quantification.")
    if study.vanished:
        why = f"estimated as about zero, or without influence on the data (shrinkage above {VANISHED:g} %)"
        out.append(f"Variance of {few(study.vanished)}: {why}. Its standard error and interval mean nothing.")
    shrunken = {k: v for k, v in study.fit.shrinkage.items() if v > SHRUNKEN}
    if shrunken:
        named = few([f"{name} ({value:.0f} %)" for name, value in shrunken.items()])
        out.append(f"Shrinkage above {SHRUNKEN:g} %: {named}. Plots of EBEs and individual predictions mislead there.")
    if len(study.flagged):
        out.append(f"{count(len(study.flagged), 'record')} with |CWRES| > {FLAGGED:g} (see flagged records).")
    return out


def _of_the_checks(study: Study) -> list[str]:
    """What the tests found that are in the report; a section without its test says why."""
    out = []
    for name, check in (("residual_tests", _tested), ("npde", _distributed), ("influence", _influential)):
        if name in study.settings.sections:
            with contextlib.suppress(*FAILURES):
                out += check(study)
    return out


def _tested(study: Study) -> list[str]:
    tests = study.tests.to_dict("records")
    bad = [f"{t['Test']}{study.of(t['Endpoint'])} (p {probability(t['P Holm'])})" for t in tests if _low(t["P Holm"])]
    return [f"Weighted residuals are not what the model says: {few(bad)}."] if bad else []


def _distributed(study: Study) -> list[str]:
    tests = study.npde.tests.to_dict("records")
    text = "Prediction distribution errors{} are not N(0, 1): global p {}."
    return [text.format(study.of(t["ENDPOINT"]), probability(t["GLOBAL_P"])) for t in tests if _low(t["GLOBAL_P"])]


def _influential(study: Study) -> list[str]:
    found = study.influence
    who = [i for i, c in zip(found.ids, found.cook, strict=True) if c > found.limit]
    text = f"Influential: without {'one of ' if len(who) > 1 else ''}{'subjects' if len(who) > 1 else 'subject'} "
    return [f"{text}{few(who)} the estimates leave their 50 % confidence region."] if who else []


def _low(p: float) -> bool:
    return p < SIGNIFICANT


def _words(study: Study) -> str:
    fit, population = study.fit, study.fit.population
    data = f"{count(fit.n_observations, 'observation')} of {count(len(population), 'subject')}"
    verb = "was fitted to" if fitted(fit) else "was evaluated on"
    end = f"The fit ended: {convergence(fit)}." if fitted(fit) else ""
    return f"The model {study.name} {verb} {data} by {fit.method.name}. {end}".strip()


def _numbers(study: Study) -> dict[str, str]:
    fit = study.fit
    rows = {
        "Subjects": str(len(fit.population)),
        "Observations in the likelihood": str(fit.n_observations),
        "Estimated parameters": str(fit.n_parameters),
        f"OFV ({fit.method.name})": decimals(fit.ofv, 3),
        "AIC": decimals(fit.aic, 2),
        "BIC": decimals(fit.bic, 2),
        "Condition number": number(fit.condition_number, 3),
    }
    if fit.joint.space.weights:
        rows["Effective number of parameters (in AIC and BIC)"] = decimals(fit.effective_parameters, 1)
    for name, value in fit.shrinkage.items():
        rows[f"Shrinkage of {name}"] = f"{decimals(value, 1)} %" if math.isfinite(value) else number(value)
    if math.isfinite(fit.epsilon_shrinkage):
        rows["Shrinkage of residuals"] = f"{decimals(fit.epsilon_shrinkage, 1)} %"
    return rows


def _typical(study: Study) -> Block:
    """Typical values with intervals and variability in one line each."""
    fit, cv = study.fit, variation(study)
    between = {n for name, g in fit.model.groups.items() if g.by == "subject" for n in g.labels(name)}
    rows = []
    for row in fit.table().reset_index().to_dict("records"):
        name = str(row["Parameter"])
        if name.startswith("omega["):
            continue
        interval = "fixed" if row["Fixed"] else confidence(row["CI95 low"], row["CI95 high"])
        value = (number if row["Fixed"] else significant)(row["Estimate"])
        rows.append(
            (name, row["Unit"] or NOTHING, value, interval, cv.get(name, NOTHING) if name in between else NOTHING)
        )
    columns = ["Parameter", "Unit", "Estimate", "95% CI", "BSV CV [%]"]
    note = "BSV: variability between subjects, as the coefficient of variation of a log-normal parameter; a dash where "
    note += f"there is none, or the parameter varies in another way. {unreliable(fit)}"
    return Table(pd.DataFrame(rows, columns=columns), "Fixed effects in short", note.strip())
