"""One subject: the view of a population's records, and the way to make records in a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from deepnlme.data import labels
from deepnlme.data.frame import check_covariate_names, to_frame
from deepnlme.data.interpolation import check_no_text_means, check_rule
from deepnlme.data.records import OTHER, Records
from deepnlme.data.regimen import Dose, Regimen
from deepnlme.data.tensors import Tensors, checked_tensors, frozen, same_tensors
from deepnlme.errors import DataError, invalid

ORDERS = ("dose-first", "observation-first")


class Subject:
    """One subject's records.

    Every column of `Records` is an attribute (`subject.time`, `subject.dv`, ...), an array over its records.

    Args:
        id: Identifier, a whole number or text.
        doses: What is given; None for nothing.
        observations: `(times, values)`, or `{endpoint: (times, values)}`. `None` for the values makes records
            without an observation (EVID=0, MDV=1), at which a model can be predicted.
        covariates: Per name a value, or `(times, values)`. A change at a time without any other record adds a
            record with EVID=2.
        occasions: Times at which occasions begin, increasing, the first not after the first record; a record at
            such a time belongs to the occasion that begins. None for no occasions.
        order: What stands first of records at the same time: "dose-first" (a model then predicts the observation
            after the dose) or "observation-first" (before it: a trough).
        interpolation: Rule of the covariates between records, or one per name.
        tensors: Arrays by name, such as an image (see `Population.with_tensors`).

    Raises:
        DataError: When the records break a rule.

    Attributes:
        id: Identifier.
        records: The records, one subject.
        categories: Labels of the text covariates; code = position.
        occasion_labels: Labels of the occasions; code = position.
        interpolation: Rule of each covariate.
        tensors: Arrays by name.

    Example:
        >>> Subject(1, Dose(100), {"cp": ([1, 2], [4.1, 3.5])}, {"wt": 70.0})
        <Subject 1: 3 records, 2 observations, 1 dose record>
    """

    __slots__ = ("categories", "id", "interpolation", "occasion_labels", "records", "tensors")
    id: int | str
    records: Records
    categories: dict[str, tuple[str, ...]]
    occasion_labels: tuple[str, ...]
    interpolation: dict[str, str]
    tensors: Tensors

    def __init__(
        self,
        id: int | str,
        doses: Regimen | Dose | None = None,
        observations: Mapping[str, Any] | Sequence[Any] | None = None,
        covariates: Mapping[str, Any] | None = None,
        *,
        occasions: Sequence[float] | None = None,
        order: str = "dose-first",
        interpolation: str | Mapping[str, str] = "nocb",
        tensors: Mapping[str, Any] | None = None,
    ) -> None:
        id = check_id(id)
        check_covariate_names(tuple(covariates or {}))
        rules = rules_of(tuple(covariates or {}), interpolation)
        if order not in ORDERS:
            raise DataError(invalid("order", repr(order), f"It is one of {', '.join(ORDERS)}", f"subject {id}"))
        regimen = None if doses is None else (doses if isinstance(doses, Regimen) else Regimen(doses)).records()
        parts = [*([regimen] if regimen else []), *_observations(observations, id)]
        tracks = {str(name): _track(str(name), given, id) for name, given in (covariates or {}).items()}
        records = _merge(parts, tracks, order, id)
        categories = {name: track[2] for name, track in tracks.items() if track[2]}
        values = {name: _at_records(track, records.time, rules[name]) for name, track in tracks.items()}
        codes, names = _occasions(occasions, records.time, id)
        columns = {**dict(records.columns()), "occasion": codes}
        records = Records(**columns, covariates=values).validate([id])
        check_no_text_means(records, categories, rules)
        arrays = checked_tensors({n: [v] for n, v in (tensors or {}).items()}, [id], tuple(tracks))
        self._set(id, records, categories, names, rules, {n: v[0] for n, v in arrays.items()})

    def _set(
        self, id: Any, records: Records, categories: Any, occasions: tuple[str, ...], interpolation: Any, tensors: Any
    ) -> None:
        arrays = {name: frozen(values) for name, values in tensors.items()}
        for name, value in zip(
            ("id", "records", "categories", "occasion_labels", "interpolation", "tensors"),
            (id, records, dict(categories), occasions, dict(interpolation), arrays),
            strict=True,
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def of_records(
        cls,
        id: int | str,
        records: Records,
        categories: Mapping[str, tuple[str, ...]],
        occasions: tuple[str, ...],
        interpolation: Mapping[str, str],
        tensors: Tensors | None = None,
    ) -> Subject:
        """The subject that has these records, taken as they are."""
        subject = cls.__new__(cls)
        subject._set(id, records, categories, occasions, interpolation, tensors or {})
        return subject

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Subject does not change; make a new one")

    def __reduce__(self) -> Any:
        head = (self.id, self.records, self.categories, self.occasion_labels, self.interpolation)
        return Subject.of_records, (*head, self.tensors)

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("_") or name in type(self).__slots__:
            raise AttributeError(name)
        return getattr(self.records, name)

    def __len__(self) -> int:
        return len(self.records)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Subject):
            return NotImplemented
        same = all(getattr(self, name) == getattr(other, name) for name in self.__slots__ if name != "tensors")
        return same and same_tensors(self.tensors, other.tensors)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        n, doses = len(self), int(self.records.doses.sum())
        return (
            f"<Subject {self.id}: {n} record{'s' * (n != 1)}, {self.observations} observation"
            f"{'s' * (self.observations != 1)}, {doses} dose record{'s' * (doses != 1)}>"
        )

    @property
    def observations(self) -> int:
        """Number of observations."""
        return int(self.records.observed.sum())

    @property
    def covariates(self) -> dict[str, np.ndarray]:
        """Value of each covariate at each record; text covariates as codes (float64 [N])."""
        return self.records.covariates

    def to_frame(self) -> pd.DataFrame:
        """The records with NONMEM's columns, as `Population.to_frame`."""
        return to_frame(self.records, [self.id], self.categories, self.occasion_labels)


def check_id(id: Any) -> int | str:
    """Return an identifier as int, or str if it is no whole number, else raise DataError."""
    if isinstance(id, int | np.integer) and not isinstance(id, bool | np.bool_):
        return int(id)
    if isinstance(id, str) and id.strip() == id and id.lower() not in labels.MISSING:
        return labels.identifier(labels.normalise(id))
    raise DataError(invalid("id", repr(id), "An identifier is a whole number or a text"))


def rules_of(names: Sequence[str], interpolation: str | Mapping[str, str]) -> dict[str, str]:
    """The interpolation rule of each covariate, from one rule for all or one per name (NOCB where none is given)."""
    if isinstance(interpolation, Mapping):
        unknown = [name for name in interpolation if name not in names]
        if unknown:
            expected = f"The covariates are {', '.join(names) or 'none'}"
            raise DataError(invalid("interpolation", f"a rule for {unknown[0]!r}", expected))
        return {name: check_rule(interpolation.get(name, "nocb"), f"covariate {name}") for name in names}
    return dict.fromkeys(names, check_rule(interpolation))


def _numbers(values: Any, what: str, id: Any) -> np.ndarray:
    try:
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise DataError(invalid(what, repr(values), "It takes numbers", f"subject {id}")) from None
    if array.ndim != 1 or not np.all(np.isfinite(array)):
        raise DataError(invalid(what, repr(values), "It takes a sequence of finite numbers", f"subject {id}"))
    return array


def _pair(given: Any, what: str, id: Any) -> tuple[Any, Any]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise DataError(invalid(what, repr(given), "It takes a pair (times, values)", f"subject {id}"))
    return given[0], given[1]


def _observations(observations: Any, id: Any) -> list[Records]:
    if observations is None:
        return []
    named = observations if isinstance(observations, Mapping) else {"": observations}
    parts = []
    for endpoint, given in named.items():
        what = f"observations[{endpoint!r}]" if endpoint else "observations"
        name = labels.normalise(str(endpoint))
        if isinstance(observations, Mapping) and (name.strip() != name or name.lower() in labels.MISSING):
            raise DataError(invalid("observations", repr(endpoint), "An endpoint has a name", f"subject {id}"))
        times, values = _pair(given, what, id)
        times = _numbers(times, what, id)
        dv = np.full(len(times), np.nan) if values is None else _numbers(values, what, id)
        if len(dv) != len(times):
            got = f"{len(times)} times and {len(dv)} values"
            raise DataError(invalid(what, got, "There is one value for each time", f"subject {id}"))
        if len(times):
            parts.append(Records.build(times, dv=dv, endpoint=name))
    return parts


def _track(name: str, given: Any, id: Any) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """A covariate as times, values and, for texts, labels; without times when it is constant."""
    constant = isinstance(given, str | int | float | np.integer | np.floating)
    times, values = ([], given) if constant else _pair(given, name, id)
    texts = [values] if isinstance(values, str) else list(np.atleast_1d(np.asarray(values, dtype=object)))
    levels: tuple[str, ...] = ()
    if any(isinstance(value, str) for value in texts):
        if not all(isinstance(v, str) and v.strip() == v and v.lower() not in labels.MISSING for v in texts):
            raise DataError(invalid(name, repr(values), "Its values are all numbers or all texts", f"subject {id}"))
        levels = labels.ordered(texts)
        values = [levels.index(text) for text in texts]
    times, values = _numbers(times, name, id), _numbers(values, name, id)
    if not constant and len(times) != len(values):
        raise DataError(invalid(name, f"{len(times)} times and {len(values)} values", "Give one each", f"subject {id}"))
    if not constant and (not len(times) or np.any(np.diff(times) <= 0)):
        raise DataError(invalid(name, times.tolist(), "The times of a covariate increase", f"subject {id}"))
    return times, values, levels


def _merge(parts: list[Records], tracks: Mapping[str, Any], order: str, id: Any) -> Records:
    """Records in order of time; a record with EVID=2 where only a covariate changes."""
    changes = np.unique(np.concatenate([np.empty(0), *(track[0] for track in tracks.values())]))
    changes = changes[~np.isin(changes, np.concatenate([np.empty(0), *(part.time for part in parts)]))]
    if len(changes):
        parts = [*parts, Records.build(changes, evid=OTHER)]
    if not parts:
        raise DataError(invalid("subject", "no dose and no observation", "A subject has records", f"subject {id}"))
    merged = Records.concat(parts)
    rank = np.where(merged.evid == 0, 1, 0) if order == "dose-first" else np.where(merged.evid == 0, 0, 1)
    index = np.lexsort((np.arange(len(merged)), rank, merged.time))
    columns = dict(merged.take(index, np.zeros(len(index), dtype=np.int64)).columns())
    return Records(**{**columns, "row": np.arange(len(index)) + 2})


def _at_records(track: tuple[np.ndarray, np.ndarray, tuple[str, ...]], time: np.ndarray, rule: str) -> np.ndarray:
    times, values, levels = track
    if not len(times):
        return np.full(len(time), values[0])
    if rule == "linear" and not levels:
        return np.interp(time, times, values)
    side = np.searchsorted(times, time) if rule == "nocb" else np.searchsorted(times, time, side="right") - 1
    return values[np.clip(side, 0, len(times) - 1)]


def _occasions(occasions: Any, time: np.ndarray, id: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    if occasions is None:
        return np.zeros(len(time), dtype=np.int64), ()
    begins = _numbers(occasions, "occasions", id)
    if not len(begins) or np.any(np.diff(begins) <= 0) or begins[0] > time.min():
        expected = "Occasions begin at increasing times, the first not after the first record"
        raise DataError(invalid("occasions", begins.tolist(), expected, f"subject {id}"))
    codes = np.searchsorted(begins, time, side="right") - 1
    return codes, tuple(str(k + 1) for k in range(len(begins)))
