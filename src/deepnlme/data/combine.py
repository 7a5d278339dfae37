"""Subjects put together: distinct identifiers, the same covariates, and labels that hold for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepnlme.data import labels
from deepnlme.data.records import Records
from deepnlme.data.tensors import Tensors, concat_tensors
from deepnlme.errors import DataError, invalid


class Parts(NamedTuple):
    """What a population is made of.

    Attributes:
        records: The records of S subjects.
        ids: Their identifiers ([S]).
        categories: Labels of the text covariates.
        occasions: Labels of the occasions.
        interpolation: Rule of each covariate.
        tensors: Arrays by name, [S, ...] each.
    """

    records: Records
    ids: tuple[int | str, ...]
    categories: dict[str, tuple[str, ...]]
    occasions: tuple[str, ...]
    interpolation: dict[str, str]
    tensors: Tensors


def combine(parts: Sequence[Parts]) -> Parts:
    """Put the subjects of several parts one after the other.

    Text covariates and occasions get the labels of all parts: sorted if those of each part are, else the new ones last.

    Raises:
        DataError: When there is no part, an identifier repeats, or covariates, tensors, interpolation or occasions
            differ.
    """
    if not parts:
        raise DataError(invalid("subjects", "none", "A population has at least one subject"))
    first = parts[0]
    for part in parts:
        _check_same(part, first)
    ids = distinct([id for part in parts for id in part.ids])
    levels = {name: labels.merge([part.categories[name] for part in parts]) for name in first.categories}
    occasions = labels.merge([part.occasions for part in parts])
    records = Records.concat([_recoded(part, tuple(first.records.covariates), levels, occasions) for part in parts])
    tensors = concat_tensors([(part.tensors, part.ids) for part in parts])
    return Parts(records.validate(ids), ids, levels, occasions, first.interpolation, tensors)


def distinct(ids: Sequence[int | str]) -> tuple[int | str, ...]:
    """Return identifiers that are distinct and all of one kind, else raise DataError."""
    seen: set[int | str] = set()
    for id in ids:
        if isinstance(id, str) != isinstance(ids[0], str):
            expected = f"Identifiers are all whole numbers or all texts, and the first one is {ids[0]!r}"
            raise DataError(invalid("ids", repr(id), expected, fix="Give them one form, such as S1, S2"))
        if id in seen:
            raise DataError(invalid("ids", repr(id), "Each subject of a population has its own identifier"))
        seen.add(id)
    return tuple(ids)


def check_labels(records: Records, levels: Mapping[str, tuple[str, ...]], occasions: tuple[str, ...]) -> None:
    """Raise DataError if codes of text covariates or occasions have no label."""
    for name, values in levels.items():
        codes = records.covariates.get(name)
        coded = codes is not None and np.all(np.isin(codes, np.arange(len(values))))
        if not coded or len(set(values)) != len(values):
            expected = "Each code of a text covariate is the position of its label"
            raise DataError(invalid("categories", f"{name}: {values}", expected))
    if len(set(occasions)) != len(occasions) or records.occasion.max() >= max(len(occasions), 1):
        raise DataError(invalid("occasions", occasions, "Each code of an occasion is the position of its label"))


def _check_same(part: Parts, first: Parts) -> None:
    where = f"subject {part.ids[0]}"
    ours, theirs = set(part.records.covariates), set(first.records.covariates)
    if ours != theirs:
        expected = f"All subjects have the same covariates; subject {first.ids[0]} has {_names(theirs)}"
        raise DataError(invalid("covariates", _names(ours), expected, where))
    odd = sorted(set(part.categories) ^ set(first.categories))
    if odd:
        got = f"{'texts' if odd[0] in part.categories else 'numbers'}"
        raise DataError(invalid(odd[0], got, f"It is the other in subject {first.ids[0]}", where))
    if part.interpolation != first.interpolation:
        expected = f"It is {first.interpolation} in subject {first.ids[0]}"
        raise DataError(invalid("interpolation", part.interpolation, expected, where))
    if bool(part.occasions) != bool(first.occasions):
        got = "some" if part.occasions else "none"
        expected = f"All subjects have occasions or none has, unlike subject {first.ids[0]}"
        raise DataError(invalid("occasions", got, expected, where))


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _recoded(part: Parts, names: Sequence[str], levels: Mapping[str, tuple[str, ...]], occasions: Any) -> Records:
    """The records with the labels of all parts, their covariates in one order."""
    records = part.records
    covariates = {}
    for name in names:
        values = records.covariates[name]
        covariates[name] = labels.recode(values, part.categories[name], levels[name]) if name in levels else values
    columns = dict(records.columns())
    if occasions:
        columns["occasion"] = labels.recode(records.occasion, part.occasions, occasions)
    return Records(**columns, covariates=covariates)
