"""A comparison as text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

GUARDED = ("OFV", "-2LL", "dOFV", "AIC", "BIC")
"""Columns that are empty where a comparison is refused."""


def render(comparison: Any) -> str:
    """Everything that a `Comparison` holds."""
    number = {name: i + 1 for i, name in enumerate(comparison.refused)}
    parts = [f"Reference: {comparison.reference}", _fits(comparison.table, number)]
    parts += [f"[{i}] {name}: {comparison.refused[name]}" for name, i in number.items()]
    sections = ["\n".join(parts), f"Estimates (RSE%)\n{_estimates(comparison.parameters)}"]
    if bool(comparison.shrinkage.notna().any(axis=None)):
        sections.append(f"Shrinkage [%]\n{_text(comparison.shrinkage, _number(3))}")
    if len(comparison.lrt):
        lrt = comparison.lrt.assign(p=[_p(t) for t in comparison.tests])
        lrt["dOFV"] = [f"{v:.4f}" for v in lrt["dOFV"]]
        sections.append(f"Likelihood ratio tests\n{lrt.to_string(index=False)}")
    if comparison.held_out is not None:
        sections.append(f"Held-out subjects\n{_held_out(comparison.held_out)}")
    if comparison.notes:
        sections.append("\n".join(comparison.notes))
    return "\n\n".join(sections)


def _fits(table: pd.DataFrame, refused: dict[str, int]) -> str:
    formats: dict[str, Callable[[Any], str]] = {
        "OFV": _decimals(4), "-2LL": _decimals(4), "dOFV": _decimals(4), "OFV reported": _decimals(4),
        "penalty": _decimals(4), "effective": _decimals(1), "AIC": _decimals(2), "BIC": _decimals(2),
        "parameters": _decimals(0), "condition number": _number(3), "seconds": _decimals(2),
    }  # fmt: skip
    shown = pd.DataFrame(index=table.index)
    for column in table.columns:
        values = table[column]
        if column == "penalty" and bool((values.fillna(0.0) == 0.0).all()):
            continue
        if column == "effective" and bool((values.isna() | (values == table["parameters"])).all()):
            continue
        if column in ("OFV reported", "condition number") and bool(values.isna().all()):
            continue
        form = formats.get(column, _plain)
        shown[column] = [
            f"[{refused[name]}]" if column in GUARDED and name in refused else form(value)
            for name, value in zip(table.index, values, strict=True)
        ]
    return shown.to_string()


def _estimates(parameters: pd.DataFrame) -> str:
    shown = pd.DataFrame(index=parameters.index)
    for name in parameters.columns.get_level_values(0).unique():
        part = parameters[name]
        shown[name] = [
            f"{_number(5)(value)} ({error:.1f})" if math.isfinite(error) else _number(5)(value)
            for value, error in zip(part["Estimate"], part["RSE%"], strict=True)
        ]
    return shown.to_string()


def _held_out(table: pd.DataFrame) -> str:
    shown = pd.DataFrame(index=table.index)
    for column in table.columns:
        if column in ("subjects", "observations"):
            shown[column] = table[column].astype(int)
        elif column.startswith(("-2LL", "d-2LL")):
            shown[column] = [_decimals(4)(v) for v in table[column]]
        elif column.startswith("coverage"):
            shown[column] = [_decimals(1)(v) for v in table[column]]
        else:
            shown[column] = [_number(4)(v) for v in table[column]]
    return shown.T.to_string()


def _text(table: pd.DataFrame, form: Callable[[Any], str]) -> str:
    return table.map(form).to_string()


def _p(test: Any) -> str:
    return f"{'<= ' if test.boundary > 1 else ''}{test.p:.4g}"


def _plain(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return str(value)


def _decimals(digits: int) -> Callable[[Any], str]:
    return lambda value: "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _number(digits: int) -> Callable[[Any], str]:
    return lambda value: "" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"
