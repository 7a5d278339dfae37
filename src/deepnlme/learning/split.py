"""Training, validation and test parts by subject: no subject is on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepnlme.errors import DataError, ModelError, invalid

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a table dealt into parts.

    Attributes:
        train: Rows that are learned from, increasing.
        validation: Rows that decide when to stop; may be empty.
        test: Rows that nothing but a score looks at; may be empty.
        groups: Subject of every row of the table [N], or None where every row is a subject of its own.

    Raises:
        DataError: A row or a subject is in two parts, or no row is in training.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in PARTS:
            rows = np.asarray(getattr(self, name))
            if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
                raise DataError(invalid(name, f"{rows.dtype} of shape {rows.shape}", "It is a list of row numbers"))
            object.__setattr__(self, name, np.unique(rows.astype(np.int64)))
        if self.groups is not None:
            object.__setattr__(self, "groups", np.asarray(self.groups))
        if not len(self.train):
            raise DataError(invalid("train", "no rows", "There must be rows to learn from"))
        most = max(int(rows[-1]) for _, rows in self.parts if len(rows))
        least = min(int(rows[0]) for _, rows in self.parts if len(rows))
        if least < 0 or (self.groups is not None and most >= len(self.groups)):
            known = "" if self.groups is None else f" to {len(self.groups) - 1}"
            raise DataError(invalid("split", f"rows {least} to {most}", f"Rows are counted from 0{known}"))
        self.check(self.groups)

    @property
    def parts(self) -> list[tuple[str, np.ndarray]]:
        """Name and rows of every part."""
        return [(name, getattr(self, name)) for name in PARTS]

    def check(self, groups: np.ndarray | None) -> None:
        """Refuse rows or subjects in two parts.

        Raises:
            DataError: Names one of them.
        """
        parts = self.parts
        for i, (one, rows) in enumerate(parts):
            for other, others in parts[i + 1 :]:
                a, b = (rows, others) if groups is None else (groups[rows], groups[others])
                both = np.intersect1d(a, b)
                if len(both):
                    kind = "row" if groups is None else "subject"
                    raise DataError(
                        invalid(
                            "split",
                            f"{kind} {both[0]} ({len(both)} in all) in both {one} and {other}",
                            "What is learned from a subject must be judged on others",
                            fix="Make the parts with dn.split(groups, ...)",
                        )
                    )

    def __repr__(self) -> str:
        counts = [f"{name} {len(rows)}" for name, rows in self.parts if len(rows)]
        if self.groups is None:
            return f"<Split of rows: {', '.join(counts)}>"
        people = [f"{name} {len(np.unique(self.groups[rows]))}" for name, rows in self.parts if len(rows)]
        return f"<Split of rows: {', '.join(counts)}; of subjects: {', '.join(people)}>"


def split(
    groups: int | Sequence[Any] | np.ndarray, *, test: float = 0.2, validation: float = 0.0, seed: int = 0
) -> Split:
    """Deal subjects at random into training, validation and test.

    Args:
        groups: Subject of every row [N], or the number of rows where each is a subject of its own.
        test: Fraction of the subjects in the test part.
        validation: Fraction of the subjects in the validation part.
        seed: The same seed gives the same parts.

    Returns:
        The parts; all rows of a subject are in the same one.

    Raises:
        ModelError: Fractions below 0 or that leave nobody for training.
        DataError: A row without a subject.

    Example:
        >>> parts = split(["a", "a", "b", "c", "c", "d", "e"], test=0.4, seed=1)
        >>> parts
        <Split of rows: train 4, test 3; of subjects: train 3, test 2>
    """
    ids, inverse = subjects(groups)
    for name, value in (("test", test), ("validation", validation)):
        if not 0.0 <= value < 1.0:
            raise ModelError(invalid(name, value, "It is a fraction of the subjects, from 0 to below 1"))
    sizes = [max(1, round(f * len(ids))) if f > 0 else 0 for f in (test, validation)]
    if sum(sizes) >= len(ids):
        expected = "Somebody must be left to learn from"
        raise ModelError(invalid("test", f"{sizes[0]} + {sizes[1]} for validation of {len(ids)} subjects", expected))
    order = np.random.default_rng([checked_seed(seed), 11]).permutation(len(ids))
    part = np.zeros(len(ids), dtype=np.int64)
    part[order[: sizes[0]]] = 2
    part[order[sizes[0] : sum(sizes)]] = 1
    rows = [np.flatnonzero(part[inverse] == k) for k in range(3)]
    return Split(*rows, groups=None if isinstance(groups, int | np.integer) else ids[inverse])


def deal(groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of every row, 0 .. folds-1 [N]; the numbers of subjects differ by at most one.

    Raises:
        ModelError: More folds than subjects, or fewer than 2.
    """
    ids, inverse = subjects(groups)
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or not 2 <= folds <= len(ids):
        raise ModelError(invalid("folds", repr(folds), f"It is a whole number from 2 to {len(ids)}, the subjects"))
    fold = np.empty(len(ids), dtype=np.int64)
    fold[np.random.default_rng([checked_seed(seed), 12]).permutation(len(ids))] = np.arange(len(ids)) % folds
    return fold[inverse]


def subjects(groups: int | Sequence[Any] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct subjects [S], and the position among them of every row [N]."""
    if isinstance(groups, bool):
        raise ModelError(invalid("groups", groups, "It is the number of rows or the subject of every row"))
    values = np.arange(int(groups)) if isinstance(groups, int | np.integer) else np.asarray(groups)
    if values.ndim != 1 or not len(values):
        raise DataError(invalid("groups", f"shape {values.shape}", "It is the subject of every row, [rows]"))
    missing = [i for i, v in enumerate(values) if v is None or v != v]
    if missing:
        raise DataError(invalid("groups", values[missing[0]], "Every row needs a subject", where=f"row {missing[0]}"))
    try:
        return np.unique(values, return_inverse=True)
    except TypeError as error:
        kinds = ", ".join(sorted({type(v).__name__ for v in values.tolist()}))
        raise DataError(invalid("groups", kinds, "Subjects are all numbers or all texts")) from error


def checked_seed(seed: Any) -> int:
    """The seed as a whole number of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ModelError(invalid("seed", repr(seed), "It is a whole number of at least 0"))
    return int(seed)
