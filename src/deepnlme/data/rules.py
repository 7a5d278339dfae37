"""The rules that every record obeys, whether it comes from a file or from a script.

They are NONMEM's (Users Guide VI, the data items of PREDPP): a record that NONMEM would refuse, or whose meaning
would have to be guessed, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from deepnlme.errors import DataError, invalid

_RATE_TOLERANCE = 1e-3
"""Relative difference allowed between RATE and AMT/DUR when a record gives all three (rounding in files)."""


class _Checker:
    """The columns under check, and the way to refuse a record of them."""

    def __init__(self, columns: Mapping[str, Any], ids: Sequence[Any] | None, where: str) -> None:
        self.columns = columns
        self.ids = ids
        self.where = where

    def __getattr__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def refuse(self, broken: np.ndarray, what: str, expected: str, fix: str = "", values: Any = None) -> None:
        """Raise for the first record where `broken` is true, if there is one."""
        hits = np.flatnonzero(broken)
        if not len(hits):
            return
        i, rest = int(hits[0]), len(hits) - 1
        if rest:
            fix = f"{fix.rstrip('.')}{'. ' if fix else ''}The same holds for {rest} more record{'s' * (rest > 1)}"
        self._raise(i, what, (self.columns[what] if values is None else values)[i], expected, fix)

    def _raise(self, i: int, what: str, value: Any, expected: str, fix: str) -> NoReturn:
        got = "no value" if isinstance(value, float) and np.isnan(value) else value
        subject = self.subject[i] if self.ids is None else self.ids[self.subject[i]]
        where = f"subject {subject}, row {self.row[i]}"
        if np.isfinite(self.time[i]) and what != "time":
            where += f" (time {self.time[i]})"
        raise DataError(invalid(what, got, expected, self.where or where, fix))


def check_records(columns: Mapping[str, Any], ids: Sequence[Any] | None = None, where: str = "") -> None:
    """Check the columns of `Records` against every rule.

    Args:
        columns: The columns by name ([N] each) and `covariates`, a dict of more.
        ids: Identifiers of the subjects for the messages ([S]).
        where: What the messages name instead of subject and row.

    Raises:
        DataError: On the first rule that a record breaks.
    """
    check = _Checker(columns, ids, where)
    _check_subjects(check)
    _check_times(check)
    _check_items(check)
    _check_other_records(check)
    _check_doses(check)
    _check_observations(check)
    for name, values in columns["covariates"].items():
        check.refuse(~np.isfinite(values), name, "A covariate is a finite number", "", values)


def _check_subjects(c: _Checker) -> None:
    if not len(c.subject):
        raise DataError(invalid("data", "no records", "A data set has at least one record"))
    step = np.diff(c.subject, prepend=-1)
    c.refuse((step != 0) & (step != 1), "subject", "The records of a subject stand together, subjects numbered from 0")
    if c.subject[0] != 0:
        raise DataError(invalid("subject", c.subject[0], "Subjects are numbered from 0"))
    if c.ids is not None and len(c.ids) != c.subject[-1] + 1:
        raise DataError(invalid("ids", f"{len(c.ids)} identifiers", f"There are {c.subject[-1] + 1} subjects"))


def _check_times(c: _Checker) -> None:
    c.refuse(np.isnan(c.time), "time", "Every record needs a time", "Fill the cell or remove the record")
    c.refuse(np.isinf(c.time), "time", "A time is a finite number")
    c.refuse(c.time < 0, "time", "Times are not negative", "Shift all times of this subject so that the first is >= 0")
    reset = (c.evid == 3) | (c.evid == 4)
    back = (np.diff(c.time, prepend=np.inf) < 0) & (np.diff(c.subject, prepend=-1) == 0) & ~reset
    before = np.concatenate([[0.0], c.time[:-1]])
    hits = np.flatnonzero(back)
    if len(hits):
        expected = f"Times within a subject do not decrease (the record before is at {before[hits[0]]})"
        c.refuse(back, "time", expected, "Sort the records by ID and TIME, or mark a new start with EVID=3 or 4")


def _check_items(c: _Checker) -> None:
    c.refuse((c.evid < 0) | (c.evid > 4), "evid", "EVID is 0 observation, 1 dose, 2 other, 3 reset, 4 reset and dose")
    c.refuse(np.isinf(c.amt) | (c.amt < 0), "amt", "An amount is a finite number and not negative")
    modelled = (c.rate == -1) | (c.rate == -2)
    c.refuse(
        ~np.isfinite(c.rate) | ((c.rate < 0) & ~modelled),
        "rate",
        "A rate is positive, 0 for a bolus, -1 (modelled rate) or -2 (modelled duration)",
    )
    c.refuse(~np.isfinite(c.duration) | (c.duration < 0), "duration", "A duration is finite and not negative")
    c.refuse(~np.isfinite(c.ii) | (c.ii < 0), "ii", "An interdose interval is finite and not negative")
    c.refuse(c.addl < 0, "addl", "ADDL counts the additional doses and is not negative")
    fix = "If the column means something else, leave it out with columns={'ss': None}"
    c.refuse((c.ss < 0) | (c.ss > 2), "ss", "SS is 0, 1 or 2", fix)
    negative = np.char.startswith(c.cmt, "-")
    c.refuse(negative, "cmt", "Turning a compartment off (negative CMT) is not supported", "Model it with a covariate")
    c.refuse(c.occasion < 0, "occasion", "Occasions are coded from 0")


def _check_other_records(c: _Checker) -> None:
    """Records that give no dose have no dose items."""
    other = (c.evid == 0) | (c.evid == 2) | (c.evid == 3)
    for name in ("amt", "rate", "duration", "ii", "addl", "ss"):
        values = c.columns[name]
        evid = c.evid[np.flatnonzero(other & (values != 0))[:1]]
        label = {"duration": "DUR"}.get(name, name.upper())
        c.refuse(
            other & (values != 0),
            name,
            f"{label} must be 0 on a record that gives no dose (EVID={''.join(map(str, evid))})",
            f"Set EVID=1 if it is a dose, else set {label} to 0",
        )


def _check_doses(c: _Checker) -> None:
    dose = (c.evid == 1) | (c.evid == 4)
    constant = dose & (c.amt == 0) & (c.rate > 0) & (c.ss == 1)
    c.refuse(dose & np.isnan(c.amt), "amt", "A dose needs an amount", "Fill AMT, or set EVID=2 if there was no dose")
    empty = dose & (c.amt == 0) & ~constant
    c.refuse(
        empty & (c.rate != 0),
        "amt",
        "An infusion needs AMT > 0; only a constant infusion at steady state has AMT=0, with RATE > 0, SS=1 and II=0",
    )
    c.refuse(
        empty & (c.duration > 0), "amt", "An infusion over a given duration needs AMT > 0, or its rate would be zero"
    )
    c.refuse(empty, "amt", "A dose needs AMT > 0", "For a placebo leave the dose out, or set EVID=2 on the record")
    c.refuse(
        constant & ((c.ii != 0) | (c.addl != 0) | (c.duration != 0)),
        "amt",
        "A constant infusion at steady state (AMT=0, RATE > 0, SS=1) has no II, ADDL or duration",
    )
    c.refuse(
        dose & (c.duration > 0) & (c.rate < 0),
        "duration",
        "A dose with a modelled rate or duration (RATE -1 or -2) gives no duration itself",
    )
    timed = dose & (c.duration > 0)
    implied = np.divide(c.amt, c.duration, out=np.zeros(len(c.amt)), where=timed)
    c.refuse(
        timed & ~np.isclose(c.rate, implied, rtol=_RATE_TOLERANCE, atol=0.0),
        "rate",
        "RATE, AMT and DUR of the record disagree: RATE must be AMT / DUR",
        "Give either RATE or DUR",
    )
    c.refuse(dose & (c.addl > 0) & (c.ii == 0), "addl", "ADDL > 0 needs II > 0", "Give the interdose interval in II")
    c.refuse(
        dose & (c.ss > 0) & (c.ii == 0) & ~constant,
        "ss",
        "A steady-state dose needs II > 0, except a constant infusion (AMT=0, RATE > 0, SS=1)",
        "Give the interdose interval in II",
    )


def _check_observations(c: _Checker) -> None:
    c.refuse(c.observed & (c.evid != 0), "observed", "Only a record with EVID=0 can be an observation")
    fix = "Set MDV=1 on that record if nothing was observed"
    c.refuse(c.observed & np.isnan(c.dv), "dv", "An observation record (EVID=0, MDV=0) needs a value", fix)
    c.refuse(
        c.observed & (c.endpoint == "") & bool(np.any(c.observed & (c.endpoint != ""))),
        "endpoint",
        "Other observations name their endpoint, so each must",
        "Fill DVID on every observation, or leave the column out with columns={'dvid': None}",
        np.where(c.endpoint == "", "none", c.endpoint),
    )
    c.refuse(np.isinf(c.dv), "dv", "A value is a finite number")
    c.refuse((c.cens < -1) | (c.cens > 1), "cens", "CENS is 0 (not censored), 1 (below DV) or -1 (above DV)")
    c.refuse((c.cens != 0) & ~c.observed, "cens", "Only an observation can be censored")
    c.refuse(np.isinf(c.limit), "limit", "A limit is a finite number; leave it missing when that side is open")
    c.refuse((c.cens == 1) & (c.limit >= c.dv), "limit", "Below a limit (CENS=1), LIMIT is smaller than DV")
    c.refuse((c.cens == -1) & (c.limit <= c.dv), "limit", "Above a limit (CENS=-1), LIMIT is larger than DV")
    c.refuse((c.cens == 0) & ~np.isnan(c.limit), "limit", "Only a censored observation has a LIMIT")
