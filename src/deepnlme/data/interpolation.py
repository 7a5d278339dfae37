"""Covariates between records: the value that holds on each interval, and the filling of missing cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from deepnlme.data.records import Records
from deepnlme.errors import DataError, invalid

RULES = ("nocb", "locf", "linear")
"""Next observation carried backward (NONMEM's), last observation carried forward, linear."""


def check_rule(rule: object, where: str = "") -> str:
    """Return `rule` if it is one of `RULES`, else raise DataError."""
    if rule not in RULES:
        raise DataError(invalid("interpolation", repr(rule), f"It is one of {', '.join(RULES)}", where))
    return str(rule)


def check_no_text_means(records: Records, texts: Iterable[str], rules: Mapping[str, str]) -> None:
    """Raise DataError if a text covariate that changes within a subject is to be interpolated linearly."""
    for name in texts:
        changes = (np.diff(records.covariates[name]) != 0) & (np.diff(records.subject) == 0)
        if rules[name] == "linear" and changes.any():
            fix = f"Choose another rule for it: interpolation={{'{name}': 'nocb', ...}}"
            raise DataError(invalid("interpolation", f"'linear' for {name}", "Texts that change have no mean", fix=fix))


def interval_covariates(records: Records, name: str, rule: str) -> np.ndarray:
    """The value of a covariate that holds on the interval that ends at each record.

    With NOCB it is the value of the record itself, with LOCF that of the subject's record before, linearly
    interpolated covariates take the mean of both (their value at the middle of the interval). The first record
    of a subject has no interval before it and takes its own value.

    Args:
        records: N records.
        name: The covariate.
        rule: One of `RULES`.

    Returns:
        One value for each record, in the covariate's unit (float64 [N]).
    """
    if name not in records.covariates:
        raise DataError(invalid("name", repr(name), f"The covariates are {', '.join(records.covariates) or 'none'}"))
    own = records.covariates[name]
    if check_rule(rule) == "nocb" or not len(records):
        return own
    first = np.diff(records.subject, prepend=-1) != 0
    before = np.where(first, own, np.concatenate([own[:1], own[:-1]]))
    return before if rule == "locf" else 0.5 * (before + own)


def fill_missing(values: np.ndarray, subject: np.ndarray, rule: str) -> np.ndarray:
    """Fill missing values from the same subject's other records.

    NOCB takes the next value present and, after the last one, the previous; LOCF and linear the other way round.

    Args:
        values: Values, NaN where missing (float64 [N]).
        subject: Index of the subject, its records contiguous (int64 [N]).
        rule: One of `RULES`.

    Returns:
        The values, NaN only for subjects that have none (float64 [N]).
    """
    forward = rule != "nocb"
    return _carry(_carry(values, subject, forward), subject, not forward)


def _carry(values: np.ndarray, subject: np.ndarray, forward: bool) -> np.ndarray:
    if not forward:
        return _carry(values[::-1], subject[::-1], True)[::-1]
    source = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    usable = (source >= 0) & (subject[source] == subject)
    return np.where(usable, values[source], values)
