"""A population: the records of all subjects with their identifiers and what their covariates mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import pandas as pd

from deepnlme.data.combine import Parts, check_labels, combine, distinct
from deepnlme.data.frame import check_covariate_names, to_frame
from deepnlme.data.interpolation import check_no_text_means
from deepnlme.data.records import Records
from deepnlme.data.subject import Subject, check_id, rules_of
from deepnlme.data.summary import describe
from deepnlme.data.tensors import Tensors, checked_tensors, frozen, same_tensors, take_tensors
from deepnlme.errors import DataError, invalid


class Population:
    """S subjects with their N records; it never changes.

    `population[3]` is a `Subject`; a slice, a list of positions or a mask of length S gives a smaller `Population`.

    Args:
        subjects: Subjects or populations. All have the same covariates and interpolation, and distinct ids.

    Attributes:
        records: The records of all subjects, the subjects one after the other.
        ids: Identifiers as they were read, int or str ([S]).
        categories: Labels of the text covariates; the records hold the position of the label.
        occasions: Labels of the occasions; the records hold the position. Empty when there are none.
        interpolation: Rule of each covariate between records: "nocb", "locf" or "linear".
        notes: Remarks of the reader: what was inferred, filled, skipped or left unused.
        tensors: Arrays by name, one per subject ([S, ...]): images, series, embeddings (see `with_tensors`).

    Raises:
        DataError: When there is no subject, or the subjects do not go together.
    """

    __slots__ = ("categories", "ids", "interpolation", "notes", "occasions", "records", "tensors")
    records: Records
    ids: tuple[int | str, ...]
    categories: dict[str, tuple[str, ...]]
    occasions: tuple[str, ...]
    interpolation: dict[str, str]
    notes: tuple[str, ...]
    tensors: Tensors

    def __init__(self, subjects: Iterable[Subject | Population]) -> None:
        self._set(*Population.concat(subjects)._parts)

    def _set(
        self, records: Any, ids: Any, categories: Any, occasions: Any, interpolation: Any, notes: Any, tensors: Any = ()
    ) -> None:
        head = (dict(categories), tuple(ids), dict(interpolation), tuple(notes), tuple(occasions), records)
        values = (*head, {name: frozen(array) for name, array in dict(tensors).items()})
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    @classmethod
    def from_records(
        cls,
        records: Records,
        ids: Sequence[int | str],
        *,
        categories: Mapping[str, Sequence[str]] | None = None,
        occasions: Sequence[str] = (),
        interpolation: str | Mapping[str, str] = "nocb",
        notes: Sequence[str] = (),
        tensors: Mapping[str, Any] | None = None,
    ) -> Population:
        """Make a population of records, checking every rule.

        Args:
            records: The records of S subjects.
            ids: Their identifiers ([S]), distinct.
            categories: Labels of the text covariates; code = position.
            occasions: Labels of the occasions; code = position.
            interpolation: One rule for all covariates, or one per name.
            notes: Remarks for the summary.
            tensors: Arrays by name, [S, ...] each.

        Raises:
            DataError: When a record breaks a rule, or labels do not fit their codes.
        """
        ids = distinct([check_id(id) for id in ids])
        rules = rules_of(tuple(records.covariates), interpolation)
        levels = {str(name): tuple(map(str, values)) for name, values in (categories or {}).items()}
        check_covariate_names(tuple(records.covariates))
        check_labels(records.validate(ids), levels, tuple(occasions))
        check_no_text_means(records, levels, rules)
        arrays = checked_tensors(tensors, ids, tuple(records.covariates)) if tensors else {}
        return cls._of(records, ids, levels, tuple(occasions), rules, tuple(notes), arrays)

    @classmethod
    def _of(cls, *parts: Any) -> Population:
        population = cls.__new__(cls)
        population._set(*parts)
        return population

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Population does not change; make a new one")

    def __reduce__(self) -> Any:
        return _rebuild, self._parts

    @property
    def _parts(self) -> tuple[Any, ...]:
        head = (self.records, self.ids, self.categories, self.occasions, self.interpolation)
        return (*head, self.notes, self.tensors)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates."""
        return tuple(self.records.covariates)

    @property
    def starts(self) -> np.ndarray:
        """Offsets: the records of subject i are starts[i] .. starts[i+1]-1 (int64 [S+1])."""
        return self.records.starts

    @property
    def observations(self) -> int:
        """Number of observations of all subjects."""
        return int(self.records.observed.sum())

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Names of the endpoints that are observed; ("",) when they have no name."""
        return tuple(np.unique(self.records.endpoint[self.records.observed]).tolist())

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Subject]:
        starts = self.starts
        return (self._subject(i, starts) for i in range(len(self)))

    def _subject(self, i: int, starts: np.ndarray) -> Subject:
        index = np.arange(starts[i], starts[i + 1])
        records = self.records.take(index, np.zeros(len(index), dtype=np.int64))
        own = {name: values[i] for name, values in self.tensors.items()}
        return Subject.of_records(self.ids[i], records, self.categories, self.occasions, self.interpolation, own)

    @overload
    def __getitem__(self, index: int) -> Subject: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Population: ...
    def __getitem__(self, index: Any) -> Subject | Population:
        if isinstance(index, int | np.integer) and not isinstance(index, bool | np.bool_):
            if not -len(self) <= index < len(self):
                raise IndexError(f"subject {index} of {len(self)}")
            return self._subject(int(index) % len(self), self.starts)
        if isinstance(index, slice):
            return self._subset(np.arange(len(self))[index])
        positions = np.asarray(index)
        if positions.dtype.kind == "b" and positions.shape == (len(self),):
            return self._subset(np.flatnonzero(positions))
        if positions.dtype.kind not in "iu" or positions.ndim != 1:
            expected = f"It is a position, a slice, a list of positions or a mask of length {len(self)}"
            raise DataError(invalid("index", repr(index), expected, fix="Use select(ids=...) for identifiers"))
        outside = positions[(positions < -len(self)) | (positions >= len(self))]
        if len(outside):
            raise IndexError(f"subject {outside[0]} of {len(self)}")
        return self._subset(positions.astype(np.int64) % len(self))

    def _subset(self, subjects: np.ndarray) -> Population:
        if not len(subjects):
            raise DataError(invalid("subjects", "none", "A population has at least one subject", "this selection"))
        ids = distinct([self.ids[i] for i in subjects])
        records = self.records.take_subjects(subjects)
        own = take_tensors(self.tensors, subjects)
        return Population._of(records, ids, self.categories, self.occasions, self.interpolation, self.notes, own)

    def select(
        self, predicate: Callable[[Subject], bool] | None = None, *, ids: Iterable[int | str] | None = None
    ) -> Population:
        """The subjects for which `predicate` holds, or those with the given identifiers in that order.

        Args:
            predicate: Called with each `Subject`.
            ids: Identifiers.

        Raises:
            DataError: When an identifier is unknown, or no subject remains.
        """
        if (predicate is None) == (ids is None):
            raise DataError(invalid("select", "both or none", "Give either a predicate or ids"))
        if predicate is not None:
            return self._subset(np.flatnonzero([bool(predicate(subject)) for subject in self]))
        position = {id: i for i, id in enumerate(self.ids)}
        wanted = [check_id(id) for id in ids or ()]
        for id in wanted:
            if id not in position:
                raise DataError(invalid("ids", repr(id), f"There is no such subject among the {len(self)}"))
        return self._subset(np.array([position[id] for id in wanted], dtype=np.int64))

    def split(self, test: float = 0.25, seed: int = 0) -> tuple[Population, Population]:
        """Divide the subjects at random into two populations.

        Args:
            test: Fraction of the subjects in the second one; both get at least one subject.
            seed: Seed of the draw.

        Returns:
            Training and test population, each in the order of this one.
        """
        if not 0 < test < 1 or len(self) < 2:
            raise DataError(invalid("test", f"{test} of {len(self)} subjects", "It is a fraction of two or more"))
        n_test = min(max(round(test * len(self)), 1), len(self) - 1)
        chosen = np.zeros(len(self), dtype=bool)
        chosen[np.random.default_rng(seed).permutation(len(self))[:n_test]] = True
        return self[~chosen], self[chosen]

    def with_records(self, records: Records, categories: Mapping[str, Sequence[str]] | None = None) -> Population:
        """The same subjects with other records; everything else, tensors and notes too, stays.

        Args:
            records: The records of the same S subjects in the same order; covariates may be added to them.
            categories: Labels of the text covariates where they change.

        Raises:
            DataError: When a record breaks a rule, or labels do not fit their codes.
        """
        return Population.from_records(
            records,
            self.ids,
            categories=self.categories if categories is None else categories,
            occasions=self.occasions,
            interpolation=self.interpolation,
            notes=self.notes,
            tensors=self.tensors,
        )

    def with_tensors(self, **tensors: Any) -> Population:
        """This population with one array per subject for each name: an image, a series, an embedding.

        A model reads ``cov.image`` as a vector, the array flattened, and gives it to a network:
        ``theta.encoder(cov.image)``. It does not change in time. What no model reads costs nothing.

        Args:
            **tensors: Per name an array [S, ...] in the order of the subjects, or a dict id -> array [...]. All
                subjects have the same shape. float32 stays float32, other numbers become float64. A name that the
                population has already is replaced.

        Raises:
            DataError: A covariate's name; a subject without an array; different shapes; numbers that are not finite.

        Example:
            >>> one, two = Subject(1, covariates={"wt": (0.0, 70.0)}), Subject(2, covariates={"wt": (0.0, 80.0)})
            >>> Population([one, two]).with_tensors(image=np.zeros((2, 8, 8)))[0].tensors["image"].shape
            (8, 8)
        """
        found = {**self.tensors, **checked_tensors(tensors, self.ids, self.covariates)}
        return Population._of(*self._parts[:-1], found)

    def require_observations(self) -> Population:
        """Return this population if each subject has an observation, else raise DataError naming those that do not."""
        counts = np.bincount(self.records.subject[self.records.observed], minlength=len(self))
        empty = [str(self.ids[i]) for i in np.flatnonzero(counts == 0)]
        if empty:
            named = ", ".join(empty[:10]) + (f", ... ({len(empty)} in all)" if len(empty) > 10 else "")
            fix = "Leave them out: population.select(lambda s: s.observations > 0)"
            what = f"subject{'s' * (len(empty) > 1)} {named}"
            raise DataError(invalid("observations", "none", "Each subject needs an observation here", what, fix))
        return self

    def to_frame(self) -> pd.DataFrame:
        """The records with NONMEM's columns, those that say nothing left out.

        `read_nonmem(population.to_frame(), covariates=population.reading(), interpolation=population.interpolation)`
        gives an equal population.

        Returns:
            A frame with N rows: ID TIME DV EVID MDV, those of AMT RATE DUR II ADDL SS CMT DVID CENS LIMIT OCC that
            carry something, and the covariates under their own names, text covariates as text.
        """
        return to_frame(self.records, self.ids, self.categories, self.occasions)

    def reading(self) -> dict[str, tuple[str, ...] | None]:
        """The covariates as `read_nonmem` takes them to code other data as these: labels of text ones, else None."""
        return {name: self.categories.get(name) for name in self.covariates}

    def summary(self) -> str:
        """What the population holds, in words: counts, ranges, covariates, and the remarks of the reader."""
        return describe(self.records, self.categories, self.occasions, self.interpolation, self.notes, self.tensors)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<Population: {len(self)} subjects, {len(self.records)} records, {self.observations} observations>"

    def __eq__(self, other: object) -> bool:
        """Compare by content; the rows that records came from and the notes are left out."""
        if not isinstance(other, Population):
            return NotImplemented
        names = ("ids", "categories", "occasions", "interpolation", "records")
        same = all(getattr(self, name) == getattr(other, name) for name in names)
        return same and same_tensors(self.tensors, other.tensors)

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Population) -> Population:
        return Population.concat([self, other]) if isinstance(other, Population) else NotImplemented

    @staticmethod
    def concat(parts: Iterable[Subject | Population]) -> Population:
        """Put subjects and populations one after the other.

        Text covariates and occasions are given the labels of all parts. The notes of all parts are kept.

        Raises:
            DataError: When an identifier repeats, or covariates or interpolation differ.
        """
        items = list(parts)
        for item in items:
            if not isinstance(item, Subject | Population):
                raise DataError(invalid("subjects", repr(item), "A population is made of Subject and Population"))
        merged = combine([_parts(item) for item in items])
        notes = dict.fromkeys(note for item in items for note in getattr(item, "notes", ()))
        return Population._of(*merged[:-1], tuple(notes), merged.tensors)


def _parts(item: Subject | Population) -> Parts:
    if isinstance(item, Population):
        return Parts(item.records, item.ids, item.categories, item.occasions, item.interpolation, item.tensors)
    own = {name: values[None] for name, values in item.tensors.items()}
    return Parts(item.records, (item.id,), item.categories, item.occasion_labels, item.interpolation, own)


def _rebuild(*parts: Any) -> Population:
    return Population._of(*parts)
