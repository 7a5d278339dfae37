"""Which column of a table holds which data item or covariate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepnlme.errors import DataError, invalid

SYNONYMS: dict[str, tuple[str, ...]] = {
    "id": ("subject", "subj"),
    "time": ("t",),
    "dv": ("y", "conc"),
    "evid": (),
    "mdv": (),
    "amt": ("amount",),
    "rate": (),
    "dur": ("tinf",),
    "ii": (),
    "addl": (),
    "ss": (),
    "cmt": ("adm",),
    "dvid": ("ytype",),
    "cens": ("blq",),
    "limit": (),
    "occ": (),
    "date": ("dat1", "dat2", "dat3"),
}
"""The data items and the other names that their columns may have, in any case."""

_REQUIRED = ("id", "time", "dv")


@dataclass(frozen=True)
class Assignment:
    """Where everything is.

    Attributes:
        items: Name of the column of each data item that the table has.
        covariates: Name of the column of each covariate.
        notes: What was read under another name, and what was not used.
    """

    items: dict[str, str]
    covariates: dict[str, str]
    notes: tuple[str, ...]


def assign_columns(names: Sequence[str], covariates: Sequence[str], overrides: Mapping[str, str | None]) -> Assignment:
    """Find the columns of the data items and the covariates.

    An override decides; else the item's own name (in any case); else one of its synonyms that is no covariate.

    Args:
        names: Names of the columns.
        covariates: Names of the covariates.
        overrides: Column by item or covariate; None to leave an item out.

    Raises:
        DataError: When a required column is missing, or two columns could be meant.
    """
    overrides = _checked_overrides(overrides, covariates)
    covariate_columns = {name: _locate(overrides.get(name) or name, name, names) for name in covariates}
    taken = set(covariate_columns.values())
    items: dict[str, str] = {}
    notes: list[str] = []
    for item, synonyms in SYNONYMS.items():
        if item in {name.lower() for name in covariates}:
            continue
        if item in overrides:
            given = overrides[item]
            if given is not None:
                items[item] = _locate(given, item, names)
            continue
        column = _own_column(item, synonyms, names, taken)
        if column is None:
            continue
        items[item] = column
        if column.lower() != item:
            notes.append(f"{item.upper()} read from column {column}")
    _check_items(items, names)
    unused = [name for name in names if name not in items.values() and name not in taken]
    if unused:
        notes.append(f"column{'s' * (len(unused) > 1)} not used: {', '.join(unused)}")
    return Assignment(items, covariate_columns, tuple(notes))


def _checked_overrides(overrides: Mapping[str, str | None], covariates: Sequence[str]) -> dict[str, str | None]:
    result: dict[str, str | None] = {}
    for key, column in overrides.items():
        name = key if key in covariates else str(key).lower()
        if name not in SYNONYMS and name not in covariates:
            expected = f"Its keys are data items ({', '.join(SYNONYMS)}) or covariates"
            raise DataError(invalid("columns", f"the key {key!r}", expected))
        if column is not None and not isinstance(column, str):
            raise DataError(invalid("columns", f"{key!r}: {column!r}", "It maps to the name of a column, or None"))
        if column is None and name in covariates:
            raise DataError(invalid("columns", f"{key!r}: None", "A covariate has a column", fix="Leave it out"))
        result[name] = column
    return result


def _locate(wanted: str, what: str, names: Sequence[str]) -> str:
    """The column with this name: exactly, else in any case."""
    if wanted in names:
        return wanted
    matches = [name for name in names if name.lower() == wanted.lower()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise DataError(invalid(what, " and ".join(matches), "Two columns differ only in case", fix="Name one exactly"))
    raise DataError(invalid(what, f"no column {wanted!r}", f"The columns are {', '.join(names)}"))


def _own_column(item: str, synonyms: Sequence[str], names: Sequence[str], taken: set[str]) -> str | None:
    exact = [name for name in names if name.lower() == item]
    fix = f"Say which with columns={{'{item}': '<column>'}}"
    if len(exact) > 1:
        raise DataError(invalid(item.upper(), f"duplicate columns {' and '.join(exact)}", "One is needed", fix=fix))
    others = [name for name in names if name.lower() in synonyms and name not in taken]
    if exact or not others:
        return exact[0] if exact else None
    if len(others) > 1:
        raise DataError(invalid(item.upper(), f"columns {' and '.join(others)}", "Either could be meant", fix=fix))
    return others[0]


def _check_items(items: Mapping[str, str], names: Sequence[str]) -> None:
    for item in _REQUIRED:
        if item not in items:
            others = f" (or {', '.join(SYNONYMS[item])})" if SYNONYMS[item] else ""
            raise DataError(
                invalid(
                    item.upper(),
                    "no such column",
                    f"A data set has a column {item.upper()}{others}, in any case; this one has {', '.join(names)}",
                    fix=f"Name it with columns={{'{item}': '<column>'}}",
                )
            )
    seen: dict[str, str] = {}
    for item, column in items.items():
        if column in seen:
            expected = f"It is already {seen[column].upper()}"
            raise DataError(invalid(item, f"column {column}", expected, fix=f"columns={{'{seen[column]}': None}}"))
        seen[column] = item
    if "date" in items:
        raise DataError(
            invalid(
                items["date"],
                "a column of dates",
                "TIME alone gives the time",
                fix="Convert DATE and TIME to one TIME in hours since the subject's first record, "
                "or leave DATE out with columns={'date': None} if TIME is already that",
            )
        )
