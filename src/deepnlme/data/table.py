"""A data file or DataFrame as a table of cells: lines, comments, separators, quotes, and what is a number."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data.labels import MISSING, NUMBER
from deepnlme.errors import DataError, invalid

_SEPARATORS = (",", ";", "\t")
_ID_NAMES = ("id", "subject", "subj")


@dataclass(frozen=True)
class Table:
    """Named columns of equal length.

    Attributes:
        names: Names of the columns, distinct.
        columns: One per name: an int64 or float64 array (NaN missing), or a list of stripped texts ("" missing).
        rows: Where each row came from: line of the file, or position + 2 (int64 [N]).
        notes: What was skipped.
        doubt: Why the file has no clear meaning unless its first column holds texts of a known use; else empty.
    """

    names: tuple[str, ...]
    columns: tuple[np.ndarray | list[str], ...]
    rows: np.ndarray
    notes: tuple[str, ...] = ()
    doubt: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> np.ndarray | list[str]:
        """The column with exactly this name."""
        return self.columns[self.names.index(name)]


def read_table(source: Any, ignore: str | None = None, separator: str | None = None) -> Table:
    """Read a table.

    Args:
        source: Path of a text file, an open text file, or a DataFrame.
        ignore: See `read_nonmem`; for text only.
        separator: Character between the cells; None to take it from the header. For text only.

    Raises:
        DataError: When the source is not a table with distinct names, rows as long as the header and at least one row.
    """
    if separator is not None and not (isinstance(separator, str) and len(separator) == 1):
        expected = "It is one character, or a space for any white space"
        raise DataError(invalid("separator", repr(separator), expected))
    if isinstance(source, pd.DataFrame):
        table = _from_frame(source)
    elif isinstance(source, str | Path):
        table = _from_text(_read_file(Path(source)), ignore, separator)
    elif hasattr(source, "read"):
        table = _from_text(_as_text(source.read()), ignore, separator)
    else:
        raise DataError(invalid("source", type(source).__name__, "It is a path, an open text file or a DataFrame"))
    if not len(table):
        raise DataError(invalid("source", "a header without records", "A data set has at least one record"))
    return table


def parse_number(cell: str) -> float | None:
    """The number that a cell holds, NaN when it is missing, None when it is something else."""
    if cell.lower() in MISSING:
        return float("nan")
    value = float(cell) if NUMBER.fullmatch(cell) else float("inf")
    return value if np.isfinite(value) else None


def _read_file(path: Path) -> str:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(invalid("source", repr(str(path)), f"It cannot be read: {reason}")) from error
    return _as_text(content)


def _as_text(content: Any) -> str:
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"byte {content[error.start]:#04x} at position {error.start}"
        raise DataError(invalid("source", got, "A data file is UTF-8 text", fix="Save it as UTF-8")) from None


def _from_text(text: str, ignore: str | None, separator: str | None) -> Table:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    head = next((i for i, (_, line) in enumerate(numbered) if not _is_comment(line, separator, ignore)), None)
    if head is None:
        raise DataError(invalid("source", "an empty file", "A data file has a header and records"))
    header = numbered[head][1].strip(" ").removeprefix("#").strip()
    separator = _sniff(header) if separator is None else separator
    names = _split(header, separator, numbered[head][0])
    _check_names(names)
    body, notes = _without_comments(numbered[head + 1 :], names, separator, ignore)
    if head:
        notes.insert(0, f"{head} comment line{'s' * (head > 1)} before the header skipped")
    fields = []
    for number, line in body:
        cells = _split(line, separator, number)
        if len(cells) != len(names):
            expected = f"The header has {len(names)} columns"
            fix = "Look for a missing or extra separator" + ("" if separator != "," else ", such as a decimal comma")
            raise DataError(invalid(f"row {number}", f"{len(cells)} cells", expected, fix=fix))
        fields.append(cells)
    columns = tuple(_clean(list(column)) for column in zip(*fields, strict=True)) or tuple([] for _ in names)
    rows = np.array([number for number, _ in body], dtype=np.int64)
    return Table(tuple(names), columns, rows, tuple(notes), _doubt(body) if ignore is None else "")


def _is_comment(line: str, separator: str | None, ignore: str | None) -> bool:
    """Whether a line before the header is a comment; a line that names ID and TIME is the header, even as `#ID`."""
    stripped = line.strip()
    marks = set("#" if ignore is None else ignore) - {"@"}
    if stripped[0] not in marks:
        return False
    bare = stripped.removeprefix("#").strip()
    cells = [cell.strip().strip('"').lower() for cell in _cut(bare, _sniff(bare) if separator is None else separator)]
    return not (any(name in cells for name in _ID_NAMES) and any(name in cells for name in ("time", "t")))


def _without_comments(
    lines: list[tuple[int, str]], names: list[str], separator: str, ignore: str | None
) -> tuple[list[tuple[int, str]], list[str]]:
    """The lines that hold records, and notes on the others."""
    marks = set("#" if ignore is None else ignore)
    kept, skipped, repeated = [], [], []
    for number, line in lines:
        first = line.lstrip()[0]
        if first in marks or ("@" in marks and first.isalpha()):
            skipped.append(number)
        elif [cell.strip().strip('"') for cell in _cut(line.strip(" "), separator)] == names:
            repeated.append(number)
        else:
            kept.append((number, line))
    notes = []
    for what, numbers in (("comment line", skipped), ("repeated header line", repeated)):
        if numbers:
            shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
            notes.append(f"{len(numbers)} {what}{'s' * (len(numbers) > 1)} skipped (line {shown})")
    return kept, notes


def _doubt(lines: list[tuple[int, str]]) -> str:
    """Lines that begin with a letter among others that do not are comments to NM-TRAN and records to others."""
    texts = [
        (number, line) for number, line in lines if line.lstrip(' "')[:1].isalpha() or line.lstrip(' "')[:1] == "@"
    ]
    if not texts or len(texts) == len(lines):
        return ""
    number, line = texts[0]
    return invalid(
        f"row {number}",
        repr(line.strip()[:30]),
        "It begins with a letter, and not all records do: it may be a comment (NM-TRAN's IGNORE=@) or a record",
        fix="Say which: ignore='#@' skips such lines, ignore='#' reads them",
    )


def _sniff(header: str) -> str:
    found = [separator for separator in _SEPARATORS if separator in header]
    if "," in found and ";" in found:
        raise DataError(invalid("header", repr(header[:60]), "It has commas and semicolons", fix="Give separator="))
    return found[0] if found else " "


def _cut(line: str, separator: str) -> list[str]:
    return line.split() if separator == " " else line.split(separator)


def _split(line: str, separator: str, number: int) -> list[str]:
    """The stripped cells of a line; a quoted cell may hold the separator, but ends on its line."""
    if '"' not in line:
        return [cell.strip() for cell in _cut(line, separator)]
    try:
        text = " ".join(line.split()) if separator == " " else line.strip(" ")
        rows = list(csv.reader([text], delimiter=separator, strict=True, skipinitialspace=True))
    except csv.Error as error:
        raise DataError(invalid(f"row {number}", f"unreadable quotes ({error})", "Quotes come in pairs")) from None
    cells = [cell.strip() for cell in rows[0] if cell or separator != " "]
    broken = [cell for cell in cells if '"' in cell or "\n" in cell]
    if broken:
        raise DataError(invalid(f"row {number}", repr(broken[0]), "Quotes enclose a whole cell"))
    return cells


def _check_names(names: list[str]) -> None:
    if all(parse_number(name) is not None for name in names):
        got = ", ".join(names[:5])
        raise DataError(invalid("header", repr(got), "The first line names the columns", fix="Put a header there"))
    for position, name in enumerate(names, start=1):
        if not name:
            fix = "Name the column, or write the file without row names"
            raise DataError(invalid("header", f"no name for column {position}", "Every column has a name", fix=fix))
        if names.index(name) != position - 1:
            expected = f"It names columns {names.index(name) + 1} and {position}, and names must be distinct"
            raise DataError(invalid("header", f"{name!r} twice", expected, fix="Rename or remove one of them"))


def _clean(cells: list[str]) -> list[str]:
    """Missing cells as empty texts."""
    return ["" if cell in (".", "") or cell.lower() in MISSING else cell for cell in cells]


def _from_frame(frame: pd.DataFrame) -> Table:
    if frame.columns.nlevels > 1:
        raise DataError(invalid("columns", "several levels", "A column has one name", fix="Flatten frame.columns"))
    names = [str(name).strip().removeprefix("#") for name in frame.columns]
    _check_names(names)
    columns = tuple(_from_series(frame.iloc[:, i], name) for i, name in enumerate(names))
    return Table(tuple(names), columns, np.arange(len(frame), dtype=np.int64) + 2)


def _from_series(series: pd.Series, name: str) -> np.ndarray | list[str]:
    kind = getattr(series.dtype, "kind", "O")
    if isinstance(series.dtype, pd.CategoricalDtype):
        return _from_series(series.astype(object), name)
    if kind in "mM":
        fix = "Convert it to numbers of one unit, such as hours since the subject's first record"
        return _texts_of_times(series, fix)
    if kind in "iub" and not series.isna().any():
        return series.to_numpy().astype(np.int64)
    if kind in "iufb":
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    return _clean([_cell_text(value) for value in series.tolist()])


def _texts_of_times(series: pd.Series, fix: str) -> list[str]:
    return ["" if missing else str(value) for value, missing in zip(series.tolist(), series.isna(), strict=True)]


def _cell_text(value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return repr(float(value))
    return str(value).strip()
