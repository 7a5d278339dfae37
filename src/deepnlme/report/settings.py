"""What the caller of `report` asks for, checked."""

from __future__ import annotations

import datetime
import numbers
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from deepnlme.compare import ExternalFit, MappedFit
from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.estimation import Fit
from deepnlme.report.formats import exact

SECTIONS = (
    "summary", "objectives", "data", "methods", "estimates", "goodness_of_fit", "individual_fits", "random_effects",
    "residual_tests", "vpc", "npde", "influence", "covariate_effects", "comparison", "discussion", "run_record",
    "individual_parameters", "flagged_records",
)  # fmt: skip
"""Names of the sections, in the order of the report."""


@dataclass(frozen=True)
class Settings:
    """The arguments of `report` beside the fit and the path; see there."""

    title: str = ""
    author: str = ""
    objectives: str = ""
    comments: Mapping[str, str] = field(default_factory=dict)
    excluded: pd.DataFrame | None = None
    against: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[str, ...] = SECTIONS
    subjects: int | None = 12
    replicates: int = 500
    units: Mapping[str, str] = field(default_factory=dict)
    scale: str = "linear"
    date: str = ""
    seed: int = 0

    @classmethod
    def of(cls, fit: Any, **given: Any) -> Settings:
        """Checked settings.

        Raises:
            ModelError: Arguments that do not suit.
        """
        if not isinstance(fit, Fit):
            raise ModelError(invalid("fit", type(fit).__name__, "It is a fit", fix="Use the result of dn.fit"))
        given["sections"] = chosen_sections(given["sections"], given.pop("without"))
        for name in ("title", "author", "objectives"):
            if not isinstance(given[name], str):
                raise ModelError(invalid(name, repr(given[name]), "It is text"))
        given["title"] = given["title"] or f"Population analysis: {fit.model}"
        given["comments"] = _comments(given["comments"])
        given["excluded"] = exclusions(given["excluded"])
        given["against"] = _against(given["against"], fit)
        given["date"] = _date(given["date"])
        given["subjects"] = None if given["subjects"] == "all" else _whole("subjects", given["subjects"], 1)
        given["replicates"] = _whole("replicates", given["replicates"], 20)
        given["seed"] = _whole("seed", given["seed"], 0)
        if given["scale"] not in ("linear", "log"):
            raise ModelError(invalid("scale", repr(given["scale"]), 'It is "linear" or "log"'))
        given["units"] = _units(given["units"], tuple(fit.joint.endpoints))
        return cls(**given)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sections that were not asked for."""
        return tuple(name for name in SECTIONS if name not in self.sections)


def chosen_sections(sections: Any, without: Any) -> tuple[str, ...]:
    """The sections to write, in the order of the report.

    Raises:
        ModelError: An unknown name, or none left.
    """
    wanted = SECTIONS if sections is None else _names("sections", sections)
    dropped = _names("without", without)
    found = tuple(name for name in SECTIONS if name in wanted and name not in dropped)
    if not found:
        raise ModelError(invalid("sections", "none", f"At least one of {', '.join(SECTIONS)}"))
    return found


def _names(argument: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, Iterable):
        raise ModelError(invalid(argument, repr(names), "It is a list of names of sections", fix='Use ["vpc"]'))
    listed = (names,) if isinstance(names, str) else tuple(names)
    for name in listed:
        if name not in SECTIONS:
            fix = "Correct the spelling"
            raise ModelError(invalid(argument, repr(name), f"Sections are {', '.join(SECTIONS)}", fix=fix))
    return listed


def _comments(comments: Any) -> dict[str, str]:
    if not isinstance(comments, Mapping | None):
        expected = "It is text by name of the section"
        raise ModelError(invalid("comments", type(comments).__name__, expected, fix='Use {"vpc": "The peak ..."}'))
    found = dict(comments or {})
    _names("comments", tuple(found))
    for name, text in found.items():
        if not isinstance(text, str):
            raise ModelError(invalid("comments", type(text).__name__, "A comment is text", f"section {name}"))
    return {name: text for name, text in found.items() if text.strip()}


def _units(units: Any, endpoints: tuple[str, ...]) -> dict[str, str]:
    """Units by "time" and endpoint; "dv" stands for the endpoint where there is one."""
    keys = ("time", *endpoints, *(("dv",) if len(endpoints) == 1 else ()))
    if not isinstance(units, Mapping | None):
        fix = 'Use {"time": "h", "dv": "mg/L"}'
        raise ModelError(invalid("units", repr(units), f"It is text by {', '.join(keys)}", fix=fix))
    for name, unit in (units or {}).items():
        if name not in keys:
            raise ModelError(invalid("units", repr(name), f"Its keys are {', '.join(dict.fromkeys(keys))}"))
        if not isinstance(unit, str):
            raise ModelError(invalid("units", repr(unit), "A unit is text", f"{name!r}"))
    return {endpoints[0] if name == "dv" else name: unit for name, unit in (units or {}).items()}


def exclusions(excluded: Any) -> pd.DataFrame | None:
    """What was left out of the analysis, as a table of text.

    Raises:
        ModelError: Neither a table nor a list of texts or of dicts.
    """
    if excluded is None:
        return None
    if isinstance(excluded, pd.DataFrame):
        index = excluded.index
        named = any(name is not None for name in index.names) or not pd.api.types.is_integer_dtype(index.dtype)
        return _told(excluded.reset_index() if named else excluded)
    if not isinstance(excluded, str | Mapping) and isinstance(excluded, Iterable):
        rows = list(excluded)
        if rows and all(isinstance(row, str) for row in rows):
            return pd.DataFrame({"Number": [str(i + 1) for i in range(len(rows))], "Excluded": rows})
        if all(isinstance(row, Mapping) for row in rows):
            return _told(pd.DataFrame(rows, dtype=object))
    fix = 'Use excluded=["ID 12: no dose was recorded"], or rows {"ID": 12, "records": 3, "reason": "..."}'
    expected = "It is a table, or a list of texts or of rows by column"
    raise ModelError(invalid("excluded", type(excluded).__name__, expected, fix=fix))


def _told(table: pd.DataFrame) -> pd.DataFrame:
    """Cells as text, empty where there is nothing."""
    cells = {str(c): ["" if pd.isna(v) else exact(v) for v in table[c].tolist()] for c in table.columns}
    return pd.DataFrame(cells)


def _against(against: Any, fit: Fit) -> dict[str, Any]:
    """The other fits by name; names of models, numbered where they repeat."""
    if against is None:
        return {}
    kinds = Fit | ExternalFit | MappedFit
    if isinstance(against, kinds):
        against = [against]
    if isinstance(against, Mapping):
        found = {str(name): value for name, value in against.items()}
        if str(fit.model) in found:
            expected = "The fit that is reported has that name"
            raise ModelError(invalid("against", repr(str(fit.model)), expected, fix="Name the other anew"))
    elif isinstance(against, Iterable) and not isinstance(against, str):
        found, used = {}, {str(fit.model)}
        for value in against:
            name = str(value.model) if isinstance(value, Fit) else type(value).__name__
            free, i = name, 2
            while free in used:
                free, i = f"{name} ({i})", i + 1
            used.add(free)
            found[free] = value
    else:
        found = {"": against}
    for name, value in found.items():
        if not isinstance(value, kinds):
            expected = "Fits, as dn.fit or dn.read_nonmem_results return them, or a dict of them by name"
            raise ModelError(invalid("against", type(value).__name__, expected, name))
    return found


def _date(date: Any) -> str:
    if date is None:
        return datetime.date.today().isoformat()
    if isinstance(date, datetime.date | str):
        return str(date)
    raise ModelError(invalid("date", repr(date), "It is a date or text", fix='Use date="2026-01-31"'))


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        more = ', or "all"' if name == "subjects" else ""
        raise ModelError(invalid(name, repr(value), f"It is a whole number of at least {least}{more}"))
    return int(value)


def checked_path(path: Any) -> Path:
    """The file to write.

    Raises:
        DataError: Its folder does not exist or cannot be written, or it is no HTML file.
    """
    if not isinstance(path, str | os.PathLike):
        raise DataError(invalid("path", repr(path), "It is the name of a file", fix='Use report(fit, "report.html")'))
    file = Path(path)
    if file.suffix.lower() not in (".html", ".htm"):
        fix = f"Write {file.with_suffix('.html').name}, and print that from a browser for paper or PDF"
        raise DataError(invalid("path", file, "A report is one HTML file, .html", fix=fix))
    if file.is_dir():
        raise DataError(invalid("path", file, "It is a file, this is a folder", fix=f"Use {file / 'report.html'}"))
    folder = file.parent
    if not folder.is_dir():
        fix = f'Make it first: pathlib.Path("{folder}").mkdir(parents=True)'
        raise DataError(invalid("path", file, f"Its folder {folder.absolute()} does not exist", fix=fix))
    if not os.access(folder, os.W_OK):
        raise DataError(invalid("path", file, f"Its folder {folder.absolute()} cannot be written to"))
    return file
