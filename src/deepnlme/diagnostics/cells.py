"""Bins within strata, and observed against simulated quantiles and shares in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.diagnostics.binning import assign, bin_edges, check_bins
from deepnlme.diagnostics.order import interval, quantiles


@dataclass(frozen=True)
class Cell:
    """The observations of one bin of one stratum.

    Attributes:
        stratum: Label.
        number: Of the bin, from 1.
        low, high: Its edges.
        middle: Median position of its observations.
        rows: Positions of the observations.
    """

    stratum: str
    number: int
    low: float
    high: float
    middle: float
    rows: np.ndarray

    def columns(self, x: bool = True) -> dict[str, Any]:
        """First columns of a table's row."""
        out: dict[str, Any] = {"STRATUM": self.stratum, "BIN": self.number}
        if x:
            out |= {"X_LOW": self.low, "X_HIGH": self.high, "X_MID": self.middle}
        return out | {"N": len(self.rows)}


@dataclass(frozen=True)
class Cells:
    """The observations divided into bins, within each stratum by the same rule.

    Attributes:
        cells: Bins, stratum by stratum.
        cell: Position of the bin of each observation (int64 [N]).
    """

    cells: tuple[Cell, ...]
    cell: np.ndarray

    @classmethod
    def of(
        cls, x: np.ndarray, labels: tuple[str, ...], stratum: np.ndarray, bins: Any = "auto", number: int | None = None
    ) -> Cells:
        """Bins along x.

        Raises:
            ModelError: As of `bin_edges` and `check_bins`.
        """
        cells, cell = [], np.zeros(len(x), dtype=np.int64)
        for s, label in enumerate(labels):
            rows = np.flatnonzero(stratum == s)
            where = f"stratum {label}" if label else ""
            edges = bin_edges(x[rows], bins, number, where)
            index = assign(x[rows], edges)
            check_bins(index, edges, where)
            for b in range(len(edges) - 1):
                inside = rows[index == b]
                cell[inside] = len(cells)
                middle = float(np.median(x[inside]))
                cells.append(Cell(label, b + 1, float(edges[b]), float(edges[b + 1]), middle, inside))
        return cls(tuple(cells), cell)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)


def quantile_table(
    cells: Cells,
    y: np.ndarray,
    simulated: np.ndarray,
    probabilities: np.ndarray,
    level: float,
    lower: np.ndarray | None = None,
    upper: np.ndarray | None = None,
) -> pd.DataFrame:
    """Observed quantiles of each bin, and the interval of simulated ones.

    What is shown is the same wherever beyond their limits the censored values may lie. Else it is NaN, and OUTSIDE only
    if it lies outside wherever they are.

    Args:
        cells: The bins.
        y: Observations, censored ones infinite (float [N]).
        simulated: Simulated values, censored ones infinite (float [R, N]).
        probabilities: Of the quantiles (float [Q]).
        level: Of the interval.
        lower: Limit of quantification of each observation ([N]).
        upper: Upper limit ([N]).

    Returns:
        STRATUM BIN X_LOW X_HIGH X_MID N QUANTILE OBSERVED SIM_LOW SIM_MEDIAN SIM_HIGH OUTSIDE.
    """
    rows = []
    for cell in cells:
        own, sets = y[cell.rows], simulated[:, cell.rows]
        least = _quantiles(own, sets, probabilities, level, np.inf, upper, cell.rows)
        most = _quantiles(own, sets, probabilities, level, -np.inf, lower, cell.rows)
        for q, probability in enumerate(probabilities):
            rows.append(cell.columns() | {"QUANTILE": float(probability)} | against(least[:, q], most[:, q]))
    return pd.DataFrame(rows)


def _quantiles(
    own: np.ndarray,
    sets: np.ndarray,
    probabilities: np.ndarray,
    level: float,
    beyond: float,
    limit: np.ndarray | None,
    rows: np.ndarray,
) -> np.ndarray:
    """Observed quantile, lower end, median and upper end, [4, Q], with the values at `beyond` put to their limit."""
    if limit is not None:
        own, sets = (np.where(values == beyond, limit[rows], values) for values in (own, sets))
    ends = interval(np.moveaxis(quantiles(sets, probabilities), -1, 0), level)
    return np.stack([quantiles(own, probabilities), *ends])


def against(least: Sequence[Any] | np.ndarray, most: Sequence[Any] | np.ndarray | None = None) -> dict[str, Any]:
    """Last columns of a table's row.

    Args:
        least: The least that the observed value, lower end, median and upper end may be.
        most: The most; the same by default. Where they differ the table has NaN.
    """
    most = least if most is None else most
    names = ("OBSERVED", "SIM_LOW", "SIM_MEDIAN", "SIM_HIGH")
    out: dict[str, Any] = {n: float(a) if a == b else np.nan for n, a, b in zip(names, least, most, strict=True)}
    return out | {"OUTSIDE": bool(most[0] < least[1] or least[0] > most[3])}


def share_table(
    cells: Cells, y: np.ndarray, simulated: np.ndarray, classes: list[tuple[str, Any]], level: float, column: str
) -> pd.DataFrame:
    """Observed share of each class in each bin, and the interval of simulated shares.

    Args:
        cells: The bins.
        y: Observations (float [N]).
        simulated: Simulated values (float [R, N]).
        classes: Labels, and functions that tell which values belong (array -> bool array).
        level: Of the interval.
        column: Name of the column with the labels.

    Returns:
        STRATUM BIN X_LOW X_HIGH X_MID N <column> OBSERVED SIM_LOW SIM_MEDIAN SIM_HIGH OUTSIDE.
    """
    rows = []
    for cell in cells:
        own, sets = y[cell.rows], simulated[:, cell.rows]
        for label, belongs in classes:
            ends = interval(belongs(sets).mean(1), level)
            rows.append(cell.columns() | {column: label} | against((belongs(own).mean(), *ends)))
    return pd.DataFrame(rows)
