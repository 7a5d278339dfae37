"""`report`: one file that says what a reviewer asks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepnlme.estimation import Fit
from deepnlme.plots.style import pyplot
from deepnlme.report.elements import Missing, Part, Text
from deepnlme.report.formats import count, decimals
from deepnlme.report.page import environment, render
from deepnlme.report.parts.comparisons import comparison, covariate_effects, influence
from deepnlme.report.parts.data import data
from deepnlme.report.parts.estimates import estimates
from deepnlme.report.parts.evaluation import goodness_of_fit, individual_fits, random_effects, residual_tests
from deepnlme.report.parts.methods import methods
from deepnlme.report.parts.record import data_hash, flagged_records, individual_parameters, run_record
from deepnlme.report.parts.simulated import npde, vpc
from deepnlme.report.parts.summary import summary
from deepnlme.report.settings import Settings, checked_path
from deepnlme.report.study import Study


def report(
    fit: Fit,
    path: str | os.PathLike,
    *,
    title: str = "",
    author: str = "",
    objectives: str = "",
    comments: Mapping[str, str] | None = None,
    excluded: Any = None,
    against: Any = None,
    sections: Iterable[str] | None = None,
    without: Iterable[str] = (),
    subjects: int | str = 12,
    replicates: int = 500,
    units: Mapping[str, str] | None = None,
    scale: str = "linear",
    date: Any = None,
    seed: int = 0,
) -> Path:
    """Write a report of a fit: one HTML file that needs nothing else, neither scripts nor a network.

    Its order is that of the guidance on reports of population analyses: summary, objectives, data, methods, results,
    discussion, run record, appendix. What is not available is said, with the reason. The same fit with the same seed
    gives the same file, but for the date.

    Args:
        fit: The fit.
        path: The file, .html; it is replaced if it exists, as a whole or not at all.
        title: Heading; the name of the model by default.
        author: Below the heading.
        objectives: Text of the section "objectives".
        comments: Text by name of section, shown at its beginning; "discussion" is such a section.
        excluded: What was left out of the data and why: a list of texts or of rows (dicts), or a DataFrame. An empty
            list says that nothing was.
        against: Other fits to compare with: one, a list, or a dict by name (see `deepnlme.compare`).
        sections: Names of the sections to write (`SECTIONS`), all by default.
        without: Names of sections to leave out, the long ones for example.
        subjects: How many subjects have their curves shown, or "all".
        replicates: Simulated sets for the checks by simulation.
        units: Units by "time" and endpoint (or "dv", where there is one), where the declarations do not tell them.
        scale: "linear" or "log", for the observed quantities in figures.
        date: Shown below the heading, today by default.
        seed: Of everything random in the report.

    Returns:
        The file.

    Raises:
        DataError: A path that cannot be written.
        ModelError: Arguments that do not suit, such as the name of a section that does not exist.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    file = checked_path(path)
    settings = Settings.of(
        fit, title=title, author=author, objectives=objectives, comments=comments, excluded=excluded, against=against,
        sections=sections, without=without, subjects=subjects, replicates=replicates, units=units, scale=scale,
        date=date, seed=seed,
    )  # fmt: skip
    environment()
    pyplot()
    study = Study(fit, settings)
    head = {"title": settings.title, "author": settings.author, "date": settings.date, "run": run_line(study)}
    write(file, render(built(study), head, [TITLES[name] for name in settings.left_out]))
    return file


def run_line(study: Study) -> str:
    """What was run, on one line."""
    fit = study.fit
    return (
        f"{study.name}, {fit.method.name}: OFV {decimals(fit.ofv, 3)}, {fit.status.value}; "
        f"{count(len(fit.population), 'subject')}, {count(fit.n_observations, 'observation')}; deepnlme "
        f"{fit.versions.get('deepnlme', 'unknown')}, seed {fit.options.seed}; data {data_hash(study)[:12]}"
    )


def write(file: Path, text: str) -> None:
    """Replace the file as a whole: an interruption leaves the old one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def objectives_part(study: Study) -> Part:
    """What the analysis is for, in the author's words."""
    text = study.settings.objectives
    missing = 'No objectives were given: report(..., objectives="...") states them.'
    lead = "What the analysis is for, in the words of its author."
    return Part("objectives", "Introduction and objectives", lead, (Text(text) if text.strip() else Missing(missing),))


def discussion(study: Study) -> Part:
    """What the author makes of the results."""
    said = study.settings.comments.get("discussion")
    missing = Missing('No discussion was given: report(..., comments={"discussion": "..."}) adds one.')
    lead = "What the results mean, in the words of the author."
    return Part("discussion", "Discussion", lead, () if said else (missing,))


BUILDERS: dict[str, Callable[[Study], Part]] = {
    "summary": summary, "objectives": objectives_part, "data": data, "methods": methods, "estimates": estimates,
    "goodness_of_fit": goodness_of_fit, "individual_fits": individual_fits, "random_effects": random_effects,
    "residual_tests": residual_tests, "vpc": vpc, "npde": npde, "influence": influence,
    "covariate_effects": covariate_effects, "comparison": comparison, "discussion": discussion,
    "run_record": run_record, "individual_parameters": individual_parameters, "flagged_records": flagged_records,
}  # fmt: skip
"""The section of each name."""

TITLES = {name: name.replace("_", " ").replace("vpc", "visual predictive checks") for name in BUILDERS}
"""How sections that are left out are named."""

RESULTS = (
    "estimates", "goodness_of_fit", "individual_fits", "random_effects", "residual_tests", "vpc", "npde", "influence",
    "covariate_effects", "comparison",
)  # fmt: skip
"""Sections inside the results."""

APPENDIX = ("individual_parameters", "flagged_records")
"""Sections inside the appendix."""


def built(study: Study) -> list[Part]:
    """The sections asked for, results and appendix gathered under their headings."""
    parts = {name: _commented(BUILDERS[name](study), study) for name in study.settings.sections}
    results = Part(
        "results", "Results", "What was estimated, and how well the model describes the data.",
        parts=tuple(parts[name] for name in RESULTS if name in parts),
    )  # fmt: skip
    appendix = Part(
        "appendix", "Appendix", "Numbers of single subjects and records.",
        parts=tuple(parts[name] for name in APPENDIX if name in parts),
    )  # fmt: skip
    order = [parts.get(name) for name in ("summary", "objectives", "data", "methods")]
    order += [results if results.parts else None, parts.get("discussion"), parts.get("run_record")]
    order += [appendix if appendix.parts else None]
    return [part for part in order if part is not None]


def _commented(part: Part, study: Study) -> Part:
    """A part with the author's comment at its beginning."""
    comment = study.settings.comments.get(part.name)
    return part if not comment else replace(part, blocks=(Text(comment), *part.blocks))
