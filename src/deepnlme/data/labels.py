"""Labels of levels (of a text covariate, of occasions) and their codes: code = position in a tuple of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import numpy as np

MISSING = frozenset({"", ".", "na", "nan"})
"""Cells, in lower case, that hold nothing."""

NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""What is read as a number: no underscores, no words such as inf, no Fortran exponents, no decimal commas."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,1000}")


def normalise(cell: str) -> str:
    """A cell as label: numbers without plus sign, leading zeros and idle decimals, other text as it is.

    Distinct numbers stay distinct, however many digits they have.

    Example:
        >>> [normalise(cell) for cell in ("1", "01", "2.0", "1e3", "2.50", "cp")]
        ['1', '1', '2', '1000', '2.5', 'cp']
    """
    if _WHOLE.fullmatch(cell):
        return str(int(cell))
    if not NUMBER.fullmatch(cell):
        return cell
    try:
        value = Decimal(cell)
    except InvalidOperation:
        return cell
    if value.is_zero():
        return "0"
    if abs(value.adjusted()) > 100:
        return cell
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


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
