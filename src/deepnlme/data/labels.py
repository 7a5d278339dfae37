"""Labels of levels (of a text covariate, of occasions) and their codes: code = position in a tuple of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

MISSING = frozenset({"", ".", "na", "nan"})
"""Cells, in lower case, that hold nothing."""

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""What is read as a number: no underscores, no words such as inf, no Fortran exponents, no decimal commas."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def normalise(cell: str) -> str:
    """A cell as label: whole numbers without sign, leading zeros and decimals, other text as it is.

    Example:
        >>> [normalise(cell) for cell in ("1", "01", "2.0", "2.5", "cp")]
        ['1', '1', '2', '2.5', 'cp']
    """
    if _WHOLE.fullmatch(cell):
        return str(int(cell))
    if NUMBER.fullmatch(cell):
        value = float(cell)
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return cell


def identifier(label: str) -> int | str:
    """A label as identifier of a subject: int if it is a whole number, else the text.

    Example:
        >>> identifier("12"), identifier("A12")
        (12, 'A12')
    """
    return int(label) if _WHOLE.fullmatch(label) else label


def ordered(labels: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels, sorted: by value when all are numbers, else as text.

    Example:
        >>> ordered(["10", "2", "2"]), ordered(["male", "female"])
        (('2', '10'), ('female', 'male'))
    """
    distinct = set(labels)
    if all(NUMBER.fullmatch(label) for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (float(label), label)))
    return tuple(sorted(distinct))


def merge(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The labels of several sets together: in order if each set is, else new ones after those seen before."""
    merged = tuple(dict.fromkeys(label for part in parts for label in part))
    return ordered(merged) if all(part == ordered(part) for part in parts) else merged


def recode(codes: np.ndarray, old: tuple[str, ...], new: tuple[str, ...]) -> np.ndarray:
    """The codes of the same labels in another tuple of labels that holds them all.

    Args:
        codes: Codes into `old` (int or float [N]).
        old: Labels by their present code.
        new: Labels by their new code.

    Returns:
        Codes into `new`, in the dtype of `codes` ([N]).
    """
    table = np.array([new.index(label) for label in old], dtype=codes.dtype)
    return table[codes.astype(np.int64)]
