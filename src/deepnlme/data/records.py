"""The records of a population as flat columns: what every computation reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from deepnlme.data.rules import check_records
from deepnlme.errors import DataError, invalid

OBSERVATION, DOSE, OTHER, RESET, RESET_DOSE = range(5)
"""The event identifiers of NONMEM's EVID."""

_DTYPES = {
    "subject": np.int64,
    "time": np.float64,
    "dv": np.float64,
    "evid": np.int64,
    "observed": np.bool_,
    "amt": np.float64,
    "rate": np.float64,
    "duration": np.float64,
    "ii": np.float64,
    "addl": np.int64,
    "ss": np.int64,
    "cmt": np.str_,
    "endpoint": np.str_,
    "cens": np.int64,
    "limit": np.float64,
    "occasion": np.int64,
    "row": np.int64,
}
_NAN_BY_DEFAULT = ("dv", "limit")


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """N records of S subjects, one array entry per record, the records of a subject contiguous and in event order.

    The arrays are read-only. `Records.build` fills in what a set does not use.

    Attributes:
        subject: Index of the subject, 0 .. S-1 (int64 [N]).
        time: Time of the record, in the data's unit (float64 [N]).
        dv: Value, NaN when there is none; the value of a record with EVID=0 and MDV=1 is kept (float64 [N]).
        evid: NONMEM's event identifier, 0 .. 4 (int64 [N]).
        observed: Whether `dv` is an observation: EVID=0 and MDV=0 (bool [N]).
        amt: Amount of a dose; 0 for a constant infusion at steady state (float64 [N]).
        rate: Rate of an infusion, 0 for a bolus, -1 modelled rate, -2 modelled duration (float64 [N]).
        duration: Duration where the data gave one (`rate` is then amt / duration), else 0 (float64 [N]).
        ii: Interdose interval (float64 [N]).
        addl: Number of additional doses (int64 [N]).
        ss: Steady state: 0 no, 1 reset to it, 2 added to what there is (int64 [N]).
        cmt: Compartment, number or name as text; empty for the default one (str [N]).
        endpoint: Endpoint of an observation record; empty when unspecified (str [N]).
        cens: 0 not censored, 1 below the limit `dv`, -1 above the limit `dv` (int64 [N]).
        limit: The other end of the censoring interval, NaN when it is open (float64 [N]).
        occasion: Code of the occasion, 0 .. K-1; 0 when there are none (int64 [N]).
        row: Line of the file, its header being line 1; for a DataFrame the position + 2 (int64 [N]).
        covariates: Value at each record by name (float64 [N] each).
    """

    subject: np.ndarray
    time: np.ndarray
    dv: np.ndarray
    evid: np.ndarray
    observed: np.ndarray
    amt: np.ndarray
    rate: np.ndarray
    duration: np.ndarray
    ii: np.ndarray
    addl: np.ndarray
    ss: np.ndarray
    cmt: np.ndarray
    endpoint: np.ndarray
    cens: np.ndarray
    limit: np.ndarray
    occasion: np.ndarray
    row: np.ndarray
    covariates: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            object.__setattr__(self, name, _column(name, getattr(self, name), dtype))
        covariates = {str(k): _column(str(k), v, np.float64) for k, v in self.covariates.items()}
        object.__setattr__(self, "covariates", covariates)
        for name, column in (*self.columns(), *covariates.items()):
            if len(column) != len(self.subject):
                raise DataError(invalid(name, f"{len(column)} entries", f"There are {len(self.subject)} records"))

    @classmethod
    def build(cls, time: Any, covariates: Mapping[str, Any] | None = None, **columns: Any) -> Records:
        """Make records from the columns that matter; the others take the value that means "nothing".

        Args:
            time: Times (float [N]).
            covariates: Values by name, each a scalar or [N].
            **columns: Any other column, each a scalar or [N]. `observed` defaults to EVID=0 with a DV,
                `row` to the position + 2.

        Returns:
            The records, not yet validated.
        """
        time = np.atleast_1d(np.asarray(time, dtype=np.float64))
        unknown = set(columns) - set(_DTYPES)
        if unknown:
            raise DataError(invalid("columns", ", ".join(sorted(unknown)), f"Known columns are {', '.join(_DTYPES)}"))
        n = len(time)
        full: dict[str, Any] = {"time": time, "row": np.arange(n) + 2}
        for name, dtype in _DTYPES.items():
            if name in columns:
                full[name] = np.broadcast_to(np.asarray(columns[name], dtype=dtype), (n,))
            elif name not in full:
                full[name] = np.full(n, np.nan) if name in _NAN_BY_DEFAULT else np.zeros(n, dtype=dtype)
        if "observed" not in columns:
            full["observed"] = (full["evid"] == OBSERVATION) & ~np.isnan(full["dv"])
        given = covariates or {}
        return cls(**full, covariates={k: np.broadcast_to(np.asarray(v, np.float64), (n,)) for k, v in given.items()})

    def __len__(self) -> int:
        return len(self.subject)

    def __repr__(self) -> str:
        return f"<Records: {len(self)} records of {self.n_subjects} subjects>"

    def __eq__(self, other: object) -> bool:
        """Compare by content; `row`, which says only where a record came from, is left out."""
        if not isinstance(other, Records):
            return NotImplemented
        if list(self.covariates) != list(other.covariates) or len(self) != len(other):
            return False
        ours, theirs = dict(self.columns()), dict(other.columns())
        same = all(_equal(ours[name], theirs[name]) for name in ours if name != "row")
        return same and all(_equal(v, other.covariates[k]) for k, v in self.covariates.items())

    __hash__ = None  # type: ignore[assignment]

    def columns(self) -> list[tuple[str, np.ndarray]]:
        """The named columns without the covariates, in their declared order."""
        return [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "covariates"]

    @property
    def n_subjects(self) -> int:
        """Number of subjects, S."""
        return int(self.subject[-1]) + 1 if len(self) else 0

    @cached_property
    def starts(self) -> np.ndarray:
        """Offsets: the records of subject i are starts[i] .. starts[i+1]-1 (int64 [S+1])."""
        found = np.searchsorted(self.subject, np.arange(self.n_subjects + 1)).astype(np.int64)
        found.setflags(write=False)
        return found

    @property
    def doses(self) -> np.ndarray:
        """Whether a record gives a dose: EVID 1 or 4 (bool [N])."""
        return (self.evid == DOSE) | (self.evid == RESET_DOSE)

    def validate(self, ids: Sequence[Any] | None = None, where: str = "") -> Records:
        """Check every rule of a record.

        Args:
            ids: The subjects' identifiers, for the messages; by default their indices.
            where: What the messages name instead of subject and row.

        Returns:
            These records.

        Raises:
            DataError: On the first rule that a record breaks, naming its subject, row and column.
        """
        check_records({**dict(self.columns()), "covariates": self.covariates}, ids, where)
        return self

    def take(self, index: np.ndarray, subject: np.ndarray | None = None) -> Records:
        """The records at `index`, with the subjects renumbered as `subject` when given.

        Args:
            index: Positions or a mask (int64 [M] or bool [N]).
            subject: New subject index of each record taken (int64 [M]).

        Returns:
            M records.
        """
        columns = {name: column[index] for name, column in self.columns()}
        if subject is not None:
            columns["subject"] = subject
        return Records(**columns, covariates={k: v[index] for k, v in self.covariates.items()})

    def take_subjects(self, subjects: np.ndarray) -> Records:
        """The records of some subjects, in that order, renumbered from 0.

        Args:
            subjects: Indices of subjects, each at most once or repeated (int64 [M]).

        Returns:
            The records of M subjects.
        """
        starts = self.starts
        lengths = starts[subjects + 1] - starts[subjects]
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        index = np.repeat(starts[subjects], lengths) + within
        return self.take(index, np.repeat(np.arange(len(subjects)), lengths))

    @staticmethod
    def concat(parts: Sequence[Records]) -> Records:
        """Put the subjects of several sets one after the other; all must have the same covariates."""
        if not parts:
            raise DataError(invalid("parts", "none", "At least one set of records is needed"))
        names = set(parts[0].covariates)
        for part in parts:
            if set(part.covariates) != names:
                raise DataError(
                    invalid("covariates", sorted(part.covariates), f"The other subjects have {sorted(names)}")
                )
        offsets = np.cumsum([0, *(part.n_subjects for part in parts[:-1])])
        columns: dict[str, Any] = {}
        for name, _ in parts[0].columns():
            columns[name] = np.concatenate([getattr(part, name) for part in parts])
        columns["subject"] = np.concatenate([part.subject + k for part, k in zip(parts, offsets, strict=True)])
        covariates = {k: np.concatenate([part.covariates[k] for part in parts]) for k in parts[0].covariates}
        return Records(**columns, covariates=covariates)


def _column(name: str, values: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(values)
    if dtype is np.int64 and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise DataError(invalid(name, array[array != np.trunc(array)][0], "It takes whole numbers"))
    if array.dtype != dtype or array.flags.writeable or array.base is not None:
        array = array.astype(dtype)  # a copy, that nobody else can change
    if array.ndim != 1:
        raise DataError(invalid(name, f"shape {array.shape}", "A column has one entry per record"))
    array.setflags(write=False)
    return array


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
