"""Reading covariate columns: numbers as they are, texts as codes, missing cells filled and reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepnlme.data import labels
from deepnlme.data.cells import Cells
from deepnlme.data.frame import check_covariate_names
from deepnlme.data.interpolation import fill_missing
from deepnlme.errors import DataError, invalid

Request = tuple[str, ...] | dict[str, float] | None
"""How a covariate is coded: by the order of its levels, by given values, or as it is."""


def covariate_requests(covariates: Sequence[str] | Mapping[str, Any] | str) -> dict[str, Request]:
    """The covariates that `read_nonmem` was asked for, and how each is to be coded.

    Raises:
        DataError: When a name repeats or a coding is none.
    """
    given = {covariates: None} if isinstance(covariates, str) else covariates
    names = list(given)
    check_covariate_names(names)
    if not isinstance(given, Mapping):
        return dict.fromkeys(names)
    return {name: _request(name, coding) for name, coding in given.items()}


def _request(name: str, coding: Any) -> Request:
    if coding is None:
        return None
    if isinstance(coding, Mapping) and coding:
        values = {labels.normalise(str(label).strip()): value for label, value in coding.items()}
        if all(isinstance(v, int | float) and np.isfinite(v) for v in values.values()) and len(values) == len(coding):
            return {label: float(value) for label, value in values.items()}
    elif isinstance(coding, tuple | list) and coding and len(set(map(str, coding))) == len(coding):
        return tuple(labels.normalise(str(label).strip()) for label in coding)
    expected = "A coding maps levels to finite numbers, or lists distinct levels in order"
    raise DataError(
        invalid(f"covariates[{name!r}]", repr(coding), expected, fix="Use None to take the column as it is")
    )


def read_covariates(
    cells: Cells,
    columns: Mapping[str, str],
    requests: Mapping[str, Request],
    rules: Mapping[str, str],
    subject: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]], list[str]]:
    """Read the covariates.

    Args:
        cells: The cells of the data set.
        columns: Column of each covariate.
        requests: How each is coded.
        rules: Interpolation rule of each.
        subject: Index of the subject of each record (int64 [N]).

    Returns:
        Values by name (float64 [N] each), labels of the text covariates, and notes on the cells filled.

    Raises:
        DataError: When numbers and texts are mixed, a level has no code, or a subject has no value.
    """
    values: dict[str, np.ndarray] = {}
    categories: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for name, column in columns.items():
        raw, levels = _coded(cells, column, requests[name])
        if levels:
            categories[name] = levels
        values[name] = _filled(cells, column, raw, subject, rules[name])
        missing = np.isnan(raw)
        if missing.any():
            n, k = int(missing.sum()), len(np.unique(subject[missing]))
            who = f"{k} subject{'s' * (k > 1)}"
            order = "next, then previous" if rules[name] == "nocb" else "previous, then next"
            notes.append(f"covariate {name}: {n} missing cell{'s' * (n > 1)} of {who} filled ({order} value)")
    return values, categories, notes


def _coded(cells: Cells, column: str, request: Request) -> tuple[np.ndarray, tuple[str, ...]]:
    """The values of a column, NaN where missing, and its labels if they are codes."""
    texts = cells.labels(column, mixed=request is not None)
    present = [text for text in texts if text]
    numeric = all(labels.NUMBER.fullmatch(text) for text in set(present))
    if request is None and numeric:
        return cells.numbers(column), ()
    if isinstance(request, dict):
        expected = f"Its coding has the levels {', '.join(request)}"
        values = cells.map(column, texts, request.get, expected)
        ranked = sorted(request, key=lambda label: request[label])
        consecutive = [request[label] for label in ranked] == list(range(len(ranked)))
        return values, tuple(ranked) if consecutive and not numeric else ()
    levels = request or labels.ordered(present)
    position = {label: float(i) for i, label in enumerate(levels)}
    return cells.map(column, texts, position.get, f"Its levels are {', '.join(levels)}"), levels


def _filled(cells: Cells, column: str, raw: np.ndarray, subject: np.ndarray, rule: str) -> np.ndarray:
    filled = fill_missing(raw, subject, rule)
    without = np.flatnonzero(np.isnan(filled))
    if len(without):
        k = len(np.unique(subject[without]))
        fix = f"{k} subjects have none. " if k > 1 else ""
        fix += f'Fill it in before reading, such as by the median: table["{column}"] = table["{column}"].fillna('
        fix += f'table["{column}"].median()); or leave them out: table = table.dropna(subset=["{column}"])'
        raise cells.refuse(int(without[0]), column, "The subject has no value of this covariate on any record", fix)
    return filled
