"""The run record, and the appendix: what is needed to do it again, and every subject's numbers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.estimation.storage import fingerprint
from deepnlme.plots import plot_convergence
from deepnlme.report.elements import Block, Missing, Part, Table, Text, attempt
from deepnlme.report.formats import cells, count, decimals, exact, few, number, pairs
from deepnlme.report.parts.methods import all_options
from deepnlme.report.pictures import picture
from deepnlme.report.study import FLAGGED, NONE_NORMAL, Study

MOST = 300
"""Rows of a table in the appendix."""

NEAR = 0.01
"""OFV units within which two starts have reached the same."""


def run_record(study: Study) -> Part:
    """Versions, seeds, options, times, starts and the path of the fit."""
    fit = study.fit
    blocks: list[Block] = [
        Table(pairs(_run(study)), "Run record"),
        Table(pairs(_versions(study), ("Program", "Version")), "Versions"),
        Table(pairs(all_options(fit.options), ("Option", "Value")), "Options of the fit"),
        *_starts(study),
    ]
    if fit.trace.ofv:
        caption = "Path of the fit: OFV, and the improvement that was still expected, by iteration."
        alt = f"Two panels with the path of the fit over {len(fit.trace.ofv)} iterations."
        blocks += attempt("Path of the fit", lambda: [picture(plot_convergence(fit), caption, alt)])
    else:
        blocks.append(Missing("There is no path of the fit: it was evaluated, not fitted."))
    lead = "What is needed to do the analysis again, and to know that it was the same."
    return Part("run_record", "Run record", lead, tuple(blocks))


def data_hash(study: Study) -> str:
    """SHA-256 of everything in the records that a likelihood can depend on."""
    return fingerprint(study.fit.population)


def _run(study: Study) -> dict[str, str]:
    fit, settings = study.fit, study.settings
    rows = {
        "Date of the report": settings.date,
        "Model": study.name,
        "Method": fit.method.name,
        "End of the fit": fit.status.value,
        "Seed of the fit": str(fit.options.seed),
        "Seed of the report (simulations)": str(settings.seed),
        "Simulated sets": str(settings.replicates),
        "Device": fit.options.device,
        "Data (SHA-256 of the records)": data_hash(study),
    }
    for stage, seconds in fit.seconds.items():
        rows[f"Seconds, {stage}"] = decimals(seconds, 2)
    rows["Seconds, all"] = decimals(sum(fit.seconds.values()), 2)
    return rows


def _versions(study: Study) -> dict[str, str]:
    """Versions that made the fit, and those that wrote the report."""
    rows = {f"{name} (fit)": value for name, value in study.fit.versions.items()}
    for name in ("deepnlme", "pandas", "matplotlib", "jinja2"):
        try:
            rows[f"{name} (report)"] = version(name)
        except PackageNotFoundError:
            rows[f"{name} (report)"] = "unknown"
    return rows


def _starts(study: Study) -> list[Block]:
    starts = np.array(study.fit.starts, dtype=float)
    if not len(starts):
        return []
    if len(starts) == 1:
        return [Text("The fit had one start.")]
    reached = int((starts < np.nanmin(starts) + NEAR).sum())
    values = few([decimals(v, 3) for v in starts], 20)
    what = "OFV (with penalty)" if study.fit.joint.space.has_priors else "OFV"
    return [
        Text(f"{reached} of {len(starts)} starts reached the best value within {NEAR:g}. {what} reached: {values}.")
    ]


def individual_parameters(study: Study) -> Part:
    """Individual parameters and EBEs of every subject."""
    fit = study.fit
    ids = list(fit.population.ids)
    blocks: list[Block] = []
    if len(ids) > MOST:
        blocks.append(Text(f"The first {MOST} of {len(ids)} subjects; fit.etas() and fit.individual(id) have all."))

    def parameters() -> list[Block]:
        rows = [_flat(fit.individual(id)) for id in ids[:MOST]]
        table = cells(pd.DataFrame(rows), {})
        table.insert(0, "ID", [str(id) for id in ids[:MOST]])
        note = "At the EBEs of the subject." if study.has_effects else "Without random effects."
        if any(group.by == "occasion" for group in fit.model.groups.values()) or fit.population.covariates:
            note += " At the first record, where they change with occasions or covariates."
        return [Table(table, "Individual parameters", note)]

    def effects() -> list[Block]:
        if not study.has_effects:
            return [Missing("There are no random effects.")]
        table = fit.etas().iloc[:MOST]
        names = [c for c in table.columns if c.startswith("ETA_")]
        out = {"ID": table["ID"].astype(str).tolist()}
        for column in names:
            error = table[f"SE_{column[4:]}"]
            out[column[4:]] = [f"{number(v, 3)} ({number(e, 2)})" for v, e in zip(table[column], error, strict=True)]
        out["OFV"] = [decimals(v, 2) for v in fit.subject_ofv.iloc[:MOST]]
        note = "Empirical Bayes estimate and, in parentheses, its standard error; OFV: the subject's part of it."
        return [Table(pd.DataFrame(out), "Random effects of the subjects", note)]

    blocks += attempt("Individual parameters", parameters) + attempt("Random effects", effects)
    lead = f"Parameters and random effects of {count(len(ids), 'subject')}."
    return Part("individual_parameters", "Individual parameters", lead, tuple(blocks))


def _flat(values: dict) -> dict[str, float]:
    """Vectors as one column for each component."""
    out = {}
    for name, value in values.items():
        if np.ndim(value):
            out |= {f"{name}{i + 1}": float(v) for i, v in enumerate(np.ravel(value))}
        else:
            out[name] = float(value)
    return out


def flagged_records(study: Study) -> Part:
    """Records with a large residual."""
    lead = f"Observations that lie far from what the model expects of their subject, |CWRES| > {FLAGGED:g}."
    title = "Flagged records"

    def build() -> list[Block]:
        if not study.has_residuals:
            return [Missing(f"There are no weighted residuals: {NONE_NORMAL}.")]
        found = study.flagged
        if not len(found):
            return [Text(f"No record has |CWRES| > {FLAGGED:g}.")]
        keep = [c for c in ("ID", "TIME", "DVID", "DV", "PRED", "IPRED", "IWRES", "CWRES") if c in found]
        forms: dict[str, Callable[[Any], str]] = dict.fromkeys(("ID", "TIME", "DV"), exact)
        forms |= dict.fromkeys(("IWRES", "CWRES"), lambda v: decimals(v, 2))
        table = cells(found[keep].iloc[:MOST], forms)
        note = "" if len(found) <= MOST else f"The first {MOST} of {len(found)}."
        return [Table(table, "Records with a large residual", note)]

    return Part("flagged_records", title, lead, tuple(attempt("Flagged records", build)))
