"""Bins within strata, and observed against simulated quantiles and shares in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.diagnostics.binning import assign, bin_edges, check_bins
from deepnlme.diagnostics.order import interval, quantiles, shown


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
        low = None if lower is None else lower[cell.rows]
        high = None if upper is None else upper[cell.rows]
        observed = quantiles(own, probabilities, *_limits(own, low, high))
        each = quantiles(sets, probabilities, *_limits(sets, low, high))  # [Q, R]
        ends = interval(np.moveaxis(each, -1, 0), level)
        for q, probability in enumerate(probabilities):
            rows.append(
                cell.columns() | {"QUANTILE": float(probability)} | against(observed[q], *(end[q] for end in ends))
            )
    return pd.DataFrame(rows)


def against(observed: Any, low: Any, middle: Any, high: Any) -> dict[str, Any]:
    """Last columns of a table's row; infinite values are shown as NaN, and compared as what they are."""
    values = {"OBSERVED": observed, "SIM_LOW": low, "SIM_MEDIAN": middle, "SIM_HIGH": high}
    out: dict[str, Any] = {name: float(shown(np.asarray(value))) for name, value in values.items()}
    return out | {"OUTSIDE": bool(observed < low or observed > high)}


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
            rows.append(cell.columns() | {column: label} | against(belongs(own).mean(), *ends))
    return pd.DataFrame(rows)


def _limits(
    values: np.ndarray, low: np.ndarray | None, high: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Largest lower and smallest upper limit at which a value of each sample was censored, [...]."""
    below = above = None
    if low is not None and np.isfinite(low).any():
        below = np.where(np.isneginf(values), low, -np.inf).max(-1)
    if high is not None and np.isfinite(high).any():
        above = np.where(np.isposinf(values), high, np.inf).min(-1)
    return below, above
