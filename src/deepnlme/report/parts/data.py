"""The data: who, what was given and measured, what was left out, and what is below the limit of quantification."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepnlme.data import Population
from deepnlme.data.summary import time_varying
from deepnlme.plots import plot_observations
from deepnlme.plots.style import with_unit
from deepnlme.report.elements import Block, Items, Missing, Part, Table, Text, attempt
from deepnlme.report.formats import NOTHING, cells, count, few, number, pairs, share, spread
from deepnlme.report.pictures import picture
from deepnlme.report.study import Study

TREATMENT = {
    "M1": "left out (M1)",
    "M3": "by the probability of lying beyond the limit (M3)",
    "M4": "by the probability of lying beyond the limit, given that the value is positive (M4)",
}
"""What is done with censored observations (Beal 2001)."""


def data(study: Study) -> Part:
    """The section on data."""
    population = study.fit.population
    blocks: list[Block] = [
        Table(_subjects(study), "Subjects, records and doses", "Median (range) over subjects or records."),
        *_excluded(study),
        *attempt("Observations by endpoint", lambda: _observations(study)),
        *_covariates(population),
    ]
    for name in study.endpoints:
        blocks += attempt(f"Observations{study.of(name)} against time", lambda name=name: [_spaghetti(study, name)])
    who = count(len(population), "subject")
    lead = f"{who} with {count(population.observations, 'observation')}, and what is missing, censored or left out."
    return Part("data", "Data", lead, tuple(blocks))


def _subjects(study: Study) -> pd.DataFrame:
    """Counts of everything in the records."""
    population = study.fit.population
    r, unit = population.records, study.units(study.fit.joint.endpoints[0])["time"]
    per = np.bincount(r.subject[r.observed], minlength=len(population))
    span = np.array([r.time[a:b].max() - r.time[a:b].min() for a, b in zip(r.starts[:-1], r.starts[1:], strict=True)])
    rows = {
        "Subjects": str(len(population)),
        "Records": str(len(r)),
        "Observations": str(population.observations),
        "Observations per subject": spread(per.astype(float)),
        "Subjects without an observation": str(int((per == 0).sum())),
        "Records without a value (EVID=0, MDV=1)": str(int(((r.evid == 0) & ~r.observed).sum())),
        with_unit("Time from first to last record", unit): spread(span),
    }
    if population.occasions:
        rows["Occasions"] = few(population.occasions)
    rows |= _doses(population)
    for evid, name in ((2, "Other events (EVID=2)"), (3, "Resets (EVID=3)"), (4, "Resets with a dose (EVID=4)")):
        if (r.evid == evid).any():
            rows[name] = str(int((r.evid == evid).sum()))
    return pairs(rows)


def _doses(population: Population) -> dict[str, str]:
    r = population.records
    given = r.doses
    if not given.any():
        return {"Dose records": "none"}
    times = r.addl[given] + 1
    rows = {"Dose records": str(int(given.sum()))}
    if (times > 1).any():
        rows["Additional doses (ADDL)"] = str(int((times - 1).sum()))
    rows["Doses per subject"] = spread(np.bincount(r.subject[given], times, len(population)))
    rows["Amount of a dose"] = spread(r.amt[given])
    total = np.bincount(r.subject[given], r.amt[given] * times, len(population))
    rows["Total amount per subject"] = spread(total)
    if (r.rate[given] != 0).any():
        rows["Infusions"] = share(int((r.rate[given] != 0).sum()), int(given.sum()))
    if (r.ss[given] > 0).any():
        rows["Doses at steady state"] = share(int((r.ss[given] > 0).sum()), int(given.sum()))
    compartments = np.unique(r.cmt[given]).tolist()
    if any(compartments):
        rows["Doses into compartment"] = few([name or "default" for name in compartments])
    return rows


def _excluded(study: Study) -> list[Block]:
    """What the caller left out, what the reader noted, and who was kept aside."""
    fit, excluded = study.fit, study.settings.excluded
    out: list[Block] = []
    if excluded is None:
        out.append(Missing("No exclusions were declared: report(..., excluded=[...]) lists what was left out and why."))
    elif not len(excluded):
        out.append(Text("Nothing was excluded, as declared by the author."))
    else:
        out.append(Table(excluded, "Exclusions, as declared by the author"))
    if fit.population.notes:
        out.append(Items(tuple(fit.population.notes), title="What was inferred, filled, skipped or left unused"))
    else:
        out.append(Text("The data were used as they are: nothing was inferred, filled, skipped or left unused."))
    if fit.held_out is not None:
        who = few(fit.held_out.ids)
        out.append(Text(f"Kept aside for early stopping: {count(len(fit.held_out), 'subject')} ({who})."))
    return out


def _observations(study: Study) -> list[Block]:
    """Observations by endpoint, those beyond limits of quantification apart."""
    rows = []
    for name in study.endpoints:
        table, (n, below, above) = study.observed(name), study.censored[name]
        kind, treatment = study.distributions[name]
        cens = table["CENS"].to_numpy() if "CENS" in table else np.zeros(n)
        dv = table["DV"].to_numpy(float)
        used = TREATMENT.get(treatment, treatment) if below + above else "there are none"
        if intervals := _intervals(study, name):
            used += f"; {intervals} with a second limit: by that of lying between both"
        rows.append(
            {
                "Endpoint": name,
                "Unit": study.units(name)["dv"] or NOTHING,
                "Subjects": str(table["ID"].nunique()),
                "Observations": str(n),
                "Value": spread(dv[cens == 0]),
                "Below LLOQ": share(below, n),
                "Above ULOQ": share(above, n),
                "Limit": spread(dv[cens != 0]),
                "Censored are used": used,
                "Distribution": kind,
            }
        )
    note = "LLOQ, ULOQ: lower and upper limit of quantification; share of the observations in parentheses. Value and "
    note += "limit: median (range), the value of those that are not censored."
    without = [name for name in study.fit.joint.endpoints if name not in study.endpoints]
    said = [Missing(f"The data have no observation of {few(without)}.")] if without else []
    return [Table(pd.DataFrame(rows), "Observations by endpoint", note), *said]


def _intervals(study: Study, name: str) -> int:
    """Censored observations of an endpoint that lie between two limits, where these are used (not M1)."""
    r = study.fit.population.records
    mine = r.endpoint == name if len(study.fit.joint.endpoints) > 1 else np.ones(len(r), dtype=bool)
    between = mine & r.observed & (r.cens != 0) & np.isfinite(r.limit)
    return 0 if study.distributions[name][1] == "M1" else int(between.sum())


def _covariates(population: Population) -> list[Block]:
    """Covariates at the first record of each subject."""
    if not population.covariates:
        return [Missing("The data were read without covariates.")]
    r = population.records
    first = r.starts[:-1]
    rows = []
    for name, rule in population.interpolation.items():
        values, labels = r.covariates[name][first], population.categories.get(name)
        codes = np.unique(values)
        if labels:
            shown = [f"{label}: {share(int((values == i).sum()), len(values))}" for i, label in enumerate(labels)]
            kind, text, spreads = "text", "; ".join(shown), number(None)
        elif len(codes) <= 5 and len(codes) * 2 <= len(values):
            shown = [f"{code:g}: {share(int((values == code).sum()), len(values))}" for code in codes]
            kind, text, spreads = "few values", "; ".join(shown), number(None)
        else:
            sd = float(values.std(ddof=1)) if len(values) > 1 else np.nan
            kind, text, spreads = "number", spread(values), f"{number(values.mean())} ({number(sd)})"
        varying = time_varying(r, name)
        change = f"in {count(varying, 'subject')} ({rule})" if varying else "no"
        rows.append((name, kind, text, spreads, change))
    columns = ["Covariate", "Kind", "Median (range), or counts", "Mean (SD)", "Changes within a subject"]
    note = "At the first record of each subject, missing values filled as listed above. In parentheses after a "
    note += "change: the rule between records."
    return [Table(cells(pd.DataFrame(rows, columns=columns)), "Covariates", note)]


def _spaghetti(study: Study, name: str) -> Block:
    settings = study.settings
    figure = plot_observations(study.fit, endpoint=name, scale=settings.scale, units=study.units(name))
    n = len(study.observed(name))
    caption = f"Observations{study.of(name)} against time, those of a subject joined by a line."
    alt = f"Line plot of {n} observations{study.of(name)} of {len(study.fit.population)} subjects against time."
    return picture(figure, caption, alt)
