"""Parameter tables that Monolix and nlmixr2 write."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from deepnlme.compare.external import ExternalFit
from deepnlme.errors import DataError, ModelError, invalid


def read_parameter_table(path: str | Path, program: str, ofv: float | None = None, method: str = "") -> ExternalFit:
    """Read a table of estimates of Monolix or nlmixr2.

    - ``"monolix"``: populationParameters.txt or .csv: parameter, value, and standard errors se_sa (or se_lin). Its
      omega_... are standard deviations: ``{"omega[ka]": ("omega_ka", lambda sd: sd**2)}``.
    - ``"nlmixr2"``: ``write.csv(fit$parFixedDf, ...)``: Estimate, SE, and BSV(CV%) or BSV(SD), which become variances
      ``omega[tka]`` beside the estimate ``tka``, which is on the scale of its transformation (mostly the logarithm):
      ``{"ka": ("tka", math.exp), "omega[ka]": "omega[tka]"}``. A column BSV(CV% or SD) mixes both and is not read.

    Args:
        path: The file.
        program: "monolix" or "nlmixr2".
        ofv: Its objective function without the constant N log 2 pi, which the table does not hold. Monolix reports
            -2LL with the constant: subtract N log(2 pi), N the observations that are not censored.
        method: Its approximation, for tables.

    Raises:
        DataError: No such file, or columns or numbers missing.
        ModelError: Another program.
    """
    if program not in READERS:
        fix = "NONMEM runs are read by dn.read_nonmem_results"
        raise ModelError(invalid("program", repr(program), f"It is one of {', '.join(READERS)}", fix=fix))
    if ofv is not None and (isinstance(ofv, bool) or not isinstance(ofv, int | float) or not math.isfinite(ofv)):
        raise ModelError(invalid("ofv", repr(ofv), "It is a finite number, or None"))
    path = Path(path)
    return READERS[program](_read(path), path, None if ofv is None else float(ofv), method)


def _read(path: Path) -> pd.DataFrame:
    """All cells as text, the separator found from the header."""
    if not path.is_file():
        raise DataError(invalid("path", str(path), "There is no such file"))
    text = path.read_text(encoding="utf-8-sig")
    header = text.splitlines()[0] if text.strip() else ""
    separator = max(",;\t", key=header.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    if len(rows) < 2:
        raise DataError(invalid("path", str(path), "A table of parameters has a header and a row for each of them"))
    # row.names=TRUE of write.table leaves out the name of the first column
    names = rows[0] if len(rows[0]) == len(rows[1]) else ["", *rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            expected = f"The header has {len(names)} columns"
            raise DataError(invalid("row", f"{len(row)} cells", expected, f"{path}, line {number}"))
    return pd.DataFrame(rows[1:], columns=names)


def _column(table: pd.DataFrame, path: Path, names: Sequence[str], needed: bool = True) -> str | None:
    """The first of these columns that the table has, compared without case and punctuation (R renames columns)."""

    def plain(name: str) -> str:
        return "".join(c for c in name.lower() if c.isalnum() or c == "_")

    found = {plain(column): column for column in table.columns}
    for name in names:
        if plain(name) in found:
            return found[plain(name)]
    if needed:
        expected = f"The table has to have a column {' or '.join(names)}"
        raise DataError(invalid("columns", ", ".join(c or "(unnamed)" for c in table.columns), expected, str(path)))
    return None


def _numbers(table: pd.DataFrame, column: str | None, path: Path, labels: list[str]) -> np.ndarray:
    """Numbers of a column, NaN where it says nothing."""
    if column is None:
        return np.full(len(table), math.nan)
    out = []
    for label, cell in zip(labels, table[column], strict=True):
        text = cell.strip("%<>= ")
        if text.lower() in ("", "na", "nan", "fixed", ".", "-"):
            out.append(math.nan)
            continue
        try:
            out.append(float(text))
        except ValueError:
            raise DataError(invalid(column, repr(cell), "It is a number", f"{label} in {path}")) from None
    return np.array(out)


def _labels(table: pd.DataFrame, column: str, path: Path) -> list[str]:
    labels = table[column].tolist()
    repeated = sorted({name for name in labels if labels.count(name) > 1 or not name})
    if repeated:
        raise DataError(invalid(column or "parameter", repr(repeated[0]), "Each row has a name of its own", str(path)))
    return labels


def _values(values: np.ndarray, labels: list[str], column: str, path: Path) -> dict[str, float]:
    for label, value in zip(labels, values, strict=True):
        if not math.isfinite(value):
            raise DataError(invalid(column, "nothing", "Every parameter has an estimate", f"{label} in {path}"))
    return dict(zip(labels, values.tolist(), strict=True))


def _monolix(table: pd.DataFrame, path: Path, ofv: float | None, method: str) -> ExternalFit:
    names = _column(table, path, ["parameter"])
    value = _column(table, path, ["value"])
    assert names is not None and value is not None
    labels = _labels(table, names, path)
    error = _column(table, path, ["se_sa", "se_lin", "se"], needed=False)
    estimates = _values(_numbers(table, value, path, labels), labels, value, path)
    se = dict(zip(labels, _numbers(table, error, path, labels).tolist(), strict=True))
    kind = {"se_sa": "stochastic approximation", "se_lin": "linearisation"}.get(str(error).lower())
    notes = (f"standard errors by {kind}",) if kind else ()
    return ExternalFit("Monolix", str(path), method=method, ofv=ofv, estimates=estimates, se=se, warnings=notes)


def _nlmixr2(table: pd.DataFrame, path: Path, ofv: float | None, method: str) -> ExternalFit:
    first = table.columns[0]
    value = _column(table, path, ["Estimate", "Est."])
    assert value is not None
    labels = _labels(table, first, path)
    estimates = _values(_numbers(table, value, path, labels), labels, value, path)
    errors = _numbers(table, _column(table, path, ["SE"], needed=False), path, labels)
    se = dict(zip(labels, errors.tolist(), strict=True))
    cv = _numbers(table, _column(table, path, ["BSV(CV%)"], needed=False), path, labels)
    sd = _numbers(table, _column(table, path, ["BSV(SD)"], needed=False), path, labels)
    variance = np.where(np.isfinite(sd), sd**2, np.log1p((cv / 100.0) ** 2))
    shrunk = _numbers(table, _column(table, path, ["Shrink(SD)%"], needed=False), path, labels)
    for label, omega in zip(labels, variance.tolist(), strict=True):
        if math.isfinite(omega):
            estimates[f"omega[{label}]"] = omega
    shrinkage = {n: s for n, s, v in zip(labels, shrunk.tolist(), variance, strict=True) if np.isfinite([s, v]).all()}
    mixed = _column(table, path, ["BSV(CV% or SD)"], needed=False)
    notes = (f"omegas were not read: {mixed} does not tell a CV from a standard deviation",) if mixed else ()
    return ExternalFit(
        "nlmixr2", str(path), method=method, ofv=ofv, estimates=estimates, se=se, shrinkage=shrinkage, warnings=notes
    )


READERS = {"monolix": _monolix, "nlmixr2": _nlmixr2}
