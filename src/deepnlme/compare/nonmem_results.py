"""Finished NONMEM runs, read with pharmpy."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from deepnlme.compare.external import ExternalFit
from deepnlme.errors import DataError, MissingExtraError, invalid

CONTROL_STREAMS = (".mod", ".ctl", ".con", ".nmctl")
"""Endings of control streams, the first that exists is taken."""
FINAL = -1000000000
"""The row of the .ext with the final estimates."""
NO_STANDARD_ERROR = 1e10
"""What NONMEM writes for the standard error of a fixed parameter."""
BASIC = re.compile(r"(THETA|OMEGA|SIGMA)_\d+(_\d+)?$")
"""pharmpy's names of parameters that the control stream does not name."""


def read_nonmem_results(path: str | Path) -> ExternalFit:
    """Read a finished NONMEM run: control stream, .lst, .ext, and .phi, .cov and tables where they are.

    The files stand in one folder and have one name but for their ending. Parameters have the names that comments of
    the control stream give them (``$THETA (0,1) ; CL``), and NONMEM's own as aliases: THETA(1), OMEGA(1,1),
    SIGMA(1,1). Variances stay variances. With several estimation steps the last one counts.

    Args:
        path: The control stream or any other of the run's files.

    Returns:
        The run. Its OFV is without the constant N log 2 pi.

    Raises:
        MissingExtraError: Without pharmpy-core (the extra `nonmem`).
        DataError: No such run, or files that cannot be read.
    """
    control = _control_stream(Path(path))
    if not control.with_suffix(".ext").is_file():
        fix = "The run has to be finished, and its .ext beside it"
        raise DataError(invalid("path", str(path), f"There is no {control.with_suffix('.ext').name}", fix=fix))
    listing = _Listing.read(control.with_suffix(".lst"))
    with _reading(control) as remarks:
        run = _Run(control)
        parts, missing = run.parts(), run.missing
    if not control.with_suffix(".lst").is_file():  # without it pharmpy takes the run for a failed one
        parts["converged"] = None
    missing += [control.with_suffix(e).name for e in (".lst", ".phi") if not control.with_suffix(e).is_file()]
    if missing:
        remarks.append(f"not found: {', '.join(missing)}")
    if listing.without_constant is not None and listing.contains_constant:
        parts["ofv"] = listing.without_constant
        remarks.append("the run reports its OFV with the constant N log 2 pi, which was taken off; not by subject")
    parts["warnings"] = tuple(dict.fromkeys([*parts["warnings"], *remarks]))
    return ExternalFit(
        "NONMEM",
        str(control),
        listing.version,
        message=listing.message,
        subjects=listing.subjects,
        observations=listing.observations,
        **parts,
    )


def _control_stream(path: Path) -> Path:
    candidates = [path, *(path.with_suffix(ending) for ending in CONTROL_STREAMS)]
    for candidate in candidates:
        if candidate.suffix.lower() in CONTROL_STREAMS and candidate.is_file():
            return candidate
    fix = f"Give the path of a file of the run; endings known are {', '.join(CONTROL_STREAMS)}"
    raise DataError(invalid("path", str(path), "There is no control stream of that name", fix=fix))


@contextlib.contextmanager
def _reading(control: Path) -> Iterator[list[str]]:
    """Whatever pharmpy cannot read is a fault of the files; what it warns of is kept."""
    try:
        import pharmpy  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pharmpy-core", "nonmem") from error
    remarks: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield remarks
        remarks += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(invalid("path", str(control), f"pharmpy cannot read the run ({what})")) from error


class _Run:
    """What pharmpy has read.

    Attributes:
        labels: NONMEM's name of each parameter -> pharmpy's.
        missing: Table files that are not there.
    """

    def __init__(self, control: Path):
        from pharmpy.model.external.nonmem.table import NONMEMTableFile
        from pharmpy.model.external.nonmem.update import create_name_map
        from pharmpy.modeling import read_model
        from pharmpy.tools import read_modelfit_results

        self.control = control
        self.model: Any = read_model(control)
        self.results: Any = read_modelfit_results(control)
        self.labels = {theirs: name for name, theirs in create_name_map(self.model).items()}
        self.missing: list[str] = []
        self._open = NONMEMTableFile
        self.last: Any = self._open(control.with_suffix(".ext"))[-1]

    def parts(self) -> dict[str, Any]:
        """What an `ExternalFit` takes from the run's files but the .lst."""
        found = self.results
        estimates, se, aliases = self.parameters()
        subject_ofv, converged = found.individual_ofv, found.minimization_successful
        return {
            "method": self.method,
            "ofv": float(self.last.final_ofv),
            "estimates": estimates,
            "se": se,
            "aliases": {alias: name for alias, name in aliases.items() if alias != name},
            "covariance": self._covariance(aliases),
            "etas": found.individual_estimates,
            "subject_ofv": None if subject_ofv is None else subject_ofv.rename("OFV").astype(float),
            "shrinkage": _shrinkage(found.eta_shrinkage),
            "epsilon_shrinkage": _shrinkage(found.eps_shrinkage),
            "table": self.table(),
            "converged": None if converged is None else bool(converged),
            "warnings": (*(w.replace("_", " ") for w in found.warnings or []), *self._unfinished()),
            "condition_number": _number(found.condition_number),
            "seconds": _number(found.estimation_runtime),
        }

    def _unfinished(self) -> list[str]:
        """A remark if the run was stopped before its end."""
        if (self.last.data_frame["ITERATION"] == FINAL).any():
            return []
        return ["the run wrote no final estimates: these are those of its last iteration"]

    def _covariance(self, aliases: dict[str, str]) -> pd.DataFrame | None:
        matrix = self.results.covariance_matrix
        if matrix is None:
            return None
        own = {label: theirs for theirs, label in self.labels.items()}
        names = [aliases.get(own.get(label, label), label) for label in matrix.index]
        return pd.DataFrame(matrix.to_numpy(float), index=names, columns=names)

    def parameters(self) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
        """Estimates and standard errors by name, and the name of each parameter by NONMEM's own name."""
        values: dict[str, float] = self.last.final_parameter_estimates.to_dict()
        try:
            errors: dict[str, float] = self.last.standard_errors.to_dict()
        except KeyError:
            errors = {}
        estimates, se, aliases = {}, {}, {}
        for theirs, value in values.items():
            if value == 0.0 and _off_diagonal(theirs):
                continue
            label = self.labels.get(theirs, theirs)
            name = theirs if BASIC.match(label) else label
            error = float(errors.get(theirs, math.nan))
            estimates[name], aliases[theirs] = float(value), name
            se[name] = error if 0.0 < error < NO_STANDARD_ERROR else math.nan
        return estimates, se, aliases

    @property
    def method(self) -> str:
        """The last estimation step in our words, in NONMEM's where there is no such method here."""
        steps = [s for s in self.model.execution_steps if hasattr(s, "laplace")]
        if not steps:
            return ""
        step = steps[-1]
        if step.laplace:
            return "Laplace"
        return "FOCEI" if step.method == "FOCE" and step.interaction else step.method

    def table(self) -> pd.DataFrame | None:
        """The tables with a row for every record, side by side; of columns of one name the first."""
        tables = []
        for record in self.model.internals.control_stream.get_records("TABLE"):
            if any(record.has_option(name) for name in ("FIRSTONLY", "LASTONLY", "FIRSTLASTONLY")):
                continue
            path = self.control.parent / record.path
            if not path.is_file():
                self.missing.append(path.name)
                continue
            bare = record.has_option("NOHEADER")
            if bare or record.has_option("NOLABEL"):
                self.missing.append(f"the labels of {path.name}")
                continue
            form = record.get_option("FORMAT")
            how = {"format": form} if form else {}
            found = self._open(path, notitle=bool(record.has_option("NOTITLE")), **how)
            tables.append(found[0].data_frame.reset_index(drop=True))
        tables = [t for t in tables if len(t) == len(tables[0])]
        if not tables:
            return None
        whole = pd.concat(tables, axis=1)
        return whole.loc[:, ~whole.columns.duplicated()]


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _off_diagonal(name: str) -> bool:
    found = re.match(r"(?:OMEGA|SIGMA)\((\d+),(\d+)\)", name)
    return found is not None and found[1] != found[2]


def _shrinkage(table: pd.DataFrame | None) -> dict[str, float]:
    """Shrinkage on the scale of standard deviations [%]."""
    return {} if table is None else {str(name): 100.0 * value for name, value in table["sd"].to_dict().items()}


@dataclass(frozen=True)
class _Listing:
    """What only the .lst says."""

    version: str = ""
    message: str = ""
    subjects: int | None = None
    observations: int | None = None
    without_constant: float | None = None
    contains_constant: bool = False

    @classmethod
    def read(cls, path: Path) -> _Listing:
        """From the file, or nothing where there is none."""
        if not path.is_file():
            return cls()
        text = path.read_text(encoding="utf-8", errors="replace")

        def last(pattern: str, kind: Any) -> Any:
            found = re.findall(pattern, text)
            return kind(found[-1]) if found else None

        return cls(
            last(r"\(NONMEM\) VERSION\s+(\S+)", str) or "",
            _termination(text),
            last(r"TOT\. NO\. OF INDIVIDUALS:\s+(\d+)", int),
            last(r"TOT\. NO\. OF OBS RECS:\s+(\d+)", int),
            last(r"OBJECTIVE FUNCTION VALUE WITHOUT CONSTANT:\s+(\S+)", float),
            "REPORTED OBJECTIVE FUNCTION CONTAINS CONSTANT" in text,
        )


def _termination(text: str) -> str:
    """How the last estimation ended: the lines after #TERM: up to the number of function evaluations."""
    found = text.rpartition("#TERM:")
    lines = []
    for line in found[2].splitlines()[1:] if found[1] else []:
        if not line.strip() or "NO. OF" in line:
            break
        lines.append(line[1:].strip())
    return " ".join(lines).lower()
