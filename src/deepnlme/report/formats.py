"""Numbers and tables as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

NOTHING = "\u2013"
"""In a cell without a value."""


def number(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits; a dash where there is none."""
    if value is None or isinstance(value, str):
        return value or NOTHING
    value = float(value)
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "\u221e" if value > 0 else "-\u221e"
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-5 <= abs(value) < 1e7:
        text = f"{value:.0f}" if abs(value) >= 1 else f"{value:.{digits + 4}f}".rstrip("0")
    return "0" if text == "-0" else text


def significant(value: Any, digits: int = 4) -> str:
    """As `number`, with the zeros at the end that say how well a value is known: 15.00."""
    text = number(value, digits)
    if value is None or isinstance(value, str) or not math.isfinite(value) or "e" in text or not value:
        return text
    shown = len(text.replace(".", "").lstrip("-0"))
    if shown >= digits:
        return text
    return f"{text}{'' if '.' in text else '.'}{'0' * (digits - shown)}"


def exact(value: Any) -> str:
    """A value of the data as it is: times and observations by which a record is found again."""
    return f"{value:.15g}" if isinstance(value, float | np.floating) and math.isfinite(value) else plain(value)


def decimals(value: Any, places: int = 2) -> str:
    """A number with so many decimals; a dash where there is none."""
    if value is None or not math.isfinite(float(value)):
        return number(value)
    return f"{float(value):z.{places}f}"


def probability(value: float) -> str:
    """A p-value."""
    if not math.isfinite(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def share(part: int, whole: int) -> str:
    """A count with its percentage."""
    return f"{part} ({100.0 * part / whole:.1f} %)" if whole else f"{part}"


def count(n: int, noun: str) -> str:
    """A count with its noun: 1 subject, 12 subjects."""
    return f"{n:d} {noun}{'' if n == 1 else 's'}"


def spread(values: np.ndarray, digits: int = 4) -> str:
    """Median and range of numbers [N]; one number where they are all the same."""
    values = values[np.isfinite(values)]
    if not len(values):
        return NOTHING
    if values.min() == values.max():
        return number(values[0], digits)
    low, middle, high = (number(v, digits) for v in (values.min(), np.median(values), values.max()))
    return f"{middle} ({low} to {high})"


def few(items: Any, most: int = 10) -> str:
    """The first items of a list, and how many there are."""
    shown = [str(item) for item in items]
    return ", ".join(shown[:most]) + (f", ... ({len(shown)} in all)" if len(shown) > most else "")


def cells(table: pd.DataFrame, forms: Mapping[str, Callable[[Any], str]] | None = None) -> pd.DataFrame:
    """A table as text: columns by the forms given, other numbers with four digits, truth as yes and no."""
    forms = forms or {}
    out = {}
    for i, column in enumerate(table.columns):
        form = forms.get(str(column), plain)
        out[str(column)] = [form(value) for value in table.iloc[:, i].tolist()]
    return pd.DataFrame(out)


def plain(value: Any) -> str:
    """Any value as text."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return str(value)
    if value is None or isinstance(value, float | np.floating):
        return number(value)
    return str(value)


def pairs(values: Mapping[str, Any], head: tuple[str, str] = ("", "Value")) -> pd.DataFrame:
    """Names and values as a table of two columns."""
    return pd.DataFrame({head[0]: list(values), head[1]: [plain(v) for v in values.values()]})
