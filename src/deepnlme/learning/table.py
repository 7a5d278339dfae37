"""Inputs and targets as arrays, checked: what was given for which row and column."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from deepnlme.errors import DataError, ModelError, invalid
from deepnlme.learning.split import subjects

MISSING = (None, "mean", "median")


@dataclass(frozen=True, eq=False)
class Rows:
    """A table to learn from.

    Attributes:
        x: Inputs [N, D], or [N, ...] for images and sequences; NaN where missing values are to be imputed.
        y: Targets [N, T].
        weights: Of every row [N, 1] or of every target [N, T].
        groups: Subject of every row [N].
        own: Whether every row is a subject of its own because no groups were given.
        inputs: Names of the columns of x, () where it is no table.
        targets: Names of the columns of y.
    """

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    own: bool
    inputs: tuple[str, ...]
    targets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)

    def of(self, rows: np.ndarray) -> Rows:
        """Some of the rows."""
        parts = (a[rows] for a in (self.x, self.y, self.weights, self.groups))
        return Rows(*parts, own=self.own, inputs=self.inputs, targets=self.targets)


def read(inputs: Any, targets: Any, weights: Any, groups: Any, missing: str | None) -> Rows:
    """Everything that `learn` is given, checked.

    Raises:
        DataError: Different lengths, the same index in another order, missing or infinite values, constant columns,
            text.
        ModelError: An unknown way to impute.
    """
    if missing not in MISSING:
        raise ModelError(invalid("missing", repr(missing), "It is None, 'mean' or 'median'"))
    same_order(inputs, targets)
    x, names = read_inputs(inputs, missing is not None)
    y, target_names = read_targets(targets, len(x))
    w = _weights(weights, y.shape)
    ids = np.arange(len(x)) if groups is None else np.asarray(groups)
    if ids.shape != (len(x),):
        raise DataError(invalid("groups", f"shape {ids.shape}", f"One subject for each of the {len(x)} rows"))
    if groups is not None:
        subjects(ids)
    _constant(x, names)
    return Rows(x, y, w, ids, groups is None, names, target_names)


def read_inputs(
    inputs: Any, may_miss: bool = False, expected: Sequence[str] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Inputs as an array, and their names.

    Args:
        inputs: DataFrame, array, tensor, or a list of rows or images.
        may_miss: Whether missing values are allowed.
        expected: Columns to take, in this order; all by default.
    """
    x, names = _array(inputs, "inputs", expected)
    if x.ndim == 1:
        x = x[:, None]
    if expected and x.shape[1:] != (len(expected),):
        rule = f"It was learned from {len(expected)} columns: {', '.join(expected)}"
        raise DataError(invalid("inputs", f"rows of shape {x.shape[1:]}", rule))
    if not names and x.ndim == 2:
        names = tuple(f"x{i + 1}" for i in range(x.shape[1])) if not expected else tuple(expected)
    bad = np.isinf(x) if may_miss else ~np.isfinite(x)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f"row {at[0]}, column {names[at[1]]}" if x.ndim == 2 else f"row {at[0]}, position {at[1:]}"
        fix = "Leave such rows out, or impute them by what the training rows have: missing='mean' or missing='median'"
        rule = f"Inputs are finite numbers; {int(bad.any(axis=tuple(range(1, x.ndim))).sum())} rows break that"
        raise DataError(invalid("inputs", f"{x[at]:g}", rule, where, fix))
    return x, names


def read_targets(targets: Any, count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Targets [N, T] and their names."""
    y, names = _array(targets, "targets", ())
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2:
        raise DataError(invalid("targets", f"shape {y.shape}", "Targets are [rows] or [rows, targets]"))
    if len(y) != count:
        raise DataError(invalid("targets", f"{len(y)} rows", f"There are {count} rows of inputs"))
    if not names:
        names = ("y",) if y.shape[1] == 1 else tuple(f"y{i + 1}" for i in range(y.shape[1]))
    if not np.isfinite(y).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(y))[0])
        where, fix = f"row {row}, column {names[column]}", "Leave such rows out: a target cannot be imputed"
        raise DataError(invalid("targets", f"{y[row, column]:g}", "Targets are finite numbers", where, fix))
    return y, names


def _array(value: Any, what: str, expected: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    if isinstance(value, pd.Series):
        value = value.to_frame(value.name if value.name is not None else "y" if what == "targets" else "x1")
    if isinstance(value, pd.DataFrame):
        return _frame(value, what, expected)
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, Sequence) and not isinstance(value, str):
        shapes = [np.shape(row) for row in value]
        for i, shape in enumerate(shapes):
            if shape != shapes[0]:
                rule, fix = f"All have the shape of row 0, {shapes[0]}", "Crop, pad or resample them to one size"
                raise DataError(invalid(what, f"shape {shape}", rule, f"row {i}", fix))
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(invalid(what, type(value).__name__, f"They are numbers ({error})")) from error
    if array.ndim == 0 or not array.size:
        raise DataError(invalid(what, f"shape {array.shape}", "They are [rows, columns]"))
    return array, ()


def _frame(frame: pd.DataFrame, what: str, expected: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    absent = [name for name in expected if name not in frame.columns]
    if absent:
        have = ", ".join(map(str, frame.columns))
        raise DataError(
            invalid(what, f"no column {absent[0]}", f"It was learned from {', '.join(expected)}; got {have}")
        )
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice) and (not expected or set(twice) & set(expected)):
        raise DataError(invalid(what, f"two columns {twice[0]}", "Every column has a name of its own"))
    frame = frame.loc[:, list(expected)] if expected else frame
    if not frame.size:
        raise DataError(invalid(what, f"shape {frame.shape}", "They are [rows, columns]"))
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            fix = "Code categories as numbers: pandas.get_dummies(table, drop_first=True)"
            raise DataError(invalid(what, frame[name].dtype, "Columns are numbers", f"column {name}", fix))
    return frame.to_numpy(dtype=np.float64, na_value=np.nan), tuple(str(name) for name in frame.columns)


def same_order(inputs: Any, targets: Any) -> None:
    """Refuse tables of the same rows in another order: rows are matched by position."""
    if not all(isinstance(table, pd.DataFrame | pd.Series) for table in (inputs, targets)):
        return
    one, other = inputs.index, targets.index
    if len(one) == len(other) and not one.equals(other) and set(one) == set(other):
        row = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        got, fix = f"index {other[row]} where inputs have {one[row]}", "Use targets.loc[inputs.index]"
        raise DataError(invalid("targets", got, "Rows are matched by position", f"row {row}", fix))


def _weights(weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    if weights is None:
        return np.ones((shape[0], 1))
    w = np.asarray(weights, dtype=np.float64)
    w = w[:, None] if w.ndim == 1 else w
    if w.shape not in ((shape[0], 1), shape):
        raise DataError(invalid("weights", f"shape {w.shape}", f"They are [rows] or {list(shape)}"))
    if not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        row = int(np.argwhere(~(w >= 0) | np.isinf(w))[0][0]) if (~(w >= 0) | np.isinf(w)).any() else 0
        raise DataError(invalid("weights", w[row], "Weights are finite, not negative, and not all zero", f"row {row}"))
    return w


def _constant(x: np.ndarray, names: Sequence[str]) -> None:
    """Refuse constant columns, warn of equal ones and of more columns than rows."""
    if x.ndim != 2 or len(x) < 2:
        return
    for i, name in enumerate(names):
        known = x[~np.isnan(x[:, i]), i]
        if not len(known) or (known == known[0]).all():
            shown = f"{known[0]:g} in every row" if len(known) else "no value"
            rule = "A constant says nothing about the targets"
            raise DataError(invalid("inputs", shown, rule, f"column {name}", "Leave the column out"))
    _, first = np.unique(x, axis=1, return_index=True)
    for i in sorted(set(range(x.shape[1])) - set(first.tolist())):
        twin = next(j for j in range(x.shape[1]) if j != i and np.array_equal(x[:, i], x[:, j], equal_nan=True))
        warnings.warn(f"Columns {names[twin]} and {names[i]} of `inputs` are equal: leave one out.", stacklevel=4)
    if x.shape[1] > len(x):
        warnings.warn(
            f"`inputs` has {x.shape[1]} columns and only {len(x)} rows: any noise can be fitted. "
            "Penalise (l2=, l1=) and judge by dn.learn_folds.",
            stacklevel=4,
        )
