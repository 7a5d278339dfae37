"""Cells of a table as numbers, whole numbers and labels, refused with their row where they are something else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepnlme.data import labels
from deepnlme.data.table import Table, parse_number
from deepnlme.errors import DataError, invalid


class Cells:
    """The cells of a table, with what its errors need to name a record.

    Args:
        table: The table.

    Attributes:
        table: The table.
        ids: Identifier of the subject of each record; empty until they are known.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.ids: list[int | str] = []

    def where(self, i: int) -> str:
        """The record's subject and row, for a message."""
        subject = f"subject {self.ids[i]}, " if self.ids else ""
        return f"{subject}row {self.table.rows[i]}"

    def refuse(self, i: int, column: str, expected: str, fix: str = "") -> DataError:
        """The error for the cell of a column in record i."""
        values = self.table.column(column)
        cell = values[i]
        got = repr(cell) if isinstance(cell, str) and cell else cell if not isinstance(cell, str) else "an empty cell"
        return DataError(invalid(column, got, expected, self.where(i), fix))

    def numbers(self, column: str) -> np.ndarray:
        """The cells as numbers, NaN where missing (float64 [N])."""
        values = self.table.column(column)
        if isinstance(values, np.ndarray):
            result = values.astype(np.float64)
            bad = np.flatnonzero(np.isinf(result))
            if len(bad):
                raise self.refuse(int(bad[0]), column, "It takes finite numbers")
            return result
        parsed = {cell: parse_number(cell) for cell in set(values)}
        if None in parsed.values():
            i = next(i for i, cell in enumerate(values) if parsed[cell] is None)
            raise self.refuse(i, column, "It takes numbers", _advice(values[i]))
        return np.array([parsed[cell] for cell in values], dtype=np.float64)

    def whole(self, column: str, needed: np.ndarray | None = None, fix: str = "") -> np.ndarray:
        """The cells as whole numbers, 0 where missing unless needed there (int64 [N])."""
        values = self.numbers(column)
        missing = np.isnan(values)
        if needed is not None and np.any(missing & needed):
            raise self.refuse(int(np.flatnonzero(missing & needed)[0]), column, "A value is needed here", fix)
        values = np.where(missing, 0.0, values)
        bad = np.flatnonzero((values != np.trunc(values)) | (np.abs(values) > 2**53))
        if len(bad):
            raise self.refuse(int(bad[0]), column, "It takes whole numbers")
        return values.astype(np.int64)

    def labels(self, column: str, among: np.ndarray | None = None, mixed: bool = False) -> list[str]:
        """The cells as labels, "" where missing; whole numbers without decimals.

        Args:
            column: Name of the column.
            among: Records that count; the others give "" (bool [N]).
            mixed: Whether numbers and texts may stand in one column.
        """
        values = self.table.column(column)
        if isinstance(values, np.ndarray):
            self.numbers(column)
            texts = ["" if value != value else str(value) for value in values.tolist()]
        else:
            texts = values
        hidden = next((cell for cell in set(texts) if not cell.isprintable()), None)
        if hidden is not None:
            raise self.refuse(texts.index(hidden), column, "Its texts hold printable characters only")
        known = {cell: labels.normalise(cell) for cell in set(texts)}
        result = [known[cell] for cell in texts]
        if among is not None:
            result = [label if use else "" for label, use in zip(result, among.tolist(), strict=True)]
        if not mixed:
            self._refuse_mixture(column, result)
        return result

    def _refuse_mixture(self, column: str, texts: list[str]) -> None:
        kinds = {text: bool(labels.NUMBER.fullmatch(text)) for text in set(texts) if text}
        if len(set(kinds.values())) > 1:
            numbers = sum(kinds[text] for text in texts if text)
            odd = 2 * numbers < sum(1 for text in texts if text)
            i = next(i for i, text in enumerate(texts) if text and kinds[text] == odd)
            raise self.refuse(i, column, f"The other cells are {'texts' if odd else 'numbers'}", "Use one kind only")

    def map(self, column: str, values: list[str], meaning: Callable[[str], float | None], expected: str) -> np.ndarray:
        """Look up each label, NaN where missing, refusing those without a meaning (float64 [N])."""
        known = {value: meaning(value) if value else float("nan") for value in set(values)}
        for i, value in enumerate(values):
            if known[value] is None:
                raise self.refuse(i, column, expected)
        return np.array([known[value] for value in values], dtype=np.float64)


def _advice(cell: str) -> str:
    if ":" in cell:
        return (
            "Clock times and dates are not read: convert them to elapsed time as a number, "
            "such as hours since the subject's first record (8:30 is 8.5)"
        )
    if "," in cell:
        return "Write decimals with a point"
    if "/" in cell or cell.count("-") > 1:
        return "Dates are not read: convert them to elapsed time as a number"
    return "Write a missing value as ."
